"""Lazy Pirate servers and clients under faults: a thousand seeds each time the tests run."""

from __future__ import annotations

import pytest

from tests.sim.worlds import FIRST, OTHERS, all_faults, run_worlds
from zpatterns.testing.lazy import LazyWorld


@pytest.mark.parametrize("seeds", OTHERS, ids=str)
def test_every_promise_is_kept(seeds):
    run_worlds(LazyWorld, seeds)


def test_the_worlds_have_all_in_them_that_they_are_made_for():
    """A world in which nothing happens keeps every promise; these keep them, too."""
    counts = run_worlds(LazyWorld, FIRST)
    assert counts["calls"] > 500
    assert counts["replies"] > counts["calls"] / 4
    for what in ("error.RequestTimeout", "error.RemoteError", "error.QueueFull", "error.ClosedError", "cancelled"):
        assert counts[what], what
    assert all_faults(LazyWorld) <= counts.keys()
