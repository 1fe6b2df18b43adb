"""Clone servers and clients under faults: a thousand seeds each time the tests run."""

from __future__ import annotations

import pytest

from zpatterns.testing.clone import CloneWorld

SEEDS = 1000
CHUNK = 100


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_promise_is_kept(first):
    for seed in range(first, first + CHUNK):
        violation = CloneWorld(seed).run()
        assert violation is None, f"seed {seed}: {violation}"


def test_the_worlds_have_all_in_them_that_they_are_made_for():
    """A world in which nothing happens keeps every promise."""
    counts: dict[str, int] = {}
    for seed in range(60):
        world = CloneWorld(seed)
        assert world.run() is None
        for what, count in world.counts.items():
            counts[what] = counts.get(what, 0) + count
    assert counts["outcome.ok"] > 300
    for what in ("gaps", "failovers", "expired", "posts", "outcome.RequestTimeout", "outcome.CompareFailed"):
        assert counts[what], what
    for what in ("promotions", "copies", "held", "held.published"):  # of pairs
        assert counts[what], what
    assert {f"fault.{name}" for name in CloneWorld.fault_classes} <= counts.keys()
