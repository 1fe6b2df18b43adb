"""The processes of the Binary Star world: two halves of a pair around handlers, real cores in all."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from zpatterns.bstar.bstar_core import STATE
from zpatterns.bstar.bstar_state import StarOptions
from zpatterns.bstar.lease_core import ACQUIRE, ON_ACTIVE, ON_PASSIVE, RENEW
from zpatterns.bstar.pair_core import PairCore
from zpatterns.core import Command, Errand, Frames, SocketKind
from zpatterns.pirate.paired_lazy_server_core import PairedLazyServerCore
from zpatterns.server_core import PORT, ServerOptions
from zpatterns.sockets import SocketSettings
from zpatterns.testing.direct import ServerNode
from zpatterns.testing.serving import SimLane

if TYPE_CHECKING:
    from zpatterns.testing.bstar import BinaryStarWorld


class LanePair(PairCore):
    """A pair's half that a lane can tell of its handlers."""

    hosted: PairedLazyServerCore

    def handler_partial(self, run: int, frames: Frames, now: float) -> None:
        self.hosted.handler_partial(run, frames, now)

    def handler_done(self, run: int, frames: Frames, now: float) -> None:
        self.hosted.handler_done(run, frames, now)

    def handler_failed(self, run: int, code: str, message: str, now: float) -> None:
        self.hosted.handler_failed(run, code, message, now)


class StarLane(SimLane):
    """Runs the handlers, and does the pair's errands in their order, as :class:`zpatterns.bstar.BinaryStar` does."""

    node: StarNode
    core: LanePair

    def __init__(self, node: StarNode, core: LanePair, settings: SocketSettings, concurrency: int) -> None:
        self._errands: deque[Errand] = deque()
        self._is_busy = False
        super().__init__(node, 0, core, settings, concurrency=concurrency)

    def _on_command(self, command: Command) -> None:
        if not isinstance(command, Errand):
            super()._on_command(command)
        elif command.what == RENEW:
            self._ask_fence(command)
        else:
            self.node.is_ready = False  # whatever it is, it has to be done before anything is served
            self._errands.append(command)
            if not self._is_busy:
                self._is_busy = True
                self.node.later(self.driver.now(), self._next_errand)

    def _next_errand(self) -> None:
        self._is_busy = bool(self._errands)
        if not self._errands:
            return
        errand = self._errands.popleft()
        if errand.what in (ON_ACTIVE, ON_PASSIVE):
            self.node.later(self.driver.now() + self._pause("hooks", 0.3), self._hook_done, errand)
        else:
            self._ask_fence(errand)

    def _hook_done(self, errand: Errand) -> None:
        world, node = self.node.world, self.node
        if errand.what == ON_ACTIVE:
            raises = "hooks" in world.active_behaviours and world.phase == "faults" and node.chance.happens(0.1)
            node.is_ready = not raises
            self.driver.call(self.core.star.activated, errand.number, not raises, self.driver.now())
        self._next_errand()

    def _ask_fence(self, errand: Errand) -> None:
        """There and back takes time, more than is waited for now and then, and the fence may be out of reach."""
        delay = self._pause("fence", self.node.chance.pick((0.2, 0.2, 0.2, 2.0)))
        self.node.world.clock.call_later(delay, self._at_fence, errand, self.node.incarnation)

    def _at_fence(self, errand: Errand, incarnation: int) -> None:
        node, world = self.node, self.node.world
        lost = "fence" in world.active_behaviours and world.phase == "faults" and node.chance.happens(0.15)
        lost = lost or not world.fence_is_there
        answer: Any = None
        if not lost:
            answer = getattr(world.fence, errand.what)(node.name, errand.number)
        if incarnation == node.incarnation:
            back = self._pause("fence", node.chance.pick((0.2, 0.2, 0.2, 2.0)))
            node.later(world.clock.now() + back, self._from_fence, errand, lost, answer)

    def _from_fence(self, errand: Errand, lost: bool, answer: Any) -> None:
        star, now = self.core.star, self.driver.now()
        if errand.what == ACQUIRE:
            self.driver.call(star.lease_acquired, errand.number, answer, now)
        elif errand.what == RENEW:
            if lost:
                self.driver.call(star.lease_unanswered, errand.number, now)
            else:
                self.driver.call(star.lease_renewed, errand.number, answer, now)
            return
        self._next_errand()

    def _pause(self, behaviour: str, share: float) -> float:
        world = self.node.world
        if behaviour in world.active_behaviours and world.phase == "faults":
            # To be slow is a fault, and ends with the others: an asking that is still on its way then arrives.
            return min(world.lease * share * self.node.chance.random(), world.heals_at - world.clock.now())
        return 0.001 * self.node.chance.random()


class StarNode(ServerNode):
    """One half of the pair."""

    world: BinaryStarWorld

    def __init__(
        self, world: BinaryStarWorld, name: str, options: StarOptions, server: ServerOptions, settings: SocketSettings
    ) -> None:
        super().__init__(world, name, lambda: PairedLazyServerCore(server, self.pair.star.look), settings)
        self.options = options
        self._server = server
        self.is_ready = False
        """Whether `on_active` was done since the last promotion."""
        self.promoted_at = float("-inf")

    def boot(self) -> None:
        self.pair = LanePair(self.options)
        self.core = self.pair.hosted = PairedLazyServerCore(self._server, self.pair.star.look)
        self.lane = StarLane(self, self.pair, self._settings, self._server.concurrency)
        self.lanes = [self.lane]
        self.driver = self.lane.driver
        self.driver.bind(PORT, SocketKind.ROUTER, self.endpoint)
        self.driver.bind(STATE, SocketKind.PUB, state_endpoint(self.name))
        self.driver.call(self.pair.star.start, self.driver.now())

    def promote(self) -> None:
        """An operator does."""
        if not self.driver.closed:
            self.promoted_at = self.world.clock.now()
            self.driver.call(self.pair.star.promote, self.driver.now())

    def step_down(self) -> None:
        """Its program does."""
        if not self.driver.closed:
            self.driver.call(self.pair.star.step_down, self.driver.now(), "told to")


def state_endpoint(name: str) -> str:
    """Where a node publishes its state."""
    return f"sim://{name}/state"
