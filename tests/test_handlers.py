"""Users' handlers of every kind: where they run, what becomes of what they return, raise and yield, how they end."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.example import ExampleCore, OnReactor
from tests.waiting import DEADLINE, until
from zpatterns.core import Frames
from zpatterns.errors import RemoteError
from zpatterns.handlers import _PARTS_AHEAD, Handles, Lane, Request, Threads, is_stream
from zpatterns.wire import to_frames

REQUEST = Request((b"one", b"two"), "service", b"client")


class HandledCore(ExampleCore):
    """Keeps what a lane tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[Any, ...]] = []

    def handler_partial(self, run: int, frames: Frames, now: float) -> None:
        self.told.append(("part", run, frames))

    def handler_done(self, run: int, frames: Frames, now: float) -> None:
        self.told.append(("done", run, frames))

    def handler_failed(self, run: int, code: str, message: str, now: float) -> None:
        self.told.append(("failed", run, code, message))


class Lanes:
    """Lanes on a loop in a thread."""

    def __init__(self) -> None:
        self.core = HandledCore()
        self.driven = OnReactor(self.core)
        self.driver: Any = self.driven.driver
        self.lanes: list[Lane] = []
        self.threads = Threads(self.driven.do(asyncio.get_running_loop))

    @property
    def told(self) -> list[tuple[Any, ...]]:
        return self.core.told

    def make(self, handler: Callable[[Request], Any]) -> Lane:
        self.lanes.append(Lane(handler, self.core, self.driver, "lane", self.threads))
        return self.lanes[-1]

    def start(self, lane: Lane, run: int = 1) -> None:
        self.driven.do(lambda: lane.start(run, REQUEST))

    def run(self, handler: Callable[[Request], Any]) -> list[tuple[Any, ...]]:
        """What the core is told of one request, to the end."""
        self.start(self.make(handler))
        return self.end()

    def end(self, run: int = 1) -> list[tuple[Any, ...]]:
        until(lambda: any(what[0] != "part" and what[1] == run for what in self.told), f"the end of run {run}")
        told, self.core.told = self.told, []
        return told

    def close(self) -> None:
        for lane in self.lanes:
            self.driven.do(lane.close)
        self.driven.close()
        for lane in self.lanes:
            if lane._thread is not None:
                lane._thread.join(DEADLINE)
                assert not lane._thread.is_alive()


@pytest.fixture
def lanes() -> Iterator[Lanes]:
    made = Lanes()
    yield made
    made.close()


def plain(request: Request) -> bytes:
    return request.body


async def coroutine(request: Request) -> bytes:
    await asyncio.sleep(0)
    return request.body


def generator(request: Request) -> Iterator[bytes]:
    yield from request.frames


async def async_generator(request: Request) -> Any:
    for frame in request.frames:
        yield frame


class Callables:
    """Each kind of handler, as a method."""

    def plain(self, request: Request) -> bytes:
        return request.body

    async def coroutine(self, request: Request) -> bytes:
        return request.body

    def generator(self, request: Request) -> Iterator[bytes]:
        yield from request.frames

    async def async_generator(self, request: Request) -> Any:
        for frame in request.frames:
            yield frame


class CallableObject:
    """An object that is called."""

    def __call__(self, request: Request) -> bytes:
        return request.body


class AsyncCallableObject:
    """An object whose call is a coroutine."""

    async def __call__(self, request: Request) -> bytes:
        return request.body


class StreamingObject:
    """An object whose call is a generator."""

    def __call__(self, request: Request) -> Iterator[bytes]:
        yield from request.frames


def with_prefix(prefix: bytes, request: Request) -> bytes:
    return prefix + request.body


async def later_with_prefix(prefix: bytes, request: Request) -> bytes:
    return prefix + request.body


class TestBodies:
    @pytest.mark.parametrize(
        ("value", "frames"),
        [
            (b"bytes", [b"bytes"]),
            ("größer", ["größer".encode()]),
            (None, [b""]),
            (b"", [b""]),
            ([], [b""]),
            ((), [b""]),
            ([b"a", "b", bytearray(b"c"), memoryview(b"d")], [b"a", b"b", b"c", b"d"]),
            ((b"a",), [b"a"]),
            (bytearray(b"a"), [b"a"]),
            (memoryview(b"a"), [b"a"]),
        ],
    )
    def test_what_is_a_body(self, value, frames):
        made = to_frames(value)
        assert made == frames
        assert all(type(frame) is bytes for frame in made)

    @pytest.mark.parametrize("value", [1, 1.5, object(), {}, {b"a"}, [1], [b"a", None], [[b"a"]], iter([b"a"])])
    def test_what_is_not(self, value):
        with pytest.raises(TypeError, match="a body is bytes, str, None or a sequence"):
            to_frames(value)

    def test_a_list_is_not_the_callers(self):
        frames = [b"a"]
        assert to_frames(frames) is not frames

    def test_the_body_of_a_request(self):
        assert Request((b"one",), "service", b"").body == b"one"
        assert REQUEST.body == b"onetwo"


