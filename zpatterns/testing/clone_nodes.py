"""The processes of the Clone world: servers with and without a store, clients that set and watch, a hostile peer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zpatterns.clone import wire
from zpatterns.clone.client_core import ClientCore
from zpatterns.clone.client_state import ClientOptions, Endpoints
from zpatterns.clone.follower_core import Update, pair_of
from zpatterns.clone.server_core import CloneServerCore
from zpatterns.clone.server_state import COLLECTOR, PUBLISHER, SNAPSHOT, Change, Era, ServerOptions
from zpatterns.clone.store import Pair
from zpatterns.core import Changed, Command, Core, Deliver, Fail, Frames, Save, SocketKind
from zpatterns.errors import QueueFull
from zpatterns.sockets import SocketSettings
from zpatterns.testing.driving import SimDriver, SimLink
from zpatterns.testing.hostile import HostileNode
from zpatterns.testing.world import Node

if TYPE_CHECKING:
    from zpatterns.testing.clone import CloneWorld

KEYS = ("/a/1", "/a/2", "/a/x/1", "/a/x/2", "/b/1", "/b/2", "plain")
SUBTREES = ("", "", "/a/", "/a/x/", "/b/")

WAYS = ("set", "set", "set", "delete", "ttl", "compare", "post")
WAYS_ROUND = ("post", "post", "set")
WAYS_IN_FLIGHT = ("set", "delete", "delete", "post")
"""A deleted key does not tell who has deleted it, so a server must remember whose set that was."""


class SetCall:
    """One set of one client, from its beginning to its outcome."""

    __slots__ = ("client", "deadline", "if_sequence", "key", "must_succeed", "number", "outcome", "value")

    def __init__(
        self, number: int, client: CloneClientNode, key: str, value: bytes, if_sequence: int | None, deadline: float
    ) -> None:
        self.number = number
        self.client = client
        self.key = key
        self.value = value
        self.if_sequence = if_sequence
        self.deadline = deadline
        self.outcome: str | None = None
        self.must_succeed = False

    def __str__(self) -> str:
        return f"set {self.number} of {self.client.name}: {self.key} = {self.value!r}"


class CloneServerNode(Node):
    """The process of one server. With a store, what was committed outlives it."""

    def __init__(self, world: CloneWorld, name: str, options: ServerOptions, settings: SocketSettings) -> None:
        super().__init__(world, name)
        self.world: CloneWorld = world
        self.endpoints = Endpoints(f"sim://{name}:5556", f"sim://{name}:5557", f"sim://{name}:5558")
        self.options = options
        self._settings = settings

    def boot(self) -> None:
        # As the front end does, but that a life may be shorter than a second.
        sequence = int(self.world.clock.now() * 2**20)
        if self.options.durable:
            sequence = self.disk.setdefault("sequence", sequence)
        self._make_core(sequence)
        self.world.observer.begins(self, sequence)
        for port, kind, endpoint in zip(
            (SNAPSHOT, PUBLISHER, COLLECTOR),
            (SocketKind.ROUTER, SocketKind.PUB, SocketKind.SUB),
            self.endpoints,
            strict=True,
        ):
            self.driver.bind(port, kind, endpoint)
        self._restore()
        self.driver.call(self.core.start, self.driver.now())

    def _make_core(self, sequence: int) -> None:
        """The core and its driver."""
        self.core = CloneServerCore(sequence, self.chance, self.options)
        self._drive(self.core)

    def _drive(self, core: Core) -> None:
        self.driver = SimDriver(self, core, settings=self._settings, rng=self.chance, on_command=self._on_command)

    def _restore(self) -> None:
        self.core.restore(self._kept_pairs(), self.disk.get("answers", []))

    def _kept_pairs(self) -> list[Pair]:
        """As the front end reads them from the file."""
        kept: dict[bytes, Pair] = self.disk.get("pairs", {})
        return sorted(kept.values(), key=lambda pair: pair[1])

    @property
    def links(self) -> list[SimLink]:
        return [link for link in self.driver.links.values() if isinstance(link, SimLink)]

    @property
    def map(self) -> dict[str, bytes]:
        """What it has."""
        store = self.core.store
        pairs = [store.get(key) for key in store._slots]
        return {pair[0].decode(): pair[4] for pair in pairs if pair is not None}

    def _on_command(self, command: Command) -> None:
        assert isinstance(command, Save), f"a server core asked for {command!r}"
        delay = self.world.lease * self.chance.pick((0.0, 0.01, 0.2)) * self.chance.random()
        self.later(self.driver.now() + delay, self._write, command.changes)

    def _write(self, changes: list[Change | Era]) -> None:
        if "full-disk" in self.world.active_behaviours and self.world.phase == "faults" and self.chance.happens(0.2):
            self.driver.call(self.core.save_failed, "the disk is full", self.driver.now())
            return
        for change in changes:
            self.disk["sequence"] = change.sequence
            if isinstance(change, Era):
                self._write_era(change)
            else:
                self._write_change(change)
        # A kill may come between the commit and the news of it.
        self.later(self.driver.now() + 0.001 * self.chance.random(), self._saved)

    def _write_change(self, change: Change) -> None:
        pairs = self.disk.setdefault("pairs", {})
        self.world.observer.committed(self, change)
        if change.body:
            pairs[change.key] = pair_of(Update(*change.update))
        else:
            pairs.pop(change.key, None)
        if change.keeps_answer:
            self.disk.setdefault("answers", []).append((change.uuid, change.sequence))

    def _write_era(self, era: Era) -> None:
        """Only halves of pairs have them."""
        raise NotImplementedError

    def _saved(self) -> None:
        self.driver.call(self.core.saved, self.driver.now())


class CloneClientNode(Node):
    """A process with one client, which sets and deletes of its own accord while there are faults, and watches."""

    def __init__(
        self, world: CloneWorld, name: str, servers: list[Endpoints], options: ClientOptions, settings: SocketSettings
    ) -> None:
        super().__init__(world, name)
        self.world: CloneWorld = world
        self.options = options
        self._servers = servers
        self._settings = settings
        self._pace = world.lease * self.chance.pick((0.02, 0.1, 0.5))
        self._keys = [key for key in KEYS if key.startswith(options.subtree)]
        self.open: dict[int, SetCall] = {}
        self.shadow: dict[str, bytes] = {}
        """What the changes that it was told of add up to."""

    def boot(self) -> None:
        self.core = ClientCore(self._servers, self.options, self.chance)
        self.core.replica.watched = True
        self.open = {}
        self.shadow = {}
        self.world.observer.client_begins(self)
        self.driver = SimDriver(self, self.core, settings=self._settings, rng=self.chance, on_command=self._on_command)
        self.driver.call(self.core.start, self.driver.now())
        self._later_sets()

    def killed(self) -> None:
        self.open = {}

    @property
    def links(self) -> list[SimLink]:
        return [link for link in self.driver.links.values() if isinstance(link, SimLink)]

    @property
    def server(self) -> str:
        """The node that it follows."""
        return self.core._endpoint.split("/")[2].partition(":")[0]

    @property
    def map(self) -> dict[str, bytes]:
        return {key: value for key, (value, _) in self.core.replica.entries.items()}

    def set(
        self, key: str, value: bytes | None = None, *, ttl: int = 0, if_sequence: int | None = None, timeout: float
    ) -> SetCall:
        """Begin a set, as the front ends do; `value`: a token of its own where none is given."""
        world, driver = self.world, self.driver
        number = len(world.sets) + 1
        body = b"v:%d" % number if value is None else value
        call = SetCall(number, self, key, body, if_sequence, world.clock.now() + timeout)
        world.sets.append(call)
        world.count("sets")
        world.note(self.name, "set", number, key, body)
        self.open[number] = call
        try:
            driver.call(
                self.core.start_set,
                number,
                key.encode(),
                body,
                driver.now(),
                ttl=ttl,
                if_sequence=if_sequence,
                timeout=timeout,
            )
        except QueueFull:
            self._ended(number, "QueueFull")
        return call

    def _later_sets(self) -> None:
        pause = self._pace * 2 * self.chance.random()
        self.later(self.world.clock.now() + pause, self._make_sets)

    def _make_sets(self) -> None:
        world, chance = self.world, self.chance
        if world.phase != "faults" or world.sets_left <= 0:
            return
        if "close" in world.active_behaviours and chance.happens(0.03):
            self.driver.call(self.core.close, self.driver.now())
            self.driver.close()
            self.boot()
            return
        count = 5 + chance.below(20) if "burst" in world.active_behaviours and chance.happens(0.1) else 1
        self.make_sets(count, world.ways)
        self._later_sets()

    def make_sets(self, count: int, ways: Sequence[str]) -> None:
        """Set so many keys now, in any of these `ways`."""
        for _ in range(count):
            self.world.sets_left -= 1
            self._make_set(self.chance.pick(ways))

    def _make_set(self, way: str) -> None:
        world, chance = self.world, self.chance
        key = chance.pick(self._keys)
        timeout = self.options.sets.timeout * (0.1 + chance.random())
        ttl = 1 + chance.below(2)
        if way == "post":
            world.count("posts")
            body = chance.pick((b"", b"p:%d" % world.number()))
            self.driver.call(self.core.post, key.encode(), body, chance.pick((0, ttl)))
        elif way == "compare":
            entry = self.core.replica.entries.get(key)
            known = 0 if entry is None else entry[1]
            self.set(key, if_sequence=chance.pick((0, known, known)), timeout=timeout)
        else:
            value = b"" if way == "delete" else None
            call = self.set(key, value, ttl=ttl if way == "ttl" else 0, timeout=timeout)
            if "cancel" in world.active_behaviours and chance.happens(0.2):
                self.later(world.clock.now() + timeout * chance.random(), self._cancel, call)

    def _cancel(self, call: SetCall) -> None:
        if self.open.pop(call.number, None) is not None:
            call.outcome = "cancelled"
            self.driver.call(self.core.cancel_call, call.number, self.driver.now())

    def _on_command(self, command: Command) -> None:
        if isinstance(command, Changed):
            self.world.observer.changed(self, command.changes)
        elif isinstance(command, Deliver):
            call = self._ended(command.call, "ok")
            self.world.observer.acknowledged(call, int.from_bytes(command.frames[0], "big"))
        elif isinstance(command, Fail):
            self._ended(command.call, type(command.error).__name__)
        else:
            raise AssertionError(f"a client core asked for {command!r}")

    def _ended(self, number: int, outcome: str) -> SetCall:
        world = self.world
        call = world.sets[number - 1]
        world.note(self.name, "outcome", number, outcome)
        world.count(f"outcome.{outcome}")
        if self.open.pop(number, None) is None:
            world.violate("R2", f"{call} ends with {outcome}, after it ended with {call.outcome}")
        call.outcome = outcome
        if world.clock.now() > max(call.deadline, self.resumed_at + 0.1) + 1e-6:
            world.violate("R2", f"{call} ends with {outcome}, but its deadline was {call.deadline:.6f}")
        return call


class HostileCloneNode(HostileNode):
    """Asks for snapshots over and over without reading them, and sends what is none of 12/CHP to the snapshot port."""

    def message(self) -> Frames:
        chance = self.chance
        way = chance.below(8)
        if way < 3:
            return [wire.ICANHAZ, chance.pick((b"", b"/a/", b"/a", b"\xff", b"//"))]
        if way == 3:
            return [wire.ZPLAST, chance.pick((b"", b"/a/", b"a", b"\0"))]
        if way == 4:
            return wire.zpset(chance.bytes(16), b"/h/%d" % chance.below(5), b"h" * chance.below(3))
        if way == 5:
            return [wire.ZPSET, chance.bytes(chance.pick((0, 3, 16))), chance.bytes(3), b"if-seq=x\n", b"v"]
        if way == 6:
            return [wire.ZPHAVE, chance.bytes(8), chance.bytes(16)]
        return [chance.bytes(chance.below(9)) for _ in range(1 + chance.below(6))]
