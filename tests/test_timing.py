"""Back-off, liveness and lazy deadlines."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.harness import FixedRng
from zpatterns.timing import Backoff, Deadlines, Liveness


class Item:
    def __init__(self, deadline: float | None) -> None:
        self.deadline = deadline


# Liveness.


def test_a_lease_is_the_interval_times_the_liveness():
    assert Liveness(2.5, 3).lease == 7.5
    assert Liveness(1, 1).lease == 1


@pytest.mark.parametrize("interval", [0, -1, float("inf"), float("nan")])
def test_an_interval_that_makes_no_sense_is_refused(interval):
    with pytest.raises(ValueError, match="heartbeat_interval"):
        Liveness(interval, 3)


@pytest.mark.parametrize("liveness", [0, -1])
def test_a_liveness_that_makes_no_sense_is_refused(liveness):
    with pytest.raises(ValueError, match="liveness"):
        Liveness(1, liveness)


def test_a_liveness_that_no_lease_can_hold_is_refused():
    with pytest.raises(ValueError, match=r"liveness must be at most 10\*\*9"):
        Liveness(1.0, 10**400)


# Backoff.


def test_back_off_doubles_from_the_first_to_the_cap():
    backoff = Backoff(1, 5, FixedRng(1.0))
    assert [backoff.delay() for _ in range(5)] == [1, 2, 4, 5, 5]


def test_back_off_begins_again_after_reset():
    backoff = Backoff(1, 5, FixedRng(1.0))
    for _ in range(4):
        backoff.delay()
    backoff.reset()
    assert [backoff.delay() for _ in range(2)] == [1, 2]


def test_back_off_has_full_jitter():
    """Evenly from 0 to the limit: not around it, and not from half of it on."""
    rng = random.Random(1)
    first = [Backoff(1, 8, rng).delay() for _ in range(4000)]
    assert all(0 <= delay < 1 for delay in first)
    for tenth in range(10):
        assert 300 < sum(tenth / 10 <= delay < (tenth + 1) / 10 for delay in first) < 500


def test_a_first_delay_beyond_the_cap_is_the_cap():
    backoff = Backoff(10, 3, FixedRng(1.0))
    assert [backoff.delay() for _ in range(2)] == [3, 3]


# Deadlines.


def test_items_come_due_in_order_of_their_deadlines():
    deadlines: Deadlines[Item] = Deadlines()
    items = [Item(when) for when in (3.0, 1.0, 2.0)]
    for item in items:
        deadlines.add(item)
    assert deadlines.next() == 1.0
    assert deadlines.due(0.9) == []
    assert deadlines.due(2.0) == [items[1], items[2]]
    assert deadlines.next() == 3.0
    assert items[1].deadline is None, "what was taken is watched no more"


def test_an_early_deadline_is_not_hidden_behind_a_later_one():
    deadlines: Deadlines[Item] = Deadlines()
    deadlines.add(Item(100.0))
    early = Item(1.0)
    deadlines.add(early)
    assert deadlines.due(1.0) == [early]


def test_a_deadline_that_moves_later_is_an_assignment():
    deadlines: Deadlines[Item] = Deadlines()
    item = Item(1.0)
    deadlines.add(item)
    item.deadline = 5.0
    assert deadlines.next() == 1.0, "too early does no harm"
    assert deadlines.due(1.0) == []
    assert deadlines.next() == 5.0
    assert deadlines.due(5.0) == [item]


def test_a_deadline_that_moves_earlier_is_added_again():
    deadlines: Deadlines[Item] = Deadlines()
    item = Item(5.0)
    deadlines.add(item)
    item.deadline = 1.0
    deadlines.add(item)
    assert deadlines.due(1.0) == [item]
    assert deadlines.due(10.0) == [], "and comes once"


def test_a_deadline_that_is_off_never_comes():
    deadlines: Deadlines[Item] = Deadlines()
    item = Item(1.0)
    deadlines.add(item)
    item.deadline = None
    assert deadlines.next() is None
    assert deadlines.due(10.0) == []
    deadlines.add(item)
    assert len(deadlines) == 0


def test_no_more_than_the_limit_come_at_once():
    deadlines: Deadlines[Item] = Deadlines()
    for _ in range(25):
        deadlines.add(Item(1.0))
    assert [len(deadlines.due(1.0, limit=10)) for _ in range(4)] == [10, 10, 5, 0]


def test_equal_deadlines_come_in_the_order_they_were_added():
    deadlines: Deadlines[Item] = Deadlines()
    items = [Item(1.0) for _ in range(10)]
    for item in items:
        deadlines.add(item)
    assert deadlines.due(1.0) == items


def test_deadlines_that_are_put_off_and_added_over_and_over_take_no_more_room():
    deadlines: Deadlines[Item] = Deadlines()
    items = [Item(1.0) for _ in range(10)]
    for round_ in range(1000):
        for item in items:
            item.deadline = 1.0 + round_
            deadlines.add(item)
    assert len(deadlines) < 300
    assert len(deadlines.due(1e9)) == 10


def test_stale_items_are_let_go_of():
    deadlines: Deadlines[Item] = Deadlines()
    for number in range(10_000):
        item = Item(1.0 + number)
        deadlines.add(item)
        item.deadline = None
    assert len(deadlines) < 300


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "later", "earlier", "off", "due"]),
            st.integers(0, 9),
            st.integers(0, 50),
        ),
        max_size=200,
    )
)
def test_no_deadline_is_missed_whatever_is_done_to_it(steps):
    """Against the plain answer: look at every item, every time."""
    deadlines: Deadlines[Item] = Deadlines()
    items = [Item(None) for _ in range(10)]
    now = 0.0
    for what, which, amount in steps:
        item = items[which]
        if what == "add":
            item.deadline = now + amount
            deadlines.add(item)
        elif what == "later" and item.deadline is not None:
            item.deadline += amount
        elif what == "earlier" and item.deadline is not None:
            item.deadline = max(now, item.deadline - amount)
            deadlines.add(item)
        elif what == "off":
            item.deadline = None
        elif what == "due":
            now += amount
            expected = {id(one) for one in items if one.deadline is not None and one.deadline <= now}
            assert {id(one) for one in deadlines.due(now)} == expected
        set_ones = [one.deadline for one in items if one.deadline is not None]
        upcoming = deadlines.next()
        if set_ones:
            assert upcoming is not None and upcoming <= min(set_ones), "a deadline would be overslept"
        else:
            assert upcoming is None
