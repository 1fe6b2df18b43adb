"""What the workers of every pattern share: lanes, each with a core, a connection and its own turn at the handler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

from zpatterns.core import Cancel, Command, Event, Rng, Run
from zpatterns.handlers import Handler, Handles, Lane, Request, Threads
from zpatterns.reactor import Reactor, ReactorDriver
from zpatterns.server_core import check_concurrency
from zpatterns.service import Service
from zpatterns.sockets import SocketSettings
from zpatterns.timing import Liveness
from zpatterns.worker_core import LaneCore
from zpatterns.worker_state import WorkerStatistics

S = TypeVar("S", bound=WorkerStatistics)


class LaneWorker(Handles, Service):
    """`concurrency` lanes, each a worker of its own to the broker or queue. `name`: of the service, if it has one."""

    def __init__(
        self,
        endpoints: tuple[str, ...],
        *,
        name: str = "",
        handler: Handler | None,
        concurrency: int,
        liveness: Liveness,
        handler_timeout: float | None,
        settings: SocketSettings | None,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        super().__init__(on_event=on_event)
        self._endpoints = endpoints
        self._name = name
        self._handler = self._choose_handler(handler)
        check_concurrency(concurrency)
        if handler_timeout is not None and not handler_timeout > 0:
            raise ValueError(f"handler_timeout must be a positive number of seconds, not {handler_timeout!r}")
        self._concurrency = concurrency
        self._liveness = liveness
        self._handler_timeout = handler_timeout
        # What was restarted, or is in reach again, is found within a heartbeat.
        self._settings = settings or SocketSettings(
            connect_timeout=max(1.0, min(3.0, liveness.interval)),
            reconnect_first=min(0.1, liveness.interval / 4),
            reconnect_cap=min(1.0, liveness.interval),
        )
        self._cores: list[LaneCore] = []
        self._lanes: list[Lane] = []

    def _lane_core(self, rng: Rng) -> LaneCore:
        """The core of one lane more."""
        raise NotImplementedError

    @property
    def endpoint(self) -> str:
        """What the first lane is registered with, or tries to be."""
        return self._cores[0].endpoint if self._cores else self._endpoints[0]

    def statistics(self) -> WorkerStatistics:
        """Counters since the start, over all lanes."""
        return self._sum(WorkerStatistics)

    def _sum(self, kind: type[S]) -> S:
        """The lanes' statistics, which are of class `kind`, in one."""
        lanes = [core.statistics() for core in self._cores]
        dropped: dict[str, int] = {}
        for lane in lanes:
            for reason, count in lane.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + count
        names = [field.name for field in fields(kind) if field.name != "dropped"]
        whole = kind(**{name: sum(getattr(lane, name) for lane in lanes) for name in names}, dropped=dropped)
        return self._counted(whole)

    def _announcement(self) -> dict[str, Any]:
        service = {"service": self._name} if self._name else {}
        return {"endpoint": self.endpoint, **service, "concurrency": self._concurrency}

    def _attach(self, reactor: Reactor) -> None:
        label = f"{self.source}:{self._name}" if self._name else self.source
        threads = Threads(reactor.loop)
        for number in range(self._concurrency):
            core = self._lane_core(reactor.rng)
            driver = ReactorDriver(
                reactor,
                core,
                settings=self._settings,
                telemetry=self._telemetry,
                on_command=partial(self._on_command, number),
                stall_threshold=self._liveness.interval,
            )
            self._cores.append(core)
            self._drivers.append(driver)
            self._lanes.append(Lane(self._handler, core, driver, f"{label}:{number}", threads))
            driver.call(core.start, driver.now())

    def _on_command(self, number: int, command: Command) -> None:
        if isinstance(command, Run):
            request = Request(tuple(command.frames), self._name, command.client)
            self._lanes[number].start(command.run, request)
        elif isinstance(command, Cancel):
            self._lanes[number].cancel(command.run)

    def _close(self) -> None:
        for lane in self._lanes:
            lane.close()
        super()._close()
