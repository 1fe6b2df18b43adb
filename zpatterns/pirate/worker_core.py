"""One Pirate worker, Simple or Paranoid, as a state machine: one request at a time (6/PPP; Guide chapter 4). Pure.

What is not the Pirates' is in :mod:`zpatterns.worker_core`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import ClassVar

from zpatterns.core import Event, Frames, Rng
from zpatterns.pirate.events import HandlerFailed, HandlerTimedOut, QueueLost, ReadySent
from zpatterns.pirate.wire import EMPTY, HEARTBEAT, READY, Dialect, envelope_depth
from zpatterns.timing import Liveness
from zpatterns.worker_core import TRANSITIONS, LaneCore, Transitions
from zpatterns.worker_state import WorkerInput, WorkerState

KEPT_MAX = 16
"""Requests that a busy worker keeps. The Guide's queue takes a heartbeat for READY, and may send one with each."""


class WorkerCore(LaneCore):
    """Registers with a queue. It keeps what comes while it is busy, and serves that in order.

    Without heartbeats in its `dialect` it never gives up a queue that is silent, and `liveness` is good for its
    back-off alone. 6/PPP has no word for leaving: who shuts down just goes, and a Paranoid queue of ours finds that
    out.
    """

    PORTS: ClassVar[tuple[str, ...]] = ("queue",)

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        dialect: Dialect,
        liveness: Liveness,
        rng: Rng,
        handler_timeout: float | None = None,
        held_bytes_max: int = 16 * 2**20,
    ) -> None:
        super().__init__(
            endpoints, liveness=liveness, rng=rng, handler_timeout=handler_timeout, held_bytes_max=held_bytes_max
        )
        self._head = list(dialect.head)
        self._has_heartbeats = dialect.has_heartbeats
        if not dialect.has_heartbeats:
            self._interval = self._lease = float("inf")
        self._kept: deque[tuple[Frames, Frames]] = deque()  # envelopes and bodies that came while it was busy

    # Messages in.

    def _take(self, frames: Frames, now: float) -> None:
        head = self._head
        if head:
            if frames[:1] != head:
                self._drops.add("invalid")
                return
            del frames[0]
        if len(frames) > 1:
            self._heard_at = now
            # 6/PPP: "an optional address stack with null terminator"; without one all of it is the body.
            depth = envelope_depth(frames)
            if not self._step(WorkerInput.REQUEST, now, frames[:depth], frames[depth:]):
                self._drops.add("draining")
        elif self._has_heartbeats and frames == [HEARTBEAT]:
            self._heard_at = now
        else:
            self._drops.add("invalid")

    def _keep(self, _now: float, envelope: Frames, body: Frames) -> None:
        if len(self._kept) < KEPT_MAX:
            self._kept.append((envelope, body))
        else:
            self._drops.add("too-many-requests")

    def _returning(self) -> WorkerInput:
        return WorkerInput.RETURN_TO_MORE if self._kept else WorkerInput.RETURN

    def _reply_and_begin(self, now: float, body: Frames) -> None:
        self._reply(now, body)
        self._begin(now, *self._kept.popleft())

    def _forget(self) -> None:
        super()._forget()
        self._drop_kept("abandoned")

    def _drop_stale(self, _now: float) -> None:
        self._drop_kept("stale")

    def _drop_kept(self, reason: str) -> None:
        for _ in self._kept:
            self._drops.add(reason)
        self._kept.clear()

    # Messages out.

    def _say_ready(self, now: float) -> None:
        self._out.append([*self._head, READY])

    def _say_heartbeat(self, now: float) -> None:
        # 6/PPP: "Peers should send heartbeats at regular and agreed-upon intervals", whatever else they send.
        self._out.append([HEARTBEAT])

    def _say_reply(self, now: float, envelope: Frames, body: Frames) -> None:
        if len(envelope) + len(body) == 1:
            envelope = [EMPTY]  # one frame alone would be a command
        self._out.append([*self._head, *envelope, *body])

    def _is_awaited(self, frames: Frames) -> bool:
        return frames != [HEARTBEAT]

    # Telling.

    def _tell_ready(self) -> Event:
        return ReadySent(self._endpoint)

    def _tell_lost(self, reason: str, delay: float) -> Event:
        return QueueLost(self._endpoint, reason, delay)

    def _tell_failed(self, code: str, message: str) -> Event:
        return HandlerFailed(code, message)

    def _tell_timed_out(self, seconds: float) -> Event:
        return HandlerTimedOut(seconds)

    def check_invariants(self) -> None:
        super().check_invariants()
        assert self._envelope is not None or not self._kept, "requests are kept by a worker that has none in hand"
        assert len(self._kept) <= KEPT_MAX

    transitions: ClassVar[Transitions] = {
        **TRANSITIONS,
        (WorkerState.BUSY, WorkerInput.REQUEST): (_keep, WorkerState.BUSY),
        (WorkerState.BUSY, WorkerInput.RETURN_TO_MORE): (_reply_and_begin, WorkerState.BUSY),
        (WorkerState.BUSY, WorkerInput.STALL): (_drop_stale, WorkerState.BUSY),
        (WorkerState.FINISHING, WorkerInput.RETURN_TO_MORE): (_reply_and_begin, WorkerState.FINISHING),
        (WorkerState.FINISHING, WorkerInput.STALL): (_drop_stale, WorkerState.FINISHING),
    }
    """What happens, and the state it leads to; the diagram in docs/pirates.md is made from it."""
