"""The Majordomo broker: see :class:`Broker`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from zpatterns.core import Event
from zpatterns.mdp.broker_core import PORT, BrokerCore
from zpatterns.mdp.broker_state import BrokerOptions, BrokerStatistics, OnWorkerLoss
from zpatterns.mdp.paired_broker_core import PairedBrokerCore
from zpatterns.reactor import Reactor
from zpatterns.service import BoundService
from zpatterns.sockets import SocketSettings
from zpatterns.timing import Liveness

_DEFAULTS = BrokerOptions()


class Broker(BoundService):
    """Routes requests to workers by service name: 7/MDP and 18/MDP on one socket, 8/MMI built in.

    `endpoints`: one or more to bind; ``tcp://127.0.0.1:*`` takes a free port.
    `heartbeat_interval` (seconds) x `liveness`: the silence after which a worker, idle or busy, is lost and its
    request goes to another one. Give workers like values.
    `queue_max`: requests that may wait for one service; the newest beyond it is refused. `queue_bytes_max`: bytes
    of all waiting requests together. `services_max`: names that are asked for and have no worker.
    `request_ttl`: seconds after which a waiting request is dropped.
    `deliveries_max`: workers that one request may be given to before its client gets an error;
    `on_worker_loss="fail"` gives it to one only.
    `held_bytes_max`: bytes of PARTIALs kept for a 0.1 client of a 0.2 worker.
    Errors: ValueError for values that make no sense, EndpointError for an address that is none.
    """

    source = "mdp.broker"

    def __init__(
        self,
        *endpoints: str,
        heartbeat_interval: float = 2.5,
        liveness: int = 3,
        queue_max: int = _DEFAULTS.queue_max,
        queue_bytes_max: int = _DEFAULTS.queue_bytes_max,
        services_max: int = _DEFAULTS.services_max,
        request_ttl: float = _DEFAULTS.request_ttl,
        deliveries_max: int = _DEFAULTS.deliveries_max,
        held_bytes_max: int = _DEFAULTS.held_bytes_max,
        on_worker_loss: Literal["retry", "fail"] = "retry",
        settings: SocketSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        if on_worker_loss not in ("retry", "fail"):
            raise ValueError(f"on_worker_loss must be 'retry' or 'fail', not {on_worker_loss!r}")
        super().__init__(endpoints, settings=settings, on_event=on_event)
        self._core = BrokerCore(
            BrokerOptions(
                liveness=Liveness(heartbeat_interval, liveness),
                queue_max=queue_max,
                queue_bytes_max=queue_bytes_max,
                services_max=services_max,
                request_ttl=request_ttl,
                deliveries_max=deliveries_max,
                held_bytes_max=held_bytes_max,
                on_worker_loss=OnWorkerLoss(on_worker_loss),
            )
        )

    def statistics(self) -> BrokerStatistics:
        """Counters since the start and what is held now."""
        return self._counted(self._core.statistics())

    def _join_pair(self, look: Callable[[float], None]) -> None:
        self._core = PairedBrokerCore(self._core.options)

    def _attach(self, reactor: Reactor) -> None:
        driver = self._drive(
            reactor,
            self._core,
            settings=self._settings,
            on_command=_no_command,
            stall_threshold=self._core.options.liveness.interval,
        )
        self._bind(driver, PORT)


def _no_command(command: object) -> None:
    raise AssertionError(f"a broker core asks for nothing, yet asked for {command!r}")
