"""A peer that says to others what no sane one would; each pattern has words of its own for it."""

from __future__ import annotations

from typing import ClassVar

from zpatterns.core import Frames, SocketKind
from zpatterns.sockets import SocketSettings
from zpatterns.testing.simsocket import SimSocket
from zpatterns.testing.world import Node, World


class HostileNode(Node):
    """Sends whatever :meth:`message` says over some connections, while there are faults; from some it never reads."""

    connections_max: ClassVar[int] = 3
    round_max: ClassVar[float] = 0.3
    """The longest time between two rounds of messages, in leases."""

    def __init__(self, world: World, name: str, endpoints: list[str], settings: SocketSettings) -> None:
        super().__init__(world, name)
        self._endpoints = endpoints
        self._settings = settings
        self._sockets: list[tuple[SimSocket, bool]] = []

    def message(self) -> Frames:
        """What is sent next; at least one frame."""
        raise NotImplementedError

    def message_on(self, number: int) -> Frames:
        """What is sent next over the connection of that number, from 0, where that makes a difference."""
        return self.message()

    def target(self) -> str:
        """Where the next connection leads."""
        return self.chance.pick(self._endpoints)

    def boot(self) -> None:
        self._sockets = []
        for number in range(1 + self.chance.below(self.connections_max)):
            socket = SimSocket(self.world.network, self, SocketKind.DEALER, self._settings, f"{self.name}:{number}")
            socket.connect(self.target())
            self._sockets.append((socket, self.chance.happens(0.7)))
        self.later(self.world.clock.now(), self._attack)

    def _attack(self) -> None:
        chance, world = self.chance, self.world
        if world.phase != "faults":
            for socket, _ in self._sockets:
                socket.close(0)
            return
        for number, (socket, reads) in enumerate(self._sockets):
            socket.process()
            while reads and socket.receive() is not None:
                pass
            for _ in range(chance.pick((1, 1, 3, 30))):
                self._send(socket, self.message_on(number))
        self.later(world.clock.now() + world.lease * self.round_max * chance.random(), self._attack)

    def _send(self, socket: SimSocket, frames: Frames) -> None:
        end = socket.choose(frames[0])
        if not isinstance(end, int):
            self.world.note(socket.name, "sent", frames)
            self.world.network.write(end, list(frames))
