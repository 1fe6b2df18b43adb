"""Cores as halves of a pair: what is a vote among their messages, and how they stand by and take over. Pure.

A half that stands by is at an orderly end, as after :meth:`~zpatterns.core.ServiceCore.shut_down`, but comes back. It
begins there, and keeps nothing of what it held when it was active: the other half knows nothing of that.
"""

from __future__ import annotations

import enum
from typing import Protocol

from zpatterns.core import Cancel, Frames, PortId, ServiceCore
from zpatterns.mdp.broker_core import BrokerCore
from zpatterns.mdp.wire import CLIENT_1, CLIENT_2, CLIENT_REQUEST_2, READY_1, READY_2, WORKER_1, WORKER_2
from zpatterns.pirate.lazy_server_core import LazyServerCore


class Ballot(enum.Enum):
    """Whether a message asks this half to serve."""

    NONE = "no vote"
    """It is the core's whatever this half is: a core that stands by has an answer, or drops it."""
    DROPPED = "a vote"
    """Where it is refused it is dropped, so that its sender turns to the other half."""
    ANSWERED = "a vote that is answered"
    """Where it is refused the core, standing by, tells its sender so."""


class PairedCore(ServiceCore, Protocol):
    """The core of a service that can be one half of a pair."""

    def ballot(self, frames: Frames, port: PortId) -> Ballot:
        """What a message of `port` counts for. Never raises."""

    def stand_by(self, now: float) -> None:
        """Serve nobody from now on; what was begun is given up. May be called while it stands by."""

    def take_over(self, now: float) -> None:
        """Serve from now on."""


class PairedBrokerCore(BrokerCore):
    """A Majordomo broker as half of a pair: REQUEST and READY are votes, heartbeats are not.

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


class PairedServerCore(LazyServerCore):
    """A server around a handler as half of a pair: every request is a vote.

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


def paired_core(core: object, service: object) -> PairedCore:
    """What takes the place of the `core` of a `service` in a pair. Errors: TypeError for what cannot be half of one."""
    if type(core) is BrokerCore:
        return PairedBrokerCore(core.options)
    if type(core) is LazyServerCore:
        return PairedServerCore(core.options)
    raise TypeError(
        f"a {type(service).__name__} cannot be one half of a pair: a Broker or a LazyPirateServer can, and a handler"
    )
