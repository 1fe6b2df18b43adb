"""The server's map: pairs with their sequences, views of it that stay as they were, deadlines, last sequences. Pure.

A pair is a plain tuple of bytes, as it goes over the wire: with a million of them, the garbage collector must have
nothing to look through, and a snapshot nothing to build.
"""

from __future__ import annotations

from typing import TypeAlias

from zpatterns.clone import wire
from zpatterns.timing import Deadlines

Pair: TypeAlias = tuple[bytes, bytes, bytes, bytes, bytes] | tuple[bytes, bytes, bytes, bytes, bytes, float]
"""Key, packed sequence, uuid, properties, body; of one that has a ttl the properties without it, and its deadline."""

Page: TypeAlias = tuple[Pair, ...]
"""Never changed, so that views share it; and the garbage collector, which would look through a million pairs in lists
for a tenth of a second, lets go of tuples that hold nothing of its own."""

PAGE_SHIFT = 4
PAGE = 1 << PAGE_SHIFT
"""Pairs of a page, which is what an update copies."""

PAIR_OVERHEAD = 400
"""What a pair costs beside its key, properties and body, in bytes, as :attr:`Store.bytes` counts it."""

SUBTREE_OVERHEAD = 250
"""What a subtree that has keys costs beside its name, in bytes, as :attr:`Store.bytes` counts it."""

_LEVEL_OVERHEAD = 8  # each subtree knows all that it lies in

_MASK = PAGE - 1


class View:
    """The map as it was at `sequence`. It costs a pointer a page, and the pages that have changed since."""

    __slots__ = ("count", "pages", "sequence")

    def __init__(self, pages: list[Page], count: int, sequence: int) -> None:
        self.pages = pages
        self.count = count
        self.sequence = sequence


class Lease:
    """The life of one key that has a ttl; for :class:`Deadlines`."""

    __slots__ = ("deadline", "key")

    def __init__(self, key: bytes, deadline: float) -> None:
        self.key = key
        self.deadline: float | None = deadline


class Prefix:
    """One subtree: the last sequence published in it, and how many keys it has. `chain`: from the whole map to it."""

    __slots__ = ("chain", "keys", "last", "name")

    def __init__(self, name: bytes, last: int, above: tuple[Prefix, ...]) -> None:
        self.name = name
        self.last = last
        self.keys = 0
        self.chain = (*above, self)

    @property
    def size(self) -> int:
        """What it counts for while it has keys, in bytes; the whole map counts for nothing."""
        return SUBTREE_OVERHEAD + len(self.name) + _LEVEL_OVERHEAD * len(self.chain) if self.name else 0


