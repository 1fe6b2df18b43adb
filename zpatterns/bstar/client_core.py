"""A client of a Binary Star pair as a state machine (Guide chapter 4, "High-Availability Pair"). Pure.

An attempt that has no answer turns the client to the other side, but not at once: a request is a vote, and the side
that stands by takes one only when it has not heard the other for a lease. So all calls wait for the settle delay first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zpatterns.calls_core import CallsCore
from zpatterns.calls_state import Call, CallOptions, ClientStatistics, Connection
from zpatterns.core import Frames, Rng
from zpatterns.errors import RemoteError, ZPatternsError
from zpatterns.wire import CODE_DRAINING, CODE_OVERLOADED, parse_error, req_body, req_message

_DRAINING, _OVERLOADED = CODE_DRAINING.decode(), CODE_OVERLOADED.decode()

__all__ = ["ClientOptions", "ClientStatistics", "StarClientCore"]


@dataclass(frozen=True, slots=True)
class ClientOptions(CallOptions):
    """Limits and times of a client, in seconds. `settle_delay`: from giving one side up to asking the other."""

    settle_delay: float = 2.0

    def __post_init__(self) -> None:
        # Not super(): a slotted dataclass is another class than the one that this was written in.
        CallOptions.__post_init__(self)
        if not 0 <= self.settle_delay < float("inf"):
            raise ValueError(f"settle_delay must be a number of seconds, not {self.settle_delay!r}")


class StarClientCore(CallsCore[Call]):
    """Makes calls of attempts. The front end numbers the calls; each ends with one Deliver or one Fail."""

    options: ClientOptions

    def __init__(self, endpoints: Sequence[str], options: ClientOptions, rng: Rng) -> None:
        super().__init__(endpoints, options, rng)
        self._settled_at = float("-inf")
        self._is_settling = False
        self._is_busy = False
        self._held: list[Call] = []  # attempts that wait for the settle delay

    def start_call(self, call_id: int, body: Frames, now: float, *, timeout: float | None = None) -> None:
        """Begin a call. Errors: QueueFull if it would have to wait and too many do already."""
        self._start(Call(call_id, body, now), timeout)

    # Attempts.

    def _attempt(self, call: Call, now: float, window_end: float) -> None:
        # The time of an attempt begins when it is sent; the last one waits until the deadline.
        end = max(now, self._settled_at) + call.attempt_timeout
        self._is_settling = now < self._settled_at
        super()._attempt(call, now, call.expiry if call.attempts == self.options.retries else end)
        self._is_settling = False

    def _send(self, call: Call) -> None:
        if self._is_settling:
            self._held.append(call)
        else:
            super()._send(call)

    def _send_held(self) -> None:
        held, self._held = self._held, []
        for call in held:
            if not call.over:
                call.endpoint = self._preferred
                super()._send(call)

    def _pause(self, call: Call) -> float:
        return super()._pause(call) if self._is_busy else 0.0  # the settle delay is the pause

    def _turn_from(self, endpoint: int, error: ZPatternsError, now: float) -> None:
        # One that has no room serves: the other side would not.
        self._is_busy = isinstance(error, RemoteError) and error.code == _OVERLOADED
        if not self._is_busy and endpoint == self._preferred and len(self._endpoints) > 1:
            self._settled_at = now + self.options.settle_delay
            super()._turn_from(endpoint, error, now)

    # Messages.

    def _request(self, call: Call) -> Frames:
        return req_message(call.body)

    def _answered(self, call: Call, connection: Connection[Call], frames: Frames, now: float) -> None:
        body = req_body(frames)
        if body is None:
            self._drops.add("invalid")
            return
        error = parse_error(body)
        if (error is None or error[0] != _DRAINING) and connection.endpoint != self._preferred:
            # It was given up too early: it is the active one, and what waits may go there at once.
            self._preferred = connection.endpoint
            self._settled_at = now
        if error is not None:
            # Who answers serves, or did: the other side has dropped what it was asked, and is not to be waited for.
            for other in [one for one in call.connections if one.endpoint != connection.endpoint]:
                call.connections.remove(other)
                self._close(other)
        self._finish(call, connection, body, now)

    # Time.

    def next_timer(self) -> float | None:
        when = super().next_timer()
        if self._held and (when is None or self._settled_at < when):
            return self._settled_at
        return when

    def handle_timer(self, now: float) -> None:
        if self._held and now >= self._settled_at:
            self._send_held()
        super().handle_timer(now)

    # Telling.

    def check_invariants(self) -> None:
        super().check_invariants()
        for call in self._held:
            assert call.over or call.retry_at is None, "an attempt waits, and another is to follow"
