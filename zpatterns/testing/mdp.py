"""The Majordomo world: real broker, worker and client cores under faults, as an example of how a world is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, cast

from zpatterns.core import Cancel, Command, Deliver, Fail, Run, ServiceCore, SocketKind
from zpatterns.errors import QueueFull
from zpatterns.mdp.broker_core import PORT, BrokerCore
from zpatterns.mdp.broker_state import BrokerOptions, OnWorkerLoss
from zpatterns.mdp.client_core import ClientCore, ClientOptions
from zpatterns.mdp.worker_core import WorkerCore
from zpatterns.service import GOODBYE_LINGER
from zpatterns.sockets import SocketSettings
from zpatterns.testing.clock import Chance
from zpatterns.testing.driving import CallerDriver, SimDriver, SimLink
from zpatterns.testing.faults import Fault
from zpatterns.testing.ledger import Call, HandlerRun, Ledger
from zpatterns.testing.mdp_hostile import HostileNode
from zpatterns.testing.mdp_observer import MajordomoObserver
from zpatterns.testing.world import Node, World
from zpatterns.timing import Liveness


class BrokerNode(Node):
    """A broker's process."""

    def __init__(self, world: MajordomoWorld, name: str, options: BrokerOptions, settings: SocketSettings) -> None:
        super().__init__(world, name)
        self.endpoint = f"sim://{name}"
        self.options = options
        self._settings = settings

    def boot(self) -> None:
        self.core = BrokerCore(self.options)
        self.driver = SimDriver(self, self.core, settings=self._settings, rng=self.chance, on_command=self._no_command)
        self.driver.bind(PORT, SocketKind.ROUTER, self.endpoint)

    def leave(self, drain: float) -> None:
        """SIGTERM: what :meth:`zpatterns.service.Service.stop` does, and the end of the process."""
        _leave(self, [self.driver], drain)

    def _no_command(self, command: Command) -> None:
        raise AssertionError(f"a broker core asked for {command!r}")


class WorkerNode(Node):
    """A worker's process, with one core a lane."""

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
        super().__init__(world, name)
        self.world: MajordomoWorld = world
        self.service = service
        self.version = version
        self._endpoints = endpoints
        self._lane_count = lanes
        self._liveness = liveness
        self._handler_timeout = handler_timeout
        self._settings = settings
        self.is_async = self.chance.happens(0.5)
        self.lanes: list[SimLane] = []

    def boot(self) -> None:
        self.lanes = []
        for number in range(self._lane_count):
            core = WorkerCore(
                self._endpoints,
                self.service.encode(),
                version=self.version,
                liveness=self._liveness,
                rng=self.chance,
                handler_timeout=self._handler_timeout,
            )
            lane = SimLane(self, number, core, self._settings)
            self.lanes.append(lane)
            lane.driver.call(core.start, lane.driver.now())

    def killed(self) -> None:
        self.lanes = []

    def leave(self, drain: float) -> None:
        """SIGTERM."""
        _leave(self, [lane.driver for lane in self.lanes], drain)


class SimLane:
    """Runs the handler of one core as :class:`zpatterns.handlers.Lane` does, but what it does is drawn."""

    def __init__(self, node: WorkerNode, number: int, core: WorkerCore, settings: SocketSettings) -> None:
        self.node = node
        self.number = number
        self.core = core
        self.driver = SimDriver(node, core, settings=settings, rng=node.chance, on_command=self._on_command)
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
        if self._running:
            world.violate("R3", f"{node.name} was given a second request while its handler runs")
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
            ways += [way for way in ("slow", "raise", "hang", "stream", "flood") if way in world.active_behaviours]
        way = chance.pick(ways)
        if way == "hang":
            self._hanging.append(lambda: self._return(number))
        elif way == "raise":
            self.node.later(now + short * chance.random(), self._fail, number, "Boom")
        elif way in ("stream", "flood"):
            parts = 1 + chance.below(5) if way == "stream" else 20 + chance.below(chance.pick((50, 50, 400)))
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


