"""The reactor: one ZeroMQ context and one event loop for all the servers, workers and clients of a process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, ClassVar, Protocol

import zmq
from tornado.ioloop import IOLoop

from zpatterns.core import Command, Core, Rng
from zpatterns.driver import Driver, LoopStalled
from zpatterns.sockets import Link, SocketSettings, default_rng, new_context
from zpatterns.telemetry import Telemetry

_LATE = 0.05
"""A timer this many seconds late means that something kept us: messages that came meanwhile go first."""


class Runnable(Protocol):
    """What :meth:`Reactor.run` can run: every service of ours."""

    async def start(self, reactor: Reactor | None = None) -> Any: ...

    async def stop(self, drain: float = 0.0) -> None: ...


class ReactorDriver(Driver):
    """Drives one core from the event loop of a :class:`Reactor`."""

    def __init__(
        self,
        reactor: Reactor,
        core: Core,
        *,
        settings: SocketSettings | None = None,
        telemetry: Telemetry,
        on_command: Callable[[Command], None],
        stall_threshold: float = 1.0,
    ) -> None:
        super().__init__(
            core,
            context=reactor.context,
            settings=settings or SocketSettings(),
            rng=reactor.rng,
            telemetry=telemetry,
            on_command=on_command,
        )
        self._reactor = reactor
        self._loop = reactor.loop
        self._io_loop = reactor.io_loop
        self._handle: asyncio.TimerHandle | None = None
        self._armed = 0.0
        self._stall_threshold = stall_threshold
        self._descriptors: dict[Link, int] = {}
        self._uncongested: list[asyncio.Future[None]] = []
        self.after_turn: Callable[[], None] | None = None
        self.now = reactor.loop.time  # type: ignore[method-assign]
        reactor.attach(self)

    def call_threadsafe(self, method: Callable[..., Any], *args: Any) -> None:
        """:meth:`call` from any thread; the result is not returned, and nothing happens once closed."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whatever this was for
            self._loop.call_soon_threadsafe(self._called, method, args)

    async def uncongested(self) -> None:
        """Wait until no outbox holds anything, or the driver is closed."""
        while self._blocked and not self.closed:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._uncongested.append(waiter)
            await waiter

    def close(self, linger: float = 0.0) -> None:
        if not self.closed:
            super().close(linger)
            self._turn_ended()
            self._reactor.detach(self)

    def _called(self, method: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if not self.closed:
            self.call(method, *args)

    def _watch(self, link: Link) -> None:
        def on_ready(_fd: int, _events: int) -> None:
            if not link.scheduled:
                self._guarded_drain(link)

        descriptor = self._descriptors[link] = link.fileno()
        self._io_loop.add_handler(descriptor, on_ready, IOLoop.READ)

    def _unwatch(self, link: Link) -> None:
        self._io_loop.remove_handler(self._descriptors.pop(link))

    def _schedule(self, link: Link) -> None:
        if not link.scheduled:
            link.scheduled = True
            self._loop.call_soon(self._guarded_drain, link)

    def _set_timer(self, when: float | None) -> None:
        handle = self._handle
        if when is None:
            if handle is not None and self.closed:
                handle.cancel()
                self._handle = None
        elif handle is None or when < self._armed:
            # A timer that moves later is left to come early and be armed again: that saves two calls a message.
            if handle is not None:
                handle.cancel()
            self._armed = when
            self._handle = self._loop.call_at(when, self._on_timer)

    def _turn_ended(self) -> None:
        if self._uncongested and (self.closed or not self._blocked):
            waiters, self._uncongested = self._uncongested, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        if self.after_turn is not None:
            self.after_turn()

    def _on_timer(self) -> None:
        self._handle = None
        late = self.now() - self._armed
        if late > _LATE:
            if late > self._stall_threshold:
                self.telemetry.emit(LoopStalled(late))
            for link in list(self.links.values()):
                if not link.scheduled:
                    self._guarded_drain(link)
        self._guarded_timer()


_replaced: list[dict[signal.Signals, Any]] = []
"""The signal handlers in whose place a run of this process has put its own, the latest run's last."""


def _forget_signals() -> None:
    """What a forked child, such as a process pool's, is told by a signal is not for its parent's loop, with which it
    shares the descriptor that signals wake."""
    if _replaced:
        signal.set_wakeup_fd(-1)
    while _replaced:
        for number, handler in _replaced.pop().items():
            signal.signal(number, handler)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forget_signals)


class _Run:
    """One call of :meth:`Reactor.serve`, and how it is ended: a word for one run never reaches another."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.stop = asyncio.Event()
        self.abort = asyncio.Event()

    def on_signal(self) -> None:
        """Stop; the second time at once. On the loop's thread."""
        if self.stop.is_set():
            self.abort.set()
        self.stop.set()


