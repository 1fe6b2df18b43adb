"""What a Pirate queue remembers: its workers and requests, and its options. Pure."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from zpatterns.core import Frames
from zpatterns.pirate.wire import envelope
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


Request: TypeAlias = tuple[int, float, int, Frames]
"""One request of a client: its place in the order of arrival; when it expires; how many workers it was lost with; and
its frames as the front ROUTER has read them. A Simple Pirate queue that will not send it again keeps only its envelope
once a worker has it. A plain tuple, for there is one for each message: an object costs seven times as much."""

FRAMES: Final = 3
"""Where in a :data:`Request` its frames are."""


def without_body(request: Request) -> Request:
    """What is kept of a request that is not sent again: its delivery, if that fails, comes back whole."""
    return (*request[:FRAMES], envelope(request[FRAMES]))


class Worker:
    """One registered worker, idle or with one request in hand since `given_at`."""

    __slots__ = ("beat_at", "deadline", "expiry", "given_at", "head", "id", "lost", "request")

    def __init__(self, id: bytes, head: Iterable[bytes]) -> None:
        self.id = id
        self.head = [id, *head]
        self.lost = False
        self.request: Request | None = None
        self.given_at = 0.0
        # Paranoid Pirate only: when it is dead, when it is next sent a heartbeat, when to look at it (for Deadlines).
        self.expiry = 0.0
        self.beat_at = 0.0
        self.deadline: float | None = None


class IdleLine(deque[Worker]):
    """The idle workers, the longest idle first.

    One that is discarded stays where it is, marked, until it would be the first or half of the line is such: to take it
    out costs as much as there are workers. So the first is always a live one.
    """

    __slots__ = ("lost",)

    def __init__(self) -> None:
        super().__init__()
        self.lost = 0

    def take(self) -> Worker:
        """Take the first; there must be one."""
        worker = self.popleft()
        if self.lost:
            self.tidy()
        return worker

    def tidy(self) -> None:
        """The first was taken: so are those behind it that are lost."""
        while self and self[0].lost:
            self.popleft()
            self.lost -= 1

    def discard(self, worker: Worker) -> None:
        """This one is lost. Twice is once."""
        if worker.lost:
            return
        worker.lost = True
        self.lost += 1
        self.tidy()
        if 2 * self.lost > len(self):
            living = self.living()
            self.clear()
            self.extend(living)
            self.lost = 0

    def living(self) -> list[Worker]:
        """Those that are not lost."""
        return [worker for worker in self if not worker.lost]


class Waiting:
    """The requests that wait for a worker, in the order in which they came, those that had their turn before included.

    All have the same time to live, so the one that came first also expires first.
    """

    __slots__ = ("_again", "_line", "bytes")

    def __init__(self) -> None:
        # Each with its size. Who comes back from a lost worker seldom is the last, and then is in the heap.
        self._line: deque[tuple[Request, int]] = deque()
        self._again: list[tuple[Request, int]] = []
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._line) + len(self._again)

    def add(self, request: Request, size: int) -> None:
        """The request waits in its place; it counts for `size` bytes."""
        line = self._line
        if not line or line[-1][0] < request:
            line.append((request, size))
        else:
            heapq.heappush(self._again, (request, size))
        self.bytes += size

    def take(self) -> Request:
        """Take the first; there must be one."""
        line, again = self._line, self._again
        if again and (not line or again[0] < line[0]):
            request, size = heapq.heappop(again)
        else:
            request, size = line.popleft()
        self.bytes -= size
        return request

    def next_expiry(self) -> float | None:
        """When the first of them has waited for too long."""
        line, again = self._line, self._again
        if not again:
            return line[0][0][1] if line else None
        return min(first[0][0][1] for first in (line, again) if first)

    def check_invariants(self) -> None:
        """Assert that the count of bytes is right, and that no deadline is behind a later one."""
        everything = [*self._line, *self._again]
        assert self.bytes == sum(memory_of(request[FRAMES]) for request, _ in everything)
        assert list(self._line) == sorted(self._line, key=lambda waiting: waiting[0][0])
        assert all(self.next_expiry() <= request[1] for request, _ in everything)  # type: ignore[operator]
