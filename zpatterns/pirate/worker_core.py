"""One Pirate worker, Simple or Paranoid, as a state machine: one request at a time (6/PPP; Guide chapter 4). Pure."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from zpatterns.core import (
    Cancel,
    Close,
    Command,
    Drops,
    Event,
    Frames,
    Open,
    PortId,
    Rng,
    Run,
    SendFailure,
    SocketKind,
)
from zpatterns.pirate.events import HandlerFailed, HandlerTimedOut, QueueLost, ReadySent
from zpatterns.pirate.wire import EMPTY, HEARTBEAT, READY, Dialect, envelope_depth
from zpatterns.timing import Backoff, Liveness
from zpatterns.wire import CODE_HANDLER_TIMEOUT, CODE_TOO_LARGE, error_body

PORT = "queue"

KEPT_MAX = 16
"""Requests that a busy worker keeps. The Guide's queue takes a heartbeat for READY, and may send one with each."""

GOODBYE = 1.0
"""Seconds that a last message may linger in a socket that is closed."""


class WorkerState(enum.Enum):
    """What a worker is doing. :data:`TRANSITIONS` says what becomes of it."""

    AWAY = "away"
    """No connection; the next is made after a back-off."""
    IDLE = "idle"
    """READY was said."""
    BUSY = "busy"
    """A request is in the handler's hands, and more may be kept."""
    FINISHING = "finishing"
    """The same, and no more is taken."""
    HELD_UP = "held up"
    """No connection, and none is made before the handler has returned: nobody can get its reply any more."""
    LEAVING = "leaving"
    """The same, and none is made after that either."""
    STOPPED = "stopped"
    """It left for good."""


class WorkerInput(enum.Enum):
    """What may change a worker's state. A heartbeat, or one part of a reply, does not."""

    CONNECT = "back-off over"
    REQUEST = "REQUEST"
    UNSENT = "message not sent"
    SILENCE = "queue silent"
    STALL = "stood still"
    RETURN = "handler returned"
    RETURN_TO_MORE = "handler returned, requests kept"
    GIVE_UP = "took too long, sent too much"
    DRAIN = "drain"
    SHUT_DOWN = "shut down"


CONNECTED = frozenset({WorkerState.IDLE, WorkerState.BUSY, WorkerState.FINISHING})


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """Counters since the start; then how many lanes are `registered`, as far as they know, and `busy` now.

    `ready_sent`: READYs, which are never answered; `discarded`: results that nobody could get any more;
    `dropped`: messages by reason.
    """

    requests: int
    replies: int
    errors: int
    timeouts: int
    discarded: int
    ready_sent: int
    heartbeats: int
    registered: int
    busy: int
    dropped: dict[str, int]