class TestKinds:
    @pytest.mark.parametrize(
        ("handler", "expected"),
        [
            (plain, False),
            (coroutine, False),
            (generator, True),
            (async_generator, True),
            (Callables().plain, False),
            (Callables().coroutine, False),
            (Callables().generator, True),
            (Callables().async_generator, True),
            (CallableObject(), False),
            (AsyncCallableObject(), False),
            (StreamingObject(), True),
            (functools.partial(with_prefix, b"-"), False),
            (functools.partial(later_with_prefix, b"-"), False),
            (functools.partial(generator), True),
            (len, False),
        ],
    )
    def test_what_streams(self, handler, expected):
        assert is_stream(handler) is expected

    @pytest.mark.parametrize(
        "handler",
        [
            plain,
            coroutine,
            Callables().plain,
            Callables().coroutine,
            CallableObject(),
            AsyncCallableObject(),
            functools.partial(with_prefix, b""),
            functools.partial(later_with_prefix, b""),
        ],
    )
    def test_one_reply(self, lanes, handler):
        assert lanes.run(handler) == [("done", 1, [b"onetwo"])]

    @pytest.mark.parametrize(
        "handler", [generator, async_generator, Callables().generator, Callables().async_generator, StreamingObject()]
    )
    def test_a_stream(self, lanes, handler):
        assert lanes.run(handler) == [("part", 1, [b"one"]), ("part", 1, [b"two"]), ("done", 1, [b""])]

    def test_what_a_generator_returns_comes_last(self, lanes):
        def handler(request: Request) -> Any:
            yield [b"a", "b"]
            return b"end"

        assert lanes.run(handler) == [("part", 1, [b"a", b"b"]), ("done", 1, [b"end"])]

    def test_plain_code_runs_in_one_thread_of_its_own(self, lanes):
        threads = []

        def handler(request: Request) -> None:
            threads.append(threading.current_thread())

        lane = lanes.make(handler)
        for run in range(1, 4):
            lanes.start(lane, run)
            lanes.end(run)
        assert len(set(threads)) == 1
        assert threads[0] not in (threading.current_thread(), lanes.driven._thread)
        assert threads[0].name == "lane"
        assert threads[0].daemon

    def test_a_coroutine_runs_on_the_loop(self, lanes):
        threads = []

        async def handler(request: Request) -> None:
            threads.append(threading.current_thread())

        lanes.run(handler)
        assert threads == [lanes.driven._thread]


def test_what_a_subclass_leaves_to_its_base_is_echoed(lanes):
    class Counting(Handles):
        def handle(self, request: Request) -> object:
            return super().handle(request)

    assert lanes.run(Counting()._choose_handler(None)) == [("done", 1, [b"one", b"two"])]


class Unusual(BaseException):
    """Not an Exception."""


