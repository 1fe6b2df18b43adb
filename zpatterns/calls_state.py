"""What a client remembers: its calls and their connections, its options and figures. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from zpatterns.core import Frames
from zpatterns.timing import Backoff


@dataclass(frozen=True, slots=True)
class CallOptions:
    """Limits and times of calls, in seconds.

    `timeout`: from call to outcome, queueing included. `retries`: attempts after the first. `attempt_timeout`:
    default ``timeout / (retries + 1)``. `max_in_flight`: calls on the wire; `queue_max`: calls that may wait behind
    them. `idle_max`: how long a connection that nothing uses is kept.
    """

    timeout: float = 10.0
    retries: int = 3
    attempt_timeout: float | None = None
    max_in_flight: int = 64
    queue_max: int = 100_000
    idle_max: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.timeout < float("inf"):
            raise ValueError(f"timeout must be a positive number of seconds, not {self.timeout!r}")
        if self.retries < 0:
            raise ValueError(f"retries must be 0 or more, not {self.retries!r}")
        if self.retries > 10**9:
            raise ValueError("retries must be at most 10**9")
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


class Call:
    """One call, from its start to its one outcome. A pattern adds what its frames need."""

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
        "id",
        "over",
        "retry_at",
        "started",
        "streaming",
        "window_end",
    )

    def __init__(self, id: int, body: Frames, now: float) -> None:
        self.id = id
        self.body = body
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
        self.connections: list[Connection[Any]] = []
        self.streaming = False  # a part of the answer came: no attempt may follow
        self.held: Frames | None = None  # the parts that came, if they are collected
        self.over = False


C = TypeVar("C", bound=Call)


class Connection(Generic[C]):
    """One socket, for one open request at a time."""

    __slots__ = ("call", "endpoint", "idle_since", "port")

    def __init__(self, port: int, endpoint: int) -> None:
        self.port = port
        self.endpoint = endpoint
        self.call: C | None = None
        self.idle_since = 0.0
