"""The Pirate workers: see :class:`SimplePirateWorker` and :class:`ParanoidPirateWorker`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, ClassVar

from zpatterns.core import Cancel, Command, Event, Run
from zpatterns.handlers import Handler, Handles, Lane, Request
from zpatterns.pirate.wire import PARANOID, SIMPLE, Dialect
from zpatterns.pirate.worker_core import WorkerCore, WorkerStatistics
from zpatterns.reactor import Reactor, ReactorDriver
from zpatterns.service import Service, endpoint_list
from zpatterns.sockets import SocketSettings
from zpatterns.timing import Liveness


class _Worker(Handles, Service):
    """Lanes, each with a core and a connection of its own."""

    source = "pirate.worker"
    dialect: ClassVar[Dialect]

    def __init__(
        self,
        endpoints: tuple[str, ...],
        handler: Handler | None,
        concurrency: int,
        liveness: Liveness,
        handler_timeout: float | None,
        settings: SocketSettings | None,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        super().__init__(on_event=on_event)
        self._endpoints = endpoints
        self._handler = self._choose_handler(handler)
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency!r}")
        if handler_timeout is not None and not handler_timeout > 0:
            raise ValueError(f"handler_timeout must be a positive number of seconds, not {handler_timeout!r}")
        self._concurrency = concurrency
        self._liveness = liveness
        self._handler_timeout = handler_timeout
        # A queue that was restarted, or is in reach again, is found within a heartbeat.
        self._settings = settings or SocketSettings(
            connect_timeout=max(1.0, min(3.0, liveness.interval)),
            reconnect_first=min(0.1, liveness.interval / 4),
            reconnect_cap=min(1.0, liveness.interval),
        )
        self._cores: list[WorkerCore] = []
        self._lanes: list[Lane] = []

    @property
    def endpoint(self) -> str:
        """The queue that the first lane is registered with, or tries to."""
        return self._cores[0].endpoint if self._cores else self._endpoints[0]

    def statistics(self) -> WorkerStatistics:
        """Counters since the start, over all lanes."""
        lanes = [core.statistics() for core in self._cores]
        dropped: dict[str, int] = {}
        for lane in lanes:
            for reason, count in lane.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + count
        names = [field.name for field in fields(WorkerStatistics) if field.name != "dropped"]
        return WorkerStatistics(**{name: sum(getattr(lane, name) for lane in lanes) for name in names}, dropped=dropped)

    def _announcement(self) -> dict[str, Any]:
        return {"endpoint": self.endpoint, "concurrency": self._concurrency}

    def _attach(self, reactor: Reactor) -> None:
        for number in range(self._concurrency):
            core = WorkerCore(
                self._endpoints,
                dialect=self.dialect,
                liveness=self._liveness,
                rng=reactor.rng,
                handler_timeout=self._handler_timeout,
            )
            driver = ReactorDriver(
                reactor,
                core,
                settings=self._settings,
                telemetry=self._telemetry,
                on_command=lambda command, number=number: self._on_command(number, command),  # type: ignore[misc]
                stall_threshold=self._liveness.interval,
            )
            self._cores.append(core)
            self._drivers.append(driver)
            self._lanes.append(Lane(self._handler, core, driver, f"{self.source}:{number}"))
            driver.call(core.start, driver.now())

    def _on_command(self, number: int, command: Command) -> None:
        if isinstance(command, Run):
            self._lanes[number].start(command.run, Request(tuple(command.frames), "", command.client))
        elif isinstance(command, Cancel):
            self._lanes[number].cancel(command.run)

    def _close(self) -> None:
        for lane in self._lanes:
            lane.close()
        super()._close()


class SimplePirateWorker(_Worker):
    """Serves requests of a Simple Pirate queue (Guide chapter 4, "Basic Reliable Queuing").

    Subclass it with a ``handle(self, request)``, or pass `handler`; without either it echoes. A plain function runs in
    a thread, a coroutine on the loop, which it must not block; what a generator of either kind yields goes out with
    what it returns, as one reply. A handler returns bytes, str, None or a sequence of bytes and str. One that raises
    costs that one request: the caller gets the exception's name and text by our convention.

    `endpoint`: the queue's backend. There are no heartbeats: a worker does not notice that its queue was restarted.
    `concurrency`: requests served at a time; each lane is a worker of its own to the queue.
    `handler_timeout` (seconds): when the caller of a handler that still runs gets an error. The lane takes no
    more work until the handler has returned.
    Errors: ValueError for values that make no sense, EndpointError for an address that is none.
    """

    dialect = SIMPLE

    def __init__(
        self,
        endpoint: str,
        *,
        handler: Handler | None = None,
        concurrency: int = 1,
        handler_timeout: float | None = None,
        settings: SocketSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        endpoints = endpoint_list(endpoint, type(self).__name__)
        if len(endpoints) > 1:
            raise ValueError("a Simple Pirate worker has one endpoint: it cannot tell when to turn to another")
        super().__init__(endpoints, handler, concurrency, Liveness(1.0, 3), handler_timeout, settings, on_event)


class ParanoidPirateWorker(_Worker):
    """Serves requests of a Paranoid Pirate queue (6/PPP; Guide chapter 4, "Robust Reliable Queuing").

    Subclass it with a ``handle(self, request)``, or pass `handler`; without either it echoes. A plain function runs in
    a thread, so heartbeats go on while it computes; a coroutine runs on the loop and must not block it; what a
    generator of either kind yields goes out with what it returns, as one reply. A handler returns bytes, str, None or
    a sequence of bytes and str. One that raises costs that one request: the caller gets the exception's name and text
    by our convention.

    `endpoints`: the backend of the queue, or of several; when one is lost the next is tried.
    `concurrency`: requests served at a time; each lane is a worker of its own to the queue.
    `heartbeat_interval` (seconds) x `liveness`: the silence after which the queue is given up.
    `handler_timeout` (seconds): when the caller of a handler that still runs gets an error. The lane takes no
    more work until the handler has returned.
    Errors: ValueError for values that make no sense, EndpointError for an address that is none.
    """

    dialect = PARANOID

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        handler: Handler | None = None,
        concurrency: int = 1,
        heartbeat_interval: float = 1.0,
        liveness: int = 3,
        handler_timeout: float | None = None,
        settings: SocketSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        super().__init__(
            endpoint_list(endpoints, type(self).__name__),
            handler,
            concurrency,
            Liveness(heartbeat_interval, liveness),
            handler_timeout,
            settings,
            on_event,
        )
