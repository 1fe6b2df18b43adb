"""The Pirate worlds: real cores of queues and workers under faults, Simple or Paranoid."""

from __future__ import annotations

from typing import ClassVar

from zpatterns.pirate.queue_state import QueueOptions
from zpatterns.sockets import SocketSettings
from zpatterns.testing.clock import Chance
from zpatterns.testing.ledger import Ledger
from zpatterns.testing.pirate_nodes import HostilePirate, PirateWorkerNode, QueueNode, ReqNode
from zpatterns.testing.pirate_observer import PirateObserver
from zpatterns.testing.serving import BrokeredWorld, reconnects
from zpatterns.timing import Liveness

BACKLOG_MAX = 5
"""Requests that may wait before a call that must be answered in time: a slow network has each wait for the one before
it, those included whose callers have given up."""


class PirateWorld(BrokeredWorld):
    """One or two queues, workers, clients that retry, and a hostile peer."""

    observer: PirateObserver
    is_paranoid: ClassVar[bool]
    service = "pirate"
    behaviours: ClassVar[tuple[str, ...]] = ("slow", "raise", "hang", "stream", "burst", "cancel", "hostile")

    def build(self) -> None:
        draw = self.chance.fork(self.name)
        liveness = Liveness(draw.pick((0.5, 1.0, 2.0)), draw.pick((2, 3, 3)))
        lease = self.lease = liveness.lease
        # Back-off is capped at the lease (promises.md), so L1's bound is four of them.
        self.bound = 4 * lease
        self.quiet_seconds = 1.5 * lease
        self.fault_seconds = lease * draw.between(1.0, 4.0)
        self.calls_left = draw.pick((5, 10, 30))
        self.ledger = Ledger(self)
        tight = not self.is_calm and draw.happens(0.5)
        self.options = QueueOptions(
            liveness=liveness,
            queue_max=draw.pick((1, 4, 20)) if tight else 1000,
            queue_bytes_max=draw.pick((2_000, 100_000)) if tight else 2**30,
            request_ttl=lease * draw.pick((0.3, 1.0, 3.0)) if tight else 1000.0,
            deliveries_max=draw.pick((1, 2, 3, 3)),
            worker_timeout=self._worker_timeout(draw, lease),
        )
        self.settings = self.draw_settings(draw, tight, **reconnects(liveness.interval))
        self.observer = PirateObserver(self)
        self.observers.append(self.observer)
        self.hubs = self.queues = [
            QueueNode(self, f"queue{number}", self.options, self.settings)
            for number in range(draw.pick((1, 1, 1, 1, 2)) if self.is_paranoid and not self.is_calm else 1)
        ]
        self.workers = [
            PirateWorkerNode(
                self,
                f"worker{number}",
                endpoints=draw.shuffled([queue.backend for queue in self.queues]),
                lanes=draw.pick((1, 1, 1, 2)),
                liveness=liveness,
                handler_timeout=lease * draw.between(0.1, 2.0) if draw.happens(0.3) and not self.is_calm else None,
                settings=self.settings,
            )
            for number in range(1 + draw.below(3))
        ]
        self.clients = [self._client(draw, number) for number in range(1 + draw.below(2))]
        self.probe = ReqNode(
            self,
            "probe",
            endpoints=[queue.frontend for queue in self.queues],
            timeout=self.quiet_seconds * 0.9,
            attempts=len(self.queues),
            is_proxied=False,
            settings=SocketSettings(),
            idle=True,
        )
        for queue in self.queues:
            queue.frailty = 3
        for worker in self.workers:
            worker.frailty = 2
        self.probe.frailty = 0
        self.hostile: HostilePirate | None = None
        if "hostile" in self.active_behaviours:
            self.hostile = HostilePirate(self, "hostile", self.queues, self.settings)
            self.hostile.frailty = 0
        for node in self.nodes.values():
            node.start()

    def _worker_timeout(self, draw: Chance, lease: float) -> float | None:
        wanted = draw.happens(0.4)
        share = draw.between(0.2, 2.0)
        return lease * share if wanted and not self.is_calm else None

    def _client(self, draw: Chance, number: int) -> ReqNode:
        is_proxied = draw.happens(0.5)
        timeout, attempts = draw.pick((0.5, 2.0, 3.5)), draw.pick((1, 2, 4))
        return ReqNode(
            self,
            f"client{number}",
            endpoints=draw.shuffled([queue.frontend for queue in self.queues]),
            timeout=self.fault_seconds * 4 if self.is_calm else self.lease * timeout,
            attempts=1 if self.is_calm else attempts,
            is_proxied=is_proxied,
            settings=self.settings,
        )

    def quiet(self) -> None:
        backlog = max(self.observer.watches[queue].backlog() for queue in self.queues)
        for _ in range(3):
            call = self.probe.ask()
            if backlog <= BACKLOG_MAX:
                self.observer.must_succeed.append(call)


class ParanoidPirateWorld(PirateWorld):
    """6/PPP: whatever happened, all works again by itself."""

    name = "paranoid"
    is_paranoid = True


class SimplePirateWorld(PirateWorld):
    """Without heartbeats: nothing wrong is ever answered, but what works again is up to whoever restarts it."""

    name = "simple"
    is_paranoid = False

    def healed(self) -> None:
        super().healed()
        for node in (*self.queues, *self.workers) if not self.is_calm else ():
            node.kill()
            node.start()
