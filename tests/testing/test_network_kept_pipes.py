"""The simulated ROUTER that connects to a peer by an id of its own: its pipe is there at once, and is kept."""

from __future__ import annotations

from zpatterns.core import SocketKind
from zpatterns.sockets import SocketSettings
from zpatterns.testing.simsocket import SimSocket
from zpatterns.testing.world import Node, World


class Bare(Node):
    def boot(self) -> None:
        """Nothing but sockets that the test makes."""


class Pair(World):
    def build(self) -> None:
        """Nothing of its own."""


def pair():
    world = Pair(1)
    near, far = Bare(world, "near"), Bare(world, "far")
    near.start()
    far.start()
    return world, near, far


def receive(socket):
    socket.process()
    return socket.receive()


def send(world, socket, *frames):
    world.network.write(socket.choose(b"peer"), list(frames))


def test_what_is_sent_before_the_connection_waits_for_it_and_what_is_sent_after_a_break_too():
    world, near, far = pair()
    client = SimSocket(world.network, near, SocketKind.ROUTER, SocketSettings(), "client")
    client.connect("sim://far", b"peer")
    send(world, client, b"early")
    world.clock.advance(1)
    for text in (b"first life", b"second life"):
        server = SimSocket(world.network, far, SocketKind.ROUTER, SocketSettings(), "server")
        server.bind("sim://far")
        world.clock.advance(3)
        [who, said] = receive(server)
        assert said == (b"early" if text == b"first life" else b"in between")
        world.network.write(server.by_id[who], [text])
        world.clock.advance(1)
        assert receive(client) == [b"peer", text]
        far.kill()
        world.clock.advance(1)
        send(world, client, b"in between")
        far.start()


def test_closing_drops_what_was_not_sent():
    world, near, far = pair()
    client = SimSocket(world.network, near, SocketKind.ROUTER, SocketSettings(), "client")
    client.connect("sim://far", b"peer")
    send(world, client, b"never")
    client.close(0)
    server = SimSocket(world.network, far, SocketKind.ROUTER, SocketSettings(), "server")
    server.bind("sim://far")
    world.clock.advance(5)
    assert receive(server) is None
