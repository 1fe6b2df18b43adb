"""A copy of a server's map, or of one subtree of it: sequence rules, snapshots and what they show. Pure.

12/CHP, "State Synchronization" and "Server-to-Client Updates". While a snapshot is on its way, updates are kept: the
latest of each key, which is all that the snapshot and they together can tell.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, TypeAlias

Entry: TypeAlias = tuple[bytes, int]
"""A value, and the sequence it was published under."""

UPDATE_OVERHEAD = 256
"""What a kept update costs beside its key and value, in bytes, as `kept_bytes_max` counts it."""


class Change(NamedTuple):
    """What became of one key: `old` and `new` value, None where there is none; `sequence` is the server's number."""

    key: str
    old: bytes | None
    new: bytes | None
    sequence: int


class Verdict(enum.Enum):
    """What became of an update."""

    APPLIED = "applied"
    KEPT = "kept"
    STALE = "stale"
    GAP = "gap"
    OVERFLOW = "overflow"


class Replica:
    """The map that follows a server. `entries` is replaced, never emptied, so that whoever reads it sees a whole map.

    `last` is the sequence up to which it agrees with the server. With `watched`, what changes is collected for
    :meth:`changes`.
    """

    __slots__ = (
        "_changes",
        "_fresh",
        "_kept",
        "_kept_bytes",
        "_kept_bytes_max",
        "_kept_last",
        "_kept_max",
        "_unverified",
        "entries",
        "is_keeping",
        "last",
        "watched",
    )

    def __init__(self, kept_max: int, kept_bytes_max: int) -> None:
        self.entries: dict[str, Entry] = {}
        self.last = 0
        self.watched = False
        self.is_keeping = True
        self._kept_max = kept_max
        self._kept_bytes_max = kept_bytes_max
        self._changes: list[Change] = []
        self.begin()

    @property
    def kept(self) -> int:
        """Updates that wait for the snapshot."""
        return len(self._kept)

    @property
    def kept_bytes(self) -> int:
        """What they weigh."""
        return self._kept_bytes

    def changes(self) -> list[Change]:
        """Take what has changed since the last call."""
        changes, self._changes = self._changes, []
        return changes

    # Snapshots.

    def begin(self) -> None:
        """From now on updates are kept for a snapshot; those that were kept for another are forgotten."""
        self.is_keeping = True
        self._fresh: dict[str, Entry] = {}
        self._kept: dict[str, Entry] = {}
        self._kept_bytes = 0
        self._kept_last = -1
        # The highest sequence that the server says came before an update we kept, and that we have not seen.
        self._unverified = -1

    def discard_snapshot(self) -> None:
        """What came of the snapshot is void, and another is asked for; updates that were kept still count."""
        self._fresh = {}

    def pair(self, key: str, sequence: int, value: bytes) -> None:
        """One pair of the snapshot (KVSYNC)."""
        self._fresh[key] = (value, sequence)

    def finish(self, sequence: int) -> bool:
        """The snapshot is complete up to `sequence` (KTHXBAI). Returns whether the map is now the server's.

        If not, an update after it is missing: nothing was changed, and it takes another snapshot.
        """
        if self._unverified > sequence:
            self._fresh = {}
            return False
        fresh, kept, self._fresh = self._fresh, self._kept, {}
        for key, (value, at) in kept.items():
            if at > sequence:
                if value:
                    fresh[key] = (value, at)
                else:
                    fresh.pop(key, None)
        if self.watched:
            self._changes += self._differences(fresh, sequence)
        self.entries = fresh
        self.last = max(sequence, self._kept_last)
        self.begin()
        self.is_keeping = False
        return True

    def _differences(self, fresh: dict[str, Entry], sequence: int) -> list[Change]:
        before = self.entries
        result = []
        for key, (value, at) in fresh.items():
            old = before.get(key)
            if old is None:
                result.append(Change(key, None, value, at))
            elif old[0] != value:
                result.append(Change(key, old[0], value, at))
        for key, (value, _) in before.items():
            if key not in fresh:
                kept = self._kept.get(key)
                result.append(Change(key, value, None, max(sequence, kept[1] if kept else 0)))
        result.sort(key=_sequence_of)
        return result

    # Updates.

    def update(self, key: str, sequence: int, previous: int, value: bytes) -> Verdict:
        """One update (KVPUB); an empty value deletes. `previous`: the one before it that concerns us, as far as known.

        After a GAP updates are kept, this one first: a snapshot must follow.
        """
        if self.is_keeping:
            return self._keep(key, sequence, previous, value)
        if sequence <= self.last:
            return Verdict.STALE
        if previous > self.last:
            self.begin()
            verdict = self._keep(key, sequence, previous, value)
            return Verdict.GAP if verdict is Verdict.KEPT else verdict
        self.last = sequence
        entries = self.entries
        if self.watched:
            old = entries.get(key)
            if old is not None or value:
                self._changes.append(Change(key, None if old is None else old[0], value or None, sequence))
        if value:
            entries[key] = (value, sequence)
        else:
            entries.pop(key, None)
        return Verdict.APPLIED

    def _keep(self, key: str, sequence: int, previous: int, value: bytes) -> Verdict:
        if sequence <= self._kept_last:
            return Verdict.STALE
        kept = self._kept
        before = kept.get(key)
        grown = len(value) - len(before[0]) if before is not None else UPDATE_OVERHEAD + len(key) + len(value)
        if (before is None and len(kept) >= self._kept_max) or self._kept_bytes + grown > self._kept_bytes_max:
            return Verdict.OVERFLOW
        self._kept_bytes += grown
        if previous > self._kept_last:
            self._unverified = previous
        self._kept_last = sequence
        kept[key] = (value, sequence)
        return Verdict.KEPT


def _sequence_of(change: Change) -> int:
    return change.sequence
