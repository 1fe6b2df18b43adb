"""Over 100,000 random, truncated and mutated messages from a fixed seed: no exception, and the invariants kept.

What the cores send is held against 12/CHP and our extension of it, and no set ends twice. Then the same over real
sockets, to a server that still serves.
"""

from __future__ import annotations

from itertools import count

import pytest
import zmq

from tests.clone.following import A, B, hugz, kthxbai, kvpub, kvsync, seq
from tests.clone.server_harness import FIRST, kvset, zpset
from tests.draws import Draws, WordMutator
from tests.mdp.live import Peers
from tests.waiting import DEADLINE
from zpatterns.clone import Clone, CloneServer, wire
from zpatterns.clone.client_core import ClientCore
from zpatterns.clone.client_state import ClientOptions
from zpatterns.clone.server_core import CloneServerCore
from zpatterns.clone.server_state import ServerOptions
from zpatterns.clone.sets_core import SetOptions
from zpatterns.core import Changed, Close, Deliver, Fail, Frames, Open, PortId, Save, SendFailure, Subscribe
from zpatterns.errors import QueueFull
from zpatterns.testing import BackgroundReactor
from zpatterns.timing import Liveness

SEED = 20_111_012
TURNS = 10_000
CHECK_EVERY = 5
KEYS = [b"/a/1", b"/a/x/2", b"/b/1", b"plain", b"gr\xc3\xb6\xc3\x9fe"]
WORDS = [
    *(b"", b"ICANHAZ?", b"KTHXBAI", b"HUGZ", b"ZPSET", b"ZPACK", b"ZPLAST", b"ZPHAVE", b"200", b"409", b"503"),
    *(b"/", b"//", b"/a/", b"/a/x/", b"\0", b"\xff\xfe", bytes(8), b"\xff" * 8, bytes(16), b"x" * 300),
    *(b"ttl=1\n", b"ttl=-1\n", b"ttl=99999999999999999999\n", b"if-seq=\n", b"prev=\n", b"prev=1,2,3\n", b"zp=1\n"),
    *(b"zp=1\ninstance=\nseq=1\n", b"zp=1\ninstance=one\nseq=99999999999999999999\n", b"=\n\n=", b"no newline"),
]


class Mutator(WordMutator):
    def __init__(self, seed: int) -> None:
        super().__init__(seed, WORDS, noise_max=7)

    def either(self, frames: Frames) -> Frames:
        """`frames`, or something like it, or nothing like it."""
        draw = self.rng.random()
        return frames if draw < 0.6 else self.damaged(frames) if draw < 0.85 else self.noise()


# The server.


def request(mutator: Mutator, number: int) -> Frames:
    """A message to the snapshot port, with a routing id before it but for once in a while."""
    rng = mutator.rng
    key, body = rng.choice(KEYS), b"v" * rng.randrange(3)
    frames: Frames = rng.choice(
        (
            [b"ICANHAZ?", rng.choice((b"", b"/a/", b"/a", b"/none/"))],
            zpset(key, body, number, rng.choice((b"", b"ttl=1\n", b"if-seq=%d\n" % (FIRST + number))))[1:],
            [b"ZPLAST", rng.choice((b"", b"/a/", b"/b/"))],
        )
    )
    if rng.random() < 0.02:
        return []
    return [b"peer-%d" % rng.randrange(5), *mutator.either(frames)]


