"""The processes of the Majordomo world: brokers, workers, clients; their cores real, handlers and callers drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zpatterns.core import Frames, Rng
from zpatterns.mdp.broker_core import PORT, BrokerCore
from zpatterns.mdp.broker_state import BrokerOptions
from zpatterns.mdp.client_core import ClientCore, ClientOptions
from zpatterns.mdp.worker_core import WorkerCore
from zpatterns.sockets import SocketSettings
from zpatterns.testing.callers import ClientNode
from zpatterns.testing.ledger import Call
from zpatterns.testing.serving import HubNode, WorkerNode
from zpatterns.timing import Liveness

if TYPE_CHECKING:
    from zpatterns.testing.mdp import MajordomoWorld


class BrokerNode(HubNode):
    """A broker's process."""

    core: BrokerCore

    def __init__(self, world: MajordomoWorld, name: str, options: BrokerOptions, settings: SocketSettings) -> None:
        self.endpoint = f"sim://{name}"
        self.options = options
        super().__init__(world, name, {PORT: self.endpoint}, settings)

    def make_core(self) -> BrokerCore:
        return BrokerCore(self.options)


class MajordomoWorkerNode(WorkerNode):
    """A worker's process."""

    def __init__(
        self,
        world: MajordomoWorld,
        name: str,
        service: str,
        *,
        endpoints: list[str],
        version: str,
        lanes: int,
        liveness: Liveness,
        handler_timeout: float | None,
        settings: SocketSettings,
    ) -> None:
        super().__init__(world, name, service, lane_count=lanes, settings=settings)
        self.version = version
        self._endpoints = endpoints
        self._liveness = liveness
        self._handler_timeout = handler_timeout

    def make_core(self) -> WorkerCore:
        return WorkerCore(
            self._endpoints,
            self.service.encode(),
            version=self.version,
            liveness=self._liveness,
            rng=self.chance,
            handler_timeout=self._handler_timeout,
        )


class MajordomoClientNode(ClientNode):
    """A client's process."""

    core: ClientCore

    def __init__(
        self,
        world: MajordomoWorld,
        name: str,
        *,
        endpoints: list[str],
        options: ClientOptions,
        settings: SocketSettings,
        idle: bool = False,
    ) -> None:
        super().__init__(world, name, settings, timeout=options.timeout, idle=idle)
        self.world: MajordomoWorld = world
        self.options = options
        self._endpoints = endpoints

    def make_core(self, rng: Rng) -> ClientCore:
        return ClientCore(self._endpoints, self.options, rng)

    def ask(self, service: str, *, version: str = "0.1", is_stream: bool = False, timeout: float | None = None) -> Call:
        """Begin a call."""
        world = self.world
        call = world.ledger.begin(self, service, self.timeout if timeout is None else timeout)
        if service.startswith("mmi."):
            call.is_management = True
            call.body = [world.mmi_argument(self.chance)]
        else:
            call.body += [self.chance.pick((b"", b"more", b"MDPC01")) for _ in range(self.chance.below(3))]
        how = {"version": version, "is_stream": is_stream, "timeout": timeout}
        return self._begin(call, self.core.start_call, service.encode(), list(call.body), self.driver.now(), **how)

    def make_call(self) -> None:
        world, chance = self.world, self.chance
        timeout = None if world.is_calm or chance.happens(0.7) else self.timeout * (0.05 + chance.random())
        if chance.happens(0.1):
            self.ask(chance.pick(("mmi.service", "mmi.service", "mmi.services", "mmi.workers", "mmi.none")))
            return
        is_stream = chance.happens(0.7 if world.focus == "streams" else 0.3)
        version = "0.2" if is_stream else chance.pick(("0.1", "0.1", "0.2"))
        call = self.ask(chance.pick(world.asked_services), version=version, is_stream=is_stream, timeout=timeout)
        self.maybe_give_up(call)

    def got_part(self, call: Call, frames: Frames) -> None:
        world = self.world
        world.ledger.part(call, frames)
        delay = world.lease * 0.1 if "slow-consumer" in world.active_behaviours else 0.0
        self.later(world.clock.now() + delay * self.chance.random(), self._take_part, call.number)

    def _take_part(self, number: int) -> None:
        if not self.driver.closed:
            self.driver.call(self.core.part_taken, number, self.driver.now())
