"""The Pirate queues as halves of a pair. Pure."""

from __future__ import annotations

from zpatterns.core import Frames, PortId
from zpatterns.paired_core import Ballot, Stateless
from zpatterns.pirate.paranoid_queue_core import ParanoidQueueCore
from zpatterns.pirate.queue_core import FRONT, QueueCore
from zpatterns.pirate.queue_state import Worker
from zpatterns.pirate.simple_queue_core import SimpleQueueCore
from zpatterns.pirate.wire import envelope_depth


class _PairedQueueCore(Stateless, QueueCore):
    """Every request of a client is a vote, and nothing of a worker is. Standing by it reads clients, and drops what
    they ask; when it gives up, the clients of what it held are invited to ask again."""

    def ballot(self, frames: Frames, port: PortId) -> Ballot:
        return Ballot.DROPPED if port == FRONT and envelope_depth(frames, 1) else Ballot.NONE

    def stand_by(self, now: float) -> None:
        self.shut_down(now)

    def take_over(self, now: float) -> None:
        self._draining = False


class PairedSimpleQueueCore(_PairedQueueCore, SimpleQueueCore):
    """Standing by it remembers its workers: each says READY once, and could not be told to say it elsewhere."""


class PairedParanoidQueueCore(_PairedQueueCore, ParanoidQueueCore):
    """Standing by it has no workers: it drops READY and sends no heartbeats. 6/PPP has no word to send a worker away,
    but one that hears nothing turns to the next queue of its list after a lease."""

    def _said_ready(self, peer: bytes, worker: Worker | None, now: float) -> None:
        if self._draining and worker is None:
            self._drops.add("standing-by")
        else:
            super()._said_ready(peer, worker, now)
