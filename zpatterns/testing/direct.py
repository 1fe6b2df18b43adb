"""Simulated processes of the patterns without a broker: servers around handlers, and clients that ask them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from zpatterns.calls import CallCore
from zpatterns.core import Command, Deliver, Fail, Frames, Rng, SocketKind
from zpatterns.errors import QueueFull
from zpatterns.server_core import PORT, ServerCore
from zpatterns.sockets import SocketSettings
from zpatterns.testing.driving import CallerDriver, SimDriver, SimLink
from zpatterns.testing.faults import Fault
from zpatterns.testing.ledger import Call
from zpatterns.testing.serving import ServingNode, ServingWorld, SimLane, leave
from zpatterns.testing.world import Node

if TYPE_CHECKING:
    from zpatterns.testing.ledger import HandlerRun

SERVICE = "the server"
"""What the ledger writes where there is only one thing to call."""


class PlainCallCore(CallCore, Protocol):
    """The core of a client whose calls have nothing but a body."""

    def start_call(self, call_id: int, body: Frames, now: float, *, timeout: float | None = None) -> None: ...


class DirectObserver(Protocol):
    """Who is told what only a process itself can tell."""

    def run_begins(self, node: ServingNode, caller: bytes, frames: Frames) -> None:
        """A handler is about to be started."""

    def answered(self, node: CallerNode, call: Call, frames: Frames) -> None:
        """A caller is about to get its answer."""


class DirectWorld(ServingWorld):
    """A world of :class:`ServerNode` and :class:`CallerNode`. A pattern builds it."""

    observer: DirectObserver
    fault_classes: ClassVar[tuple[str, ...]] = (*ServingWorld.fault_classes, "drain")
    behaviours: ClassVar[tuple[str, ...]] = ("slow", "raise", "hang", "burst", "cancel", "close", "hostile")

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed, **options)
        self.servers: list[ServerNode] = []
        self.clients: list[CallerNode] = []
        self.calls_left = 0

    @property
    def is_calm(self) -> bool:
        """Whether nothing at all goes wrong in this run: then every call must be answered."""
        return not self.active_faults and not self.active_behaviours - {"burst"}

    def pattern_fault(self, fault: Fault) -> Callable[[], None]:
        """``drain``: SIGTERM for a server, and a start some time later."""
        node = self.nodes[fault.node]
        incarnation = node.incarnation
        if isinstance(node, ServerNode) and node.alive:
            node.later(self.clock.now(), node.leave, self.lease * fault.share)

        def end() -> None:
            if isinstance(node, ServerNode) and node.incarnation == incarnation:
                node.kill()  # it took too long
            node.start()

        return end

    def healed(self) -> None:
        for server in self.servers:
            server.release()


class ServerNode(ServingNode):
    """The process of one server. `make_core` makes its core anew at each start."""

    service = SERVICE
    world: DirectWorld

    def __init__(
        self, world: DirectWorld, name: str, make_core: Callable[[], ServerCore], settings: SocketSettings
    ) -> None:
        super().__init__(world, name)
        self.endpoint = f"sim://{name}"
        self.is_async = self.chance.happens(0.5)
        self._make_core = make_core
        self._settings = settings
        world.servers.append(self)

    def boot(self) -> None:
        self.core = self._make_core()
        self.lane = SimLane(self, 0, self.core, self._settings, concurrency=self.core.options.concurrency)
        self.driver = self.lane.driver
        self.driver.bind(PORT, SocketKind.ROUTER, self.endpoint)

    def leave(self, drain: float) -> None:
        """SIGTERM."""
        leave(self, [self.driver], drain)

    def release(self) -> None:
        """Handlers that hang return."""
        if self.alive:
            self.lane.release()


class CallerNode(Node):
    """A process with one client. It makes calls of its own accord while there are faults, unless it is `idle`.

    `make_core` makes the client's core anew at each start; `timeout`: what that gives a call, in seconds.
    """

    world: DirectWorld

    def __init__(
        self,
        world: DirectWorld,
        name: str,
        make_core: Callable[[Rng], PlainCallCore],
        settings: SocketSettings,
        *,
        timeout: float,
        idle: bool = False,
    ) -> None:
        super().__init__(world, name)
        self._make_core = make_core
        self._settings = settings
        self.timeout = timeout
        self._idle = idle
        self._is_blocking = self.chance.happens(0.4)
        self._pace = world.lease * self.chance.pick((0.05, 0.3, 1.0))
        self.open: dict[int, Call] = {}
        world.clients.append(self)

    def boot(self) -> None:
        self.core = self._make_core(self.chance)
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

    @property
    def links(self) -> list[SimLink]:
        """Its sockets."""
        return [link for link in self.driver.links.values() if isinstance(link, SimLink)]

    def killed(self) -> None:
        self.world.ledger.abandon(self)
        self.open = {}

    def ask(self, *, timeout: float | None = None) -> Call:
        """Begin a call, as the front ends do."""
        world, driver = self.world, self.driver
        call = world.ledger.begin(self, SERVICE, self.timeout if timeout is None else timeout)
        call.body += self.more()
        self.open[call.number] = call
        try:
            driver.call(self.core.start_call, call.number, list(call.body), driver.now(), timeout=timeout)
        except QueueFull as error:
            self._ended(call)
            world.ledger.error(call, error)
        if isinstance(driver, CallerDriver):
            driver.lead()
        return call

    def more(self) -> Frames:
        """The frames of a body behind the first."""
        return [self.chance.pick((b"", b"more", b"\x01")) for _ in range(self.chance.below(3))]

    def _later_calls(self) -> None:
        pause = self._pace * 2 * self.chance.random()
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
        call = self.ask(
            timeout=None if world.is_calm or chance.happens(0.7) else self.timeout * (0.05 + chance.random())
        )
        if "cancel" in world.active_behaviours and chance.happens(0.2):
            self.later(world.clock.now() + self.timeout * chance.random(), self._cancel, call)

    def _cancel(self, call: Call) -> None:
        if self.open.pop(call.number, None) is not None:
            self.world.ledger.cancel(call)
            self.driver.call(self.core.cancel_call, call.number, self.driver.now())

    def _on_command(self, command: Command) -> None:
        assert isinstance(command, Deliver | Fail)
        call = self.world.ledger.calls[command.call - 1]
        self._ended(call)
        if isinstance(command, Fail):
            self.world.ledger.error(call, command.error)
        else:
            self.world.observer.answered(self, call, command.frames)
            self.world.ledger.reply(call, command.frames)

    def _ended(self, call: Call) -> None:
        self.open.pop(call.number, None)


def run_of(world: DirectWorld, answer: bytes) -> HandlerRun | None:
    """The run that said this frame (see :meth:`~zpatterns.testing.ledger.HandlerRun.says`)."""
    if not answer.startswith(b"a:"):
        return None
    call, number, _ = map(int, answer.split(b":")[1:])
    return next((run for run in world.ledger.calls[call - 1].runs if run.number == number), None)
