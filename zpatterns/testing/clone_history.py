"""What a Clone server has made public, as an outsider writes it down."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple


class Entry(NamedTuple):
    """What became of a key. `value`: None where it was deleted."""

    sequence: int
    value: bytes | None
    ttl: int
    since: float


class History:
    """All that one server has made public, or safe if it has a store, in order. `parent`: of an active of a pair, what
    the active before it had made public as far as `fork`."""

    def __init__(self, parent: History | None = None, fork: int = 0) -> None:
        self.parent = parent
        self.fork = fork
        self.keys: dict[str, list[Entry]] = {}
        self.by_sequence: dict[int, tuple[str, bytes | None]] = {}
        self.uuids: dict[bytes, int] = {}
        self.bases: list[int] = [0]
        """Where lives began with nothing."""
        self.last = fork

    def add(self, key: str, entry: Entry, uuid: bytes) -> None:
        self.keys.setdefault(key, []).append(entry)
        self.by_sequence[entry.sequence] = (key, entry.value)
        self.uuids[uuid] = entry.sequence
        self.last = entry.sequence

    def latest(self, key: str, sequence: int) -> Entry | None:
        """What the key was at `sequence`; None where it had not been touched in that life."""
        base = self.bases[bisect_right(self.bases, sequence) - 1]
        found = None
        for entry in self.keys.get(key, ()):
            if base < entry.sequence <= sequence:
                found = entry
        if found is None and self.parent is not None:
            return self.parent.latest(key, min(sequence, self.fork))
        return found

    def value(self, key: str, sequence: int) -> bytes | None:
        entry = self.latest(key, sequence)
        return None if entry is None else entry.value

    def map(self, sequence: int) -> dict[str, bytes]:
        """All that was there at `sequence`."""
        names = set(self.keys)
        above = self.parent
        while above is not None:
            names |= set(above.keys)
            above = above.parent
        found = {key: self.value(key, sequence) for key in names}
        return {key: value for key, value in found.items() if value is not None}

    def has(self, sequence: int) -> bool:
        """Whether something was made public under it."""
        if sequence in self.by_sequence:
            return True
        return self.parent is not None and sequence <= self.fork and self.parent.has(sequence)

    def made(self, uuid: bytes) -> int | None:
        """The sequence under which the set of that `uuid` is in here."""
        sequence = self.uuids.get(uuid)
        if sequence is None and self.parent is not None:
            above = self.parent.made(uuid)
            return above if above is not None and above <= self.fork else None
        return sequence
