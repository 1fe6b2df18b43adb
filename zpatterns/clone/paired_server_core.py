"""The Clone server as one half of a pair (12/CHP, "Reliability"; Guide chapter 5). Pure.

The active half serves as a single server does, and holds back the answer to a set until the passive half has it. That
follows the active one, keeps what clients sent to both and the active has not published, and serves nobody.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from zpatterns.clone import wire
from zpatterns.clone.client_state import Endpoints
from zpatterns.clone.events import CopyTaken, PassiveLags, PendingPublished
from zpatterns.clone.follower_core import REQUESTS, UPDATES, Follower, Update, put
from zpatterns.clone.pending_core import Pending
from zpatterns.clone.server_core import CloneServerCore, Waiting
from zpatterns.clone.server_state import COLLECTOR, SNAPSHOT, Change, Era, ServerOptions, ServerStatistics
from zpatterns.clone.store import Store
from zpatterns.core import Frames, PortId, Rng, SendFailure, Subscribe
from zpatterns.paired_core import NOTHING, Ballot, Copy, Peer, Told

SEQUENCE_SHIFT = 20
"""Sequences are told from those of another life by the time: so many bits of them are left to one second."""


class _Unsafe:
    """A set that is published, and that the passive half has not confirmed."""

    __slots__ = ("client", "sequence", "uuid")

    def __init__(self, client: bytes | None, uuid: bytes, sequence: int) -> None:
        self.client = client
        self.uuid = uuid
        self.sequence = sequence


class PairedCloneCore(CloneServerCore):
    """ICANHAZ is a vote. Standing by, it answers ZPSET with 503 and drops all other requests.

    `sequence` and `epoch`: how far an earlier life came that kept its map, and the epoch under which it did. `floor`:
    the sequence that the wall clock stands for at the start; what is published after a promotion is above it, and so
    above all that another life has published. `peer`: the other half's snapshot endpoint where that does not say
    its port itself, as the Guide's does not. `look`: see :meth:`zpatterns.service.Service._join_pair`.
    """

    def __init__(
        self,
        sequence: int,
        rng: Rng,
        options: ServerOptions | None = None,
        *,
        floor: int,
        epoch: int = 0,
        look: Callable[[float], None],
        peer: str | None = None,
    ) -> None:
        super().__init__(sequence, rng, options)
        self.epoch = 0
        self.has_copy = True
        self.port: int | None = None
        """That of the snapshots, once bound: the other half is told of it."""
        self._look = look
        self._floor = floor
        self._peer_endpoint = peer
        self._life = b"%016x" % rng.getrandbits(64)
        self._started_at = 0.0
        # Whose map it is: two that were active without knowing of each other may have had the same epoch.
        self._source = epoch, b""
        self._serves = False
        self._follower = Follower(self.options, rng, self._commands, self._drops, self)
        self._followed: tuple[Endpoints, tuple[int, bytes]] | None = None
        limits = self.options
        self._pending = Pending(limits.pending_max, limits.pending_bytes_max, limits.answers_max)
        self._told_have = 0  # the sequence of our last ZPHAVE
        # The other half, while it says that it is passive. As active: how far its copy goes, whose sets wait for it.
        self._passive: bytes | None = None
        self._passive_has: int | None = None
        self._passive_due = 0  # what one that lagged must have before it is waited for again
        self._passive_moved_at = 0.0
        self._unsafe: dict[bytes, _Unsafe] = {}

    def start(self, now: float) -> None:
        """The sockets are bound: begin to collect. Whether it serves, the pair decides."""
        self._commands.append(Subscribe(COLLECTOR, b""))
        self._now = self._started_at = now

    # What the pair asks for.

    def ballot(self, frames: Frames, port: PortId) -> Ballot:
        is_vote = port == SNAPSHOT and wire.parse_icanhaz(frames[1:]) is not None
        return Ballot.DROPPED if is_vote else Ballot.NONE

    def told(self) -> Told:
        copy = Copy(self._source[0], self.store.sequence) if self._source[0] else NOTHING
        return Told(self.port, copy, self._life)

    def stand_by(self, now: float) -> None:
        self._now = now
        if self._serves:
            self._serves = False
            self._heartbeat_at = None
            self._snapshots.clear(self.store)
            self._sequence = max(self.store.sequence, self._journal.forget_waiting())
            for unsafe in self._unsafe.values():
                self._remember(unsafe.uuid, wire.OK, unsafe.sequence)  # it is made; whoever asks again must be told
            self._unsafe.clear()
            self._passive_has = None

    def take_over(self, now: float) -> None:
        self._now = now
        self._follower.stop()
        self._followed = None
        copy = self._journal.copy
        if copy is not None:
            self._begin_era(copy)  # it is whole, and the disk will have it before anything is published
        self._serves = self.has_copy = True
        self._source = self.epoch, self._life
        self.instance = b"%016x" % self._rng.getrandbits(64)
        self._sequence = self._sequence_of_promotion(now)
        if self.options.durable:
            self._journal.add(Era(self.epoch, self._life, self._sequence))
        else:
            self.store.adopt(self._sequence)
        self._heartbeat_at = now
        self.store.expect_again()  # a change that was to replace one of them may be given up since
        pending = [frames for frames in self._pending.take() if not self._has_made(frames)]
        for frames in pending:
            super()._on_collected(frames, now)
        self._journal.pump()
        if pending:
            self._events.append(PendingPublished(len(pending)))

    def _has_made(self, frames: Frames) -> bool:
        """Whether the map has, or had, the set that this KVSET asks for."""
        pair = self.store.get(frames[0])
        return frames[2] in self._acks or (pair is not None and pair[2] == frames[2])

    def _sequence_of_promotion(self, now: float) -> int:
        """Above all that the active before us can have published, what we have not seen of it included."""
        seconds = int((now - self._started_at) * (1 << SEQUENCE_SHIFT))
        return max(self._sequence + (1 << SEQUENCE_SHIFT), self._floor + seconds)

    def peer_told(self, peer: Peer, now: float) -> None:
        self._now = now
        # While we stand by, too: once we serve, it may confirm its copy before it says again what it is.
        life = peer.told.life if peer.is_passive and peer.told.life else None
        if life != self._passive:
            self._passive = life
            self._passive_has = None
            self._release()
        if not self._serves:
            if peer.is_active:
                self._follow(peer, now)
            else:
                self._follower.ask(False, now)

    def peer_lost(self, now: float) -> None:
        self._now = now
        self._passive = self._passive_has = None
        self._release()
        if not self._serves:
            self._follower.ask(False, now)

    # Following.

    def _follow(self, peer: Peer, now: float) -> None:
        endpoints = self._endpoints(peer)
        if endpoints is None:
            return
        source = peer.epoch, peer.told.life
        if self._followed != (endpoints, source):
            if source != self._source or not peer.told.life:
                # Another active than the one that ours is a copy of. What we hold is kept until it is replaced: should
                # the other one come back with nothing, it is better than that.
                self.has_copy = False
                self._pending.clear()
            self._followed = endpoints, source
            self._told_have = 0
            self._follower.begin(endpoints, now)
        self._follower.ask(True, now)

    def _endpoints(self, peer: Peer) -> Endpoints | None:
        place, port = peer.place, peer.told.port
        if self._peer_endpoint is not None:
            place, _, text = self._peer_endpoint.rpartition(":")
            port = int(text)
        if port is None:
            return None
        return Endpoints(f"{place}:{port}", f"{place}:{port + 1}", f"{place}:{port + 2}")

    def published(self, update: Update) -> None:
        """Follower: the active has published it."""
        self._pending.published(update.uuid, update.key)

    def follow(self, update: Update) -> None:
        """Follower: the next change of the map."""
        self._sequence = update.sequence
        if self.options.durable:
            self._journal.add(Change(*update, client=None, is_followed=True))
        else:
            put(self.store, update)
            self._remember(update.uuid, wire.OK, update.sequence)

    def copied(self, store: Store, acks: Sequence[tuple[bytes, int]], now: float) -> None:
        """Follower: a whole copy."""
        assert self._followed is not None
        self._sequence = store.sequence
        # What of it the copy has already, nobody can tell; it may be older than what is there.
        self._pending.clear()
        era = Era(*self._followed[1], store.sequence, store, acks)
        if self.options.durable:
            self._journal.add(era)
        else:
            self._begin_era(era)

    def _begin_era(self, era: Era) -> None:
        """It is on disk, where there is one."""
        if era.store is not None and not era.begun:
            era.begun = True
            acks = [(change.uuid, change.sequence) for change in self._journal.supersede(era)]
            if not self.has_copy:
                self._acks, acks = OrderedDict(), []  # those of another map
            for uuid, sequence in (*acks, *era.acks):
                self._remember(uuid, wire.OK, sequence)
            self._snapshots.clear(era.store)
            self.store = era.store
            self._source = era.epoch, era.life
            # Another than this one may be followed by now.
            self.has_copy = self._followed is None or self._followed[1] == self._source
            self._events.append(CopyTaken(len(era.store), era.sequence, era.epoch))
        elif self._serves and era.store is None:
            self.store.adopt(era.sequence)

    def _written(self, change: Change) -> None:
        if change.sequence <= self.store.sequence:
            return  # a copy that came since has it
        if self._serves:
            super()._written(change)
        else:
            put(self.store, Update(*change.update))
        if not self._serves or (change.is_followed and change.client is None):
            self._remember(change.uuid, wire.OK, change.sequence)  # who asks again, once we serve, must be told

    def saved(self, now: float) -> None:
        self._look(now)
        super().saved(now)
        self._say_have()

    def _say_have(self, *, always: bool = False) -> None:
        """ZPHAVE, to an active that knows it."""
        follower, has = self._follower, self.store.sequence
        if self.has_copy and follower.is_ours and (always or has > self._told_have):
            self._told_have = has
            follower.out.append(wire.zphave(has, self._life))

    # Messages in.

    def receive_many(self, batch: Iterable[Frames], now: float, port: PortId = COLLECTOR) -> None:
        if port in (UPDATES, REQUESTS):
            self._now = now
            for frames in batch:
                self._follower.receive(frames, port, now)
                self._say_have(always=frames[:1] == [wire.HUGZ])
            self._journal.pump()
        elif self._serves:
            super().receive_many(batch, now, port)
        elif port == COLLECTOR:
            self._now = now
            for frames in batch:
                self._hold(frames)
        else:
            self._now = now
            for frames in batch:
                self._turn_away(frames)

    def _hold(self, frames: Frames) -> None:
        """A KVSET that the active may not publish any more."""
        if len(frames) != 5 or len(frames[1]) != 8 or len(frames[2]) != wire.UUID_SIZE or not wire.is_key(frames[0]):
            self._drops.add("invalid")
        elif len(frames[3]) + len(frames[4]) > self.options.value_max:
            self._drops.add("too-large")
        elif not self._has_made(frames):
            for _ in range(self._pending.add(frames[2], frames)):
                self._drops.add("held-full")

    def _on_collected(self, frames: Frames, now: float) -> None:
        if len(frames) == 5 and self._pending.is_late(frames[2]):
            self._drops.add("published-before")
        else:
            super()._on_collected(frames, now)

    def _turn_away(self, frames: Frames) -> None:
        received = wire.parse_zpset(frames[1:])
        if received is None:
            self._drops.add("standing-by")
        else:
            self._refused += 1
            self._answer(frames[0], received.uuid, wire.NOT_ACTIVE, 0)

    @property
    def _admits_joins(self) -> bool:
        # The half that is to take over may not have its copy yet.
        return super()._admits_joins or (self._passive is not None and self._passive_has is None)

    def _on_request(self, frames: Frames, now: float) -> None:
        confirmed = wire.parse_zphave(frames[1:])
        if confirmed is None:
            super()._on_request(frames, now)
        elif confirmed[1] != self._passive:
            self._drops.add("not-the-passive")
        elif confirmed[0] >= self._passive_due and (self._passive_has is None or confirmed[0] > self._passive_has):
            self._passive_has = confirmed[0]
            self._passive_moved_at = now
            self._release()

    # Answers that wait for the passive half.

    def _acknowledge(self, client: bytes, uuid: bytes, sequence: int) -> None:
        if self._passive_has is None or self._passive_has >= sequence:
            super()._acknowledge(client, uuid, sequence)
            return
        if not self._unsafe:
            self._passive_moved_at = self._now
        self._unsafe[uuid] = _Unsafe(client, uuid, sequence)

    def _release(self) -> None:
        """Answer those that the passive half has, or all where there is none to wait for."""
        has = self._passive_has
        while self._unsafe:
            first = next(iter(self._unsafe.values()))
            if has is not None and first.sequence > has:
                return
            del self._unsafe[first.uuid]
            assert first.client is not None
            super()._acknowledge(first.client, first.uuid, first.sequence)

    def _unanswered(self, uuid: bytes) -> Waiting | None:
        return self._unsafe.get(uuid) or super()._unanswered(uuid)

    def _is_full(self) -> bool:
        return super()._is_full() or len(self._journal) + len(self._unsafe) >= self.options.pending_max

    # Messages out.

    def ports_to_send(self) -> Collection[PortId]:
        ports = list(super().ports_to_send())
        if self._follower.out:
            ports.append(REQUESTS)
        return ports

    def messages_to_send(self, port: PortId) -> list[Frames]:
        if port == REQUESTS:
            messages, self._follower.out = self._follower.out, []
            return messages
        return super().messages_to_send(port)

    def wants_to_read(self, port: PortId) -> bool:
        if port == UPDATES:
            # What waits for the disk is bounded as the map is: a pause would cost a whole copy.
            return len(self._journal) < self.options.keys_max and self._journal.bytes < self.options.bytes_max
        return port == REQUESTS or super().wants_to_read(port)

    def send_failed(self, port: PortId, frames: Frames, reason: SendFailure, now: float) -> None:
        if port != REQUESTS:  # nothing depends on it: what is not answered is asked again
            super().send_failed(port, frames, reason, now)

    def statistics(self) -> ServerStatistics:
        return replace(
            super().statistics(),
            held=len(self._pending),
            unconfirmed=len(self._unsafe),
            copies=self._follower.copies,
            gaps=self._follower.gaps,
        )

    # Time.

    def next_timer(self) -> float | None:
        times = [super().next_timer(), self._follower.next_timer(), self._patience_ends]
        return min((time for time in times if time is not None), default=None)

    @property
    def _patience_ends(self) -> float | None:
        return self._passive_moved_at + self.options.liveness.lease if self._unsafe else None

    def handle_timer(self, now: float) -> None:
        super().handle_timer(now)
        self._follower.handle_timer(now)
        if self._patience_ends is not None and self._patience_ends <= now:
            # It says that it is there, and has no more than before: who waits must not wait for ever.
            self._events.append(PassiveLags(len(self._unsafe), self.options.liveness.lease))
            self._passive_has, self._passive_due = None, self.store.sequence
            self._release()

    # The end.

    @property
    def drained(self) -> bool:
        """The other half, where there is one, is to have all before it takes over."""
        is_followed = self._passive_has is not None and self._passive_has >= self.store.sequence
        return super().drained and (not self._serves or self._passive is None or is_followed)

    def shut_down(self, now: float) -> None:
        super().shut_down(now)
        self._follower.stop()

    def check_invariants(self) -> None:
        super().check_invariants()
        self._pending.check_invariants()
        self._follower.check_invariants()
        assert self._serves == (self._heartbeat_at is not None) or self._stopped
        assert not self._serves or (self.has_copy and not self._pending), "it serves and keeps what it could publish"
        assert self._serves or (not self._unsafe and not self._snapshots)
        assert self._passive_has is not None or not self._unsafe, "a set waits for nobody"
        sequences = [unsafe.sequence for unsafe in self._unsafe.values()]
        assert sequences == sorted(sequences)
        assert self._passive_has is None or all(sequence > self._passive_has for sequence in sequences)