class WorkerCore:
    """Registers with one queue of `endpoints` and hands its requests to a handler, one at a time.

    The front end answers each :class:`Run` with :meth:`handler_partial` any number of times, then with
    :meth:`handler_done` or :meth:`handler_failed` exactly once, however late. Without heartbeats in its `dialect` it
    never gives up a queue that is silent, and `liveness` is good for its back-off alone.
    """

    PORTS: ClassVar[tuple[str, ...]] = (PORT,)

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        dialect: Dialect,
        liveness: Liveness,
        rng: Rng,
        handler_timeout: float | None = None,
        held_bytes_max: int = 16 * 2**20,
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._head = list(dialect.head)
        self._has_heartbeats = dialect.has_heartbeats
        self._interval = liveness.interval
        self._lease = liveness.lease if dialect.has_heartbeats else float("inf")
        self._backoff = Backoff(liveness.interval, liveness.lease, rng)
        self._handler_timeout = handler_timeout
        self._held_bytes_max = held_bytes_max

        self._state = WorkerState.AWAY
        self._next_endpoint = 0
        self._endpoint = self._endpoints[0]
        self._out: list[Frames] = []
        self._commands: list[Command] = []
        self._events: list[Event] = []

        self._connect_at: float | None = None
        self._connected_at = 0.0
        self._heard_at = 0.0
        self._beat_at = 0.0
        self._last_now = float("inf")

        self._run = 0  # the number of the latest run
        self._running = False  # its handler has not returned
        self._envelope: Frames | None = None  # who gets its reply; None once nobody can
        self._kept: deque[tuple[Frames, Frames]] = deque()  # envelopes and bodies that came while it was busy
        self._held: Frames = []  # what a generator has yielded: there is only one reply to carry it
        self._held_bytes = 0
        self._give_up_at: float | None = None

        self._requests = self._replies = self._errors = self._timeouts = 0
        self._discarded = self._ready_sent = self._heartbeats = 0
        self._drops = Drops()

    def start(self, now: float) -> None:
        """Connect to the first endpoint and say READY."""
        self._last_now = now
        self._step(WorkerInput.CONNECT, now)

    @property
    def endpoint(self) -> str:
        """The queue it is registered with, or was last."""
        return self._endpoint

    @property
    def state(self) -> WorkerState:
        return self._state

    def _step(self, what: WorkerInput, now: float, *details: Any) -> bool:
        """Do what :data:`TRANSITIONS` says. Returns whether it says anything: what it does not name is ignored."""
        transition = TRANSITIONS.get((self._state, what))
        if transition is None:
            return False
        action, self._state = transition
        if action is not None:
            action(self, now, *details)
        return True

    # Messages in.

    def receive_many(self, batch: Iterable[Frames], now: float, port: PortId = PORT) -> None:
        stalled = self._notice_stall(now)
        head = self._head
        for frames in batch:
            if stalled:
                self._drops.add("stale")
                continue
            if self._state not in CONNECTED:
                self._drops.add("not-registered")  # what crossed our end of the conversation
                continue
            if head:
                if frames[:1] != head:
                    self._drops.add("invalid")
                    continue
                del frames[0]
            if len(frames) > 1:
                self._heard_at = now
                # 6/PPP: "an optional address stack with null terminator"; without one all of it is the body.
                depth = envelope_depth(frames)
                if not self._step(WorkerInput.REQUEST, now, frames[:depth], frames[depth:]):
                    self._drops.add("draining")
            elif self._has_heartbeats and frames == [HEARTBEAT]:
                self._heard_at = now
            else:
                self._drops.add("invalid")

    def _keep(self, _now: float, envelope: Frames, body: Frames) -> None:
        if len(self._kept) < KEPT_MAX:
            self._kept.append((envelope, body))
        else:
            self._drops.add("too-many-requests")

    def _begin(self, now: float, envelope: Frames, body: Frames) -> None:
        self._run += 1
        self._running = True
        self._envelope = envelope
        self._held = []
        self._held_bytes = 0
        self._requests += 1
        if self._handler_timeout is not None:
            self._give_up_at = now + self._handler_timeout
        self._commands.append(Run(self._run, envelope[0] if envelope else EMPTY, body))

    # What the handler does.

    def handler_partial(self, run: int, frames: Frames, now: float) -> None:
        """The handler of `run` has yielded one part. It is kept: the one reply carries all parts, then the last."""
        if run != self._run or self._envelope is None:
            return
        self._held += frames or [EMPTY]
        self._held_bytes += sum(map(len, frames)) + 64
        if self._held_bytes > self._held_bytes_max:
            text = f"the parts of the reply exceed {self._held_bytes_max} bytes"
            self._step(WorkerInput.GIVE_UP, now, CODE_TOO_LARGE, text)

    def handler_done(self, run: int, frames: Frames, now: float) -> None:
        """The handler of `run` has returned; `frames` is the reply, or the last of it."""
        if run == self._run and self._running:
            self._replies += self._envelope is not None
            self._returned(now, [*self._held, *(frames or [EMPTY])])

    def handler_failed(self, run: int, code: str, message: str, now: float) -> None:
        """The handler of `run` has raised; its caller gets our error reply."""
        if run == self._run and self._running:
            self._errors += 1
            self._events.append(HandlerFailed(code, message))
            self._returned(now, error_body(code.encode("ascii", "replace"), message))

    def _returned(self, now: float, body: Frames) -> None:
        # If it was the handler that held everything up, its result is the first thing to be done about that: the
        # queue says what it is worth, and to close the connection would be to throw it away.
        self._notice_stall(now)
        self._running = False
        self._give_up_at = None
        self._step(WorkerInput.RETURN_TO_MORE if self._kept else WorkerInput.RETURN, now, body)

    def _discard(self, now: float, _body: Frames) -> None:
        self._discarded += 1
        if self._connect_at is None:
            self._connect_at = now  # it was only this handler that we waited for

    def _reply(self, now: float, body: Frames) -> None:
        envelope, self._envelope = self._envelope, None
        assert envelope is not None
        if len(envelope) + len(body) == 1:
            envelope = [EMPTY]  # one frame alone would be a command
        self._held = []
        self._out.append([*self._head, *envelope, *body])
        # A queue that is silent towards busy workers, as the Guide's is, gets a whole lease from here.
        self._heard_at = now

    def _reply_and_begin(self, now: float, body: Frames) -> None:
        self._reply(now, body)
        self._begin(now, *self._kept.popleft())

    def _reply_and_leave(self, now: float, body: Frames) -> None:
        self._reply(now, body)
        self._leave(now)

    def _give_up(self, now: float, code: bytes, text: str) -> None:
        """The caller gets an error now; the handler, which may go on, keeps us from taking more.

        A reply says that we are ready, and there is no word to take that back: we go, and come back when we are.
        """
        self._reply(now, error_body(code, text))
        self._give_up_at = None
        self._drop_kept("abandoned")
        self._commands += [Close(PORT, GOODBYE), Cancel(self._run)]
        self._connect_at = None

    def _drop_kept(self, reason: str) -> None:
        for _ in self._kept:
            self._drops.add(reason)
        self._kept.clear()

    # The connection.

    def _connect(self, now: float) -> None:
        self._endpoint = self._endpoints[self._next_endpoint % len(self._endpoints)]
        self._next_endpoint += 1
        self._connect_at = None
        self._connected_at = self._heard_at = now
        self._beat_at = now + self._interval
        self._out = [[*self._head, READY]]
        # A new socket each time: its routing id is new, so no other worker has it, and nothing of before arrives.
        self._commands.append(Open(PORT, SocketKind.DEALER, self._endpoint))
        self._ready_sent += 1
        self._events.append(ReadySent(self._endpoint))

    def _reconnect(self, now: float) -> None:
        self._events.append(QueueLost(self._endpoint, "this worker stood still for a lease", 0.0))
        self._commands.append(Close(PORT))
        self._next_endpoint -= 1  # no fault of that queue's
        self._connect(now)

    def _lose(self, now: float, reason: str) -> None:
        """Close the connection; go to the next queue after a back-off and once the handler is done."""
        if self._heard_at - self._connected_at > self._lease:
            self._backoff.reset()
        delay = self._backoff.delay()
        self._events.append(QueueLost(self._endpoint, reason, delay))
        self._out.clear()
        self._drop_kept("abandoned")
        self._commands.append(Close(PORT))
        self._envelope = None
        self._held = []
        self._give_up_at = None
        self._connect_at = now + delay

    def _notice_stall(self, now: float) -> bool:
        """If we stood still for a lease, the queue has written us off: what has not begun was given to others.

        A handler that runs goes on, and whether its reply still counts is the queue's to say.
        """
        stood_still = now - self._last_now > self._lease
        self._last_now = now
        return stood_still and self._step(WorkerInput.STALL, now)

    def _drop_stale(self, _now: float) -> None:
        self._drop_kept("stale")

    def send_failed(self, port: PortId, frames: Frames, reason: SendFailure, now: float) -> None:
        """What a queue that went away does not get, another worker's delivery makes up for.

        One that is still there but got no reply would wait for ever: it is given up, and the request goes to another
        worker. The same goes for one that got no READY.
        """
        self._drops.add(f"queue-{reason.value}")
        if frames != [HEARTBEAT]:
            self._step(WorkerInput.UNSENT, now, f"a message to it was not sent: {reason.value}")

    def ports_to_send(self) -> tuple[str, ...]:
        return self.PORTS if self._out else ()

    def messages_to_send(self, port: PortId = PORT) -> list[Frames]:
        out, self._out = self._out, []
        return out

    def wants_to_read(self, port: PortId = PORT) -> bool:
        return True

    def commands(self) -> list[Command]:
        commands, self._commands = self._commands, []
        return commands

    # Time.

    def next_timer(self) -> float | None:
        if self._state is WorkerState.AWAY:
            return self._connect_at
        if self._state not in CONNECTED:
            return None
        when = self._beat_at if self._has_heartbeats else float("inf")
        if self._state is WorkerState.IDLE:
            when = min(when, self._heard_at + self._lease)
        elif self._give_up_at is not None:
            when = min(when, self._give_up_at)
        return when if when < float("inf") else None

    def handle_timer(self, now: float) -> None:
        if self._notice_stall(now):
            return
        if self._state is WorkerState.AWAY:
            if self._connect_at is not None and self._connect_at <= now:
                self._step(WorkerInput.CONNECT, now)
        elif self._state is WorkerState.IDLE and self._heard_at + self._lease <= now:
            self._step(WorkerInput.SILENCE, now, "silent for a lease")
        elif self._give_up_at is not None and self._give_up_at <= now:
            assert self._handler_timeout is not None
            self._timeouts += 1
            self._events.append(HandlerTimedOut(self._handler_timeout))
            text = f"the handler did not finish within {self._handler_timeout} s"
            self._step(WorkerInput.GIVE_UP, now, CODE_HANDLER_TIMEOUT, text)
        elif self._has_heartbeats and self._state in CONNECTED and self._beat_at <= now:
            # 6/PPP: "Peers should send heartbeats at regular and agreed-upon intervals", whatever else they send.
            self._heartbeats += 1
            self._beat_at = now + self._interval
            self._out.append([HEARTBEAT])

    # The end.

    def drain(self, now: float) -> None:
        """Take no more requests; finish what is in hand and what is kept, reply, and leave."""
        self._step(WorkerInput.DRAIN, now)

    @property
    def drained(self) -> bool:
        """Whether it has left."""
        return self._state is WorkerState.STOPPED

    def shut_down(self, now: float) -> None:
        """Leave at once. A Paranoid queue of ours finds us gone, and gives a request in hand to another worker."""
        self._step(WorkerInput.SHUT_DOWN, now)

    def _leave(self, _now: float) -> None:
        self._commands.append(Close(PORT, GOODBYE))

    def _cancel(self, _now: float) -> None:
        self._envelope = None
        self._held = []
        self._give_up_at = None
        self._drop_kept("abandoned")
        self._commands.append(Cancel(self._run))

    def _cancel_and_leave(self, now: float) -> None:
        self._cancel(now)
        self._leave(now)

    # Telling.

    def events(self) -> list[Event]:
        self._drops.tell(self._events)
        events, self._events = self._events, []
        return events

    def statistics(self) -> WorkerStatistics:
        return WorkerStatistics(
            requests=self._requests,
            replies=self._replies,
            errors=self._errors,
            timeouts=self._timeouts,
            discarded=self._discarded,
            ready_sent=self._ready_sent,
            heartbeats=self._heartbeats,
            registered=self._state in CONNECTED,
            busy=self._running,
            dropped=dict(self._drops.totals),
        )

    def check_invariants(self) -> None:
        is_busy = self._state in (WorkerState.BUSY, WorkerState.FINISHING)
        assert is_busy == (self._envelope is not None), "a reply is owed if and only if the worker is busy"
        assert is_busy or self._give_up_at is None
        assert is_busy or not (self._kept or self._held), "something is kept for nobody"
        assert len(self._kept) <= KEPT_MAX
        if self._state is not WorkerState.STOPPED:
            assert self._running == (is_busy or self._state in (WorkerState.HELD_UP, WorkerState.LEAVING))
        if self._state is WorkerState.AWAY:
            assert self._connect_at is not None, "away for ever"


