"""The Clone server as a state machine: 12/CHP and our extension with answers, on three sockets. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import ClassVar, Protocol, TypeAlias

from zpatterns.clone import wire
from zpatterns.clone.journal_core import Journal
from zpatterns.clone.server_state import (
    COLLECTOR,
    PUBLISHER,
    SNAPSHOT,
    Change,
    Era,
    ServerOptions,
    ServerStatistics,
)
from zpatterns.clone.snapshots_core import Snapshots
from zpatterns.clone.store import PAIR_OVERHEAD, Pair, Store, View, size_of, subtree_bytes_max
from zpatterns.core import Command, Drops, Event, Frames, PortId, Rng, SendFailure, Subscribe

EXPIRED_MAX = 1000
"""Keys that expire in one turn; the rest follow in the next."""

_PARSED_MAX = 1024


Answers: TypeAlias = OrderedDict[bytes, tuple[int, int]]
"""By uuid, the oldest first: code and sequence."""


class Waiting(Protocol):
    """A set that a client waits for. It may ask again on another connection."""

    client: bytes | None


class CloneServerCore:
    """Keeps the map, publishes each change of it in order, and sends snapshots.

    `sequence` is the last one used so far, by an earlier life too; `instance` names this life. With
    ``options.durable`` a change is published only after the front end has said that it is saved.
    """

    PORTS: ClassVar[tuple[str, ...]] = (SNAPSHOT, PUBLISHER, COLLECTOR)

    def __init__(self, sequence: int, rng: Rng, options: ServerOptions | None = None) -> None:
        self.options = options or ServerOptions()
        self.store = Store(sequence)
        self.instance = b"%016x" % rng.getrandbits(64)
        self._rng = rng
        self._sequence = sequence  # given out; the store's is the last published
        self._now = 0.0
        self._answers: list[Frames] = []
        self._published: list[Frames] = []
        self._commands: list[Command] = []
        self._events: list[Event] = []
        self._drops = Drops()
        self._snapshots = Snapshots(self.store, self.options, self._events, self._end_of_snapshot)
        # Ordered: what is first in a dict is found ever more slowly, the more has been deleted before it.
        self._acks: Answers = OrderedDict()
        self._parsed: dict[bytes, tuple[int, bytes]] = {}
        self._heartbeat_at: float | None = None
        self._draining = self._stopped = False
        self._journal = Journal(self.options, self._commands, self._events)
        self._updates = self._deletes = self._expired = self._answered = self._conflicts = self._refused = 0
        self._repeated = self._undelivered = self._heartbeats = 0

    def start(self, now: float) -> None:
        """The sockets are bound: begin to collect and to send heartbeats."""
        self._commands.append(Subscribe(COLLECTOR, b""))
        self._now = self._heartbeat_at = now

    def restore(self, pairs: Iterable[Pair], acks: Iterable[tuple[bytes, int]]) -> None:
        """Before :meth:`start`: what an earlier life had published and answered with 200, the oldest first."""
        sequence = self._sequence
        for pair in pairs:
            self.store.put(pair, sequence)
        for uuid, answer in acks:
            self._remember(uuid, wire.OK, answer)

    # Messages in.

    def receive_many(self, batch: Iterable[Frames], now: float, port: PortId = COLLECTOR) -> None:
        self._now = now
        if port == COLLECTOR:
            for frames in batch:
                self._on_collected(frames, now)
        elif port == SNAPSHOT:
            for frames in batch:
                self._on_request(frames, now)
        self._journal.pump()

    def _on_collected(self, frames: Frames, now: float) -> None:
        """A KVSET (12/CHP, "Client-to-Server Updates"). Its sequence has no significance."""
        if len(frames) != 5 or len(frames[1]) != 8:
            self._drops.add("invalid")
            return
        key, _, uuid, lines, body = frames
        if len(uuid) != wire.UUID_SIZE:
            if uuid:
                self._drops.add("invalid")
                return
            # A C server that follows us falls over without one.
            uuid = self._new_uuid()
        if not wire.is_key(key):
            self._drops.add("invalid-key")
            return
        if lines:
            if wire.has_too_many(lines):
                self._drops.add("too-large")
                return
            ttl, lines = self._parse(lines)
        else:
            ttl = 0
        reason = self._excess(key, len(lines) + len(body), bool(body))
        if reason:
            self._drops.add(reason)
            return
        self._change(key, uuid, lines, body, ttl, now, None)

    def _on_request(self, frames: Frames, now: float) -> None:
        client, request = frames[0] if frames else b"", frames[1:]
        command = request[0] if request else b""
        if command == wire.ZPSET:
            received = wire.parse_zpset(request)
            if received is not None:
                self._on_set(client, received, now)
                return
        elif command == wire.ICANHAZ:
            subtree = wire.parse_icanhaz(request)
            if subtree is not None:
                admits = self._admits_joins
                if not admits or not self._snapshots.ask(client, subtree, now):
                    self._drops.add("too-many-joins" if admits else "stopping")
                return
        elif command == wire.ZPLAST:
            subtree = wire.parse_zplast(request)
            if subtree is not None:
                self._answers.append([client, *wire.zplast_answer(subtree, self.store.last(subtree))])
                return
        self._drops.add("invalid")

    @property
    def _admits_joins(self) -> bool:
        return not self._draining

    def _on_set(self, client: bytes, received: wire.Set, now: float) -> None:
        """A ZPSET: make the change once, however often it comes, and answer each time."""
        uuid, key, ttl, if_sequence, properties, body = received
        known = self._acks.get(uuid)
        if known is not None:
            self._repeated += 1
            self._answer(client, uuid, *known)
            return
        waiting = self._unanswered(uuid)
        if waiting is not None:
            self._repeated += 1
            waiting.client = client
            return
        pair = self.store.get(key)
        if pair is not None and pair[2] == uuid:
            # Made by a server whose map ours is a copy of: a copy tells nothing of what was answered.
            self._repeated += 1
            sequence = self.store.sequence_of(key)
            self._remember(uuid, wire.OK, sequence)
            self._answer(client, uuid, wire.OK, sequence)
            return
        if self._draining:
            self._drops.add("stopping")
            return
        if len(key) > self.options.key_max:
            self._refuse(client, uuid)
            return
        if not wire.is_key(key):
            self._drops.add("invalid-key")
            return
        if if_sequence is not None:
            sequence = self._sequence_of(key)
            if sequence != if_sequence:
                self._conflicts += 1
                self._remember(uuid, wire.CONFLICT, sequence)
                self._answer(client, uuid, wire.CONFLICT, sequence)
                return
        if self._excess(key, len(properties) + len(body), bool(body)):
            self._refuse(client, uuid)
            return
        if self._is_full():
            # Not answered: the client asks again while it has time.
            self._drops.add("pending-full")
            return
        self._change(key, uuid, properties, body, min(ttl, wire.TTL_MAX), now, client)

    def _parse(self, lines: bytes) -> tuple[int, bytes]:
        """The ttl among properties, and those that are passed on. Most clients send the same few again and again."""
        known = self._parsed.get(lines)
        if known is None:
            properties = wire.parse_properties(lines)
            known = min(wire.ttl_of(properties), wire.TTL_MAX), wire.foreign_properties(properties)
            if len(lines) <= 64:
                if len(self._parsed) >= _PARSED_MAX:
                    self._parsed.clear()
                self._parsed[lines] = known
        return known

    def _excess(self, key: bytes, size: int, is_set: bool) -> str:
        """Which limit a change would pass; empty for none. To delete is always possible."""
        options = self.options
        if len(key) > options.key_max or size > options.value_max:
            return "too-large"
        if key.count(b"/") > options.depth_max + 1:
            return "too-deep"
        if is_set:
            store, own = self.store, PAIR_OVERHEAD + len(key) + size
            bytes_left = options.bytes_max - store.bytes - self._journal.bytes
            is_full = len(store) + len(self._journal.keys) >= options.keys_max
            # Only near its end does it matter what is there already.
            if is_full or own + subtree_bytes_max(key) > bytes_left:
                pair = store.get(key)
                more = own + store.subtree_bytes(key) if pair is None else own - size_of(pair)
                if more > bytes_left or (is_full and pair is None):
                    return "map-full"
        return ""

    def _sequence_of(self, key: bytes) -> int:
        change = self._journal.keys.get(key)
        if change is not None:
            return change.sequence if change.body else 0
        return self.store.sequence_of(key)

    # Changes.

    def _change(
        self, key: bytes, uuid: bytes, properties: bytes, body: bytes, ttl: int, now: float, client: bytes | None
    ) -> None:
        sequence = self._sequence = self._sequence + 1
        if not body:
            ttl = 0
        if not self.options.durable:
            self._publish(key, sequence, uuid, properties, body, ttl, now + ttl)
            if client is not None:
                self._acknowledge(client, uuid, sequence)
            return
        self._journal.add(Change(key, sequence, uuid, properties, body, ttl, now + ttl, client))

    def _publish(
        self, key: bytes, sequence: int, uuid: bytes, properties: bytes, body: bytes, ttl: int, deadline: float
    ) -> None:
        """A KVPUB (12/CHP, "Server-to-Client Updates"): the map and what is published change together."""
        packed = wire.pack_sequence(sequence)
        if not body:
            previous = self.store.delete(key, sequence)
            self._deletes += 1
        elif ttl:
            previous = self.store.put((key, packed, uuid, properties, body, deadline), sequence)
            properties = b"ttl=%d\n%b" % (ttl, properties)
        else:
            properties = wire.for_ever(properties)
            previous = self.store.put((key, packed, uuid, properties, body), sequence)
        self._published.append([key, packed, uuid, properties + previous, body])
        self._updates += 1

    def _unanswered(self, uuid: bytes) -> Waiting | None:
        """A set that was made and is not answered yet."""
        return self._journal.unanswered.get(uuid)

    def _acknowledge(self, client: bytes, uuid: bytes, sequence: int) -> None:
        self._remember(uuid, wire.OK, sequence)
        self._answer(client, uuid, wire.OK, sequence)

    def _refuse(self, client: bytes, uuid: bytes) -> None:
        # Remembered too: what its client has given up must not be made when it comes once more.
        self._refused += 1
        self._remember(uuid, wire.TOO_LARGE, 0)
        self._answer(client, uuid, wire.TOO_LARGE, 0)

    def _answer(self, client: bytes, uuid: bytes, code: int, sequence: int) -> None:
        self._answered += 1
        self._answers.append([client, *wire.zpack(uuid, code, sequence)])

    def _remember(self, uuid: bytes, code: int, sequence: int) -> None:
        acks = self._acks
        acks[uuid] = code, sequence
        if len(acks) > self.options.answers_max:
            acks.popitem(last=False)

    def _new_uuid(self) -> bytes:
        return self._rng.getrandbits(128).to_bytes(16, "big")

    # Changes that are written to disk before they are published.

    def _is_full(self) -> bool:
        return self._journal.is_full

    def saved(self, now: float) -> None:
        """The group of the last Save is on disk for good: publish it, and answer."""
        self._now = now
        for change in self._journal.saved():
            if isinstance(change, Era):
                self._begin_era(change)
            else:
                self._journal.done(change)
                self._written(change)
        self._journal.pump()

    def _written(self, change: Change) -> None:
        self._publish(*change.update)
        if change.client is not None:
            self._acknowledge(change.client, change.uuid, change.sequence)

    def _begin_era(self, era: Era) -> None:
        """Only halves of pairs have eras."""

    def save_failed(self, reason: str, now: float) -> None:
        """Nothing of that group is on disk; it is tried again."""
        self._now = now
        self._journal.failed(reason, now)

    # Snapshots.

    def _end_of_snapshot(self, client: bytes, view: View, subtree: bytes) -> Frames:
        status = wire.status_property(self.instance, self.store.sequence)
        return [client, *wire.kthxbai(view.sequence, subtree, status)]

    # Messages out.

    def ports_to_send(self) -> Collection[PortId]:
        ports: list[PortId] = []
        if self._published:
            ports.append(PUBLISHER)
        if self._answers or self._snapshots.out:
            ports.append(SNAPSHOT)
        return ports

    def messages_to_send(self, port: PortId) -> list[Frames]:
        if port == PUBLISHER:
            messages, self._published = self._published, []
        elif port == SNAPSHOT:
            messages, self._answers = self._answers, []
            if self._snapshots.out:
                messages += self._snapshots.out
                self._snapshots.out = []
        else:
            messages = []
        return messages

    def wants_to_read(self, port: PortId) -> bool:
        """While the disk is behind, updates that nobody waits for stay with their senders."""
        return not self._stopped and not (port == COLLECTOR and (self._draining or self._is_full()))

    def commands(self) -> list[Command]:
        commands = self._commands.copy()
        self._commands.clear()  # the journal adds to the same list
        return commands

    def send_failed(self, port: PortId, frames: Frames, reason: SendFailure, now: float) -> None:
        if port != SNAPSHOT:
            return
        if len(frames) == 6:  # a routing id and five frames: KVSYNC or KTHXBAI
            self._snapshots.failed(frames, reason, now)
        else:
            self._undelivered += 1

    # Time.

    def next_timer(self) -> float | None:
        times = [self._journal.next_timer(), self._heartbeat_at]
        if self._heartbeat_at is not None:
            expiry = self.store.next_expiry()  # perhaps long past: a server that stood by let nothing expire
            times += [expiry and max(expiry, self._now), self._snapshots.next_time(self._now)]
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        self._now = now
        self._journal.handle_timer(now)
        if self._heartbeat_at is None:
            return  # not begun, or over; or half of a pair that does not serve
        for key in self.store.expired(now, EXPIRED_MAX):
            # A change on its way to the disk is newer than what has expired.
            if key not in self._journal.keys:
                self._expired += 1
                self._change(key, self._new_uuid(), b"", b"", 0, now, None)
        self._journal.pump()
        self._snapshots.work(now)
        if self._heartbeat_at <= now:
            # Whatever else was published: who follows a subtree sees nothing else.
            self._heartbeats += 1
            self._published.append(wire.hugz(wire.status_property(self.instance, self.store.sequence)))
            following = self._heartbeat_at + self.options.liveness.interval
            self._heartbeat_at = following if following > now else now + self.options.liveness.interval

    # The end.

    def drain(self, now: float) -> None:
        """Begin nothing more; finish the snapshots that are asked for and write down what was collected."""
        self._draining = True

    @property
    def drained(self) -> bool:
        """Whether no snapshot and no change is on its way."""
        return not self._snapshots and not self._journal

    def shut_down(self, now: float) -> None:
        """CHP has no goodbye: who hears no HUGZ turns to another server."""
        self._draining = self._stopped = True
        self._heartbeat_at = None

    def check_invariants(self) -> None:
        self.store.check_invariants()
        self._snapshots.check_invariants()
        options = self.options
        self._journal.check_invariants(self.store.sequence)
        assert self.store.sequence <= self._sequence or self._journal.copy, "a map goes back only for another"
        assert len(self._acks) <= options.answers_max
        assert len(self.store) <= options.keys_max
        assert self.store.bytes <= options.bytes_max
        assert len(self._parsed) <= _PARSED_MAX

    # Telling.

    def events(self) -> list[Event]:
        self._drops.tell(self._events)
        events = self._events.copy()
        self._events.clear()  # the snapshots add to the same list
        return events

    def statistics(self) -> ServerStatistics:
        snapshots = self._snapshots
        return ServerStatistics(
            updates=self._updates,
            deletes=self._deletes,
            expired=self._expired,
            answered=self._answered,
            conflicts=self._conflicts,
            refused=self._refused,
            repeated=self._repeated,
            snapshots=snapshots.complete,
            snapshot_keys=snapshots.keys,
            abandoned=snapshots.abandoned,
            undelivered=self._undelivered,
            heartbeats=self._heartbeats,
            sequence=self.store.sequence,
            keys=len(self.store),
            bytes=self.store.bytes,
            joining=len(snapshots),
            pending=len(self._journal),
            dropped=dict(self._drops.totals),
        )
