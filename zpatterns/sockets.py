"""One ZeroMQ socket as the drivers use it: its settings, draining it, and sending without ever waiting."""

from __future__ import annotations

import errno
import math
import os
import random
import socket as _socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import zmq

from zpatterns.core import Frames, PortId, Rng, SendFailure, SocketKind
from zpatterns.errors import EndpointError, ForkedError, ZPatternsError
from zpatterns.transfer import Transfer, transfer
from zpatterns.wire import memory_of

POLLIN = int(zmq.POLLIN)
POLLOUT = int(zmq.POLLOUT)

_KINDS = {
    SocketKind.ROUTER: zmq.ROUTER,
    SocketKind.DEALER: zmq.DEALER,
    SocketKind.REQ: zmq.REQ,
    SocketKind.REP: zmq.REP,
    SocketKind.PUB: zmq.PUB,
    SocketKind.SUB: zmq.SUB,
}

# EINVAL is what an empty routing id gives.
_GONE = (errno.EHOSTUNREACH, errno.EINVAL, zmq.ENOTSOCK, zmq.ETERM)

_ONE_PEER = (SocketKind.DEALER, SocketKind.REQ, SocketKind.SUB)

_SOCKETS_MAX = 16_384

_RETRY_FIRST = 0.005
_RETRY_CAP = 0.1

ENVELOPE = 6
"""The most frames that our protocols put before a body, as a ROUTER sees them: who sends, for whom, and what it is."""


@dataclass(frozen=True, slots=True)
class SocketSettings:
    """What every socket of ours is given. Durations in seconds, sizes in bytes.

    `send_hwm`, `receive_hwm`: messages libzmq holds for a peer. `message_max`: the largest frame taken from a
    peer, whose connection is cut beyond it. `frames_max`: a message of more frames is dropped, and not sent either.
    `outbox_max`, `outbox_bytes_max`: what is kept for one peer whose libzmq queue is full, or, where a socket has one
    peer, which is not there yet (and then a larger message too, alone);
    `outbox_total_bytes_max`: the same for all peers of a socket together, and each message counts 512 bytes more than
    it has, which is what it costs to keep.
    `connect_timeout`: a connection that TCP has not made by then is tried anew. TCP itself repeats its SYN after 1, 2,
    4 ... 32 s, and so would find a network that is whole again as much as half a minute later.
    `handshake_timeout`: a connection that has not finished ZMTP's handshake by then is closed.
    `probe_interval`, `probe_timeout`: how sockets with one peer find that their connection is dead at the far end: TCP
    probes it when it was quiet for so long, and cuts it when nothing was acknowledged for so long.
    `keepalive_idle`, `keepalive_interval`, `keepalive_count`: the same for sockets with many peers.
    No socket has ZMTP's heartbeats: libzmq (4.3.5) aborts the process when one is due on a connection that was reset
    while `receive_hwm` messages waited to be read.
    `routing_id`: how ROUTERs of peers are to know this socket, 1 to 255 bytes of which the first is not zero; empty
    for a name that each of them makes up.
    `reconnect_first`, `reconnect_cap`: libzmq's own reconnects; each socket draws its first delay between half
    and one and a half times `reconnect_first`, since libzmq doubles without jitter.
    """

    send_hwm: int = 1000
    receive_hwm: int = 1000
    message_max: int = 64 * 2**20
    frames_max: int = 4096
    outbox_max: int = 1000
    outbox_bytes_max: int = 16 * 2**20
    outbox_total_bytes_max: int = 256 * 2**20
    backlog: int = 1024
    connect_timeout: float = 3.0
    handshake_timeout: float = 5.0
    probe_interval: float = 5.0
    probe_timeout: float = 15.0
    keepalive_idle: float = 15.0
    keepalive_interval: float = 5.0
    keepalive_count: int = 3
    reconnect_first: float = 0.1
    reconnect_cap: float = 1.0
    routing_id: bytes = b""

    @property
    def body_frames_max(self) -> int:
        """The most frames of a body that far sides with the same settings take."""
        return max(1, self.frames_max - ENVELOPE)


