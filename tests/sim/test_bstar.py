"""Binary Star pairs and their clients under faults: a thousand seeds each time the tests run."""

from __future__ import annotations

import pytest

from tests.sim.worlds import FIRST, OTHERS, all_faults, run_worlds
from zpatterns.testing.bstar import BinaryStarWorld
from zpatterns.testing.fence import FakeFence


@pytest.mark.parametrize("seeds", OTHERS, ids=str)
def test_every_promise_is_kept(seeds):
    run_worlds(BinaryStarWorld, seeds)


def test_the_worlds_have_all_in_them_that_they_are_made_for():
    """A world in which nothing happens keeps every promise; these keep them, too."""
    counts = run_worlds(
        BinaryStarWorld, FIRST, lambda world: ["fenced"] * bool(world.fence) + ["lost"] * world.loses_one
    )
    assert counts["calls"] > 500
    assert counts["replies"] > counts["calls"] / 4
    assert counts["fenced"] > 5
    assert counts["lost"] > 5
    for what in ("error.RequestTimeout", "error.RemoteError", "error.ClosedError", "cancelled"):
        assert counts[what], what
    assert all_faults(BinaryStarWorld) <= counts.keys()


class AskedFence(FakeFence):
    """Writes down when it was asked for the lease."""

    def __init__(self, world: BinaryStarWorld) -> None:
        super().__init__(world.lease, world.clock.now)
        self.asked_at: list[float] = []

    def acquire(self, node, epoch):
        self.asked_at.append(self._now())
        return super().acquire(node, epoch)


def fenced_world() -> tuple[BinaryStarWorld, AskedFence]:
    """One in which nothing is wrong but that the fence is slow."""
    world = BinaryStarWorld(1, faults=frozenset({"fence"}))
    world.build()
    assert world.fence is not None
    world.behave("fence")
    fence = world.fence = AskedFence(world)
    return world, fence


def ask_and_die(world: BinaryStarWorld, times: int) -> None:
    """So often a primary asks for the lease, and is killed on the spot; in the end there is nobody."""
    [primary, backup] = world.stars
    backup.kill()
    primary.kill()
    for _ in range(times):
        primary.start()
        primary.promote()
        world.clock.advance(0.0)
        primary.kill()


def test_a_fence_hears_the_dead_no_later_than_all_is_healed():
    """Seed 41534: two leases later it gave one to a dead node, which kept the pair from serving past L1's bound."""
    world, fence = fenced_world()
    heals_at = world.clock.now() + world.fault_seconds
    world.clock.run_until(heals_at - 0.1 * world.lease)
    del fence.asked_at[:]
    ask_and_die(world, 50)
    world.clock.run_until(heals_at + 3 * world.lease)
    assert len(fence.asked_at) > 30
    assert max(fence.asked_at) == pytest.approx(heals_at)


def test_a_fence_is_slow_while_there_are_faults():
    world, fence = fenced_world()
    begin = world.clock.now()
    ask_and_die(world, 50)
    world.clock.advance(2 * world.lease)
    assert len(fence.asked_at) > 30
    assert max(fence.asked_at) > begin + world.lease


def test_a_pair_that_nobody_serves_in_the_end_is_seen():
    world = BinaryStarWorld(41534)
    world.build()
    world.observer.settled()
    assert world.violation is not None
    assert world.violation.promise == "S1"
