"""The lease of a fence, from the asking to the giving back: see :class:`zpatterns.bstar.Fence`. Pure.

The fence is another machine, and to ask it takes time; so it is asked by errands of the front end, and the node goes on
meanwhile. Time is counted from the asking, never from the answer: the lease began somewhere between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from zpatterns.bstar.bstar_state import Grant, Input
from zpatterns.core import Command, Errand

# What a front end is asked to do, by the names of errands; the number is the epoch.
ON_ACTIVE = "on-active"
ON_PASSIVE = "on-passive"
ACQUIRE = "acquire"
RENEW = "renew"
RELEASE = "release"


class Asking(NamedTuple):
    """A lease that the fence was asked for, when, and what made us ask."""

    epoch: int
    at: float
    what: Input


class Lease:
    """What one node knows of its lease. Durations in seconds.

    `patience`: how long an answer may take, after which it is given back; `pause`: from a refusal to the next asking;
    `longest_turn`: taken off the end of the lease, since a turn that has begun is not stopped. `do`: has a command
    carried out.
    """

    def __init__(self, *, patience: float, pause: float, longest_turn: float, do: Callable[[Command], None]) -> None:
        self._patience = patience
        self._pause = pause
        self._longest_turn = longest_turn
        self._do = do
        self.asking: Asking | None = None
        self.epoch: int | None = None
        """The epoch that it is held for, or None."""
        self.serve_until = float("inf")
        """When the holder must have stopped to take anything in."""
        self._ask_again_at = float("-inf")
        self._asked_epoch = 0
        self._renew_at = float("inf")
        self._renewal_asked_at: float | None = None

    def ask(self, epoch: int, what: Input, now: float) -> None:
        """Have the fence asked for the lease of `epoch`, unless it is asked already or refused a moment ago."""
        if self.asking is None and now >= self._ask_again_at:
            # Each asking has an epoch of its own, for the answer to an earlier one may still come.
            self._asked_epoch = max(epoch, self._asked_epoch + 1)
            self.asking = Asking(self._asked_epoch, now, what)
            self._do(Errand(ACQUIRE, self._asked_epoch))

    def answered(self, epoch: int, grant: Grant | None, now: float) -> Asking | None:
        """The fence's answer to :meth:`ask`. Returns what was asked if we hold the lease now, else None."""
        asking = self.asking
        if asking is not None and asking.epoch == epoch:
            self.asking = None
            if grant is not None and asking.at + grant.seconds - self._longest_turn > now:
                self.epoch = grant.epoch
                self._take(asking.at, grant.seconds)
                return asking
            self._ask_again_at = now + self._pause
        if grant is not None:
            self._do(Errand(RELEASE, grant.epoch))  # too late, or we do not want it any more
        return None

    def renewed(self, epoch: int, seconds: float | None) -> bool:
        """The fence's answer to a renewal. Returns False if the lease is not ours any more."""
        asked_at, self._renewal_asked_at = self._renewal_asked_at, None
        if epoch == self.epoch and asked_at is not None:
            if seconds is None:
                return False
            self._take(asked_at, seconds)
        return True

    def unrenewed(self, epoch: int, now: float) -> None:
        """A renewal failed, and nobody knows how: try again, after the pause."""
        if epoch == self.epoch:
            self._renewal_asked_at = None
            self._renew_at = now + self._pause

    def unanswered(self, now: float) -> Asking | None:
        """What the fence let us wait for too long, if it did; it is not waited for any longer."""
        asking = self.asking
        if asking is None or now < asking.at + self._patience:
            return None
        self.asking = None
        return asking

    def tend(self, now: float) -> None:
        """Renew the lease in time."""
        if self.epoch is not None and self._renewal_asked_at is None and now >= self._renew_at:
            self._renewal_asked_at = now
            self._do(Errand(RENEW, self.epoch))

    def give_back(self) -> None:
        """Release the lease, if we hold it."""
        if self.epoch is not None:
            self._do(Errand(RELEASE, self.epoch))
            self.epoch = self._renewal_asked_at = None
            self.serve_until = self._renew_at = float("inf")

    def _take(self, asked_at: float, seconds: float) -> None:
        self.serve_until = asked_at + seconds - self._longest_turn
        self._renew_at = asked_at + (seconds - self._longest_turn) / 2
