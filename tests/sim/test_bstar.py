"""Binary Star pairs and their clients under faults: a thousand seeds each time the tests run."""

from __future__ import annotations

import pytest

from zpatterns.testing.bstar import BinaryStarWorld

SEEDS = 1000
CHUNK = 100


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_promise_is_kept(first):
    for seed in range(first, first + CHUNK):
        violation = BinaryStarWorld(seed).run()
        assert violation is None, f"seed {seed}: {violation}"


def test_the_worlds_have_all_in_them_that_they_are_made_for():
    """A world in which nothing happens keeps every promise."""
    counts: dict[str, int] = {}
    fenced = lost = 0
    for seed in range(60):
        world = BinaryStarWorld(seed)
        assert world.run() is None
        fenced += world.fence is not None
        lost += world.loses_one
        for what, count in world.counts.items():
            counts[what] = counts.get(what, 0) + count
    assert counts["calls"] > 500
    assert counts["replies"] > counts["calls"] / 4
    assert fenced > 5
    assert lost > 5
    for what in ("error.RequestTimeout", "error.RemoteError", "error.ClosedError", "cancelled"):
        assert counts[what], what
    assert {f"fault.{name}" for name in BinaryStarWorld.fault_classes} <= counts.keys()
