"""Running users' handlers: plain functions in a thread of the lane, coroutines on the loop, generators as streams."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from types import AsyncGeneratorType
from typing import Any, Protocol, TypeAlias

from zpatterns.core import Frames
from zpatterns.errors import RemoteError
from zpatterns.reactor import ReactorDriver
from zpatterns.telemetry import text_of
from zpatterns.wire import CODE_TOO_LARGE, to_frames

_PARTS_AHEAD = 64
"""Parts that a generator in a thread may be ahead of the socket."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a handler is given: `frames` of the body, the `service` that was asked (empty where a server has only one),
    and the `client`'s address, which is good for nothing but telling clients apart."""

    frames: tuple[bytes, ...]
    service: str
    client: bytes

    @property
    def body(self) -> bytes:
        """The only frame, or the frames joined."""
        return self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)


Handler: TypeAlias = Callable[[Request], Any]


async def _echo(request: Request) -> Sequence[bytes]:
    return request.frames


class Handles:
    """For a service that runs a handler: one that is passed, or :meth:`handle` of a subclass, or an echo."""

    def handle(self, request: Request) -> object:
        """Answer one request. Override it; this one echoes."""
        return request.frames

    def _choose_handler(self, handler: Handler | None) -> Handler:
        """Errors: TypeError for what cannot be called."""
        # The echo needs no thread.
        chosen = handler or (_echo if type(self).handle is Handles.handle else self.handle)
        if not callable(chosen):
            raise TypeError(f"handler must be a function of one request, not {chosen!r}")
        return chosen


class HandlerCore(Protocol):
    """How a core is told what its handler does; see :class:`zpatterns.worker_core.LaneCore`."""

    def handler_partial(self, run: int, frames: Frames, now: float) -> None: ...

    def handler_done(self, run: int, frames: Frames, now: float) -> None: ...

    def handler_failed(self, run: int, code: str, message: str, now: float) -> None: ...


def is_stream(handler: Handler) -> bool:
    """Whether the handler is written as a generator, plain or async."""
    function = _function(handler)
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _is_async(handler: Handler) -> bool:
    function = _function(handler)
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _function(handler: Handler) -> Callable[..., Any]:
    if inspect.isroutine(handler) or not hasattr(handler, "func"):
        return handler if inspect.isroutine(handler) else type(handler).__call__
    return handler  # functools.partial, which inspect looks through


