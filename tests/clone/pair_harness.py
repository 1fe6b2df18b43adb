"""Half of a pair of Clone servers under test, as the driver runs it: with the state machine around it.

Frames are literal bytes, those of the other half too, which the tests play.
"""

from __future__ import annotations

import random
from typing import Any

from tests.clone.server_harness import FIRST, NO_TTL, seq, uuid
from tests.harness import Harness
from zpatterns.bstar.bstar_state import StarOptions
from zpatterns.bstar.pair_core import PairCore
from zpatterns.clone.paired_server_core import PairedCloneCore
from zpatterns.clone.server_state import ServerOptions
from zpatterns.core import Frames, Open, PortId, Save
from zpatterns.timing import Liveness

STEP = 1 << 20
"""What a promotion leaves between its sequences and those before."""

PROMOTED = FIRST + STEP
"""The sequence at which a half begins that was promoted at its start."""

WAITING, ACTIVE, PASSIVE = b"2", b"3", b"4"
LIFE = b"theirlife"


def state(digit: bytes, epoch: int = 1, copy: bytes = b"0:0", life: bytes = LIFE) -> Frames:
    """What the other half says of itself, on its port 5566."""
    return [b"%b epoch=%d interval=1 liveness=2 port=5566 copy=%b life=%b" % (digit, epoch, copy, life)]


def kvpub(key: bytes, sequence: int, previous: int, body: bytes = b"v", number: int = 1, ttl: int = 0) -> Frames:
    """What an active of ours publishes of a key without subtree."""
    return [key, seq(sequence), uuid(number), b"ttl=%d\nprev=%d\n" % (ttl, previous), body]


def kvsync(key: bytes, sequence: int, body: bytes = b"v", number: int = 1, properties: bytes = NO_TTL) -> Frames:
    return [key, seq(sequence), uuid(number), properties, body]


def kthxbai(sequence: int, instance: bytes = b"theirs") -> Frames:
    return [b"KTHXBAI", seq(sequence), b"", b"zp=1\ninstance=%b\nseq=%d\n" % (instance, sequence), b""]


def hugz(sequence: int, instance: bytes = b"theirs") -> Frames:
    return [b"HUGZ", bytes(8), b"", b"zp=1\ninstance=%b\nseq=%d\n" % (instance, sequence), b""]


class Half(Harness[PairCore]):
    """One half, started; both heartbeats are 1 s, the pair's lease is 2 s and that of HUGZ 5 s. `out`: by port."""

    def __init__(self, role: str = "primary", *, epoch: int = 0, peer: str | None = None, **options: Any) -> None:
        star = StarOptions(primary=role == "primary", remote="tcp://10.0.0.2:5004", liveness=Liveness(1.0, 2))
        pair = PairCore(star)
        settings = ServerOptions(liveness=Liveness(1.0, 5), **options)
        core = PairedCloneCore(
            FIRST, random.Random(1), settings, floor=FIRST, epoch=epoch, look=pair.star.look, peer=peer
        )
        core.port = 5556
        pair.hosted = self.server = core
        self.out: dict[PortId, list[Frames]] = {}
        self.saves: list[Save] = []
        super().__init__(pair, "snapshot")
        self.step(core.start, self.now)
        self.step(pair.star.start, self.now)
        self.asked()

    @property
    def state(self) -> str:
        return self.core.star.state.value

    @property
    def told(self) -> bytes:
        """What it says of itself last."""
        self.advance(1.0)
        return self.take("state")[-1][0]

    @property
    def map(self) -> dict[bytes, bytes]:
        return {pair[0]: pair[4] for page in self.server.store.view().pages for pair in page}

    def take(self, port: PortId) -> list[Frames]:
        """What went out on one port since the last time."""
        return self.out.pop(port, [])

    def published(self) -> list[Frames]:
        """Without heartbeats."""
        return [frames for frames in self.take("publisher") if frames[0] != b"HUGZ"]

    def hear(self, frames: Frames) -> None:
        self.give(frames, port="peer")

    def hear_for(self, seconds: float, frames: Frames) -> None:
        """Time passes, and the other half says the same twice a second."""
        for _ in range(int(seconds * 2)):
            self.advance(0.5)
            self.hear(frames)

    def request(self, *frames: bytes, client: bytes = b"C") -> list[Frames]:
        """A message for the snapshot port, and what is sent there."""
        self.give([client, *frames], port="snapshot")
        return self.take("snapshot")

    def saved(self) -> None:
        """The disk has done what it was asked first."""
        self.saves.pop(0)
        self.step(self.server.saved, self.now)

    def _collect(self) -> None:
        for command in self.core.commands():
            if isinstance(command, Save):
                self.saves.append(command)
            else:
                self._asked.append(command)
        for port in tuple(self.core.ports_to_send()):
            self.out.setdefault(port, []).extend(self.core.messages_to_send(port))


def active(role: str = "primary", **options: Any) -> Half:
    """A half that serves, beside one that waits and holds nothing."""
    half = Half(role, **options)
    if role == "primary":
        half.hear(state(WAITING, 0))
    else:
        half.step(half.core.star.promote, half.now)
    assert half.state == "active"
    half.out.clear()
    half.asked()
    half.events()
    return half


def with_passive(**options: Any) -> Half:
    """A half that serves, and whose other half has said that it has everything."""
    half = active(**options)
    half.hear(state(PASSIVE, copy=b"1:%d" % PROMOTED))
    half.request(b"ZPHAVE", seq(PROMOTED), LIFE, client=b"peer")
    half.out.clear()
    return half


def following(*pairs: Frames, sequence: int = FIRST + 1000, role: str = "backup", **options: Any) -> Half:
    """A passive half that has a whole copy: `pairs` as they were at `sequence`."""
    half = Half(role, **options)
    half.hear(state(ACTIVE))
    assert [command.endpoint for command in half.asked(Open)] == ["tcp://10.0.0.2:5567", "tcp://10.0.0.2:5566"]
    half.give(hugz(sequence), port="peer-updates")
    assert half.take("peer-snapshot") == [[b"ICANHAZ?", b""]]
    half.give(*pairs, kthxbai(sequence), port="peer-snapshot")
    while half.saves:
        half.saved()
    assert half.take("peer-snapshot")[-1] == [b"ZPHAVE", seq(sequence), half.server._life]
    half.out.clear()
    half.events()
    return half


def promoted(half: Half) -> Half:
    """The other half falls silent, and a client asks this one."""
    half.advance(2.5)
    half.out.clear()
    half.request(b"ICANHAZ?", b"")
    assert half.state == "active"
    return half


def zpset(key: bytes, body: bytes = b"v", number: int = 1, properties: bytes = b"") -> tuple[bytes, ...]:
    return b"ZPSET", uuid(number), key, properties, body


def zpack(number: int, code: bytes, sequence: int, client: bytes = b"C") -> list[bytes]:
    return [client, b"ZPACK", uuid(number), code, seq(sequence)]
