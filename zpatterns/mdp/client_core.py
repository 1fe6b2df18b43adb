"""A Majordomo client as a state machine: 7/MDP for requests, 18/MDP for streams. Pure.

Neither protocol carries request ids, so each open request has a connection of its own: then a reply can only be
for the call whose connection it came over, in whatever order they come and whatever broker sends them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

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
from zpatterns.mdp import wire
from zpatterns.mdp.events import AttemptFailed
from zpatterns.timing import Backoff, Deadlines

PARTS_MAX = 256
"""Parts of a stream that its consumer may leave untaken before we stop reading its connection."""


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Limits and times of a client, in seconds and bytes; :class:`zpatterns.mdp.Client` explains them."""

    timeout: float = 10.0
    retries: int = 3
    attempt_timeout: float | None = None
    max_in_flight: int = 64
    queue_max: int = 100_000
    held_bytes_max: int = 64 * 2**20
    idle_max: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.timeout < float("inf"):
            raise ValueError(f"timeout must be a positive number of seconds, not {self.timeout!r}")
        if self.retries < 0:
            raise ValueError(f"retries must be 0 or more, not {self.retries!r}")
        if self.attempt_timeout is not None and not self.attempt_timeout > 0:
            raise ValueError(f"attempt_timeout must be a positive number of seconds, not {self.attempt_timeout!r}")
        if self.max_in_flight < 1:
            raise ValueError(f"max_in_flight must be at least 1, not {self.max_in_flight!r}")


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """Counters since the start, then what is open now: `waiting`, `in_flight` and `connections`.

    `attempts`: requests handed to connections; `dropped`: messages by reason.
    """

    calls: int
    replies: int
    errors: int
    timeouts: int
    cancelled: int
    attempts: int
    waiting: int
    in_flight: int
    connections: int
    dropped: dict[str, int]


class _Connection:
    __slots__ = ("call", "endpoint", "idle_since", "port")

    def __init__(self, port: int, endpoint: int) -> None:
        self.port = port
        self.endpoint = endpoint
        self.call: _Call | None = None
        self.idle_since = 0.0


class _Call:
    __slots__ = (
        "attempt_timeout",
        "attempts",
        "backoff",
        "body",
        "connections",
        "deadline",
        "endpoint",
        "expiry",
        "held",
        "held_bytes",
        "id",
        "is_stream",
        "over",
        "parts",
        "retry_at",
        "service",
        "started",
        "streaming",
        "version",
        "window_end",
    )

    def __init__(self, id: int, service: bytes, body: Frames, version: str, is_stream: bool, now: float) -> None:
        self.id = id
        self.service = service
        self.body = body
        self.version = version
        self.is_stream = is_stream
        self.started = now
        self.expiry = now
        self.deadline: float | None = None  # when to look at it next, for Deadlines
        self.attempt_timeout = 0.0
        self.attempts = 0
        self.retry_at: float | None = None  # when the next attempt begins
        self.window_end = now  # when the present one ends
        self.backoff: Backoff | None = None
        self.endpoint = 0
        # One for each attempt that may still be answered, the latest last.
        self.connections: list[_Connection] = []
        self.streaming = False  # a part came: no attempt may follow
        self.parts = 0  # parts the consumer has not taken
        self.held: Frames | None = None
        self.held_bytes = 0
        self.over = False


