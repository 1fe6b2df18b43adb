"""What every client of requests and replies shares, in asyncio and in threads; a pattern adds its frames.

A pattern's pair of clients derives from :class:`AsyncCalls` and :class:`BlockingCalls`, with one core behind both. The
core is told of a call by whatever the client has it started with, and says what becomes of it by
:class:`~zpatterns.core.Deliver` and :class:`~zpatterns.core.Fail`.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeAlias, TypeVar

from zpatterns.blocking import BlockingDriver, Waiter
from zpatterns.core import Command, Core, Deliver, Event, Fail, Frames
from zpatterns.driver import Driver, with_oversize
from zpatterns.errors import ClosedError, ForkedError
from zpatterns.sockets import ProcessGuard, SocketSettings
from zpatterns.telemetry import Telemetry
from zpatterns.wire import to_frames

if TYPE_CHECKING:
    # Who only blocks need not load it: that takes half of a short program's start.
    import asyncio

    from zpatterns.reactor import ReactorDriver

S = TypeVar("S")

Start: TypeAlias = Callable[[int, float], None]
"""Tells the core of a call: its number, and the time in monotonic seconds. What it raises is the caller's."""

PATIENCE = 5.0
"""Seconds beyond its time-out that a thread waits for the core, which ends every call at its deadline, to be safe."""


class CallCore(Core, Protocol):
    """The core of a client."""

    def cancel_call(self, call_id: int, now: float) -> None:
        """The caller wants no answer any more. Nothing is delivered afterwards."""

    def close(self, now: float) -> None:
        """End every call with ClosedError, and close every connection."""


class Calls:
    """What both kinds of client share; `source` is the name in log lines, such as ``mdp.client``."""

    source: ClassVar[str]
    _driver: Driver | None

    def __init__(
        self, core: CallCore, *, settings: SocketSettings | None, on_event: Callable[[Event], None] | None
    ) -> None:
        self._core: Any = core
        self._settings = settings
        self._body_frames_max = (settings or SocketSettings()).body_frames_max
        self._telemetry = Telemetry(self.source, on_event)
        self._numbers = itertools.count(1)
        self._closed = False
        self._process = ProcessGuard(type(self).__name__)

    def _check(self) -> None:
        self._process.check()
        if self._closed:
            raise ClosedError(f"this {type(self).__name__} was closed; make a new one")

    def _body(self, frames: Sequence[bytes | str]) -> Frames:
        """Errors: TypeError, and ValueError, for frames that cannot be a body."""
        body, most = to_frames(frames), self._body_frames_max
        if len(body) > most:
            raise ValueError(f"a request of {len(body)} frames; {most} is the most: join some, or raise frames_max")
        return body

    def _counted(self, statistics: S) -> S:
        """The core's `statistics` as they are shown."""
        return statistics if self._driver is None else with_oversize(statistics, (self._driver,))


def check_timeout(timeout: float | None) -> None:
    """Errors: ValueError for a call's time-out that is none."""
    if timeout is not None and not 0 < timeout < float("inf"):
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout!r}")


def _is_end(frames: Frames) -> bool:
    """A last part that is one empty frame says no more than that the stream is over."""
    return frames == [b""]


class AsyncCalls(Calls):
    """A client for asyncio. It opens its sockets at the first call and belongs to that call's event loop."""

    def __init__(
        self, core: CallCore, *, settings: SocketSettings | None, on_event: Callable[[Event], None] | None
    ) -> None:
        super().__init__(core, settings=settings, on_event=on_event)
        self._calls: dict[int, asyncio.Future[Frames] | _Parts] = {}
        self._driver: ReactorDriver | None = None

    async def close(self) -> None:
        """End every open call with ClosedError and close the connections. Twice is once.

        Errors: RuntimeError in another event loop than that of its calls.
        """
        if self._closed:
            return
        self._check()
        driver = self._driver
        if driver is None:
            self._closed = True
        else:
            self._check_loop()
            self._closed = True
            driver.call(self._core.close, driver.now())
            driver.close()
            await self._reactor.settled()

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # For a pattern.

    def _open(self) -> ReactorDriver:
        """The driver, made when there is none yet. Errors: ClosedError, ForkedError, RuntimeError in another loop."""
        self._check()
        if self._driver is None:
            import asyncio

            from zpatterns.reactor import Reactor, ReactorDriver

            self._running_loop = asyncio.get_running_loop
            self._loop = self._running_loop()
            self._reactor = Reactor.current()
            self._driver = ReactorDriver(
                self._reactor,
                self._core,
                settings=self._settings,
                telemetry=self._telemetry,
                on_command=self._on_command,
            )
        else:
            self._check_loop()
        return self._driver

    def _check_loop(self) -> None:
        if self._loop is not self._running_loop():
            raise RuntimeError(f"this {type(self).__name__} belongs to another event loop; make one for each loop")

    async def _answer(self, start: Start) -> Frames:
        """The answer of one call. To stop waiting cancels it."""
        driver = self._open()
        number = next(self._numbers)
        future: asyncio.Future[Frames] = self._loop.create_future()
        self._calls[number] = future
        try:
            driver.call(start, number, driver.now())
            return await future
        except BaseException:
            self._cancel(number)
            raise
        finally:
            del self._calls[number]

    async def _parts(self, start: Start) -> AsyncGenerator[Frames, None]:
        """The parts of one call's answer as they come, but for a last one that is empty. To leave it cancels the call.

        Each is reported to the core's ``part_taken(call_id, now)``.
        """
        driver = self._open()
        number = next(self._numbers)
        parts = self._calls[number] = _Parts(self._loop)
        try:
            driver.call(start, number, driver.now())
            while True:
                part, last = await parts.get()
                if last:
                    if not _is_end(part):
                        yield part
                    return
                driver.call(self._core.part_taken, number, driver.now())
                yield part
        finally:
            self._cancel(number)
            del self._calls[number]

    # The rest.

    def _cancel(self, number: int) -> None:
        driver = self._driver
        if driver is not None and not driver.closed:
            driver.call(self._core.cancel_call, number, driver.now())

    def _on_command(self, command: Command) -> None:
        if not isinstance(command, Deliver | Fail):
            raise AssertionError(f"a client core asked for {command!r}")
        waits = self._calls.get(command.call)
        if isinstance(waits, _Parts):
            waits.put(command)
        elif waits is not None and not waits.done():
            if isinstance(command, Deliver):
                waits.set_result(command.frames)
            else:
                waits.set_exception(command.error)


