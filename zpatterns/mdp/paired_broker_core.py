"""The Majordomo broker as one half of a pair. Pure."""

from __future__ import annotations

from zpatterns.core import Frames, PortId
from zpatterns.mdp.broker_core import BrokerCore
from zpatterns.mdp.wire import CLIENT_1, CLIENT_2, CLIENT_REQUEST_2, READY_1, READY_2, WORKER_1, WORKER_2
from zpatterns.paired_core import Ballot, Stateless


class PairedBrokerCore(Stateless, BrokerCore):
    """REQUEST and READY are votes, heartbeats are not.

    Standing by it answers READY with DISCONNECT, so that workers turn to the other half, and drops REQUESTs. When it
    gives up, the clients of what it held are invited to ask again, and its workers are disconnected.
    """

    def ballot(self, frames: Frames, port: PortId) -> Ballot:
        count = len(frames)
        if count > 4 and not frames[1]:
            if frames[2] == CLIENT_1:
                return Ballot.DROPPED
            if count == 5 and frames[2] == WORKER_1 and frames[3] == READY_1:
                return Ballot.ANSWERED
        elif count > 4 and frames[1] == CLIENT_2 and frames[2] == CLIENT_REQUEST_2:
            return Ballot.DROPPED
        elif count == 4 and frames[1] == WORKER_2 and frames[2] == READY_2:
            return Ballot.ANSWERED
        return Ballot.NONE

    def stand_by(self, now: float) -> None:
        self.drain(now)
        self.shut_down(now)

    def take_over(self, now: float) -> None:
        self._draining = self._stopped = False