def check_endpoint(endpoint: str, *, bind: bool = False) -> str:
    """Return `endpoint` if ZeroMQ can make sense of it, else raise :class:`EndpointError`.

    With `bind`, the port may be ``*`` or 0 and the host an interface or ``*``. Nothing is resolved or opened.
    """

    def refuse(why: str) -> EndpointError:
        return EndpointError(
            f"{endpoint!r} is not an endpoint: {why}; write it like 'tcp://127.0.0.1:5555'", endpoint=str(endpoint)
        )

    if not isinstance(endpoint, str):
        raise refuse("it is not a string")
    scheme, separator, rest = endpoint.partition("://")
    if not separator or not rest:
        raise refuse("it has no 'transport://address'")
    if scheme in ("ipc", "inproc"):
        if "\0" in rest:
            raise refuse("its address holds a NUL")
        if scheme == "ipc" and len(os.fsencode(rest)) > zmq.IPC_PATH_MAX_LEN:
            raise refuse(f"its path is longer than {zmq.IPC_PATH_MAX_LEN} bytes")
        return endpoint
    if scheme != "tcp":
        raise refuse(f"the transport {scheme!r} is not tcp, ipc or inproc")
    host, separator, port = rest.rpartition(":")
    if not separator or not host:
        raise refuse("it has no 'host:port'")
    if any(character.isspace() for character in rest):
        raise refuse("it holds white space")
    if port == "*" or port == "0":
        if not bind:
            raise refuse(f"the port {port!r} is only good for binding")
    elif not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise refuse(f"the port {port!r} is not a number from 1 to 65535")
    if host == "*" and not bind:
        raise refuse("the host '*' is only good for binding")
    if host.count(":") and not (host.startswith("[") and host.endswith("]")):
        raise refuse("an IPv6 address belongs in square brackets")
    return endpoint


def endpoint_list(endpoints: str | Sequence[str], what: str) -> tuple[str, ...]:
    """One endpoint or several as a tuple, each checked. Errors: ValueError when there is none."""
    result = (endpoints,) if isinstance(endpoints, str) else tuple(endpoints)
    if not result:
        raise EndpointError(f"{what} needs at least one endpoint, such as 'tcp://127.0.0.1:5555'")
    for endpoint in result:
        check_endpoint(endpoint)
    return result


def resolve_endpoint(endpoint: str) -> None:
    """Raise :class:`EndpointError` if libzmq would find no address for the host of a tcp `endpoint`.

    It would look it up in the background, over and over, without a word: a name for an address of IPv4.
    """
    if not endpoint.startswith("tcp://"):
        return
    try:
        host = urlsplit(endpoint).hostname
        if host is None or host == "*":
            return
        _socket.getaddrinfo(host, None)
    except (OSError, ValueError) as error:  # ValueError: a name that no resolver would take, such as 'a..b'
        raise EndpointError(
            f"the host of {endpoint!r} cannot be resolved ({getattr(error, 'strerror', None) or error}); "
            "check its spelling and your DNS",
            endpoint=endpoint,
        ) from error
    if ":" not in host and not _is_of_ipv4(host):
        raise EndpointError(
            f"the host of {endpoint!r} has addresses of IPv6 only; say which, as in 'tcp://[ADDRESS]:PORT'",
            endpoint=endpoint,
        )


