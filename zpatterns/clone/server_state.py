"""What a Clone server is told and tells: its options, events and statistics, and a change on its way. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from zpatterns.clone import wire
from zpatterns.clone.store import PAIR_OVERHEAD, Store, subtree_bytes_max
from zpatterns.core import Event
from zpatterns.timing import Liveness

SNAPSHOT = "snapshot"
PUBLISHER = "publisher"
COLLECTOR = "collector"


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Limits and times of a server, in seconds and bytes; :class:`zpatterns.clone.CloneServer` explains them."""

    liveness: Liveness = field(default_factory=lambda: Liveness(1.0, 5))
    keys_max: int = 5_000_000
    bytes_max: int = 4 * 2**30
    key_max: int = wire.KEY_MAX
    depth_max: int = 32
    value_max: int = 2**20
    pending_max: int = 10_000
    pending_bytes_max: int = 64 * 2**20
    answers_max: int = 100_000
    joins_max: int = 10_000
    durable: bool = False

    def __post_init__(self) -> None:
        for name in ("keys_max", "bytes_max", "key_max", "depth_max", "value_max"):
            self._at_least_one(name)
        for name in ("pending_max", "pending_bytes_max", "answers_max", "joins_max"):
            self._at_least_one(name)
        if self.key_max > wire.KEY_MAX:
            raise ValueError(f"key_max must be at most {wire.KEY_MAX}, which is what C peers hold, not {self.key_max}")

    def _at_least_one(self, name: str) -> None:
        if getattr(self, name) < 1:
            raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """Counters since the start, then what is held now: `sequence` to `pending`.

    `updates`: all that was published, `deletes` and `expired` among them; `answered`: sets that were, `conflicts`
    (409) and `refused` (413, 503) among them; `repeated`: sets that came again and were not made again;
    `snapshots`, `snapshot_keys`: sent whole; `abandoned`: clients that stopped reading theirs; `undelivered`:
    answers whose client was gone or took nothing; `dropped`: messages by reason.
    Of half of a pair: `held`: sets that the active has not published; `unconfirmed`: sets that wait for the passive
    half; `copies`, `gaps`: times that it took a whole copy, and that it found that it had missed something.
    """

    updates: int
    deletes: int
    expired: int
    answered: int
    conflicts: int
    refused: int
    repeated: int
    snapshots: int
    snapshot_keys: int
    abandoned: int
    undelivered: int
    heartbeats: int
    sequence: int
    keys: int
    bytes: int
    joining: int
    pending: int
    dropped: Mapping[str, int]
    held: int = 0
    unconfirmed: int = 0
    copies: int = 0
    gaps: int = 0


@dataclass(frozen=True, slots=True)
class SnapshotSent(Event):
    """Server: `client` was sent the `keys` of `subtree` as they were at `sequence`."""

    client: bytes
    subtree: bytes
    keys: int
    sequence: int


@dataclass(frozen=True, slots=True)
class SnapshotAbandoned(Event):
    """Server: a snapshot ends after `keys`, for the `reason` given; its client must ask again on a new connection."""

    level: ClassVar[str] = "warning"
    client: bytes
    subtree: bytes
    keys: int
    reason: str


@dataclass(frozen=True, slots=True)
class SaveFailed(Event):
    """Server: `changes` could not be written, for the `reason` given. None is published; they are tried again."""

    level: ClassVar[str] = "error"
    changes: int
    reason: str


class Era:
    """From here on the map is that of the active of `epoch`, in that `life` of it, as far as `sequence`; with `store`
    it is this one, whole, in the place of the one before. `acks`: uuids and sequences of sets that `store` has."""

    __slots__ = ("acks", "begun", "epoch", "life", "sequence", "store", "view")

    def __init__(
        self,
        epoch: int,
        life: bytes,
        sequence: int,
        store: Store | None = None,
        acks: Sequence[tuple[bytes, int]] = (),
    ) -> None:
        self.epoch = epoch
        self.life = life
        self.sequence = sequence
        self.store = store
        self.view = None if store is None else store.view()
        self.acks = acks
        self.begun = False


class Change:
    """One update between its sequence and its publishing. `client`: who waits for an answer, if anybody does; with
    `is_followed`, the active has published it, and may have to answer it, or we in its place."""

    __slots__ = ("body", "client", "deadline", "is_followed", "key", "properties", "sequence", "ttl", "uuid")

    def __init__(
        self,
        key: bytes,
        sequence: int,
        uuid: bytes,
        properties: bytes,
        body: bytes,
        ttl: int,
        deadline: float,
        client: bytes | None,
        is_followed: bool = False,
    ) -> None:
        self.key = key
        self.sequence = sequence
        self.uuid = uuid
        self.properties = properties
        self.body = body
        self.ttl = ttl
        self.deadline = deadline
        self.client = client
        self.is_followed = is_followed

    @property
    def keeps_answer(self) -> bool:
        """Whether its uuid may come again."""
        return self.client is not None or self.is_followed

    @property
    def update(self) -> tuple[bytes, int, bytes, bytes, bytes, int, float]:
        """All but who waits for it."""
        return self.key, self.sequence, self.uuid, self.properties, self.body, self.ttl, self.deadline

    @property
    def size(self) -> int:
        """What the change counts for until it is in the map, in bytes."""
        own = PAIR_OVERHEAD + len(self.key) + len(self.properties) + len(self.body)
        return own + subtree_bytes_max(self.key)
