"""Judges a Clone world from outside: by what servers publish and commit, and by what clients are told and have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zpatterns.clone import wire
from zpatterns.clone.replica_core import Change
from zpatterns.clone.server_state import Change as ServerChange
from zpatterns.core import Frames, SocketKind
from zpatterns.testing.clone_history import Entry, History
from zpatterns.testing.clone_nodes import CloneClientNode, CloneServerNode, SetCall
from zpatterns.testing.driving import SimLink
from zpatterns.testing.world import Observer

if TYPE_CHECKING:
    from zpatterns.testing.clone import CloneWorld


class CloneObserver(Observer):
    """Checks C1, C2, C3 (the restart of a server with a store), R2, B1 and L1."""

    def __init__(self, world: CloneWorld) -> None:
        self._world = world
        self.histories: dict[str, list[History]] = {}
        """By server: of a pair's half one for each time that it served."""
        self._asked: dict[bytes, tuple[str, bytes | None]] = {}  # by uuid: what a client wants set
        self._answered_asks: set[bytes] = set()  # the uuids of those that get an answer
        self._told: dict[str, tuple[str, int]] = {}  # by client: the server and sequence of its last change
        self._published_at: dict[str, float] = {}
        self._read_from: dict[str, str] = {}  # by client: the server that it followed when it last read

    # What nodes tell.

    def begins(self, server: CloneServerNode, sequence: int) -> None:
        """A life, without a past if it has no store."""
        if not server.options.durable:
            history = self._history(server.name)
            history.bases.append(sequence)
            history.uuids.clear()

    def client_begins(self, client: CloneClientNode) -> None:
        self._told.pop(client.name, None)
        self._read_from.pop(client.name, None)

    def committed(self, server: CloneServerNode, change: ServerChange) -> None:
        """A server's store has it for good."""
        self._record_change(server, self._history(server.name), change)

    def _record_change(self, server: CloneServerNode, history: History, change: ServerChange) -> None:
        since = change.deadline - change.ttl if change.ttl else self._world.clock.now()
        self._record(server, history, change.key, change.sequence, change.uuid, change.body, change.ttl, since)

    def changed(self, client: CloneClientNode, changes: Sequence[Change]) -> None:
        """C2: a client's watchers are told. What they are told of may be what made it turn to another server."""
        world, shadow, server = self._world, client.shadow, self._read_from.get(client.name, client.server)
        histories = self.histories.get(server, [History()])
        before = self._told.get(client.name, ("", 0))
        last = before[1] if before[0] == server else 0
        for change in changes:
            key, old, new, sequence = change
            world.note(client.name, "change", key, new, sequence)
            world.count("changes")
            if shadow.get(key) != old:
                world.violate("C2", f"{client.name} is told {change}, and was told before of {shadow.get(key)!r}")
            if (sequence < last or (sequence == last and new is not None)) and self.in_one_order(
                server, last, sequence
            ):
                world.violate("C2", f"{client.name} is told {change} after {last} of {server}")
            values = [history.value(key, sequence) for history in histories]
            if new not in values:
                world.violate("C1", f"{client.name} is told {change}, and {server} has had {values!r} there")
            last = sequence
            if new is None:
                shadow.pop(key, None)
            else:
                shadow[key] = new
        self._told[client.name] = (server, last)

    def in_one_order(self, server: str, before: int, after: int) -> bool:
        """Whether changes under these two sequences are told in their order."""
        return True

    def acknowledged(self, call: SetCall, sequence: int) -> None:
        """A set has returned: it is public, or safe where there is a store, as it was asked for."""
        wanted = (call.key, call.value or None)
        every = [history for histories in self.histories.values() for history in histories]
        found = [history for history in every if history.by_sequence.get(sequence) == wanted]
        if not found:
            self._world.violate("C3", f"{call} returned {sequence}, under which nobody has it")
            return
        if call.if_sequence is not None:
            earlier = found[0].latest(call.key, sequence - 1)
            had = 0 if earlier is None or earlier.value is None else earlier.sequence
            if had != call.if_sequence:
                self._world.violate("C2", f"{call} compared {call.if_sequence}, and the key had {had}")

    # What passes by.

    def read(self, link: SimLink, frames: Frames) -> None:
        if isinstance(link.node, CloneClientNode):
            self._read_from[link.node.name] = link.node.server

    def asked(self, link: SimLink, frames: Frames) -> None:
        node = link.node
        if isinstance(node, CloneClientNode):
            if frames[0] == wire.ZPSET:
                self._asked[frames[1]] = (frames[2].decode(), frames[4] or None)
                self._answered_asks.add(frames[1])
            elif link.sim.kind is SocketKind.PUB:
                self._asked[frames[2]] = (frames[0].decode(), frames[4] or None)
        elif isinstance(node, CloneServerNode) and link.sim.kind is SocketKind.PUB:
            message = wire.parse_key_value(frames)
            assert message is not None
            if message.key == wire.HUGZ:
                return
            self._published_at[node.name] = self._world.clock.now()
            history = self._history(node.name)
            if node.options.durable:
                if history.by_sequence.get(message.sequence) != (message.key.decode(), message.body or None):
                    self._world.violate("C3", f"{node.name} publishes {frames}, which is not in its store")
                return
            if message.sequence <= history.last:
                self._world.violate("C2", f"{node.name} publishes {message.sequence} after {history.last}")
            ttl = wire.ttl_of(wire.parse_properties(message.properties))
            now = self._world.clock.now()
            self._record(node, history, message.key, message.sequence, message.uuid, message.body, ttl, now)

    def _record(
        self,
        server: CloneServerNode,
        history: History,
        name: bytes,
        sequence: int,
        uuid: bytes,
        body: bytes,
        ttl: int,
        since: float,
    ) -> None:
        """A server has made something public, or safe; it lives from `since` on."""
        world, key, value = self._world, name.decode(), body or None
        world.count("published")
        if not key.startswith("/h/"):
            asked = self._asked.get(uuid)
            if asked == (key, value):
                if uuid in self._answered_asks and self.made_before(server, history, uuid):
                    world.violate("C2", f"{server.name} makes the set of {key} = {value!r} again, under {sequence}")
            elif value is not None:
                world.violate("R4", f"{server.name} publishes {key} = {value!r}, which nobody asked for")
            else:
                self._expired(server, history, key, sequence)
        history.add(key, Entry(sequence, value, ttl, since), uuid)

    def made_before(self, server: CloneServerNode, history: History, uuid: bytes) -> bool:
        """Whether that server must know that it, or the one whose map it has, has made this set."""
        return history.made(uuid) is not None

    def _expired(self, server: CloneServerNode, history: History, key: str, sequence: int) -> None:
        """A key is deleted, and nobody asked for it."""
        entry = history.latest(key, sequence - 1)
        if entry is None or entry.value is None or not entry.ttl:
            self._world.violate("C1", f"{server.name} lets {key} expire, which has no ttl")
        elif self._world.clock.now() < entry.since + entry.ttl - 1e-6:
            self._world.violate("C1", f"{server.name} lets {key} expire, which has until {entry.since + entry.ttl}")
        self._world.count("expired")

    # Now and then, and at the end.

    def measure(self) -> None:
        """B1 and R2, and C2 in the whole."""
        world = self._world
        for client in world.alive_clients:
            if client.map != client.shadow:
                world.violate("C2", f"{client.name} has {client.map}, and its watchers were told {client.shadow}")
            for call in client.open.values():
                late = world.clock.now() > max(call.deadline, client.resumed_at + 0.1) + 1e-6
                if late and client.paused_at is None:
                    world.violate("R2", f"{call} is still open, its deadline was {call.deadline:.6f}")
            options, kept, sets = client.options, client.core.replica.kept, client.core.sets
            if kept > options.kept_max:
                world.violate("B1", f"{client.name} keeps {kept} updates")
            if len(sets) > options.sets.sets_max or sets.in_flight > options.sets.in_flight_max:
                world.violate("B1", f"{client.name} holds {len(sets)} sets")
        links = [link for client in world.alive_clients for link in client.links]
        links += [link for server in world.servers if server.alive for link in server.links]
        for link in links:
            if link.blocked and any(count > world.settings.outbox_max for count, _ in link.boxes):
                world.violate("B1", f"the outbox of {link.sim.name} holds {link.boxes}")

    def settled(self) -> None:
        """L1: every client follows a server, and has what that has."""
        self.measure()
        self._compare()

    def finished(self) -> None:
        self.measure()
        self._compare()
        world = self._world
        for client in world.clients:
            statistics = client.core.statistics()
            for what in ("gaps", "failovers", "snapshots", "updates"):
                world.count(what, getattr(statistics, what))
        for call in world.sets:
            if call.must_succeed and call.outcome != "ok":
                world.violate("L1", f"{call}, made when all was well, ended with {call.outcome}")
        for server in self.serving():
            history = self._history(server.name)
            for key in server.map:
                entry = history.latest(key, history.last)
                if entry is not None and entry.ttl:
                    world.violate("C1", f"{key} of {server.name} should have expired: {entry}")

    def serving(self) -> Sequence[CloneServerNode]:
        """The servers that clients may follow."""
        return self._world.servers

    def _compare(self) -> None:
        world = self._world
        for server in self.serving():
            history = self._history(server.name)
            should = history.map(history.last)
            if server.map != should and history.bases[-1] <= history.last:
                world.violate("C3", f"{server.name} has {server.map}, and made public {should}")
        for client in world.alive_clients:
            if client.core.public_state.name != "CONNECTED":
                world.violate("L1", f"{client.name} is {client.core.state.value} still")
                continue
            if self._recently(client.server):
                continue  # what expires is on its way
            server = next(server for server in world.servers if server.name == client.server)
            expected = {key: value for key, value in server.map.items() if key.startswith(client.options.subtree)}
            if client.map != expected:
                world.violate("C1", f"{client.name} has {client.map}, and {server.name} {expected}")

    def _recently(self, server: str) -> bool:
        """Whether something may be on its way, such as what has just expired."""
        world = self._world
        return world.phase != "quiet" and self._published_at.get(server, 0.0) > world.clock.now() - 2 * world.interval

    def _history(self, server: str) -> History:
        return self.histories.setdefault(server, [History()])[-1]
