"""What the core of a service needs to be one half of a pair (:mod:`zpatterns.bstar`). Pure.

A half that stands by is at an orderly end, as after :meth:`~zpatterns.core.ServiceCore.shut_down`, but comes back. It
begins there, and keeps nothing that it held for its peers when it was active: the other half knows nothing of that.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

from zpatterns.core import Frames, PortId, ServiceCore


class Ballot(enum.Enum):
    """Whether a message asks this half to serve."""

    NONE = "no vote"
    """It is the core's whatever this half is: a core that stands by has an answer, or drops it."""
    DROPPED = "a vote"
    """Where it is refused it is dropped, so that its sender turns to the other half."""
    ANSWERED = "a vote that is answered"
    """Where it is refused the core, standing by, tells its sender so."""


class Copy(NamedTuple):
    """How new what one half holds is: under which epoch it was made, and how far it goes. The greater is the newer."""

    epoch: int
    sequence: int


NOTHING = Copy(0, 0)


class Told(NamedTuple):
    """What one half tells the other of its service: the port where it can be copied from, how new what it holds is, and
    the name of this life of it. A service that holds nothing says nothing."""

    port: int | None = None
    copy: Copy = NOTHING
    life: bytes = b""


class Peer(NamedTuple):
    """The other half as it was last heard: its machine, such as ``tcp://10.0.0.2``, and what it said."""

    place: str
    is_active: bool
    is_passive: bool
    epoch: int
    told: Told


class PairedCore(ServiceCore, Protocol):
    """The core of a service that can be one half of a pair."""

    epoch: int
    """The pair's, set before :meth:`take_over`."""

    has_copy: bool
    """Whether it holds what it would serve with. Without, no vote makes it serve."""

    def ballot(self, frames: Frames, port: PortId) -> Ballot:
        """What a message of `port` counts for. Never raises."""

    def stand_by(self, now: float) -> None:
        """Serve nobody from now on; what was begun is given up. May be called while it stands by."""

    def take_over(self, now: float) -> None:
        """Serve from now on."""

    def told(self) -> Told:
        """What the other half is told of it."""

    def peer_told(self, peer: Peer, now: float) -> None:
        """The other half said what it is."""

    def peer_lost(self, now: float) -> None:
        """The other half is silent."""


class Stateless:
    """A half that needs nothing of the other: what it held for its peers they bring again."""

    epoch = 0
    has_copy = True

    def told(self) -> Told:
        return Told()

    def peer_told(self, peer: Peer, now: float) -> None:
        pass

    def peer_lost(self, now: float) -> None:
        pass
