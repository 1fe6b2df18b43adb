"""BinaryStar and its fence over real sockets, one node alone. What they decide is for the core's tests."""

from __future__ import annotations

import asyncio
import contextlib

from tests.bstar.live import QUICK, Started
from tests.waiting import until
from zpatterns.bstar import Grant
from zpatterns.bstar.events import LeaseRefused, SteppedDown, StoodStill
from zpatterns.errors import PromotionRefused
from zpatterns.testing.fence import FakeFence, FenceOfNode


class Stuck(FenceOfNode):
    """A way to the fence on which the first call of this name hangs until it is cancelled."""

    def __init__(self, fence: FakeFence, name: str) -> None:
        super().__init__(fence, "primary")
        self._hangs = name
        self.calls: list[str] = []

    async def _begin(self, name: str) -> None:
        self.calls.append(name)
        if self.calls.count(name) == 1 and name == self._hangs:
            await asyncio.Event().wait()

    async def acquire(self, epoch: int) -> Grant | None:
        await self._begin("acquire")
        return await super().acquire(epoch)

    async def renew(self, epoch: int) -> float | None:
        await self._begin("renew")
        return await super().renew(epoch)

    async def release(self, epoch: int) -> None:
        await self._begin("release")
        await super().release(epoch)


def promoted(started: Started) -> bool:
    """Try it once more; whether it serves."""
    with contextlib.suppress(PromotionRefused):
        started.call(started.node.promote)
    return started.serving


def test_a_fence_that_hangs_is_asked_again(start):
    stuck = Stuck(FakeFence(3600.0), "acquire")
    started = start(fence=stuck, **QUICK)
    until(lambda: promoted(started), "it has the lease")
    assert stuck.calls[:2] == ["acquire", "acquire"]
    # One that has stood still itself asks again without a word.
    assert started.told(LeaseRefused) or started.told(StoodStill)


def test_a_renewal_that_hangs_is_asked_for_again_in_time(start):
    def serves_on() -> bool:
        stuck = Stuck(FakeFence(4.0), "renew")
        started = start(fence=stuck, **QUICK)
        until(lambda: promoted(started), "it has the lease")
        until(lambda: stuck.calls.count("renew") == 2 or started.told(SteppedDown), "it is renewed")
        stepped_down = bool(started.told(SteppedDown))
        assert not stepped_down or started.told(StoodStill)
        return not stepped_down

    # A node that has stood still steps down for that, whatever its fence says: then there is nothing to see.
    until(serves_on, "one that did not stand still")


def test_a_release_that_hangs_keeps_nobody_from_serving_again(start):
    stuck = Stuck(FakeFence(3600.0), "release")
    started = start(fence=stuck, **QUICK)
    until(lambda: promoted(started), "it has the lease")
    started.call(started.node.step_down)
    until(lambda: "release" in stuck.calls, "the release hangs")
    until(lambda: promoted(started), "it has the lease again")


def test_stopped_it_gives_the_lease_back(start, reactor):
    fence = FakeFence(3600.0)
    started = start(fence=fence.of("primary"))
    until(lambda: promoted(started), "it has the lease")
    reactor.stop(started.node)
    assert fence.holder is None
