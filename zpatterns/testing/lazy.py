"""The Lazy Pirate world: real server and client cores under faults, and a hostile peer."""

from __future__ import annotations

from collections.abc import Callable

from zpatterns.calls_state import CallOptions
from zpatterns.core import Frames, Rng
from zpatterns.pirate.lazy_client_core import LazyClientCore
from zpatterns.pirate.lazy_server_core import LazyServerCore
from zpatterns.server_core import ServerOptions
from zpatterns.testing.clock import Chance
from zpatterns.testing.direct import SERVICE, CallerNode, DirectWorld, PlainCallCore, ServerNode
from zpatterns.testing.hostile import HostileNode
from zpatterns.testing.lazy_observer import LazyObserver
from zpatterns.testing.ledger import Ledger


class LazyWorld(DirectWorld):
    """One server or several, asyncio and blocking clients, each with a list of them."""

    name = "lazy"

    def build(self) -> None:
        draw = self.chance.fork("lazy")
        lease = self.lease = draw.pick((0.5, 2.0, 5.0))
        # Every call that was made while there were faults has reached its deadline by then.
        self.bound = 4 * lease
        self.quiet_seconds = 3 * lease
        self.fault_seconds = lease * draw.between(1.0, 4.0)
        self.calls_left = draw.pick((5, 12, 30))
        self.ledger = Ledger(self)
        tight = not self.is_calm and draw.happens(0.5)
        self.server_options = ServerOptions(
            concurrency=draw.pick((1, 1, 2, 5)),
            queue_max=draw.pick((1, 3, 10)) if tight else 1000,
            queue_bytes_max=draw.pick((1_000, 5_000)) if tight else 2**30,
            request_ttl=lease * draw.pick((0.1, 0.5, 2.0)) if not self.is_calm and draw.happens(0.6) else 1000.0,
        )
        self.settings = self.draw_settings(
            draw, tight, connect_timeout=lease * 0.5, reconnect_first=lease * 0.02, reconnect_cap=lease * 0.2
        )
        self.observer: LazyObserver = LazyObserver(self)
        self.observers.append(self.observer)
        for number in range(draw.pick((1, 1, 2, 3))):
            ServerNode(self, f"server{number}", lambda: LazyServerCore(self.server_options), self.settings).frailty = 3
        for number in range(1 + draw.below(3)):
            self._client(draw, f"client{number}", self._options(draw))
        patient = CallOptions(timeout=self.quiet_seconds * 0.9, retries=3)
        self.probe = self._client(draw, "probe", patient, idle=True)
        self.probe.frailty = 0
        if "hostile" in self.active_behaviours:
            LazyHostile(self, "hostile", self._endpoints(draw), self.settings).frailty = 0
        for node in self.nodes.values():
            node.start()

    def quiet(self) -> None:
        for _ in range(3):
            self.observer.must_succeed.append(self.probe.ask())

    def _endpoints(self, draw: Chance) -> list[str]:
        return draw.shuffled([server.endpoint for server in self.servers])

    def _options(self, draw: Chance) -> CallOptions:
        lease = self.lease
        if self.is_calm:
            return CallOptions(timeout=self.fault_seconds * 4, retries=0, max_in_flight=draw.pick((4, 64)))
        return CallOptions(
            timeout=lease * draw.pick((0.5, 2.0, 3.5)),
            retries=draw.pick((0, 1, 3, 3)),
            attempt_timeout=lease * draw.between(0.1, 1.0) if draw.happens(0.3) else None,
            max_in_flight=draw.pick((1, 4, 64)),
            queue_max=draw.pick((2, 1000)),
            idle_max=lease * draw.pick((0.2, 5.0)),
        )

    def _client(self, draw: Chance, name: str, options: CallOptions, idle: bool = False) -> CallerNode:
        endpoints = self._endpoints(draw)

        def make_core(rng: Rng) -> PlainCallCore:
            return LazyClientCore(endpoints, options, rng)

        node = CallerNode(self, name, make_core, self.settings, timeout=options.timeout, idle=idle)
        self.observer.watch_client(node, options, endpoints)
        return node


class LazyHostile(HostileNode):
    """Asks without the empty frame, without a body, with envelopes of many hops, and more than it reads answers."""

    world: LazyWorld
    _requests_left = 20

    def message(self) -> Frames:
        chance = self.chance
        noise: list[Callable[[], bytes]] = [
            lambda: chance.bytes(1 + chance.below(4)),
            lambda: b"a:1:1:0",
            lambda: b"\x00ZPATTERNS-ERROR\x00",
        ]
        frames = [chance.pick(noise)() for _ in range(chance.below(5))]
        if chance.happens(0.6) or not self._requests_left:
            # No empty frame, or nothing behind it.
            return [*frames, b""] if chance.happens(0.5) else [*frames, b"q:%d" % (1 + chance.below(20))]
        self._requests_left -= 1
        call = self.world.ledger.begin(self, SERVICE, 1.0)
        self.world.ledger.cancel(call)
        return [*frames, b"", *call.body]
