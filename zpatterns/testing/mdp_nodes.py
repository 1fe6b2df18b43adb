"""The processes of the Majordomo world: brokers, workers, clients; their cores real, handlers and callers drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zpatterns.core import Command, Deliver, Fail, SocketKind
from zpatterns.errors import QueueFull
from zpatterns.mdp.broker_core import PORT, BrokerCore
from zpatterns.mdp.broker_state import BrokerOptions
from zpatterns.mdp.client_core import ClientCore, ClientOptions
from zpatterns.mdp.worker_core import WorkerCore
from zpatterns.sockets import SocketSettings
from zpatterns.testing.driving import CallerDriver, SimDriver
from zpatterns.testing.ledger import Call
from zpatterns.testing.serving import ServingNode, SimLane, leave
from zpatterns.testing.world import Node
from zpatterns.timing import Liveness

if TYPE_CHECKING:
    from zpatterns.testing.mdp import MajordomoWorld


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
        leave(self, [self.driver], drain)

    def _no_command(self, command: Command) -> None:
        raise AssertionError(f"a broker core asked for {command!r}")


class WorkerNode(ServingNode):
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
        leave(self, [lane.driver for lane in self.lanes], drain)


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
        is_stream = chance.happens(0.7 if world.focus == "streams" else 0.3)
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