class Mute(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise ValueError("no text")


def raises(kind: str, error: BaseException) -> Callable[[Request], Any]:
    """A handler of a kind that raises, streams after one part."""

    def plain(request: Request) -> bytes:
        raise error

    async def coroutine(request: Request) -> bytes:
        raise error

    def generator(request: Request) -> Iterator[bytes]:
        yield b"part"
        raise error

    async def async_generator(request: Request) -> Any:
        yield b"part"
        raise error

    return {f.__name__: f for f in (plain, coroutine, generator, async_generator)}[kind]


KINDS = pytest.mark.parametrize("kind", ["plain", "coroutine", "generator", "async_generator"])


class TestErrors:
    @KINDS
    def test_what_is_raised_is_told_and_logged(self, lanes, kind, caplog):
        caplog.set_level(logging.ERROR, logger="zpatterns")
        told = lanes.run(raises(kind, ValueError("no such thing")))
        assert told[-1] == ("failed", 1, "ValueError", "no such thing")
        assert [record.getMessage().split()[0] for record in caplog.records] == ["handler_raised"]
        assert caplog.records[0].exc_info is not None

    @KINDS
    @pytest.mark.parametrize("error", [SystemExit(3), Unusual("odd")], ids=repr)
    def test_what_is_no_exception_costs_one_request_too(self, lanes, kind, error):
        """It is the handler's, not the worker's, to leave: the loop, the thread and the lane go on."""
        handlers = [raises(kind, error), plain]

        def handler(request: Request) -> Any:
            return handlers.pop(0)(request)

        async def async_handler(request: Request) -> bytes:
            if len(handlers) == 1:
                return plain(request)
            if kind == "coroutine":
                result: bytes = await handlers.pop(0)(request)
                return result
            return b"".join([part async for part in handlers.pop(0)(request)])

        lane = lanes.make(handler if kind in ("plain", "generator") else async_handler)
        lanes.start(lane)
        assert lanes.end()[-1] == ("failed", 1, type(error).__name__, str(error))
        lanes.start(lane, 2)
        assert lanes.end(2) == [("done", 2, [b"onetwo"])]

    def test_an_error_of_ours_keeps_its_code(self, lanes, caplog):
        """A handler may say itself what its caller is told; that is nobody's bug."""
        told = lanes.run(raises("plain", RemoteError("404", "no such user")))
        assert told == [("failed", 1, "404", "no such user")]
        assert not caplog.records

    @KINDS
    @pytest.mark.parametrize(
        ("error", "code", "message"),
        [
            (Mute(), "Mute", "(its text cannot be had)"),
            (RemoteError(404, None), "404", "None"),  # type: ignore[arg-type]
        ],
        ids=["mute", "not text"],
    )
    def test_an_error_that_is_no_text_costs_one_request_too(self, lanes, kind, error, code, message):
        assert lanes.run(raises(kind, error))[-1] == ("failed", 1, code, message)

    @pytest.mark.parametrize("value", [42, [b"a", 1], object()])
    def test_what_is_no_body_is_an_error(self, lanes, value):
        async def later(request: Request) -> Any:
            return value

        for handler in (lambda request: value, later):
            told = lanes.run(handler)
            assert told[0][:3] == ("failed", 1, "TypeError")
            assert "a body is bytes" in told[0][3]

    def test_a_part_that_is_no_body_is_an_error(self, lanes):
        def handler(request: Request) -> Any:
            yield b"good"
            yield 42

        assert [what[0] for what in lanes.run(handler)] == ["part", "failed"]

    @KINDS
    def test_the_lane_goes_on(self, lanes, kind):
        handler = raises(kind, ValueError("no such thing"))
        lane = lanes.make(handler)
        for run in range(1, 4):
            lanes.start(lane, run)
            assert lanes.end(run)[-1][:3] == ("failed", run, "ValueError")


class TestCancelling:
    def test_a_coroutine_ends_at_its_await(self, lanes):
        begun, cleaned = threading.Event(), threading.Event()

        async def handler(request: Request) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.set()

        lane = lanes.make(handler)
        lanes.start(lane)
        assert begun.wait(DEADLINE)
        lanes.driven.do(lambda: lane.cancel(1))
        assert lanes.end() == [("failed", 1, "cancelled", "the request was cancelled")]
        assert cleaned.is_set()

    def test_a_coroutine_that_has_not_begun_ends_too(self, lanes):
        """A request and the word that nobody wants it may be read together."""
        lane = lanes.make(coroutine)

        def start_and_cancel() -> None:
            lane.start(1, REQUEST)
            lane.cancel(1)

        lanes.driven.do(start_and_cancel)
        assert lanes.end() == [("failed", 1, "cancelled", "the request was cancelled")]

    @pytest.mark.parametrize("is_async", [False, True])
    def test_a_generator_ends_at_its_next_part(self, lanes, is_async):
        cleaned = threading.Event()
        go_on = threading.Event()

        def handler(request: Request) -> Any:
            try:
                while True:
                    yield b"part"
                    go_on.wait(0.01)
            finally:
                cleaned.set()

        async def async_handler(request: Request) -> Any:
            try:
                while True:
                    yield b"part"
                    await asyncio.sleep(0.01)
            finally:
                cleaned.set()

        lane = lanes.make(async_handler if is_async else handler)
        lanes.start(lane)
        until(lambda: len(lanes.told) > 2, "some parts")
        lanes.driven.do(lambda: lane.cancel(1))
        lanes.end()
        assert cleaned.wait(DEADLINE)

    def test_a_plain_function_is_left_to_end(self, lanes):
        """Nothing can stop it; what it returns is told as ever, and the core knows better."""
        release = threading.Event()

        def handler(request: Request) -> bytes:
            release.wait(DEADLINE)
            return b"late"

        lane = lanes.make(handler)
        lanes.start(lane)
        lanes.driven.do(lambda: lane.cancel(1))
        assert lanes.told == []
        release.set()
        assert lanes.end() == [("done", 1, [b"late"])]

    def test_the_next_request_is_not_cancelled_with_it(self, lanes):
        release = threading.Event()

        def handler(request: Request) -> Any:
            yield b"part"
            release.wait(DEADLINE)
            yield b"another"

        lane = lanes.make(handler)
        lanes.start(lane)
        until(lambda: lanes.told, "the first part")
        lanes.driven.do(lambda: lane.cancel(1))
        release.set()
        lanes.end()
        lanes.start(lane, 2)
        assert lanes.end(2) == [("part", 2, [b"part"]), ("part", 2, [b"another"]), ("done", 2, [b""])]

    def test_closing_ends_the_thread_once_its_handler_has_returned(self, lanes):
        begun, release = threading.Event(), threading.Event()

        def handler(request: Request) -> None:
            begun.set()
            release.wait(DEADLINE)

        lane = lanes.make(handler)
        lanes.start(lane)
        assert begun.wait(DEADLINE)
        lanes.driven.do(lane.close)
        thread = lane._thread
        assert thread.is_alive()
        release.set()
        thread.join(DEADLINE)
        assert not thread.is_alive()

    def test_closing_cancels_a_coroutine(self, lanes):
        cleaned = threading.Event()

        async def handler(request: Request) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.set()

        lane = lanes.make(handler)
        lanes.start(lane)
        lanes.driven.do(lambda: None)
        lanes.driven.do(lane.close)
        assert cleaned.wait(DEADLINE)


class TestThreads:
    """The lanes of a service share their threads."""

    def test_no_lane_waits_for_another(self, lanes):
        meeting = threading.Barrier(4)

        def meet(request: Request) -> None:
            meeting.wait(DEADLINE)

        for run in range(1, 5):
            lanes.start(lanes.make(meet), run)
        until(lambda: len(lanes.told) == 4, "all have met")
        assert sorted(lanes.told) == [("done", run, [b""]) for run in range(1, 5)]
        assert len({lane._thread for lane in lanes.lanes}) == 4

    def test_a_handler_that_does_not_return_keeps_no_other_lane_from_going_on(self, lanes):
        release = threading.Event()

        def hang(request: Request) -> None:
            release.wait(DEADLINE)

        lanes.start(lanes.make(hang), 99)
        quick = lanes.make(plain)
        for run in range(1, 20):
            lanes.start(quick, run)
            assert lanes.end(run) == [("done", run, [b"onetwo"])]
        release.set()
        assert lanes.end(99) == [("done", 99, [b""])]

    def test_the_loop_is_woken_once_for_what_has_come_together(self):
        """That is most of what a request to a quick handler would cost."""
        woken: list[Callable[[], object]] = []
        heard: list[int] = []
        threads = Threads(SimpleNamespace(call_soon_threadsafe=woken.append))  # type: ignore[arg-type]
        for number in range(3):
            threads.tell(functools.partial(heard.append, number))
        assert (len(woken), heard) == (1, [])
        woken.pop()()
        assert heard == [0, 1, 2]
        threads.tell(functools.partial(heard.append, 3))
        woken.pop()()
        assert heard == [0, 1, 2, 3]

    def test_news_that_raise_keep_none_back(self, lanes):
        def raises() -> None:
            raise ValueError("news")

        heard = threading.Event()
        lanes.driven.do(lambda: (lanes.threads.tell(raises), lanes.threads.tell(heard.set)))
        assert heard.wait(DEADLINE)

    def test_what_is_told_after_the_loop_has_ended_is_nobodys(self):
        loop = asyncio.new_event_loop()
        loop.close()
        Threads(loop).tell(lambda: None)


class TestBackPressure:
    """A generator is held back while the socket takes no more."""

    @pytest.fixture
    def congestion(self, lanes):
        """Congested until it is set."""
        free = lanes.driven.do(asyncio.Event)
        lanes.driver.uncongested = free.wait
        return free

    @pytest.mark.parametrize(("is_async", "ahead"), [(False, _PARTS_AHEAD + 1), (True, 1)])
    def test_a_generator_waits(self, lanes, congestion, is_async, ahead):
        made = []

        def handler(request: Request) -> Any:
            for number in range(1000):
                made.append(number)
                yield b"%d" % number

        async def async_handler(request: Request) -> Any:
            for part in handler(request):
                yield part

        lanes.start(lanes.make(async_handler if is_async else handler))
        until(lambda: len(made) == ahead, "as many as may be ahead")
        # A turn of the loop later, it is still where it was.
        lanes.driven.do(lambda: None)
        assert len(made) == ahead
        lanes.driven.do(congestion.set)
        told = lanes.end()
        assert [what[2] for what in told[:-1]] == [[b"%d" % number] for number in range(1000)]
        assert told[-1] == ("done", 1, [b""])

    def test_closing_frees_one_that_waits(self, lanes, congestion):
        closed = threading.Event()

        def handler(request: Request) -> Any:
            try:
                while True:
                    yield b"part"
            finally:
                closed.set()

        lane = lanes.make(handler)
        lanes.start(lane)
        until(lambda: len(lanes.told) == _PARTS_AHEAD, "as many as may be ahead")
        lanes.driven.do(lane.close)
        assert closed.wait(DEADLINE)
        lanes.driven.do(congestion.set)
