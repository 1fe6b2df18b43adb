"""The Majordomo world: real broker, worker and client cores under faults, as an example of how a world is made."""

from __future__ import annotations

from typing import ClassVar

from zpatterns.mdp.broker_state import BrokerOptions, OnWorkerLoss
from zpatterns.mdp.client_core import ClientOptions
from zpatterns.sockets import SocketSettings
from zpatterns.testing.clock import Chance
from zpatterns.testing.ledger import Ledger
from zpatterns.testing.mdp_hostile import HostileMajordomo
from zpatterns.testing.mdp_nodes import BrokerNode, MajordomoClientNode, MajordomoWorkerNode
from zpatterns.testing.mdp_observer import MajordomoObserver
from zpatterns.testing.serving import BrokeredWorld, reconnects
from zpatterns.timing import Liveness

BACKLOG_MAX = 30
"""Requests that may be open for a service whose next call must be answered in time: what callers who gave up have left
behind is served too, and may take longer than that call has."""


class MajordomoWorld(BrokeredWorld):
    """One or two brokers, workers of both protocol versions, asyncio and blocking clients, and a hostile peer."""

    name = "mdp"
    observer: MajordomoObserver
    behaviours: ClassVar[tuple[str, ...]] = (
        "slow",
        "raise",
        "hang",
        "stream",
        "flood",
        "burst",
        "cancel",
        "close",
        "slow-consumer",
        "hostile",
    )

    def build(self) -> None:
        draw = self.chance.fork("mdp")
        liveness = Liveness(draw.pick((0.5, 1.0, 2.5)), draw.pick((2, 3, 3, 4)))
        lease = self.lease = liveness.lease
        # Back-off is capped at the lease (promises.md), so L1's bound is four of them.
        self.bound = 4 * lease
        self.quiet_seconds = max(1.5 * lease, 3.0)
        self.fault_seconds = lease * draw.between(1.0, 4.0)
        self.calls_left = draw.pick((10, 30, 60))
        self.ledger = Ledger(self)
        tight = not self.is_calm and draw.happens(0.5)
        # Some defects show only where many rare things meet: some worlds are made for such meetings.
        self.focus = "" if self.is_calm else draw.pick(("", "", "streams", "queues"))
        self.behave(*{"streams": ("stream",), "queues": ("slow", "burst")}.get(self.focus, ()))
        is_focused = bool(self.focus)
        self.broker_options = BrokerOptions(
            liveness=liveness,
            queue_max=draw.pick((1, 4, 20)) if tight and not is_focused else 10_000,
            queue_bytes_max=draw.pick((2_000, 100_000)) if tight else 2**30,
            services_max=100 if tight else 1000,
            request_ttl=lease * draw.pick((0.3, 1.0, 3.0)) if tight or self.focus == "queues" else 1000.0,
            deliveries_max=3 if is_focused else draw.pick((1, 2, 3)),
            held_bytes_max=draw.pick((300, 2**20)) if tight else 2**24,
            on_worker_loss=OnWorkerLoss.FAIL if draw.happens(0.3) and not is_focused else OnWorkerLoss.RETRY,
        )
        settings = self.draw_settings(draw, tight, **reconnects(liveness.interval))
        self.settings = settings
        self.observer = MajordomoObserver(self)
        self.observers.append(self.observer)
        self.hubs = self.brokers = [
            BrokerNode(self, f"broker{number}", self.broker_options, settings)
            for number in range(1 if self.is_calm else draw.pick((1, 1, 1, 2)))
        ]
        self.services = ["echo", "count", "other"][: 1 if is_focused else draw.pick((1, 2, 3))]
        self.asked_services = self.services + (["nobody"] if draw.happens(0.3) and not self.is_calm else [])
        self.workers = [
            MajordomoWorkerNode(
                self,
                f"worker{number}",
                self.services[number % len(self.services)],
                endpoints=draw.shuffled([broker.endpoint for broker in self.brokers]),
                version="0.2" if self.focus == "streams" else draw.pick(("0.1", "0.2")),
                lanes=draw.pick((1, 1, 2)),
                liveness=liveness,
                handler_timeout=lease * draw.between(0.1, 2.0) if draw.happens(0.3) and not self.is_calm else None,
                settings=settings,
            )
            for number in range(len(self.services) + (1 if self.focus == "streams" else 0) + draw.below(3))
        ]
        self.clients = [self._client(draw, number) for number in range(1 + draw.below(3))]
        probe = ClientOptions(timeout=self.quiet_seconds * 0.9, retries=3)
        self.probe = MajordomoClientNode(
            self, "probe", endpoints=self._endpoints(draw), options=probe, settings=SocketSettings(), idle=True
        )
        for broker in self.brokers:
            broker.frailty = 3
        for worker in self.workers:
            worker.frailty = 2
        self.probe.frailty = 0
        self.hostile: HostileMajordomo | None = None
        if "hostile" in self.active_behaviours:
            self.hostile = HostileMajordomo(self, "hostile", self._endpoints(draw), settings)
            self.hostile.frailty = 0
        for node in self.nodes.values():
            node.start()

    def _endpoints(self, draw: Chance) -> list[str]:
        return draw.shuffled([broker.endpoint for broker in self.brokers])

    def _client(self, draw: Chance, number: int) -> MajordomoClientNode:
        lease = self.lease
        retries = draw.pick((0, 1, 3))
        options = ClientOptions(
            # A lost attempt is found out when its time is up: L1 needs one that is shorter than the bound.
            timeout=self.fault_seconds * 4 if self.is_calm else lease * draw.pick((0.5, 2.0, 3.5)),
            retries=0 if self.is_calm else retries,
            attempt_timeout=lease * draw.between(0.1, 1.0) if not self.is_calm and draw.happens(0.3) else None,
            max_in_flight=draw.pick((4, 4, 64)) if self.is_calm else draw.pick((1, 4, 64)),
            queue_max=draw.pick((2, 1000)) if not self.is_calm else 1000,
            held_bytes_max=draw.pick((400, 2**20)) if not self.is_calm else 2**20,
            idle_max=lease * draw.pick((0.2, 5.0)),
        )
        return MajordomoClientNode(
            self, f"client{number}", endpoints=self._endpoints(draw), options=options, settings=self.settings
        )

    def mmi_argument(self, chance: Chance) -> bytes:
        """A service name to ask about."""
        return chance.pick([*self.asked_services, "nothing-here"]).encode()

    def quiet(self) -> None:
        for service in self.services:
            backlog = max(watch.backlog(service.encode()) for watch in self.observer.watches.values())
            for _ in range(2):
                call = self.probe.ask(service)
                if backlog <= BACKLOG_MAX:
                    self.observer.must_succeed.append(call)
        self.probe.ask("mmi.service")