class ClientNode(Node):
    """A process with one client. It makes calls of its own accord while there are faults."""

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
        super().__init__(world, name)
        self.world: MajordomoWorld = world
        self._endpoints = endpoints
        self.options = options
        self._settings = settings
        self._idle = idle
        self._is_blocking = self.chance.happens(0.4)
        self._pace = world.lease * self.chance.pick((0.05, 0.3, 1.0))
        self.open: dict[int, Call] = {}

    def boot(self) -> None:
        self.core = ClientCore(self._endpoints, self.options, self.chance)
        self.open = {}
        self.driver: SimDriver | CallerDriver
        if self._is_blocking:
            self.driver = CallerDriver(
                self,
                self.core,
                settings=self._settings,
                rng=self.chance,
                on_command=self._on_command,
                waiting=lambda: bool(self.open),
            )
        else:
            self.driver = SimDriver(
                self, self.core, settings=self._settings, rng=self.chance, on_command=self._on_command
            )
        if not self._idle:
            self._later_calls()

    def killed(self) -> None:
        self.world.ledger.abandon(self)
        self.open = {}

    def ask(self, service: str, *, version: str = "0.1", is_stream: bool = False, timeout: float | None = None) -> Call:
        """Begin a call, as the front ends do."""
        world, driver = self.world, self.driver
        call = world.ledger.begin(self, service, self.options.timeout if timeout is None else timeout)
        if service.startswith("mmi."):
            call.is_management = True
            call.body = [world.mmi_argument(self.chance)]
        else:
            call.body += [self.chance.pick((b"", b"more", b"MDPC01")) for _ in range(self.chance.below(3))]
        self.open[call.number] = call
        try:
            driver.call(
                self.core.start_call,
                call.number,
                service.encode(),
                list(call.body),
                driver.now(),
                version=version,
                is_stream=is_stream,
                timeout=timeout,
            )
        except QueueFull as error:
            self._ended(call)
            world.ledger.error(call, error)
        if isinstance(driver, CallerDriver):
            driver.lead()
        return call

    def _later_calls(self) -> None:
        chance = self.chance
        pause = self._pace * 2 * chance.random()
        self.later(self.world.clock.now() + pause, self._make_calls)

    def _make_calls(self) -> None:
        world, chance = self.world, self.chance
        if world.phase != "faults" or world.calls_left <= 0:
            return
        if "close" in world.active_behaviours and chance.happens(0.03):
            self.driver.call(self.core.close, self.driver.now())
            self.driver.close()
            self.boot()
            return
        count = 5 + chance.below(20) if "burst" in world.active_behaviours and chance.happens(0.1) else 1
        for _ in range(count):
            world.calls_left -= 1
            self._make_call()
        self._later_calls()

    def _make_call(self) -> None:
        world, chance = self.world, self.chance
        timeout = None if world.is_calm or chance.happens(0.7) else self.options.timeout * (0.05 + chance.random())
        if chance.happens(0.1):
            self.ask(chance.pick(("mmi.service", "mmi.service", "mmi.services", "mmi.workers", "mmi.none")))
            return
        is_stream = chance.happens(0.3)
        version = "0.2" if is_stream else chance.pick(("0.1", "0.1", "0.2"))
        call = self.ask(chance.pick(world.asked_services), version=version, is_stream=is_stream, timeout=timeout)
        if "cancel" in world.active_behaviours and chance.happens(0.2):
            self.later(world.clock.now() + self.options.timeout * chance.random(), self._cancel, call)

    def _cancel(self, call: Call) -> None:
        if self.open.pop(call.number, None) is not None:
            self.world.ledger.cancel(call)
            self.driver.call(self.core.cancel_call, call.number, self.driver.now())

    def _on_command(self, command: Command) -> None:
        assert isinstance(command, Deliver | Fail)
        call = self.world.ledger.calls[command.call - 1]
        if isinstance(command, Fail):
            self._ended(call)
            self.world.ledger.error(call, command.error)
        elif command.last:
            self._ended(call)
            self.world.ledger.reply(call, command.frames)
        else:
            self.world.ledger.part(call, command.frames)
            delay = self.world.lease * 0.1 if "slow-consumer" in self.world.active_behaviours else 0.0
            self.later(self.world.clock.now() + delay * self.chance.random(), self._take_part, command.call)

    def _take_part(self, number: int) -> None:
        if not self.driver.closed:
            self.driver.call(self.core.part_taken, number, self.driver.now())

    def _ended(self, call: Call) -> None:
        self.open.pop(call.number, None)


def _leave(node: Node, drivers: Sequence[SimDriver], drain: float) -> None:
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
            driver.close(GOODBYE_LINGER)
        node.later(now + GOODBYE_LINGER, node.kill)

    look()


