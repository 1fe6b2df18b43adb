"""A passive server's copy of what the active one has: it follows as a client would, and keeps all it is sent. Pure.

12/CHP, "Reliability". It subscribes, asks for a snapshot once something was published, keeps what
comes meanwhile, and notices what it has missed as clients do (:mod:`zpatterns.clone.audit_core`).
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from zpatterns.clone import wire
from zpatterns.clone.audit_core import Audit
from zpatterns.clone.client_state import Endpoints
from zpatterns.clone.server_state import ServerOptions
from zpatterns.clone.store import PAIR_OVERHEAD, Pair, Store
from zpatterns.core import Close, Command, Drops, Frames, Open, PortId, Rng, SocketKind, Subscribe
from zpatterns.timing import Backoff

UPDATES = "peer-updates"
"""The SUB to the other server's publisher."""

REQUESTS = "peer-snapshot"
"""The DEALER to its snapshot port."""

PATIENCE = 1.5
"""Heartbeat intervals after which a server that publishes nothing is asked all the same."""

HIGHEST = 2**62
"""Sequences beyond leave too few above them for what we publish once we are promoted. None counts so far by itself."""


class Update(NamedTuple):
    """A change that the active has published. `properties` without the ttl; `deadline` counts only with a `ttl`."""

    key: bytes
    sequence: int
    uuid: bytes
    properties: bytes
    body: bytes
    ttl: int
    deadline: float


class FollowerState(enum.Enum):
    """What it is doing. The words are those of :class:`~zpatterns.clone.client_state.ClientState`."""

    CLOSED = "closed"
    JOINING = "joining"
    FETCHING = "fetching"
    FOLLOWING = "following"
    BEHIND = "behind"
    WAITING = "waiting to connect again"


class Copier(Protocol):
    """The server whose map is made a copy."""

    def published(self, update: Update) -> None:
        """The active has published it; whether it can be applied yet or not."""

    def follow(self, update: Update) -> None:
        """The next change of the map."""

    def copied(self, store: Store, acks: Sequence[tuple[bytes, int]], now: float) -> None:
        """A whole copy; what is followed from here on comes after it. `acks`: uuids and sequences of what it has of
        what was published meanwhile."""


