"""What the shotgun and the addressed client share: calls over one lasting connection for each server. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from zpatterns.calls_core import AttemptFailed, CallsCore, times
from zpatterns.calls_state import Call, CallOptions
from zpatterns.core import Close, Frames, PortId, Rng
from zpatterns.errors import RequestTimeout
from zpatterns.timing import Liveness


@dataclass(frozen=True, slots=True)
class ClientOptions(CallOptions):
    """Limits and times of a client, in seconds; :class:`zpatterns.freelance.AsyncFreelanceClient` explains them."""

    liveness: Liveness = field(default_factory=lambda: Liveness(2.0, 3))
    round_robin: bool = False


@dataclass(frozen=True, slots=True)
class FreelanceStatistics:
    """Counters since the start, then what is open now: `waiting` and `in_flight`.

    `attempts`: requests handed to connections; `servers`: of each endpoint whether it is ``"up"``, ``"down"``, or
    ``"unknown"`` because it has not answered yet (or, in the failover model, is not watched); `dropped`: messages by
    reason.
    """

    calls: int
    replies: int
    errors: int
    timeouts: int
    cancelled: int
    attempts: int
    pings: int
    waiting: int
    in_flight: int
    servers: dict[str, str]
    dropped: dict[str, int]


class Server:
    """One server and the connection to it."""

    __slots__ = ("endpoint", "heard_at", "is_down", "is_up", "opened_at", "port")

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.port = 0
        self.opened_at = 0.0
        self.heard_at = float("-inf")
        self.is_up = False
        self.is_down = False

    @property
    def health(self) -> str:
        """``up``, ``down`` or ``unknown``."""
        return "up" if self.is_up else "down" if self.is_down else "unknown"


C = TypeVar("C", bound=Call)
S = TypeVar("S", bound=Server)


class ServersCore(CallsCore[C], Generic[C, S]):
    """Calls, and servers that may be added and removed while calls are open."""

    options: ClientOptions

    def __init__(self, endpoints: Sequence[str], options: ClientOptions, rng: Rng) -> None:
        super().__init__((), options, rng)
        self._servers: dict[str, S] = {endpoint: self._new_server(endpoint) for endpoint in endpoints}
        self._by_port: dict[PortId, S] = {}
        self._is_started = False
        self._pings = 0

    # What a model provides.

    def _new_server(self, endpoint: str) -> S:
        raise NotImplementedError

    def _open_server(self, server: S, now: float) -> None:
        """Ask for the socket; see :meth:`_new_port`."""
        raise NotImplementedError

    def _abandon(self, server: S, reason: str, now: float) -> None:
        """What was sent to `server` will not be answered: its connection is closed."""
        raise NotImplementedError

    # Servers.

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The servers' endpoints, in their order."""
        return tuple(self._servers)

    def start(self, now: float) -> None:
        """Connect to every server."""
        if not self._is_started:
            self._is_started = True
            for server in self._servers.values():
                self._open_server(server, now)

    def add_server(self, endpoint: str, now: float) -> None:
        """One server more, the last in order; nothing happens if it is there already."""
        if endpoint not in self._servers:
            server = self._servers[endpoint] = self._new_server(endpoint)
            if self._is_started:
                self._open_server(server, now)

    def remove_server(self, endpoint: str, now: float) -> None:
        """Forget a server; calls that wait for it turn to the others. Errors: ValueError for one that is unknown, and
        for the last."""
        if endpoint not in self._servers:
            raise ValueError(f"{endpoint!r} is none of this client's servers: {', '.join(self._servers)}")
        if len(self._servers) == 1:
            raise ValueError(f"{endpoint!r} is the last server of this client: add another one before you remove it")
        server = self._servers.pop(endpoint)
        if self._is_started:
            self._close_server(server)
            self._abandon(server, "removed", now)

    def _new_port(self, server: S, now: float) -> int:
        """A port that was never used: nothing that comes over an older connection counts."""
        self._last_port += 1
        server.port = self._last_port
        server.opened_at = now
        server.heard_at = float("-inf")
        self._by_port[server.port] = server
        return self._last_port

    def _close_server(self, server: S) -> None:
        del self._by_port[server.port]
        self._out.pop(server.port, None)
        self._commands.append(Close(server.port))

    def _send_to(self, server: S, frames: Frames) -> None:
        self._out.setdefault(server.port, []).append(frames)

    def close(self, now: float) -> None:
        super().close(now)
        for server in list(self._by_port.values()):
            self._close_server(server)

    # Telling.

    def _tell_attempt(self, call: C, server: S, reason: str) -> None:
        self._events.append(AttemptFailed(server.endpoint, call.attempts, reason))

    def _no_answer(self, call: C, elapsed: float) -> str:
        return no_answer(self.endpoints, call, elapsed)

    def _timeout(self, call: C, now: float) -> RequestTimeout:
        elapsed = now - call.started
        if call.attempts:
            text = self._no_answer(call, elapsed)
        else:
            text = f"the call waited all its {elapsed:.3g} s behind {self._in_flight} others; raise max_in_flight"
        return RequestTimeout(text, endpoint=self.endpoints[0], attempts=call.attempts, elapsed=elapsed)

    def statistics(self) -> FreelanceStatistics:  # type: ignore[override]
        return FreelanceStatistics(
            calls=self._started,
            replies=self._replies,
            errors=self._errors,
            timeouts=self._timeouts,
            cancelled=self._cancelled,
            attempts=self._attempts,
            pings=self._pings,
            waiting=self._waiting_count,
            in_flight=self._in_flight,
            servers={server.endpoint: server.health for server in self._servers.values()},
            dropped=dict(self._drops.totals),
        )

    def check_invariants(self) -> None:
        super().check_invariants()
        if self._is_started and not self._closed:
            assert len(self._by_port) == len(self._servers)
            assert all(self._by_port[server.port] is server for server in self._servers.values())
        assert all(port in self._by_port for port in self._out)


def no_answer(endpoints: Sequence[str], call: Call, elapsed: float) -> str:
    """The text of the error for a call whose attempts had no answer."""
    where = " or ".join(endpoints[:5]) + (" or others" if len(endpoints) > 5 else "")
    return f"no answer from {where} within {elapsed:.3g} s ({times(call.attempts)}); is any of the servers there?"
