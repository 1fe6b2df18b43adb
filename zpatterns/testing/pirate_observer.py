"""What an outsider can tell of a Pirate cluster's promises: R1, R3, R4, B1, L1, and whose turn it is.

The literal frames of 6/PPP are read here anew, so that an error in :mod:`zpatterns.pirate.wire` shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zpatterns.core import Frames
from zpatterns.testing.driving import SimLink
from zpatterns.testing.judging import BrokeredObserver
from zpatterns.testing.ledger import GRACE
from zpatterns.testing.pirate_nodes import QueueNode
from zpatterns.testing.world import Node

if TYPE_CHECKING:
    from zpatterns.testing.pirate import PirateWorld
    from zpatterns.testing.serving import ServingNode

_ERROR = b"\0ZPATTERNS-ERROR\0"
_READ_AT_ONCE = 16
"""Requests that a driver may have read when the only idle worker has got the first of them."""


class SeenRequest:
    """A request that a queue has read: the `whole` message, its `envelope`, and what became of it."""

    __slots__ = (
        "answered",
        "deliveries",
        "envelope",
        "expiry",
        "is_hostile",
        "read_at",
        "sent_at",
        "taken",
        "was_with_stranger",
        "whole",
    )

    def __init__(self, whole: Frames, now: float, ttl: float) -> None:
        self.whole = whole
        self.envelope = whole[: whole.index(b"", 1) + 1]
        self.read_at = now
        self.expiry = now + ttl
        self.sent_at = 0.0
        self.deliveries = 0
        self.taken = 0
        self.answered = False
        self.is_hostile = False
        self.was_with_stranger = False


class SeenWorker:
    """A peer that a queue must have on its list, unless it is `is_doubtful` or `removed_at` has come."""

    __slots__ = ("given_at", "heard_at", "holds", "id", "idle_since", "is_doubtful", "removed_at")

    def __init__(self, id: bytes, now: float, order: int) -> None:
        self.id = id
        self.heard_at = now
        self.given_at = now
        self.idle_since = order
        self.holds: SeenRequest | None = None
        self.is_doubtful = False
        self.removed_at: float | None = None


class QueueWatch:
    """One life of one queue, as seen at its sockets."""

    def __init__(self, world: PirateWorld, node: QueueNode) -> None:
        self.world = world
        self.node = node
        options = node.options
        self.lease = options.liveness.lease if world.is_paranoid else float("inf")
        self.timeout = options.worker_timeout or float("inf")
        self.ttl = options.request_ttl
        self.limit = options.deliveries_max
        self.head = 0 if world.is_paranoid else 1
        self.workers: dict[bytes, SeenWorker] = {}
        self.requests: list[SeenRequest] = []
        self.strangers: set[bytes] = set()
        """Workers that play by no rules, so that nothing can be told from what they say."""
        self.worked_at = 0.0
        self.due: list[Frames] = []
        """Replies that must be handed on in this very turn."""
        self._order = 0

    # What it reads.

    def read(self, link: SimLink, frames: Frames) -> None:
        end = link.sim.by_id.get(frames[0])
        is_hostile = end is not None and end.peer.host is self.world.hostile
        if link.port == "front":
            self._read_client(list(frames), is_hostile)
            return
        if is_hostile:
            self.strangers.add(frames[0])
        self._read_worker(frames[0], frames[1:])

    def _read_client(self, frames: Frames, is_hostile: bool) -> None:
        if b"" not in frames[1:-1]:
            return
        request = SeenRequest(frames, self.world.clock.now(), self.ttl)
        request.is_hostile = is_hostile
        self.requests.append(request)
        if not self.node.is_leaving:
            self._check_pressure()

    def _check_pressure(self) -> None:
        """Clients are read only while a worker is ready, so not many more can wait here than one batch."""
        idle = sum(worker.holds is None for worker in self.workers.values())
        new = self._new()
        if new > _READ_AT_ONCE + idle + len(self.strangers):
            self.world.violate("B1", f"{self.node.name} goes on reading, though {new} requests wait")

    def _new(self) -> int:
        """How many requests were read and have not had their turn."""
        now = self.world.clock.now()
        return sum(not (seen.answered or seen.deliveries or now >= seen.expiry) for seen in self.requests)

    def _read_worker(self, peer: bytes, message: Frames) -> None:
        now = self.world.clock.now()
        if self.head:
            if len(message) < 2 or message[0]:
                return
            message = message[1:]
        worker = self.workers.get(peer)
        if worker is not None:
            worker.is_doubtful |= self._may_be_gone(worker, now)
        if message == [b"\x01"] or (self.head and b"" in message[:-1]):
            if worker is None or worker.removed_at is not None or self.head or worker.holds is not None:
                if worker is not None and worker.removed_at is None and worker.holds is None:
                    return  # it was idle, and still is
                self._order += 1
                self._replied(worker, message)
                self.workers[peer] = SeenWorker(peer, now, self._order)
            else:
                worker.heard_at = now
        elif worker is not None and (message == [b"\x02"] or b"" in message[:-1]):
            worker.heard_at = now
            if self._replied(worker, message):
                self._order += 1
                worker.holds = None
                worker.idle_since = self._order

    def _replied(self, worker: SeenWorker | None, message: Frames) -> bool:
        """Whether `message` is the reply that a worker owes; it must then be handed on."""
        request = worker.holds if worker is not None else None
        if request is None or worker is None:
            return False
        depth = len(request.envelope)
        if len(message) <= depth or message[:depth] != request.envelope:
            return False
        if worker.removed_at is None and not worker.is_doubtful and not request.answered:
            self.due.append(message)
        return True

    def _may_be_gone(self, worker: SeenWorker, now: float) -> bool:
        """Whether the queue may have let this worker go, as far as anybody can tell."""
        if now - worker.heard_at >= self.lease - GRACE:
            return True
        return worker.holds is not None and now - worker.given_at >= self.timeout - GRACE

    # What it sends.

    def asked(self, link: SimLink, frames: Frames) -> None:
        peer, message = frames[0], frames[1:]
        if link.port == "front":
            self._answer(frames)
            return
        if self.head:
            if message[0]:
                self.world.violate("B2", f"{self.node.name} sends a REQ {frames}")
                return
            message = message[1:]
        elif message == [b"\x02"]:
            return
        if len(message) < 3 or b"" not in message[1:-1]:
            self.world.violate("B2", f"{self.node.name} sends a worker {frames}")
            return
        self._work(peer, message)

    def _work(self, peer: bytes, message: Frames) -> None:
        world, now, name = self.world, self.world.clock.now(), self.node.name
        request = self.find(message)
        if request is None:
            world.violate("R4", f"{name} gives out {message[:4]}, which is not open")
            return
        if now >= request.expiry:
            world.violate("R4", f"{name} starts a request {now - request.expiry:.3f} s after its time")
        for other in self.workers.values():
            if other.holds is request:
                self._let_go(other, request)
        request.deliveries += 1
        request.sent_at = self.worked_at = now
        worker = self.workers.get(peer)
        if peer in self.strangers:
            request.was_with_stranger = True
            if worker is not None:
                worker.holds, worker.given_at = request, now
            return
        if worker is None or worker.removed_at not in (None, now):
            world.violate("R4", f"{name} gives work to {peer.hex()}, which is not its worker")
            return
        if worker.holds is not None and worker.removed_at is None:
            world.violate("R3", f"{name} gives a second request to {peer.hex()}")
        for rival in self.workers.values():
            if rival.idle_since < worker.idle_since and rival.holds is None and self._is_there(rival):
                world.violate("LRU", f"{name} gives work to {peer.hex()} while {rival.id.hex()} is idle for longer")
        worker.holds, worker.given_at = request, now

    def _let_go(self, worker: SeenWorker, request: SeenRequest) -> None:
        """A request is given to another worker: the first must be lost, or have had its time."""
        now = self.world.clock.now()
        is_lost = worker.removed_at is not None or worker.is_doubtful or self._may_be_gone(worker, now)
        if not is_lost and worker.id not in self.strangers:
            self.world.violate("R3", f"{self.node.name} gives {request.whole[:4]} to two workers")
        if worker.removed_at is None:
            worker.removed_at = now
        worker.holds = None

    def _answer(self, frames: Frames) -> None:
        name = self.node.name
        if frames in self.due:
            self.due.remove(frames)
        for request in self.requests:
            depth = len(request.envelope)
            if not request.answered and frames[:depth] == request.envelope and len(frames) > depth:
                break
        else:
            self.world.violate("R1", f"{name} answers {frames[:4]}, and nothing of that envelope is open")
            return
        request.answered = True
        # A Simple queue that will not send a request again has not kept it, and one who lies can lose it.
        limit = self.limit if self.world.is_paranoid else 0 if request.was_with_stranger else 1
        if frames[depth : depth + 2] == [_ERROR, b"502"] and request.deliveries < limit:
            self.world.violate("R3", f"{name} gives {request.whole[:4]} up after {request.deliveries} deliveries")

    def taken(self, link: SimLink, frames: Frames) -> None:
        """ZeroMQ has taken a message for a worker."""
        if link.port != "back" or len(frames) < 4:
            return
        request = self.find(frames[1 + self.head :])
        if request is not None:
            request.taken += 1
            if request.taken > self.limit:
                text = f"{self.node.name} delivers a request for the {request.taken}th time, limit {self.limit}"
                self.world.violate("R3", text)

    def failed(self, link: SimLink, frames: Frames) -> None:
        """The queue is told that this was not sent."""
        if link.port != "back":
            return
        worker = self.workers.get(frames[0])
        if worker is None:
            return
        if len(frames) > 3 and worker.holds is not None:
            worker.holds.deliveries -= 1
        worker.holds = None
        if worker.removed_at is None:
            worker.removed_at = self.world.clock.now()

    # What can be told.

    def is_registered(self, peer: bytes) -> bool:
        """Whether the queue must have this worker on its list."""
        worker = self.workers.get(peer)
        return worker is not None and worker.removed_at is None

    @property
    def has_workers(self) -> bool:
        """Whether the queue must have any on its list."""
        return any(self._is_there(worker) for worker in self.workers.values())

    def _is_there(self, worker: SeenWorker) -> bool:
        is_heard = self.world.clock.now() - worker.heard_at < self.lease and worker.id not in self.strangers
        return is_heard and worker.removed_at is None and not worker.is_doubtful

    def find(self, whole: Frames) -> SeenRequest | None:
        """The first request with this envelope and body that is not answered."""
        for request in self.requests:
            if request.whole == whole and not request.answered:
                return request
        return None

    def check_due(self) -> None:
        """Every reply that came was handed on."""
        if self.due and self.node.paused_at is None:
            self.world.violate("R3", f"{self.node.name} has not handed on {self.due[0][:4]}")

    def check_overdue(self) -> None:
        """A request whose worker has had its time goes to another that is there."""
        now, node = self.world.clock.now(), self.node
        late = 2 * self.world.lease
        if node.paused_at is not None or now - node.resumed_at < late or node.is_leaving:
            return
        if not any(worker.holds is None and self._is_there(worker) for worker in self.workers.values()):
            return
        for worker in self.workers.values():
            request = worker.holds
            is_open = request is not None and not request.answered and now < request.expiry
            if request is not None and is_open and now - worker.given_at > self.timeout + late:
                self.world.violate("R3", f"{node.name} has forgotten {request.whole[:4]}, which nobody answered")

    def held_max(self) -> int:
        """How many requests it may hold at the most."""
        # Those whose worker turned out to be gone at once included: they come back to a queue that is full by then.
        had_their_turn = sum(request.sent_at > 0 and not request.answered for request in self.requests)
        options = self.node.options
        # Each counts for 512 bytes at least (QueueOptions.queue_bytes_max).
        return min(options.queue_max, options.queue_bytes_max // 512) + had_their_turn + len(self.strangers)

    def backlog(self) -> int:
        """How many requests wait for their turn, those included that are not read before a worker is ready."""
        front = self.node.driver.links["front"]
        assert isinstance(front, SimLink)
        return self._new() + sum(len(end.inbox) for end in front.sim.ends)

    def check_lost(self) -> None:
        """R3: nothing that was accepted is neither with a worker, nor waiting while none is ready."""
        now = self.world.clock.now()
        if now - self.worked_at < self.world.lease / 2:
            return  # a long queue is still a queue
        if not any(worker.holds is None and self._is_there(worker) for worker in self.workers.values()):
            return
        held = [worker.holds for worker in self.workers.values() if worker.removed_at is None]
        for request in self.requests:
            if (
                not request.answered
                and not request.is_hostile
                and now < request.expiry
                and request.read_at < now - self.world.lease
                and request not in held
            ):
                self.world.violate("R3", f"{self.node.name} has lost {request.whole[:4]} ({request.deliveries})")


class PirateObserver(BrokeredObserver["PirateWorld", QueueWatch]):
    """Watches every queue's sockets, every handler and every caller."""

    def make_watch(self, node: Node) -> QueueWatch:
        assert isinstance(node, QueueNode)
        return QueueWatch(self.world, node)

    def run_begins(self, node: ServingNode, caller: bytes, frames: Frames) -> None:
        stall_end = self.stalls.get(node)
        if stall_end is None or not self.world.is_paranoid:
            return
        # Two attempts of one call look alike here: the later of those that were given out is the one.
        given_out = [
            request.sent_at
            for watch in self.watches.values()
            for request in watch.requests
            if request.whole[0] == caller and request.whole[len(request.envelope) :] == frames and request.sent_at
        ]
        if given_out and max(given_out) < stall_end:
            self.world.violate("R4", f"{node.name} begins what it was sent before it stood still")

    def measure(self) -> None:
        super().measure()
        world = self.world
        for queue in world.queues:
            if not queue.alive:
                continue
            self.check_outboxes(queue.driver.links.values())
            watch = self.watches[queue]
            watch.check_due()
            watch.check_overdue()
            if self.weighs:
                self.check_weight(queue.name, queue.core, watch.held_max())

    def settled(self) -> None:
        super().settled()
        self.check_registered()
        if self.world.is_paranoid:
            self.check_unanswered()
            for watch in self.watches.values():
                watch.check_lost()

    def finished(self) -> None:
        super().finished()
        world = self.world
        for queue in world.queues:
            watch = self.watches[queue]
            # A long queue is still a queue; and of two queues, one may be left without workers.
            if watch.has_workers and world.clock.now() - watch.worked_at > world.lease / 2:
                self.check_weight(queue.name, queue.core, 0)
