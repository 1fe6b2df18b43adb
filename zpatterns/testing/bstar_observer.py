"""What an outsider can tell of a Binary Star pair: S1, L1, the fence, and that clients let it settle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zpatterns.core import Frames, SocketKind
from zpatterns.testing.bstar_nodes import StarNode
from zpatterns.testing.direct import CallerNode
from zpatterns.testing.driving import SimLink
from zpatterns.testing.ledger import GRACE, Call
from zpatterns.testing.serving import ServingNode
from zpatterns.testing.world import Node, Observer

if TYPE_CHECKING:
    from zpatterns.testing.bstar import BinaryStarWorld


class _Said:
    """What one node published last."""

    def __init__(self, since: float) -> None:
        self.state = 0
        self.epoch = 0
        self.active_at = float("-inf")  # when it last said that it is active
        self.stood_still: int | None = None  # the epoch in which it stood still, until it has stepped down
        self.since = since  # when it was started, or went on after it stood still: it must hear the other, or wait
        self.changed_at = float("-inf")  # when it last said something else than before
        self.heard: list[tuple[float, int, int]] = []  # when it read which state and epoch of the other, since then


class _Asked:
    """What one client asked last, and where it had an answer."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.at: dict[str, float] = {}
        self.heard: dict[str, float] = {}


