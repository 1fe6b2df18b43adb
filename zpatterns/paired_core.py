"""What the core of a service needs to be one half of a pair (:mod:`zpatterns.bstar`). Pure.

A half that stands by is at an orderly end, as after :meth:`~zpatterns.core.ServiceCore.shut_down`, but comes back. It
begins there, and keeps nothing that it held for its peers when it was active: the other half knows nothing of that.
"""

from __future__ import annotations

import enum
from typing import Protocol

from zpatterns.core import Frames, PortId, ServiceCore


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
