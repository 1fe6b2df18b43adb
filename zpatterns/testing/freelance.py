"""The Freelance world: real server and client cores of all three models under faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from zpatterns.core import Frames, Rng, SocketKind
from zpatterns.freelance.addressed_core import AddressedCore
from zpatterns.freelance.failover_core import FailoverCore
from zpatterns.freelance.server_core import FreelanceServerCore
from zpatterns.freelance.servers_core import ClientOptions
from zpatterns.freelance.shotgun_core import ShotgunCore
from zpatterns.server_core import ServerOptions
from zpatterns.sockets import SocketSettings
from zpatterns.testing.clock import Chance
from zpatterns.testing.direct import CallerNode, DirectWorld, ServerNode
from zpatterns.testing.driving import SimLink
from zpatterns.testing.freelance_observer import FreelanceObserver
from zpatterns.testing.hostile import HostileNode
from zpatterns.testing.ledger import Ledger
from zpatterns.testing.serving import SimLane, reconnects
from zpatterns.testing.simsocket import SimSocket
from zpatterns.testing.world import Node
from zpatterns.timing import Liveness

CORES: dict[str, type[AddressedCore] | type[ShotgunCore] | type[FailoverCore]] = {
    "addressed": AddressedCore,
    "shotgun": ShotgunCore,
    "failover": FailoverCore,
}


class FreelanceWorld(DirectWorld):
    """Up to four servers of one model, asyncio and blocking clients, a server that talks nonsense, a hostile client.

    ``twice``: servers say what they said again, some time later. ``rogue``: among a client's servers is one that
    answers PING, and everything else with nonsense. ``change``: clients remove and add servers while they call.
    """

    name = "freelance"
    behaviours: ClassVar[tuple[str, ...]] = (*DirectWorld.behaviours, "twice", "rogue", "change")
    observer: FreelanceObserver

    def build(self) -> None:
        draw = self.chance.fork("freelance")
        self.model = draw.pick(("addressed", "addressed", "addressed", "shotgun", "failover"))
        liveness = self.liveness = Liveness(draw.pick((0.5, 1.0, 2.0)), draw.pick((2, 3, 3)))
        lease = self.lease = liveness.lease
        self.bound = 3 * lease + lease
        self.quiet_seconds = 2.5 * lease
        self.fault_seconds = lease * draw.between(1.5, 4.0)
        self.calls_left = draw.pick((8, 20, 40))
        self.ledger = Ledger(self)
        tight = not self.is_calm and draw.happens(0.4)
        self.settings = self.draw_settings(draw, tight, **reconnects(liveness.interval))
        self.options = self._options(draw)
        self.server_options = ServerOptions(
            concurrency=draw.pick((1, 1, 4)),
            queue_max=draw.pick((1, 4)) if tight else 1000,
            queue_bytes_max=draw.pick((2_000, 100_000)) if tight else 2**30,
            request_ttl=lease * draw.pick((0.3, 1.0)) if tight else 1000.0,
        )
        self.observer = FreelanceObserver(self)
        self.observers.append(self.observer)
        for number in range(1 + draw.below(4)):
            FreelanceServerNode(self, f"server{number}", self._server_core, self.settings).frailty = 2
        endpoints = [server.endpoint for server in self.servers]
        if "rogue" in self.active_behaviours and self.model != "failover":
            self.rogue = RogueNode(self, "rogue", self.settings)
            endpoints.insert(draw.below(len(endpoints) + 1), self.rogue.endpoint)
        self.endpoints = endpoints
        for number in range(1 + draw.below(2)):
            self._client(f"client{number}", draw.shuffled(endpoints), self.options, self.settings)
        options = ClientOptions(timeout=self.quiet_seconds * 0.7, liveness=liveness)
        self.probe = self._client("probe", draw.shuffled(endpoints), options, SocketSettings(), idle=True)
        self.probe.frailty = 0
        if "hostile" in self.active_behaviours:
            hostile = HostileClient(self, "hostile", [server.endpoint for server in self.servers], self.settings)
            hostile.frailty = 0
        for node in self.nodes.values():
            node.start()

    def _options(self, draw: Chance) -> ClientOptions:
        lease = self.lease
        return ClientOptions(
            timeout=self.fault_seconds * 4 if self.is_calm else lease * draw.pick((0.7, 2.0, 3.5)),
            retries=draw.pick((0, 1, 3, 3)),
            attempt_timeout=lease * draw.between(0.1, 1.0) if draw.happens(0.4) and not self.is_calm else None,
            max_in_flight=draw.pick((2, 64)),
            queue_max=draw.pick((2, 1000)) if not self.is_calm else 1000,
            liveness=self.liveness,
            round_robin=draw.happens(0.3),
            idle_max=lease * draw.pick((0.2, 5.0)),
        )

    def _server_core(self) -> FreelanceServerCore:
        return FreelanceServerCore(self.model, self.server_options)

    def _client(
        self, name: str, endpoints: list[str], options: ClientOptions, settings: SocketSettings, idle: bool = False
    ) -> FreelanceClientNode:
        def make_core(rng: Rng) -> AddressedCore | ShotgunCore | FailoverCore:
            return CORES[self.model](endpoints, options, rng)

        return FreelanceClientNode(self, name, make_core, settings, options=options, idle=idle)

    def healed(self) -> None:
        super().healed()
        for client in self.clients:
            assert isinstance(client, FreelanceClientNode)
            client.add_all()

    def quiet(self) -> None:
        for number in range(3):
            # One after the other: a queue that has room for one may refuse the next.
            self.probe.later(self.clock.now() + number * 0.3 * self.lease, self._probe, number)

    def _probe(self, number: int) -> None:
        call = self.probe.ask()
        # The shotgun model has no pings: connections that died without a word are found out by the first request.
        if number or self.model != "shotgun":
            self.observer.must_succeed.append(call)


class FreelanceServerNode(ServerNode):
    """A server's process. In the shotgun model its handlers say one frame."""

    def make_lane(self) -> SimLane:
        return FreelanceLane(self, 0, self.core, self._settings, concurrency=self.core.options.concurrency)

    def say_again(self, link: SimLink, frames: Frames) -> None:
        """Some time from now, send this once more."""
        self.later(self.world.clock.now() + self.world.lease * self.chance.random(), self._again, link, frames)

    def _again(self, link: SimLink, frames: Frames) -> None:
        if not link.closed:
            link.send([frames], self.world.clock.now(), [])


