"""Whole Pirate clusters under faults, each time the tests run: a thousand worlds of each kind."""

from __future__ import annotations

import pytest

from zpatterns.testing.pirate import ParanoidPirateWorld, PirateWorld, SimplePirateWorld

SEEDS = 1000
CHUNK = 50
WORLDS: tuple[type[PirateWorld], ...] = (ParanoidPirateWorld, SimplePirateWorld)


@pytest.mark.parametrize("kind", WORLDS)
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_promise_is_kept(kind, first):
    for seed in range(first, first + CHUNK):
        violation = kind(seed).run()
        assert violation is None, f"{kind.name} seed {seed}: {violation}"


@pytest.mark.parametrize("kind", WORLDS)
def test_the_worlds_have_all_in_them_that_they_are_made_for(kind):
    """A world in which nothing happens keeps every promise."""
    counts: dict[str, int] = {}
    for seed in range(80):
        world = kind(seed)
        assert world.run() is None
        for what, count in world.counts.items():
            counts[what] = counts.get(what, 0) + count
    assert counts["calls"] > 500
    assert counts["replies"] > counts["calls"] / 4
    for what in ("error.RequestTimeout", "error.RemoteError", "cancelled"):
        assert counts[what], what
    assert {f"fault.{name}" for name in kind.fault_classes} <= counts.keys()