def _is_of_ipv4(host: str) -> bool:
    try:
        # As libzmq asks: a name that /etc/hosts has for ::1 is one for 127.0.0.1 then, and only then.
        _socket.getaddrinfo(host, None, _socket.AF_INET)
    except _socket.gaierror as error:
        return error.errno == _socket.EAI_AGAIN  # which says nothing about it
    return True


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """A context with room for as many sockets as a client may have open calls; libzmq's own limit is 1023."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, _SOCKETS_MAX)
    return context


class ProcessGuard:
    """Remembers the process that made an object with sockets."""

    __slots__ = ("_pid", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._pid = os.getpid()

    def check(self) -> None:
        """Raise :class:`ForkedError` in a child of that process."""
        if os.getpid() != self._pid:
            raise ForkedError(
                f"this {self._what} was made in process {self._pid} and used in its child {os.getpid()}; "
                "sockets do not survive a fork: make a new one in the child"
            )


class _Outbox:
    """What waits for one peer whose queue in libzmq is full."""

    __slots__ = ("bytes", "delay", "messages", "overflowed", "retry_at")

    def __init__(self, now: float) -> None:
        self.messages: deque[Frames] = deque()
        self.bytes = 0
        self.overflowed = False  # one did not fit: until the next try none may, or there would be a gap
        self.delay = _RETRY_FIRST
        self.retry_at = now + _RETRY_FIRST


class Link:
    """One socket: drained in batches, sent to without ever blocking, full peers kept waiting on their own.

    A failed send is appended to the caller's list of `(port, frames, reason)`.
    """

    __slots__ = (
        "_boxed_bytes",
        "_boxes",
        "_frames_max",
        "_settings",
        "_socket",
        "_transfer",
        "closed",
        "oversize",
        "paused",
        "port",
        "retry_at",
        "routed",
        "scheduled",
    )

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        kind: SocketKind,
        port: PortId,
        settings: SocketSettings,
        rng: Rng,
    ) -> None:
        try:
            socket = context.socket(_KINDS[kind])
        except zmq.ZMQError as error:
            raise ZPatternsError(
                f"no socket can be opened: {error.strerror}; close some, or raise the limit on open files"
            ) from error
        self._socket = socket
        self._settings = settings
        self.routed = kind is SocketKind.ROUTER
        most, is_dealer = settings.frames_max, kind is SocketKind.DEALER
        # What a broker has let in comes to a worker with more before it: who asks.
        self._transfer: Transfer = transfer(socket, self.routed, most + ENVELOPE if is_dealer else most)
        # More, and its routing id, the far side would drop in silence: a worker would wait for its next request.
        self._frames_max = most - 1 if is_dealer else None
        self._boxes: dict[bytes, _Outbox] = {}
        self._boxed_bytes = 0
        self.port = port
        self.closed = False
        self.oversize = 0
        self.paused = False
        self.retry_at: float | None = None
        self.scheduled = False
        _apply(socket, kind, settings, rng)

    def bind(self, endpoint: str) -> str:
        """Bind and return the endpoint that others can connect to, with the real port."""
        check_endpoint(endpoint, bind=True)
        try:
            self._choose_ip(endpoint)
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise EndpointError(
                f"cannot bind {endpoint!r}: {error.strerror}; is another program using it, or is the "
                "interface not on this machine?",
                endpoint=endpoint,
            ) from error
        real = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        return real.replace("tcp://0.0.0.0:", "tcp://127.0.0.1:").replace("tcp://[::]:", "tcp://[::1]:")

    def connect(self, endpoint: str, peer_id: bytes = b"") -> None:
        """Begin to connect; libzmq goes on trying until the socket is closed. `peer_id`: see :class:`Open`."""
        check_endpoint(endpoint)
        try:
            if peer_id:
                self._socket.setsockopt(zmq.CONNECT_ROUTING_ID, peer_id)
            self._choose_ip(endpoint)
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise EndpointError(f"cannot connect to {endpoint!r}: {error.strerror}", endpoint=endpoint) from error

    def _choose_ip(self, endpoint: str) -> None:
        # Not IPv6 for all: names would then be looked up otherwise, and '*' be another address. And for each endpoint
        # anew: what the socket had before is not what the next one needs.
        if endpoint.startswith("tcp://"):
            self._socket.setsockopt(zmq.IPV6, int(endpoint.startswith("tcp://[")))

    def subscribe(self, prefix: bytes) -> None:
        self._socket.setsockopt(zmq.SUBSCRIBE, prefix)

    def fileno(self) -> int:
        return int(self._socket.getsockopt(zmq.FD))

    def poll_item(self) -> zmq.Socket[bytes]:
        """The socket, for a ``zmq.Poller``."""
        return self._socket

    def events(self) -> int:
        """POLLIN if a message waits; and POLLOUT if the outbox of a socket with one peer can be emptied.

        The file descriptor is edge-triggered, and this question takes its signal away: ask after every drain and
        every send, and act on both answers.
        """
        ready = self._transfer.events()
        return ready if self._boxes and not self.routed else ready & POLLIN

    @property
    def end_is_cheap(self) -> bool:
        """Whether :meth:`receive` may be asked for more than there is."""
        return self._transfer.end_is_cheap

    def receive(self, budget: int) -> list[Frames]:
        """Up to `budget` messages that have arrived; fewer once there are no more."""
        batch = self._transfer.receive(budget)
        if self._transfer.oversize:
            self.oversize += self._transfer.oversize
            self._transfer.oversize = 0
        return batch

    def send(self, messages: list[Frames], now: float, failures: list[tuple[PortId, Frames, SendFailure]]) -> None:
        """Hand each message to libzmq, or to its peer's outbox, or report it as failed."""
        if self._frames_max is not None:
            messages = self._short(messages, self._frames_max, failures)
        hand_over, boxes = self._transfer.send, self._boxes
        at, count = 0, len(messages)
        while at < count:
            if boxes and self._peer(messages[at]) in boxes:
                self._box(messages[at], now, failures)
                at += 1
                continue
            # Once a peer is full, each message needs the question above.
            at, error, begun = hand_over(messages, at, at + 1 if boxes else count)
            if error:
                self._not_sent(messages[at], begun, error, now, failures)
                at += 1

    def _short(
        self, messages: list[Frames], most: int, failures: list[tuple[PortId, Frames, SendFailure]]
    ) -> list[Frames]:
        """Those of `messages` that have `most` frames or fewer; the others have failed."""
        if max(map(len, messages), default=0) <= most:
            return messages
        failures += [(self.port, frames, SendFailure.OVERFLOW) for frames in messages if len(frames) > most]
        return [frames for frames in messages if len(frames) <= most]

    def _peer(self, frames: Frames) -> bytes:
        return frames[0] if self.routed else b""

    def _not_sent(
        self,
        frames: Frames,
        begun: bool,
        error: int,
        now: float,
        failures: list[tuple[PortId, Frames, SendFailure]],
    ) -> None:
        if begun:
            failures.append((self.port, frames, SendFailure.UNREACHABLE))
        elif error == zmq.EAGAIN:
            self._box(frames, now, failures)
        elif error in _GONE:
            failures.append((self.port, frames, SendFailure.UNREACHABLE))
        else:
            raise zmq.ZMQError(error)

    def flush(self, now: float, failures: list[tuple[PortId, Frames, SendFailure]], force: bool = False) -> None:
        """Try the outboxes whose time has come again, or all of them with `force`."""
        self.retry_at = None
        for peer, box in list(self._boxes.items()):
            if box.retry_at > now and not force:
                self._retry(box)
                continue
            del self._boxes[peer]
            self._boxed_bytes -= box.bytes
            self.send(list(box.messages), now, failures)
            again = self._boxes.get(peer)
            if again is not None:
                stuck = len(again.messages) == len(box.messages)
                again.delay = min(box.delay * 2, _RETRY_CAP) if stuck else _RETRY_FIRST
                again.retry_at = now + again.delay

    def discard(self) -> list[Frames]:
        """Empty the outboxes and return what was in them."""
        messages = [frames for box in self._boxes.values() for frames in box.messages]
        self._boxes.clear()
        self._boxed_bytes = 0
        self.retry_at = None
        return messages

    @property
    def waiting(self) -> int:
        """Messages in the outboxes."""
        return sum(len(box.messages) for box in self._boxes.values())

    @property
    def blocked(self) -> bool:
        """Whether any outbox holds anything."""
        return bool(self._boxes)

    def close(self, linger: float) -> None:
        """Close the socket; libzmq goes on sending what it took for `linger` seconds."""
        if not self.closed:
            self.closed = True
            self._boxes.clear()
            self._socket.close(linger=max(0, round(linger * 1000)))

    def _box(self, frames: Frames, now: float, failures: list[tuple[PortId, Frames, SendFailure]]) -> None:
        settings = self._settings
        peer = self._peer(frames)
        size = memory_of(frames)
        box = self._boxes.get(peer)
        if box is None:
            box = self._boxes[peer] = _Outbox(now)
            self._retry(box)
        if (
            box.overflowed
            or len(box.messages) >= settings.outbox_max
            # A large request to a server alone: its first message comes before the connection is there.
            or ((self.routed or box.messages) and box.bytes + size > settings.outbox_bytes_max)
            or self._boxed_bytes + size > settings.outbox_total_bytes_max
        ):
            box.overflowed = True
            failures.append((self.port, frames, SendFailure.OVERFLOW))
            return
        box.messages.append(frames)
        box.bytes += size
        self._boxed_bytes += size

    def _retry(self, box: _Outbox) -> None:
        # The only peer of another socket makes itself heard through the descriptor.
        if self.routed and (self.retry_at is None or box.retry_at < self.retry_at):
            self.retry_at = box.retry_at


