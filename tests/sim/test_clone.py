"""Clone servers and clients under faults: a thousand seeds each time the tests run."""

from __future__ import annotations

import pytest

from tests.sim.test_checkers import calm_clone_pair
from tests.sim.worlds import FIRST, OTHERS, all_faults, run_worlds
from zpatterns.clone.wire import KeyValue
from zpatterns.testing.clone import CloneWorld
from zpatterns.testing.clone_pair_observer import ClonePairObserver


@pytest.mark.parametrize("seeds", OTHERS, ids=str)
def test_every_promise_is_kept(seeds):
    run_worlds(CloneWorld, seeds)


def test_the_worlds_have_all_in_them_that_they_are_made_for():
    """A world in which nothing happens keeps every promise; these keep them, too."""
    counts = run_worlds(CloneWorld, FIRST)
    assert counts["outcome.ok"] > 300
    for what in ("gaps", "failovers", "expired", "posts", "outcome.RequestTimeout", "outcome.CompareFailed"):
        assert counts[what], what
    for what in ("promotions", "copies", "held", "held.published", "late"):  # of pairs
        assert counts[what], what
    assert all_faults(CloneWorld) <= counts.keys()


@pytest.mark.parametrize(
    ("is_collected", "sequence", "is_breach"), [(True, 2000, True), (True, 11, False), (False, 2000, False)]
)
def test_the_checker_sees_a_set_that_a_half_publishes_though_it_knows_that_the_active_has(
    is_collected, sequence, is_breach
):
    """Under the sequence that it had, it is what was on its way to the disk; and who waits for a set may ask again."""
    world = calm_clone_pair()
    observer, node = world.observer, world.halves[1]
    assert isinstance(observer, ClonePairObserver)
    half = observer._halves[node.name]
    half.seen[b"uuid"] = 11
    half.collected |= {b"uuid"} if is_collected else set()
    observer._check_late(node, half, KeyValue(b"k", sequence, b"uuid", b"", b"body"))
    assert (world.violation is not None) is is_breach
