"""Judges a pair of Clone servers from outside: whose map continues whose, and what survives whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zpatterns.bstar import wire as star_wire
from zpatterns.bstar.bstar_core import PEER, STATE
from zpatterns.clone import wire
from zpatterns.clone.follower_core import UPDATES
from zpatterns.clone.server_state import COLLECTOR, PUBLISHER, SNAPSHOT, Change, Era
from zpatterns.core import Frames
from zpatterns.testing.clone_history import History
from zpatterns.testing.clone_nodes import CloneServerNode
from zpatterns.testing.clone_observer import CloneObserver
from zpatterns.testing.clone_pair import ClonePairNode
from zpatterns.testing.driving import SimLink
from zpatterns.testing.world import Node

if TYPE_CHECKING:
    from zpatterns.testing.clone import CloneWorld


class _Half:
    """What is known of one half in one life of its process."""

    def __init__(self) -> None:
        self.lineage: History | None = None
        """Whose map it has, once it has any."""
        self.known_from = 0
        """The sequence of its last whole copy: of what was published before, it knows only what is still there."""
        self.holds = 0
        """The last sequence that was acknowledged while it had it."""
        self.state = 0
        self.changed_at = 0.0
        self.heard: tuple[float, star_wire.PeerState] | None = None
        self.confirmed: tuple[float, bytes, int] | None = None
        """When it read the last ZPHAVE that said something new, of which life of the other half, and what."""
        self.held: dict[bytes, int] = {}
        """By uuid: when it read a KVSET while it did not serve, in the order of all that it read."""
        self.republished: set[bytes] = set()
        """The uuids of those that it has published since it serves."""
        self.updated: dict[bytes, tuple[int, int]] = {}
        """By key: when it read the last KVPUB, in the same order, and its sequence."""
        self.collected: set[bytes] = set()
        """The uuids of all KVSETs that it read."""
        self.seen: dict[bytes, int] = {}
        """By uuid: the sequence of the KVPUB that it read, whether it could apply that or not."""
        self.reads = 0
        self.answered: set[int] = set()
        """The sequences that it has acknowledged."""


class ClonePairObserver(CloneObserver):
    """C1 and C3 of a pair: a passive half has what the active one had at some moment; what was acknowledged while it
    was live is there after each promotion; what it publishes then overwrites nothing newer; who knows of a newer copy
    does not serve."""

    def __init__(self, world: CloneWorld) -> None:
        super().__init__(world)
        self._halves: dict[str, _Half] = {}
        self._branches: dict[tuple[str, int], History] = {}  # by server and epoch
        self._disks: dict[str, tuple[History, int]] = {}  # whose map is on it, and from where on it is known
        self._safe: dict[str, dict[int, Change]] = {}
        self._disk_holds: dict[str, int] = {}

    # What nodes tell.

    def begins(self, server: CloneServerNode, sequence: int) -> None:
        half = self._halves[server.name] = _Half()
        kept = self._disks.get(server.name)
        if kept is not None and server.options.durable:
            half.lineage, half.known_from = kept
            half.holds = self._disk_holds.get(server.name, 0)

    def promotes(self, server: ClonePairNode) -> None:
        """It is about to serve, with the map that it has."""
        half = self._halves[server.name]
        parent, sequence = half.lineage, server.core.store.sequence
        self._world.count("promotions")
        now = self._world.clock.now()
        is_told_to = server.promoted_at == now or (half.heard is not None and half.heard[0] == now)
        if not server.core.has_copy and not is_told_to:
            self._world.violate("C3", f"{server.name} serves because it is asked to, and has no whole copy")
        if parent is None and server.map:
            self._world.violate("C1", f"{server.name} begins to serve with {server.map}, which nobody had")
        if sequence < half.holds:
            self._world.violate("C3", f"{server.name} serves from {sequence} on, and held {half.holds}")
        if parent is not None:
            self._check_copy(server, parent)
        if half.heard is not None and server.promoted_at != self._world.clock.now():
            at, peer = half.heard
            ours = server.core.told().copy
            waits = peer.state in (star_wire.PRIMARY_WAITING, star_wire.BACKUP_WAITING)
            if waits and at == self._world.clock.now() and peer.told.copy > ours:
                self._world.violate("C3", f"{server.name} serves with {ours}, and the other waits with more: {peer}")
        branch = History(parent, sequence)
        half.lineage = self._branches[server.name, server.core.epoch] = branch
        half.republished.clear()
        self.histories.setdefault(server.name, []).append(branch)
        if not server.options.durable:
            half.holds = 0

    def copied(self, server: ClonePairNode, era: Era) -> None:
        """It has a whole copy of the other's map."""
        half = self._halves[server.name]
        branch = self._copied_from(server, era)
        if branch is None:
            self._world.violate("C1", f"{server.name} has {server.map}, which {server.other.name} never had")
            return
        self._world.count("copies")
        if branch is not half.lineage:
            half.holds = 0
        half.lineage, half.known_from = branch, era.sequence
        half.held.clear()

    def _copied_from(self, server: ClonePairNode, era: Era) -> History | None:
        """Whose map it brings: that of the other half's last time as active, or of one before. The state frame that
        told the epoch may be older than the copy."""
        assert era.store is not None
        pairs = [era.store.get(key) for key in era.store._slots]
        copy = {pair[0].decode(): pair[4] for pair in pairs if pair is not None}
        branches = reversed(self.histories.get(server.other.name, []))
        return next((branch for branch in branches if branch.map(era.sequence) == copy), None)

    def in_one_order(self, server: str, before: int, after: int) -> bool:
        # What an active made public and its successor had not seen is taken back, and what was before it is told again.
        branch = self._history(server)
        return branch.has(before) and branch.has(after)

    def committed(self, server: CloneServerNode, change: Change) -> None:
        self._safe.setdefault(server.name, {})[change.sequence] = change
        branches = [self._halves[server.name].lineage]
        if branches[0] not in self.histories.get(server.name, []):
            branches = []  # it follows: the active has made it public
        if not change.is_followed and server.name in self._disks:
            branches.append(self._disks[server.name][0])  # what was begun in one epoch may be written in the next
        for branch in branches:
            if branch is not None and change.sequence > branch.fork and change.sequence not in branch.by_sequence:
                self._record_change(server, branch, change)

    def committed_era(self, server: ClonePairNode, era: Era) -> None:
        """From now on its disk has another map, or goes on with the one it has."""
        half = self._halves[server.name]
        if era.store is None:
            branch = self._branches[server.name, era.epoch]
        else:
            copied = self._copied_from(server, era)
            if copied is None:
                self._world.violate("C1", f"{server.name} writes down what {server.other.name} never had: {era}")
                return
            branch = copied
            self._disk_holds.pop(server.name, None)
        self._disks[server.name] = branch, era.sequence if era.store is not None else half.known_from

    def happened(self, node: Node, what: str) -> None:
        if what == "kill" and isinstance(node, ClonePairNode):
            self._halves[node.name] = _Half()

    # What passes by.

    def read(self, link: SimLink, frames: Frames) -> None:
        node = link.node
        if not isinstance(node, ClonePairNode):
            super().read(link, frames)
            return
        half, now = self._halves[node.name], self._world.clock.now()
        half.reads += 1
        if link.port == PEER:
            peer = star_wire.parse(frames)
            if peer is not None:
                if half.heard is None or peer.state != star_wire.PASSIVE or not self._is_recent(half.heard[0]):
                    half.confirmed = None  # it may count as dead in the meantime
                half.heard = now, peer
        elif link.port == SNAPSHOT:
            confirmed = wire.parse_zphave(frames[1:])
            if confirmed is not None and half.heard is not None and self._is_recent(half.heard[0]):
                peer = half.heard[1]
                if peer.state == star_wire.PASSIVE and confirmed[1] == peer.told.life:
                    self._confirms(half, confirmed[0], confirmed[1], node.core.store.sequence)
        elif link.port == COLLECTOR:
            half.collected.add(frames[2])
            self._world.count("late", int(frames[2] in half.seen))
            if not node.pair.star.serving:
                half.held[frames[2]] = half.reads
        elif link.port == UPDATES and frames[0] != wire.HUGZ:
            half.seen[frames[2]] = int.from_bytes(frames[1], "big")
            half.updated[frames[0]] = half.reads, half.seen[frames[2]]

    def _confirms(self, half: _Half, sequence: int, life: bytes, published: int) -> None:
        """It counts where it says more than before, or all there is; from one that fell behind only the latter."""
        now, before = self._world.clock.now(), half.confirmed
        is_known = before is not None and before[1] == life and now - before[0] < self._world.lease
        if sequence >= published or (is_known and before is not None and sequence > before[2]):
            half.confirmed = now, life, sequence

    def _is_recent(self, heard_at: float) -> bool:
        return self._world.clock.now() - heard_at < self._world.star_lease - 1e-6

    def asked(self, link: SimLink, frames: Frames) -> None:
        node = link.node
        if isinstance(node, ClonePairNode):
            if link.port == STATE:
                self._says(node, frames)
            elif link.port == SNAPSHOT and frames[1] == wire.ZPACK:
                self._answers(node, frames)
            elif link.port == PUBLISHER:
                self._publishes(node, frames)
            return
        super().asked(link, frames)

    def _says(self, node: ClonePairNode, frames: Frames) -> None:
        half, peer = self._halves[node.name], star_wire.parse(frames)
        assert peer is not None
        if peer.state != half.state:
            half.state, half.changed_at = peer.state, self._world.clock.now()

    def _answers(self, node: ClonePairNode, frames: Frames) -> None:
        """A ZPACK: what it says is held by those who are live."""
        ack = wire.parse_zpack(frames[1:])
        if ack is None or ack.code != wire.OK:
            return
        half = self._halves[node.name]
        if half.lineage is None:
            self._world.violate("C3", f"{node.name} acknowledges {ack.sequence}, and has never served")
            return
        is_new = ack.sequence not in half.answered
        half.answered.add(ack.sequence)
        half.holds = max(half.holds, ack.sequence)
        if node.options.durable:
            self._disk_holds[node.name] = max(self._disk_holds.get(node.name, 0), ack.sequence)
        other = node.other
        theirs = self._halves[other.name]
        if not other.alive or theirs.lineage is not half.lineage:
            return
        has = other.core.store.sequence
        if has >= ack.sequence:
            theirs.holds = max(theirs.holds, ack.sequence)
            self._world.count("held")
        elif is_new and self._follows(node, other):
            self._world.violate("C3", f"{node.name} acknowledges {ack.sequence}, and {other.name} has only {has}")

    def _follows(self, node: ClonePairNode, other: ClonePairNode) -> bool:
        """Whether the active `node` has reason to count on the passive `other`."""
        half, now = self._halves[node.name], self._world.clock.now()
        if half.confirmed is None or half.heard is None or other.resumed_at > half.confirmed[0]:
            return False
        at, peer = half.heard
        return (
            half.confirmed[1] == other.core._life == peer.told.life
            and 0 < now - half.confirmed[0] < self._world.lease - 1e-6
            and peer.state == star_wire.PASSIVE
            and self._is_recent(at)
            and not node.pair.star._closing
        )

    def _publishes(self, node: ClonePairNode, frames: Frames) -> None:
        world, half = self._world, self._halves[node.name]
        now = world.clock.now()
        if half.state != star_wire.ACTIVE and half.changed_at < now:
            world.violate("C1", f"{node.name} publishes {frames}, and says that it is {half.state}")
        message = wire.parse_key_value(frames)
        assert message is not None
        if message.key == wire.HUGZ or half.lineage is None:
            return
        self._published_at[node.name] = now
        branch = half.lineage
        self._check_late(node, half, message)
        self._check_held(node, half, message)
        if node.options.durable:
            change = self._safe.get(node.name, {}).get(message.sequence)
            if change is None or (change.key, change.body) != (message.key, message.body):
                world.violate("C3", f"{node.name} publishes {frames}, which is not in its store")
            elif message.sequence not in branch.by_sequence:
                self._record_change(node, branch, change)  # the active before it had published it
            return
        if message.sequence <= branch.last:
            world.violate("C2", f"{node.name} publishes {message.sequence} after {branch.last}")
        ttl = wire.ttl_of(wire.parse_properties(message.properties))
        self._record(node, branch, message.key, message.sequence, message.uuid, message.body, ttl, now)

    def _check_late(self, node: ClonePairNode, half: _Half, message: wire.KeyValue) -> None:
        """It was sent this one itself, and knew that the active before it has published it. What it had followed and
        not written down comes again, as in :meth:`_check_held`."""
        seen = half.seen.get(message.uuid, message.sequence)
        if message.uuid in half.collected and seen != message.sequence:
            self._world.violate("C1", f"{node.name} publishes again what was published as {seen}: {message}")

    def _check_held(self, node: ClonePairNode, half: _Half, message: wire.KeyValue) -> None:
        """A set that it kept while it was passive, and publishes now. What it had followed and not written down comes
        again too, under the sequence of the active before it: with that, it overwrites nothing."""
        held = half.held.get(message.uuid)
        if held is None:
            return
        self._world.count("held.published")
        if message.uuid in half.republished:
            self._world.violate("C1", f"{node.name} publishes twice what it was sent once: {message}")
        half.republished.add(message.uuid)
        made = None if half.lineage is None else half.lineage.made(message.uuid)
        if made is not None and half.known_from < made != message.sequence:
            self._world.violate("C1", f"{node.name} publishes what it has already: {message}")
        read, sequence = half.updated.get(message.key, (-1, -1))
        if read > held and message.sequence > sequence:
            self._world.violate(
                "C1", f"{node.name} publishes what is older than what it has read of the key: {message}"
            )

    def made_before(self, server: CloneServerNode, branch: History, uuid: bytes) -> bool:
        sequence = branch.made(uuid)
        return sequence is not None and sequence > self._halves[server.name].known_from

    # Now and then, and at the end.

    def measure(self) -> None:
        super().measure()
        for server in self._world.halves:
            lineage = self._halves[server.name].lineage
            if not server.alive:
                continue
            if lineage is not None and server.core.has_copy:
                self._check_copy(server, lineage)
            statistics, most = server.core.statistics(), server.options.pending_max
            if max(statistics.held, statistics.unconfirmed) > most:
                self._world.violate("B1", f"{server.name} holds more than {most}: {statistics}")

    def _check_copy(self, server: ClonePairNode, lineage: History) -> None:
        """It has what its lineage had at one moment."""
        should = lineage.map(server.core.store.sequence)
        if server.map != should:
            at = server.core.store.sequence
            self._world.violate("C1", f"{server.name} has {server.map} at {at}, and the map was {should}")

    def settled(self) -> None:
        states = sorted(self._halves[server.name].state for server in self._world.halves)
        if states != [star_wire.ACTIVE, star_wire.PASSIVE]:
            self._world.violate("L1", f"healed, and the halves say {states}")
            return
        super().settled()
        active, passive = self.active, self.active.other
        if self._recently(active.name):
            return
        if not passive.core.has_copy or passive.map != active.map:
            self._world.violate("L1", f"{passive.name} has {passive.map}, and the active {active.map}")

    def serving(self) -> Sequence[CloneServerNode]:
        return [self.active]

    @property
    def active(self) -> ClonePairNode:
        """The half that says it is active."""
        return next(
            server
            for server in self._world.halves
            if server.alive and self._halves[server.name].state == star_wire.ACTIVE
        )
