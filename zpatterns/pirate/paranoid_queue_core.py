"""The Paranoid Pirate queue as a state machine (6/PPP, where it is the "client"). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from zpatterns.core import Frames, PortId
from zpatterns.pirate.events import WorkerExpired, WorkerLost, WorkerRegistered
from zpatterns.pirate.queue_core import QueueCore
from zpatterns.pirate.queue_state import FRAMES, IdleLine, QueueOptions, Worker
from zpatterns.pirate.wire import HEARTBEAT, PARANOID, READY, Dialect, envelope_depth, shares_envelope
from zpatterns.timing import Deadlines


class ParanoidQueueCore(QueueCore):
    """A worker is what said READY and has been heard within its lease, idle or busy; only READY and the reply it owes
    make it idle."""

    DIALECT: ClassVar[Dialect] = PARANOID

    def __init__(self, options: QueueOptions) -> None:
        super().__init__(options)
        self._interval = options.liveness.interval
        self._lease = options.liveness.lease
        self._checks: Deadlines[Worker] = Deadlines()
        self._last_now = float("inf")
        self._grace_until = 0.0

    # Messages in.

    def receive_many(self, batch: Iterable[Frames], now: float, port: PortId) -> None:
        self._notice_stall(now)
        super().receive_many(batch, now, port)

    def _receive_workers(self, batch: Iterable[Frames], now: float) -> None:
        busy, idle, waiting, front = self._busy, self._idle, self._waiting, self._front
        expiry, replies = now + self._lease, 0
        for frames in batch:
            if len(frames) > 3 and (worker := busy.get(frames[0])) is not None:
                request = worker.request
                assert request is not None
                asked = request[FRAMES]
                # First what all clients are that stand right before us, and cheap to tell.
                if (frames[1] == asked[0] and not frames[2] and not asked[1]) or shares_envelope(frames, 1, asked):
                    worker.expiry = expiry
                    worker.request = None
                    del busy[worker.id]
                    del frames[0]
                    replies += 1
                    front.append(frames)
                    if waiting.bytes:
                        self._ready(worker, now)
                    else:
                        idle.append(worker)
                    continue
            self._other(frames, now)
        self._replies += replies

    def _other(self, frames: Frames, now: float) -> None:
        """A message that is not the reply which its sender owes."""
        worker = self._workers.get(frames[0]) if frames else None
        if len(frames) == 2 and frames[1] == READY:
            self._said_ready(frames[0], worker, now)
        elif len(frames) == 2 and frames[1] == HEARTBEAT:
            if worker is not None:
                worker.expiry = now + self._lease
            else:
                # 6/PPP: "The first message in any conversation MUST be W:READY". It hears nothing from us, and so
                # will begin one.
                self._drops.add("not-registered")
        elif not envelope_depth(frames, 1):
            self._drops.add("invalid")
        elif worker is not None:
            self._drops.add("unexpected")
            worker.expiry = now + self._lease
        else:
            self._drops.add("not-registered")

    def _said_ready(self, peer: bytes, worker: Worker | None, now: float) -> None:
        if worker is not None:
            if worker.request is None or worker.given_at == now:
                # It said so before it could have got the request of this very turn.
                worker.expiry = now + self._lease
                return
            # A new conversation: what it was given in the old one is in nobody's hands.
            self._lose(worker, WorkerLost(peer, "began anew"), now)
        worker = self._workers[peer] = Worker(peer, self.DIALECT.head)
        worker.expiry = now + self._lease
        worker.beat_at = worker.deadline = now + self._interval
        self._checks.add(worker)
        self._events.append(WorkerRegistered(peer))
        self._ready(worker, now)

    # Time.

    def _notice_stall(self, now: float) -> None:
        """If we ourselves stood still, the workers' heartbeats wait unread: hear them out before judging."""
        if now - self._last_now > self._interval * 1.5:
            self._grace_until = now + self._interval
        self._last_now = now

    def next_timer(self) -> float | None:
        when, check = super().next_timer(), self._checks.next()
        if when is None or check is None:
            return when if check is None else check
        return min(when, check)

    def handle_timer(self, now: float) -> None:
        self._notice_stall(now)
        # Heartbeats may go a little early, so that many workers share one wake-up.
        soon = now + self._interval / 20
        expired = []
        for worker in self._checks.due(soon):
            if worker.expiry <= now and now >= self._grace_until:
                expired.append(worker)
                self._idle.discard(worker)  # or it would be given the request of another that is expired too
                continue
            if worker.beat_at <= soon:
                self._back.append([worker.id, HEARTBEAT])
                self._heartbeats += 1
                worker.beat_at = now + self._interval
            worker.deadline = min(worker.beat_at, max(worker.expiry, self._grace_until))
            self._checks.add(worker)
        for worker in expired:
            self._lose(worker, WorkerExpired(worker.id), now)
        super().handle_timer(now)

    def shut_down(self, now: float) -> None:
        super().shut_down(now)
        for worker in self._workers.values():
            worker.deadline = None
        self._workers.clear()
        self._idle = IdleLine()

    def check_invariants(self) -> None:
        super().check_invariants()
        assert all(worker.deadline is not None for worker in self._workers.values()), "nobody watches a worker"