Action: TypeAlias = Callable[..., None]

TRANSITIONS: Mapping[tuple[WorkerState, WorkerInput], tuple[Action | None, WorkerState]] = {
    (WorkerState.AWAY, WorkerInput.CONNECT): (WorkerCore._connect, WorkerState.IDLE),
    (WorkerState.AWAY, WorkerInput.DRAIN): (None, WorkerState.STOPPED),
    (WorkerState.AWAY, WorkerInput.SHUT_DOWN): (None, WorkerState.STOPPED),
    (WorkerState.IDLE, WorkerInput.REQUEST): (WorkerCore._begin, WorkerState.BUSY),
    (WorkerState.IDLE, WorkerInput.UNSENT): (WorkerCore._lose, WorkerState.AWAY),
    (WorkerState.IDLE, WorkerInput.SILENCE): (WorkerCore._lose, WorkerState.AWAY),
    (WorkerState.IDLE, WorkerInput.STALL): (WorkerCore._reconnect, WorkerState.IDLE),
    (WorkerState.IDLE, WorkerInput.DRAIN): (WorkerCore._leave, WorkerState.STOPPED),
    (WorkerState.IDLE, WorkerInput.SHUT_DOWN): (WorkerCore._leave, WorkerState.STOPPED),
    (WorkerState.BUSY, WorkerInput.REQUEST): (WorkerCore._keep, WorkerState.BUSY),
    (WorkerState.BUSY, WorkerInput.RETURN): (WorkerCore._reply, WorkerState.IDLE),
    (WorkerState.BUSY, WorkerInput.RETURN_TO_MORE): (WorkerCore._reply_and_begin, WorkerState.BUSY),
    (WorkerState.BUSY, WorkerInput.GIVE_UP): (WorkerCore._give_up, WorkerState.HELD_UP),
    (WorkerState.BUSY, WorkerInput.UNSENT): (WorkerCore._lose, WorkerState.HELD_UP),
    (WorkerState.BUSY, WorkerInput.STALL): (WorkerCore._drop_stale, WorkerState.BUSY),
    (WorkerState.BUSY, WorkerInput.DRAIN): (None, WorkerState.FINISHING),
    (WorkerState.BUSY, WorkerInput.SHUT_DOWN): (WorkerCore._cancel_and_leave, WorkerState.STOPPED),
    (WorkerState.FINISHING, WorkerInput.RETURN): (WorkerCore._reply_and_leave, WorkerState.STOPPED),
    (WorkerState.FINISHING, WorkerInput.RETURN_TO_MORE): (WorkerCore._reply_and_begin, WorkerState.FINISHING),
    (WorkerState.FINISHING, WorkerInput.GIVE_UP): (WorkerCore._give_up, WorkerState.LEAVING),
    (WorkerState.FINISHING, WorkerInput.UNSENT): (WorkerCore._lose, WorkerState.LEAVING),
    (WorkerState.FINISHING, WorkerInput.STALL): (WorkerCore._drop_stale, WorkerState.FINISHING),
    (WorkerState.FINISHING, WorkerInput.SHUT_DOWN): (WorkerCore._cancel_and_leave, WorkerState.STOPPED),
    (WorkerState.HELD_UP, WorkerInput.RETURN): (WorkerCore._discard, WorkerState.AWAY),
    (WorkerState.HELD_UP, WorkerInput.DRAIN): (None, WorkerState.LEAVING),
    (WorkerState.HELD_UP, WorkerInput.SHUT_DOWN): (WorkerCore._cancel, WorkerState.STOPPED),
    (WorkerState.LEAVING, WorkerInput.RETURN): (WorkerCore._discard, WorkerState.STOPPED),
    (WorkerState.LEAVING, WorkerInput.SHUT_DOWN): (WorkerCore._cancel, WorkerState.STOPPED),
    (WorkerState.STOPPED, WorkerInput.RETURN): (WorkerCore._discard, WorkerState.STOPPED),
}
"""What happens, and the state it leads to; the diagram in docs/pirates.md is made from it."""
