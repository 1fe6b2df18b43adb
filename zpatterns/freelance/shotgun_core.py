"""A client of Freelance's shotgun model as a state machine: every request to every server, the first answer wins. Pure.

Each server has a DEALER of its own, so that each gets each request exactly once. There is nothing to retry: nobody is
left to turn to, and a server that answers is never sent a request twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zpatterns.calls_state import Call
from zpatterns.core import Deliver, Discard, Frames, Open, PortId, Rng, SendFailure, SocketKind
from zpatterns.freelance import wire
from zpatterns.freelance.events import ServerUp
from zpatterns.freelance.servers_core import ClientOptions, Server, ServersCore

SWEEP = 0.25
"""Seconds that a request may go on waiting for a server to return, after its call has ended."""


class _Call(Call):
    __slots__ = ("number",)

    def __init__(self, id: int, body: Frames, now: float) -> None:
        super().__init__(id, body, now)
        self.number = b""


class _Server(Server):
    __slots__ = ("is_cut", "is_swept", "open", "stale_at", "unsent")

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.open: dict[bytes, _Call] = {}
        self.is_cut = False  # there was no connection for something
        self.unsent: list[Frames] = []  # that, as long as its call is open: no sweep may come before the next call
        self.is_swept = False  # what is reported as unsent is what we wanted back
        self.stale_at: float | None = None  # since then our socket may hold what nobody waits for any more


class ShotgunCore(ServersCore[_Call, _Server]):
    """Makes calls. The front end numbers them; each ends with one Deliver(last) or one Fail."""

    def __init__(self, endpoints: Sequence[str], options: ClientOptions, rng: Rng) -> None:
        super().__init__(endpoints, options, rng)
        self._last_number = 0
        self._sweep_at: float | None = None

    def start_call(self, call_id: int, body: Frames, now: float, *, timeout: float | None = None) -> None:
        """Begin a call. Errors: ValueError unless `body` is one frame; QueueFull."""
        if len(body) != 1:
            raise ValueError(f"the shotgun model's requests have exactly one body frame, and this has {len(body)}")
        self._start(_Call(call_id, body, now), timeout)

    # Servers.

    def _new_server(self, endpoint: str) -> _Server:
        return _Server(endpoint)

    def _open_server(self, server: _Server, now: float) -> None:
        self._new_port(server, now)
        self._connect(server, now)
        for call in self._calls.values():
            if call.attempts:
                self._ask(server, call)

    def _connect(self, server: _Server, now: float) -> None:
        server.opened_at = now
        self._commands.append(Open(server.port, SocketKind.DEALER, server.endpoint))

    def _abandon(self, server: _Server, reason: str, now: float) -> None:
        server.open.clear()  # the others were asked, too

    # Calls.

    def _begin(self, call: _Call, now: float) -> None:
        self._in_flight += 1
        self._attempts += 1
        call.attempts = 1
        call.deadline = call.expiry
        self._last_number += 1
        call.number = wire.sequence(self._last_number)
        for server in self._servers.values():
            self._ask(server, call)

    def _ask(self, server: _Server, call: _Call) -> None:
        server.open[call.number] = call
        self._send_to(server, wire.shotgun_request(call.number, call.body))

    def _end(self, call: _Call, now: float) -> None:
        for server in self._servers.values():
            if server.open.pop(call.number, None) is not None and server.stale_at is None:
                server.stale_at = now
                self._sweep_soon(now)
            if server.unsent:
                server.unsent = [frames for frames in server.unsent if frames[1] in server.open]
        super()._end(call, now)

    # Messages.

    def receive_many(self, batch: Iterable[Frames], now: float, port: PortId) -> None:
        for frames in batch:
            server = self._by_port.get(port)
            if server is None:
                self._drops.add("late")  # what came between our Close and its execution
                continue
            reply = wire.parse_shotgun_reply(frames)
            if reply is None:
                self._drops.add("invalid")
                continue
            server.heard_at = now
            if not server.is_up:
                server.is_up = True
                self._events.append(ServerUp(server.endpoint))
            call = server.open.pop(reply[0], None)
            if call is None:
                self._drops.add("unmatched")  # another server was faster, or it came for the second time
                continue
            self._replies += 1
            self._commands.append(Deliver(call.id, reply[1], True))
            self._end(call, now)

    def messages_to_send(self, port: PortId) -> list[Frames]:
        server = self._by_port.get(port)
        if server is not None:
            server.is_swept = False
        return super().messages_to_send(port)

    def send_failed(self, port: PortId, frames: Frames, reason: SendFailure, now: float) -> None:
        """What was swept goes out again if its call is still open; what did not fit does not."""
        server = self._by_port.get(port)
        if server is None:
            return
        if reason is SendFailure.OVERFLOW:
            server.open.pop(frames[1], None)
        elif not server.is_swept:
            server.is_cut = True
            if frames[1] in server.open:
                server.unsent.append(frames)
            self._sweep_soon(now)
        else:
            if max(server.heard_at, server.opened_at) + self.options.liveness.interval <= now:
                # There is no connection, and perhaps none is made any more: libzmq gives up a peer that breaks ZMTP's
                # rules, and something else than a server may have been there for a moment.
                self._connect(server, now)
            if frames[1] in server.open:
                self._send_to(server, frames)

    # Time.

    def next_timer(self) -> float | None:
        when = self._deadlines.next()
        if self._sweep_at is not None and (when is None or self._sweep_at < when):
            return self._sweep_at
        return when

    def handle_timer(self, now: float) -> None:
        for call in self._deadlines.due(now):
            if not call.over:
                self._fail(call, self._timeout(call, now), now)
        if self._sweep_at is not None and self._sweep_at <= now:
            self._sweep_at = None
            for server in self._servers.values():
                self._sweep(server, now)

    def _sweep_soon(self, now: float) -> None:
        if self._sweep_at is None:
            self._sweep_at = now + SWEEP

    def _sweep(self, server: _Server, now: float) -> None:
        """Take back what our socket holds if the server does not seem to be there; what is wanted goes out again."""
        stale_at, server.stale_at = server.stale_at, None
        if server.is_cut or (stale_at is not None and server.heard_at < stale_at):
            self._commands.append(Discard(server.port))
            server.is_swept = True
        if server.is_cut:
            server.is_cut = False
            self._connect(server, now)
            for frames in server.unsent:
                self._send_to(server, frames)
            server.unsent = []

    def check_invariants(self) -> None:
        super().check_invariants()
        for server in self._servers.values():
            for number, call in server.open.items():
                assert call.number == number and not call.over
