"""A peer that says to Majordomo brokers what no sane one would."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zpatterns.core import Frames
from zpatterns.sockets import SocketSettings
from zpatterns.testing.hostile import HostileNode

if TYPE_CHECKING:
    from zpatterns.testing.mdp import MajordomoWorld

_HEADS: tuple[Frames, ...] = (
    [b"", b"MDPC01"],
    [b"", b"MDPW01"],
    [b"MDPC02"],
    [b"MDPW02"],
    [b"", b"MDPX01"],
    [b"MDPW01"],
    [],
)


class HostileMajordomo(HostileNode):
    """Sends broken, unexpected and forged messages.

    It registers only services of its own: a worker of a real service that lies is a handler that lies, and no broker
    can tell.
    """

    def __init__(self, world: MajordomoWorld, name: str, endpoints: list[str], settings: SocketSettings) -> None:
        super().__init__(world, name, endpoints, settings)
        self.world: MajordomoWorld = world
        self._requests_left = 20

    def message(self) -> Frames:
        chance = self.chance
        name = chance.pick((b"hostile-1", b"hostile-2", b"mmi.evil", b"mmi.service", b"", b"\xff\x00", b"x" * 300))
        victim = self._victim()
        kind = chance.below(12)
        if kind == 0:
            frames = [b"", b"MDPW01", b"\x01", name]
        elif kind == 1:
            frames = [b"MDPW02", b"\x01", name]
        elif kind == 2:
            frames = [b"", b"MDPW01", b"\x03", victim, b"", b"a:1:1:0"]
        elif kind == 3:
            frames = [b"MDPW02", chance.pick((b"\x03", b"\x04")), victim, b"", b"a:1:1:0"]
        elif kind == 4:
            frames = [b"", b"MDPW01", chance.pick((b"\x04", b"\x05"))]
        elif kind == 5:
            frames = [b"MDPW02", chance.pick((b"\x05", b"\x06"))]
        elif kind == 6:
            frames = [b"", b"MDPC01", name, b"hello"]
        elif kind == 7:
            frames = self._request()
        else:
            frames = [*chance.pick(_HEADS), *(chance.bytes(chance.below(4)) for _ in range(chance.below(6)))]
        if chance.happens(0.3):
            frames = self._mutated(frames)
        return frames or [b""]

    def _request(self) -> Frames:
        """A real request, whose answer nobody waits for."""
        if not self._requests_left:
            return []
        self._requests_left -= 1
        service = self.chance.pick(self.world.asked_services)
        call = self.world.ledger.begin(self, service, 1.0)
        self.world.ledger.cancel(call)
        return [b"", b"MDPC01", service.encode(), *call.body]

    def _mutated(self, frames: Frames) -> Frames:
        chance = self.chance
        frames = list(frames)
        if not frames or frames[1:2] == [b"MDPC01"]:
            return frames  # a changed body would be a phantom's
        at = chance.below(len(frames))
        kind = chance.below(4)
        if kind == 0:
            del frames[at:]
        elif kind == 1:
            frames.insert(at, chance.bytes(chance.below(5)))
        elif kind == 2:
            del frames[at]
        else:
            frames[at] = frames[at][1:]
        return frames

    def _victim(self) -> bytes:
        """The routing id of somebody's connection to a broker."""
        ids = [end.peer_id for end in self.world.network.ends if end.peer_id]
        return self.chance.pick(ids) if ids else b"nobody"
