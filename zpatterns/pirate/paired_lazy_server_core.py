"""The Lazy Pirate server as one half of a pair. Pure."""

from __future__ import annotations

from collections.abc import Callable

from zpatterns.core import Cancel, Frames, PortId
from zpatterns.paired_core import Ballot, Stateless
from zpatterns.pirate.lazy_server_core import LazyServerCore
from zpatterns.server_core import ServerOptions


class PairedLazyServerCore(Stateless, LazyServerCore):
    """Every request is a vote.

    When it gives up, what waits is refused, which invites to ask again; what runs is stopped where that can be done,
    and its answer is not sent.
    """

    def __init__(self, options: ServerOptions, look: Callable[[float], None]) -> None:
        super().__init__(options)
        self._look = look

    def ballot(self, frames: Frames, port: PortId) -> Ballot:
        return Ballot.DROPPED if self._depth(frames, 0.0) > 0 else Ballot.NONE

    def stand_by(self, now: float) -> None:
        self.drain(now)
        for run, request in self._running.items():
            if not request.answered:
                request.answered = True
                self._commands.append(Cancel(run))

    def take_over(self, now: float) -> None:
        self._draining = False

    # When a handler ends the next request has its turn.

    def handler_partial(self, run: int, frames: Frames, now: float) -> None:
        self._look(now)
        super().handler_partial(run, frames, now)

    def handler_done(self, run: int, frames: Frames, now: float) -> None:
        self._look(now)
        super().handler_done(run, frames, now)

    def handler_failed(self, run: int, code: str, message: str, now: float) -> None:
        self._look(now)
        super().handler_failed(run, code, message, now)
