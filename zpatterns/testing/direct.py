"""Simulated processes of the patterns without a broker: servers around handlers, and clients that ask them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from zpatterns.calls import CallCore
from zpatterns.core import Frames, Rng, SocketKind
from zpatterns.server_core import PORT, ServerCore, ServerOptions
from zpatterns.sockets import SocketSettings
from zpatterns.testing.callers import ClientNode
from zpatterns.testing.ledger import Call
from zpatterns.testing.serving import ServingNode, ServingWorld, SimLane

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
    behaviours: ClassVar[tuple[str, ...]] = ("slow", "raise", "hang", "burst", "cancel", "close", "hostile")

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed, **options)
        self.servers: list[ServerNode] = []
        self.clients: list[CallerNode] = []
        self.calls_left = 0


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
        self.lanes = []
        world.servers.append(self)

    def boot(self) -> None:
        self.core = self._make_core()
        self.lane = self.make_lane()
        self.lanes = [self.lane]
        self.driver = self.lane.driver
        self.driver.bind(PORT, SocketKind.ROUTER, self.endpoint)

    def make_lane(self) -> SimLane:
        """What runs the handlers of the core."""
        return SimLane(self, 0, self.core, self._settings, concurrency=self.core.options.concurrency)


class CallerNode(ClientNode):
    """A process with one client whose calls have nothing but a body.

    `make_core` makes the client's core anew at each start; `timeout`: what that gives a call, in seconds.
    """

    world: DirectWorld
    core: PlainCallCore

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
        super().__init__(world, name, settings, timeout=timeout, idle=idle)
        self._make_core = make_core
        world.clients.append(self)

    def make_core(self, rng: Rng) -> PlainCallCore:
        return self._make_core(rng)

    def ask(self, *, timeout: float | None = None) -> Call:
        """Begin a call."""
        call = self.world.ledger.begin(self, SERVICE, self.timeout if timeout is None else timeout)
        call.body += self.more()
        return self._begin(call, self.core.start_call, list(call.body), self.driver.now(), timeout=timeout)

    def more(self) -> Frames:
        """The frames of a body behind the first."""
        return [self.chance.pick((b"", b"more", b"\x01")) for _ in range(self.chance.below(3))]

    def make_call(self) -> None:
        is_usual = self.world.is_calm or self.chance.happens(0.7)
        call = self.ask(timeout=None if is_usual else self.timeout * (0.05 + self.chance.random()))
        self.maybe_give_up(call)

    def answered(self, call: Call, frames: Frames) -> None:
        self.world.observer.answered(self, call, frames)


def requests_max(options: ServerOptions) -> int:
    """How many requests a server may hold."""
    # Each that waits counts for 512 bytes at least (ServerOptions.queue_bytes_max).
    return min(options.queue_max, options.queue_bytes_max // 512) + options.concurrency


def run_of(world: DirectWorld, answer: bytes) -> HandlerRun | None:
    """The run that said this frame (see :meth:`~zpatterns.testing.ledger.HandlerRun.says`)."""
    if not answer.startswith(b"a:"):
        return None
    call, number, _ = map(int, answer.split(b":")[1:])
    return next((run for run in world.ledger.calls[call - 1].runs if run.number == number), None)
