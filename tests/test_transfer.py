"""Whole messages through a socket, compiled and plain: the same in every respect but speed."""

from __future__ import annotations

import ctypes
import errno
import gc
import importlib
import resource
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.broken_wire import Wire
from tests.waiting import until
from zpatterns import transfer as transfer_module
from zpatterns.core import Frames
from zpatterns.sockets import POLLIN, POLLOUT, new_context
from zpatterns.transfer import COMPILED, CompiledTransfer, PlainTransfer, Transfer, plain_transfer, transfer

ROOT = Path(__file__).parent.parent

MANY = 10_000
"""Frames that a message may have where the test is about something else."""

MAKERS = {"plain": plain_transfer} | ({"compiled": transfer} if COMPILED else {})


class Pair:
    """Two connected sockets; `mine` is behind the transfer."""

    def __init__(self, mine: zmq.Socket[bytes], other: zmq.Socket[bytes], made: Transfer) -> None:
        self.mine = mine
        self.other = other
        self.transfer = made

    def receive(self, count: int, budget: int = 100) -> list[Frames]:
        """The messages that come until there are `count`."""
        got: list[Frames] = []

        def enough() -> bool:
            got.extend(self.transfer.receive(budget))
            return len(got) >= count

        until(enough, f"{count} messages")
        return got


@pytest.fixture(params=MAKERS)
def connect(request) -> Iterator[Callable[..., Pair]]:
    with ExitStack() as stack:
        context = stack.enter_context(new_context())
        numbers = iter(range(100))

        def make(
            mine_kind: int = zmq.PAIR,
            other_kind: int = zmq.PAIR,
            hwm: int = 0,
            frames_max: int = MANY,
            **options: Any,
        ) -> Pair:
            mine, other = (
                stack.enter_context(context.socket(mine_kind)),
                stack.enter_context(context.socket(other_kind)),
            )
            for socket in (mine, other):
                socket.set_hwm(hwm)
                socket.linger = 0
            for name, value in options.items():
                setattr(mine, name, value)
            endpoint = f"inproc://{next(numbers)}"
            mine.bind(endpoint)
            other.connect(endpoint)
            return Pair(mine, other, MAKERS[request.param](mine, mine_kind == zmq.ROUTER, frames_max))

        yield make


def test_the_compiled_way_is_used_where_there_is_a_compiler():
    """Without the module nothing fails, so that nobody would notice if it could not be loaded."""
    linker = (sysconfig.get_config_var("LDSHARED") or "none").split()[0]
    header = Path(sysconfig.get_path("include")) / "Python.h"
    assert COMPILED or not (shutil.which(linker) and header.exists()), "install the project anew: pip install -e ."


MESSAGES = [
    [b"one"],
    [b""],
    [b"", b""],
    [b"a", b"", b"c" * 29, b"d" * 30, b"e" * 31, b"f" * 33, b"g" * 34],
    *([b"%d" % number for number in range(count)] for count in (7, 8, 9, 10)),
    [b"\x00" * 1_000_000, b"\xff" * 65_537],
    [b"%d" % number for number in range(1000)],
]


