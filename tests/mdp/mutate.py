"""Hostile messages from a seed: commands of both versions, whole, cut short, mutated and made up."""

from __future__ import annotations

from collections.abc import Callable

from tests.draws import Draws
from zpatterns.core import Frames

HEADERS = [b"", b"MDPC01", b"MDPW01", b"MDPC02", b"MDPW02", b"MDPZ01", b"MDPW03"]
BYTES = [b"%c" % number for number in range(9)]
SERVICES = [
    b"a",
    b"b",
    b"echo",
    "größe".encode(),
    b"mmi.service",
    b"mmi.workers",
    b"mmi.evil",
    b"",
    b"\x00",
    b"\xff\xfe",
]


class Mutator:
    """Draws frames. `peers` are the addresses that appear in envelopes."""

    def __init__(self, seed: int, peers: list[bytes]) -> None:
        self.rng = Draws(seed)
        self.peers = peers
        self._commands: list[Callable[[], Frames]] = [
            lambda: [b"", b"MDPC01", self._service(), *self.body()],
            lambda: [b"MDPC02", b"\x01", self._service(), *self.body()],
            lambda: [b"MDPC02", self.rng.choice((b"\x02", b"\x03")), self._service(), *self.body()],
            lambda: [b"", b"MDPW01", b"\x01", self._service()],
            lambda: [b"MDPW02", b"\x01", self._service()],
            lambda: [
                b"",
                b"MDPW01",
                self.rng.choice((b"\x02", b"\x03")),
                self.rng.choice(self.peers),
                b"",
                *self.body(),
            ],
            lambda: [
                b"MDPW02",
                self.rng.choice((b"\x02", b"\x03", b"\x04")),
                self.rng.choice(self.peers),
                b"",
                *self.body(),
            ],
            lambda: [b"", b"MDPW01", self.rng.choice((b"\x04", b"\x05"))],
            lambda: [b"MDPW02", self.rng.choice((b"\x05", b"\x06"))],
        ]

    def command(self) -> Frames:
        """A command of either version, of a client, a worker or a broker, as the RFCs have it."""
        return self.rng.choice(self._commands)()

    def message(self) -> Frames:
        """A command, or what becomes of one: half of them are damaged, and some are noise."""
        draw = self.rng.random()
        if draw < 0.05:
            return [self.noise() for _ in range(self.rng.randrange(9))]
        frames = self.command()
        if draw < 0.5:
            for _ in range(self.rng.randrange(1, 4)):
                self.damage(frames)
        return frames

    def damage(self, frames: Frames) -> None:
        """Cut, repeat, swap, empty, replace or garble one of the frames."""
        if not frames:
            frames.append(self.noise())
            return
        rng = self.rng
        at = rng.randrange(len(frames))
        kind = rng.randrange(9)
        if kind == 0:
            del frames[at:]
        elif kind == 1:
            del frames[at]
        elif kind == 2:
            frames.insert(at, frames[at])
        elif kind == 3:
            other = rng.randrange(len(frames))
            frames[at], frames[other] = frames[other], frames[at]
        elif kind == 4:
            frames[at] = b""
        elif kind == 5:
            frames[at] = self.noise()
        elif kind == 6:
            frames.insert(at, self.noise())
        elif kind == 7:
            frames[at] = self.rng.choice(HEADERS)
        elif frames[at]:
            garbled = bytearray(frames[at])
            garbled[rng.randrange(len(garbled))] ^= 1 << rng.randrange(8)
            frames[at] = bytes(garbled)

    def noise(self) -> bytes:
        """A frame of anything: a header, a command, a byte, a random string, now and then a long one."""
        rng = self.rng
        draw = rng.random()
        if draw < 0.3:
            return self.rng.choice(HEADERS)
        if draw < 0.6:
            return self.rng.choice(BYTES)
        return rng.randbytes(rng.randrange(1000) if draw > 0.99 else rng.randrange(12))

    def body(self) -> Frames:
        """One to three frames."""
        return [self.rng.randbytes(self.rng.randrange(10)) for _ in range(self.rng.randrange(1, 4))]

    def _service(self) -> bytes:
        return self.rng.choice(SERVICES) if self.rng.random() < 0.3 else self.rng.choice(SERVICES[:3])
