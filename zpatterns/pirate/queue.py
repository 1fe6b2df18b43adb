"""The Pirate queues: see :class:`SimplePirateQueue` and :class:`ParanoidPirateQueue`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zpatterns.core import Event, SocketKind
from zpatterns.pirate.paired_queue_core import PairedParanoidQueueCore, PairedSimpleQueueCore
from zpatterns.pirate.paranoid_queue_core import ParanoidQueueCore
from zpatterns.pirate.queue_core import BACK, FRONT, QueueCore
from zpatterns.pirate.queue_state import QueueOptions, QueueStatistics
from zpatterns.pirate.simple_queue_core import SimpleQueueCore
from zpatterns.reactor import Reactor
from zpatterns.service import Service
from zpatterns.sockets import SocketSettings, check_endpoint
from zpatterns.timing import Liveness

_DEFAULTS = QueueOptions()


class _Queue(Service):
    """Two ROUTERs around a core."""

    def __init__(
        self,
        core: QueueCore,
        frontend: str,
        backend: str,
        settings: SocketSettings | None,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        super().__init__(on_event=on_event)
        self._core = core
        self._settings = settings
        self._frontend = check_endpoint(frontend, bind=True)
        self._backend = check_endpoint(backend, bind=True)

    @property
    def frontend(self) -> str:
        """Where clients connect to; the real endpoint, once bound."""
        return self._frontend

    @property
    def backend(self) -> str:
        """Where workers connect to; the real endpoint, once bound."""
        return self._backend

    @property
    def endpoint(self) -> str:
        """The :attr:`frontend`."""
        return self._frontend

    def statistics(self) -> QueueStatistics:
        """Counters since the start and what is held now."""
        return self._counted(self._core.statistics())

    def _announcement(self) -> dict[str, Any]:
        return {"endpoint": self.frontend, "backend": self.backend}

    def _attach(self, reactor: Reactor) -> None:
        driver = self._drive(
            reactor,
            self._core,
            settings=self._settings,
            on_command=_no_command,
            stall_threshold=self._core.options.liveness.interval,
        )
        self._frontend = driver.bind(FRONT, SocketKind.ROUTER, self._frontend)
        self._backend = driver.bind(BACK, SocketKind.ROUTER, self._backend)


class SimplePirateQueue(_Queue):
    """Gives requests of REQ clients to workers that said they are ready, the least recently used first (Guide
    chapter 4, "Basic Reliable Queuing").

    `frontend`, `backend`: the endpoints to bind for clients and for workers; ``tcp://127.0.0.1:*`` takes a free port.
    Clients are read only while a worker is ready; the others' requests wait in ZeroMQ, or at their senders.
    `worker_timeout` (seconds): when a request that a worker took goes to another one. None: never, for this queue
    cannot tell a slow worker from a dead one. `deliveries_max`: workers that a request may then be given to, one after
    another, before its client gets an error.
    `queue_max`, `queue_bytes_max`: requests that were read but wait, and their bytes; the newest beyond is refused.
    `request_ttl`: seconds after which a request that no worker has is dropped. `workers_max`: workers that are
    remembered. Errors: ValueError for values that make no sense, EndpointError for an address that is none.
    """

    source = "pirate.queue"

    def __init__(
        self,
        frontend: str,
        backend: str,
        *,
        worker_timeout: float | None = None,
        queue_max: int = _DEFAULTS.queue_max,
        queue_bytes_max: int = _DEFAULTS.queue_bytes_max,
        request_ttl: float = _DEFAULTS.request_ttl,
        deliveries_max: int = _DEFAULTS.deliveries_max,
        workers_max: int = _DEFAULTS.workers_max,
        settings: SocketSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        options = QueueOptions(
            worker_timeout=worker_timeout,
            queue_max=queue_max,
            queue_bytes_max=queue_bytes_max,
            request_ttl=request_ttl,
            deliveries_max=deliveries_max,
            workers_max=workers_max,
        )
        super().__init__(SimpleQueueCore(options), frontend, backend, settings, on_event)

    def _join_pair(self, look: Callable[[float], None]) -> None:
        self._core = PairedSimpleQueueCore(self._core.options)


class ParanoidPirateQueue(_Queue):
    """Gives requests of REQ clients to workers that are alive, the least recently used first (6/PPP; Guide chapter 4,
    "Robust Reliable Queuing").

    `frontend`, `backend`: the endpoints to bind for clients and for workers; ``tcp://127.0.0.1:*`` takes a free port.
    Clients are read only while a worker is ready; the others' requests wait in ZeroMQ, or at their senders.
    `heartbeat_interval` (seconds) x `liveness`: the silence after which a worker, idle or busy, is lost and its
    request goes to another one. Give workers like values.
    `worker_timeout` (seconds): when a request goes to another worker though the first one, which is then lost, is
    alive: a worker of the Guide's swallows what it does not understand, and goes on heartbeating.
    `deliveries_max`: workers that one request may be given to before its client gets an error.
    `queue_max`, `queue_bytes_max`: requests that were read but wait, and their bytes; the newest beyond is refused.
    `request_ttl`: seconds after which a request that no worker has is dropped.
    Errors: ValueError for values that make no sense, EndpointError for an address that is none.
    """

    source = "pirate.queue"

    def __init__(
        self,
        frontend: str,
        backend: str,
        *,
        heartbeat_interval: float = 1.0,
        liveness: int = 3,
        worker_timeout: float = 30.0,
        queue_max: int = _DEFAULTS.queue_max,
        queue_bytes_max: int = _DEFAULTS.queue_bytes_max,
        request_ttl: float = _DEFAULTS.request_ttl,
        deliveries_max: int = _DEFAULTS.deliveries_max,
        settings: SocketSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        options = QueueOptions(
            liveness=Liveness(heartbeat_interval, liveness),
            worker_timeout=worker_timeout,
            queue_max=queue_max,
            queue_bytes_max=queue_bytes_max,
            request_ttl=request_ttl,
            deliveries_max=deliveries_max,
        )
        super().__init__(ParanoidQueueCore(options), frontend, backend, settings, on_event)

    def _join_pair(self, look: Callable[[float], None]) -> None:
        self._core = PairedParanoidQueueCore(self._core.options)


def _no_command(command: object) -> None:
    raise AssertionError(f"a queue core asks for nothing, yet asked for {command!r}")