@pytest.mark.parametrize("durable", [False, True])
def test_server_core(durable):
    mutator = Mutator(SEED + durable)
    rng = mutator.rng
    options = ServerOptions(
        Liveness(1.0, 3), keys_max=4, value_max=200, depth_max=2, joins_max=4, answers_max=50, durable=durable
    )
    core = CloneServerCore(FIRST, rng, options)
    core.start(0.0)
    now, published, answered = 0.0, FIRST, 0
    for turn in range(TURNS):
        batch = [request(mutator, turn * 4 + at) for at in range(rng.randrange(4))]
        core.receive_many(batch, now, "snapshot")
        sets = [mutator.either(kvset(rng.choice(KEYS), b"v" * rng.randrange(3), turn)) for _ in range(rng.randrange(4))]
        core.receive_many(sets, now, "collector")
        for command in core.commands():
            if isinstance(command, Save):
                core.save_failed("full", now) if rng.random() < 0.1 else core.saved(now)
        for frames in core.messages_to_send("publisher"):
            assert len(frames) == 5 and len(frames[1]) == 8
            if frames[0] == b"HUGZ":
                continue
            assert wire.is_key(frames[0]) and len(frames[2]) == 16
            assert int.from_bytes(frames[1], "big") == published + 1, "one after another"
            published += 1
            assert b"prev=" in frames[3]
        for frames in core.messages_to_send("snapshot"):
            assert frames[0].startswith(b"peer-")
            answered += 1
            # Six are a pair, or the end of a snapshot, whatever its key.
            assert len(frames) == 6 or len(frames) == {b"ZPACK": 5, b"ZPLAST": 4}[frames[1]]
            if rng.random() < 0.1:
                core.send_failed("snapshot", frames, rng.choice(list(SendFailure)), now)
        now += rng.random() * rng.choice((0.001, 0.5))
        core.handle_timer(now)
        core.events()
        if turn % CHECK_EVERY == 0:
            core.check_invariants()
    statistics = core.statistics()
    assert published > FIRST + 1000
    assert answered > 1000
    assert statistics.snapshots > 100
    assert statistics.expired > 10
    assert statistics.dropped["invalid"] > 500


# The client.


class Publishing:
    """What a server might say next: mostly in order, and mostly of its own kind."""

    def __init__(self, rng: Draws) -> None:
        self.rng = rng
        self.last = 10
        self.ours = True
        self.uuids: list[bytes] = []

    def update(self) -> Frames:
        rng = self.rng
        before, self.last = self.last, self.last + rng.choice((1, 1, 1, 1, 1, 1, 0, 2))
        uuid = rng.choice(self.uuids) if self.uuids and rng.random() < 0.3 else b""
        prev = f"{before},{before},{before}" if self.ours else ""
        return kvpub(rng.choice(KEYS), self.last, b"v" * rng.randrange(3), prev, uuid)

    def heartbeat(self) -> Frames:
        if self.rng.random() < 0.03:
            self.ours = not self.ours
        return hugz(self.last, self.rng.choice(("one",) * 20 + ("two",))) if self.ours else hugz(sequence=self.last)

    def answer(self) -> Frames:
        rng = self.rng
        uuid = rng.choice(self.uuids) if self.uuids else bytes(16)
        return rng.choice(
            (
                kvsync(rng.choice(KEYS), rng.randrange(self.last), b"v" * rng.randrange(3)),
                kthxbai(self.last, ours=self.ours),
                [b"ZPACK", uuid, rng.choice((b"200", b"200", b"409", b"413", b"503")), seq(self.last)],
                [b"ZPLAST", b"/a/", seq(self.last)],
            )
        )


