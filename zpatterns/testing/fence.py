"""A fence for tests: the record that a database would keep, in memory and with one clock."""

from __future__ import annotations

import time
from collections.abc import Callable

from zpatterns.bstar.bstar_state import Grant


class FakeFence:
    """One lease for `seconds`, held by one node at a time; see :class:`zpatterns.bstar.Fence`.

    `now`: its clock, monotonic. Each node is given its own way to it by :meth:`of`; ``fence.reachable`` False makes
    them raise.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self.reachable = True
        self._now = now
        self._node: str | None = None
        self._epoch = 0
        self._until = float("-inf")

    @property
    def holder(self) -> str | None:
        """The node that holds the lease now."""
        return self._node if self._now() < self._until else None

    def acquire(self, node: str, epoch: int) -> Grant | None:
        """Give the lease to `node`, unless the other one holds it."""
        if self.holder not in (None, node):
            return None
        self._node, self._epoch = node, max(epoch, self._epoch + 1)
        return Grant(self._extend(), self._epoch)

    def renew(self, node: str, epoch: int) -> float | None:
        """Extend the lease of `node`, unless it has run out or is another's."""
        return self._extend() if self.holder == node and epoch == self._epoch else None

    def release(self, node: str, epoch: int) -> None:
        """End the lease of `node`, if it is still that one."""
        if self.holder == node and epoch == self._epoch:
            self._until = float("-inf")

    def of(self, node: str) -> FenceOfNode:
        """The way of one node to the fence."""
        return FenceOfNode(self, node)

    def _extend(self) -> float:
        self._until = self._now() + self.seconds
        return self.seconds


class FenceOfNode:
    """A :class:`zpatterns.bstar.Fence`."""

    def __init__(self, fence: FakeFence, node: str) -> None:
        self._fence = fence
        self._node = node

    async def acquire(self, epoch: int) -> Grant | None:
        self._reach()
        return self._fence.acquire(self._node, epoch)

    async def renew(self, epoch: int) -> float | None:
        self._reach()
        return self._fence.renew(self._node, epoch)

    async def release(self, epoch: int) -> None:
        self._reach()
        self._fence.release(self._node, epoch)

    def _reach(self) -> None:
        if not self._fence.reachable:
            raise ConnectionError("the fence cannot be reached")
