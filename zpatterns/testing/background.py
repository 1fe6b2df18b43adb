"""Services beside a test: a :class:`BackgroundReactor` and a :class:`BackgroundBroker`, each in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from zpatterns.errors import ClosedError
from zpatterns.mdp import Broker
from zpatterns.mdp.broker_state import BrokerStatistics
from zpatterns.reactor import Reactor, Runnable
from zpatterns.testing.ports import ReservedPort

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=Runnable)

PATIENCE = 20.0
"""Seconds after which a call into the thread is given up."""


class BackgroundReactor:
    """An event loop with a :class:`~zpatterns.Reactor`, in a thread of its own, for any number of services.

    Tests and scripts that block, and async ones on a loop of their own, can so have real brokers and workers in their
    own process. Every method may be called from any other thread and blocks until done, for :data:`PATIENCE` seconds at
    the most. Use it with ``with``, or call :meth:`close`.
    """

    def __init__(self, name: str = "zpatterns-reactor") -> None:
        self._services: list[Runnable] = []
        self._closed = False
        self._lock = threading.Lock()
        started: concurrent.futures.Future[Reactor] = concurrent.futures.Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), name=name, daemon=True)
        self._thread.start()
        self.reactor: Reactor = started.result(PATIENCE)
        """What the services share. It belongs to the thread's loop: use it through :meth:`call` and :meth:`run`."""

    def start(self, service: S) -> S:
        """Start `service` and return it once it is bound. It is stopped with the reactor, if not before.

        Errors: what its own ``start`` raises.
        """
        self.run(service.start(self.reactor))
        self._services.append(service)
        return service

    def stop(self, service: Runnable, drain: float = 5.0) -> None:
        """Let `service` finish what it has begun, for `drain` seconds at the most, and stop it."""
        self.run(service.stop(drain=drain))
        self._services = [each for each in self._services if each is not service]

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function` in the reactor's thread, and return or raise what it does: to look at a service's state."""

        async def run() -> R:
            return function(*args, **kwargs)

        return self.run(run())

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine on the reactor's loop, and return or raise what it does. Errors: ClosedError."""
        with self._lock:
            closed = self._closed or threading.current_thread() is self._thread
        if closed:
            work.close()
            if self._closed:
                raise ClosedError("this BackgroundReactor was closed; make a new one")
            raise RuntimeError("this would wait for itself: on the reactor's own loop, await it instead")
        future = asyncio.run_coroutine_threadsafe(work, self.reactor.loop)
        try:
            return future.result(PATIENCE)
        except concurrent.futures.TimeoutError:
            if future.done():
                raise  # it is the work's own
            future.cancel()
            raise TimeoutError(f"not done within {PATIENCE:g} s in thread {self._thread.name!r}") from None

    def close(self, drain: float = 0.0) -> None:
        """Stop what still serves, the last started first, and end the thread. Twice is once."""
        with self._lock:
            if self._closed:
                return
        try:
            for service in reversed(self._services):
                self.run(service.stop(drain=drain))
        finally:
            with self._lock:
                self._closed = True
            self.reactor.loop.call_soon_threadsafe(self._end.set)
            self._thread.join(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _serve(self, started: concurrent.futures.Future[Reactor]) -> None:
        self._end = asyncio.Event()
        started.set_result(Reactor.current())
        await self._end.wait()


class BackgroundBroker:
    """A Majordomo broker on a free port, in a thread of its own, which can be stopped and come back at the same place.

    `options` are those of :class:`~zpatterns.mdp.Broker`. It serves from the moment it is made. Every method may be
    called from any other thread, and blocks until done. Use it with ``with``, or call :meth:`close`.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._broker: Broker | None = None
        self._last: BrokerStatistics | None = None
        self._port = ReservedPort()
        try:
            self._background = BackgroundReactor("zpatterns-broker")
            try:
                self.start()
            except BaseException:
                self._background.close()
                raise
        except BaseException:
            self._port.close()
            raise

    @property
    def endpoint(self) -> str:
        """Where it listens, or will once it is started again."""
        return self._port.endpoint

    @property
    def running(self) -> bool:
        """Whether it serves."""
        return self._broker is not None

    def statistics(self) -> BrokerStatistics:
        """A snapshot of the broker's counters; while it is stopped, the last one before that."""
        if self._broker is not None:
            return self._background.call(self._broker.statistics)
        assert self._last is not None
        return self._last

    def stop(self, drain: float = 0.0) -> None:
        """Stop it. Connections are closed, workers are told, and what still waited after `drain` seconds is lost. Twice
        is once."""
        broker, self._broker = self._broker, None
        if broker is not None:
            self._last = self._background.call(broker.statistics)
            self._background.stop(broker, drain=drain)

    def start(self) -> None:
        """Start it again, with nothing but its options and its endpoint. Twice is once."""
        if self._broker is None:
            self._broker = self._background.start(Broker(self.endpoint, **self._options))

    def restart(self, drain: float = 0.0) -> None:
        """:meth:`stop` and :meth:`start`."""
        self.stop(drain)
        self.start()

    def close(self) -> None:
        """Stop it for good. Twice is once."""
        self._broker = None
        self._background.close()
        self._port.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
