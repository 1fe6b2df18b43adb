"""A client of Freelance's first model as a state machine: one server after another, as a REQ would ask them. Pure.

The model has no ids, so each open request has a connection of its own: see :mod:`zpatterns.calls_core`.
"""

from __future__ import annotations

from collections.abc import Sequence

from zpatterns.calls_core import CallsCore
from zpatterns.calls_state import Call, Connection
from zpatterns.core import Frames, Rng
from zpatterns.freelance.servers_core import ClientOptions, FreelanceStatistics, no_answer
from zpatterns.wire import req_body, req_message


class FailoverCore(CallsCore[Call]):
    """Makes calls of attempts. The front end numbers the calls; each ends with one Deliver(last) or one Fail.

    All calls ask the server that answered last; when one does not, they turn to the next.
    """

    def __init__(self, endpoints: Sequence[str], options: ClientOptions, rng: Rng) -> None:
        super().__init__(endpoints, options, rng)
        # A server that was removed keeps its number, since calls and connections know it by that.
        self._removed: set[int] = set()

    def start(self, now: float) -> None:
        """Nothing is opened before it is used."""

    def start_call(self, call_id: int, body: Frames, now: float, *, timeout: float | None = None) -> None:
        """Begin a call. Errors: QueueFull if it would have to wait and too many do already."""
        self._start(Call(call_id, body, now), timeout)

    # Servers.

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The servers' endpoints, in their order."""
        return tuple(one for number, one in enumerate(self._endpoints) if number not in self._removed)

    def add_server(self, endpoint: str, now: float) -> None:
        """One server more; nothing happens if it is there already."""
        if endpoint in self._endpoints:
            self._removed.discard(self._endpoints.index(endpoint))
        else:
            self._endpoints += (endpoint,)
            self._idle.append([])

    def remove_server(self, endpoint: str, now: float) -> None:
        """Forget a server; calls that wait for it turn to the others. Errors: ValueError for one that is unknown, and
        for the last."""
        if endpoint not in self.endpoints:
            raise ValueError(f"{endpoint!r} is none of this client's servers: {', '.join(self.endpoints)}")
        if len(self.endpoints) == 1:
            raise ValueError(f"{endpoint!r} is the last server of this client: add another one before you remove it")
        number = self._endpoints.index(endpoint)
        self._removed.add(number)
        for connection in list(self._connections.values()):
            if connection.endpoint != number:
                continue
            call = connection.call
            if call is not None:
                call.connections.remove(connection)
            self._close(connection)
            if call is not None and call.endpoint == number and call.retry_at is None:
                self._attempt_failed(call, "removed", now, self._timeout(call, now))

    def _attempt(self, call: Call, now: float, window_end: float) -> None:
        while call.endpoint in self._removed:
            call.endpoint = (call.endpoint + 1) % len(self._endpoints)
        super()._attempt(call, now, window_end)

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
        return no_answer(self.endpoints, call, elapsed)

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
            servers=dict.fromkeys(self.endpoints, "unknown"),
            dropped=dict(self._drops.totals),
        )