class TestReceiving:
    def test_every_shape_of_message(self, connect):
        pair = connect()
        for frames in MESSAGES:
            pair.other.send_multipart(frames)
        got = pair.receive(len(MESSAGES))
        assert got == MESSAGES
        assert all(type(frame) is bytes for frames in got for frame in frames)

    def test_a_routing_id_comes_first(self, connect):
        pair = connect(zmq.ROUTER, zmq.DEALER)
        for frames in MESSAGES:
            pair.other.send_multipart(frames)
        got = pair.receive(len(MESSAGES))
        assert [frames[1:] for frames in got] == MESSAGES
        assert len({frames[0] for frames in got}) == 1

    def test_no_more_than_the_budget_and_the_rest_later(self, connect):
        pair = connect()
        for number in range(10):
            pair.other.send(b"%d" % number)
        until(lambda: pair.mine.poll(0), "the messages")
        assert pair.transfer.receive(4) == [[b"0"], [b"1"], [b"2"], [b"3"]]
        assert pair.transfer.receive(0) == []
        assert pair.receive(6) == [[b"%d" % number] for number in range(4, 10)]

    @pytest.mark.parametrize("frames_max", [1, 3, 8, 20])
    def test_too_many_frames_are_dropped_and_counted_and_the_next_message_is_whole(self, connect, frames_max):
        pair = connect(frames_max=frames_max)
        most = [b"%d" % number for number in range(frames_max)]
        for frames in (most, [*most, b"more"], most, [*most, *[b"more"] * 10], most):
            pair.other.send_multipart(frames)
        assert pair.receive(3) == [most, most, most]
        assert pair.transfer.oversize == 2

    def test_the_routing_id_is_one_of_the_frames(self, connect):
        pair = connect(zmq.ROUTER, zmq.DEALER, frames_max=2)
        pair.other.send_multipart([b"too", b"many"])
        pair.other.send(b"one")
        [[_, body]] = pair.receive(1)
        assert (body, pair.transfer.oversize) == (b"one", 1)

    def test_what_is_dropped_counts_for_the_budget(self, connect):
        """Or a peer that sends nothing else would have the others wait."""
        pair = connect(frames_max=1)
        for _ in range(10):
            pair.other.send_multipart([b"a", b"b"])
        until(lambda: pair.mine.poll(0), "the messages")
        assert pair.transfer.receive(4) == []
        assert pair.transfer.oversize == 4

    def test_nothing_is_there(self, connect):
        assert connect().transfer.receive(10) == []

    def test_a_closed_socket_is_an_error_and_no_crash(self, connect):
        pair = connect()
        pair.mine.close()
        with pytest.raises(zmq.ZMQError) as caught:
            pair.transfer.receive(10)
        assert caught.value.errno in (zmq.ENOTSOCK, errno.ENOTSOCK)

    def test_what_came_before_an_error_is_not_lost(self, connect):
        """A REP socket may not receive twice: the second is an error, the first counts."""
        pair = connect(zmq.REP, zmq.REQ)
        pair.other.send_multipart([b"question", b"more"])
        until(lambda: pair.mine.poll(0), "the question")
        if isinstance(pair.transfer, CompiledTransfer):
            assert pair.transfer.receive(10) == [[b"question", b"more"]]
        with pytest.raises(zmq.ZMQError) as caught:
            pair.transfer.receive(10)
        assert caught.value.errno == zmq.EFSM


class TestEvents:
    def test_of_a_socket_without_a_peer(self, connect):
        pair = connect()
        pair.other.close()
        until(lambda: pair.transfer.events() == 0, "the end of the connection")

    def test_a_message_that_waits_and_room_for_more(self, connect):
        pair = connect(hwm=1)
        until(lambda: pair.transfer.events() == POLLOUT, "room")
        pair.other.send(b"x")
        until(lambda: pair.transfer.events() == POLLIN | POLLOUT, "the message")
        pair.receive(1)
        assert pair.transfer.events() == POLLOUT
        while not pair.transfer.send([[b"x"]], 0, 1)[1]:
            pass
        assert pair.transfer.events() == 0


