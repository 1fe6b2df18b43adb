"""A whole cluster in one thread: processes, their cores, a network, faults, and observers who judge from outside.

A :class:`World` is made from a seed and run once: faults first, while observers check what must never be broken; then
everything is healed, and within :attr:`World.bound` seconds all must work again; then a quiet time, in which
nothing may go wrong at all. The same seed gives the same run, byte for byte of its trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from zpatterns.core import Event, Frames, SendFailure
from zpatterns.testing.clock import Chance, Entry, FakeClock, Timer
from zpatterns.testing.faults import Fault, Faults
from zpatterns.testing.network import Network

if TYPE_CHECKING:
    from zpatterns.testing.driving import SimLink


STEPS_MAX = 1_000_000
"""Callbacks that one run may take; the usual is a hundredth of it."""


class Node:
    """One process: it is started, killed, stopped and let go on; its cores live from start to kill.

    A subclass makes its cores and drivers in :meth:`boot`, from nothing but what it was constructed with and `disk`,
    the only thing that outlives a kill.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.chance = world.chance.fork(name)
        self.alive = False
        self.paused_at: float | None = None
        self.resumed_at = 0.0
        self.incarnation = 0
        self.disk: dict[str, Any] = {}
        self.frailty = 1
        """How often a fault chooses this node, relative to the others."""
        self.lag = self.usual_lag = self.chance.pick((0.0, 0.0002, 0.002)) * self.chance.random()
        """Seconds from a signal to the turn that sees it."""
        self._deferred: list[Entry] = []
        world.nodes[name] = self

    def boot(self) -> None:
        """Make the cores and their drivers."""
        raise NotImplementedError

    def killed(self) -> None:
        """The process is dead. For what a subclass keeps about it outside of it."""

    def start(self) -> None:
        """Start the process, if it is not running."""
        if not self.alive:
            self.alive = True
            self.world.network.back(self)
            self.world.happened(self, "start")
            self.boot()

    def kill(self, *, silently: bool = False, lose_disk: bool = False) -> None:
        """SIGKILL; `silently`: the machine lost its power, and its peers are not told."""
        if not self.alive:
            return
        self.alive = False
        self.incarnation += 1
        self.paused_at = None
        self._deferred.clear()
        if silently:
            self.world.network.dark.add(self.name)
        self.world.network.kill(self, silently)
        if lose_disk:
            self.disk.clear()
        self.world.happened(self, "kill")
        self.killed()

    def pause(self) -> None:
        """SIGSTOP."""
        if self.alive and self.paused_at is None:
            self.paused_at = self.world.clock.now()
            self.world.network.hush(self)
            self.world.happened(self, "pause")

    def resume(self) -> None:
        """SIGCONT: its threads go on in an order that nobody knows."""
        if self.paused_at is None:
            return
        self.paused_at = None
        self.resumed_at = self.world.clock.now()
        self.world.happened(self, "resume")
        deferred, self._deferred = self._deferred, []
        # Either the io thread is quick, or the loop begins with what it has.
        delay = self.chance.pick((0.0, 0.001))
        for entry in deferred:
            self.world.clock.put_back(entry, self.resumed_at + delay)
        self.world.network.wake(self)

    def later(self, when: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call back at `when`; not before the process goes on if it is stopped, never once it is dead."""
        return self.world.clock.call_for(self, when, callback, args)

    def missed(self, entry: Entry, life: int) -> None:
        """The process is stopped, or another one by now."""
        if life == self.incarnation:
            self._deferred.append(entry)


class Observer:
    """Sees what an outsider can: messages as they pass, processes as they come and go. Judges by them alone.

    A link's `node` is the process; on a ROUTER's link the first frame is the peer's routing id.
    """

    def happened(self, node: Node, what: str) -> None:
        """``start``, ``kill``, ``pause`` or ``resume``."""

    def opened(self, link: SimLink, endpoint: str) -> None:
        """A socket begins to connect."""

    def read(self, link: SimLink, frames: Frames) -> None:
        """A core is about to be given this message."""

    def asked(self, link: SimLink, frames: Frames) -> None:
        """A core wants this message sent."""

    def taken(self, link: SimLink, frames: Frames) -> None:
        """ZeroMQ took this message."""

    def failed(self, link: SimLink, frames: Frames, reason: SendFailure) -> None:
        """A core is told that this message was not sent."""

    def measure(self) -> None:
        """Called now and then: the time to weigh and count."""

    def settled(self) -> None:
        """The bound after the last fault has passed: everything works again."""

    def finished(self) -> None:
        """The quiet time is over, too."""


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken: which, how, and when."""

    promise: str
    text: str
    at: float

    def __str__(self) -> str:
        return f"{self.promise} at {self.at:.6f}: {self.text}"


class World:
    """See the module. A subclass says what its nodes are and who observes them.

    `seed`: decides everything. `faults`: the names of the fault classes allowed, None for all. `keep`: the numbers of
    the planned faults that are to happen, None for all; a found violation is shrunk with it. `trace`: keep one.
    """

    name: ClassVar[str] = "world"

    fault_classes: ClassVar[tuple[str, ...]] = Faults.CLASSES
    """What may happen in a run; each run leaves some of it out."""

    loses_disks: ClassVar[bool] = False
    """Whether a crash may take :attr:`Node.disk` with it."""

    behaviours: ClassVar[tuple[str, ...]] = ()
    """What handlers and callers may do wrong while there are faults; each run leaves some of it out."""

    def __init__(
        self,
        seed: int,
        *,
        faults: frozenset[str] | None = None,
        keep: frozenset[int] | None = None,
        trace: bool = False,
    ) -> None:
        self.seed = seed
        self.chance = Chance(f"{self.name}:{seed}")
        self.clock = FakeClock()
        self.network = Network(self.clock, self.chance.fork("network"))
        self.nodes: dict[str, Node] = {}
        self.observers: list[Observer] = []
        # Called by the links; see Observer.
        self.read: Callable[[SimLink, Frames], None] = self._tell_read
        self.asked: Callable[[SimLink, Frames], None] = self._tell_asked
        self.taken: Callable[[SimLink, Frames], None] = self._tell_taken
        self.violation: Violation | None = None
        self.error: BaseException | None = None
        self.trace: list[tuple[float, str, str, tuple[object, ...]]] | None = [] if trace else None
        self.counts: dict[str, int] = {}
        self.fault_seconds = 20.0
        """How long the first phase lasts; everything is healed at its end."""
        self.bound = 20.0
        """Seconds after the last fault, or after the start if there is none, within which all must work again (L1)."""
        self.quiet_seconds = 10.0
        self.lease = 5.0
        """About how long silence lasts until a node takes another for dead: faults are drawn on this scale."""
        self._numbers = 0
        self._steps_left = STEPS_MAX
        self.planned: list[Fault] = []
        draw = self.chance.fork("classes")
        self._allowed = faults
        share = draw.pick((0.0, 0.2, 0.6, 0.6))
        active = draw.some(self.fault_classes, share)
        self.active_faults = frozenset(name for name in active if faults is None or name in faults)
        active = draw.some(self.behaviours, draw.pick((0.0, 0.3, 0.7)) if share else 0.0)
        self.active_behaviours = frozenset(name for name in active if faults is None or name in faults)
        self._keep = keep
        self.phase = "faults"
        self._faults = Faults(self)

    # What a subclass provides.

    def build(self) -> None:
        """Make the nodes, start them, and set the times."""
        raise NotImplementedError

    def pattern_fault(self, fault: Fault) -> Callable[[], None] | None:
        """Begin a fault of a class that :class:`Faults` does not know; return what ends it."""
        raise NotImplementedError

    def healed(self) -> None:
        """Every fault is over. Stop what a handler or caller does wrong, too."""

    def quiet(self) -> None:
        """The quiet time begins: make the last calls."""

    def behave(self, *names: str) -> None:
        """Have these :attr:`behaviours` in this run, unless only others are allowed."""
        self.active_behaviours |= {name for name in names if self._allowed is None or name in self._allowed}

    # Running.

    def run(self) -> Violation | None:
        """Run from beginning to end, or to the first violation."""
        clock = self.clock
        self.build()
        if self.trace is None and len(self.observers) == 1:
            # The only one who is told of each message is told by the links themselves.
            [observer] = self.observers
            self.read, self.asked, self.taken = observer.read, observer.asked, observer.taken
        start = clock.now()
        heal_at = start + self.fault_seconds
        settle_at = heal_at + self.bound
        if not self.active_faults and not self.active_behaviours:
            # Nothing has gone wrong since the start: the bound counts from there, and what callers began last has a
            # lease.
            settle_at = min(settle_at, max(start + self.bound, heal_at + self.lease))
        self.planned = self._faults.plan(start, self.fault_seconds, self._keep)
        clock.call_later(self.lease / 2, self._measure)
        self._run_until(heal_at)
        if not self.violation:
            self._faults.heal()
            self.phase = "healing"
            self.note("world", "healed")
            self.healed()
            self._run_until(settle_at)
        if not self.violation:
            self._tell("settled")
        if not self.violation:
            self.phase = "quiet"
            self.note("world", "quiet")
            self.quiet()
            self._run_until(settle_at + self.quiet_seconds)
        if not self.violation:
            self._tell("finished")
        return self.violation

    def violate(self, promise: str, text: str, error: BaseException | None = None) -> None:
        """A promise was broken. The first violation ends the run."""
        if self.violation is None:
            self.violation = Violation(promise, text, self.clock.now())
            self.error = error
            self.note("world", "VIOLATION", promise, text)
            self.clock.halt()

    def number(self) -> int:
        """A number that was not given out before."""
        self._numbers += 1
        return self._numbers

    def count(self, what: str, by: int = 1) -> None:
        """Add to what the summary of many runs tells."""
        self.counts[what] = self.counts.get(what, 0) + by

    def note(self, who: str, what: str, *details: object) -> None:
        """A line of the trace."""
        if self.trace is not None:
            self.trace.append((self.clock.now(), who, what, details))

    def trace_lines(self) -> Iterator[str]:
        """The trace as text, one line an entry."""
        for at, who, what, details in self.trace or ():
            yield " ".join([f"{at:12.6f}", f"{who:<12}", what, *map(_printed, details)])

    # What nodes, links and faults tell.

    def happened(self, node: Node, what: str) -> None:
        self.note(node.name, what)
        for observer in self.observers:
            observer.happened(node, what)

    def opened(self, link: SimLink, endpoint: str) -> None:
        self.note(link.sim.name, "connect", endpoint)
        for observer in self.observers:
            observer.opened(link, endpoint)

    def _tell_read(self, link: SimLink, frames: Frames) -> None:
        if self.trace is not None:
            self.note(link.sim.name, "read", list(frames))
        for observer in self.observers:
            observer.read(link, frames)

    def _tell_asked(self, link: SimLink, frames: Frames) -> None:
        for observer in self.observers:
            observer.asked(link, frames)

    def _tell_taken(self, link: SimLink, frames: Frames) -> None:
        if self.trace is not None:
            self.note(link.sim.name, "sent", list(frames))
        for observer in self.observers:
            observer.taken(link, frames)

    def failed(self, link: SimLink, frames: Frames, reason: SendFailure) -> None:
        self.note(link.sim.name, reason.value, list(frames))
        for observer in self.observers:
            observer.failed(link, frames, reason)

    def _run_until(self, when: float) -> None:
        self._steps_left -= self.clock.run_until(when, self._steps_left)
        if not self._steps_left:
            self.violate("B2", f"{STEPS_MAX} steps and no end: something spins")

    def _tell(self, what: str) -> None:
        for observer in self.observers:
            getattr(observer, what)()

    def _measure(self) -> None:
        self._tell("measure")
        self.clock.call_later(self.lease / 2, self._measure)


def _printed(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_printed, value)) + "]"
    if isinstance(value, bytes):
        text = repr(value)[1:]
        return text if len(text) < 60 else f"{text[:50]}...({len(value)})"
    if isinstance(value, Event | Exception):
        return repr(value)
    return str(value)
