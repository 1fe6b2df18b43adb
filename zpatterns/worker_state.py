"""What a worker may be doing, what changes that, and its figures. Pure."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class WorkerState(enum.Enum):
    """What a worker is doing. :data:`zpatterns.worker_core.TRANSITIONS` says what becomes of it."""

    __hash__ = object.__hash__  # a request looks seven of these up, and an enum's own is written in Python

    AWAY = "away"
    """No connection; the next is made after a back-off."""
    IDLE = "idle"
    """READY was said."""
    BUSY = "busy"
    """A request is in the handler's hands."""
    FINISHING = "finishing"
    """The same, and no more is taken."""
    HELD_UP = "held up"
    """No connection, and none is made before the handler has returned: nobody can get its reply any more."""
    LEAVING = "leaving"
    """The same, and none is made after that either."""
    STOPPED = "stopped"
    """It left for good."""


class WorkerInput(enum.Enum):
    """What may change a worker's state. A heartbeat, or one part of a reply, does not.

    DISCONNECT is Majordomo's; RETURN_TO_MORE is the Pirates', whose busy workers keep what comes.
    """

    __hash__ = object.__hash__  # as above

    CONNECT = "back-off over"
    REQUEST = "REQUEST"
    DISCONNECT = "DISCONNECT"
    UNSENT = "message not sent"
    SILENCE = "silence"
    STALL = "stood still"
    RETURN = "handler returned"
    RETURN_TO_MORE = "handler returned, requests kept"
    GIVE_UP = "took too long, sent too much"
    DRAIN = "drain"
    SHUT_DOWN = "shut down"


CONNECTED = frozenset({WorkerState.IDLE, WorkerState.BUSY, WorkerState.FINISHING})


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """Counters since the start; then how many lanes are `registered`, as far as they know, and `busy` now.

    `ready_sent`: READYs, which are never answered; `discarded`: results that nobody could get any more;
    `dropped`: messages by reason.
    """

    requests: int
    replies: int
    errors: int
    timeouts: int
    discarded: int
    ready_sent: int
    heartbeats: int
    registered: int
    busy: int
    dropped: dict[str, int]
