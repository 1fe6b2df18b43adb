"""Whole Pirate clusters under faults, each time the tests run: a thousand worlds of each kind."""

from __future__ import annotations

import pytest

from tests.sim.worlds import FIRST, OTHERS, all_faults, run_worlds
from zpatterns.testing.pirate import ParanoidPirateWorld, PirateWorld, SimplePirateWorld

WORLDS: tuple[type[PirateWorld], ...] = (ParanoidPirateWorld, SimplePirateWorld)


@pytest.mark.parametrize("kind", WORLDS)
@pytest.mark.parametrize("seeds", OTHERS, ids=str)
def test_every_promise_is_kept(kind, seeds):
    run_worlds(kind, seeds)


@pytest.mark.parametrize("kind", WORLDS)
def test_the_worlds_have_all_in_them_that_they_are_made_for(kind):
    """A world in which nothing happens keeps every promise; these keep them, too."""
    counts = run_worlds(kind, FIRST)
    assert counts["calls"] > 500
    assert counts["replies"] > counts["calls"] / 4
    for what in ("error.RequestTimeout", "error.RemoteError", "cancelled"):
        assert counts[what], what
    assert all_faults(kind) <= counts.keys()
