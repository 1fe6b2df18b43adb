"""What any simulated process with a handler does: its handler is drawn, and it ends as a real service does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

from zpatterns.core import Cancel, Command, Core, Frames, Run, ServiceCore, SocketKind
from zpatterns.handlers import HandlerCore
from zpatterns.service import GOODBYE_LINGER, PEERS_READ
from zpatterns.sockets import SocketSettings
from zpatterns.testing.driving import SimDriver, SimLink
from zpatterns.testing.world import Node, World
from zpatterns.worker_core import LaneCore as WorkerCore

if TYPE_CHECKING:
    from zpatterns.testing.clock import Chance
    from zpatterns.testing.faults import Fault
    from zpatterns.testing.ledger import HandlerRun, Ledger

_WAYS = ("slow", "raise", "hang", "stream", "stream", "flood")
"""What a handler may do but answer at once; named twice, it is twice as likely."""


class RunObserver(Protocol):
    """Who is told that a handler starts."""

    def run_begins(self, node: ServingNode, caller: bytes, frames: Frames) -> None: ...


class ServingWorld(World):
    """A world in which handlers answer calls. It keeps a book of them, and somebody watches the handlers."""

    fault_classes: ClassVar[tuple[str, ...]] = (*World.fault_classes, "drain")
    ledger: Ledger
    observer: RunObserver
    settings: SocketSettings
    calls_left: int
    """How many calls callers still make of their own accord."""

    @property
    def is_calm(self) -> bool:
        """Whether nothing at all goes wrong in this run: then every call must be answered, and once."""
        return not self.active_faults and not self.active_behaviours - {"stream", "burst"}

    def draw_settings(self, draw: Chance, tight: bool, **others: Any) -> SocketSettings:
        """Settings on the scale of the lease, with room for a few messages only in a `tight` world."""
        ping = self.lease * draw.pick((0.2, 0.5, 3.0))
        return SocketSettings(
            send_hwm=draw.pick((1, 2, 5)) if tight else 1000,
            receive_hwm=draw.pick((1, 2, 5)) if tight else 1000,
            outbox_max=draw.pick((1, 3, 100)) if tight else 1000,
            probe_interval=ping,
            probe_timeout=ping * draw.pick((1.0, 3.0)),
            keepalive_idle=self.lease * draw.pick((0.5, 1.0, 4.0)),
            keepalive_interval=self.lease * 0.1,
            handshake_timeout=self.lease * 0.5,
            **others,
        )

    def pattern_fault(self, fault: Fault) -> Callable[[], None]:
        """``drain``: SIGTERM for a service, and a start some time later."""
        node = self.nodes[fault.node]
        incarnation = node.incarnation
        if isinstance(node, ServiceNode) and node.alive:
            node.later(self.clock.now(), node.leave, self.lease * fault.share)

        def end() -> None:
            if isinstance(node, ServiceNode) and node.incarnation == incarnation:
                node.kill()  # it took too long
            node.start()

        return end

    def healed(self) -> None:
        for node in self.nodes.values():
            if isinstance(node, ServingNode):
                node.release()


class BrokeredWorld(ServingWorld):
    """A world in which brokers or queues, the `hubs`, stand between callers and workers."""

    hubs: Sequence[HubNode]
    workers: Sequence[WorkerNode]


def reconnects(interval: float) -> dict[str, float]:
    """What :meth:`ServingWorld.draw_settings` is given beside by patterns with heartbeats of this interval."""
    return {
        "connect_timeout": max(1.0, min(3.0, interval)),
        "reconnect_first": min(0.1, interval / 4),
        "reconnect_cap": min(1.0, interval),
    }


class ServiceNode(Node):
    """The process of a server, worker or broker."""

    @property
    def drivers(self) -> Sequence[SimDriver]:
        """Those of its cores, from :meth:`boot` on."""
        raise NotImplementedError

    def leave(self, drain: float) -> None:
        """SIGTERM: what :meth:`zpatterns.service.Service.stop` does, and the end of the process."""
        leave(self, self.drivers, drain)


class HubNode(ServiceNode):
    """The process of a broker or queue: one core between ROUTERs. `endpoints`: where each of its ports is bound."""

    def __init__(self, world: World, name: str, endpoints: dict[str, str], settings: SocketSettings) -> None:
        super().__init__(world, name)
        self._endpoints = endpoints
        self._settings = settings

    def make_core(self) -> Core:
        """The core of a new life."""
        raise NotImplementedError

    def boot(self) -> None:
        self.core = self.make_core()
        self.driver = SimDriver(self, self.core, settings=self._settings, rng=self.chance, on_command=self._no_command)
        for port, endpoint in self._endpoints.items():
            self.driver.bind(port, SocketKind.ROUTER, endpoint)

    @property
    def drivers(self) -> Sequence[SimDriver]:
        return [self.driver]

    def _no_command(self, command: Command) -> None:
        raise AssertionError(f"the core of {self.name} asked for {command!r}")


class ServingNode(ServiceNode):
    """A process with handlers, in lanes of one core each."""

    world: ServingWorld
    service: str
    is_async: bool
    lanes: list[SimLane]

    @property
    def drivers(self) -> Sequence[SimDriver]:
        return [lane.driver for lane in self.lanes]

    def killed(self) -> None:
        self.lanes = []

    def release(self) -> None:
        """Handlers that hang return."""
        for lane in self.lanes:
            lane.release()


class WorkerNode(ServingNode):
    """A worker's process; `lane_count`: how many cores it has."""

    def __init__(
        self, world: ServingWorld, name: str, service: str, *, lane_count: int, settings: SocketSettings
    ) -> None:
        super().__init__(world, name)
        self.service = service
        self._lane_count = lane_count
        self._settings = settings
        self.is_async = self.chance.happens(0.5)
        self.lanes = []

    def make_core(self) -> WorkerCore:
        """The core of a lane's new life."""
        raise NotImplementedError

    def boot(self) -> None:
        self.lanes = []
        for number in range(self._lane_count):
            core = self.make_core()
            lane = SimLane(self, number, core, self._settings)
            self.lanes.append(lane)
            lane.driver.call(core.start, lane.driver.now())


