"""Time as the cores see it: back-off, liveness and lazy deadlines. Pure; the caller brings the clock."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from zpatterns.core import Rng


@dataclass(frozen=True, slots=True)
class Liveness:
    """How long silence may last: `interval` seconds between heartbeats, `liveness` of them to death.

    Both ends of a conversation should be given like values (7/MDP, "Known Weaknesses").
    """

    interval: float
    liveness: int

    def __post_init__(self) -> None:
        if not 0 < self.interval < float("inf"):
            raise ValueError(f"heartbeat_interval must be a positive number of seconds, not {self.interval!r}")
        if self.liveness < 1:
            raise ValueError(f"liveness must be at least 1, not {self.liveness!r}")
        if self.liveness > 10**9:
            raise ValueError("liveness must be at most 10**9")

    @property
    def lease(self) -> float:
        """Seconds of silence after which a peer is dead."""
        return self.interval * self.liveness


class Backoff:
    """Full jitter: each delay is drawn evenly from 0 to a limit that doubles from `first` to `cap` seconds."""

    __slots__ = ("_cap", "_first", "_limit", "_rng")

    def __init__(self, first: float, cap: float, rng: Rng) -> None:
        self._first = min(first, cap)
        self._cap = cap
        self._limit = self._first
        self._rng = rng

    def delay(self) -> float:
        """Draw the next delay, in seconds, and widen the range for the one after."""
        limit = self._limit
        self._limit = min(limit * 2, self._cap)
        return limit * self._rng.random()

    def reset(self) -> None:
        """The connection has proved stable: begin again from `first`."""
        self._limit = self._first


class HasDeadline(Protocol):
    deadline: float | None


T = TypeVar("T", bound=HasDeadline)


class Deadlines(Generic[T]):
    """A heap of items that carry their own `deadline`, in absolute seconds, or None when it is off.

    Moving a deadline later, or putting it off, is an assignment to the item and costs nothing here: the heap
    finds out when the old time comes, or when half of it has become stale. To set one earlier, or for
    the first time, :meth:`add` the item.
    """

    __slots__ = ("_added", "_heap", "_live")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._added = 0
        self._live = 64

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, item: T) -> None:
        """Watch `item` until its deadline."""
        when = item.deadline
        if when is None:
            return
        self._added += 1
        heapq.heappush(self._heap, (when, self._added, item))
        if len(self._heap) > 2 * self._live:
            self._compact()

    def due(self, now: float, limit: int = 1000) -> list[T]:
        """Take the items whose deadline has come, `limit` of them at the most; their deadline is then None."""
        heap = self._heap
        result: list[T] = []
        while heap and heap[0][0] <= now and len(result) < limit:
            item = heapq.heappop(heap)[2]
            deadline = item.deadline
            if deadline is None:
                continue
            if deadline <= now:
                item.deadline = None
                result.append(item)
            else:
                self._added += 1
                heapq.heappush(heap, (deadline, self._added, item))
        return result

    def next(self) -> float | None:
        """When to call :meth:`due`: never later than the earliest deadline, though perhaps too early."""
        heap = self._heap
        while heap and heap[0][2].deadline is None:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def _compact(self) -> None:
        seen: dict[int, tuple[float, int, T]] = {}
        for _, order, item in self._heap:
            if item.deadline is not None:
                seen[id(item)] = (item.deadline, order, item)
        self._heap = list(seen.values())
        heapq.heapify(self._heap)
        self._live = max(64, len(self._heap))
