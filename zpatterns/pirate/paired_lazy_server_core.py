"""The Lazy Pirate server as one half of a pair. Pure."""

from __future__ import annotations

from zpatterns.core import Cancel, Frames, PortId
from zpatterns.paired_core import Ballot
from zpatterns.pirate.lazy_server_core import LazyServerCore


class PairedLazyServerCore(LazyServerCore):
    """Every request is a vote.

    When it gives up, what waits is refused, which invites to ask again; what runs is stopped where that can be done,
    and its answer is not sent.
    """

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
