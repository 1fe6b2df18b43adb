"""What an outsider can tell of a Majordomo cluster's promises: R1, R3, R4, B1, L1, and whether MMI tells the truth.

The literal frames of 7/MDP and 18/MDP are read here anew, so that an error in :mod:`zpatterns.mdp.wire` shows.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from zpatterns.core import Frames
from zpatterns.testing.driving import SimLink
from zpatterns.testing.judging import BrokeredObserver
from zpatterns.testing.mdp_nodes import BrokerNode
from zpatterns.testing.world import Node

if TYPE_CHECKING:
    from zpatterns.testing.ledger import Call
    from zpatterns.testing.mdp import MajordomoWorld
    from zpatterns.testing.mdp_nodes import MajordomoClientNode
    from zpatterns.testing.serving import ServingNode


class Parsed(NamedTuple):
    """One message between a broker and the peer `id`: ``READY``, ``WORK``, ``REPLY``, ``ASK`` ..."""

    id: bytes
    what: str
    rest: Frames


_WORKER_1 = {b"\1": "READY", b"\2": "WORK", b"\3": "REPLY", b"\4": "HEARTBEAT", b"\5": "DISCONNECT"}
_WORKER_2 = {
    b"\1": "READY",
    b"\2": "WORK",
    b"\3": "PARTIAL",
    b"\4": "REPLY",
    b"\5": "HEARTBEAT",
    b"\6": "DISCONNECT",
}
_CLIENT_2 = {b"\1": "ASK", b"\2": "ANSWER-PART", b"\3": "ANSWER"}


def parse(frames: Frames, is_from_broker: bool) -> Parsed | None:
    """What the message says, or None if it is none of Majordomo."""
    count = len(frames)
    if count < 3:
        return None
    if not frames[1]:
        if count > 3 and frames[2] == b"MDPC01":
            return Parsed(frames[0], "ANSWER" if is_from_broker else "ASK", frames[3:])
        if count > 3 and frames[2] == b"MDPW01":
            return Parsed(frames[0], _WORKER_1.get(frames[3], ""), frames[4:])
        return None
    if frames[1] == b"MDPC02":
        return Parsed(frames[0], _CLIENT_2.get(frames[2], ""), frames[3:])
    if frames[1] == b"MDPW02":
        return Parsed(frames[0], _WORKER_2.get(frames[2], ""), frames[3:])
    return None


class SeenRequest:
    """A request that a broker has read."""

    __slots__ = (
        "answered",
        "broken",
        "caller",
        "deliveries",
        "expiry",
        "frames",
        "is_stream",
        "read_at",
        "sent_at",
        "service",
        "taken",
    )

    def __init__(self, caller: bytes, service: bytes, frames: Frames, now: float, ttl: float) -> None:
        self.caller = caller
        self.service = service
        self.frames = frames
        self.read_at = now
        self.expiry = now + ttl
        self.sent_at = 0.0
        self.deliveries = 0
        self.taken = 0
        self.answered = False
        self.is_stream = False
        self.broken = False


class SeenWorker:
    """A peer that has said READY to a broker."""

    __slots__ = ("heard_at", "holds", "id", "idle_since", "is_doubtful", "ready_at", "removed_at", "said", "service")

    def __init__(self, id: bytes, service: bytes, now: float, order: int) -> None:
        self.id = id
        self.service = service
        self.ready_at = self.heard_at = now
        self.idle_since = order
        self.holds: SeenRequest | None = None
        self.is_doubtful = False  # it was silent for a lease once: the broker may have let it go
        self.removed_at: float | None = None
        self.said = False  # it was removed by a DISCONNECT


class BrokerWatch:
    """One life of one broker, as seen at its socket."""

    def __init__(self, world: MajordomoWorld, node: BrokerNode) -> None:
        self.world = world
        self.node = node
        options = node.options
        self.lease = options.liveness.lease
        self.interval = options.liveness.interval
        self.ttl = options.request_ttl
        self.limit = options.deliveries_max if options.on_worker_loss.value == "retry" else 1
        self.workers: dict[bytes, SeenWorker] = {}
        self.requests: dict[bytes, deque[SeenRequest]] = {}
        self.strangers: set[bytes] = set()
        """Peers that play by no rules, so that nothing can be told from what they say."""
        self.worked_at: dict[bytes, float] = {}
        """When a worker of a service was last given something: a long queue is still a queue."""
        self.most_busy = 0
        """How many workers have had a request at once: as many may have come back to a queue that was full by then."""
        self._order = 0

    def read(self, link: SimLink, frames: Frames) -> Parsed | None:
        """The broker is given a message; what it says."""
        now = self.world.clock.now()
        end = link.sim.by_id.get(frames[0])
        if end is not None and end.peer.host is self.world.hostile:
            self.strangers.add(frames[0])
        message = parse(frames, False)
        if message is None:
            return None
        peer, what, rest = message
        worker = self.workers.get(peer)
        if what == "ASK" and len(rest) > 1:
            self.requests.setdefault(peer, deque()).append(SeenRequest(peer, rest[0], rest[1:], now, self.ttl))
        elif what == "READY" and len(rest) == 1 and (worker is None or worker.removed_at is not None):
            self._order += 1
            self.workers[peer] = SeenWorker(peer, rest[0], now, self._order)
        elif worker is not None:
            worker.is_doubtful |= now - worker.heard_at >= self.lease
            worker.heard_at = now
            if what == "DISCONNECT":
                self._remove(worker, said=True)
            elif what == "REPLY" and worker.holds is not None and rest[:1] == [worker.holds.caller]:
                self._order += 1
                worker.holds = None
                worker.idle_since = self._order
        return message

    def asked(self, link: SimLink, frames: Frames) -> None:
        message = parse(frames, True)
        if message is None or not message.what:
            self.world.violate("B2", f"{self.node.name} wants to send {frames}, which is no message")
            return
        peer, what, rest = message
        if what == "WORK":
            self._work(peer, rest)
        elif what == "DISCONNECT" and peer in self.workers:
            self._remove(self.workers[peer], said=True)
        elif what in ("ANSWER", "ANSWER-PART"):
            self._answer(peer, what, rest)

    def taken(self, link: SimLink, frames: Frames) -> None:
        """ZeroMQ has taken a message for one of its peers."""
        message = parse(frames, True)
        if message is None or message.what != "WORK" or message.id in self.strangers:
            return
        worker = self.workers.get(message.id)
        request = worker.holds if worker is not None else None
        if request is not None:
            request.taken += 1
            if request.taken > self.limit:
                text = f"{self.node.name} delivers a request for the {request.taken}th time, limit {self.limit}"
                self.world.violate("R3", text)

    def failed(self, link: SimLink, frames: Frames) -> None:
        """The broker is told that this was not sent."""
        message = parse(frames, True)
        if message is None:
            return
        worker = self.workers.get(message.id)
        if worker is not None:
            # To one that has left in the same turn it counts: nobody can tell what it would have made of it.
            if message.what == "WORK" and worker.holds is not None and not worker.said:
                worker.holds.deliveries -= 1
            self._remove(worker)
        if message.what == "ANSWER-PART":
            for request in self.requests.get(message.id, ()):
                request.broken = True

    def is_registered(self, peer: bytes) -> bool:
        """Whether the broker must have this worker on its list."""
        worker = self.workers.get(peer)
        return worker is not None and worker.removed_at is None

    @property
    def served(self) -> set[bytes]:
        """The services that have a worker here. For asking whether one is among them."""
        now = self.world.clock.now()
        return {
            worker.service
            for worker in self.workers.values()
            if worker.removed_at is None and now - worker.heard_at < self.lease and not worker.is_doubtful
        }

    def unserved(self) -> int:
        """How many open requests wait for a service that has no worker here."""
        served = self.served
        everything = [request for requests in self.requests.values() for request in requests]
        now = self.world.clock.now()
        return sum(
            not request.answered and request.service not in served and now < request.expiry + self.interval
            for request in everything
        )

    def backlog(self, service: bytes) -> int:
        """How many requests for `service` are open here. Over plain MDP most may be of callers who have gone."""
        now = self.world.clock.now()
        everything = (request for requests in self.requests.values() for request in requests)
        return sum(
            request.service == service and not request.answered and now < request.expiry for request in everything
        )

    def find(self, caller: bytes, frames: Frames) -> SeenRequest | None:
        """The request of `caller` that has this body, the first that is not answered."""
        for request in self.requests.get(caller, ()):
            if request.frames == frames and not request.answered:
                return request
        return None

    def _work(self, peer: bytes, rest: Frames) -> None:
        world, now, name = self.world, self.world.clock.now(), self.node.name
        if peer in self.strangers:
            return
        worker = self.workers.get(peer)
        if worker is None or worker.removed_at not in (None, now):
            world.violate("R4", f"{name} gives work to {peer.hex()}, which is not its worker")
            return
        if len(rest) < 3 or rest[1]:
            world.violate("B2", f"{name} sends a request of the wrong shape: {rest}")
            return
        if worker.holds is not None and worker.removed_at is None:
            world.violate("R3", f"{name} gives a second request to {peer.hex()}")
        request = self.find(rest[0], rest[2:])
        if request is None:
            if rest[0] not in self.strangers:
                world.violate("R4", f"{name} gives out {rest[2:][:3]} of {rest[0].hex()}, which is not open")
            return
        if request.service != worker.service:
            world.violate("R4", f"{name} gives a request for {request.service!r} to a worker of {worker.service!r}")
        if now >= request.expiry:
            world.violate("R4", f"{name} starts a request {now - request.expiry:.3f} s after its time")
        request.deliveries += 1
        request.sent_at = self.worked_at[worker.service] = now
        for other in self.workers.values():
            if (
                other.idle_since < worker.idle_since
                and other.service == worker.service
                and other.holds is None
                and other.removed_at is None
                and other.id not in self.strangers
                and now < other.heard_at + self.lease  # the very sum that the broker compares
                and not other.is_doubtful
            ):
                world.violate("LRU", f"{name} gives work to {peer.hex()} while {other.id.hex()} is idle for longer")
        worker.holds = request
        self.most_busy = max(self.most_busy, sum(other.holds is not None for other in self.workers.values()))

    def _answer(self, peer: bytes, what: str, rest: Frames) -> None:
        if peer in self.strangers:
            return
        for request in self.requests.get(peer, ()):
            if not request.answered and request.service == rest[0]:
                break
        else:
            self.world.violate("R1", f"{self.node.name} answers {peer.hex()}, which has no open request")
            return
        if what == "ANSWER-PART":
            request.is_stream = True
        else:
            request.answered = True
            if (
                rest[1:3] == [b"\0ZPATTERNS-ERROR\0", b"502"]
                and request.deliveries < self.limit
                and not request.is_stream
            ):
                self.world.violate("R3", f"{self.node.name} gives {request.frames[:1]} up after {request.deliveries}")
            if request.service == b"mmi.service":
                self._check_mmi(request.frames[-1], rest[1])
            elif request.service == b"mmi.none" and rest[1:] != [b"501"]:
                self.world.violate("MMI", f"{self.node.name} answers {rest[1:]} for what it does not know")

    def _check_mmi(self, name: bytes, code: bytes) -> None:
        """200 if a worker must be registered, 404 if none can be; either in the moments between."""
        now = self.world.clock.now()
        must = may = False
        # A broker that stood still hears its workers out first, for an interval.
        slack = 3 * self.interval + max(0.0, self.node.usual_lag)
        if now - self.node.resumed_at < 3 * self.interval or self.node.lag > self.node.usual_lag:
            slack += self.lease
        for worker in self.workers.values():
            if worker.service != name:
                continue
            silent = now - worker.heard_at
            if worker.removed_at is None and worker.ready_at < now and silent < self.lease and not worker.is_doubtful:
                must = worker.id not in self.strangers or must
            if worker.removed_at in (None, now) and silent < self.lease + slack:
                may = True
        if (code == b"200" and not may) or (code == b"404" and must) or code not in (b"200", b"404"):
            self.world.violate("MMI", f"{self.node.name} says {code!r} of {name!r}: workers must={must} may={may}")

    def _remove(self, worker: SeenWorker, said: bool = False) -> None:
        if worker.removed_at is None:
            worker.removed_at = self.world.clock.now()
            worker.said = said


class MajordomoObserver(BrokeredObserver["MajordomoWorld", BrokerWatch]):
    """Watches every broker's socket, every handler and every caller."""

    def __init__(self, world: MajordomoWorld) -> None:
        super().__init__(world)
        self._asks: dict[tuple[bytes, bytes], int] = {}
        self._runs: dict[tuple[bytes, bytes], int] = {}

    def make_watch(self, node: Node) -> BrokerWatch:
        assert isinstance(node, BrokerNode)
        return BrokerWatch(self.world, node)

    def read(self, link: SimLink, frames: Frames) -> None:
        watch = self.watches.get(link.node)
        if watch is not None:
            message = watch.read(link, frames)
            if message is not None and message.what == "ASK" and len(message.rest) > 1:
                key = (message.id, message.rest[1])
                self._asks[key] = self._asks.get(key, 0) + 1

    def taken(self, link: SimLink, frames: Frames) -> None:
        super().taken(link, frames)
        if link.node not in self.world.clients:
            return
        message = parse([b"", *frames], False)
        if message is None or message.what != "ASK" or len(message.rest) < 2:
            self.world.violate("B2", f"{link.sim.name} sends {frames}, which is no request")
            return
        call = self.world.ledger.find(message.rest[1])
        if call is not None and call.closed:
            self.world.violate("R4", f"{call} is sent after its caller gave it up")

    def run_begins(self, node: ServingNode, caller: bytes, frames: Frames) -> None:
        key = (caller, frames[0])
        self._runs[key] = runs = self._runs.get(key, 0) + 1
        options = self.world.broker_options
        limit = options.deliveries_max if options.on_worker_loss.value == "retry" else 1
        if runs > limit * self._asks.get(key, 0):
            self.world.violate("R3", f"{frames[0]!r} of {caller.hex()} is run {runs} times, limit {limit}")
        stall_end = self.stalls.get(node)
        if stall_end is not None:
            for watch in self.watches.values():
                request = watch.find(caller, frames)
                if request is not None and request.sent_at < stall_end:
                    self.world.violate("R4", f"{node.name} begins what it was sent before it stood still")

    def measure(self) -> None:
        super().measure()
        world = self.world
        for broker in world.brokers:
            if broker.alive:
                self.check_outboxes(broker.driver.links.values())
                if self.weighs:
                    self._measure_broker(broker)
        for client in world.clients:
            if client.alive:
                self.check_outboxes(client.driver.links.values())
                self._measure_client(client)

    def must_have_ended(self, call: Call) -> bool:
        # Where a broker has no worker for it, a request waits for one, or until the attempt's time is up.
        return all(call.service.encode() in watch.served for watch in self.watches.values())

    def calm_runs(self, call: Call) -> int | None:
        return 1 if call.service in self.world.services else None

    def settled(self) -> None:
        super().settled()
        self.check_unanswered()
        self.check_registered()
        world = self.world
        now = world.clock.now()
        for watch in self.watches.values():
            served = watch.served
            for requests in watch.requests.values():
                for request in requests:
                    if (
                        not request.answered
                        and not request.broken
                        and request.caller not in watch.strangers
                        and now < request.expiry
                        and request.read_at < now - world.lease
                        and request.service in served
                        and watch.worked_at.get(request.service, 0.0) < now - world.lease / 2
                    ):
                        world.violate("R3", f"{watch.node.name} has lost {request.frames[:2]} ({request.deliveries})")

    def finished(self) -> None:
        super().finished()
        world = self.world
        for broker in world.brokers:
            watch = self.watches[broker]
            waiting = watch.unserved() + sum(watch.backlog(service) for service in watch.served)
            self.check_weight(broker.name, broker.core, waiting)

    def _measure_broker(self, broker: BrokerNode) -> None:
        options = broker.options
        # Each counts for 512 bytes at least (BrokerOptions.queue_bytes_max).
        limit = min(options.queue_max * len(self.world.asked_services), options.queue_bytes_max // 512)
        self.check_weight(broker.name, broker.core, limit + self.watches[broker].most_busy)

    def _measure_client(self, client: MajordomoClientNode) -> None:
        if len(client.open) > client.options.max_in_flight + client.options.queue_max:
            self.world.violate("B1", f"{client.name} holds {len(client.open)} calls")
        limit = client.options.max_in_flight * (client.options.retries + 2)
        if len(client.driver.links) > limit:
            self.world.violate("B1", f"{client.name} has {len(client.driver.links)} connections, the limit is {limit}")