class Threads:
    """Where the plain handlers of a service's lanes run: whichever thread is free takes the next request.

    One thread answers many requests to a quick handler before another begins, and the loop is woken once for all those
    answers: to switch threads costs more than all else that is done for a request.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._told: deque[Callable[[], None]] = deque()
        self._is_woken = False

    def add(self, name: str) -> threading.Thread:
        """One more. Each lane that has work brings one, so that none waits for the handler of another."""
        # A daemon: a handler that never returns must not keep the process from ending.
        thread = threading.Thread(target=self._serve, name=name, daemon=True)
        thread.start()
        return thread

    def remove(self) -> None:
        """End one of them, as soon as one is free."""
        self._work.put(None)

    def run(self, work: Callable[[], None]) -> None:
        """Have `work` done by a thread."""
        self._work.put(work)

    def tell(self, news: Callable[[], None]) -> None:
        """Have `news` called on the loop, after what the same thread has told before. From any thread."""
        self._told.append(news)
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whatever this was for
                self._loop.call_soon_threadsafe(self._hear)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            work()

    def _hear(self) -> None:
        self._is_woken = False  # first: what is told too late for us to see it must wake the loop again
        try:
            while self._told:
                self._told.popleft()()
        finally:
            if self._told:  # one has raised; the others cannot wait for whoever tells something next
                self._loop.call_soon(self._hear)


class Lane:
    """Runs the handler of one core, one request at a time, and tells the core what comes of it."""

    def __init__(self, handler: Handler, core: HandlerCore, driver: ReactorDriver, name: str, threads: Threads) -> None:
        self._handler = handler
        self._core = core
        self._driver = driver
        self._name = name
        self._is_async = _is_async(handler)
        self._task: asyncio.Task[None] | None = None
        self._threads = threads
        self._thread: threading.Thread | None = None  # the one that this lane has brought
        self._cancelled: int | None = None  # -1: every run
        self._room = threading.Semaphore(_PARTS_AHEAD)
        self._making_room: set[asyncio.Task[None]] = set()

    def start(self, run: int, request: Request) -> None:
        """Begin run `run`. On the loop's thread."""
        if self._is_async:
            self._task = asyncio.get_running_loop().create_task(self._run_async(run, request), name=self._name)
            return
        if self._thread is None:
            self._thread = self._threads.add(self._name)
        self._threads.run(partial(self._run_in_thread, run, request))

    def cancel(self, run: int) -> None:
        """Stop run `run` where that can be done: at a coroutine's next await, a generator's next item."""
        self._cancelled = run
        if self._task is not None:
            # Not before its first step: a coroutine that never began could not tell of its end.
            self._task.get_loop().call_soon(self._task.cancel)

    def close(self) -> None:
        """Leave with the thread that it has brought, once one is done with what it does."""
        self._cancelled = -1
        if self._thread is not None:
            self._threads.remove()
            self._room.release()
        if self._task is not None:
            self._task.cancel()

    def _body(self, value: object) -> Frames:
        """Errors: TypeError for what is no body, RemoteError for one that nobody would take. In any thread."""
        frames, most = to_frames(value), self._driver.body_frames_max
        if len(frames) > most:
            raise RemoteError(
                CODE_TOO_LARGE.decode(), f"a reply of {len(frames)} frames; {most} is the most: join some, or stream it"
            )
        return frames

    # On the loop.

    async def _run_async(self, run: int, request: Request) -> None:
        core, driver = self._core, self._driver
        try:
            result = self._handler(request)
            if isinstance(result, AsyncGeneratorType):
                try:
                    async for part in result:
                        driver.call(core.handler_partial, run, self._body(part), driver.now())
                        await driver.uncongested()
                finally:
                    await result.aclose()
                frames = [b""]
            else:
                frames = self._body(await result)
        except asyncio.CancelledError:
            self._tell_failed(run, "cancelled", "the request was cancelled")
        except (KeyboardInterrupt, GeneratorExit):
            raise  # on the loop's thread, the one is for the program, and the other is the end of the loop
        except BaseException as error:  # SystemExit too: it is the handler's, not the worker's, to leave
            self._tell_error(run, error)
        else:
            self._tell_done(run, frames)

    def _tell_done(self, run: int, frames: Frames) -> None:
        driver = self._driver
        if not driver.closed:
            driver.call(self._core.handler_done, run, frames, driver.now())

    def _tell_partial(self, run: int, frames: Frames) -> None:
        driver = self._driver
        if not driver.closed:
            driver.call(self._core.handler_partial, run, frames, driver.now())
            self._making_room.add(task := asyncio.get_running_loop().create_task(self._make_room()))
            task.add_done_callback(self._making_room.discard)

    async def _make_room(self) -> None:
        await self._driver.uncongested()
        self._room.release()

    def _tell_error(self, run: int, error: BaseException) -> None:
        if isinstance(error, RemoteError):
            self._tell_failed(run, text_of(error.code), text_of(error.message))
            return
        if not self._driver.closed:
            self._driver.telemetry.error("handler_raised", error, lane=self._name)
        self._tell_failed(run, type(error).__name__, text_of(error))

    def _tell_failed(self, run: int, code: str, message: str) -> None:
        if not self._driver.closed:
            self._driver.call(self._core.handler_failed, run, code, message, self._driver.now())

    # In a thread.

    def _run_in_thread(self, run: int, request: Request) -> None:
        try:
            result = self._handler(request)
            if isinstance(result, Generator):
                final = self._run_generator(run, result)
                frames = self._body(final)
            else:
                frames = self._body(result)
        except BaseException as error:  # as above
            self._threads.tell(partial(self._tell_error, run, error))
        else:
            self._threads.tell(partial(self._tell_done, run, frames))

    def _run_generator(self, run: int, generator: Generator[object, None, object]) -> object:
        try:
            while self._cancelled not in (run, -1):
                try:
                    part = self._body(next(generator))
                except StopIteration as stop:
                    return stop.value
                self._room.acquire()
                self._threads.tell(partial(self._tell_partial, run, part))
            return None
        finally:
            generator.close()