class ClientCore:
    """Makes calls of attempts. The front end numbers the calls; each ends with one Deliver(last) or one Fail."""

    PORTS: ClassVar[tuple[str, ...]] = ()

    def __init__(self, endpoints: Sequence[str], options: ClientOptions, rng: Rng) -> None:
        self._endpoints = tuple(endpoints)
        self.options = options
        self._rng = rng
        self._preferred = 0
        self._calls: dict[int, _Call] = {}
        self._waiting: deque[_Call] = deque()
        self._waiting_count = 0
        self._in_flight = 0
        self._deadlines: Deadlines[_Call] = Deadlines()
        self._connections: dict[PortId, _Connection] = {}
        self._idle: list[list[_Connection]] = [[] for _ in self._endpoints]
        self._idle_count = 0
        self._idle_check_at: float | None = None
        self._last_port = 0
        self._closed = False
        self._out: dict[PortId, list[Frames]] = {}
        self._commands: list[Command] = []
        self._events: list[Event] = []
        self._started = self._replies = self._errors = self._timeouts = self._cancelled = self._attempts = 0
        self._drops = Drops()

    # What the front end asks for.

    def start_call(
        self,
        call_id: int,
        service: bytes,
        body: Frames,
        now: float,
        *,
        version: str = "0.1",
        is_stream: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Begin a call. Errors: QueueFull if it would have to wait and too many do already."""
        options = self.options
        if self._in_flight >= options.max_in_flight and self._waiting_count >= options.queue_max:
            raise QueueFull(
                f"{self._waiting_count} calls wait already, the most this client may hold; "
                "wait for some to end, or raise queue_max",
                service=service.decode(),
            )
        call = _Call(call_id, service, body, version, is_stream, now)
        seconds = options.timeout if timeout is None else timeout
        call.expiry = now + seconds
        call.attempt_timeout = options.attempt_timeout or seconds / (options.retries + 1)
        self._calls[call_id] = call
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

    def part_taken(self, call_id: int, now: float) -> None:
        """The consumer of a stream took one part."""
        call = self._calls.get(call_id)
        if call is not None:
            call.parts -= 1

    def close(self, now: float) -> None:
        """End every call with ClosedError, and close every connection."""
        self._closed = True
        for call in list(self._calls.values()):
            self._fail(call, ClosedError("the client was closed while the call was open", service=_text(call)), now)
        for connection in list(self._connections.values()):
            self._close(connection)

    # Attempts.

    def _begin(self, call: _Call, now: float) -> None:
        self._in_flight += 1
        call.endpoint = self._preferred
        self._attempt(call, now, now + call.attempt_timeout)

    def _attempt(self, call: _Call, now: float, window_end: float) -> None:
        call.attempts += 1
        call.retry_at = None
        call.window_end = window_end
        call.deadline = min(window_end, call.expiry)
        self._attempts += 1
        self._send(call)

    def _send(self, call: _Call) -> None:
        """Have the request sent over a connection on which nothing is open."""
        idle = self._idle[call.endpoint]
        if idle:
            connection = idle.pop()
            self._idle_count -= 1
        else:
            self._last_port += 1
            connection = _Connection(self._last_port, call.endpoint)
            self._connections[connection.port] = connection
            self._commands.append(Open(connection.port, SocketKind.DEALER, self._endpoints[call.endpoint]))
        connection.call = call
        call.connections.append(connection)
        self._out[connection.port] = [wire.client_request(call.version, call.service, call.body)]

    def _attempt_failed(self, call: _Call, reason: str, now: float, error: ZPatternsError) -> None:
        """Try again if that is allowed. An attempt that was sent may still be answered, and that counts."""
        endpoint = call.endpoint
        self._events.append(AttemptFailed(call.service, self._endpoints[endpoint], call.attempts, reason))
        if self._preferred == endpoint:
            self._preferred = (endpoint + 1) % len(self._endpoints)
        if call.attempts > self.options.retries or call.expiry <= now:
            self._fail(call, error, now)
            return
        call.endpoint = self._preferred
        if call.backoff is None:
            # The back-off is taken out of the next attempt's window, so that all attempts fit into the call.
            call.backoff = Backoff(call.attempt_timeout / 4, call.attempt_timeout / 2, self._rng)
        call.retry_at = now + call.backoff.delay()
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
            reply = wire.parse_client_reply(call.version, call.service, frames)
            if reply is None:
                self._drops.add("invalid")
                continue
            body, last = reply
            if last:
                self._finish(call, connection, body, now)
            else:
                self._part(call, connection, body, now)

    def _finish(self, call: _Call, connection: _Connection, body: Frames, now: float) -> None:
        call.connections.remove(connection)
        self._release(connection, now)
        error = wire.parse_error(body)
        if error is None:
            self._replies += 1
            if call.held is not None:
                body = call.held + body
            self._commands.append(Deliver(call.id, body, True))
            self._end(call, now)
            return
        code, text = error
        failure = RemoteError(
            code,
            text,
            service=_text(call),
            attempts=call.attempts,
            elapsed=now - call.started,
            endpoint=self._endpoints[connection.endpoint],
        )
        if code not in wire.NOT_STARTED or call.streaming:
            self._fail(call, failure, now)
        elif not call.connections and call.retry_at is None:
            self._attempt_failed(call, f"refused with {code}", now, failure)

    def _part(self, call: _Call, connection: _Connection, body: Frames, now: float) -> None:
        if not call.streaming:
            call.streaming = True
            call.retry_at = None
            call.deadline = call.expiry
            self._deadlines.add(call)
            for other in call.connections:
                if other is not connection:
                    self._close(other)
            call.connections = [connection]
        if call.is_stream:
            call.parts += 1
            self._commands.append(Deliver(call.id, body, False))
            return
        call.held = (call.held or []) + body
        call.held_bytes += sum(map(len, body)) + 64
        if call.held_bytes > self.options.held_bytes_max:
            text = f"the parts of the reply exceed {self.options.held_bytes_max} bytes; use stream()"
            self._fail(call, RemoteError("too-large", text, service=_text(call)), now)

    # The end of a call.

    def _fail(self, call: _Call, error: Exception, now: float) -> None:
        if isinstance(error, RequestTimeout):
            self._timeouts += 1
        else:
            self._errors += 1
        self._commands.append(Fail(call.id, error))
        self._end(call, now)

    def _end(self, call: _Call, now: float) -> None:
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

    def _release(self, connection: _Connection, now: float) -> None:
        """The connection's request was answered: another call may have it."""
        connection.call = None
        connection.idle_since = now
        self._idle[connection.endpoint].append(connection)
        self._idle_count += 1
        if self._idle_check_at is None:
            self._idle_check_at = now + self.options.idle_max

    def _close(self, connection: _Connection) -> None:
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
        connection = self._connections.get(port)
        return connection is None or connection.call is None or connection.call.parts < PARTS_MAX

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
                # What has not even left is not to leave later.
                self._commands += [Discard(connection.port) for connection in call.connections[-1:]]
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

    def _timeout(self, call: _Call, now: float) -> RequestTimeout:
        name, elapsed = _text(call), now - call.started
        if not call.attempts:
            text = f"the call waited all its {elapsed:.3g} s behind {self._in_flight} others; raise max_in_flight"
        elif call.streaming:
            text = f"the stream of service {name!r} did not end within {elapsed:.3g} s; a slow consumer loses it"
        else:
            tries = "1 attempt" if call.attempts == 1 else f"{call.attempts} attempts"
            text = f"no answer from service {name!r} through {' or '.join(self._endpoints)} within {elapsed:.3g} s "
            text += f"({tries}); is the broker there, and a worker for the service?"
        endpoint = self._endpoints[call.endpoint]
        return RequestTimeout(text, endpoint=endpoint, service=name, attempts=call.attempts, elapsed=elapsed)

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
        assert not self._waiting_count or self._in_flight == self.options.max_in_flight, "a call waits for nothing"
        for call in self._calls.values():
            assert not call.over and call.deadline is not None, "nobody watches a call"
            assert all(connection.call is call for connection in call.connections)
        idle = [connection for connections in self._idle for connection in connections]
        assert len(idle) == self._idle_count
        assert all(connection.call is None for connection in idle)
        busy = [connection for call in self._calls.values() for connection in call.connections]
        assert {id(connection) for connection in idle + busy} == {id(c) for c in self._connections.values()}
        assert len(idle) + len(busy) == len(self._connections), "a connection serves two calls"


def _text(call: _Call) -> str:
    return call.service.decode()
