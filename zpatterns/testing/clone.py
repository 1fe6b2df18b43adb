"""The Clone world: servers or a pair, with a store or without, and clients of the map and of subtrees, under faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from zpatterns.bstar.bstar_state import StarOptions
from zpatterns.clone.client_state import ClientOptions
from zpatterns.clone.server_state import ServerOptions
from zpatterns.clone.sets_core import SetOptions
from zpatterns.sockets import SocketSettings
from zpatterns.testing.clock import Chance
from zpatterns.testing.clone_nodes import (
    KEYS,
    SUBTREES,
    WAYS,
    WAYS_IN_FLIGHT,
    WAYS_ROUND,
    CloneClientNode,
    CloneServerNode,
    HostileCloneNode,
    SetCall,
)
from zpatterns.testing.clone_observer import CloneObserver
from zpatterns.testing.clone_pair import ClonePairNode, state_endpoint
from zpatterns.testing.clone_pair_observer import ClonePairObserver
from zpatterns.testing.faults import Fault
from zpatterns.testing.world import World
from zpatterns.timing import Liveness

LAST_SETS = 0.8
"""How much of the quiet time the sets that are made at its beginning have."""


class CloneWorld(World):
    """A pair of servers, or one, now and then two that know nothing of each other; up to five clients, and a hostile
    peer."""

    name = "clone"
    fault_classes: ClassVar[tuple[str, ...]] = (*World.fault_classes, "promote", "step-down")
    behaviours: ClassVar[tuple[str, ...]] = ("burst", "cancel", "close", "full-disk", "hostile", "detour", "hand-over")

    def build(self) -> None:
        draw = self.chance.fork("clone")
        liveness = Liveness(draw.pick((0.5, 1.0)), draw.pick((2, 2, 3)))
        lease = self.lease = liveness.lease
        self.interval = liveness.interval
        # Back-off is capped at the lease (promises.md), so L1's bound is four of them.
        self.bound = 4 * lease
        self.quiet_seconds = 2 * lease
        self.fault_seconds = lease * draw.between(1.0, 3.0)
        self.sets: list[SetCall] = []
        self._detours: list[tuple[str, str]] = []
        self.ways: tuple[str, ...] = WAYS
        self.sets_left = draw.pick((8, 16, 30))
        is_calm = not self.active_faults
        tight = not is_calm and draw.happens(0.5)
        ping = lease * draw.pick((0.2, 0.5, 1.0))
        self.settings = SocketSettings(
            send_hwm=draw.pick((1, 3, 10)) if tight else 1000,
            receive_hwm=draw.pick((1, 3, 10)) if tight else 1000,
            outbox_max=draw.pick((3, 20)) if tight else 1000,
            probe_interval=ping,
            probe_timeout=ping * draw.pick((1.0, 2.0)),
            keepalive_idle=lease * draw.pick((0.5, 1.0)),
            keepalive_interval=lease * 0.1,
            connect_timeout=max(0.5, min(3.0, liveness.interval)),
            handshake_timeout=lease * 0.5,
            reconnect_first=min(0.1, liveness.interval / 4),
            reconnect_cap=min(1.0, liveness.interval),
        )
        self.is_pair = draw.happens(0.6)
        self.observer: CloneObserver = ClonePairObserver(self) if self.is_pair else CloneObserver(self)
        self.observers.append(self.observer)
        durable = draw.happens(0.4)
        self.halves: list[ClonePairNode] = []
        self.servers: list[CloneServerNode] = []
        if self.is_pair:
            most = 10_000 if is_calm else draw.pick((4, 10_000))
            self._pair(draw, liveness, ServerOptions(liveness, durable=durable, pending_max=most))
        else:
            for number in range(1 if is_calm else draw.pick((1, 1, 2))):
                options = ServerOptions(liveness, durable=durable)
                self.servers.append(CloneServerNode(self, f"server{number}", options, self.settings))
        self.clients = [self._client(draw, number, liveness) for number in range(draw.pick((1, 2, 2, 5)))]
        if self.is_pair and self.loses_one and self._is_crowded:
            # What is dropped is asked for again: L1's bound counts from the loss, as it does from any other fault.
            self.quiet_seconds = self.bound / LAST_SETS
        for server in self.servers:
            server.frailty = 3
        if self.is_pair and self.active_behaviours & {"detour", "hand-over"}:
            self._detour(self.chance.fork("detour"))
        if self.is_pair and "hand-over" in self.active_behaviours:
            self._hand_over(self.chance.fork("hand-over"))
        if "hostile" in self.active_behaviours:
            endpoints = [server.endpoints.snapshot for server in self.servers]
            HostileCloneNode(self, "hostile", endpoints, self.settings).frailty = 0
        for node in self.nodes.values():
            node.start()

    def _client(self, draw: Chance, number: int, liveness: Liveness) -> CloneClientNode:
        options = ClientOptions(
            liveness=liveness,
            subtree=draw.pick(SUBTREES),
            kept_max=draw.pick((3, 1000)),
            sets=SetOptions(
                timeout=self.lease * draw.pick((0.5, 2.0, 3.5)),
                resend_first=liveness.interval,
                resend_cap=liveness.lease,
                in_flight_max=draw.pick((2, 512)),
                sets_max=draw.pick((3, 1000)),
            ),
        )
        servers = draw.shuffled([server.endpoints for server in self.servers])
        return CloneClientNode(self, f"client{number}", servers, options, self.settings)

    def _pair(self, draw: Chance, liveness: Liveness, options: ServerOptions) -> None:
        star = Liveness(liveness.interval * draw.pick((0.5, 1.0, 1.0)), 2)
        self.star_lease = star.lease
        self.bound += 2 * star.lease  # first the pair settles, and then its clients find the one that serves
        # In the end, when all is well, some worlds lose the active for good.
        self.loses_one = draw.happens(0.3)
        if self.loses_one:
            self.quiet_seconds = 5 * self.lease
        for name, other in (("primary", "backup"), ("backup", "primary")):
            role = StarOptions(primary=name == "primary", remote=state_endpoint(other), liveness=star)
            node = ClonePairNode(self, name, role, options, self.settings)
            self.halves.append(node)
            self.servers.append(node)

    @property
    def _is_crowded(self) -> bool:
        """Whether one set of each client, made at once, may be more than a client keeps while its snapshot comes, or
        than may wait for the disk of a half behind its promotion."""
        kept = min(client.options.kept_max for client in self.clients)
        return min(kept, self.halves[0].options.pending_max - 1) < len(self.clients)

    def _detour(self, draw: Chance) -> None:
        """The ways of all clients to one half are long: what they post comes there later than what the other half has
        published of it."""
        half = draw.pick(self.halves).name
        self.ways = draw.pick((WAYS, WAYS_ROUND, WAYS_ROUND))
        for client in self.clients:
            self._lengthen(client.name, half, self.lease * draw.pick((0.1, 0.3)))

    def _hand_over(self, draw: Chance) -> None:
        """The halves hear late of each other, and the active steps down while what was just set is on its way to the
        other half, or is not confirmed: who set it asks again."""
        for half in self.halves:
            self._lengthen(half.name, half.other.name, self.lease * draw.pick((0.02, 0.1)))
        for _ in range(draw.pick((2, 4))):
            self.clock.call_later(self.fault_seconds * draw.random(), self._set_and_step_down, draw)

    def _set_and_step_down(self, draw: Chance) -> None:
        now = self.clock.now()
        for client in self.alive_clients:
            client.later(now, client.make_sets, 1 + draw.below(3), WAYS_IN_FLIGHT)
        for half in self.halves:
            if half.alive and half.pair.star.serving:
                half.later(now + self.lease * draw.pick((0.02, 0.1)) * draw.random(), half.step_down)

    def _lengthen(self, source: str, target: str, seconds: float) -> None:
        self._detours.append((source, target))
        self.network.throttle(source, target, seconds)

    def healed(self) -> None:
        for source, target in self._detours:
            self.network.throttle(source, target, 0.0)

    @property
    def alive_clients(self) -> list[CloneClientNode]:
        """Clients whose processes run; all, once everything is healed."""
        return [client for client in self.clients if client.alive]

    def pattern_fault(self, fault: Fault) -> Callable[[], None] | None:
        """``promote`` and ``step-down``: what an operator and a program may do to half of a pair."""
        node = self.nodes[fault.node]
        if isinstance(node, ClonePairNode) and node.alive:
            node.later(self.clock.now(), node.promote if fault.kind == "promote" else node.step_down)
        return None

    def quiet(self) -> None:
        if self.is_pair and self.loses_one and isinstance(self.observer, ClonePairObserver):
            self.observer.active.kill(silently=self.chance.happens(0.5))
        for client in self.clients:
            keys = [key for key in KEYS if key.startswith(client.options.subtree)]
            call = client.set(self.chance.pick(keys), timeout=self.quiet_seconds * LAST_SETS)
            call.must_succeed = True
