"""Freelance servers and clients of all three models under faults: a thousand seeds each time the tests run."""

from __future__ import annotations

import pytest

from tests.sim.worlds import FIRST, OTHERS, all_faults, run_worlds
from zpatterns.testing.freelance import FreelanceWorld


@pytest.mark.parametrize("seeds", OTHERS, ids=str)
def test_every_promise_is_kept(seeds):
    run_worlds(FreelanceWorld, seeds)


def test_the_worlds_have_all_in_them_that_they_are_made_for():
    """A world in which nothing happens keeps every promise; these keep them, too."""
    counts = run_worlds(FreelanceWorld, FIRST, lambda world: [world.model])
    assert counts.keys() >= {"failover", "shotgun", "addressed"}
    assert counts["calls"] > 500
    assert counts["replies"] > counts["calls"] / 3
    for what in ("error.RequestTimeout", "error.RemoteError", "error.QueueFull", "error.ClosedError", "cancelled"):
        assert counts[what] > 5, what
    assert counts["removed"] > 10
    assert all_faults(FreelanceWorld) <= counts.keys()
