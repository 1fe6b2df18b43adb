"""What clients sent to both halves of a pair and the active has not published yet. Pure."""

from __future__ import annotations

from collections import OrderedDict

from zpatterns.clone.store import PAIR_OVERHEAD
from zpatterns.core import Frames


class Pending:
    """KVSETs in the order in which they came, `count_max` and `bytes_max` at most: the oldest are dropped first.

    A set may take longer to us than to the active and from there, so of the last `published_max` that the active was
    seen to publish the uuids are known, whether we could apply them or not: what comes of these is not kept. A copy
    of the map does not show those that were overwritten since; so they outlast it, and the active itself.
    """

    def __init__(self, count_max: int, bytes_max: int, published_max: int) -> None:
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._published_max = published_max
        self._published: OrderedDict[bytes, None] = OrderedDict()
        self._sets: dict[bytes, Frames] = {}
        self._uuids: dict[bytes, dict[bytes, None]] = {}  # by key
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._sets)

    def add(self, uuid: bytes, frames: Frames) -> int:
        """Keep one more. Returns how many had to go for it."""
        if uuid in self._sets or uuid in self._published:
            return 0
        self._sets[uuid] = frames
        self._uuids.setdefault(frames[0], {})[uuid] = None
        self.bytes += _size(frames)
        dropped = 0
        while len(self._sets) > self._count_max or self.bytes > self._bytes_max:
            self._remove(next(iter(self._sets)))
            dropped += 1
        return dropped

    def published(self, uuid: bytes, key: bytes) -> None:
        """The active has published the set of that `uuid`, and so something newer than all that is kept of `key`."""
        self._remember(uuid)
        if uuid in self._sets:
            self._remove(uuid)
        for older in list(self._uuids.get(key, ())):
            self._remove(older)

    def take(self) -> list[Frames]:
        """All, in the order in which they came, to be published; none is kept any longer."""
        sets = list(self._sets.values())
        for uuid in self._sets:
            self._remember(uuid)
        self.clear()
        return sets

    def is_late(self, uuid: bytes) -> bool:
        """Whether a set that comes while we serve was published before. It is said once: of each client's sets each
        server is sent one, and a client that gives all of them one uuid must not be unheard for ever."""
        if uuid not in self._published:
            return False
        del self._published[uuid]
        return True

    def clear(self) -> None:
        """Keep no set. What was published stays known."""
        self._sets.clear()
        self._uuids.clear()
        self.bytes = 0

    def _remember(self, uuid: bytes) -> None:
        self._published[uuid] = None
        if len(self._published) > self._published_max:
            self._published.popitem(last=False)

    def _remove(self, uuid: bytes) -> None:
        frames = self._sets.pop(uuid)
        self.bytes -= _size(frames)
        of_key = self._uuids[frames[0]]
        del of_key[uuid]
        if not of_key:
            del self._uuids[frames[0]]

    def check_invariants(self) -> None:
        """Assert what must always be true. For tests."""
        assert len(self._sets) <= self._count_max and self.bytes <= self._bytes_max
        assert self.bytes == sum(map(_size, self._sets.values()))
        assert len(self._published) <= self._published_max and not self._published.keys() & self._sets.keys()
        assert {uuid for uuids in self._uuids.values() for uuid in uuids} == set(self._sets)


def _size(frames: Frames) -> int:
    return PAIR_OVERHEAD + len(frames[0]) + len(frames[3]) + len(frames[4])
