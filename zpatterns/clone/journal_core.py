"""Changes on their way to the disk: one group is written while the next comes together. Pure."""

from __future__ import annotations

from collections import deque

from zpatterns.clone.server_state import Change, Era, SaveFailed, ServerOptions
from zpatterns.core import Command, Event, Save

GROUP_MAX = 5000
"""Changes that are written to disk together."""

SAVE_AGAIN = 1.0
"""Seconds after which changes that could not be written are tried again."""


class Journal:
    """What is not on disk yet. `commands` and `events` are the core's: a Save is asked for among the commands."""

    def __init__(self, options: ServerOptions, commands: list[Command], events: list[Event]) -> None:
        self._options = options
        self._commands = commands
        self._events = events
        self._writing: list[Change | Era] = []
        self._waiting: deque[Change | Era] = deque()
        self._writes_void = False  # a copy that comes after what is being written is the map already
        self._again_at: float | None = None
        self.bytes = 0
        self.keys: dict[bytes, Change] = {}
        """The last change of each key."""
        self.unanswered: dict[bytes, Change] = {}
        """By uuid: those whose client waits, or may ask."""

    def __len__(self) -> int:
        return len(self._writing) + len(self._waiting)

    @property
    def is_full(self) -> bool:
        return len(self) >= self._options.pending_max or self.bytes >= self._options.pending_bytes_max

    def add(self, change: Change | Era) -> None:
        """One more, behind all others; :meth:`pump` has it written."""
        self._waiting.append(change)
        if isinstance(change, Change):
            self.bytes += change.size
            self.keys[change.key] = change
            if change.keeps_answer:
                self.unanswered[change.uuid] = change

    def pump(self) -> None:
        """Have the next group written, unless one is; those that come in the meantime make up the one after."""
        if not self._waiting or self._writing:
            return
        waiting = self._waiting
        self._writing = [waiting.popleft()]
        if isinstance(self._writing[0], Change):  # an era is written alone
            while waiting and isinstance(waiting[0], Change) and len(self._writing) < GROUP_MAX:
                self._writing.append(waiting.popleft())
        self._commands.append(Save(list(self._writing)))

    def saved(self) -> list[Change | Era]:
        """The group is on disk for good. Returns it, unless it was superseded; :meth:`done` is to be called for each
        change."""
        group, self._writing = self._writing, []
        if self._writes_void:
            self._writes_void = False
            return []
        return group

    def done(self, change: Change) -> None:
        """It is on disk, and the map is about to have it."""
        self.bytes -= change.size
        if self.keys.get(change.key) is change:
            del self.keys[change.key]
        if self.unanswered.get(change.uuid) is change:
            del self.unanswered[change.uuid]

    def failed(self, reason: str, now: float) -> None:
        """Nothing of the group is on disk. It is tried again: nothing is lost, and nobody is told that it is safe."""
        self._events.append(SaveFailed(len(self._writing), reason))
        self._again_at = now + SAVE_AGAIN

    def forget_waiting(self) -> int:
        """What is being written will be; of what comes after it only the copy that the map is already. Returns the last
        sequence of what is written and not superseded."""
        copy = self.copy
        self._waiting = deque([copy] if copy is not None and copy in self._waiting else [])
        changes = self._recount()
        return changes[-1].sequence if changes else 0

    def supersede(self, copy: Era) -> list[Change]:
        """The map is that `copy` from now on. What is to be written before it counts no more, and is returned."""
        if copy not in self._waiting:
            return []
        before = self._changes()
        self._writes_void = True
        while self._waiting[0] is not copy:
            self._waiting.popleft()
        after = set(self._recount())
        return [change for change in before if change not in after]

    def _changes(self) -> list[Change]:
        """Those that are on their way to the map."""
        entries = self._waiting if self._writes_void else (*self._writing, *self._waiting)
        return [change for change in entries if isinstance(change, Change)]

    def _recount(self) -> list[Change]:
        changes = self._changes()
        self.bytes = sum(change.size for change in changes)
        self.keys = {change.key: change for change in changes}
        self.unanswered = {change.uuid: change for change in changes if change.keeps_answer}
        return changes

    @property
    def copy(self) -> Era | None:
        """The last whole copy among what is not on disk yet."""
        eras = [era for era in (*self._writing, *self._waiting) if isinstance(era, Era) and era.store is not None]
        return eras[-1] if eras else None

    def next_timer(self) -> float | None:
        return self._again_at

    def handle_timer(self, now: float) -> None:
        if self._again_at is not None and self._again_at <= now:
            self._again_at = None
            self._commands.append(Save(list(self._writing)))

    def check_invariants(self, published: int) -> None:
        """`published`: the last sequence of the map. For tests."""
        changes = self._changes()
        sequences = [change.sequence for change in changes]
        assert sequences == sorted(set(sequences))
        assert not changes or published < sequences[0] or len(changes) < len(self), "published before it was saved"
        assert self.bytes == sum(change.size for change in changes)
        assert self.keys == {change.key: change for change in changes}
        assert self.unanswered == {change.uuid: change for change in changes if change.keeps_answer}
        assert self._options.durable or not len(self)
        assert self._writing or not self._waiting, "nobody writes what waits"
