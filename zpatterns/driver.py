"""What the two drivers share: one core, its sockets, and the order in which a turn is carried out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, ParamSpec, TypeVar

import zmq

from zpatterns.core import (
    Close,
    Command,
    Core,
    Discard,
    Event,
    Frames,
    MessagesDropped,
    Open,
    PortId,
    Rng,
    SendFailure,
    SocketKind,
    Subscribe,
)
from zpatterns.errors import ZPatternsError
from zpatterns.sockets import POLLIN, POLLOUT, Link, SocketSettings
from zpatterns.telemetry import Telemetry

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

DRAIN_BUDGET = 16
"""Messages that one call of :meth:`Core.receive_many` is given at the most. Few enough that what is sent for the first
keeps the peers busy while the next are read; enough that the exception at the end of a batch costs little."""

DRAIN_ROUNDS = 8
"""Batches that are read from one socket before the others have their turn."""

FAILED_TIMER_DELAY = 1.0
"""Seconds after which a timer that raised is tried again."""

_OVERSIZE = "too-many-frames"


@dataclass(frozen=True, slots=True)
class LoopStalled(Event):
    """Nothing could run for `seconds`: something blocked the loop, held the GIL, or the process was stopped."""

    level: ClassVar[str] = "warning"
    seconds: float


class Driver:
    """Carries out one core's turns. Subclasses know when to: a loop, or callers that pump.

    `on_command` is given what is not socket work, in order. It may call back into the core through
    :meth:`call`; what that asks for is carried out in the same turn.
    """

    def __init__(
        self,
        core: Core,
        *,
        context: zmq.Context[zmq.Socket[bytes]],
        settings: SocketSettings,
        rng: Rng,
        telemetry: Telemetry,
        on_command: Callable[[Command], None],
    ) -> None:
        self.core = core
        self.links: dict[PortId, Link] = {}
        self.closed = False
        self.oversize = 0
        """Messages that had too many frames, and that the core never saw."""
        self.telemetry = telemetry
        self._context = context
        self._settings = settings
        self._rng = rng
        self._on_command = on_command
        self._in_turn = False
        self._turn_again = False
        self._sent_on: set[Link] = set()
        self._blocked: set[Link] = set()
        self._paused: set[Link] = set()

    @property
    def body_frames_max(self) -> int:
        """See :attr:`SocketSettings.body_frames_max`."""
        return self._settings.body_frames_max

    # What a subclass provides.

    def now(self) -> float:
        """Monotonic seconds."""
        raise NotImplementedError

    def _watch(self, link: Link) -> None:
        """Begin to call :meth:`_guarded_drain` whenever `link` may be readable or writable."""
        raise NotImplementedError

    def _unwatch(self, link: Link) -> None:
        raise NotImplementedError

    def _schedule(self, link: Link) -> None:
        """Drain `link` soon, though its descriptor will not say so."""
        raise NotImplementedError

    def _set_timer(self, when: float | None) -> None:
        """Call :meth:`_guarded_timer` at `when`; a call too early does no harm."""
        raise NotImplementedError

    def _turn_ended(self) -> None:
        """All is carried out. For a driver that has somebody to tell."""

    # For front ends.

    def bind(self, port: PortId, kind: SocketKind, endpoint: str) -> str:
        """Bind the socket of `port`, made at the first call, to one endpoint more; return the real one."""
        link = self.links.get(port)
        if link is not None:
            self._schedule(link)  # to bind takes away the signal that a message has come
            return link.bind(endpoint)
        link = self._new_link(port, kind)
        try:
            real = link.bind(endpoint)
        except ZPatternsError:
            link.close(0)
            raise
        self._adopt(link)
        return real

    def call(self, method: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a method of the core and carry out what it asks for."""
        result = method(*args, **kwargs)
        self._turn(self.now())
        return result

    def close(self, linger: float = 0.0) -> None:
        """Close every socket. What the core still asks for is not carried out."""
        self.closed = True
        for port in list(self.links):
            self._close_link(port, linger)
        self._set_timer(None)

    # Turns.

    def _guarded_drain(self, link: Link) -> None:
        """:meth:`_drain`, of which no exception stops the driver."""
        try:
            self._drain(link)
        except Exception as error:
            self.telemetry.error("drain_failed", error)
            if not link.closed and not self.closed:
                self._schedule(link)

    def _guarded_timer(self) -> None:
        """:meth:`_timer`, of which no exception stops the driver."""
        try:
            self._timer()
        except Exception as error:
            self.telemetry.error("timer_failed", error)
            if not self.closed:
                # What was due still is; but what fails again and again must not keep us from all else.
                self._set_timer(self.now() + FAILED_TIMER_DELAY)

    def _drain(self, link: Link) -> None:
        """Read what has arrived on one link, a bounded share of it, and act on it."""
        link.scheduled = False
        if link.closed or self.closed:
            return
        core, port = self.core, link.port
        # Where the end of a batch is an exception, one message first: most wake-ups bring just one, and asking whether
        # there are more is cheaper.
        budget, rounds = DRAIN_BUDGET if link.end_is_cheap else 1, 0
        while not link.closed and (events := link.events()):
            if events & POLLOUT:
                self._flush(self.now(), link)
                continue
            if not core.wants_to_read(port):
                link.paused = True
                self._paused.add(link)
                return
            if rounds == DRAIN_ROUNDS:
                self._schedule(link)
                return
            batch = self._receive(link, budget)
            now = self.now()
            if batch:
                core.receive_many(batch, now, port)
                self._turn(now, draining=link)
            budget = DRAIN_BUDGET
            rounds += 1

    def _receive(self, link: Link, budget: int) -> list[Frames]:
        batch = link.receive(budget)
        if link.oversize:
            self.oversize += link.oversize
            self.telemetry.emit(MessagesDropped(_OVERSIZE, link.oversize))
            link.oversize = 0
        return batch

    def _hear(self, link: Link, now: float) -> bool:
        """Before something is sent over a connection with one peer, take what has come: it is no answer to that.

        Returns whether anything came. Once a turn: a peer that floods must not keep us from sending.
        """
        if link in self._sent_on:
            return False
        # Of a socket with many peers the question is enough: sends alone have libzmq look only once in a millisecond
        # who has gone, and until then take what is lost with him.
        events = link.events()
        if link.routed or not events & POLLIN or not self.core.wants_to_read(link.port):
            return False
        self._sent_on.add(link)
        batch = self._receive(link, DRAIN_BUDGET)
        if batch:
            self.core.receive_many(batch, now, link.port)
        return bool(batch)

    def _timer(self) -> None:
        """The timer has come. A driver calls this after it has read what arrived in the meantime."""
        now = self.now()
        if self._blocked:
            self._flush(now)
        self.core.handle_timer(now)
        self._turn(now)

    def _turn(self, now: float, draining: Link | None = None) -> None:
        """Carry out all that the core asks for, in the order of :mod:`zpatterns.core`."""
        if self._in_turn:
            self._turn_again = True
            return
        self._in_turn = True
        core, links = self.core, self.links
        try:
            while True:
                self._turn_again = False
                for command in core.commands():
                    self._carry_out(command, now)
                if self._turn_again:
                    continue  # a callback has called the core: what that asks for comes before anything is sent
                ports = core.ports_to_send()
                if not ports:
                    break
                failures: list[tuple[PortId, Frames, SendFailure]] = []
                heard = False
                for port in tuple(ports):
                    link = links.get(port)
                    if link is not None and link is not draining and self._hear(link, now):
                        heard = True
                        break
                    messages = core.messages_to_send(port)
                    if link is None:
                        failures.extend((port, frames, SendFailure.UNREACHABLE) for frames in messages)
                        continue
                    link.send(messages, now, failures)
                    if link is not draining:
                        self._sent_on.add(link)
                    if link.blocked:
                        self._blocked.add(link)
                for port, frames, reason in failures:
                    core.send_failed(port, frames, reason, now)
                if not failures and not heard:
                    break
        except Exception as error:
            self.telemetry.error("turn_failed", error)
        finally:
            self._in_turn = False
        if self._sent_on:
            # A send may have swallowed the signal that a message has come.
            for link in self._sent_on:
                if not link.closed and not link.scheduled:
                    events = link.events()
                    if events & POLLOUT or (events and not link.paused):
                        self._schedule(link)
            self._sent_on.clear()
        if self._paused:
            self._resume()
        if not self.closed:
            self._set_timer(self._next_timer())
        for event in core.events():
            self.telemetry.emit(event)
        self._turn_ended()

    def _flush(self, now: float, ready: Link | None = None) -> None:
        """Try the outboxes of full peers again: those whose time has come, and that of the `ready` link."""
        failures: list[tuple[PortId, Frames, SendFailure]] = []
        for link in list(self._blocked):
            if link is ready or (link.retry_at is not None and link.retry_at <= now):
                link.flush(now, failures, force=link is ready)
                self._sent_on.add(link)
                if not link.blocked:
                    self._blocked.discard(link)
        for port, frames, reason in failures:
            self.core.send_failed(port, frames, reason, now)
        if self._sent_on:
            self._turn(now)

    def _next_timer(self) -> float | None:
        when = self.core.next_timer()
        if self._blocked:
            for link in self._blocked:
                retry_at = link.retry_at
                if retry_at is not None and (when is None or retry_at < when):
                    when = retry_at
        return when

    def _resume(self) -> None:
        for link in list(self._paused):
            if self.core.wants_to_read(link.port):
                link.paused = False
                self._paused.discard(link)
                self._schedule(link)

    def _carry_out(self, command: Command, now: float) -> None:
        kind = type(command)
        try:
            if kind is Open:
                self._open(command)  # type: ignore[arg-type]
            elif kind is Close:
                self._close(command, now)  # type: ignore[arg-type]
            elif kind is Discard:
                self._discard(command, now)  # type: ignore[arg-type]
            elif kind is Subscribe:
                self.links[command.port].subscribe(command.prefix)  # type: ignore[union-attr]
            else:
                self._on_command(command)
        except Exception as error:
            # The command is lost but the turn is not: the core's own time-outs make up for it.
            self.telemetry.error("command_failed", error, command=kind.__name__)

    def _open(self, command: Open) -> None:
        self._close_link(command.port, 0)
        link = self._new_link(command.port, command.kind)
        try:
            link.connect(command.endpoint, command.peer_id)
        except ZPatternsError:
            link.close(0)
            raise
        self._adopt(link)

    def _close(self, command: Close, now: float) -> None:
        link = self.links.get(command.port)
        if link is not None and command.linger > 0:
            # What was said before the goodbye still goes out; there is nobody left to tell of a failure.
            link.send(self.core.messages_to_send(command.port), now, [])
        self._close_link(command.port, command.linger)

    def _discard(self, command: Discard, now: float) -> None:
        link = self.links.get(command.port)
        if link is not None:
            self._blocked.discard(link)
            for frames in link.discard():
                self.core.send_failed(command.port, frames, SendFailure.UNREACHABLE, now)
                self._turn_again = True

    def _close_link(self, port: PortId, linger: float) -> None:
        link = self.links.pop(port, None)
        if link is not None:
            self._unwatch(link)
            self._blocked.discard(link)
            self._paused.discard(link)
            link.close(linger)

    def _new_link(self, port: PortId, kind: SocketKind) -> Link:
        return Link(self._context, kind, port, self._settings, self._rng)

    def _adopt(self, link: Link) -> None:
        self.links[link.port] = link
        self._watch(link)
        # What arrived before the descriptor was watched gives no signal.
        self._schedule(link)

    def statistics(self) -> Any:
        """The core's own snapshot."""
        return self.core.statistics()


def with_oversize(statistics: S, drivers: Iterable[Driver]) -> S:
    """A core's `statistics`, and among what was dropped also what its `drivers` kept from it."""
    oversize = sum(driver.oversize for driver in drivers)
    if not oversize:
        return statistics
    core: Any = statistics
    whole: S = replace(core, dropped={**core.dropped, _OVERSIZE: oversize})
    return whole
