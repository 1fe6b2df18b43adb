"""What an outsider can tell of any pattern whose calls are answered by handlers: the base of their observers.

R1 and R2 are the :mod:`~zpatterns.testing.ledger`'s; what the messages of a pattern say is its own observer's business.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from zpatterns.core import Frames, SendFailure
from zpatterns.sockets import Link
from zpatterns.testing.driving import SimLink
from zpatterns.testing.ledger import Call
from zpatterns.testing.serving import BrokeredWorld, ServingNode, ServingWorld
from zpatterns.testing.weight import reachable_frames
from zpatterns.testing.world import Node, Observer

W = TypeVar("W", bound=ServingWorld)


class CallObserver(Observer, Generic[W]):
    """Sees to it that calls end, and end well where they must."""

    def __init__(self, world: W) -> None:
        self.world = world
        self.must_succeed: list[Call] = []
        """Calls that were made when all was well."""
        self._measured = 0

    def run_begins(self, node: ServingNode, caller: bytes, frames: Frames) -> None:
        """A handler is about to be started."""

    def calm_runs(self, call: Call) -> int | None:
        """How often handlers run for a call in a calm world, which is answered then; None where it may fail."""
        return 1

    def measure(self) -> None:
        self._measured += 1
        self.world.ledger.check_open()

    @property
    def weighs(self) -> bool:
        """Whether it is time to weigh cores: that is slow, and what leaks is still there later."""
        return self._measured % 6 == 0

    def check_weight(self, name: str, core: object, limit: int) -> None:
        """B1: not more than so many bodies of calls can be reached from the core of the node of this name."""
        held = reachable_frames(core, b"q:")
        if held > limit:
            self.world.violate("B1", f"{name} holds {held} requests, the limit is {limit}")

    def settled(self) -> None:
        self.world.ledger.check_open()

    def finished(self) -> None:
        world = self.world
        world.ledger.check_open()
        for call in self.must_succeed:
            if call.outcome != "reply":
                world.violate("L1", f"{call} ended with {call.outcome}, though all is well")
        for call in world.ledger.calls if world.is_calm else ():
            runs = self.calm_runs(call)
            if runs is not None and (call.outcome != "reply" or len(call.runs) != runs):
                world.violate("R3", f"{call} ended with {call.outcome} after {len(call.runs)} runs in a calm world")

    def check_outboxes(self, links: Iterable[Link]) -> None:
        """B1: no outbox holds more than it may."""
        for link in links:
            assert isinstance(link, SimLink)
            if link.blocked and any(count > self.world.settings.outbox_max for count, _ in link.boxes):
                self.world.violate("B1", f"an outbox of {link.sim.name} holds {max(link.boxes)}")

    def check_unanswered(self) -> None:
        """L1: no call is open that no handler runs for."""
        for call in self.world.ledger.open_calls:
            if self.must_have_ended(call) and all(run.ended or not run.node.alive for run in call.runs):
                self.world.violate("L1", f"{call} is still open, and no handler runs for it")

    def must_have_ended(self, call: Call) -> bool:
        """Whether a call that no handler runs for must have ended when all is well again."""
        return True


class Watch(Protocol):
    """One life of one broker or queue, as seen at its sockets."""

    def read(self, link: SimLink, frames: Frames) -> object: ...
    def asked(self, link: SimLink, frames: Frames) -> None: ...
    def taken(self, link: SimLink, frames: Frames) -> None: ...
    def failed(self, link: SimLink, frames: Frames) -> None: ...

    def is_registered(self, peer: bytes) -> bool:
        """Whether it must have this worker on its list."""


V = TypeVar("V", bound=Watch)
B = TypeVar("B", bound=BrokeredWorld)


class BrokeredObserver(CallObserver[B], Generic[B, V]):
    """Watches each broker or queue from its start to its end, and which workers stood still."""

    def __init__(self, world: B) -> None:
        super().__init__(world)
        self.watches: dict[Node, V] = {}
        self.stalls: dict[Node, float] = {}
        """When a worker's process last went on after it was stopped for longer than its lease."""
        self._paused: dict[Node, float] = {}

    def make_watch(self, node: Node) -> V:
        """A watch over a broker's or queue's new life."""
        raise NotImplementedError

    def happened(self, node: Node, what: str) -> None:
        now = self.world.clock.now()
        if node in self.world.hubs:
            if what == "start":
                self.watches[node] = self.make_watch(node)
            elif what == "kill":
                self.watches.pop(node, None)
        if what == "pause":
            self._paused[node] = now
        elif what == "resume" and now - self._paused[node] > self.world.lease:
            self.stalls[node] = now
        elif what == "start":
            self.stalls.pop(node, None)

    def opened(self, link: SimLink, endpoint: str) -> None:
        if self.world.phase == "quiet" and link.node in self.world.workers:
            self.world.violate("L1", f"{link.sim.name} connects again, though nothing has happened")

    def read(self, link: SimLink, frames: Frames) -> None:
        watch = self.watches.get(link.node)
        if watch is not None:
            watch.read(link, frames)

    def asked(self, link: SimLink, frames: Frames) -> None:
        watch = self.watches.get(link.node)
        if watch is not None:
            watch.asked(link, frames)

    def taken(self, link: SimLink, frames: Frames) -> None:
        watch = self.watches.get(link.node)
        if watch is not None:
            watch.taken(link, frames)

    def failed(self, link: SimLink, frames: Frames, reason: SendFailure) -> None:
        watch = self.watches.get(link.node)
        if watch is not None:
            watch.failed(link, frames)

    def check_registered(self) -> None:
        """L1: every lane of every worker is registered somewhere."""
        for worker in self.world.workers:
            for lane in worker.lanes:
                ids = [id for link in lane.links for id in link.peer_ids]
                if not any(watch.is_registered(id) for id in ids for watch in self.watches.values()):
                    self.world.violate("L1", f"lane {lane.number} of {worker.name} is not registered")
