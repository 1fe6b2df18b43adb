"""A Lazy Pirate client as a state machine (Guide chapter 4, "Client-Side Reliability"). Pure.

An attempt that is given up is given up with its connection: the socket is closed without lingering and the next attempt
opens a new one. So what was not sent is not sent later, and a late answer has nowhere to arrive.
"""

from __future__ import annotations

from zpatterns.calls_core import CallsCore
from zpatterns.calls_state import Call, Connection
from zpatterns.core import Frames
from zpatterns.wire import req_body, req_message


class LazyClientCore(CallsCore[Call]):
    """Makes calls of attempts. The front end numbers the calls; each ends with one Deliver or one Fail."""

    def start_call(self, call_id: int, body: Frames, now: float, *, timeout: float | None = None) -> None:
        """Begin a call. Errors: QueueFull if it would have to wait and too many do already."""
        self._start(Call(call_id, body, now), timeout)

    def _request(self, call: Call) -> Frames:
        return req_message(call.body)

    def _answered(self, call: Call, connection: Connection[Call], frames: Frames, now: float) -> None:
        body = req_body(frames)
        if body is None:
            self._drops.add("invalid")  # a REQ would not see it either
        else:
            self._finish(call, connection, body, now)

    def _give_up(self, call: Call, now: float) -> None:
        for connection in call.connections:
            self._close(connection)
        call.connections = []
