"""The Majordomo worker: see :class:`Worker`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Literal, TypeAlias

from zpatterns.core import Cancel, Command, Event, Run
from zpatterns.handlers import Handler, Handles, Lane, Request, is_stream
from zpatterns.mdp import wire
from zpatterns.mdp.worker_core import WorkerCore, WorkerStatistics
from zpatterns.reactor import Reactor, ReactorDriver
from zpatterns.service import Service, endpoint_list
from zpatterns.sockets import SocketSettings
from zpatterns.timing import Liveness

Protocol: TypeAlias = Literal["auto", "0.1", "0.2"]


class Worker(Handles, Service):
    """Serves one service through a Majordomo broker (7/MDP or 18/MDP).

    Subclass it with a `service` and a ``handle(self, request)``, or pass `service` and `handler`; without either
    handler it echoes. A plain function runs in a thread, so heartbeats go on while it computes; a coroutine runs
    on the loop and must not block it; a generator of either kind streams: each item goes out as a PARTIAL,
    what it returns as the FINAL. A handler returns bytes, str, None or a sequence of bytes and str. One that
    raises costs that one request: the caller gets :class:`RemoteError` with the exception's name and text.

    `endpoints`: the brokers; when one is lost the next is tried.
    `protocol`: ``"0.1"``, ``"0.2"``, or ``"auto"``: 0.2 for generators, else 0.1. Over 0.1 a stream goes out
    as one reply of all its frames.
    `concurrency`: requests served at a time; each lane is a registered worker of its own, as 7/MDP wants.
    `heartbeat_interval` (seconds) x `liveness`: the silence after which the broker is given up.
    `handler_timeout` (seconds): when the caller of a handler that still runs gets an error. The lane takes no
    more work until the handler has returned.
    Errors: ValueError for values that make no sense, EndpointError for an address that is none.
    """

    source = "mdp.worker"
    service: ClassVar[str] = ""
    protocol: ClassVar[str] = "auto"

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        service: str | None = None,
        handler: Handler | None = None,
        protocol: Protocol | None = None,
        concurrency: int = 1,
        heartbeat_interval: float = 2.5,
        liveness: int = 3,
        handler_timeout: float | None = None,
        settings: SocketSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        super().__init__(on_event=on_event)
        self._endpoints = endpoint_list(endpoints, "Worker")
        self._name = service or self.service
        self._handler = self._choose_handler(handler)
        name = self._name.encode()
        if not self._name:
            raise ValueError("Worker needs a service name: set `service` on the class or pass service=")
        if name.startswith(wire.MMI_PREFIX) or not wire.is_service_name(name):
            raise ValueError(f"{self._name!r} cannot be a service name: 1 to 255 printable bytes, not in 'mmi.'")
        version = self.protocol if protocol in (None, "auto") else protocol
        if version == "auto":
            version = "0.2" if is_stream(self._handler) else "0.1"
        if version not in wire.WORKER_DIALECTS:
            raise ValueError(f"protocol must be 'auto', '0.1' or '0.2', not {version!r}")
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, not {concurrency!r}")
        if handler_timeout is not None and not handler_timeout > 0:
            raise ValueError(f"handler_timeout must be a positive number of seconds, not {handler_timeout!r}")
        self._version = version
        self._concurrency = concurrency
        self._liveness = Liveness(heartbeat_interval, liveness)
        self._handler_timeout = handler_timeout
        # A broker that was restarted, or is in reach again, is found within a heartbeat.
        self._settings = settings or SocketSettings(
            connect_timeout=max(1.0, min(3.0, heartbeat_interval)),
            reconnect_first=min(0.1, heartbeat_interval / 4),
            reconnect_cap=min(1.0, heartbeat_interval),
        )
        self._cores: list[WorkerCore] = []
        self._lanes: list[Lane] = []

    @property
    def endpoint(self) -> str:
        """The broker that the first lane is registered with, or tries to."""
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
        return {"endpoint": self.endpoint, "service": self._name, "concurrency": self._concurrency}

    def _attach(self, reactor: Reactor) -> None:
        for number in range(self._concurrency):
            core = WorkerCore(
                self._endpoints,
                self._name.encode(),
                version=self._version,
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
            self._lanes.append(Lane(self._handler, core, driver, f"{self.source}:{self._name}:{number}"))
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