class Store:
    """Keys and pairs. `sequence` is where it begins; each change brings a higher one.

    Of subtrees without keys no more than `spare_max` are remembered. What is forgotten of the others is made up for by
    `floor`: a subtree not known has had nothing after it.
    """

    def __init__(self, sequence: int, *, spare_max: int = 10_000) -> None:
        self.sequence = self.floor = sequence
        self.bytes = 0
        self._spare_max = spare_max
        self._slots: dict[bytes, int] = {}
        self._pages: list[Page] = []
        self._view: View | None = None
        self._leases: dict[bytes, Lease] = {}
        self._deadlines: Deadlines[Lease] = Deadlines()
        root = Prefix(b"", sequence, ())
        # Neither "/" nor "//" is a subtree, but keys may begin so.
        self._prefixes: dict[bytes, Prefix] = {b"": root, b"/": root, b"//": root}
        self._spare: dict[bytes, Prefix] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def get(self, key: bytes) -> Pair | None:
        """The pair of `key`."""
        slot = self._slots.get(key)
        return None if slot is None else self._pages[slot >> PAGE_SHIFT][slot & _MASK]

    def sequence_of(self, key: bytes) -> int:
        """The sequence of the set that made the key what it is; 0 where there is no such key."""
        pair = self.get(key)
        return 0 if pair is None else int.from_bytes(pair[1], "big")

    # Changes. Each returns the line that tells what came before it in each subtree.

    def put(self, pair: Pair, sequence: int) -> bytes:
        """Set a key, whose sequence in `pair` is `sequence`."""
        key = pair[0]
        slot = self._slots.get(key)
        fresh = slot is None
        if slot is None:
            slot = self._slots[key] = len(self._slots)
            if slot & _MASK == 0:
                self._pages.append(())
            self._pages[-1] += (pair,)
        else:
            self.bytes -= size_of(self._replace(slot, pair))
        self.bytes += size_of(pair)
        if len(pair) == 6:
            self._lease(key, pair[5])
        elif self._leases:
            self._end_lease(key)
        return self._published(key, sequence, 1 if fresh else 0)

    def delete(self, key: bytes, sequence: int) -> bytes:
        """Delete a key, whether it is there or not."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._end_lease(key)
            # The last pair moves into the gap: pages stay full, and a snapshot never looks at what is not there.
            last = len(self._slots)
            moved = self._pages[-1][-1]
            self._pages[-1] = self._pages[-1][:-1]
            if last & _MASK == 0:
                del self._pages[-1]
            if slot == last:
                gone = moved
            else:
                gone = self._replace(slot, moved)
                self._slots[moved[0]] = slot
            self.bytes -= size_of(gone)
        return self._published(key, sequence, 0 if slot is None else -1)

    def _replace(self, slot: int, pair: Pair) -> Pair:
        """Put `pair` into a slot, in a new page; what was there."""
        at, offset = slot >> PAGE_SHIFT, slot & _MASK
        page = self._pages[at]
        self._pages[at] = (*page[:offset], pair, *page[offset + 1 :])
        return page[offset]

    def adopt(self, sequence: int) -> None:
        """What was put so far is a copy of a map as it was at `sequence`: of its subtrees no more is known."""
        self.sequence = self.floor = self._prefixes[b""].last = sequence

    # Views.

    def view(self) -> View:
        """The map as it is now. Those who ask between two changes get the same."""
        view = self._view
        if view is None or view.sequence != self.sequence:
            view = self._view = View(self._pages.copy(), len(self._slots), self.sequence)
        return view

    def forget_view(self) -> None:
        """Nobody reads views any more: keep none of what they hold."""
        self._view = None

    # Subtrees.

    def last(self, subtree: bytes) -> int:
        """The last sequence published in `subtree`, which may be later than that but never earlier."""
        prefix = self._prefixes.get(subtree)
        return self.floor if prefix is None else max(prefix.last, self.floor)

    def subtree_bytes(self, key: bytes) -> int:
        """What a new `key` would add to :attr:`bytes` for subtrees that have no key yet."""
        total = 0
        for chain, name in enumerate(wire.prefixes(key)[1:], 2):
            known = self._prefixes.get(name)
            if known is None or not known.keys:
                total += SUBTREE_OVERHEAD + len(name) + _LEVEL_OVERHEAD * chain
        return total

    def _published(self, key: bytes, sequence: int, more: int) -> bytes:
        self.sequence = sequence
        home = self._prefixes.get(key[: key.rfind(b"/") + 1] if key[:1] == b"/" else b"") or self._add_prefix(key)
        chain = home.chain
        if len(chain) == 1:
            previous = b"prev=%d\n" % home.last
            home.last = sequence
        else:
            floor = self.floor
            previous = wire.previous_property([max(prefix.last, floor) for prefix in chain])
            for prefix in chain:
                prefix.last = sequence
        if more:
            for prefix in chain:
                if prefix.keys == (0 if more > 0 else 1):  # its first key, or its last
                    self.bytes += more * prefix.size
                prefix.keys += more
        if not home.keys or self._spare:
            self._note_spare(chain)
        return previous

    def _add_prefix(self, key: bytes) -> Prefix:
        prefix = self._prefixes[b""]
        for name in wire.prefixes(key)[1:]:
            known = self._prefixes.get(name)
            if known is None:
                known = self._prefixes[name] = Prefix(name, self.floor, prefix.chain)
            prefix = known
        return prefix

    def _note_spare(self, chain: tuple[Prefix, ...]) -> None:
        spare = self._spare
        # The deepest first: one is forgotten before those that it lies in.
        for prefix in reversed(chain):
            spare.pop(prefix.name, None)
            if not prefix.keys and prefix.name:
                spare[prefix.name] = prefix
        while len(spare) > self._spare_max:
            oldest = spare.pop(next(iter(spare)))
            del self._prefixes[oldest.name]
            self.floor = max(self.floor, oldest.last)

    # Deadlines.

    def next_expiry(self) -> float | None:
        """When :meth:`expired` is to be asked."""
        return self._deadlines.next()

    def expired(self, now: float, limit: int) -> list[bytes]:
        """Keys whose time has come, `limit` at the most. Each is told once: delete it."""
        return [lease.key for lease in self._deadlines.due(now, limit)]

    def expect_again(self) -> None:
        """Keys that :meth:`expired` told, and that were not deleted after all, are to be told again."""
        for key, lease in self._leases.items():
            pair = self.get(key)
            if lease.deadline is None and pair is not None and len(pair) == 6:
                lease.deadline = pair[5]
                self._deadlines.add(lease)

    def _lease(self, key: bytes, deadline: float) -> None:
        lease = self._leases.get(key)
        if lease is None:
            lease = self._leases[key] = Lease(key, deadline)
        elif lease.deadline is not None and deadline >= lease.deadline:
            lease.deadline = deadline
            return
        lease.deadline = deadline
        self._deadlines.add(lease)

    def _end_lease(self, key: bytes) -> None:
        lease = self._leases.pop(key, None)
        if lease is not None:
            lease.deadline = None

    def check_invariants(self) -> None:
        """Assert what must always be true. For tests; slow."""
        pairs = [pair for page in self._pages for pair in page]
        assert {pair[0]: slot for slot, pair in enumerate(pairs)} == self._slots, "slots and pages differ"
        assert all(len(page) == PAGE for page in self._pages[:-1]) and all(self._pages), "a page has gaps"
        in_use = {prefix for prefix in self._prefixes.values() if prefix.keys}
        size = sum(map(size_of, pairs)) + sum(prefix.size for prefix in in_use)
        assert self.bytes == size, "bytes are miscounted"
        leased = {pair[0]: pair[5] for pair in pairs if len(pair) == 6}
        assert self._leases.keys() == leased.keys(), "a key outlives its lease, or has none"
        for key, lease in self._leases.items():
            assert lease.deadline in (leased[key], None)
        assert len(self._spare) <= self._spare_max
        counts: dict[bytes, int] = {}
        for key in self._slots:
            for name in wire.prefixes(key):
                counts[name] = counts.get(name, 0) + 1
        for name, prefix in self._prefixes.items():
            assert prefix.name == name or name in (b"/", b"//")
            assert prefix.keys == counts.get(prefix.name, 0), "keys are miscounted"
            assert all(self._prefixes[above.name] is above for above in prefix.chain), "a subtree hangs on nothing"
            assert prefix.last <= self.sequence
            assert (prefix.name in self._spare) == (not prefix.keys and bool(prefix.name))
        assert self.floor <= self.sequence == self._prefixes[b""].last


def subtree_bytes_max(key: bytes) -> int:
    """What :meth:`Store.subtree_bytes` may say at the most, quickly."""
    levels = key.count(b"/")
    return levels * (SUBTREE_OVERHEAD + len(key) + _LEVEL_OVERHEAD * (levels + 1))


def size_of(pair: Pair) -> int:
    """What `pair` counts for, in bytes."""
    return PAIR_OVERHEAD + len(pair[0]) + len(pair[3]) + len(pair[4])
