"""The Simple Pirate queue as a state machine (Guide chapter 4). Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import ClassVar

from zpatterns.core import Frames
from zpatterns.pirate.events import WorkerLost, WorkerRegistered
from zpatterns.pirate.queue_core import QueueCore
from zpatterns.pirate.queue_state import FRAMES, QueueOptions, Worker
from zpatterns.pirate.wire import READY, SIMPLE, Dialect, envelope_depth, shares_envelope


class SimpleQueueCore(QueueCore):
    """A worker is what said READY or sent a reply: a REQ does either only when it can take a request next.

    Nothing is heard of a worker between a request and its reply, so one that is slow is not told from one that is dead:
    a request in its hands comes back only when `worker_timeout` is over.
    """

    DIALECT: ClassVar[Dialect] = SIMPLE

    def __init__(self, options: QueueOptions) -> None:
        super().__init__(options)
        # Its first is asked for with each worker too many, and a plain dict looks for it among all that were deleted.
        self._busy = OrderedDict()
        # What is not sent again need not be kept, for a worker that may never answer.
        self._sends_again = options.worker_timeout is not None

    def _receive_workers(self, batch: Iterable[Frames], now: float) -> None:
        busy = self._busy
        for frames in batch:
            count = len(frames)
            if count < 3 or frames[1]:
                self._drops.add("invalid")
                continue
            worker = busy.get(frames[0])
            if worker is not None and worker.request is not None and shares_envelope(frames, 2, worker.request[FRAMES]):
                worker.request = None
                del busy[worker.id]
                self._replies += 1
                self._front.append(frames[2:])
                self._ready(worker, now)
                continue
            if count > 3 and envelope_depth(frames, 2):
                # Late, after its time was over or from before this queue's start; or to somebody else's request.
                self._drops.add("late" if worker is None else "unexpected")
                self._is_ready(frames[0], worker, now)
            elif count == 3 and frames[2] == READY:
                self._is_ready(frames[0], worker, now)
            else:
                self._drops.add("invalid")

    def _is_ready(self, peer: bytes, worker: Worker | None, now: float) -> None:
        """A worker, `worker` if it is busy, has said that it can take a request, though not with the reply it owes."""
        if worker is not None:
            if worker.given_at == now:
                return  # it said so before it could have got the request of this very turn
            # It began anew, or a lying one did not say what it was asked for.
            self._lose(worker, WorkerLost(peer, "began anew"), now)
        elif peer in self._workers:
            return
        elif len(self._workers) >= self.options.workers_max and not self._forget_busy(now):
            self._drops.add("too-many-workers")
            return
        self._events.append(WorkerRegistered(peer))
        self._workers[peer] = Worker(peer, self.DIALECT.head)
        self._ready(self._workers[peer], now)

    def _forget_busy(self, now: float) -> bool:
        """Forget the worker that has been busy for longest, most likely dead for long. Returns whether there is one."""
        if not self._busy:
            return False
        worker = next(iter(self._busy.values()))
        self._lose(worker, WorkerLost(worker.id, "too many workers"), now)
        return True