class TestSending:
    def test_every_shape_of_message(self, connect):
        pair = connect()
        assert pair.transfer.send(MESSAGES, 0, len(MESSAGES)) == (len(MESSAGES), 0, False)
        assert [pair.other.recv_multipart() for _ in MESSAGES] == MESSAGES

    def test_a_part_of_the_list(self, connect):
        pair = connect()
        assert pair.transfer.send([[b"0"], [b"1"], [b"2"], [b"3"]], 1, 3) == (3, 0, False)
        assert [pair.other.recv() for _ in range(2)] == [b"1", b"2"]
        assert not pair.other.poll(0)

    def test_the_messages_are_left_as_they_are(self, connect):
        pair = connect()
        message = [b"a", b"b"]
        pair.transfer.send([message], 0, 1)
        assert message == [b"a", b"b"]

    def test_a_full_peer(self, connect):
        pair = connect(hwm=1)
        at, error, begun = pair.transfer.send([[b"%d" % number, b"x"] for number in range(10)], 0, 10)
        assert (error, begun) == (zmq.EAGAIN, False)
        assert 1 <= at < 10
        assert [pair.other.recv_multipart()[0] for _ in range(at)] == [b"%d" % number for number in range(at)]
        until(lambda: pair.mine.poll(0, zmq.POLLOUT), "room")
        assert pair.transfer.send([[b"next"]], 0, 1) == (1, 0, False)
        assert pair.other.recv_multipart() == [b"next"]

    def test_an_unknown_peer(self, connect):
        pair = connect(zmq.ROUTER, zmq.DEALER, router_mandatory=1)
        pair.other.send(b"hello")
        known = pair.receive(1)[0][0]
        messages = [[known, b"1"], [b"unknown", b"", b"body"], [known, b"2"]]
        assert pair.transfer.send(messages, 0, 3) == (1, zmq.EHOSTUNREACH, False)
        assert pair.transfer.send(messages, 2, 3) == (3, 0, False)
        assert [pair.other.recv() for _ in range(2)] == [b"1", b"2"]

    def test_a_closed_socket_is_told_as_gone(self, connect):
        pair = connect()
        pair.mine.close()
        at, error, begun = pair.transfer.send([[b"x"]], 0, 1)
        assert (at, begun) == (0, False)
        assert error in (zmq.ENOTSOCK, errno.ENOTSOCK)


def send_through(wire: Wire, messages: list[Frames], request: pytest.FixtureRequest, way: str) -> list[Any]:
    """What each :meth:`Transfer.send` said until all were sent or had failed."""
    made = PlainTransfer(list, lambda: None, wire, False, MANY) if way == "plain" else compiled_over(wire, request)
    said, at = [], 0
    while at < len(messages):
        at, error, begun = made.send(messages, at, len(messages))
        said.append((at, error, begun))
        at += bool(error)
    return said


def compiled_over(wire: Wire, request: pytest.FixtureRequest) -> Transfer:
    """The compiled module with `wire` in the place of ``zmq_send``."""
    module = transfer_module._compiled
    assert module is not None
    library = ctypes.CDLL(importlib.import_module("zmq.backend.cython._zmq").__file__)
    failed = 0

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    def send(socket: int, data: int, size: int, flags: int) -> int:
        nonlocal failed
        try:
            wire(ctypes.string_at(data, size), flags)
        except zmq.ZMQError as error:
            failed = error.errno or 0
            return -1
        return size

    @ctypes.CFUNCTYPE(ctypes.c_int)
    def error() -> int:
        return failed

    real = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in transfer_module._FUNCTIONS]
    fake = list(real)
    for name, function in (("zmq_send", send), ("zmq_errno", error)):
        fake[transfer_module._FUNCTIONS.index(name)] = ctypes.cast(function, ctypes.c_void_p).value
    module.load(*fake)
    keep = (send, error)
    request.addfinalizer(lambda: (module.load(*real), keep))

    class Handle:
        underlying = 1

    return CompiledTransfer(module, Handle(), MANY)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", MAKERS)
class TestAConnectionThatBreaks:
    @pytest.mark.parametrize("frame", [2, 3, 4])
    def test_in_mid_message(self, request, way, frame):
        wire = Wire(breaks_at=frame)
        messages = [[b"1", b"2", b"3", b"4"], [b"5", b"6"]]
        assert send_through(wire, messages, request, way) == [(0, zmq.EAGAIN, True), (2, 0, False)]
        assert wire.sent == [[b"5", b"6"]], "the next is whole, and nothing else was sent"

    def test_before_the_first_frame(self, request, way):
        wire = Wire(breaks_at=1)
        assert send_through(wire, [[b"1", b"2"], [b"3"]], request, way) == [(0, zmq.EAGAIN, False), (2, 0, False)]
        assert wire.sent == [[b"3"]]


