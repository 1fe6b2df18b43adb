"""Freelance servers and clients of all three models under faults: a thousand seeds each time the tests run."""

from __future__ import annotations

import pytest

from zpatterns.testing.freelance import FreelanceWorld

SEEDS = 1000
CHUNK = 100


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_promise_is_kept(first):
    for seed in range(first, first + CHUNK):
        violation = FreelanceWorld(seed).run()
        assert violation is None, f"seed {seed}: {violation}"


def test_the_worlds_have_all_in_them_that_they_are_made_for():
    """A world in which nothing happens keeps every promise."""
    counts: dict[str, int] = {}
    models = set()
    for seed in range(90):
        world = FreelanceWorld(seed)
        assert world.run() is None
        models.add(world.model)
        for what, count in world.counts.items():
            counts[what] = counts.get(what, 0) + count
    assert models == {"failover", "shotgun", "addressed"}
    assert counts["calls"] > 500
    assert counts["replies"] > counts["calls"] / 3
    for what in ("error.RequestTimeout", "error.RemoteError", "error.QueueFull", "error.ClosedError", "cancelled"):
        assert counts[what] > 5, what
    assert counts["removed"] > 10
    assert {f"fault.{name}" for name in FreelanceWorld.fault_classes} <= counts.keys()
