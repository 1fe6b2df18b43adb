"""What a Binary Star node can be, what can happen to it, and what it is given: the words of its machine. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from zpatterns.bstar import wire
from zpatterns.paired_core import Told
from zpatterns.timing import Liveness


class State(enum.Enum):
    """Where a node is. The first two differ by its role only: it waits to hear from the other."""

    PRIMARY = "primary waiting"
    BACKUP = "backup waiting"
    ACTIVE = "active"
    PASSIVE = "passive"


class Input(enum.Enum):
    """What happens to a node."""

    PEER_PRIMARY = "peer is primary waiting"
    PEER_BACKUP = "peer is backup waiting"
    PEER_ACTIVE = "peer is active"
    PEER_OUTRANKED = "peer is active and has the lower epoch"
    PEER_PASSIVE = "peer is passive"
    PEER_STUCK = "peer is passive for a lease"
    PEER_OLDER = "peer waits with an older copy"
    PEER_NEWER_THAN_PRIMARY = "peer waits with a newer copy than the primary's"
    PEER_NEWER_THAN_BACKUP = "peer waits with a newer copy than the backup's"
    REQUEST = "request"
    REQUEST_PEER_DEAD = "request and peer dead"
    REQUEST_ALONE = "request and no primary to wait for"
    PROMOTE = "promote"
    PRIMARY_YIELDS = "primary steps down"
    BACKUP_YIELDS = "backup steps down"


class Action(enum.Enum):
    """What a node does about it."""

    BECOME_ACTIVE = "become active"
    BECOME_PASSIVE = "become passive"
    MAKE_WAY = "make way"
    GIVE_UP = "give up"


CHANGES: Mapping[tuple[State, Input], tuple[Action, State]] = {
    (State.PRIMARY, Input.PEER_BACKUP): (Action.BECOME_ACTIVE, State.ACTIVE),
    (State.PRIMARY, Input.PEER_OLDER): (Action.BECOME_ACTIVE, State.ACTIVE),
    (State.PRIMARY, Input.PEER_ACTIVE): (Action.BECOME_PASSIVE, State.PASSIVE),
    (State.PRIMARY, Input.PEER_OUTRANKED): (Action.BECOME_PASSIVE, State.PASSIVE),
    (State.PRIMARY, Input.REQUEST_PEER_DEAD): (Action.BECOME_ACTIVE, State.ACTIVE),
    (State.PRIMARY, Input.REQUEST_ALONE): (Action.BECOME_ACTIVE, State.ACTIVE),
    (State.PRIMARY, Input.PROMOTE): (Action.BECOME_ACTIVE, State.ACTIVE),
    (State.BACKUP, Input.PEER_OLDER): (Action.BECOME_ACTIVE, State.ACTIVE),
    (State.BACKUP, Input.PEER_ACTIVE): (Action.BECOME_PASSIVE, State.PASSIVE),
    (State.BACKUP, Input.PEER_OUTRANKED): (Action.BECOME_PASSIVE, State.PASSIVE),
    (State.BACKUP, Input.REQUEST_ALONE): (Action.BECOME_ACTIVE, State.ACTIVE),
    (State.BACKUP, Input.PROMOTE): (Action.BECOME_ACTIVE, State.ACTIVE),
    (State.ACTIVE, Input.PEER_ACTIVE): (Action.GIVE_UP, State.PASSIVE),
    (State.ACTIVE, Input.PRIMARY_YIELDS): (Action.GIVE_UP, State.PRIMARY),
    (State.ACTIVE, Input.BACKUP_YIELDS): (Action.GIVE_UP, State.BACKUP),
    (State.PASSIVE, Input.PEER_PRIMARY): (Action.BECOME_ACTIVE, State.ACTIVE),
    (State.PASSIVE, Input.PEER_BACKUP): (Action.BECOME_ACTIVE, State.ACTIVE),
    (State.PASSIVE, Input.PEER_STUCK): (Action.BECOME_ACTIVE, State.ACTIVE),
    (State.PASSIVE, Input.PEER_OLDER): (Action.BECOME_ACTIVE, State.ACTIVE),
    (State.PASSIVE, Input.PEER_NEWER_THAN_PRIMARY): (Action.MAKE_WAY, State.PRIMARY),
    (State.PASSIVE, Input.PEER_NEWER_THAN_BACKUP): (Action.MAKE_WAY, State.BACKUP),
    (State.PASSIVE, Input.REQUEST_PEER_DEAD): (Action.BECOME_ACTIVE, State.ACTIVE),
    (State.PASSIVE, Input.REQUEST_ALONE): (Action.BECOME_ACTIVE, State.ACTIVE),
    (State.PASSIVE, Input.PROMOTE): (Action.BECOME_ACTIVE, State.ACTIVE),
}
"""What leads to another state; the diagram in docs/binary-star.md is made from it."""

TRANSITIONS: Mapping[tuple[State, Input], tuple[Action | None, State]] = {
    **{(state, what): (None, state) for state in State for what in Input},
    **CHANGES,
}
"""All that can happen, and the state it leads to. A request that leads nowhere is served by an active and refused by
any other."""


class Verdict(enum.Enum):
    """What becomes of a vote."""

    SERVE = "serve"
    HOLD = "hold"
    REFUSE = "refuse"


DIGITS = {
    State.PRIMARY: wire.PRIMARY_WAITING,
    State.BACKUP: wire.BACKUP_WAITING,
    State.ACTIVE: wire.ACTIVE,
    State.PASSIVE: wire.PASSIVE,
}
STATES = {digit: state for state, digit in DIGITS.items()}
HEARD = {
    State.PRIMARY: Input.PEER_PRIMARY,
    State.BACKUP: Input.PEER_BACKUP,
    State.ACTIVE: Input.PEER_ACTIVE,
    State.PASSIVE: Input.PEER_PASSIVE,
}


@dataclass(frozen=True, slots=True)
class StarOptions:
    """What a node is given; durations in seconds. :class:`zpatterns.bstar.BinaryStar` explains it.

    `has_hooks`, `has_fence`: the front end does errands of these kinds. `longest_turn`: how long one turn may take,
    which is taken off the lease of a fence; None is one heartbeat interval.
    """

    primary: bool
    remote: str
    liveness: Liveness = field(default_factory=lambda: Liveness(1.0, 2))
    lone_backup_after: float | None = None
    has_hooks: bool = False
    has_fence: bool = False
    longest_turn: float | None = None

    def __post_init__(self) -> None:
        if self.liveness.liveness < 2:
            raise ValueError("liveness of a pair must be at least 2: one lost heartbeat must not be a failover")
        if self.lone_backup_after is not None:
            if self.primary:
                raise ValueError("lone_backup_after is for the backup: a primary needs nobody's leave to serve")
            if not self.liveness.lease <= self.lone_backup_after < float("inf"):
                raise ValueError(
                    f"lone_backup_after must be at least heartbeat_interval x liveness, {self.liveness.lease:g} s, "
                    f"not {self.lone_backup_after!r}"
                )
        if self.longest_turn is not None and not 0 < self.longest_turn < float("inf"):
            raise ValueError(f"longest_turn must be a positive number of seconds, not {self.longest_turn!r}")


def differences(options: StarOptions, peer: wire.PeerState, state: State) -> dict[str, tuple[str, str]]:
    """What the other node, in `state`, was given otherwise than we were: by name, our value and its."""
    ours = options.liveness
    found = {}
    if peer.interval is not None and abs(peer.interval - ours.interval) > 1e-6 * ours.interval:
        found["heartbeat_interval"] = f"{ours.interval:g}", f"{peer.interval:g}"
    if peer.liveness is not None and peer.liveness != ours.liveness:
        found["liveness"] = str(ours.liveness), str(peer.liveness)
    if state is (State.PRIMARY if options.primary else State.BACKUP):
        role = "primary" if options.primary else "backup"
        found["role"] = role, role
    return found


def compare_copies(what: Input, primary: bool, ours: Told, theirs: Told) -> Input:
    """Of two nodes that wait, or are stuck, the one with the newer copy is to serve, if ours holds anything."""
    if ours.port is not None and what in (Input.PEER_PRIMARY, Input.PEER_BACKUP, Input.PEER_STUCK):
        if theirs.copy > ours.copy:
            return Input.PEER_NEWER_THAN_PRIMARY if primary else Input.PEER_NEWER_THAN_BACKUP
        if theirs.copy < ours.copy:
            return Input.PEER_OLDER
    return what


@dataclass(frozen=True, slots=True)
class StarStatistics:
    """What a node is now, then counters since its start.

    `state`, `peer_state`: as in :class:`State`, the peer's empty before it was heard. `serving`: active, and
    `on_active` done. `peer_epoch` is None for a peer that tells none, such as one of the Guide's. `peer_silent`: it
    counts as dead. `refused`: votes read and dropped. `dropped`: messages by reason.
    """

    role: str
    state: str
    epoch: int
    serving: bool
    peer_state: str
    peer_epoch: int | None
    peer_silent: bool
    activations: int
    step_downs: int
    two_actives: int
    stalls: int
    refused: int
    heartbeats: int
    heard: int
    dropped: dict[str, int]

    def status(self) -> dict[str, Any]:
        """What an operator is told, fit for JSON."""
        return {
            "role": self.role,
            "state": self.state,
            "epoch": self.epoch,
            "serving": self.serving,
            "peer": {"state": self.peer_state, "epoch": self.peer_epoch, "silent": self.peer_silent},
            "refused": self.refused,
        }


class Grant(NamedTuple):
    """A lease that a fence gives: for how many `seconds` from now, and the `epoch` to serve under. That is at least the
    one that was asked for, and higher than any that was given before; a pair that was restarted knows no better."""

    seconds: float
    epoch: int


class Application(Protocol):
    """What a node decides about: it serves, or stands by."""

    @property
    def has_copy(self) -> bool:
        """Whether it holds what it would serve with."""

    def told(self) -> Told:
        """What the other node is told of it."""

    def peer_told(self, peer: wire.PeerState, now: float) -> None:
        """The other node said what it is."""

    def peer_lost(self, now: float) -> None:
        """The other node is silent."""

    def take_over(self, now: float) -> None:
        """Serve from now on."""

    def stand_by(self, now: float) -> None:
        """Serve nobody from now on, and give up what was begun. May be called while it stands by."""