class LaneCore(Core, HandlerCore, Protocol):
    """A core that asks for runs of a handler."""


class SimLane:
    """Runs the handlers of one core as :class:`zpatterns.handlers.Lane` does, but what they do is drawn.

    `concurrency`: how many runs the core may ask for at a time.
    """

    def __init__(
        self, node: ServingNode, number: int, core: LaneCore, settings: SocketSettings, *, concurrency: int = 1
    ) -> None:
        self.node = node
        self.number = number
        self.core = core
        self.driver = SimDriver(node, core, settings=settings, rng=node.chance, on_command=self._on_command)
        self._concurrency = concurrency
        self._running: dict[int, HandlerRun] = {}
        self._hanging: list[Callable[[], None]] = []

    @property
    def links(self) -> list[SimLink]:
        """Its sockets."""
        return [link for link in self.driver.links.values() if isinstance(link, SimLink)]

    def release(self) -> None:
        """Handlers that hang return."""
        hanging, self._hanging = self._hanging, []
        for end in hanging:
            self.node.later(self.driver.now(), end)

    def _on_command(self, command: Command) -> None:
        if isinstance(command, Cancel):
            if self.node.is_async and command.run in self._running:
                self.node.later(self.driver.now(), self._fail, command.run, "cancelled")
            return
        assert isinstance(command, Run)
        world, node = self.node.world, self.node
        if len(self._running) >= self._concurrency:
            world.violate("R3", f"{node.name} was given another request while its handlers run")
        world.observer.run_begins(node, command.client, command.frames)
        run = world.ledger.run(node, node.service, command.frames)
        if run is not None:
            self._running[command.run] = run
            self._start(command.run, run)

    def _start(self, number: int, run: HandlerRun) -> None:
        world, chance = self.node.world, self.node.chance
        now, short = self.driver.now(), world.lease * 0.01
        ways = ["instant"]
        if world.phase == "faults":
            ways += [way for way in _WAYS if way in world.active_behaviours]
        way = chance.pick(ways)
        if way == "hang":
            self._hanging.append(lambda: self._return(number))
        elif way == "raise":
            self.node.later(now + short * chance.random(), self._fail, number, "Boom")
        elif way in ("stream", "flood"):
            parts = 1 + chance.below(7) if way == "stream" else 20 + chance.below(chance.pick((50, 50, 150)))
            gap = world.lease * 0.3 * chance.random() if way == "stream" else 0.0
            ending = self._raise if "raise" in world.active_behaviours and chance.happens(0.3) else self._return
            self.node.later(now + gap, self._part, number, parts, gap, ending)
        else:
            delay = world.lease * 1.5 * chance.random() if way == "slow" else short * chance.random()
            self.node.later(now + delay, self._return, number)

    def _part(self, number: int, left: int, gap: float, then: Callable[[int], None]) -> None:
        run = self._running.get(number)
        if run is None:
            return
        now = self.driver.now()
        if self.driver._blocked:
            # Lane awaits `uncongested` before it asks the handler for more.
            self.node.later(now + 0.01, self._part, number, left, gap, then)
            return
        self.driver.call(self.core.handler_partial, number, run.says(self.node.chance.below(3)), now)
        if left > 1:
            self.node.later(now + gap, self._part, number, left - 1, gap, then)
        else:
            self.node.later(now + gap, then, number)

    def _return(self, number: int) -> None:
        run = self._running.pop(number, None)
        if run is not None:
            frames = run.returns(self.node.chance.below(3))
            self.driver.call(self.core.handler_done, number, frames, self.driver.now())

    def _raise(self, number: int) -> None:
        self._fail(number, "Boom")

    def _fail(self, number: int, code: str) -> None:
        run = self._running.pop(number, None)
        if run is not None:
            self.driver.call(self.core.handler_failed, number, code, run.raises(), self.driver.now())


def leave(node: Node, drivers: Sequence[SimDriver], drain: float) -> None:
    """What :meth:`zpatterns.service.Service.stop` does, and then the end of the process."""
    deadline = node.world.clock.now() + drain
    for driver in drivers:
        if not driver.closed:
            driver.call(cast(ServiceCore, driver.core).drain, driver.now())

    def look() -> None:
        now = node.world.clock.now()
        open_drivers = [driver for driver in drivers if not driver.closed]
        if now < deadline and not all(cast(ServiceCore, driver.core).drained for driver in open_drivers):
            node.later(now + drain / 20, look)
            return
        for driver in open_drivers:
            driver.call(cast(ServiceCore, driver.core).shut_down, now)
        is_server = any(link.routed for driver in open_drivers for link in driver.links.values())
        node.later(now + PEERS_READ if drain > 0 and is_server else now, end)

    def end() -> None:
        for driver in drivers:
            driver.close(GOODBYE_LINGER)
        node.later(node.world.clock.now() + GOODBYE_LINGER, node.kill)

    look()