class FreelanceLane(SimLane):
    """A lane whose handlers know the model."""

    def _return(self, number: int) -> None:
        world = self.node.world
        assert isinstance(world, FreelanceWorld)
        if world.model != "shotgun":
            super()._return(number)
        elif (run := self._running.pop(number, None)) is not None:
            self.driver.call(self.core.handler_done, number, run.returns(0), self.driver.now())


class FreelanceClientNode(CallerNode):
    """A client's process. Its driver runs all the time in the addressed model, as the front ends' do."""

    def __init__(
        self,
        world: FreelanceWorld,
        name: str,
        make_core: Callable[[Rng], AddressedCore | ShotgunCore | FailoverCore],
        settings: SocketSettings,
        *,
        options: ClientOptions,
        idle: bool = False,
    ) -> None:
        super().__init__(world, name, make_core, settings, timeout=options.timeout, idle=idle)
        self.options = options
        self.core: AddressedCore | ShotgunCore | FailoverCore
        self._is_blocking = self._is_blocking and world.model != "addressed"
        self.all: tuple[str, ...] = ()
        # Those it was told to ask, as its caller knows them: the core's own list would agree with whatever it does.
        self.told: set[str] = set()

    def boot(self) -> None:
        super().boot()
        self.all = self.core.endpoints
        self.told = set(self.all)
        self.driver.call(self.core.start, self.driver.now())

    def more(self) -> Frames:
        assert isinstance(self.world, FreelanceWorld)
        return [] if self.world.model == "shotgun" else super().more()

    def add_all(self) -> None:
        """Every server that was removed is added again."""
        for endpoint in self.all:
            self._add(endpoint)

    def _add(self, endpoint: str) -> None:
        self.told.add(endpoint)
        self.driver.call(self.core.add_server, endpoint, self.driver.now())

    def make_call(self) -> None:
        if "change" in self.world.active_behaviours and self.chance.happens(0.2):
            self._change()
        super().make_call()

    def _change(self) -> None:
        endpoint = self.chance.pick(self.all)
        if endpoint not in self.told:
            self._add(endpoint)
        elif len(self.told) > 1:
            self.world.note(self.name, "removes", endpoint)
            self.world.count("removed")
            self.told.remove(endpoint)
            self.driver.call(self.core.remove_server, endpoint, self.driver.now())
            assert isinstance(self.world, FreelanceWorld)
            self.world.observer.removed(self, endpoint)


class RogueNode(Node):
    """A server that answers PING as it should, and everything else with what nobody asked for."""

    def __init__(self, world: FreelanceWorld, name: str, settings: SocketSettings) -> None:
        super().__init__(world, name)
        self.endpoint = f"sim://{name}"
        self._settings = settings

    def boot(self) -> None:
        self._socket = SimSocket(self.world.network, self, SocketKind.ROUTER, self._settings, f"{self.name}:server")
        self._socket.bind(self.endpoint)
        self._socket.notify = self._notify

    def _notify(self) -> None:
        self.later(self.world.clock.now() + self.lag, self._look)

    def _look(self) -> None:
        self._socket.process()
        while (frames := self._socket.receive()) is not None:
            end = self._socket.by_id.get(frames[0])
            for answer in self._answers(frames[1:]):
                if end is not None and not end.lost and not end.full:
                    self.world.note(self._socket.name, "sent", [frames[0], *answer])
                    self.world.network.write(end, answer)

    def _answers(self, frames: Frames) -> list[Frames]:
        chance = self.chance
        if frames == [b"PING"]:
            return [[b"PONG"]]
        junk = chance.bytes(chance.below(3))
        # It makes numbers up, but does not lie about a request that it was sent.
        foreign = b"%d" % (10**9 + chance.below(100))
        nonsense: list[Frames] = [
            [b"PONG"],
            [junk],
            [b"PONG", junk],
            [b"", junk],
            [b"", foreign + b"0", junk],
            [b"", b""],
            [foreign, junk],
            [frames[0]],
            [b"", frames[0] or frames[1]],
            [b"", frames[-1], junk, junk],
        ]
        return [chance.pick(nonsense) for _ in range(chance.below(4))]


class HostileClient(HostileNode):
    """Sends servers what is no request, and PINGs without end."""

    world: FreelanceWorld

    def message(self) -> Frames:
        chance = self.chance
        junk = chance.bytes(1 + chance.below(4)).replace(b"\0", b"x")
        if self.world.model == "addressed":
            return chance.pick(([b"PING"], [b"PONG"], [b""], [junk]))
        if self.world.model == "shotgun":
            return chance.pick(([b""], [b"", b"1"], [b"", b"1", b"a", b"b"], [junk, junk], [junk, b""], [junk]))
        return chance.pick(([b""], [junk], [junk, junk], [junk, b""]))