@pytest.mark.parametrize("subtree", ["", "/a/"])
def test_client_core(subtree):
    mutator = Mutator(SEED + len(subtree))
    rng = mutator.rng
    sets = SetOptions(timeout=3.0, resend_first=0.2, resend_cap=1.0, in_flight_max=4, sets_max=8)
    core = ClientCore((A, B), ClientOptions(Liveness(0.5, 3), subtree, kept_max=20, sets=sets), rng)
    core.replica.watched = True
    core.start(0.0)
    server = Publishing(rng)
    ports: dict[PortId, str] = {}
    numbers, open_sets = count(1), set[int]()
    now, ended, told = 0.0, 0, dict.fromkeys((b"ICANHAZ?", b"ZPSET", b"ZPLAST"), 0)

    def settle() -> None:
        nonlocal ended
        for _ in range(5):
            for command in core.commands():
                if isinstance(command, Open):
                    ports[command.port] = command.kind.value
                elif isinstance(command, Close):
                    del ports[command.port]
                elif isinstance(command, Deliver | Fail):
                    open_sets.remove(command.call)
                    ended += 1
                else:
                    assert isinstance(command, Changed | Subscribe)
            for port in tuple(core.ports_to_send()):
                for frames in core.messages_to_send(port):
                    if ports[port] == "PUB":
                        assert len(frames) == 5 and len(frames[1]) == 8 and len(frames[2]) == 16
                        server.uuids.append(frames[2])
                    else:
                        told[frames[0]] += 1
                        assert len(frames) == {b"ICANHAZ?": 2, b"ZPSET": 5, b"ZPLAST": 2}[frames[0]]
                        if frames[0] == b"ZPSET":
                            server.uuids.append(frames[1])
                    if rng.random() < 0.05:
                        core.send_failed(port, frames, rng.choice(list(SendFailure)), now)
        del server.uuids[:-6]

    for turn in range(TURNS):
        if rng.random() < 0.1:
            number = next(numbers)
            try:
                key = rng.choice([key for key in KEYS if key.startswith(subtree.encode())])
                core.start_set(
                    number, key, b"v", now, if_sequence=rng.choice((None, None, 3)), timeout=rng.choice((None, 0.3))
                )
                open_sets.add(number)
            except QueueFull:
                pass
            settle()
        if open_sets and rng.random() < 0.02:
            number = rng.choice(sorted(open_sets))
            open_sets.remove(number)
            core.cancel_call(number, now)
        settle()
        for port, kind in list(ports.items()):
            if kind == "SUB":
                saying = server.heartbeat if rng.random() < 0.2 else server.update
                batch = [mutator.either(saying()) if rng.random() < 0.3 else saying() for _ in range(rng.randrange(4))]
                core.receive_many(batch, now, port)
            elif kind == "DEALER":
                core.receive_many([mutator.either(server.answer()) for _ in range(rng.randrange(3))], now, port)
        now += rng.random() * rng.choice((0.001, 0.02, 0.3))
        core.handle_timer(now)
        settle()
        core.events()
        if turn % CHECK_EVERY == 0:
            core.check_invariants()
    statistics = core.statistics()
    assert statistics.updates > 300
    assert statistics.snapshots > 100
    assert statistics.gaps > 50
    assert statistics.failovers > 10
    assert ended > 100
    assert all(told[command] for command in told if subtree or command != b"ZPLAST")
    assert statistics.dropped["invalid"] > 300
    core.close(now)
    settle()
    assert not open_sets and not ports


# Over real sockets.


def test_a_server_serves_after_10_000_hostile_messages(caplog):
    mutator = Mutator(SEED)
    with BackgroundReactor("clone-fuzz") as background, Peers() as peers:
        server = background.start(CloneServer("tcp://127.0.0.1:*", heartbeat_interval=0.1, keys_max=100))
        snapshot, _, collector = server.endpoints
        askers = [peers.socket(zmq.DEALER, snapshot) for _ in range(4)]
        setter = peers.socket(zmq.PUB, collector)
        with Clone(server.endpoint, timeout=DEADLINE) as client:
            for number in range(1250):
                for asker in askers:
                    asker.send_multipart(request(mutator, number)[1:] or [b""])
                    setter.send_multipart(mutator.either(kvset(mutator.rng.choice(KEYS), b"v", number)) or [b""])
            # A peer's messages stay in order: this answer says that those before it were taken in.
            for asker in askers:
                asker.send_multipart([b"ZPLAST", b"/mark/"])
                while asker.recv_multipart()[:2] != [b"ZPLAST", b"/mark/"]:
                    pass
            sequence = client.set("/proof", b"yes")
            with Clone(server.endpoint, timeout=DEADLINE) as late:
                assert late["/proof"] == client["/proof"] == b"yes"
                assert late.sequence("/proof") == sequence
        dropped = background.call(server.statistics).dropped
        assert sum(dropped.values()) > 1000
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
