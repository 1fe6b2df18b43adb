"""What happens in a Clone server or client, told as events. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from zpatterns.core import Event


class CloneState(enum.Enum):
    """How far a client's map can be relied on."""

    CONNECTED = "connected"
    """It follows a server."""
    SUSPENDED = "suspended"
    """It is what it last was: the server is silent, or something was missed and is being fetched."""
    LOST = "lost"
    """No server of the list has answered, or none has yet."""


@dataclass(frozen=True, slots=True)
class StateChanged(Event):
    """Client: the map can now be relied on as `state` says, for the `reason` given."""

    state: CloneState
    reason: str


@dataclass(frozen=True, slots=True)
class ServerGivenUp(Event):
    """Client: the server at `endpoint` does not do what it should, for the `reason` given; the next one is tried."""

    level: ClassVar[str] = "warning"
    endpoint: str
    reason: str


@dataclass(frozen=True, slots=True)
class SnapshotTaken(Event):
    """Client: a whole copy of `keys` keys came from `endpoint`, which holds all up to `sequence`."""

    endpoint: str
    keys: int
    sequence: int


@dataclass(frozen=True, slots=True)
class GapFound(Event):
    """Client: updates after `sequence` were missed, as the `reason` shows; another snapshot is fetched."""

    level: ClassVar[str] = "warning"
    sequence: int
    reason: str


@dataclass(frozen=True, slots=True)
class CopyTaken(Event):
    """Passive server: it has a whole copy of the active's map, `keys` keys as they were at `sequence`."""

    keys: int
    sequence: int
    epoch: int


@dataclass(frozen=True, slots=True)
class PassiveLags(Event):
    """Active server: the passive one confirmed nothing for `seconds`, and `sets` were answered without it."""

    level: ClassVar[str] = "warning"
    sets: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PendingPublished(Event):
    """Server that was just promoted: it publishes `sets` sets that the active before it had not published."""

    sets: int


@dataclass(frozen=True, slots=True)
class WatchOverflowed(Event):
    """Client: a watch of `subtree` was not read, and ended with `changes` changes that nobody took."""

    level: ClassVar[str] = "warning"
    subtree: str
    changes: int
