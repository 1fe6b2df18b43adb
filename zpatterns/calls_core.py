"""Calls and their attempts, as every client needs them whose protocol has requests and replies, but no ids. Pure.

Each open request has a connection of its own: then a reply can only be for the call whose connection it came over, in
whatever order replies come and whoever sends them. A connection whose one request had its one answer serves another
call; one on which an answer may still come never does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic

from zpatterns.calls_state import C, CallOptions, ClientStatistics, Connection
from zpatterns.core import (
    Close,
    Command,
    Deliver,
    Discard,
    Drops,
    Event,
    Fail,
    Frames,
    Open,
    PortId,
    Rng,
    SendFailure,
    SocketKind,
)
from zpatterns.errors import ClosedError, QueueFull, RemoteError, RequestTimeout, ZPatternsError
from zpatterns.timing import Backoff, Deadlines
from zpatterns.wire import NOT_STARTED, parse_error


@dataclass(frozen=True, slots=True)
class AttemptFailed(Event):
    """An attempt had no answer in time, or was refused, and is given up or repeated."""

    level: ClassVar[str] = "warning"
    endpoint: str
    attempt: int
    reason: str


class CallsCore(Generic[C]):
    """Makes calls of attempts. The front end numbers the calls; each ends with one Deliver(last) or one Fail.

    A pattern has its own ``start_call``, which ends in :meth:`_start`, and says how its frames look in
    :meth:`_request` and :meth:`_answered`.
    """

    PORTS: ClassVar[tuple[str, ...]] = ()

    def __init__(self, endpoints: Sequence[str], options: CallOptions, rng: Rng) -> None:
        self._endpoints = tuple(endpoints)
        self.options = options
        self._rng = rng
        self._preferred = 0
        self._calls: dict[int, C] = {}
        self._waiting: deque[C] = deque()
        self._waiting_count = self._in_flight = self._idle_count = self._last_port = 0
        self._deadlines: Deadlines[C] = Deadlines()
        self._connections: dict[PortId, Connection[C]] = {}
        self._idle: list[list[Connection[C]]] = [[] for _ in self._endpoints]
        self._idle_check_at: float | None = None
        self._closed = False
        self._out: dict[PortId, list[Frames]] = {}
        self._commands: list[Command] = []
        self._events: list[Event] = []
        self._started = self._replies = self._errors = self._timeouts = self._cancelled = self._attempts = 0
        self._drops = Drops()

    # What a pattern provides.

    def _request(self, call: C) -> Frames:
        """The frames of a call's request, as a DEALER sends them."""
        raise NotImplementedError

    def _answered(self, call: C, connection: Connection[C], frames: Frames, now: float) -> None:
        """A message came over the connection of an open request: see :meth:`_finish`."""
        raise NotImplementedError

    def _no_answer(self, call: C, elapsed: float) -> str:
        """The text of the error for a call whose attempts had no answer."""
        servers = " or ".join(self._endpoints)
        return f"no answer from {servers} within {elapsed:.3g} s ({times(call.attempts)}); is the server there?"

    def _tell_failed(self, call: C, endpoint: str, reason: str) -> Event:
        """The event that tells of a failed attempt."""
        return AttemptFailed(endpoint, call.attempts, reason)

    def _service(self, call: C) -> str | None:
        """What the errors say was called, where there is more than one thing to call."""
        return None

    def _give_up(self, call: C, now: float) -> None:
        """An attempt's window has ended without an answer. It may still be answered, and that counts."""
        # What has not even left is not to leave later.
        self._commands += [Discard(connection.port) for connection in call.connections[-1:]]

    def _pause(self, call: C) -> float:
        """Seconds until the attempt after a failed one; they are taken out of its window."""
        if call.backoff is None:
            call.backoff = Backoff(call.attempt_timeout / 4, call.attempt_timeout / 2, self._rng)
        return call.backoff.delay()

    def _turn_from(self, endpoint: int, error: ZPatternsError, now: float) -> None:
        """An attempt at this endpoint has failed: where others are to begin."""
        if self._preferred == endpoint:
            self._preferred = (endpoint + 1) % len(self._endpoints)

    # What the front end asks for.

    def _start(self, call: C, timeout: float | None) -> None:
        """Begin a call. Errors: QueueFull if it would have to wait and too many do already."""
        options, now = self.options, call.started
        if self._in_flight >= options.max_in_flight and self._waiting_count >= options.queue_max:
            raise QueueFull(
                f"{self._waiting_count} calls wait already, the most this client may hold; "
                "wait for some to end, or raise queue_max",
                service=self._service(call),
            )
        seconds = options.timeout if timeout is None else timeout
        call.expiry = now + seconds
        call.attempt_timeout = options.attempt_timeout or seconds / (options.retries + 1)
        self._calls[call.id] = call
        self._started += 1
        if self._in_flight < options.max_in_flight:
            self._begin(call, now)
        else:
            self._waiting.append(call)
            self._waiting_count += 1
            call.deadline = call.expiry
        self._deadlines.add(call)

    def cancel_call(self, call_id: int, now: float) -> None:
        """The caller wants no answer any more. Nothing is delivered afterwards."""
        call = self._calls.get(call_id)
        if call is not None:
            self._cancelled += 1
            self._end(call, now)

    def close(self, now: float) -> None:
        """End every call with ClosedError, and close every connection."""
        self._closed = True
        for call in list(self._calls.values()):
            text = "the client was closed while the call was open"
            self._fail(call, ClosedError(text, service=self._service(call)), now)
        for connection in list(self._connections.values()):
            self._close(connection)

    # Attempts.

    def _begin(self, call: C, now: float) -> None:
        self._in_flight += 1
        call.endpoint = self._preferred
        self._attempt(call, now, now + call.attempt_timeout)

    def _attempt(self, call: C, now: float, window_end: float) -> None:
        call.attempts += 1
        call.retry_at = None
        call.window_end = window_end
        call.deadline = min(window_end, call.expiry)
        self._attempts += 1
        self._send(call)

    def _send(self, call: C) -> None:
        """Have the request sent over a connection on which nothing is open."""
        idle = self._idle[call.endpoint]
        if idle:
            connection = idle.pop()
            self._idle_count -= 1
        else:
            self._last_port += 1
            connection = Connection(self._last_port, call.endpoint)
            self._connections[connection.port] = connection
            self._commands.append(Open(connection.port, SocketKind.DEALER, self._endpoints[call.endpoint]))
        connection.call = call
        call.connections.append(connection)
        self._out[connection.port] = [self._request(call)]

    def _attempt_failed(self, call: C, reason: str, now: float, error: ZPatternsError) -> None:
        """Try again if that is allowed."""
        self._events.append(self._tell_failed(call, self._endpoints[call.endpoint], reason))
        self._turn_from(call.endpoint, error, now)
        if call.attempts > self.options.retries or call.expiry <= now:
            self._fail(call, error, now)
            return
        call.endpoint = self._preferred
        # The pause is taken out of the next attempt's window, so that all attempts fit into the call.
        call.retry_at = now + self._pause(call)
        call.deadline = min(call.retry_at, call.expiry)
        call.window_end = now + call.attempt_timeout
        self._deadlines.add(call)

    # Messages in.

    def receive_many(self, batch: Iterable[Frames], now: float, port: PortId) -> None:
        for frames in batch:
            connection = self._connections.get(port)
            if connection is None:
                self._drops.add("late")  # what came between our Close and its execution
                continue
            call = connection.call
            if call is None or port in self._out:
                # Nothing was asked over this connection since its last answer: who knows what else it would bring.
                self._drops.add("unsolicited")
                self._close(connection)
                if call is not None:
                    call.connections.remove(connection)
                    self._send(call)
                continue
            self._answered(call, connection, frames, now)

    def _finish(self, call: C, connection: Connection[C], body: Frames, now: float) -> None:
        """The whole answer of a call is there, or an error of our convention in its place."""
        call.connections.remove(connection)
        self._release(connection, now)
        error = parse_error(body)
        if error is None:
            self._replies += 1
            self._commands.append(Deliver(call.id, body, True))
            self._end(call, now)
            return
        code, text = error
        failure = RemoteError(
            code,
            text,
            service=self._service(call),
            attempts=call.attempts,
            elapsed=now - call.started,
            endpoint=self._endpoints[connection.endpoint],
        )
        if code not in NOT_STARTED or call.streaming:
            self._fail(call, failure, now)
        elif not call.connections and call.retry_at is None:
            self._attempt_failed(call, f"refused with {code}", now, failure)

    # The end of a call.

    def _fail(self, call: C, error: Exception, now: float) -> None:
        if isinstance(error, RequestTimeout):
            self._timeouts += 1
        else:
            self._errors += 1
        self._commands.append(Fail(call.id, error))
        self._end(call, now)

    def _end(self, call: C, now: float) -> None:
        call.over = True
        call.deadline = None
        call.body, call.held = [], None  # the heap of deadlines lets go of the call only later
        del self._calls[call.id]
        for connection in call.connections:
            # A reply may be on its way on these: they must not serve another call.
            self._close(connection)
        call.connections = []
        if not call.attempts:
            self._waiting_count -= 1
            if len(self._waiting) > 2 * self._waiting_count + 64:
                self._waiting = deque(waiting for waiting in self._waiting if not waiting.over)
            return
        self._in_flight -= 1
        while self._waiting and not self._closed and self._in_flight < self.options.max_in_flight:
            waiting = self._waiting.popleft()
            if waiting.over:
                continue
            if waiting.expiry <= now:
                self._fail(waiting, self._timeout(waiting, now), now)
            else:
                self._waiting_count -= 1
                self._begin(waiting, now)
                self._deadlines.add(waiting)

    def _release(self, connection: Connection[C], now: float) -> None:
        """The connection's request was answered: another call may have it."""
        connection.call = None
        connection.idle_since = now
        self._idle[connection.endpoint].append(connection)
        self._idle_count += 1
        if self._idle_check_at is None:
            self._idle_check_at = now + self.options.idle_max

    def _close(self, connection: Connection[C]) -> None:
        if self._connections.pop(connection.port, None) is not None:
            if connection.call is None:
                self._idle[connection.endpoint].remove(connection)
                self._idle_count -= 1
            connection.call = None
            self._out.pop(connection.port, None)
            self._commands.append(Close(connection.port))

    # Messages out.

    def ports_to_send(self) -> Collection[PortId]:
        return self._out

    def messages_to_send(self, port: PortId) -> list[Frames]:
        return self._out.pop(port, [])

    def wants_to_read(self, port: PortId) -> bool:
        return True

    def commands(self) -> list[Command]:
        commands, self._commands = self._commands, []
        return commands

    def send_failed(self, port: PortId, frames: Frames, reason: SendFailure, now: float) -> None:
        """The request did not leave: its connection has nothing to wait for. The attempt's window goes on."""
        connection = self._connections.get(port)
        if connection is not None and connection.call is not None:
            connection.call.connections.remove(connection)
            self._close(connection)

    # Time.

    def next_timer(self) -> float | None:
        when = self._deadlines.next()
        if self._idle_check_at is not None and (when is None or self._idle_check_at < when):
            return self._idle_check_at
        return when

    def handle_timer(self, now: float) -> None:
        for call in self._deadlines.due(now):
            if call.over:
                continue
            if call.retry_at is not None and now < call.expiry:
                self._attempt(call, now, call.window_end)
                self._deadlines.add(call)
            elif call.retry_at is None and call.attempts and not call.streaming:
                self._give_up(call, now)
                self._attempt_failed(call, "no answer", now, self._timeout(call, now))
            else:
                self._fail(call, self._timeout(call, now), now)
        if self._idle_check_at is not None and self._idle_check_at <= now:
            self._close_idle(now)

    def _close_idle(self, now: float) -> None:
        for idle in self._idle:
            for connection in [one for one in idle if one.idle_since + self.options.idle_max <= now]:
                self._close(connection)
        self._idle_check_at = now + self.options.idle_max if self._idle_count else None

    def _timeout(self, call: C, now: float) -> RequestTimeout:
        elapsed = now - call.started
        if call.attempts:
            text = self._no_answer(call, elapsed)
        else:
            text = f"the call waited all its {elapsed:.3g} s behind {self._in_flight} others; raise max_in_flight"
        return RequestTimeout(
            text,
            endpoint=self._endpoints[call.endpoint],
            service=self._service(call),
            attempts=call.attempts,
            elapsed=elapsed,
        )

    # Telling.

    def events(self) -> list[Event]:
        self._drops.tell(self._events)
        events, self._events = self._events, []
        return events

    def statistics(self) -> ClientStatistics:
        return ClientStatistics(
            calls=self._started,
            replies=self._replies,
            errors=self._errors,
            timeouts=self._timeouts,
            cancelled=self._cancelled,
            attempts=self._attempts,
            waiting=self._waiting_count,
            in_flight=self._in_flight,
            connections=len(self._connections),
            dropped=dict(self._drops.totals),
        )

    def check_invariants(self) -> None:
        begun = [call for call in self._calls.values() if call.attempts]
        assert len(begun) == self._in_flight <= self.options.max_in_flight
        assert self._waiting_count == len(self._calls) - len(begun)
        assert not self._waiting_count or self._in_flight == self.options.max_in_flight, "a call waits in vain"
        for call in self._calls.values():
            assert not call.over and call.deadline is not None, "nobody watches a call"
            assert all(connection.call is call for connection in call.connections)
        idle = [connection for connections in self._idle for connection in connections]
        assert len(idle) == self._idle_count
        assert all(connection.call is None for connection in idle)
        busy = [connection for call in self._calls.values() for connection in call.connections]
        assert {id(connection) for connection in idle + busy} == {id(c) for c in self._connections.values()}
        assert len(idle) + len(busy) == len(self._connections), "a connection serves two calls"


def times(attempts: int) -> str:
    """How many attempts, in words for an error's text."""
    return "1 attempt" if attempts == 1 else f"{attempts} attempts"
