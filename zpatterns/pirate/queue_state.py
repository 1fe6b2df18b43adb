"""What a Pirate queue remembers: its workers and requests, and its options. Pure."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from zpatterns.core import Frames
from zpatterns.timing import Liveness
from zpatterns.wire import memory_of


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """Limits and times of a queue, in seconds and bytes; :class:`zpatterns.pirate.ParanoidPirateQueue` and
    :class:`zpatterns.pirate.SimplePirateQueue` explain them. Each of the two leaves some of them alone."""

    liveness: Liveness = field(default_factory=lambda: Liveness(1.0, 3))
    queue_max: int = 1000
    queue_bytes_max: int = 512 * 2**20
    request_ttl: float = 60.0
    deliveries_max: int = 3
    worker_timeout: float | None = None
    workers_max: int = 100_000

    def __post_init__(self) -> None:
        for name in ("queue_max", "queue_bytes_max", "deliveries_max", "workers_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")
        if not 0 < self.request_ttl < float("inf"):
            raise ValueError(f"request_ttl must be a positive number of seconds, not {self.request_ttl!r}")
        if self.worker_timeout is not None and not 0 < self.worker_timeout < float("inf"):
            raise ValueError(f"worker_timeout must be a positive number of seconds, not {self.worker_timeout!r}")


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """Counters since the start, then what is held now: `workers` to `in_flight`.

    `lost`: requests given up with their workers; `undelivered`: replies whose client was gone or took nothing;
    `dropped`: messages by reason.
    """

    requests: int
    replies: int
    requeued: int
    expired: int
    refused: int
    lost: int
    undelivered: int
    workers_lost: int
    heartbeats: int
    workers: int
    queued: int
    queued_bytes: int
    in_flight: int
    dropped: dict[str, int]


class Request:
    """One request of a client: its `frames` as the front ROUTER has read them, of which the first `depth` are its
    envelope. A Simple Pirate queue that will not send it again keeps only these once a worker has it."""

    __slots__ = ("deliveries", "depth", "expiry", "frames", "order")

    def __init__(self, frames: Frames, depth: int, expiry: float, order: int) -> None:
        self.frames = frames
        self.depth = depth
        self.expiry = expiry
        self.order = order
        self.deliveries = 0

    @property
    def client(self) -> bytes:
        return self.frames[0]

    @property
    def envelope(self) -> Frames:
        return self.frames[: self.depth]


class Worker:
    """One registered worker, idle or with one request in hand since `given_at`."""

    __slots__ = ("beat_at", "deadline", "expiry", "given_at", "id", "request")

    def __init__(self, id: bytes) -> None:
        self.id = id
        self.request: Request | None = None
        self.given_at = 0.0
        # Paranoid Pirate only: when it is dead, when it is next sent a heartbeat, when to look at it (for Deadlines).
        self.expiry = 0.0
        self.beat_at = 0.0
        self.deadline: float | None = None


class Waiting:
    """The requests that wait for a worker, in the order in which they came, those that had their turn before included.

    All have the same time to live, so the one that came first also expires first.
    """

    __slots__ = ("_heap", "bytes")

    def __init__(self) -> None:
        self._heap: list[tuple[int, Request]] = []
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, request: Request) -> None:
        """The request waits in its place."""
        heapq.heappush(self._heap, (request.order, request))
        self.bytes += memory_of(request.frames)

    def take(self) -> Request:
        """Take the first; there must be one."""
        request = heapq.heappop(self._heap)[1]
        self.bytes -= memory_of(request.frames)
        return request

    def next_expiry(self) -> float | None:
        """When the first of them has waited for too long."""
        return self._heap[0][1].expiry if self._heap else None

    def check_invariants(self) -> None:
        """Assert that the count of bytes is right, and that no deadline hides behind a later one."""
        assert self.bytes == sum(memory_of(request.frames) for _, request in self._heap)
        assert all(self._heap[0][1].expiry <= request.expiry for _, request in self._heap)