class _Parts:
    """The parts of one stream between the core and its consumer; the core bounds them."""

    __slots__ = ("_items", "_loop", "_wake")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[Deliver | Fail] = deque()
        self._wake: asyncio.Future[None] | None = None

    def put(self, item: Deliver | Fail) -> None:
        self._items.append(item)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def get(self) -> tuple[Frames, bool]:
        while not self._items:
            self._wake = self._loop.create_future()
            await self._wake
        item = self._items.popleft()
        if isinstance(item, Fail):
            raise item.error
        return item.frames, item.last


class _BlockingCall:
    """What came for one call, and until when its thread waits, in monotonic seconds."""

    __slots__ = ("items", "number", "over", "patience")

    def __init__(self, number: int, patience: float) -> None:
        self.number = number
        self.patience = patience
        self.items: deque[Deliver | Fail] = deque()
        self.over = False


class BlockingCalls(Calls):
    """A client for threads, which may share it. It starts no thread: whoever waits does the work for all."""

    def __init__(
        self, core: CallCore, *, settings: SocketSettings | None, on_event: Callable[[Event], None] | None
    ) -> None:
        super().__init__(core, settings=settings, on_event=on_event)
        self._calls: dict[int, _BlockingCall] = {}
        self._driver: BlockingDriver | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """End every open call with ClosedError and close the connections. Safe from any thread; twice is once."""
        with self._lock:
            if self._closed:
                return
            self._check()
            self._closed = True
            driver = self._driver
        if driver is not None:
            driver.submit(lambda: driver.call(self._core.close, driver.now()))
            driver.close()

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # For a pattern.

    def _open(self) -> BlockingDriver:
        """The driver, made when there is none yet. Errors: ClosedError, ForkedError."""
        with self._lock:
            self._check()
            if self._driver is None:
                self._driver = BlockingDriver(
                    self._core, settings=self._settings, telemetry=self._telemetry, on_command=self._on_command
                )
            return self._driver

    def _answer(self, start: Start, timeout: float) -> Frames:
        """The answer of one call, which the core ends within `timeout` seconds. An interrupt cancels it."""
        call = self._start(start, timeout)
        try:
            return self._next(call)[0]
        finally:
            self._finish(call)

    def _parts(self, start: Start, timeout: float) -> Iterator[Frames]:
        """Like :meth:`AsyncCalls._parts`, but that the call begins at once."""
        return self._taken(self._start(start, timeout))

    # The rest.

    def _start(self, start: Start, timeout: float) -> _BlockingCall:
        driver = self._open()
        driver.check_can_wait()
        call = _BlockingCall(next(self._numbers), driver.now() + timeout + PATIENCE)
        self._calls[call.number] = call

        def begin() -> None:
            try:
                driver.call(start, call.number, driver.now())
            except Exception as error:
                call.over = True
                call.items.append(Fail(call.number, error))

        try:
            driver.submit(begin)
        except BaseException:
            self._finish(call)  # an interrupt
            raise
        return call

    def _taken(self, call: _BlockingCall) -> Iterator[Frames]:
        driver = self._open()
        try:
            while True:
                self._process.check()
                part, last = self._next(call)
                if last:
                    if not _is_end(part):
                        yield part
                    return
                driver.submit(lambda: driver.call(self._core.part_taken, call.number, driver.now()))
                yield part
        finally:
            self._finish(call)

    def _next(self, call: _BlockingCall) -> tuple[Frames, bool]:
        driver = self._driver
        assert driver is not None
        items = call.items
        if not items:
            driver.wait(Waiter(lambda: bool(items)), call.patience)
        if not items:
            raise ClosedError("the client was closed while the call was open")
        item = items.popleft()
        if isinstance(item, Fail):
            raise item.error
        return item.frames, item.last

    def _finish(self, call: _BlockingCall) -> None:
        """The caller is gone: by an answer, an error, an interrupt, or because it left a stream early."""
        del self._calls[call.number]
        driver = self._driver
        if not call.over and driver is not None and not self._closed:
            with contextlib.suppress(ForkedError):  # the call is the parent's: not the child's to cancel
                self._process.check()
                driver.submit(lambda: driver.call(self._core.cancel_call, call.number, driver.now()))

    def _on_command(self, command: Command) -> None:
        if not isinstance(command, Deliver | Fail):
            raise AssertionError(f"a client core asked for {command!r}")
        call = self._calls.get(command.call)
        if call is not None:
            call.items.append(command)
            call.over = isinstance(command, Fail) or command.last
