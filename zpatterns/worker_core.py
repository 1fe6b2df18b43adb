"""One lane of a worker: registered with one broker or queue, one request at a time. What every such worker needs. Pure.

A pattern says how its frames look, and adds to :data:`TRANSITIONS` what only it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
from zpatterns.timing import Backoff, Liveness
from zpatterns.wire import CODE_HANDLER_TIMEOUT, CODE_TOO_LARGE, FRAME_OVERHEAD, error_body
from zpatterns.worker_state import CONNECTED, WorkerInput, WorkerState, WorkerStatistics

GOODBYE = 1.0
"""Seconds that a last message may linger in a socket that is closed."""


Action: TypeAlias = Callable[..., None]
Transitions: TypeAlias = Mapping[tuple[WorkerState, WorkerInput], tuple[Action | None, WorkerState]]


class LaneCore:
    """Registers with one of `endpoints` and hands the requests from there to a handler, one at a time.

    The front end answers each :class:`Run` with :meth:`handler_partial` any number of times, then with
    :meth:`handler_done` or :meth:`handler_failed` exactly once, however late.
    """

    PORTS: ClassVar[tuple[str, ...]]
    """The one socket, by the name of what is at its other end."""

    transitions: ClassVar[Transitions]
    """:data:`TRANSITIONS`, and what the pattern adds."""

    too_large_hint: ClassVar[str] = ""
    """What the caller is told to do about a reply of too many parts, if there is anything."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        liveness: Liveness,
        rng: Rng,
        handler_timeout: float | None = None,
        held_bytes_max: int = 16 * 2**20,
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._port = self.PORTS[0]
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
        self._beat_at = 0.0  # when the next heartbeat is due
        self._last_now = float("inf")

        self._run = 0  # the number of the latest run
        self._running = False  # its handler has not returned
        self._envelope: Frames | None = None  # what leads its reply back; None once nobody can get that
        self._held: Frames = []  # the parts of a reply that has to go out as one
        self._held_bytes = 0
        self._give_up_at: float | None = None

        self._requests = self._replies = self._errors = self._timeouts = 0
        self._discarded = self._ready_sent = self._heartbeats = 0
        self._drops = Drops()

    # What a pattern provides.

    def _take(self, frames: Frames, now: float) -> None:
        """A message came, and there is somebody to hear it."""
        raise NotImplementedError

    def _say_ready(self, now: float) -> None:
        raise NotImplementedError

    def _say_heartbeat(self, now: float) -> None:
        raise NotImplementedError

    def _say_reply(self, now: float, envelope: Frames, body: Frames) -> None:
        raise NotImplementedError

    def _say_goodbye(self, now: float) -> None:
        """A pattern that has a word for it says it before the connection is closed."""

    def _is_awaited(self, frames: Frames) -> bool:
        """Whether the far side would wait in vain for a message of ours that was not sent."""
        raise NotImplementedError

    def _tell_ready(self) -> Event:
        raise NotImplementedError

    def _tell_lost(self, reason: str, delay: float) -> Event:
        raise NotImplementedError

    def _tell_failed(self, code: str, message: str) -> Event:
        raise NotImplementedError

    def _tell_timed_out(self, seconds: float) -> Event:
        raise NotImplementedError

    # What the front end asks for.

    def start(self, now: float) -> None:
        """Connect to the first endpoint and say READY."""
        self._last_now = now
        self._step(WorkerInput.CONNECT, now)

    @property
    def endpoint(self) -> str:
        """What it is registered with, or was last."""
        return self._endpoint

    @property
    def state(self) -> WorkerState:
        return self._state

    def _step(self, what: WorkerInput, now: float, *details: Any) -> bool:
        """Do what :attr:`transitions` says. Returns whether it says anything: what it does not name is ignored."""
        transition = self.transitions.get((self._state, what))
        if transition is None:
            return False
        action, self._state = transition
        if action is not None:
            action(self, now, *details)
        return True

    # Messages in.

    def receive_many(self, batch: Iterable[Frames], now: float, port: PortId) -> None:
        stalled = self._notice_stall(now)
        for frames in batch:
            if stalled:
                self._drops.add("stale")
            elif self._state not in CONNECTED:
                self._drops.add("not-registered")  # what crossed our end of the conversation
            else:
                self._take(frames, now)

    def _begin(self, now: float, envelope: Frames, body: Frames) -> None:
        self._run += 1
        self._running = True
        self._envelope = envelope
        self._held = []
        self._held_bytes = 0
        self._requests += 1
        if self._handler_timeout is not None:
            self._give_up_at = now + self._handler_timeout
        self._commands.append(Run(self._run, envelope[0] if envelope else b"", body))

    # What the handler does.

    def handler_partial(self, run: int, frames: Frames, now: float) -> None:
        """The handler of `run` has yielded one part. It is kept: the one reply carries all parts, then the last."""
        if run != self._run or self._envelope is None:
            return
        frames = frames or [b""]
        self._held += frames
        self._held_bytes += sum(map(len, frames)) + FRAME_OVERHEAD * len(frames)
        if self._held_bytes > self._held_bytes_max:
            text = f"the parts of the reply exceed {self._held_bytes_max} bytes{self.too_large_hint}"
            self._step(WorkerInput.GIVE_UP, now, CODE_TOO_LARGE, text)

    def handler_done(self, run: int, frames: Frames, now: float) -> None:
        """The handler of `run` has returned; `frames` is the reply, or the last of it."""
        if run == self._run and self._running:
            self._replies += self._envelope is not None
            self._returned(now, [*self._held, *(frames or [b""])])

    def handler_failed(self, run: int, code: str, message: str, now: float) -> None:
        """The handler of `run` has raised; its caller gets our error reply."""
        if run == self._run and self._running:
            self._errors += 1
            self._events.append(self._tell_failed(code, message))
            self._returned(now, error_body(code.encode("ascii", "replace"), message))

    def _returned(self, now: float, body: Frames) -> None:
        # If it was the handler that held everything up, its result is the first thing to be done about that: the far
        # side says what it is worth, and to close the connection would be to throw it away.
        self._notice_stall(now)
        self._running = False
        self._give_up_at = None
        self._step(self._returning(), now, body)

    def _returning(self) -> WorkerInput:
        return WorkerInput.RETURN

    def _discard(self, now: float, _body: Frames) -> None:
        self._discarded += 1
        if self._connect_at is None:
            self._connect_at = now  # it was only this handler that we waited for

    def _reply(self, now: float, body: Frames) -> None:
        envelope, self._envelope = self._envelope, None
        assert envelope is not None
        self._held = []
        self._say_reply(now, envelope, body)
        # A far side that is silent towards busy workers, as the Guide's is, gets a whole lease from here.
        self._heard_at = now

    def _reply_and_leave(self, now: float, body: Frames) -> None:
        self._reply(now, body)
        self._leave(now)

    def _give_up(self, now: float, code: bytes, text: str) -> None:
        """The caller gets an error now; the handler, which may go on, keeps us from taking more.

        Therefore we go, and come back when it has returned.
        """
        self._reply(now, error_body(code, text))
        self._forget()
        self._leave(now)
        self._commands.append(Cancel(self._run))
        self._connect_at = None

    def _forget(self) -> None:
        """Whatever was asked over this connection gets no answer over it any more."""
        self._envelope = None
        self._held = []
        self._give_up_at = None

    # The connection.

    def _connect(self, now: float) -> None:
        self._endpoint = self._endpoints[self._next_endpoint % len(self._endpoints)]
        self._next_endpoint += 1
        self._connect_at = None
        self._connected_at = self._heard_at = now
        self._beat_at = now + self._interval
        self._out.clear()
        # A new socket each time: its routing id is new, so no other worker has it, and nothing of before arrives.
        self._commands.append(Open(self._port, SocketKind.DEALER, self._endpoint))
        self._say_ready(now)
        self._ready_sent += 1
        self._events.append(self._tell_ready())

    def _reconnect(self, now: float) -> None:
        self._events.append(self._tell_lost("this worker stood still for a lease", 0.0))
        self._commands.append(Close(self._port))
        self._next_endpoint -= 1  # no fault of that one's
        self._connect(now)

    def _lose(self, now: float, reason: str) -> None:
        """Close the connection; go to the next endpoint after a back-off and once the handler is done."""
        if self._heard_at - self._connected_at > self._lease:
            self._backoff.reset()
        delay = self._backoff.delay()
        self._events.append(self._tell_lost(reason, delay))
        self._out.clear()
        self._commands.append(Close(self._port))
        self._forget()
        self._connect_at = now + delay

    def _notice_stall(self, now: float) -> bool:
        """If we stood still for a lease, the far side has written us off: what has not begun was given to others.

        A handler that runs goes on, and whether its reply still counts is the far side's to say.
        """
        stood_still = now - self._last_now > self._lease
        self._last_now = now
        return stood_still and self._step(WorkerInput.STALL, now)

    def send_failed(self, port: PortId, frames: Frames, reason: SendFailure, now: float) -> None:
        """What a far side that went away does not get, another worker's delivery makes up for.

        One that is still there but was not told what it has to know would wait for ever, or hand on a stream with a
        hole: it is given up, and the request goes to another worker.
        """
        self._drops.add(f"{port}-{reason.value}")
        if self._is_awaited(frames):
            self._step(WorkerInput.UNSENT, now, f"a message to it was not sent: {reason.value}")

    def ports_to_send(self) -> tuple[str, ...]:
        return self.PORTS if self._out else ()

    def messages_to_send(self, port: PortId) -> list[Frames]:
        out, self._out = self._out, []
        return out

    def wants_to_read(self, port: PortId) -> bool:
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
        when = self._beat_at
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
            self._events.append(self._tell_timed_out(self._handler_timeout))
            text = f"the handler did not finish within {self._handler_timeout} s"
            self._step(WorkerInput.GIVE_UP, now, CODE_HANDLER_TIMEOUT, text)
        elif self._state in CONNECTED and self._beat_at <= now:
            self._heartbeats += 1
            self._beat_at = now + self._interval
            self._say_heartbeat(now)

    # The end.

    def drain(self, now: float) -> None:
        """Take no more requests; finish what is in hand, reply, and leave."""
        self._step(WorkerInput.DRAIN, now)

    @property
    def drained(self) -> bool:
        """Whether it has left."""
        return self._state is WorkerState.STOPPED

    def shut_down(self, now: float) -> None:
        """Leave at once; a request in hand is for another worker."""
        self._step(WorkerInput.SHUT_DOWN, now)

    def _leave(self, now: float) -> None:
        self._say_goodbye(now)
        self._commands.append(Close(self._port, GOODBYE))

    def _cancel(self, _now: float) -> None:
        self._forget()
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
        return WorkerStatistics(**self._figures())

    def _figures(self) -> dict[str, Any]:
        """What all workers count."""
        return {
            "requests": self._requests,
            "replies": self._replies,
            "errors": self._errors,
            "timeouts": self._timeouts,
            "discarded": self._discarded,
            "ready_sent": self._ready_sent,
            "heartbeats": self._heartbeats,
            "registered": self._state in CONNECTED,
            "busy": self._running,
            "dropped": dict(self._drops.totals),
        }

    def check_invariants(self) -> None:
        is_busy = self._state in (WorkerState.BUSY, WorkerState.FINISHING)
        assert is_busy == (self._envelope is not None), "a reply is owed if and only if the worker is busy"
        assert is_busy or self._give_up_at is None
        assert is_busy or not self._held, "parts are kept for nobody"
        if self._state is not WorkerState.STOPPED:
            assert self._running == (is_busy or self._state in (WorkerState.HELD_UP, WorkerState.LEAVING))
        if self._state is WorkerState.AWAY:
            assert self._connect_at is not None, "away for ever"


