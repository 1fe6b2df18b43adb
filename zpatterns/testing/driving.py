"""The drivers of the simulated world: the real ones, on a simulated socket and loop.

:class:`SimDriver` is :class:`~zpatterns.reactor.ReactorDriver` itself: the order of a turn, the budgets, the late
timers and the outboxes of full peers are the code that runs in production. :class:`CallerDriver` runs a core as
:class:`~zpatterns.blocking.BlockingDriver` does: only while somebody waits.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from zpatterns.core import Command, Core, Event, Frames, PortId, Rng, SendFailure, SocketKind
from zpatterns.driver import Driver
from zpatterns.reactor import Reactor, ReactorDriver
from zpatterns.sockets import POLLIN, POLLOUT, Link, SocketSettings
from zpatterns.telemetry import Telemetry
from zpatterns.testing.simsocket import SimSocket
from zpatterns.transfer import Sent

if TYPE_CHECKING:
    import zmq

    from zpatterns.testing.world import Node


class SimTransfer:
    """A simulated socket's messages, in and out: what is read and what was taken is told to the world's observers."""

    end_is_cheap = False
    oversize = 0
    __slots__ = ("_link", "_sim", "_world")

    def __init__(self, link: SimLink) -> None:
        self._link = link
        self._sim = link.sim
        self._world = link.node.world

    def events(self) -> int:
        sim = self._sim
        return (POLLIN if sim.look() else 0) | (POLLOUT if sim.writable() else 0)

    def receive(self, budget: int) -> list[Frames]:
        sim, link, told = self._sim, self._link, self._world.read
        batch: list[Frames] = []
        while len(batch) < budget:
            frames = sim.receive()
            if frames is None:
                sim.process()
                frames = sim.receive()
                if frames is None:
                    break
            told(link, frames)
            batch.append(frames)
        return batch

    def send(self, messages: list[Frames], start: int, stop: int) -> Sent:
        sim, link, told = self._sim, self._link, self._world.taken
        network = sim.network
        for at in range(start, stop):
            frames = messages[at]
            if sim.publishes:
                told(link, frames)
                sim.publish(frames)
                continue
            end = sim.choose(frames[0])
            if isinstance(end, int):
                return at, end, False
            if network.midway and any(network.breaks_midway(end) for _ in frames[1:]):
                # router.cpp swallows the rest without a word; lb.cpp, which knows no other end for it, says so.
                if sim.routed:
                    continue
                return at, errno.EAGAIN, True
            told(link, frames)
            network.write(end, frames[1:] if sim.routed else frames[:])
        return stop, 0, False


class SimLink(Link):
    """A link over a simulated socket. Outboxes, retries and failures are :class:`~zpatterns.sockets.Link`'s own."""

    __slots__ = ("_flushing", "_number", "_world", "node", "sim")

    node: Node
    """The process it belongs to."""
    sim: SimSocket

    def __init__(self, node: Node, kind: SocketKind, port: PortId, settings: SocketSettings) -> None:
        # In the place of Link's own, which makes a real socket.
        self.sim = SimSocket(node.world.network, node, kind, settings, f"{node.name}:{port}")
        self.node = node
        self._world = node.world
        self._number = node.world.number()
        self._settings = settings
        self._frames_max = None  # nothing here is too long for whom it reaches
        self._boxes = {}
        self._boxed_bytes = 0
        self._flushing = False
        self.routed = kind is SocketKind.ROUTER
        self._transfer = SimTransfer(self)
        self.port = port
        self.closed = False
        self.oversize = 0
        self.paused = False
        self.retry_at = None
        self.scheduled = False

    def __hash__(self) -> int:
        # The drivers keep sets of links: their order must not come from addresses in memory.
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def boxes(self) -> list[tuple[int, int]]:
        """Messages and bytes in the outbox of each full peer."""
        return [(len(box.messages), box.bytes) for box in self._boxes.values()]

    @property
    def peer_ids(self) -> list[bytes]:
        """The ids under which the other ends of its connections know it."""
        return [end.peer.peer_id for end in self.sim.ends if not end.lost]

    def bind(self, endpoint: str) -> str:
        self.sim.bind(endpoint)
        return endpoint

    def connect(self, endpoint: str, peer_id: bytes = b"") -> None:
        self._world.opened(self, endpoint)
        self.sim.connect(endpoint, peer_id)

    def subscribe(self, prefix: bytes) -> None:
        self.sim.subscribe(prefix)

    def fileno(self) -> int:
        return self._number

    def events(self) -> int:
        # Without the question for POLLOUT where the answer is of no use.
        return super().events() if self._boxes else POLLIN if self.sim.look() else 0

    def send(self, messages: list[Frames], now: float, failures: list[tuple[PortId, Frames, SendFailure]]) -> None:
        world = self._world
        if not self._flushing:
            for frames in messages:
                world.asked(self, frames)
        before = len(failures)
        super().send(messages, now, failures)
        if len(failures) > before:
            for _, frames, reason in failures[before:]:
                world.failed(self, frames, reason)

    def flush(self, now: float, failures: list[tuple[PortId, Frames, SendFailure]], force: bool = False) -> None:
        self._flushing = True
        super().flush(now, failures, force)
        self._flushing = False

    def discard(self) -> list[Frames]:
        messages = super().discard()
        for frames in messages:
            self._world.failed(self, frames, SendFailure.UNREACHABLE)
        return messages

    def close(self, linger: float) -> None:
        if not self.closed:
            self.closed = True
            self._boxes.clear()
            self.sim.close(linger)


