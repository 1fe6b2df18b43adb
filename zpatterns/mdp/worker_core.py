"""One Majordomo worker as a state machine: 7/MDP or 18/MDP, one request at a time. Pure.

What is not Majordomo's is in :mod:`zpatterns.worker_core`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from zpatterns.core import Event, Frames, Rng
from zpatterns.mdp import wire
from zpatterns.mdp.events import BrokerLost, HandlerFailed, HandlerTimedOut, ReadySent
from zpatterns.timing import Liveness
from zpatterns.worker_core import TRANSITIONS, LaneCore, Transitions
from zpatterns.worker_state import WorkerInput, WorkerState
from zpatterns.worker_state import WorkerStatistics as LaneStatistics


@dataclass(frozen=True, slots=True)
class WorkerStatistics(LaneStatistics):
    """As every worker's, and last the `partials`: parts that were sent of streams."""

    partials: int


class WorkerCore(LaneCore):
    """Registers `service` with a broker, in one `version` of the protocol."""

    PORTS: ClassVar[tuple[str, ...]] = ("broker",)
    too_large_hint: ClassVar[str] = "; use protocol 0.2"

    def __init__(
        self,
        endpoints: Sequence[str],
        service: bytes,
        *,
        version: str,
        liveness: Liveness,
        rng: Rng,
        handler_timeout: float | None = None,
        held_bytes_max: int = 16 * 2**20,
    ) -> None:
        super().__init__(
            endpoints, liveness=liveness, rng=rng, handler_timeout=handler_timeout, held_bytes_max=held_bytes_max
        )
        self._service = service
        self._dialect = wire.WORKER_DIALECTS[version]
        self._partials = 0

    # Messages in.

    def _take(self, frames: Frames, now: float) -> None:
        dialect = self._dialect
        parsed = dialect.parse(frames)
        if parsed is None:
            self._drops.add("invalid")
            return
        command, rest = parsed
        if command == dialect.request and len(rest) > 2 and not rest[1]:
            self._heard_at = now
            if not self._step(WorkerInput.REQUEST, now, rest[:2], rest[2:]):
                # 7/MDP: "Workers will handle at most one request a time".
                self._drops.add("second-request")
        elif command == dialect.heartbeat and not rest:
            self._heard_at = now
        elif command == dialect.disconnect and not rest:
            self._step(WorkerInput.DISCONNECT, now, "disconnected by the broker")
        else:
            self._drops.add("invalid")

    # Messages out.

    def handler_partial(self, run: int, frames: Frames, now: float) -> None:
        """The handler of `run` has yielded one part. 0.1 has one REPLY: it carries all the parts, then the last."""
        if self._dialect.partial is None:
            super().handler_partial(run, frames, now)
        elif run == self._run and self._envelope is not None:
            self._partials += 1
            self._send(now, self._dialect.partial, *self._envelope, *(frames or [wire.EMPTY]))

    def _send(self, now: float, command: bytes, *rest: bytes) -> None:
        """Any message of ours puts the next heartbeat off."""
        self._out.append(self._dialect.build(command, *rest))
        self._beat_at = now + self._interval

    def _say_ready(self, now: float) -> None:
        self._send(now, self._dialect.ready, self._service)

    def _say_heartbeat(self, now: float) -> None:
        self._send(now, self._dialect.heartbeat)

    def _say_reply(self, now: float, envelope: Frames, body: Frames) -> None:
        self._send(now, self._dialect.final, *envelope, *body)

    def _say_goodbye(self, now: float) -> None:
        self._send(now, self._dialect.disconnect)

    def _is_awaited(self, frames: Frames) -> bool:
        parsed = self._dialect.parse(frames)
        return parsed is not None and parsed[0] in (self._dialect.final, self._dialect.partial)

    # Telling.

    def _tell_ready(self) -> Event:
        return ReadySent(self._endpoint, self._service)

    def _tell_lost(self, reason: str, delay: float) -> Event:
        return BrokerLost(self._endpoint, reason, delay)

    def _tell_failed(self, code: str, message: str) -> Event:
        return HandlerFailed(self._service, code, message)

    def _tell_timed_out(self, seconds: float) -> Event:
        return HandlerTimedOut(self._service, seconds)

    def statistics(self) -> WorkerStatistics:
        return WorkerStatistics(**self._figures(), partials=self._partials)

    transitions: ClassVar[Transitions] = {
        **TRANSITIONS,
        (WorkerState.IDLE, WorkerInput.DISCONNECT): (LaneCore._lose, WorkerState.AWAY),
        (WorkerState.BUSY, WorkerInput.DISCONNECT): (LaneCore._lose, WorkerState.HELD_UP),
        (WorkerState.FINISHING, WorkerInput.DISCONNECT): (LaneCore._lose, WorkerState.LEAVING),
    }
    """What happens, and the state it leads to; the diagram in docs/majordomo.md is made from it."""