def _apply(socket: zmq.Socket[bytes], kind: SocketKind, settings: SocketSettings, rng: Rng) -> None:
    def milliseconds(seconds: float) -> int:
        return max(1, round(seconds * 1000))

    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, settings.send_hwm)
    socket.setsockopt(zmq.RCVHWM, settings.receive_hwm)
    socket.setsockopt(zmq.MAXMSGSIZE, settings.message_max)
    socket.setsockopt(zmq.BACKLOG, settings.backlog)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, milliseconds(settings.connect_timeout))
    socket.setsockopt(zmq.HANDSHAKE_IVL, milliseconds(settings.handshake_timeout))
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    if kind in _ONE_PEER:
        idle = interval = max(1.0, settings.probe_interval)  # TCP counts in seconds
        count = min(math.ceil(settings.probe_timeout / interval), 127)
        # Keepalive is silent while something waits to be acknowledged. And this takes the place of the count on Linux.
        socket.setsockopt(zmq.TCP_MAXRT, milliseconds(settings.probe_timeout))
    else:
        idle, interval, count = settings.keepalive_idle, settings.keepalive_interval, settings.keepalive_count
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, max(1, round(idle)))
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, max(1, round(interval)))
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, count)
    first = settings.reconnect_first * (0.5 + rng.random())
    socket.setsockopt(zmq.RECONNECT_IVL, milliseconds(first))
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, milliseconds(max(first, settings.reconnect_cap)))
    if settings.routing_id:
        socket.setsockopt(zmq.ROUTING_ID, settings.routing_id)
    if kind is SocketKind.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    elif kind in (SocketKind.DEALER, SocketKind.REQ):
        # Nothing is queued for a connection that is not there, and what a dead one held is dropped with it.
        socket.setsockopt(zmq.IMMEDIATE, 1)


default_rng: Rng = random.SystemRandom()
"""Where drivers and front ends draw jitter and ids from unless they are given a source of their own."""