class SimTelemetry(Telemetry):
    """Events go to the trace; an exception that a driver had to catch is a violation of B2."""

    def __init__(self, source: str, node: Node, on_event: Callable[[Event], None] | None) -> None:
        super().__init__(source, on_event)
        self._node = node

    def emit(self, event: Event) -> None:
        self._node.world.note(self._node.name, "event", event)
        if self._on_event is not None:
            self._on_event(event)

    def error(self, what: str, exc: BaseException, **fields: Any) -> None:
        self._node.world.violate("B2", f"{self._node.name}: {what}: {exc!r} {fields or ''}", exc)

    def info(self, what: str, **fields: Any) -> None:
        self._node.world.note(self._node.name, what, fields)


class SimLoop:
    """What the driver uses of an asyncio loop and of tornado's view of it."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._clock = node.world.clock
        self.time = self._clock.now
        self.call_at = node.later
        self.links: dict[int, SimLink] = {}

    def call_soon(self, callback: Callable[..., object], *args: Any) -> object:
        return self._clock.put(self._clock.time, callback, args, self._node)

    call_soon_threadsafe = call_soon

    def add_handler(self, descriptor: int, callback: Callable[[int, int], None], _events: int) -> None:
        link = self.links[descriptor]
        node, clock, sim, links = self._node, self._clock, link.sim, self.links

        def ready() -> None:
            # epoll looks again after each turn, so a signal that nobody took is found again.
            if sim.signalled and descriptor in links:
                callback(descriptor, POLLIN)
                if sim.signalled:
                    clock.put(clock.time, ready, (), node)

        def notify() -> None:
            clock.put(clock.time + node.lag, ready, (), node)

        sim.notify = notify
        if sim.signalled:
            notify()

    def remove_handler(self, descriptor: int) -> None:
        self.links.pop(descriptor).sim.notify = None


class SimReactor:
    """What the driver uses of a :class:`~zpatterns.reactor.Reactor`."""

    context = None

    def __init__(self, node: Node, rng: Rng) -> None:
        self.loop = self.io_loop = SimLoop(node)
        self.rng = rng

    def attach(self, driver: object) -> None:
        """Nothing to count: a context has no end here."""

    detach = attach


class SimDriver(ReactorDriver):
    """A reactor's driver on simulated sockets."""

    def __init__(
        self,
        node: Node,
        core: Core,
        *,
        settings: SocketSettings,
        rng: Rng,
        on_command: Callable[[Command], None],
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self._node = node
        reactor = SimReactor(node, rng)
        self._sim_loop = reactor.loop
        super().__init__(
            cast(Reactor, reactor),
            core,
            settings=settings,
            telemetry=SimTelemetry(node.name, node, on_event),
            on_command=on_command,
            stall_threshold=float("inf"),
        )

    def _new_link(self, port: PortId, kind: SocketKind) -> Link:
        link = SimLink(self._node, kind, port, self._settings)
        self._sim_loop.links[link.fileno()] = link
        return link


class CallerDriver(Driver):
    """A blocking driver: nothing is read, sent again or timed unless `waiting` says that a caller waits."""

    def __init__(
        self,
        node: Node,
        core: Core,
        *,
        settings: SocketSettings,
        rng: Rng,
        on_command: Callable[[Command], None],
        waiting: Callable[[], bool],
    ) -> None:
        self._node = node
        super().__init__(
            core,
            context=cast("zmq.Context[zmq.Socket[bytes]]", None),
            settings=settings,
            rng=rng,
            telemetry=SimTelemetry(node.name, node, None),
            on_command=on_command,
        )
        self.now = node.world.clock.now  # type: ignore[method-assign]
        self._waiting = waiting
        self._due: dict[Link, None] = {}
        self._when: float | None = None
        self._pumps: set[float] = set()

    def lead(self) -> None:
        """A caller begins to wait: the poll looks at every socket, whatever was signalled before."""
        for link in self.links.values():
            self._due[link] = None
        self._pump_at(self.now())

    def _pump_at(self, when: float) -> None:
        if when not in self._pumps:
            self._pumps.add(when)
            self._node.later(when, self._pump, when)

    def _pump(self, when: float) -> None:
        self._pumps.discard(when)
        if self.closed or not self._waiting():
            return
        due, self._due = self._due, {}
        for link in due:
            self._drain(link)
        if self._when is not None and self._when <= self.now() and self._waiting():
            self._timer()
        if self._due:
            self._pump_at(self.now())

    def _watch(self, link: Link) -> None:
        assert isinstance(link, SimLink)

        def notify() -> None:
            self._due[link] = None
            self._pump_at(self.now() + self._node.lag)

        link.sim.notify = notify

    def _unwatch(self, link: Link) -> None:
        assert isinstance(link, SimLink)
        link.sim.notify = None
        self._due.pop(link, None)

    def _schedule(self, link: Link) -> None:
        self._due[link] = None
        self._pump_at(self.now())

    def _set_timer(self, when: float | None) -> None:
        self._when = when
        if when is not None:
            self._pump_at(max(when, self.now()))

    def _new_link(self, port: PortId, kind: SocketKind) -> Link:
        return SimLink(self._node, kind, port, self._settings)
