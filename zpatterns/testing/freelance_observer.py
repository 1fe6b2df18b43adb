"""What an outsider can tell of Freelance's promises: R1, R2, R4, B1, L1, one send an attempt, and who is asked when.

The literal frames of 10/FLP and the Guide's models are read here anew, so that an error in
:mod:`zpatterns.freelance.wire` shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from zpatterns.core import Frames
from zpatterns.sockets import Link
from zpatterns.testing.direct import requests_max
from zpatterns.testing.driving import SimLink
from zpatterns.testing.judging import CallObserver
from zpatterns.testing.world import Node

if TYPE_CHECKING:
    from zpatterns.testing.direct import CallerNode
    from zpatterns.testing.freelance import FreelanceClientNode, FreelanceServerNode, FreelanceWorld
    from zpatterns.testing.ledger import Call
    from zpatterns.testing.serving import ServingNode

CONNECTING = 0.5
"""Seconds after which all are connected in a world without faults."""


def _client(node: Node) -> FreelanceClientNode:
    """`node`, known as a client: in this world nobody else connects or calls."""
    return cast("FreelanceClientNode", node)


class SeenServer:
    """What one life of a client has heard of one server."""

    __slots__ = ("gap_end", "heard_at", "link", "opened_at", "refused_at")

    def __init__(self, now: float) -> None:
        self.opened_at = now
        self.heard_at = now  # or when the first connection was begun
        self.gap_end = float("-inf")  # when a silence that was long enough to give it up ended last, or it was removed
        self.refused_at = float("-inf")
        self.link: SimLink | None = None


class SeenCall:
    """The sends of one call: when, and to whom."""

    __slots__ = ("asked", "asked_at", "asks", "sends", "servers")

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self.asked_at = 0.0  # the last time
        self.asks = 0
        self.sends = 0  # that ZeroMQ took
        self.servers: dict[str, float] = {}


class FreelanceObserver(CallObserver["FreelanceWorld"]):
    """Watches the sockets of clients and servers, handlers and callers."""

    def __init__(self, world: FreelanceWorld) -> None:
        super().__init__(world)
        self._began_at = world.clock.now()
        self._endpoints: dict[Link, str] = {}
        self._seen: dict[Node, dict[str, SeenServer]] = {}
        self._calls: dict[bytes, SeenCall] = {}
        self._controls: dict[SimLink, set[bytes]] = {}
        self._sends: dict[tuple[bytes, str], int] = {}
        self._runs: dict[tuple[bytes, str], int] = {}

    # What is seen.

    def happened(self, node: Node, what: str) -> None:
        if what == "start":
            self._seen[node] = {}

    def opened(self, link: SimLink, endpoint: str) -> None:
        self._endpoints[link] = endpoint
        seen = self._seen[link.node]
        now = self.world.clock.now()
        if endpoint not in _client(link.node).told:
            self.world.violate("R4", f"{link.node.name} connects to {endpoint}, which was removed")
        if endpoint not in seen:
            seen[endpoint] = SeenServer(now)
        seen[endpoint].opened_at = now
        seen[endpoint].link = link
        if self.world.phase == "quiet" and self.world.model == "addressed":
            self.world.violate("L1", f"{link.node.name} connects to {endpoint} again, though nothing has happened")

    def removed(self, node: FreelanceClientNode, endpoint: str) -> None:
        """A client was told to forget a server: if it is added again, it is another one."""
        if any(self._endpoints[link] == endpoint for link in node.driver.links.values()):
            self.world.violate("R4", f"{node.name} keeps a connection to {endpoint}, which was removed")
        if endpoint in self._seen[node]:
            self._seen[node][endpoint].gap_end = self.world.clock.now()
        for call in self.world.ledger.open_calls:
            if call.client is node and call.token in self._calls:
                self._calls[call.token].asked.discard(endpoint)

    def read(self, link: SimLink, frames: Frames) -> None:
        endpoint = self._endpoints.get(link)
        if endpoint is None:
            return
        server, now = self._seen[link.node][endpoint], self.world.clock.now()
        is_life = frames == [b"server", b"PONG"] or len(frames) > 2
        if is_life:
            if now - server.heard_at >= self._silence(link.node) - 1e-6:
                server.gap_end = now
            server.heard_at = now
        if b"\0ZPATTERNS-ERROR\0" in frames and frames[-2] in (b"429", b"503"):
            server.refused_at = now

    def asked(self, link: SimLink, frames: Frames) -> None:
        endpoint = self._endpoints.get(link)
        if endpoint is None:
            self._said(link, frames)
            return
        parsed = self._parse(link, frames)
        if parsed is None:
            return
        _, token = parsed
        call = self.world.ledger.find(token)
        if endpoint not in _client(link.node).told:
            self.world.violate("R4", f"{link.sim.name} asks {endpoint}, which was removed")
        if call is None:
            self.world.violate("R4", f"{link.sim.name} sends {frames}, which nobody asked for")
        elif call.closed:
            self.world.violate("R4", f"{call} is sent after its end")
        elif call.body != frames[len(frames) - len(call.body) :]:
            self.world.violate("R4", f"{link.sim.name} sends {frames}, and {call} is {call.body}")
        else:
            self._check_send(link, endpoint, call)
            seen = self._calls.setdefault(token, SeenCall())
            seen.asked.add(endpoint)
            seen.asked_at = self.world.clock.now()
            seen.asks += 1

    def taken(self, link: SimLink, frames: Frames) -> None:
        endpoint = self._endpoints.get(link)
        parsed = self._parse(link, frames) if endpoint is not None else None
        if parsed is None or endpoint is None:
            return
        number, token = parsed
        world, now, node = self.world, self.world.clock.now(), link.node
        key = (token, endpoint)
        self._sends[key] = self._sends.get(key, 0) + 1
        seen = self._calls.setdefault(token, SeenCall())
        numbers = self._controls.setdefault(link, set())
        if world.model != "failover":
            if number in numbers or number == b"PING":
                world.violate("R1", f"{link.sim.name} uses the number {number!r} twice")
            numbers.add(number)
        if world.model == "addressed":
            first = seen.servers.get(endpoint)
            server = self._seen[node][endpoint]
            if first is not None and not (
                server.gap_end >= first or now - server.heard_at >= self._silence(node) - 1e-6
            ):
                world.violate("ONCE", f"{token!r} is sent again to {endpoint}, which answers")
            seen.servers.setdefault(endpoint, now)
        seen.sends += 1
        limit = _client(node).options.retries + 1
        if world.model != "shotgun" and seen.sends > limit:
            world.violate("ONCE", f"{token!r} is sent {seen.sends} times in {limit} attempts")

    def run_begins(self, node: ServingNode, caller: bytes, frames: Frames) -> None:
        key = (frames[0], f"sim://{node.name}")
        self._runs[key] = self._runs.get(key, 0) + 1
        if self._runs[key] > self._sends.get(key, 0):
            self.world.violate(
                "R4", f"{node.name} runs {frames[0]!r} {self._runs[key]} times, and was sent it less often"
            )

    def answered(self, node: CallerNode, call: Call, frames: Frames) -> None:
        """A caller is about to get its answer."""

    # What is judged.

    def _silence(self, node: Node) -> float:
        """How long a server is silent that may be given up."""
        options = _client(node).options
        window = options.attempt_timeout or options.timeout / (options.retries + 1)
        return float(min(self.world.liveness.interval, window))

    def _parse(self, link: SimLink, frames: Frames) -> tuple[bytes, bytes] | None:
        """Control frame or number, and the call's token; None for PING. What is neither is a violation."""
        model = self.world.model
        if model == "addressed":
            if frames == [b"server", b"PING"]:
                return None
            if len(frames) > 2 and frames[0] == b"server":
                return frames[1], frames[2]
        elif model == "shotgun":
            if len(frames) == 3 and not frames[0] and frames[1].isdigit():
                return frames[1], frames[2]
        elif len(frames) > 1 and not frames[0]:
            return b"", frames[1]
        self.world.violate("B2", f"{link.sim.name} sends {frames}, which is no message")
        return None

    def _said(self, link: SimLink, frames: Frames) -> None:
        """A server wants this sent."""
        world = self.world
        if world.model == "shotgun" and not (len(frames) >= 4 and frames[-3] == b""):
            world.violate("B2", f"{link.sim.name} answers {frames}, which is not one frame")
        is_repeated = "twice" in world.active_behaviours and world.phase == "faults" and world.model != "failover"
        if is_repeated and link.node.chance.happens(0.3):
            cast("FreelanceServerNode", link.node).say_again(link, list(frames))

    def _check_send(self, link: SimLink, endpoint: str, call: Call) -> None:
        """Of servers that a call was not sent to, one that answers comes before one that is silent for a lease."""
        world, now, node = self.world, self.world.clock.now(), link.node
        if world.model != "addressed" or self._is_excused(node, call.started):
            return
        all_seen = self._seen[node]
        server = all_seen[endpoint]
        interval = world.liveness.interval
        if now - server.heard_at < world.lease + interval or now - server.opened_at < 0.0:
            return
        tried = self._calls[call.token].asked if call.token in self._calls else ()
        for other, seen in all_seen.items():
            if (
                other != endpoint
                and other not in tried
                and seen.link is not None
                and not seen.link.closed
                and now - seen.heard_at < interval / 4
                and seen.heard_at > seen.opened_at
                and now - seen.refused_at > interval
            ):
                world.violate("L1", f"{call} is sent to {endpoint}, silent for a lease, and {other} answers")

    def _is_excused(self, node: Node, since: float) -> bool:
        """Whether a process was kept from doing its work since then."""
        return node.paused_at is not None or node.resumed_at >= since - self.world.lease or node.lag > node.usual_lag

    def _check_turning(self, call: Call) -> None:
        """An attempt without an answer turns to another server, if there is one, within its own time-out."""
        world, now, node = self.world, self.world.clock.now(), call.client
        seen = self._calls.get(call.token)
        if world.model != "addressed" or seen is None or self._is_excused(node, call.started):
            return
        options = _client(node).options
        window = options.attempt_timeout or (call.deadline - call.started) / (options.retries + 1)
        untried = any(
            endpoint not in seen.asked and server.link is not None and not server.link.closed
            for endpoint, server in self._seen[node].items()
        )
        late = min(now, call.deadline) - seen.asked_at - window
        if untried and seen.asks <= options.retries and late > 0.01 + node.lag:
            world.violate("L1", f"{call} has turned to no other server for {late:.3f} s")

    def measure(self) -> None:
        super().measure()
        world = self.world
        for call in world.ledger.open_calls:
            self._check_turning(call)
        for server in world.servers:
            if server.alive:
                self.check_outboxes(server.driver.links.values())
                if self.weighs:
                    self.check_weight(server.name, server.core, requests_max(world.server_options))
        for client in world.clients:
            if client.alive:
                self._measure_client(_client(client))
                if client is not world.probe:
                    self.check_outboxes(client.driver.links.values())

    def _measure_client(self, client: FreelanceClientNode) -> None:
        options = client.options
        if len(client.open) > options.max_in_flight + options.queue_max:
            self.world.violate("B1", f"{client.name} holds {len(client.open)} calls")
        limit = len(self.world.endpoints)
        if self.world.model == "failover":
            # Those of open calls, and as many to each server that are kept for the next ones.
            limit = options.max_in_flight * (options.retries + 1 + len(self.world.endpoints))
        if len(client.driver.links) > limit:
            self.world.violate("B1", f"{client.name} has {len(client.driver.links)} connections, the limit is {limit}")

    def calm_runs(self, call: Call) -> int | None:
        if self.world.model != "shotgun":
            return 1
        servers = len(self.world.servers)
        # At the beginning, who has no connection yet when the first answer comes is not asked any more.
        is_early = call.started < self._began_at + CONNECTING
        return len(call.runs) if is_early and 0 < len(call.runs) < servers else servers

    def settled(self) -> None:
        super().settled()
        self.check_unanswered()

    def finished(self) -> None:
        super().finished()
        world = self.world
        now = world.clock.now()
        for client in world.clients:
            self.check_weight(client.name, client.core, 0)
            for endpoint, server in self._seen[client].items():
                if world.model == "addressed" and now - server.heard_at > 1.2 * world.liveness.interval:
                    world.violate("L1", f"{client.name} has not heard {endpoint} for {now - server.heard_at:.3f} s")
        for server_node in world.servers:
            self.check_weight(server_node.name, server_node.core, 0)
