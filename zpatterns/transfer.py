"""Whole messages in and out of one ZeroMQ socket, in C where that could be compiled and else in Python.

pyzmq tells whether a frame was the last of its message only through an object per frame, which takes four times as
long as the frame itself: for a broker that is more than half of all it does. A guess where a message ends would let
a hostile peer swallow a neighbour's, so there is no way around asking. ``_frames.c`` asks libzmq itself, and takes or
gives a batch of messages in one call. It is linked with nothing: it calls the libzmq that pyzmq has loaded.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol, TypeAlias

import zmq

from zpatterns.core import Frames

# Plain ints: pyzmq's flag enums cost five microseconds a message in arithmetic alone.
_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)

Sent: TypeAlias = tuple[int, int, bool]
"""How far sending came: the index of the first message that was not sent; libzmq's errno for it, 0 if none failed;
and whether its first frames had been taken already."""

_FUNCTIONS = (
    "zmq_msg_init",
    "zmq_msg_recv",
    "zmq_msg_more",
    "zmq_msg_data",
    "zmq_msg_size",
    "zmq_msg_close",
    "zmq_send",
    "zmq_getsockopt",
    "zmq_errno",
)


class Transfer(Protocol):
    """One socket's messages. No call ever waits."""

    oversize: int
    """Messages that were dropped since this was last set to 0, for they had too many frames."""

    @property
    def end_is_cheap(self) -> bool:
        """Whether to ask for one message more than there are costs next to nothing."""

    def events(self) -> int:
        """What could be done now: POLLIN, POLLOUT, both or 0."""

    def receive(self, budget: int) -> list[Frames]:
        """Up to `budget` messages that have arrived; fewer once there are no more. Errors: zmq.ZMQError."""

    def send(self, messages: list[Frames], start: int, stop: int) -> Sent:
        """Hand over ``messages[start:stop]``, up to the first that libzmq does not take whole."""


class PlainTransfer:
    """Through pyzmq's own calls, given as functions."""

    end_is_cheap = False  # it is an exception
    __slots__ = ("_frames_max", "_poll", "_receive", "_routed", "_send", "oversize")

    def __init__(
        self,
        poll: Callable[[], list[tuple[Any, int]]],
        receive: Callable[..., Any],
        send: Callable[[bytes, int], Any],
        routed: bool,
        frames_max: int,
    ) -> None:
        self._poll = poll
        self._receive = receive
        self._send = send
        self._routed = routed
        self._frames_max = frames_max
        self.oversize = 0

    def events(self) -> int:
        ready = self._poll()
        return int(ready[0][1]) if ready else 0

    def receive(self, budget: int) -> list[Frames]:
        recv, routed, frames_max = self._receive, self._routed, self._frames_max
        batch: list[Frames] = []
        try:
            for _ in range(budget):
                if routed:
                    # A routing id always has more behind it, and a plain copy is four times as fast.
                    frames = [recv(_NOBLOCK)]
                    frame = recv(_NOBLOCK, False)
                    frames.append(frame.bytes)
                else:
                    frame = recv(_NOBLOCK, False)
                    frames = [frame.bytes]
                while frame.more:
                    frame = recv(_NOBLOCK, False)
                    if len(frames) <= frames_max:
                        frames.append(frame.bytes)
                if len(frames) <= frames_max:
                    batch.append(frames)
                else:
                    self.oversize += 1
        except zmq.Again:
            pass
        return batch

    def send(self, messages: list[Frames], start: int, stop: int) -> Sent:
        send = self._send
        for at in range(start, stop):
            frames = messages[at]
            begun = False
            try:
                for frame in frames[:-1]:
                    send(frame, _MORE)
                    begun = True
            except zmq.ZMQError as error:
                if begun:
                    # The connection broke in mid-message. libzmq rolled it back and now swallows frames up to the
                    # last: end it with an empty one, or the next message would be swallowed in its stead. (Not so
                    # on a ROUTER: there only the routing id can fail, and what follows is dropped in silence.)
                    send(b"", _NOBLOCK)
                return at, error.errno or 0, begun
            try:
                send(frames[-1], _NOBLOCK)
            except zmq.ZMQError as error:
                return at, error.errno or 0, begun
        return stop, 0, False


class CompiledTransfer:
    """Through ``_frames.c``."""

    end_is_cheap = True
    __slots__ = ("_frames_max", "_module", "_socket", "oversize")

    def __init__(self, module: ModuleType, socket: zmq.Socket[bytes], frames_max: int) -> None:
        self._module = module
        self._socket = socket
        self._frames_max = frames_max
        self.oversize = 0

    # A closed socket's handle is 0, which is refused: what is freed is never touched.

    def events(self) -> int:
        try:
            return self._module.events(self._socket.underlying)  # type: ignore[no-any-return]
        except OSError as error:
            raise zmq.ZMQError(error.errno) from None

    def receive(self, budget: int) -> list[Frames]:
        try:
            batch, oversize = self._module.receive(self._socket.underlying, budget, self._frames_max)
        except OSError as error:
            raise zmq.ZMQError(error.errno) from None
        self.oversize += oversize
        return batch  # type: ignore[no-any-return]

    def send(self, messages: list[Frames], start: int, stop: int) -> Sent:
        try:
            return self._module.send(self._socket.underlying, messages, start, stop)  # type: ignore[no-any-return]
        except OSError as error:
            return start, error.errno or 0, False


def _load() -> ModuleType | None:
    """The compiled module, knowing libzmq; None where it was not compiled, or libzmq hides its functions."""
    try:
        module = importlib.import_module("zpatterns._frames")
        library = ctypes.CDLL(importlib.import_module("zmq.backend.cython._zmq").__file__)
        parts = [ctypes.c_int(), ctypes.c_int(), ctypes.c_int()]
        library.zmq_version(*map(ctypes.byref, parts))
        if tuple(part.value for part in parts) != zmq.zmq_version_info():
            return None  # not the library that made pyzmq's sockets
        module.load(*(ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in _FUNCTIONS))
    except (ImportError, OSError, AttributeError, TypeError):  # the last: it was compiled of another source than this
        return None
    return module


_compiled = _load()

COMPILED = _compiled is not None
"""Whether messages go through ``_frames.c``."""


def plain_transfer(socket: zmq.Socket[bytes], routed: bool, frames_max: int) -> Transfer:
    """The messages of `socket` through pyzmq; `routed`: whether frame 0 is a routing id, `frames_max`: the most frames
    that a received message may have, the routing id included."""
    # Faster than the option: pyzmq makes an enum's member of each option's number.
    poll = functools.partial(zmq.zmq_poll, [(socket, zmq.POLLIN | zmq.POLLOUT)], 0)
    return PlainTransfer(poll, socket.recv, zmq.backend.Socket.send.__get__(socket), routed, frames_max)


def transfer(socket: zmq.Socket[bytes], routed: bool, frames_max: int) -> Transfer:
    """:func:`plain_transfer`, or the fastest way there is here."""
    if _compiled is None:
        return plain_transfer(socket, routed, frames_max)
    return CompiledTransfer(_compiled, socket, frames_max)