class Reactor:
    """One ``zmq.Context`` and one event loop, shared by any number of services.

    ``Reactor().run(broker, worker)`` owns a loop, SIGINT and SIGTERM until a signal comes. Services that are
    started with ``await service.start()`` inside a loop that runs already share :meth:`current`.
    """

    # The reactor lives as long as a driver or a caller holds it; it holds its loop, so never the reverse.
    _current: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[Reactor]]] = (
        weakref.WeakKeyDictionary()
    )

    def __init__(self, *, rng: Rng = default_rng) -> None:
        self.rng = rng
        self._drivers: set[ReactorDriver] = set()
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._io_loop: IOLoop | None = None
        self._ended: asyncio.Event | None = None
        self._run: _Run | None = None  # the one that stop() is for
        self._stop_early = False  # for the next, when there is none
        self._lock = threading.RLock()  # a signal's handler may call stop() in the midst of anything

    @classmethod
    def current(cls) -> Reactor:
        """The reactor of the running event loop, made when there is none yet."""
        loop = asyncio.get_running_loop()
        reference = cls._current.get(loop)
        reactor = reference() if reference is not None else None
        if reactor is None:
            reactor = cls()
            reactor._bind_loop(loop)
        return reactor

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The asyncio loop; also the source of monotonic time."""
        if self._loop is None:
            self._bind_loop(asyncio.get_running_loop())
        assert self._loop is not None
        return self._loop

    @property
    def io_loop(self) -> IOLoop:
        """tornado's view of the same loop, which can watch descriptors on every platform."""
        assert self._io_loop is not None
        return self._io_loop

    @property
    def context(self) -> zmq.Context[zmq.Socket[bytes]]:
        """The one context; made when first asked for, ended with the last driver."""
        if self._context is None or self._context.closed:
            self._context = new_context()
        return self._context

    def attach(self, driver: ReactorDriver) -> None:
        """Called by a driver that begins to use the context."""
        self._drivers.add(driver)

    def detach(self, driver: ReactorDriver) -> None:
        """Called by a driver whose sockets are closed; the last one ends the context."""
        self._drivers.discard(driver)
        if not self._drivers and self._context is not None:
            context, self._context = self._context, None
            ended = self._ended = asyncio.Event()

            def term() -> None:
                context.destroy(linger=0)  # its sockets are closed, but for one whose making was interrupted
                with contextlib.suppress(RuntimeError):  # nobody is left to tell
                    self.loop.call_soon_threadsafe(ended.set)

            # Ending a context waits for the lingering of its sockets: not on the loop's time, nor on that of an
            # interpreter that ends; who wants the goodbyes to have left awaits settled().
            threading.Thread(target=term, name="zpatterns-context-term", daemon=True).start()

    async def settled(self) -> None:
        """Wait until a context that is being ended has ended; at once while it is in use."""
        if self._ended is not None and not self._drivers:
            await self._ended.wait()

    def run(self, *services: Runnable, drain: float = 5.0) -> None:
        """Start the services in order and serve until SIGINT, SIGTERM or :meth:`stop`.

        Then each finishes what it holds, the last started first, within `drain` seconds in all. A second
        signal stops at once. Errors: whatever a service's start raises, after the others were stopped; RuntimeError
        where an event loop is running already.
        """
        if asyncio._get_running_loop() is not None:
            raise RuntimeError(
                "an event loop is running here already, as in a notebook: use 'async with service:', or await its "
                "start() and later its stop(), in the place of run()"
            )
        asyncio.run(self.serve(*services, drain=drain))

    async def serve(self, *services: Runnable, drain: float = 5.0) -> None:
        """:meth:`run` inside a loop that is running already."""
        self._bind_loop(asyncio.get_running_loop())
        run = _Run(self.loop)
        with self._lock:
            self._run = run
            if self._stop_early:
                self._stop_early = False
                run.stop.set()
        started: list[Runnable] = []
        try:
            with self._signals(run):
                try:
                    for service in services:
                        await service.start(self)
                        started.append(service)
                    await run.stop.wait()
                except BaseException:
                    await self._stop_all(started, 0.0, run.abort)
                    raise
                await self._stop_all(started, drain, run.abort)
        finally:
            with self._lock:
                if self._run is run:
                    self._run = None

    def stop(self) -> None:
        """End :meth:`run` as a signal would, or the next one at once if none is running. Safe from any thread and
        from signal handlers. A second call while it drains stops it at once."""
        with self._lock:
            run = self._run
            if run is None:
                self._stop_early = True
                return
        with contextlib.suppress(RuntimeError):  # that run has ended meanwhile, and its loop with it
            run.loop.call_soon_threadsafe(run.on_signal)

    async def _stop_all(self, services: Sequence[Runnable], drain: float, abort: asyncio.Event) -> None:
        deadline = self.loop.time() + drain
        for service in reversed(services):
            left = max(0.0, deadline - self.loop.time())
            if abort.is_set() or not left:
                await service.stop(drain=0.0)
                continue
            if not await _unless(abort, service.stop(drain=left)):
                await service.stop(drain=0.0)

    def _bind_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            if self._loop is not None and self._loop is not loop and self._drivers:
                raise RuntimeError("this Reactor already runs on another event loop; give each loop its own")
            self._loop = loop
            self._io_loop = IOLoop.current()
            self._current[loop] = weakref.ref(self)

    @contextlib.contextmanager
    def _signals(self, run: _Run) -> Iterator[None]:
        """Take SIGINT and SIGTERM while inside; only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = run.loop
        taken = (signal.SIGINT, signal.SIGTERM)
        before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in taken}
        for number in taken:
            try:
                loop.add_signal_handler(number, run.on_signal)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(run.on_signal))
        _replaced.append(before)
        try:
            yield
        finally:
            for number in taken:
                with contextlib.suppress(NotImplementedError):
                    loop.remove_signal_handler(number)
                signal.signal(number, before[number])
            with contextlib.suppress(ValueError):  # a forked child that comes here has forgotten it
                _replaced.remove(before)


async def _unless(event: asyncio.Event, work: Awaitable[None]) -> bool:
    """Await `work`, but cancel it when `event` comes first. Returns whether it was finished."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        task.cancel()
        await asyncio.wait({task})
        return False
    finally:
        watch.cancel()
