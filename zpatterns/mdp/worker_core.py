"""One Majordomo worker as a state machine: 7/MDP or 18/MDP, one request at a time. Pure."""

from __future__ import annotations

import enum
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
from zpatterns.mdp import wire
from zpatterns.mdp.events import BrokerLost, HandlerFailed, HandlerTimedOut, ReadySent
from zpatterns.timing import Backoff, Liveness

PORT = "broker"

GOODBYE = 1.0
"""Seconds that a last message may linger in a socket that is closed."""


class WorkerState(enum.Enum):
    """What a worker is doing. :data:`TRANSITIONS` says what becomes of it."""

    AWAY = "away"
    """No connection; the next is made after a back-off."""
    IDLE = "idle"
    """READY was said."""
    BUSY = "busy"
    """A request is in the handler's hands."""
    FINISHING = "finishing"
    """The same, and it is the last one."""
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
    DISCONNECT = "DISCONNECT"
    UNSENT = "message not sent"
    SILENCE = "broker silent"
    STALL = "stood still"
    RETURN = "handler returned"
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
    partials: int
    errors: int
    timeouts: int
    discarded: int
    ready_sent: int
    heartbeats: int
    registered: int
    busy: int
    dropped: dict[str, int]


class WorkerCore:
    """Registers `service` with one broker of `endpoints` and hands its requests to a handler, one at a time.

    The front end answers each :class:`Run` with :meth:`handler_partial` any number of times, then with
    :meth:`handler_done` or :meth:`handler_failed` exactly once, however late.
    """

    PORTS: ClassVar[tuple[str, ...]] = (PORT,)

    def __init__(
        self,
        endpoints: Sequence[str],
        service: bytes,
        *,
        version: str,
        liveness: Liveness,
        rng: Rng,
        handler_timeout: float | None = None,
        held_bytes_max: int = 16 * 2**20,
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._service = service
        self._dialect = wire.WORKER_DIALECTS[version]
        self._interval = liveness.interval
        self._lease = liveness.lease
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
        self._sent_at = 0.0
        self._last_now = float("inf")

        self._run = 0  # the number of the latest run
        self._running = False  # its handler has not returned
        self._client: bytes | None = None  # who gets its reply; None once nobody can
        self._held: Frames | None = None
        self._held_bytes = 0
        self._give_up_at: float | None = None

        self._requests = self._replies = self._partials = self._errors = self._timeouts = 0
        self._discarded = self._ready_sent = self._heartbeats = 0
        self._drops = Drops()

    def start(self, now: float) -> None:
        """Connect to the first endpoint and say READY."""
        self._last_now = now
        self._step(WorkerInput.CONNECT, now)

    @property
    def endpoint(self) -> str:
        """The broker it is registered with, or was last."""
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
        if self._notice_stall(now):
            for _ in batch:
                self._drops.add("stale")
            return
        dialect = self._dialect
        for frames in batch:
            if self._state not in CONNECTED:
                self._drops.add("not-registered")  # what crossed our goodbye
                continue
            parsed = dialect.parse(frames)
            if parsed is None:
                self._drops.add("invalid")
                continue
            command, rest = parsed
            if command == dialect.request and len(rest) > 2 and not rest[1]:
                self._heard_at = now
                if not self._step(WorkerInput.REQUEST, now, rest[0], rest[2:]):
                    # 7/MDP: "Workers will handle at most one request a time".
                    self._drops.add("second-request")
            elif command == dialect.heartbeat and not rest:
                self._heard_at = now
            elif command == dialect.disconnect and not rest:
                self._step(WorkerInput.DISCONNECT, now, "disconnected by the broker")
            else:
                self._drops.add("invalid")

    def _begin(self, now: float, client: bytes, body: Frames) -> None:
        self._run += 1
        self._running = True
        self._client = client
        self._held = None
        self._held_bytes = 0
        self._requests += 1
        if self._handler_timeout is not None:
            self._give_up_at = now + self._handler_timeout
        self._commands.append(Run(self._run, client, body))

    # What the handler does.

    def handler_partial(self, run: int, frames: Frames, now: float) -> None:
        """The handler of `run` has yielded one part."""
        client = self._client
        if run != self._run or client is None:
            return
        if self._dialect.partial is not None:
            self._partials += 1
            self._send(now, self._dialect.partial, client, wire.EMPTY, *(frames or [wire.EMPTY]))
            return
        # 0.1 has one REPLY: it carries all the parts, then the last.
        self._held = (self._held or []) + (frames or [wire.EMPTY])
        self._held_bytes += sum(map(len, frames)) + 64
        if self._held_bytes > self._held_bytes_max:
            text = f"the parts of the reply exceed {self._held_bytes_max} bytes; use protocol 0.2"
            self._step(WorkerInput.GIVE_UP, now, wire.CODE_TOO_LARGE, text)

    def handler_done(self, run: int, frames: Frames, now: float) -> None:
        """The handler of `run` has returned; `frames` is the reply, or the FINAL."""
        if run == self._run and self._running:
            self._replies += self._client is not None
            self._returned(now, [*(self._held or ()), *(frames or [wire.EMPTY])])

    def handler_failed(self, run: int, code: str, message: str, now: float) -> None:
        """The handler of `run` has raised; its caller gets our error reply."""
        if run == self._run and self._running:
            self._errors += 1
            self._events.append(HandlerFailed(self._service, code, message))
            self._returned(now, wire.error_body(code.encode("ascii", "replace"), message))

    def _returned(self, now: float, body: Frames) -> None:
        # If it was the handler that held everything up, its result is the first thing to be done about that: the
        # broker says what it is worth, and to close the connection would be to throw it away.
        self._last_now = now
        self._running = False
        self._give_up_at = None
        self._step(WorkerInput.RETURN, now, body)

    def _discard(self, now: float, body: Frames) -> None:
        self._discarded += 1
        if self._connect_at is None:
            self._connect_at = now  # it was only this handler that we waited for

    def _reply(self, now: float, body: Frames) -> None:
        client, self._client = self._client, None
        assert client is not None
        self._held = None
        self._send(now, self._dialect.final, client, wire.EMPTY, *body)
        # A broker that is silent towards busy workers, as the Guide's is, gets a whole lease from here.
        self._heard_at = now

    def _reply_and_leave(self, now: float, body: Frames) -> None:
        self._reply(now, body)
        self._leave(now)

    def _give_up(self, now: float, code: bytes, text: str) -> None:
        """The caller gets an error now; the handler, which may go on, keeps us from taking more."""
        client, self._client = self._client, None
        assert client is not None
        self._give_up_at = None
        self._held = None
        self._send(now, self._dialect.final, client, wire.EMPTY, *wire.error_body(code, text))
        self._send(now, self._dialect.disconnect)
        self._commands += [Close(PORT, GOODBYE), Cancel(self._run)]
        self._connect_at = None

    # The connection.

    def _connect(self, now: float) -> None:
        self._endpoint = self._endpoints[self._next_endpoint % len(self._endpoints)]
        self._next_endpoint += 1
        self._connect_at = None
        self._connected_at = self._heard_at = now
        self._out.clear()
        self._commands.append(Open(PORT, SocketKind.DEALER, self._endpoint))
        self._send(now, self._dialect.ready, self._service)
        self._ready_sent += 1
        self._events.append(ReadySent(self._endpoint, self._service))

    def _reconnect(self, now: float) -> None:
        self._events.append(BrokerLost(self._endpoint, "this worker stood still for a lease", 0.0))
        self._commands.append(Close(PORT))
        self._next_endpoint -= 1  # no fault of that broker's
        self._connect(now)

    def _lose(self, now: float, reason: str) -> None:
        """Close the connection; go to the next broker after a back-off and once the handler is done."""
        if self._heard_at - self._connected_at > self._lease:
            self._backoff.reset()
        delay = self._backoff.delay()
        self._events.append(BrokerLost(self._endpoint, reason, delay))
        self._out.clear()
        self._commands.append(Close(PORT))
        self._client = None
        self._held = None
        self._give_up_at = None
        self._connect_at = now + delay

    def _notice_stall(self, now: float) -> bool:
        """If we stood still for a lease, the broker has written us off: what waits unread was given to others.

        Only for an idle worker: a busy one has begun, and whether its reply still counts is the broker's to say.
        """
        stood_still = now - self._last_now > self._lease
        self._last_now = now
        return stood_still and self._step(WorkerInput.STALL, now)

    def _send(self, now: float, command: bytes, *rest: bytes) -> None:
        self._out.append(self._dialect.build(command, *rest))
        self._sent_at = now

    def send_failed(self, port: PortId, frames: Frames, reason: SendFailure, now: float) -> None:
        """What a broker that went away does not get, another worker's delivery makes up for.

        One that is still there but was not told all would wait for ever for a reply, or hand on a stream with a hole:
        it is given up, and the request goes to another worker.
        """
        self._drops.add(f"broker-{reason.value}")
        parsed = self._dialect.parse(frames)
        if parsed is not None and parsed[0] in (self._dialect.final, self._dialect.partial):
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
        when = self._sent_at + self._interval
        if self._state is WorkerState.IDLE:
            when = min(when, self._heard_at + self._lease)
        elif self._give_up_at is not None:
            when = min(when, self._give_up_at)
        return when

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
            self._events.append(HandlerTimedOut(self._service, self._handler_timeout))
            text = f"the handler did not finish within {self._handler_timeout} s"
            self._step(WorkerInput.GIVE_UP, now, wire.CODE_HANDLER_TIMEOUT, text)
        elif self._state in CONNECTED and self._sent_at + self._interval <= now:
            self._heartbeats += 1
            self._send(now, self._dialect.heartbeat)

    # The end.

    def drain(self, now: float) -> None:
        """Take no more requests; finish the one in hand, reply, and leave."""
        self._step(WorkerInput.DRAIN, now)

    @property
    def drained(self) -> bool:
        """Whether it has left."""
        return self._state is WorkerState.STOPPED

    def shut_down(self, now: float) -> None:
        """Leave at once; a request in hand goes to another worker, for we say DISCONNECT."""
        self._step(WorkerInput.SHUT_DOWN, now)

    def _leave(self, now: float) -> None:
        self._send(now, self._dialect.disconnect)
        self._commands.append(Close(PORT, GOODBYE))

    def _cancel(self, now: float) -> None:
        self._client = None
        self._give_up_at = None
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
            partials=self._partials,
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
        assert is_busy == (self._client is not None), "a reply is owed if and only if the worker is busy"
        assert is_busy or self._give_up_at is None
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
    (WorkerState.IDLE, WorkerInput.DISCONNECT): (WorkerCore._lose, WorkerState.AWAY),
    (WorkerState.IDLE, WorkerInput.UNSENT): (WorkerCore._lose, WorkerState.AWAY),
    (WorkerState.IDLE, WorkerInput.SILENCE): (WorkerCore._lose, WorkerState.AWAY),
    (WorkerState.IDLE, WorkerInput.STALL): (WorkerCore._reconnect, WorkerState.IDLE),
    (WorkerState.IDLE, WorkerInput.DRAIN): (WorkerCore._leave, WorkerState.STOPPED),
    (WorkerState.IDLE, WorkerInput.SHUT_DOWN): (WorkerCore._leave, WorkerState.STOPPED),
    (WorkerState.BUSY, WorkerInput.RETURN): (WorkerCore._reply, WorkerState.IDLE),
    (WorkerState.BUSY, WorkerInput.GIVE_UP): (WorkerCore._give_up, WorkerState.HELD_UP),
    (WorkerState.BUSY, WorkerInput.DISCONNECT): (WorkerCore._lose, WorkerState.HELD_UP),
    (WorkerState.BUSY, WorkerInput.UNSENT): (WorkerCore._lose, WorkerState.HELD_UP),
    (WorkerState.BUSY, WorkerInput.DRAIN): (None, WorkerState.FINISHING),
    (WorkerState.BUSY, WorkerInput.SHUT_DOWN): (WorkerCore._cancel_and_leave, WorkerState.STOPPED),
    (WorkerState.FINISHING, WorkerInput.RETURN): (WorkerCore._reply_and_leave, WorkerState.STOPPED),
    (WorkerState.FINISHING, WorkerInput.GIVE_UP): (WorkerCore._give_up, WorkerState.LEAVING),
    (WorkerState.FINISHING, WorkerInput.DISCONNECT): (WorkerCore._lose, WorkerState.LEAVING),
    (WorkerState.FINISHING, WorkerInput.UNSENT): (WorkerCore._lose, WorkerState.LEAVING),
    (WorkerState.FINISHING, WorkerInput.SHUT_DOWN): (WorkerCore._cancel_and_leave, WorkerState.STOPPED),
    (WorkerState.HELD_UP, WorkerInput.RETURN): (WorkerCore._discard, WorkerState.AWAY),
    (WorkerState.HELD_UP, WorkerInput.DRAIN): (None, WorkerState.LEAVING),
    (WorkerState.HELD_UP, WorkerInput.SHUT_DOWN): (WorkerCore._cancel, WorkerState.STOPPED),
    (WorkerState.LEAVING, WorkerInput.RETURN): (WorkerCore._discard, WorkerState.STOPPED),
    (WorkerState.LEAVING, WorkerInput.SHUT_DOWN): (WorkerCore._cancel, WorkerState.STOPPED),
    (WorkerState.STOPPED, WorkerInput.RETURN): (WorkerCore._discard, WorkerState.STOPPED),
}
"""What happens, and the state it leads to; the diagram in docs/majordomo.md is made from it."""
