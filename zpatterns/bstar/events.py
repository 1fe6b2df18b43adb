"""What happens in one half of a Binary Star pair, told as events. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zpatterns.core import Event


@dataclass(frozen=True, slots=True)
class StarEvent(Event):
    """Something that happened in the state machine of a node, not in what it hosts."""


@dataclass(frozen=True, slots=True)
class BecameActive(StarEvent):
    """The node serves from now on, or does once `on_active` is done; `reason`: what happened."""

    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class BecamePassive(StarEvent):
    """The other node is active, and this one stands by."""

    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class SteppedDown(StarEvent):
    """The node was active and gave that up, for the `reason` given: the other one may have it."""

    level: ClassVar[str] = "warning"
    epoch: int
    reason: str


@dataclass(frozen=True, slots=True)
class MadeWay(StarEvent):
    """The node was passive and waits now, so that the other one serves: what that holds is newer."""

    reason: str


@dataclass(frozen=True, slots=True)
class TwoActives(StarEvent):
    """Both nodes were active: the link between them was cut, or one stood still. The one that `stays` is told by the
    epochs, then by the role; what the other did since they parted is its application's to give up."""

    level: ClassVar[str] = "error"
    stays: bool
    epoch: int
    peer_epoch: int


@dataclass(frozen=True, slots=True)
class PeerHeard(StarEvent):
    """The other node's state was heard, for the first time or after a silence."""

    state: str


@dataclass(frozen=True, slots=True)
class PeerSilent(StarEvent):
    """Nothing was heard of the other node for a whole lease: it counts as dead."""

    level: ClassVar[str] = "warning"
    seconds: float


@dataclass(frozen=True, slots=True)
class PeerDiffers(StarEvent):
    """The other node was given other values than this one, for instance another heartbeat interval, or the same
    role: `what` says which, `ours` and `theirs` are the values."""

    level: ClassVar[str] = "error"
    what: str
    ours: str
    theirs: str


@dataclass(frozen=True, slots=True)
class StoodStill(StarEvent):
    """Nothing could run here for `seconds`: whatever the clock says, the other node has to be heard anew."""

    level: ClassVar[str] = "warning"
    seconds: float


@dataclass(frozen=True, slots=True)
class LeaseRefused(StarEvent):
    """The fence did not give this node the lease for `epoch`, or not in time, so it does not become active."""

    level: ClassVar[str] = "warning"
    epoch: int
