"""What an outsider can tell of Lazy Pirate's promises: R1, R3, R4, B1, B2 and L1.

The frames are read here anew, so that an error in :mod:`zpatterns.pirate.wire` shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zpatterns.calls_state import CallOptions
from zpatterns.core import Frames, SendFailure
from zpatterns.testing.direct import CallerNode, DirectObserver, ServerNode, requests_max, run_of
from zpatterns.testing.driving import SimLink
from zpatterns.testing.judging import CallObserver
from zpatterns.testing.ledger import Call
from zpatterns.testing.serving import ServingNode
from zpatterns.testing.world import Node

if TYPE_CHECKING:
    from zpatterns.testing.lazy import LazyWorld

MARKER = b"\x00ZPATTERNS-ERROR\x00"


def split(frames: Frames) -> tuple[Frames, Frames] | None:
    """Envelope and body of a message at a ROUTER, None where it is no request and no reply."""
    for at in range(1, len(frames) - 1):
        if not frames[at]:
            return frames[: at + 1], frames[at + 1 :]
    return None


class SeenRequest:
    """A request that a server has read."""

    __slots__ = ("body", "envelope", "expiry", "order", "state")

    def __init__(self, envelope: Frames, body: Frames, order: int, expiry: float) -> None:
        self.envelope = envelope
        self.body = body
        self.order = order
        self.expiry = expiry
        self.state = "waits"  # then "runs", "answered" or "refused"


class ServerWatch:
    """One life of one server, as seen at its socket."""

    def __init__(self, world: LazyWorld, node: Node) -> None:
        self.world = world
        self.node = node
        self.requests: list[SeenRequest] = []
        self._read = 0

    def read(self, frames: Frames) -> None:
        parts = split(frames)
        if parts is not None:
            self._read += 1
            expiry = self.world.clock.now() + self.world.server_options.request_ttl
            self.requests.append(SeenRequest(*parts, self._read, expiry))

    def begins(self, caller: bytes, body: Frames) -> None:
        """A handler is about to be started."""
        world, now = self.world, self.world.clock.now()
        waiting = self.waiting()
        request = next((one for one in waiting if one.envelope[0] == caller and one.body == body), None)
        if request is None:
            world.violate("R4", f"{self.node.name} begins {body[:3]} of {caller.hex()}, which does not wait")
            return
        if now >= request.expiry:
            world.violate("R4", f"{self.node.name} begins a request {now - request.expiry:.3f} s after its time")
        if any(one.order < request.order and now < one.expiry for one in waiting):
            world.violate("R3", f"{self.node.name} begins {body[:1]} while an older request waits")
        request.state = "runs"

    def asked(self, frames: Frames) -> None:
        """The server wants to send this."""
        parts = split(frames)
        if parts is None:
            self.world.violate("B2", f"{self.node.name} wants to send {frames}, which is no reply")
            return
        envelope, body = parts
        mine = [one for one in self.requests if one.envelope == envelope]
        if body[0] == MARKER and body[1] in (b"429", b"503"):
            # Of several the newest is refused, when there is no room.
            request = next((one for one in reversed(mine) if one.state == "waits"), None)
            options, waiting = self.world.server_options, len(self.waiting()) - 1
            if body[1] == b"429" and waiting < min(options.queue_max, options.queue_bytes_max // 1000):
                self.world.violate("R3", f"{self.node.name} refuses a request while only {waiting} wait")
            state = "refused"
        else:
            token = self._token(body)
            request = next((one for one in mine if one.state == "runs" and one.body[0] == token), None)
            state = "answered"
        if request is None:
            self.world.violate("R1", f"{self.node.name} says {body[:3]} to {envelope}, which did not ask for that")
        else:
            request.state = state

    def waiting(self) -> list[SeenRequest]:
        """What was neither begun nor refused, dropped requests among it."""
        return [one for one in self.requests if one.state == "waits"]

    def _token(self, body: Frames) -> bytes:
        """The first frame of the request that this answers."""
        call = body[2].split(b":")[1] if body[0] == MARKER and body[2].startswith(b"e:") else body[0].split(b":")[1:2]
        return b"q:" + (call if isinstance(call, bytes) else b"".join(call))


class ClientWatch:
    """What one client asks, over which of its connections."""

    def __init__(self, options: CallOptions, endpoints: list[str]) -> None:
        self.options = options
        self.endpoints = endpoints
        self.attempts: dict[bytes, list[SimLink]] = {}
        """The connections that a call was sent over, by its token."""
        self.reads: SimLink | None = None
        self.owed: dict[SimLink, bytes] = {}
        """The call whose answer may come over a connection."""


class LazyObserver(CallObserver["LazyWorld"], DirectObserver):
    """Watches every server's socket, every client's sockets, every handler and every caller."""

    def __init__(self, world: LazyWorld) -> None:
        super().__init__(world)
        self.servers: dict[Node, ServerWatch] = {}
        self.clients: dict[Node, ClientWatch] = {}
        self._targets: dict[SimLink, str] = {}

    def watch_client(self, node: CallerNode, options: CallOptions, endpoints: list[str]) -> None:
        """Told by the world when it makes one."""
        self.clients[node] = ClientWatch(options, endpoints)

    def happened(self, node: Node, what: str) -> None:
        if isinstance(node, ServerNode):
            if what == "start":
                self.servers[node] = ServerWatch(self.world, node)
            elif what == "kill":
                self.servers.pop(node, None)

    def opened(self, link: SimLink, endpoint: str) -> None:
        self._targets[link] = endpoint

    def read(self, link: SimLink, frames: Frames) -> None:
        server, client = self.servers.get(link.node), self.clients.get(link.node)
        if server is not None:
            server.read(frames)
        elif client is not None:
            client.reads = link
            client.owed.pop(link, None)

    def asked(self, link: SimLink, frames: Frames) -> None:
        server, client = self.servers.get(link.node), self.clients.get(link.node)
        if server is not None:
            server.asked(frames)
        elif client is not None:
            self._attempt(client, link, frames)

    def taken(self, link: SimLink, frames: Frames) -> None:
        if link.node in self.clients:
            call = self.world.ledger.find(frames[1])
            if call is not None and call.closed:
                self.world.violate("R4", f"{call} is sent after its caller gave it up")

    def failed(self, link: SimLink, frames: Frames, reason: SendFailure) -> None:
        client = self.clients.get(link.node)
        if client is not None:
            client.owed.pop(link, None)

    def run_begins(self, node: ServingNode, caller: bytes, frames: Frames) -> None:
        watch = self.servers.get(node)
        if watch is not None:
            watch.begins(caller, frames)

    def answered(self, node: CallerNode, call: Call, frames: Frames) -> None:
        client = self.clients[node]
        attempts = client.attempts.get(call.token)
        if not attempts or client.reads is not attempts[-1]:
            self.world.violate("R1", f"{call} is answered by what came over a connection of an earlier attempt")
        run = run_of(self.world, frames[0])
        if run is not None and not run.ended:
            self.world.violate("R1", f"{call} is answered by a handler that still runs")

    def measure(self) -> None:
        super().measure()
        world = self.world
        for server in world.servers:
            if server.alive:
                self.check_outboxes(server.lane.links)
                if self.weighs:
                    self.check_weight(server.name, server.core, requests_max(world.server_options))
        for client in world.clients:
            watch = self.clients[client]
            if not client.alive:
                continue
            if len(client.open) > watch.options.max_in_flight + watch.options.queue_max:
                world.violate("B1", f"{client.name} holds {len(client.open)} calls")
            limit = watch.options.max_in_flight * (1 + len(watch.endpoints))
            if len(client.links) > limit:
                world.violate("B1", f"{client.name} has {len(client.links)} connections, the limit is {limit}")

    def settled(self) -> None:
        super().settled()
        for call in self.world.ledger.open_calls:
            self.world.violate("L1", f"{call} is still open")

    def finished(self) -> None:
        super().finished()
        world = self.world
        now = world.clock.now()
        for watch in self.servers.values():
            for request in watch.requests:
                if request.state == "runs" or (request.state == "waits" and now < request.expiry):
                    world.violate("R3", f"{watch.node.name} has lost {request.body[:1]}, which {request.state}")
        for server in world.servers:
            self.check_weight(server.name, server.core, 0)
        for client in world.clients:
            self.check_weight(client.name, client.core, 0)

    def _attempt(self, client: ClientWatch, link: SimLink, frames: Frames) -> None:
        world, name = self.world, link.sim.name
        call = world.ledger.find(frames[1]) if len(frames) > 1 and not frames[0] else None
        if call is None or frames[1:] != call.body:
            world.violate("B2", f"{name} sends {frames}, which is no request")
            return
        if link in client.owed:
            world.violate("R1", f"{call} is sent over {name}, where the answer to {client.owed[link]!r} may come")
        client.owed[link] = call.token
        attempts = client.attempts.setdefault(call.token, [])
        if len(attempts) > client.options.retries:
            world.violate("R3", f"{call} is sent a {len(attempts) + 1}th time, with {client.options.retries} retries")
        if attempts and len(client.endpoints) > 1 and self._targets[attempts[-1]] == self._targets[link]:
            world.violate("L1", f"{call} is sent again to {self._targets[link]}, though there are others")
        attempts.append(link)
