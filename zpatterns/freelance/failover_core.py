"""A client of Freelance's first model as a state machine: one server after another, as a REQ would ask them. Pure.

The model has no ids, so each open request has a connection of its own: see :mod:`zpatterns.calls_core`.
"""

from __future__ import annotations

from zpatterns.calls_core import CallsCore
from zpatterns.calls_state import Call, Connection
from zpatterns.core import Frames
from zpatterns.freelance.servers_core import FreelanceStatistics, no_answer
from zpatterns.wire import req_body, req_message


class FailoverCore(CallsCore[Call]):
    """Makes calls of attempts. The front end numbers the calls; each ends with one Deliver(last) or one Fail.

    All calls ask the server that answered last; when one does not, they turn to the next.
    """

    def start(self, now: float) -> None:
        """Nothing is opened before it is used."""

    def start_call(self, call_id: int, body: Frames, now: float, *, timeout: float | None = None) -> None:
        """Begin a call. Errors: QueueFull if it would have to wait and too many do already."""
        self._start(Call(call_id, body, now), timeout)

    # Servers.

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The servers' endpoints, in their order."""
        return self._endpoints

    def add_server(self, endpoint: str, now: float) -> None:
        """One server more, the last in order; nothing happens if it is there already."""
        if endpoint not in self._endpoints:
            self._endpoints += (endpoint,)
            self._idle.append([])

    def remove_server(self, endpoint: str, now: float) -> None:
        """Forget a server; calls that wait for it turn to the others. Errors: ValueError for one that is unknown, and
        for the last."""
        if endpoint not in self._endpoints:
            raise ValueError(f"{endpoint!r} is none of this client's servers: {', '.join(self._endpoints)}")
        if len(self._endpoints) == 1:
            raise ValueError(f"{endpoint!r} is the last server of this client: add another one before you remove it")
        number = self._endpoints.index(endpoint)
        if self._preferred == number:
            self._preferred = (number + 1) % len(self._endpoints)
        for connection in list(self._connections.values()):
            if connection.endpoint != number:
                continue
            call = connection.call
            if call is not None:
                call.connections.remove(connection)
            self._close(connection)
            if call is not None and call.endpoint == number and call.retry_at is None:
                self._attempt_failed(call, "removed", now, self._timeout(call, now))
        self._forget(number)

    def _forget(self, number: int) -> None:
        """Nothing is open with this server: those behind it move up, and whoever was to ask it asks the next."""
        self._endpoints = self._endpoints[:number] + self._endpoints[number + 1 :]
        del self._idle[number]
        for connection in self._connections.values():
            connection.endpoint -= connection.endpoint > number
        for call in self._calls.values():
            call.endpoint = (call.endpoint - (call.endpoint > number)) % len(self._endpoints)
        if self._preferred > number:
            self._preferred -= 1

    def _pause(self, call: Call) -> float:
        """None before a server that was not asked yet."""
        return super()._pause(call) if call.attempts % len(self._endpoints) == 0 else 0.0

    # Messages.

    def _request(self, call: Call) -> Frames:
        return req_message(call.body)

    def _answered(self, call: Call, connection: Connection[Call], frames: Frames, now: float) -> None:
        body = req_body(frames)
        if body is None:
            self._drops.add("invalid")
        else:
            self._finish(call, connection, body, now)

    # Telling.

    def _no_answer(self, call: Call, elapsed: float) -> str:
        return no_answer(self._endpoints, call, elapsed)

    def statistics(self) -> FreelanceStatistics:  # type: ignore[override]
        return FreelanceStatistics(
            calls=self._started,
            replies=self._replies,
            errors=self._errors,
            timeouts=self._timeouts,
            cancelled=self._cancelled,
            attempts=self._attempts,
            pings=0,
            waiting=self._waiting_count,
            in_flight=self._in_flight,
            servers=dict.fromkeys(self._endpoints, "unknown"),
            dropped=dict(self._drops.totals),
        )
