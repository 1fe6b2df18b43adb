"""What a Clone client's core is told and tells: its options, states and figures. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

from zpatterns.clone import wire
from zpatterns.clone.sets_core import SetOptions
from zpatterns.timing import Liveness

LIVENESS = Liveness(1.0, 5)
"""HUGZ comes once a second (12/CHP); the Guide's clients wait for 5 s."""


class Endpoints(NamedTuple):
    """The three ports of one server (12/CHP, "Ports and Connections")."""

    snapshot: str
    publisher: str
    collector: str


class ClientState(enum.Enum):
    """What a client is doing. :data:`TRANSITIONS` says what becomes of it."""

    CLOSED = "closed"
    """Not begun, or over."""
    JOINING = "joining"
    """Subscribed; waits for a sign that the subscription is live."""
    FETCHING = "fetching"
    """A snapshot is on its way; updates are kept."""
    FOLLOWING = "following"
    """The map is the server's, and each update is applied as it comes."""
    BEHIND = "behind"
    """Something was missed: updates are kept, and a snapshot is asked for after a moment."""


class ClientInput(enum.Enum):
    """What may change a client's state."""

    START = "start"
    PROOF = "first message of the subscription"
    PATIENCE_OVER = "nothing published"
    COMPLETE = "KTHXBAI"
    INCOMPLETE = "KTHXBAI, with an update missing after it"
    GAP = "something was missed"
    RETRY = "moment over"
    GIVE_UP = "server silent or stuck"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """Limits and times of a client, in seconds and bytes; :class:`zpatterns.clone.AsyncClone` explains them."""

    liveness: Liveness = LIVENESS
    subtree: str = ""
    kept_max: int = 1_000_000
    kept_bytes_max: int = 2**30
    sets: SetOptions = field(default_factory=SetOptions)

    def __post_init__(self) -> None:
        if not wire.is_subtree(self.subtree.encode("utf-8", "surrogateescape")):
            raise ValueError(f"subtree must be empty or like '/a/b/', not {self.subtree!r}")
        for name in ("kept_max", "kept_bytes_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """Counters since the start; then what is now: `keys` in the map, its `sequence`, updates `kept` for a snapshot,
    sets open and on the wire.

    `gaps`: times that something was missed, and fetched; `failovers`: servers given up; `posted`: sets that nobody
    waits for; `sent`: sets handed to connections, repeated ones included; `dropped`: messages by reason.
    """

    updates: int
    heartbeats: int
    snapshots: int
    gaps: int
    failovers: int
    sets: int
    acknowledged: int
    errors: int
    timeouts: int
    cancelled: int
    sent: int
    posted: int
    keys: int
    sequence: int
    kept: int
    sets_open: int
    sets_in_flight: int
    dropped: dict[str, int]