class BinaryStarObserver(Observer):
    """S1: an active that stood still steps down before it serves on; who serves says that it is active; once healed
    exactly one is, and stays. With a fence nobody serves without the lease."""

    def __init__(self, world: BinaryStarWorld) -> None:
        self._world = world
        self._said: dict[str, _Said] = {}
        self._asked: dict[str, _Asked] = {}
        self._endpoints: dict[SimLink, str] = {}
        self._paused: dict[str, tuple[float, int]] = {}
        self._settled: list[tuple[str, int, int]] = []
        self.must_succeed: list[Call] = []

    # Processes.

    def happened(self, node: Node, what: str) -> None:
        if isinstance(node, CallerNode):
            if what == "start":
                self._asked[node.name] = _Asked()
            return
        now = self._world.clock.now()
        if what == "start":
            self._said[node.name] = _Said(now)
            return
        said = self._said[node.name]
        if what == "kill":
            said.state = 0
        elif what == "pause":
            self._paused[node.name] = (now, said.epoch if said.state == 3 else 0)
        elif what == "resume":
            since, epoch = self._paused[node.name]
            if now - since > self._world.stall_max + GRACE:
                said.since, said.heard = now, []
                if epoch:
                    said.stood_still = epoch

    # Messages.

    def opened(self, link: SimLink, endpoint: str) -> None:
        self._endpoints[link] = endpoint
        if isinstance(link.node, CallerNode) and link.port == 1:
            self._asked[link.node.name] = _Asked()  # the first socket of a client

    def read(self, link: SimLink, frames: Frames) -> None:
        if isinstance(link.node, CallerNode):
            self._asked[link.node.name].heard[self._endpoints[link]] = self._world.clock.now()
        elif link.sim.kind is SocketKind.SUB:
            self._said[link.node.name].heard.append((self._world.clock.now(), *_parsed(frames)))

    def asked(self, link: SimLink, frames: Frames) -> None:
        if link.sim.kind is SocketKind.PUB:
            self._publishes(link.node, frames)
        elif isinstance(link.node, CallerNode):
            self._asks(link.node, self._endpoints[link])
        elif isinstance(link.node, StarNode):
            said, now = self._said[link.node.name], self._world.clock.now()
            # When it gives up it tells those that wait, and then nobody anything.
            if said.state != 3 and said.active_at < now and said.changed_at < now:
                self._world.violate("S1", f"{link.node.name} answers, and says {said.state}")

    def _publishes(self, node: Node, frames: Frames) -> None:
        world, said = self._world, self._said[node.name]
        state, epoch = _parsed(frames)
        before, before_epoch = said.state, said.epoch
        said.state, said.epoch = state, epoch
        now = world.clock.now()
        if state != before:
            said.changed_at = now
        if state == 3 and (before != 3 or epoch != before_epoch):
            self._is_promoted(node, said, max(before_epoch, 0))
        elif state == 4 and before == 3:
            self._gives_way(node, said, before_epoch)
        if said.stood_still is not None:
            if state == 3 and epoch == said.stood_still:
                world.violate("S1", f"{node.name} stood still and goes on as active in epoch {epoch}")
            said.stood_still = None
        if state == 3:
            said.active_at = now
            if world.is_calm and any(other.state == 3 for name, other in self._said.items() if name != node.name):
                world.violate("S1", f"{node.name} says that it is active beside the other, and nothing went wrong")

    def _is_promoted(self, node: Node, said: _Said, epoch: int) -> None:
        assert isinstance(node, StarNode)
        now = self._world.clock.now()
        known = max([epoch, *(other for at, _, other in said.heard if at < now)])
        if said.epoch <= known:
            self._world.violate("S1", f"{node.name} is active with epoch {said.epoch}, and knows of {known}")
        is_told = said.heard or node.promoted_at >= said.since
        if now < said.since + self._world.lease - GRACE and not is_told:
            self._world.violate("S1", f"{node.name} is active at once, and cannot know what the other is")

    def _gives_way(self, node: Node, said: _Said, epoch: int) -> None:
        """Of two actives the one with the higher epoch stays, then the primary. A node that stood still, or lost its
        lease, may have stepped down first."""
        if self._world.fence is not None or node.resumed_at >= self._world.clock.now() - 0.01:
            return
        theirs = max([0, *(other for _, state, other in said.heard if state == 3)])
        if (epoch, node.name == "primary") > (theirs, node.name == "backup"):
            self._world.violate("S1", f"{node.name} gave way in epoch {epoch} to {theirs}")

    def _asks(self, node: CallerNode, endpoint: str) -> None:
        now, asked = self._world.clock.now(), self._asked[node.name]
        before = asked.at.get(asked.endpoint)
        if before is not None and endpoint != asked.endpoint:
            was_answered = asked.heard.get(endpoint, float("-inf")) >= asked.at.get(endpoint, float("inf"))
            if now < before + self._world.settle_delay - GRACE and not was_answered:
                self._world.violate("L1", f"{node.name} asked {endpoint} {now - before:.3f} s after the other one")
        asked.endpoint = endpoint
        asked.at[endpoint] = now

    # Handlers and callers.

    def run_begins(self, node: ServingNode, caller: bytes, frames: Frames) -> None:
        """A handler is about to be started."""
        world = self._world
        if world.fence is not None and world.fence.holder != node.name:
            world.violate("S1", f"{node.name} serves, and the lease is {world.fence.holder}'s")
        assert isinstance(node, StarNode)
        if node.options.has_hooks and not node.is_ready:
            world.violate("S1", f"{node.name} serves before on_active is done")
        if self._said[node.name].stood_still is not None:
            world.violate("S1", f"{node.name} stood still, and serves before it stepped down")
        # What it becomes in this turn it says at the turn's end.
        world.clock.call_later(0.0, self._check_serving, node, node.incarnation, world.clock.now())

    def _check_serving(self, node: ServingNode, incarnation: int, at: float) -> None:
        said = self._said[node.name]
        if node.incarnation != incarnation or node.paused_at is not None:
            return
        if said.state != 3 and said.active_at < at:
            self._world.violate("S1", f"{node.name} serves, and says {said.state}")

    def answered(self, node: CallerNode, call: Call, frames: Frames) -> None:
        """A caller is about to get its answer: the ledger knows the rest."""

    # The end.

    def measure(self) -> None:
        self._world.ledger.check_open()

    def settled(self) -> None:
        self._settled = self._states()
        if sorted(state for _, state, _ in self._settled) != [3, 4]:
            self._world.violate("S1", f"healed, and not one active and one passive: {self._settled}")

    def finished(self) -> None:
        world = self._world
        states = self._states()
        if world.loses_one:
            if sorted(state for _, state, _ in states) != [0, 3]:
                world.violate("S1", f"one of the two was lost, and the other does not serve: {states}")
        elif states != self._settled:
            world.violate("S1", f"nothing went wrong, and {self._settled} became {states}")
        for call in self.must_succeed:
            if call.outcome != "reply":
                world.violate("L1", f"{call} ended with {call.outcome}, and all was well")

    @property
    def active(self) -> Node:
        """The node that says it is active."""
        return next(self._world.nodes[name] for name, state, _ in self._states() if state == 3)

    def _states(self) -> list[tuple[str, int, int]]:
        return [
            (name, said.state, said.epoch)
            for name, said in sorted(self._said.items())
            if isinstance(self._world.nodes[name], StarNode)
        ]


def _parsed(frames: Frames) -> tuple[int, int]:
    """State and epoch."""
    digit, epoch = frames[0].split()[:2]
    return int(digit), int(epoch.partition(b"=")[2])
