"""The Binary Star world: a pair of real cores around handlers, and clients of it, under faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from zpatterns.bstar.bstar_state import StarOptions
from zpatterns.bstar.client_core import ClientOptions, StarClientCore
from zpatterns.core import Rng
from zpatterns.server_core import ServerOptions
from zpatterns.sockets import SocketSettings
from zpatterns.testing.bstar_nodes import StarNode, state_endpoint
from zpatterns.testing.bstar_observer import BinaryStarObserver
from zpatterns.testing.clock import Chance
from zpatterns.testing.direct import CallerNode, DirectWorld
from zpatterns.testing.faults import Fault
from zpatterns.testing.fence import FakeFence
from zpatterns.testing.ledger import Ledger
from zpatterns.timing import Liveness


class BinaryStarWorld(DirectWorld):
    """A primary and a backup, with hooks and a fence in some worlds, and clients on both sides of them."""

    name = "bstar"
    fault_classes: ClassVar[tuple[str, ...]] = (*DirectWorld.fault_classes, "promote", "step-down", "fence-out")
    behaviours: ClassVar[tuple[str, ...]] = ("slow", "raise", "hang", "burst", "cancel", "close", "hooks", "fence")

    def build(self) -> None:
        draw = self.chance.fork("bstar")
        liveness = Liveness(draw.pick((0.5, 1.0, 2.0)), draw.pick((2, 2, 3)))
        lease = self.lease = self.settle_delay = liveness.lease
        self.stall_max = (liveness.liveness - 1) * liveness.interval
        # Back-off is capped at the lease (promises.md), so L1's bound is four of them.
        self.bound = 4 * lease
        # In the end, when all is well, some worlds lose the active node for good.
        self.loses_one = draw.happens(0.3)
        self.quiet_seconds = (7 if self.loses_one else 2.5) * lease
        self.fault_seconds = lease * draw.between(2.0, 6.0)
        self.heals_at = self.clock.now() + self.fault_seconds
        self.calls_left = draw.pick((5, 10, 30))
        self.ledger = Ledger(self)
        self.fence: FakeFence | None = None
        self.fence_is_there = True
        if draw.happens(0.3):
            self.fence = FakeFence(lease * draw.between(1.0, 2.0), self.clock.now)
        has_hooks = draw.happens(0.3)
        tight = not self.is_calm and draw.happens(0.5)
        settings = self._settings(draw, liveness, tight)
        server = ServerOptions(
            concurrency=draw.pick((1, 2)),
            queue_max=draw.pick((1, 4)) if tight else 1000,
            request_ttl=lease * draw.pick((0.5, 2.0)) if tight else 60.0,
        )
        lone = lease * draw.between(1.0, 3.0) if draw.happens(0.2) else None
        self.observer: BinaryStarObserver = BinaryStarObserver(self)
        self.observers.append(self.observer)
        self.stars = [
            StarNode(
                self,
                name,
                StarOptions(
                    primary=name == "primary",
                    remote=state_endpoint(other),
                    liveness=liveness,
                    lone_backup_after=None if name == "primary" else lone,
                    has_hooks=has_hooks,
                    has_fence=self.fence is not None,
                    longest_turn=lease * 0.01,
                ),
                server,
                settings,
            )
            for name, other in (("primary", "backup"), ("backup", "primary"))
        ]
        for number in range(1 + draw.below(2)):
            self._client(draw, f"client{number}", liveness, settings)
        self.probe = self._client(draw, "probe", liveness, SocketSettings(), is_probe=True)
        for star in self.stars:
            star.frailty = 3
        self.probe.frailty = 0
        for node in draw.shuffled(list(self.nodes.values())):
            node.start()

    def _settings(self, draw: Chance, liveness: Liveness, tight: bool) -> SocketSettings:
        lease = liveness.lease
        ping = lease * draw.pick((0.2, 0.5, 3.0))
        return SocketSettings(
            send_hwm=draw.pick((2, 5)) if tight else 1000,
            receive_hwm=draw.pick((2, 5)) if tight else 1000,
            probe_interval=ping,
            probe_timeout=ping * draw.pick((1.0, 3.0)),
            keepalive_idle=lease * draw.pick((0.5, 1.0, 4.0)),
            keepalive_interval=lease * 0.1,
            connect_timeout=lease,
            handshake_timeout=lease * 0.5,
            reconnect_first=min(0.1, liveness.interval / 4),
            reconnect_cap=min(1.0, liveness.interval / 2),
        )

    def _client(
        self, draw: Chance, name: str, liveness: Liveness, settings: SocketSettings, *, is_probe: bool = False
    ) -> CallerNode:
        lease = liveness.lease
        endpoints = [star.endpoint for star in self.stars]
        if draw.happens(0.5):
            endpoints.reverse()  # a client on the backup's side
        timeout, retries = lease * draw.pick((2.0, 4.0, 8.0)), draw.pick((0, 1, 3))
        attempt = liveness.interval * draw.pick((1.0, 1.0, 2.0))
        if is_probe:
            timeout, retries, attempt = self.quiet_seconds * 0.9, 3, liveness.interval
        elif self.is_calm:
            timeout, retries = self.fault_seconds * 4 + 10 * lease, 3
        options = ClientOptions(
            timeout=timeout,
            retries=retries,
            attempt_timeout=attempt,
            max_in_flight=draw.pick((1, 4, 64)) if not is_probe else 64,
            settle_delay=self.settle_delay,
        )

        def make_core(rng: Rng) -> StarClientCore:
            return StarClientCore(endpoints, options, rng)

        return CallerNode(self, name, make_core, settings, timeout=timeout, idle=is_probe)

    def pattern_fault(self, fault: Fault) -> Callable[[], None]:
        """``promote`` and ``step-down``: what an operator and a program may do; ``fence-out``: the fence cannot be
        reached; and ``drain``."""
        if fault.kind == "drain":
            return super().pattern_fault(fault)
        if fault.kind == "fence-out":
            self.fence_is_there = False
            return self._fence_is_back
        node = self.nodes[fault.node]
        if isinstance(node, StarNode) and node.alive:
            node.later(self.clock.now(), node.promote if fault.kind == "promote" else node.step_down)
        return lambda: None

    def _fence_is_back(self) -> None:
        self.fence_is_there = True

    def quiet(self) -> None:
        if self.loses_one:
            self.observer.active.kill(silently=self.chance.happens(0.5))
        self.observer.must_succeed += [self.probe.ask() for _ in range(2)]