@pytest.mark.parametrize("way", [way for way in MAKERS if way == "compiled"])
class TestTheModule:
    def test_an_interrupted_call_is_made_again(self, request, way):
        wire = Wire(breaks_at=2, error=errno.EINTR)
        assert send_through(wire, [[b"1", b"2"]], request, way) == [(1, 0, False)]
        assert wire.sent == [[b"1", b"2"]]

    @pytest.mark.parametrize("wrong", [[], [b"a", "text"], [b"a", None, b"c"], (b"a",), None])
    def test_of_what_is_no_message_nothing_is_sent(self, request, way, wrong):
        """A core never asks for that; if one does, nothing of it may stick to what follows."""
        wire = Wire(breaks_at=0)
        made = compiled_over(wire, request)
        with pytest.raises((TypeError, ValueError)):
            made.send([[b"before"], wrong, [b"after"]], 0, 3)
        assert wire.message == []
        assert wire.sent == [[b"before"]]

    @pytest.mark.parametrize("name", ["receive", "send"])
    def test_it_wants_its_arguments(self, way, name):
        with pytest.raises(TypeError):
            getattr(transfer_module._compiled, name)(1)

    def test_it_touches_no_closed_socket(self, way):
        with new_context() as context:
            socket = context.socket(zmq.PAIR)
            made = MAKERS[way](socket, False, MANY)
            socket.close()
            for call in (made.events, lambda: made.receive(1)):
                with pytest.raises(zmq.ZMQError):
                    call()

    def test_a_list_that_ends_too_early(self, request, way):
        with pytest.raises(IndexError):
            compiled_over(Wire(breaks_at=0), request).send([[b"only"]], 0, 2)


def test_nothing_leaks(connect):
    pair = connect(frames_max=20)
    frames = [b"x" * size for size in (0, 5, 33, 1000, 10_000)]
    too_many = [b"y" * 100] * 21

    def measure() -> tuple[int, float]:
        gc.collect()
        statm = Path("/proc/self/statm")  # where there is none, the most that was ever needed has to do
        pages = int(statm.read_text().split()[1]) * 4 if statm.exists() else 0
        return sys.getallocatedblocks(), (pages or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024

    def rounds(count: int) -> None:
        for _ in range(count):
            pair.transfer.send([frames] * 10, 0, 10)
            for _ in range(10):
                pair.other.send_multipart(pair.other.recv_multipart())
                pair.other.send_multipart(too_many)
            assert pair.receive(10) == [frames] * 10

    rounds(50)
    blocks, megabytes = measure()
    rounds(500)
    after = measure()
    assert after[0] - blocks < 500, "objects of Python for each round"
    # One of libzmq's messages kept in ten would be 5 MiB.
    assert after[1] - megabytes < 3


class TestLoading:
    def test_another_libzmq_is_not_touched(self, monkeypatch):
        monkeypatch.setattr(zmq, "zmq_version_info", lambda: (4, 0, 9))
        assert transfer_module._load() is None

    def test_a_module_compiled_of_another_source_is_not_used(self, monkeypatch):
        monkeypatch.setattr(transfer_module, "_FUNCTIONS", transfer_module._FUNCTIONS[:-1])
        assert transfer_module._load() is None

    def test_without_the_module_pyzmq_serves(self, monkeypatch):
        monkeypatch.setattr(transfer_module, "_compiled", None)
        with new_context() as context, context.socket(zmq.PAIR) as socket:
            assert isinstance(transfer(socket, False, MANY), PlainTransfer)
