"""What two nodes cannot settle between themselves, a third can: see :class:`Fence`."""

from __future__ import annotations

from typing import Protocol

from zpatterns.bstar.bstar_state import Grant


class Fence(Protocol):
    """One node's way to a lease that at most one of the pair holds at a time.

    Behind it stands what both nodes reach and what keeps one record with one clock: a database's row, or an entry in a
    store that has leases of its own. Each lease carries the epoch of the promotion that it is for; what is written
    under it can be written with the epoch, and refused once a higher one was seen.

    What a method raises is logged and counts as no answer, and so does an answer that takes longer than the pair's
    heartbeat interval x liveness: the call is cancelled then. A lease that was not renewed runs out.
    """

    async def acquire(self, epoch: int) -> Grant | None:
        """Take the lease if nobody else holds it, with this epoch or, where a like or higher one was given before, a
        higher one than that. Returns what was given, or None."""

    async def renew(self, epoch: int) -> float | None:
        """Hold the lease on. Returns for how many seconds from now, or None when it is not ours any more."""

    async def release(self, epoch: int) -> None:
        """Give the lease back, if it is still ours."""
