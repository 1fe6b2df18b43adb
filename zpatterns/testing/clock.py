"""Time and chance under a test's control: :class:`FakeClock` and :class:`Chance`. Pure."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

T = TypeVar("T")


class Owner(Protocol):
    """Something that may be stopped, or have begun another life, when one of its timers falls due."""

    incarnation: int
    paused_at: float | None

    def missed(self, entry: Entry, life: int) -> None:
        """The entry of that life is not called, for one of these reasons: it is the owner's to keep or to forget."""


Entry: TypeAlias = list[Any]
"""What is due, as it stands in the heap: when, a number that no other has, the callback or None, its arguments, its
owner or None, and that one's incarnation. A list costs a quarter of what an object with these attributes does."""


class Timer(Entry):
    """One callback that is due, as :meth:`FakeClock.call_at` returns it."""

    __slots__ = ()

    def cancel(self) -> None:
        """It is not called any more. Twice is once."""
        cancel(self)


def cancel(entry: Entry) -> None:
    """:meth:`Timer.cancel`, for whoever has the bare entry."""
    entry[2] = None
    entry[3] = ()


class FakeClock:
    """A monotonic clock that stands still until it is told to go on, and calls what falls due on the way.

    Pass :meth:`now` wherever a clock is taken. What is due at the same time is called in the order in which it was
    asked for.
    """

    __slots__ = ("_halted", "_heap", "_number", "time")

    def __init__(self, start: float = 1000.0) -> None:
        self.time = start
        """What :meth:`now` says, for those who look at every message."""
        self._number = itertools.count(1).__next__
        self._halted = False
        self._heap: list[Entry] = []

    def now(self) -> float:
        """Seconds; never less than before."""
        return self.time

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Timer:
        """Call `callback` once the clock comes to `when`, in seconds; at the next step if that is past."""
        timer = Timer((when, self._number(), callback, args, None, 0))
        heapq.heappush(self._heap, timer)
        return timer

    def call_for(self, owner: Owner, when: float, callback: Callable[..., object], args: tuple[Any, ...]) -> Timer:
        """:meth:`call_at`, but only in the life that `owner` has now, and not while it is stopped."""
        timer = Timer((when, self._number(), callback, args, owner, owner.incarnation))
        heapq.heappush(self._heap, timer)
        return timer

    def put(
        self, when: float, callback: Callable[..., object], args: tuple[Any, ...], owner: Owner | None = None
    ) -> Entry:
        """:meth:`call_at` or :meth:`call_for`, for those who call it for every message."""
        entry = [when, self._number(), callback, args, owner, 0 if owner is None else owner.incarnation]
        heapq.heappush(self._heap, entry)
        return entry

    def put_back(self, entry: Entry, when: float) -> None:
        """What its owner has missed is due again, at `when`."""
        entry[0], entry[1] = when, self._number()
        heapq.heappush(self._heap, entry)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Timer:
        """:meth:`call_at`, `delay` seconds from now."""
        return self.call_at(self.time + delay, callback, *args)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass, with every callback at its very moment."""
        self.run_until(self.time + seconds)

    def halt(self) -> None:
        """From within a callback: go no further, now or ever."""
        self._halted = True

    def run_until(self, when: float, limit: int | None = None) -> int:
        """:meth:`advance` to an absolute time, with no more than `limit` callbacks. Returns how many there were."""
        heap, pop = self._heap, heapq.heappop
        called = 0
        while heap and heap[0][0] <= when and called != limit and not self._halted:
            due, _, callback, args, owner, life = entry = pop(heap)
            if callback is None:
                continue
            if due > self.time:
                self.time = due
            if owner is not None and (life != owner.incarnation or owner.paused_at is not None):
                owner.missed(entry, life)
                continue
            called += 1
            callback(*args)
        if when > self.time and not self._halted and called != limit:
            self.time = when
        return called


class Chance:
    """A seeded source of decisions, the same on every platform and in every version of Python.

    All is drawn from ``random()`` and ``getrandbits()``, which Python never changes for a seed. It serves as the
    :class:`~zpatterns.core.Rng` of a core, too.
    """

    __slots__ = ("_random", "getrandbits", "random", "seed")

    def __init__(self, seed: int | str) -> None:
        self.seed = seed
        digest = hashlib.sha256(str(seed).encode()).digest()
        self._random = random.Random(int.from_bytes(digest[:8], "big"))
        self.random = self._random.random
        self.getrandbits = self._random.getrandbits

    def fork(self, label: str) -> Chance:
        """A source of its own for one purpose: what others draw does not change what it draws."""
        return Chance(f"{self.seed}/{label}")

    def happens(self, probability: float) -> bool:
        """Yes, in that share of all cases."""
        return self.random() < probability

    def between(self, low: float, high: float) -> float:
        """Evenly from `low` to `high`."""
        return low + (high - low) * self.random()

    def below(self, count: int) -> int:
        """A whole number from 0 to `count` - 1."""
        return int(self.random() * count)

    def pick(self, items: Sequence[T]) -> T:
        """One of `items`."""
        return items[int(self.random() * len(items))]

    def some(self, items: Sequence[T], probability: float) -> list[T]:
        """Each of `items` with that probability, in their order."""
        return [item for item in items if self.random() < probability]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All of `items` in some order."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            other = int(self.random() * (last + 1))
            result[last], result[other] = result[other], result[last]
        return result

    def bytes(self, count: int) -> bytes:
        """`count` bytes."""
        return self.getrandbits(8 * count).to_bytes(count, "big") if count else b""