TRANSITIONS: Transitions = {
    (WorkerState.AWAY, WorkerInput.CONNECT): (LaneCore._connect, WorkerState.IDLE),
    (WorkerState.AWAY, WorkerInput.DRAIN): (None, WorkerState.STOPPED),
    (WorkerState.AWAY, WorkerInput.SHUT_DOWN): (None, WorkerState.STOPPED),
    (WorkerState.IDLE, WorkerInput.REQUEST): (LaneCore._begin, WorkerState.BUSY),
    (WorkerState.IDLE, WorkerInput.UNSENT): (LaneCore._lose, WorkerState.AWAY),
    (WorkerState.IDLE, WorkerInput.SILENCE): (LaneCore._lose, WorkerState.AWAY),
    (WorkerState.IDLE, WorkerInput.STALL): (LaneCore._reconnect, WorkerState.IDLE),
    (WorkerState.IDLE, WorkerInput.DRAIN): (LaneCore._leave, WorkerState.STOPPED),
    (WorkerState.IDLE, WorkerInput.SHUT_DOWN): (LaneCore._leave, WorkerState.STOPPED),
    (WorkerState.BUSY, WorkerInput.RETURN): (LaneCore._reply, WorkerState.IDLE),
    (WorkerState.BUSY, WorkerInput.GIVE_UP): (LaneCore._give_up, WorkerState.HELD_UP),
    (WorkerState.BUSY, WorkerInput.UNSENT): (LaneCore._lose, WorkerState.HELD_UP),
    (WorkerState.BUSY, WorkerInput.DRAIN): (None, WorkerState.FINISHING),
    (WorkerState.BUSY, WorkerInput.SHUT_DOWN): (LaneCore._cancel_and_leave, WorkerState.STOPPED),
    (WorkerState.FINISHING, WorkerInput.RETURN): (LaneCore._reply_and_leave, WorkerState.STOPPED),
    (WorkerState.FINISHING, WorkerInput.GIVE_UP): (LaneCore._give_up, WorkerState.LEAVING),
    (WorkerState.FINISHING, WorkerInput.UNSENT): (LaneCore._lose, WorkerState.LEAVING),
    (WorkerState.FINISHING, WorkerInput.SHUT_DOWN): (LaneCore._cancel_and_leave, WorkerState.STOPPED),
    (WorkerState.HELD_UP, WorkerInput.RETURN): (LaneCore._discard, WorkerState.AWAY),
    (WorkerState.HELD_UP, WorkerInput.DRAIN): (None, WorkerState.LEAVING),
    (WorkerState.HELD_UP, WorkerInput.SHUT_DOWN): (LaneCore._cancel, WorkerState.STOPPED),
    (WorkerState.LEAVING, WorkerInput.RETURN): (LaneCore._discard, WorkerState.STOPPED),
    (WorkerState.LEAVING, WorkerInput.SHUT_DOWN): (LaneCore._cancel, WorkerState.STOPPED),
    (WorkerState.STOPPED, WorkerInput.RETURN): (LaneCore._discard, WorkerState.STOPPED),
}
"""What happens in every pattern, and the state it leads to."""