class MajordomoWorld(World):
    """One or two brokers, workers of both protocol versions, asyncio and blocking clients, and a hostile peer."""

    name = "mdp"
    fault_classes: ClassVar[tuple[str, ...]] = (*World.fault_classes, "drain")
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
        self.quiet_seconds = 3 * lease
        self.fault_seconds = lease * draw.between(2.0, 6.0)
        self.calls_left = draw.pick((10, 30, 60))
        self.ledger = Ledger(self)
        tight = "tight" if not self.is_calm and draw.happens(0.5) else ""
        self.broker_options = BrokerOptions(
            liveness=liveness,
            queue_max=draw.pick((1, 4, 20)) if tight else 10_000,
            queue_bytes_max=draw.pick((2_000, 100_000)) if tight else 2**30,
            services_max=100 if tight else 1000,
            request_ttl=lease * draw.pick((0.3, 1.0, 3.0)) if tight else 1000.0,
            deliveries_max=draw.pick((1, 2, 3)),
            held_bytes_max=draw.pick((300, 2**20)) if tight else 2**24,
            on_worker_loss=draw.pick((OnWorkerLoss.RETRY, OnWorkerLoss.RETRY, OnWorkerLoss.FAIL)),
        )
        ping = lease * draw.pick((0.2, 0.5, 3.0))
        hwm = draw.pick((1, 2, 5)) if tight else 1000
        settings = SocketSettings(
            send_hwm=hwm,
            receive_hwm=draw.pick((1, 2, 5)) if tight else 1000,
            outbox_max=draw.pick((1, 3, 100)) if tight else 1000,
            ping_interval=ping,
            ping_timeout=ping * draw.pick((1.0, 3.0)),
            handshake_timeout=lease * 0.5,
            reconnect_first=min(0.1, liveness.interval / 4),
            reconnect_cap=min(1.0, liveness.interval),
        )
        self.settings = settings
        self.observer = MajordomoObserver(self)
        self.observers.append(self.observer)
        self.brokers = [
            BrokerNode(self, f"broker{number}", self.broker_options, settings)
            for number in range(1 if self.is_calm else draw.pick((1, 1, 1, 2)))
        ]
        self.services = ["echo", "count", "other"][: 1 + draw.below(3)]
        self.asked_services = self.services + (["nobody"] if draw.happens(0.3) and not self.is_calm else [])
        self.workers = [
            WorkerNode(
                self,
                f"worker{number}",
                self.services[number % len(self.services)],
                endpoints=draw.shuffled([broker.endpoint for broker in self.brokers]),
                version=draw.pick(("0.1", "0.2")),
                lanes=draw.pick((1, 1, 2)),
                liveness=liveness,
                handler_timeout=lease * draw.between(0.1, 2.0) if draw.happens(0.3) and not self.is_calm else None,
                settings=settings,
            )
            for number in range(len(self.services) + draw.below(3))
        ]
        self.clients = [self._client(draw, number) for number in range(1 + draw.below(3))]
        probe = ClientOptions(timeout=self.quiet_seconds * 0.9, retries=3)
        self.probe = ClientNode(
            self, "probe", endpoints=self._endpoints(draw), options=probe, settings=SocketSettings(), idle=True
        )
        for broker in self.brokers:
            broker.frailty = 2
        self.probe.frailty = 0
        self.hostile: HostileNode | None = None
        if "hostile" in self.active_behaviours:
            self.hostile = HostileNode(self, "hostile", self._endpoints(draw), settings)
            self.hostile.frailty = 0
        for node in self.nodes.values():
            node.start()

    def _endpoints(self, draw: Chance) -> list[str]:
        return draw.shuffled([broker.endpoint for broker in self.brokers])

    def _client(self, draw: Chance, number: int) -> ClientNode:
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
        return ClientNode(
            self, f"client{number}", endpoints=self._endpoints(draw), options=options, settings=self.settings
        )

    @property
    def is_calm(self) -> bool:
        """Whether nothing at all goes wrong in this run: then every call must be answered."""
        return not self.active_faults and not self.active_behaviours - {"stream", "burst"}

    def mmi_argument(self, chance: Chance) -> bytes:
        """A service name to ask about."""
        return chance.pick([*self.asked_services, "nothing-here"]).encode()

    def pattern_fault(self, fault: Fault) -> Callable[[], None]:
        """``drain``: SIGTERM for a broker or worker, and a start some time later."""
        node = self.nodes[fault.node]
        incarnation = node.incarnation
        if isinstance(node, BrokerNode | WorkerNode) and node.alive:
            node.later(self.clock.now(), node.leave, self.lease * fault.share)

        def end() -> None:
            if isinstance(node, BrokerNode | WorkerNode) and node.incarnation == incarnation:
                node.kill()  # it took too long
            node.start()

        return end

    def healed(self) -> None:
        for worker in self.workers:
            for lane in worker.lanes:
                lane.release()

    def quiet(self) -> None:
        for service in self.services:
            for _ in range(2):
                self.observer.must_succeed.append(self.probe.ask(service))
        self.probe.ask("mmi.service")
