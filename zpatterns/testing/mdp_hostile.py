"""A peer that says to Majordomo brokers what no sane one would."""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

from zpatterns.core import Frames, SocketKind
from zpatterns.sockets import SocketSettings
from zpatterns.testing.simsocket import SimSocket
from zpatterns.testing.world import Node

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


class HostileNode(Node):
    """Sends broken, unexpected and forged messages over some connections; from some of them it never reads.

    It registers only services of its own: a worker of a real service that lies is a handler that lies, and no broker
    can tell.
    """

    def __init__(self, world: MajordomoWorld, name: str, endpoints: list[str], settings: SocketSettings) -> None:
        super().__init__(world, name)
        self.world: MajordomoWorld = world
        self._endpoints = endpoints
        self._settings = settings
        self._sockets: list[tuple[SimSocket, bool]] = []
        self._requests_left = 20

    def boot(self) -> None:
        self._sockets = []
        for number in range(1 + self.chance.below(3)):
            socket = SimSocket(self.world.network, self, SocketKind.DEALER, self._settings, f"{self.name}:{number}")
            socket.connect(self.chance.pick(self._endpoints))
            self._sockets.append((socket, self.chance.happens(0.7)))
        self.later(self.world.clock.now(), self._attack)

    def _attack(self) -> None:
        chance, world = self.chance, self.world
        if world.phase != "faults":
            for socket, _ in self._sockets:
                socket.close(0)
            return
        for socket, reads in self._sockets:
            socket.process()
            while reads and socket.receive() is not None:
                pass
            for _ in range(chance.pick((1, 1, 3, 30))):
                self._send(socket, self._message())
        self.later(world.clock.now() + world.lease * 0.2 * chance.random(), self._attack)

    def _send(self, socket: SimSocket, frames: Frames) -> None:
        try:
            end = socket.choose(frames[0])
        except zmq.Again:
            return
        if end is not None:
            self.world.note(socket.name, "sent", frames)
            self.world.network.write(end, list(frames))

    def _message(self) -> Frames:
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
