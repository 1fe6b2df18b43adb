"""What goes wrong in a simulated world: classes of faults, and a schedule of them drawn from the seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from zpatterns.testing.clock import Chance

if TYPE_CHECKING:
    from zpatterns.testing.world import Node, World


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: its class, when it begins and for how many seconds it lasts, whom it meets, and a `share` from 0 to
    1 for whatever else it needs."""

    number: int
    kind: str
    at: float
    seconds: float
    node: str
    other: str
    share: float

    def __str__(self) -> str:
        return f"#{self.number} {self.kind} {self.node} {self.other} at {self.at:.3f} for {self.seconds:.3f} s"


Undo = Callable[[], None]


class Faults:
    """Draws the faults of a world and makes them happen."""

    CLASSES: ClassVar[tuple[str, ...]] = (
        "crash",  # SIGKILL, and a start some time later
        "power",  # the same, but no FIN or RST tells the peers
        "storm",  # killed and started over and over
        "pause",  # SIGSTOP and SIGCONT
        "cut",  # nothing gets through in one direction between two nodes
        "split",  # in neither direction
        "isolate",  # between one node and all others
        "clog",  # a short stop between one node and all others
        "swizzle",  # some nodes are clogged one by one, and unclogged in another order
        "reset",  # every connection of a node breaks
        "midway",  # connections break within messages
        "throttle",  # messages between two nodes take their time
        "slow",  # a node that reads late
    )

    def __init__(self, world: World) -> None:
        self._world = world
        self._undo: list[Undo] = []

    def plan(self, start: float, seconds: float, keep: frozenset[int] | None) -> list[Fault]:
        """Draw the faults of the next `seconds` and put them on the clock; only those numbered in `keep`."""
        world = self._world
        draw = world.chance.fork("faults")
        count = draw.below(draw.pick((4, 10, 24)) + 1)
        planned = []
        for number in range(count):
            fault = self._draw(number, draw.fork(str(number)), start, seconds)
            if fault is not None and (keep is None or number in keep):
                planned.append(fault)
                world.clock.call_at(fault.at, self._begin, fault)
        return planned

    def heal(self) -> None:
        """End every fault that has not ended."""
        undo, self._undo = self._undo, []
        for end in undo:
            end()
        for node in self._world.nodes.values():
            node.start()

    def _draw(self, number: int, draw: Chance, start: float, seconds: float) -> Fault | None:
        world = self._world
        kinds = [kind for kind in world.fault_classes if kind in world.active_faults]
        if not kinds:
            return None
        names = [node.name for node in world.nodes.values() for _ in range(node.frailty)]
        node, other = draw.pick(names), draw.pick(names)
        scale = world.lease * draw.pick((0.2, 1.0, 1.0, 3.0))
        return Fault(
            number,
            draw.pick(kinds),
            start + draw.random() * seconds * 0.9,
            0.01 + draw.random() * scale,
            node,
            other,
            draw.random(),
        )

    def _begin(self, fault: Fault) -> None:
        world = self._world
        world.note("world", "fault", fault)
        world.count(f"fault.{fault.kind}")
        begin = getattr(self, f"_{fault.kind}", None)
        undo = begin(fault) if begin is not None else world.pattern_fault(fault)
        if undo is None:
            return
        self._undo.append(undo)
        world.clock.call_at(fault.at + fault.seconds, self._end, fault, undo)

    def _end(self, fault: Fault, undo: Undo) -> None:
        if undo in self._undo:
            self._undo.remove(undo)
            self._world.note("world", "fault over", fault)
            undo()

    # The classes.

    def _crash(self, fault: Fault) -> Undo:
        node = self._world.nodes[fault.node]
        node.kill(lose_disk=self._world.loses_disks and fault.share < 0.3)
        return node.start

    def _power(self, fault: Fault) -> Undo:
        node = self._world.nodes[fault.node]
        node.kill(silently=True)
        return node.start

    def _storm(self, fault: Fault) -> Undo:
        node = self._world.nodes[fault.node]
        gap = self._world.lease * (0.02 + 0.3 * fault.share)
        going = True

        def again() -> None:
            if going:
                node.kill()
                node.start()
                self._world.clock.call_later(gap, again)

        def end() -> None:
            nonlocal going
            going = False
            node.start()

        again()
        return end

    def _pause(self, fault: Fault) -> Undo:
        node = self._world.nodes[fault.node]
        if not node.alive or node.paused_at is not None:
            return _nothing
        node.pause()
        incarnation = node.incarnation

        def end() -> None:
            if node.incarnation == incarnation:
                node.resume()

        return end

    def _cut(self, fault: Fault) -> Undo:
        return self._cut_paths([(fault.node, fault.other)], fault)

    def _split(self, fault: Fault) -> Undo:
        return self._cut_paths([(fault.node, fault.other), (fault.other, fault.node)], fault)

    def _isolate(self, fault: Fault) -> Undo:
        return self._cut_paths(self._around(fault.node), fault)

    def _clog(self, fault: Fault) -> Undo | None:
        undo = self._cut_paths(self._around(fault.node), fault)
        self._undo.append(undo)
        self._world.clock.call_later(self._world.lease * 0.4 * fault.share, self._end, fault, undo)
        return None

    def _swizzle(self, fault: Fault) -> Undo | None:
        world = self._world
        draw = world.chance.fork(f"swizzle {fault.number}")
        names = draw.some(list(world.nodes), 0.5)
        for name in names:
            begin = draw.random() * fault.seconds / 2
            end = fault.seconds / 2 * (1 + draw.random())
            clog = Fault(fault.number, "isolate", world.clock.now() + begin, end - begin, name, "", fault.share)
            if clog.at < world.clock.now() + fault.seconds:
                world.clock.call_at(clog.at, self._clog_one, clog)
        return None

    def _clog_one(self, fault: Fault) -> None:
        if self._world.phase == "faults":
            undo = self._isolate(fault)
            self._undo.append(undo)
            self._world.clock.call_at(fault.at + fault.seconds, self._end, fault, undo)

    def _reset(self, fault: Fault) -> None:
        network = self._world.network
        for end in list(network.ends):
            if end.host.name == fault.node and not end.gone and not end.over:
                network.reset(end)

    def _midway(self, fault: Fault) -> Undo:
        network = self._world.network
        network.midway = 0.02 + 0.2 * fault.share

        def end() -> None:
            network.midway = 0.0

        return end

    def _throttle(self, fault: Fault) -> Undo:
        network = self._world.network
        network.throttle(fault.node, fault.other, self._world.lease * 0.2 * fault.share)
        return lambda: network.throttle(fault.node, fault.other, 0.0)

    def _slow(self, fault: Fault) -> Undo:
        node: Node = self._world.nodes[fault.node]
        node.lag = self._world.lease * 0.6 * fault.share

        def end() -> None:
            node.lag = node.usual_lag

        return end

    def _around(self, name: str) -> list[tuple[str, str]]:
        others = [other for other in self._world.nodes if other != name]
        return [(name, other) for other in others] + [(other, name) for other in others]

    def _cut_paths(self, paths: list[tuple[str, str]], fault: Fault) -> Undo:
        network = self._world.network
        for source, target in paths:
            network.cut(source, target)
        began = self._world.clock.now()

        def end() -> None:
            # TCP tries again at growing intervals, so what waited comes some time after.
            delay = min(0.5 * (self._world.clock.now() - began), 0.5 * self._world.lease)
            for source, target in paths:
                network.heal(source, target, delay)

        return end


def _nothing() -> None:
    return None
