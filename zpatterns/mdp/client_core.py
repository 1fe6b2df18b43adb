"""A Majordomo client as a state machine: 7/MDP for requests, 18/MDP for streams. Pure.

Neither protocol carries request ids, so each open request has a connection of its own: see
:mod:`zpatterns.calls_core`, which has all that is not Majordomo's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zpatterns.calls_core import CallsCore, times
from zpatterns.calls_state import Call, CallOptions, ClientStatistics, Connection
from zpatterns.core import Deliver, Event, Frames, PortId, Rng
from zpatterns.errors import RemoteError
from zpatterns.mdp import wire
from zpatterns.mdp.events import AttemptFailed
from zpatterns.wire import FRAME_OVERHEAD

__all__ = ["PARTS_MAX", "ClientCore", "ClientOptions", "ClientStatistics"]

PARTS_MAX = 256
"""Parts of a stream that its consumer may leave untaken before we stop reading its connection."""


@dataclass(frozen=True, slots=True)
class ClientOptions(CallOptions):
    """Limits and times of a client, in seconds and bytes; :class:`zpatterns.mdp.Client` explains them."""

    held_bytes_max: int = 64 * 2**20


class _Call(Call):
    __slots__ = ("held_bytes", "is_stream", "parts", "service", "version")

    def __init__(self, id: int, service: bytes, body: Frames, version: str, is_stream: bool, now: float) -> None:
        super().__init__(id, body, now)
        self.service = service
        self.version = version
        self.is_stream = is_stream
        self.parts = 0  # parts the consumer has not taken
        self.held_bytes = 0


class ClientCore(CallsCore[_Call]):
    """Makes calls of attempts. The front end numbers the calls; each ends with one Deliver(last) or one Fail."""

    options: ClientOptions

    def __init__(self, endpoints: Sequence[str], options: ClientOptions, rng: Rng) -> None:
        super().__init__(endpoints, options, rng)

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
        self._start(_Call(call_id, service, body, version, is_stream, now), timeout)

    def part_taken(self, call_id: int, now: float) -> None:
        """The consumer of a stream took one part."""
        call = self._calls.get(call_id)
        if call is not None:
            call.parts -= 1

    # Messages.

    def _request(self, call: _Call) -> Frames:
        return wire.client_request(call.version, call.service, call.body)

    def _answered(self, call: _Call, connection: Connection[_Call], frames: Frames, now: float) -> None:
        reply = wire.parse_client_reply(call.version, call.service, frames)
        if reply is None:
            self._drops.add("invalid")
            return
        body, last = reply
        if not last:
            self._part(call, connection, body, now)
            return
        if call.held is not None and wire.parse_error(body) is None:
            body = call.held + body
        self._finish(call, connection, body, now)

    def _part(self, call: _Call, connection: Connection[_Call], body: Frames, now: float) -> None:
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
        call.held_bytes += sum(map(len, body)) + FRAME_OVERHEAD * len(body)
        if call.held_bytes > self.options.held_bytes_max:
            text = f"the parts of the reply exceed {self.options.held_bytes_max} bytes; use stream()"
            self._fail(call, RemoteError("too-large", text, service=self._service(call)), now)

    def wants_to_read(self, port: PortId) -> bool:
        connection = self._connections.get(port)
        return connection is None or connection.call is None or connection.call.parts < PARTS_MAX

    # Telling.

    def _service(self, call: _Call) -> str:
        return call.service.decode()

    def _tell_failed(self, call: _Call, endpoint: str, reason: str) -> Event:
        return AttemptFailed(call.service, endpoint, call.attempts, reason)

    def _no_answer(self, call: _Call, elapsed: float) -> str:
        name = self._service(call)
        if call.streaming:
            return f"the stream of service {name!r} did not end within {elapsed:.3g} s; a slow consumer loses it"
        return (
            f"no answer from service {name!r} through {' or '.join(self._endpoints)} within {elapsed:.3g} s "
            f"({times(call.attempts)}); is the broker there, and a worker for the service?"
        )
