"""A client of Freelance's addressed model as a state machine: 10/FLP. Pure.

Each server has a ROUTER of its own that knows it by a name we choose, so that any spelling of an endpoint will do, and
servers without identity. Every send has a control frame of its own, and what comes over a server's connection can only
answer what went out over it: so each reply is matched, whatever else comes, late or twice.

A server that is silent is asked with PING. One that stays silent is given up: its socket is closed, with all that has
not left it, and a new one is opened; whoever waited for it turns to another server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from zpatterns.calls_state import Call
from zpatterns.core import Deliver, Frames, Open, PortId, Rng, SendFailure, SocketKind
from zpatterns.errors import RemoteError, ZPatternsError
from zpatterns.freelance import wire
from zpatterns.freelance.events import ServerDown, ServerUp
from zpatterns.freelance.servers_core import ClientOptions, Server, ServersCore
from zpatterns.wire import NOT_STARTED, parse_error

PEER = b"server"
"""The name by which each ROUTER knows its one server."""


class _Attempt:
    """One send to one server, as long as it may be answered."""

    __slots__ = ("call", "control", "sent_at", "server")

    def __init__(self, call: _Call, server: _Server, control: bytes, now: float) -> None:
        self.call = call
        self.server = server
        self.control = control
        self.sent_at = now


class _Call(Call):
    __slots__ = ("current", "open", "refusal", "tried")

    def __init__(self, id: int, body: Frames, now: float) -> None:
        super().__init__(id, body, now)
        self.open: list[_Attempt] = []
        self.current: _Attempt | None = None  # the one whose window is running
        self.tried: dict[_Server, int] = {}  # over which port it was sent to whom
        self.refusal: ZPatternsError | None = None


class _Server(Server):
    __slots__ = ("open", "pinged_at", "refused_at", "stale_at", "turn", "unanswered")

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.open: dict[bytes, _Attempt] = {}
        self.pinged_at = 0.0
        self.unanswered = 0  # pings, since it was heard
        self.refused_at = float("-inf")
        self.turn = 0  # which choice it was last, where servers take turns
        self.stale_at: float | None = None  # since then it may hold, unsent, what nobody waits for any more


class AddressedCore(ServersCore[_Call, _Server]):
    """Makes calls of attempts. The front end numbers the calls; each ends with one Deliver(last) or one Fail.

    An attempt has a window. A server that was not heard in it, though it was pinged at half of it, is given up; else
    the answer still counts, but another server is asked as well, if there is one that has not been.
    """

    def __init__(self, endpoints: Sequence[str], options: ClientOptions, rng: Rng) -> None:
        super().__init__(endpoints, options, rng)
        self._interval = options.liveness.interval
        self._lease = options.liveness.lease
        # A call with a short time-out may turn to another server, but not take the connection from the others.
        window = options.attempt_timeout or options.timeout / (options.retries + 1)
        self._silence = min(self._interval, window)
        self._last_control = 0
        self._tick_at: float | None = None
        self._last_now = float("inf")
        self._stalled_at = float("-inf")
        self._turns = 0

    def start_call(self, call_id: int, body: Frames, now: float, *, timeout: float | None = None) -> None:
        """Begin a call. Errors: QueueFull if it would have to wait and too many do already."""
        self._start(_Call(call_id, body, now), timeout)

    def start(self, now: float) -> None:
        self._last_now = now
        super().start(now)

    # Servers.

    def add_server(self, endpoint: str, now: float) -> None:
        """One server more, the last in order; calls that have nobody else to turn to turn to it."""
        is_new = endpoint not in self._servers
        super().add_server(endpoint, now)
        if is_new:
            for call in list(self._calls.values()):
                if call.open and call.current is None:
                    self._turn_elsewhere(call, now)

    def _new_server(self, endpoint: str) -> _Server:
        return _Server(endpoint)

    def _open_server(self, server: _Server, now: float) -> None:
        port = self._new_port(server, now)
        server.unanswered = 0
        server.stale_at = None
        self._commands.append(Open(port, SocketKind.ROUTER, server.endpoint, PEER))
        self._ping(server, now)

    def _ping(self, server: _Server, now: float) -> None:
        self._pings += 1
        server.unanswered += 1
        server.pinged_at = now
        due = now + self._interval
        if self._tick_at is None or due < self._tick_at:
            self._tick_at = due
        self._send_to(server, [PEER, wire.PING])

    def _abandon(self, server: _Server, reason: str, now: float) -> None:
        attempts, server.open = server.open, {}
        self._lose(server, attempts, reason, now)

    def _lose(self, server: _Server, attempts: dict[bytes, _Attempt], reason: str, now: float) -> None:
        for attempt in attempts.values():
            call = attempt.call
            if call.over:  # it ended while another one's turn was taken
                continue
            call.open.remove(attempt)
            self._tell_attempt(call, server, reason)
            if call.current is attempt or not call.open:
                self._turn_elsewhere(call, now)

    def _renew(self, servers: Mapping[_Server, str], now: float) -> None:
        """These do not answer: nothing that waits for them in our sockets is to reach them later."""
        lost = []
        for server, reason in servers.items():
            if not server.is_down:
                self._events.append(ServerDown(server.endpoint, reason))
            server.is_up, server.is_down = False, True
            self._close_server(server)
            self._open_server(server, now)
            lost.append((server, server.open, reason))
            server.open = {}
        # Not before all of them are done with: no call is to turn from one to the next.
        for server, attempts, reason in lost:
            self._lose(server, attempts, reason, now)

    def _rank(self, server: _Server, now: float) -> int:
        """How good a choice it is; 0 is best."""
        if server.is_down:
            return 3
        if not server.is_up:
            return 1
        if server.refused_at + self._interval > now:
            return 2
        return 1 if server.unanswered and now - server.pinged_at > self._silence / 2 else 0

    def _choose(self, call: _Call, now: float) -> _Server | None:
        """The best server that was not asked yet, or whose connection was made anew since."""
        best, best_rank = None, (9, False, 0)
        for server in self._servers.values():
            if call.tried.get(server) == server.port:
                continue
            rank = (self._rank(server, now), server in call.tried, server.turn)
            if rank < best_rank:
                best, best_rank = server, rank
                if rank == (0, False, 0):
                    break
        return best

    # Attempts.

    def _begin(self, call: _Call, now: float) -> None:
        self._in_flight += 1
        server = self._choose(call, now)
        assert server is not None, "there is always a server"
        self._ask(call, server, now)

    def _ask(self, call: _Call, server: _Server, now: float) -> None:
        self._last_control += 1
        control = wire.sequence(self._last_control)
        attempt = _Attempt(call, server, control, now)
        server.open[control] = attempt
        call.open.append(attempt)
        call.current = attempt
        call.tried[server] = server.port
        if self.options.round_robin:
            self._turns += 1
            server.turn = self._turns
        call.attempts += 1
        self._attempts += 1
        call.window_end = now + call.attempt_timeout
        call.deadline = min(now + call.attempt_timeout / 2, call.expiry)
        self._send_to(server, [PEER, *wire.addressed_request(control, call.body)])

    def _next(self, call: _Call, now: float) -> _Server | None:
        """Whom it may still be sent to."""
        return self._choose(call, now) if call.attempts <= self.options.retries and now < call.expiry else None

    def _turn_elsewhere(self, call: _Call, now: float) -> None:
        """The current attempt has failed, or its window is over: ask another server, or go on waiting."""
        call.current = None
        server = self._next(call, now)
        if server is not None:
            self._ask(call, server, now)
        elif call.open and now < call.expiry:
            call.deadline = call.expiry
        else:
            self._fail(call, call.refusal or self._timeout(call, now), now)
            return
        self._deadlines.add(call)

    def _window_ended(self, call: _Call, now: float) -> None:
        """The server of the current attempt is only slow, or the window was too short to say."""
        attempt = call.current
        assert attempt is not None, "a window without an attempt"
        self._tell_attempt(call, attempt.server, "no answer")
        self._turn_elsewhere(call, now)

    def _is_silent(self, server: _Server, now: float) -> bool:
        """Whether it has been for so long that it is given up as soon as an attempt fails.

        Not if it was we who stood still: then its answers may only not have been read.
        """
        silent = now - max(server.heard_at, server.opened_at) >= self._silence - 1e-6
        return silent and now - self._stalled_at > self._interval

    # Messages in.

    def receive_many(self, batch: Iterable[Frames], now: float, port: PortId) -> None:
        self._notice_stall(now)
        server = self._by_port.get(port)
        for frames in batch:
            if server is None or server.port != port:
                self._drops.add("late")  # what came between our Close and its execution
                continue
            if len(frames) == 2 and frames[1] == wire.PONG:
                self._heard(server, now)
                continue
            reply = wire.parse_addressed_reply(frames[1:])
            if reply is None:
                self._drops.add("invalid")
                continue
            self._heard(server, now)
            attempt = server.open.pop(reply[0], None)
            if attempt is None:
                self._drops.add("unmatched")  # too late, or for the second time
            else:
                self._reply(attempt, reply[1], now)

    def _heard(self, server: _Server, now: float) -> None:
        server.heard_at = now
        server.unanswered = 0
        server.stale_at = None
        if not server.is_up:
            server.is_up, server.is_down = True, False
            self._events.append(ServerUp(server.endpoint))

    def _reply(self, attempt: _Attempt, body: Frames, now: float) -> None:
        call, server = attempt.call, attempt.server
        call.open.remove(attempt)
        error = parse_error(body)
        if error is None:
            self._replies += 1
            self._commands.append(Deliver(call.id, body, True))
            self._end(call, now)
            return
        elapsed = now - call.started
        failure = RemoteError(*error, attempts=call.attempts, elapsed=elapsed, endpoint=server.endpoint)
        if error[0] not in NOT_STARTED:
            self._fail(call, failure, now)
            return
        server.refused_at = now
        call.refusal = failure
        self._tell_attempt(call, server, f"refused with {error[0]}")
        if call.current is attempt or not call.open:
            self._turn_elsewhere(call, now)

    def _end(self, call: _Call, now: float) -> None:
        for attempt in call.open:
            server = attempt.server
            server.open.pop(attempt.control, None)
            if server.heard_at <= attempt.sent_at and server.stale_at is None:
                server.stale_at = now
        call.open = []
        call.current = None
        super()._end(call, now)

    def send_failed(self, port: PortId, frames: Frames, reason: SendFailure, now: float) -> None:
        """The request did not leave: another server may have it, or it waits for a new connection to this one."""
        server = self._by_port.get(port)
        if server is None:
            return
        if reason is SendFailure.UNREACHABLE and server.opened_at + self._interval <= now:
            # libzmq has ended the connection for good, for what came over it was not ZMTP: it makes no other.
            self._renew({server: reason.value}, now)
            return
        attempt = server.open.get(frames[1])
        if attempt is None:
            return
        call = attempt.call
        if reason is SendFailure.UNREACHABLE and call.open == [attempt] and self._next(call, now) is None:
            return  # as if it were lost: when its window is over there is a new connection
        del server.open[frames[1]]
        call.open.remove(attempt)
        self._tell_attempt(call, server, reason.value)
        if call.current is attempt or not call.open:
            self._turn_elsewhere(call, now)

    # Time.

    def next_timer(self) -> float | None:
        when = self._deadlines.next()
        if self._tick_at is not None and not self._closed and (when is None or self._tick_at < when):
            return self._tick_at
        return when

    def handle_timer(self, now: float) -> None:
        self._notice_stall(now)
        due = self._deadlines.due(now)
        # Who does not answer is found out before anybody turns to anybody else.
        dead: dict[_Server, str] = {}
        for call in due:
            if call.expiry <= now:
                waits = call.open
            else:
                waits = [call.current] if call.current is not None and call.window_end <= now else []
            for attempt in waits:
                if attempt.server.heard_at <= attempt.sent_at and self._is_silent(attempt.server, now):
                    dead[attempt.server] = "no answer"
        if self._tick_at is not None and self._tick_at <= now and not self._closed:
            self._tick(dead, now)
        self._renew(dead, now)
        for call in due:
            if call.over or call.deadline is not None:
                continue  # its turn was taken when its server was given up
            if call.expiry <= now:
                self._fail(call, self._timeout(call, now), now)
            elif now < call.window_end:
                self._look_after(call, now)
            else:
                self._window_ended(call, now)

    def _look_after(self, call: _Call, now: float) -> None:
        """Half of an attempt's window is over: if the server has not been heard in it, see whether it is there."""
        attempt = call.current
        if attempt is not None and max(attempt.server.heard_at, attempt.server.pinged_at) <= attempt.sent_at:
            self._ping(attempt.server, now)
        call.deadline = min(call.window_end, call.expiry)
        self._deadlines.add(call)

    def _tick(self, dead: dict[_Server, str], now: float) -> None:
        """Ping servers that are silent for an interval, and find those that are for a lease."""
        self._tick_at = None
        for server in self._servers.values():
            if server in dead:
                continue
            due = max(server.heard_at, server.pinged_at) + self._interval
            if due <= now:
                silence = now - max(server.heard_at, server.opened_at)
                overdue = silence >= self._lease - self._interval / 2 or server.stale_at is not None
                # One that was not there before has for each attempt its window to appear in.
                overdue = overdue and (server.is_up or not server.open)
                if server.unanswered and overdue and self._is_silent(server, now):
                    dead[server] = "silent for a lease"
                else:
                    self._ping(server, now)
            elif self._tick_at is None or due < self._tick_at:
                self._tick_at = due

    def _notice_stall(self, now: float) -> None:
        # Something is due every interval.
        if now - self._last_now > 1.5 * self._interval:
            self._stalled_at = now
        self._last_now = now

    # Telling.

    def check_invariants(self) -> None:
        super().check_invariants()
        attempts = [attempt for call in self._calls.values() for attempt in call.open]
        assert {id(attempt) for attempt in attempts} == {
            id(attempt) for server in self._servers.values() for attempt in server.open.values()
        }
        for call in self._calls.values():
            assert not call.attempts or call.open, "a call waits for nothing"
            assert call.current is None or call.current in call.open
            assert len({attempt.server for attempt in call.open}) == len(call.open), "two sends to one server"
        if self._is_started and not self._closed:
            assert self._tick_at is not None