class Follower:
    """Follows one active server; tells `copier`. It asks for snapshots only while :attr:`may_ask`: the Guide's server
    loses step on a question that it cannot answer."""

    def __init__(self, options: ServerOptions, rng: Rng, commands: list[Command], drops: Drops, copier: Copier) -> None:
        self._options = options
        self._rng = rng
        self._commands = commands
        self._drops = drops
        self._copier = copier
        self._lease = options.liveness.lease
        self._interval = options.liveness.interval
        self._backoff = Backoff(self._interval / 4, self._lease, rng)
        self._audit = Audit(b"", options.liveness.liveness)
        self.state = FollowerState.CLOSED
        self.may_ask = False
        self.last = 0
        """The sequence up to which the copier was given everything."""
        self.out: list[Frames] = []
        self.copies = self.gaps = 0
        self._endpoints: Endpoints | None = None
        self._due_at: float | None = None
        self._heard_at = 0.0
        # While a snapshot comes: what came of it, the latest update of each key, and what these weigh.
        self._fresh = Store(0)
        self._kept: dict[bytes, Update] = {}
        self._kept_bytes = 0
        self._kept_last = -1
        # The highest sequence that the server says came before an update we kept, and that we have not seen.
        self._unverified = -1

    @property
    def is_ours(self) -> bool:
        """Whether it follows a server that knows our extension."""
        return self.state is FollowerState.FOLLOWING and self._audit.status is not None

    # What the server asks for.

    def begin(self, endpoints: Endpoints, now: float) -> None:
        """Follow that server, from a whole copy on."""
        self._endpoints = endpoints
        self._backoff.reset()
        self._connect(now)

    def ask(self, may: bool, now: float) -> None:
        """The other server says that it is active, or not."""
        if may and not self.may_ask and self._due_at is None and self.state is not FollowerState.CLOSED:
            self._due_at = now
        self.may_ask = may

    def stop(self) -> None:
        """Follow nobody."""
        if self.state not in (FollowerState.CLOSED, FollowerState.WAITING):
            self._commands += [Close(UPDATES), Close(REQUESTS)]
        self.state = FollowerState.CLOSED
        self.may_ask = False
        self._due_at = None
        self.out = []
        self._begin_to_keep()

    # Messages in.

    def receive(self, frames: Frames, port: PortId, now: float) -> None:
        if self.state in (FollowerState.CLOSED, FollowerState.WAITING):
            self._drops.add("late")
            return
        message = wire.parse_key_value(frames)
        if message is None or message.sequence > HIGHEST:
            self._drops.add("invalid")
        elif port == UPDATES:
            self._on_published(message, now)
        elif self.state is FollowerState.FETCHING:
            self._on_snapshot(message, now)
        else:
            self._drops.add("late")

    def _on_published(self, message: wire.KeyValue, now: float) -> None:
        self._heard_at = now
        if self.state is FollowerState.JOINING:
            self._try_to_ask(now)
        if message.key == wire.HUGZ:
            self._on_hugz(message, now)
        elif not wire.is_key(message.key):
            self._drops.add("invalid-key")
        else:
            self._on_update(message, now)

    def _on_hugz(self, message: wire.KeyValue, now: float) -> None:
        status = wire.status_of(wire.parse_properties(message.properties)) if message.properties else None
        if self.state is FollowerState.FOLLOWING and self._audit.hugz(message.sequence, status, self.last):
            self._fall_behind(now)

    def _on_update(self, message: wire.KeyValue, now: float) -> None:
        properties = wire.parse_properties(message.properties)
        update = self._update(message, properties, now)
        self._copier.published(update)
        previous = self._audit.previous(message.sequence, properties)
        if previous is None:
            self._drops.add("invalid")  # the next one, or HUGZ, will show that it is missing
        elif self.state is not FollowerState.FOLLOWING:
            self._keep(update, previous, now)
        elif update.sequence <= self.last:
            self._drops.add("stale")
        elif previous > self.last:
            self._audit.jumped()
            self._fall_behind(now)
            self._keep(update, previous, now)
        else:
            self._audit.in_order()
            self.last = update.sequence
            self._copier.follow(update)

    def _update(self, message: wire.KeyValue, properties: wire.Properties, now: float) -> Update:
        key, sequence, uuid, _, body = message
        ttl = min(wire.ttl_of(properties), wire.TTL_MAX) if body else 0
        uuid = uuid or self._rng.getrandbits(128).to_bytes(16, "big")  # a C server that follows us falls over without
        return Update(key, sequence, uuid, wire.foreign_properties(properties), body, ttl, now + ttl)

    def _keep(self, update: Update, previous: int, now: float) -> None:
        """For the snapshot that is on its way: the latest of each key, which is all that counts."""
        if update.sequence <= self._kept_last:
            self._drops.add("stale")
            return
        before = self._kept.get(update.key)
        size = _size(update)
        bytes_then = self._kept_bytes + size - (0 if before is None else _size(before))
        if bytes_then > self._options.bytes_max or (before is None and len(self._kept) >= self._options.keys_max):
            self._drops.add("kept-full")
            self._connect_later(now)
            return
        self._kept_bytes = bytes_then
        if previous > self._kept_last:
            self._unverified = previous
        self._kept_last = update.sequence
        self._kept[update.key] = update

    def _on_snapshot(self, message: wire.KeyValue, now: float) -> None:
        """KVSYNC or KTHXBAI."""
        self._due_at = now + self._lease
        properties = wire.parse_properties(message.properties)
        if message.key == wire.KTHXBAI:
            self._finish(message.sequence, wire.status_of(properties), now)
        elif not wire.is_key(message.key) or not message.body:
            self._drops.add("invalid-key")
        elif not self._has_room(self._fresh):
            self._drops.add("map-full")
            self._connect_later(now)
        else:
            self._fresh.put(pair_of(self._update(message, properties, now)), 0)

    def _has_room(self, store: Store) -> bool:
        return len(store) < self._options.keys_max and store.bytes < self._options.bytes_max

    def _finish(self, sequence: int, status: wire.Status | None, now: float) -> None:
        self._audit.snapshot(status)
        if self._unverified > sequence:
            self._audit.jumped()
            self._fall_behind(now)  # an update after it is missing
            return
        fresh = self._fresh
        fresh.adopt(sequence)
        kept = sorted(self._kept.values(), key=_sequence_of)
        for update in kept:
            if update.sequence > sequence:
                put(fresh, update)
        self.last = max(sequence, self._kept_last)
        fresh.adopt(self.last)
        self.state = FollowerState.FOLLOWING
        self._heard_at, self._due_at = now, None
        self._backoff.reset()
        self.copies += 1
        self._begin_to_keep()
        self._copier.copied(fresh, [(update.uuid, update.sequence) for update in kept], now)

    # Time.

    def next_timer(self) -> float | None:
        if self.state is FollowerState.FOLLOWING:
            return self._heard_at + self._lease if self.may_ask else None
        return self._due_at

    def handle_timer(self, now: float) -> None:
        state = self.state
        if state is FollowerState.FOLLOWING:
            if self.may_ask and self._heard_at + self._lease <= now:
                self._connect_later(now)  # it says that it is active, and we hear nothing of it
        elif self._due_at is None or now < self._due_at:
            pass
        elif state is FollowerState.FETCHING:
            self._connect_later(now)
        elif state is FollowerState.WAITING:
            self._connect(now)
        else:
            self._try_to_ask(now)

    # Steps.

    def _begin_to_keep(self) -> None:
        self._fresh = Store(0)
        self._kept = {}
        self._kept_bytes = 0
        self._kept_last = self._unverified = -1

    def _connect(self, now: float) -> None:
        assert self._endpoints is not None
        self._commands += [
            Open(UPDATES, SocketKind.SUB, self._endpoints.publisher),
            Subscribe(UPDATES, b""),
            Open(REQUESTS, SocketKind.DEALER, self._endpoints.snapshot),
        ]
        self.out = []
        self._audit.begin(same_server=True)
        self._begin_to_keep()
        self.state = FollowerState.JOINING
        self._heard_at = now
        self._due_at = now + PATIENCE * self._interval

    def _connect_later(self, now: float) -> None:
        self._commands += [Close(UPDATES), Close(REQUESTS)]
        self.state = FollowerState.WAITING
        self._due_at = now + self._backoff.delay()
        self._begin_to_keep()

    def _try_to_ask(self, now: float) -> None:
        self._due_at = None  # until it says that it is active
        if self.may_ask:
            self.state = FollowerState.FETCHING
            self._fresh = Store(0)
            self._due_at = now + self._lease
            self.out.append(wire.icanhaz(b""))

    def _fall_behind(self, now: float) -> None:
        if self.state is FollowerState.FOLLOWING:
            self.gaps += 1
            self._begin_to_keep()
        self.state = FollowerState.BEHIND
        self._due_at = now + self._backoff.delay()

    def check_invariants(self) -> None:
        """Assert what must always be true. For tests."""
        assert len(self._kept) <= self._options.keys_max and self._kept_bytes <= self._options.bytes_max
        assert self._kept_bytes == sum(map(_size, self._kept.values()))
        is_keeping = self.state in (FollowerState.JOINING, FollowerState.FETCHING, FollowerState.BEHIND)
        assert is_keeping or not self._kept
        waits = self.state in (FollowerState.FETCHING, FollowerState.WAITING)
        assert not waits or self._due_at is not None, "nobody will look after it"


def pair_of(update: Update) -> Pair:
    """The pair that it leaves in a map."""
    key, sequence, uuid, properties, body, ttl, deadline = update
    packed = wire.pack_sequence(sequence)
    if ttl:
        return (key, packed, uuid, properties, body, deadline)
    return (key, packed, uuid, wire.for_ever(properties), body)


def put(store: Store, update: Update) -> None:
    """Make the change that it tells of."""
    if update.body:
        store.put(pair_of(update), update.sequence)
    else:
        store.delete(update.key, update.sequence)


def _size(update: Update) -> int:
    return PAIR_OVERHEAD + len(update.key) + len(update.properties) + len(update.body)


def _sequence_of(update: Update) -> int:
    return update.sequence
