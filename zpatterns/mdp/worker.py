"""The Majordomo worker: see :class:`Worker`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, TypeAlias

from zpatterns.core import Event, Rng
from zpatterns.handlers import Handler, is_stream
from zpatterns.mdp import wire
from zpatterns.mdp.worker_core import WorkerCore, WorkerStatistics
from zpatterns.sockets import SocketSettings, endpoint_list
from zpatterns.timing import Liveness
from zpatterns.worker import LaneWorker

Protocol: TypeAlias = Literal["auto", "0.1", "0.2"]


class Worker(LaneWorker):
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
        super().__init__(
            endpoint_list(endpoints, "Worker"),
            name=service or self.service,
            handler=handler,
            concurrency=concurrency,
            liveness=Liveness(heartbeat_interval, liveness),
            handler_timeout=handler_timeout,
            settings=settings,
            on_event=on_event,
        )
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
        self._version = version

    def statistics(self) -> WorkerStatistics:
        """Counters since the start, over all lanes."""
        return self._sum(WorkerStatistics)

    def _lane_core(self, rng: Rng) -> WorkerCore:
        return WorkerCore(
            self._endpoints,
            self._name.encode(),
            version=self._version,
            liveness=self._liveness,
            rng=rng,
            handler_timeout=self._handler_timeout,
        )
