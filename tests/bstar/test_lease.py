"""A node with a fence: active only with a lease, and taking nothing in past its end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bstar.star_harness import ACTIVE, BACKUP, Star, digits
from zpatterns.bstar.bstar_state import Grant
from zpatterns.bstar.events import LeaseRefused


def fenced(role: str = "primary", **options: Any) -> Star:
    star = Star(role, has_fence=True, longest_turn=0.5, **options)
    star.sent()
    return star


def holder(seconds: float = 10.0) -> Star:
    star = fenced()
    star.hear(BACKUP)
    star.step(star.core.lease_acquired, 1, Grant(seconds, 1), star.now)
    star.sent()
    star.errands()
    return star


def test_the_fence_is_asked_before_anything_changes():
    star = fenced()
    assert star.hear(BACKUP) == []
    assert star.errands() == [("acquire", 1)]
    assert (star.state, star.vote(), star.application.serves) == ("primary waiting", "hold", False)
    star.step(star.core.lease_acquired, 1, Grant(10.0, 1), star.now)
    assert (star.state, star.core.epoch, star.vote(), digits(star.sent())) == ("active", 1, "serve", [b"3"])


def test_it_is_asked_once_at_a_time_and_again_a_little_after_a_refusal():
    star = fenced()
    star.hear(BACKUP)
    star.hear(BACKUP)
    assert star.errands() == [("acquire", 1)]
    star.step(star.core.lease_acquired, 1, None, star.now)
    assert star.events(LeaseRefused) == [LeaseRefused(1)]
    assert star.vote() == "refuse"
    star.hear(BACKUP)
    assert star.errands() == []
    star.advance(0.25)
    star.hear(BACKUP)
    assert star.errands() == [("acquire", 2)]


def test_time_counts_from_the_asking_and_the_longest_turn_is_taken_off():
    star = fenced()
    star.hear(BACKUP)
    star.advance(1.0)
    star.step(star.core.lease_acquired, 1, Grant(3.0, 1), star.now)
    star.advance(1.4)
    assert star.vote() == "serve"
    star.advance(0.1)
    assert star.vote() == "refuse"
    assert star.state == "primary waiting"
    assert ("release", 1) in star.errands()


def test_a_lease_that_came_too_late_is_given_back():
    star = fenced()
    star.hear(BACKUP)
    star.advance(1.6)
    star.step(star.core.lease_acquired, 1, Grant(2.0, 1), star.now)
    assert star.state == "primary waiting"
    assert star.errands() == [("acquire", 1), ("release", 1)]


def test_a_fence_that_does_not_answer_is_waited_for_no_longer_than_a_lease():
    star = fenced()
    star.hear(BACKUP)
    star.advance(2.0)
    assert star.events(LeaseRefused) == [LeaseRefused(1)]
    assert star.vote() == "hold", "which asked it again, for the peer is silent"
    assert star.errands() == [("acquire", 1), ("acquire", 2)]


def test_an_answer_that_came_too_late_is_not_taken_for_that_to_the_next_asking():
    """That lease began before: to count it from the second asking would be to serve when it is another's."""
    star = fenced()
    star.hear(BACKUP)
    star.advance(2.0)
    star.vote()
    star.errands()
    star.step(star.core.lease_acquired, 1, Grant(3.0, 1), star.now)
    assert star.state == "primary waiting"
    assert star.errands() == [("release", 1)]
    assert star.vote() == "hold", "the second asking is still open"
    star.step(star.core.lease_acquired, 2, Grant(3.0, 2), star.now)
    assert star.vote() == "serve"


def test_a_lease_that_nobody_wants_any_more_is_given_back():
    star = fenced()
    star.hear(BACKUP)
    star.hear(ACTIVE)
    star.step(star.core.lease_acquired, 1, Grant(10.0, 1), star.now)
    assert star.state == "passive"
    assert star.errands() == [("acquire", 1), ("release", 1)]


def test_a_lease_for_an_epoch_that_was_overtaken_is_given_back():
    star = fenced()
    star.hear(BACKUP)
    star.hear(b"2 epoch=8")
    star.step(star.core.lease_acquired, 1, Grant(10.0, 1), star.now)
    assert star.state == "primary waiting"
    assert star.errands() == [("acquire", 1), ("release", 1)]
    star.advance(0.5)
    star.hear(b"2 epoch=8")
    assert star.errands() == [("acquire", 9)]


def test_the_fence_knows_of_epochs_that_a_restarted_pair_has_forgotten():
    star = fenced()
    star.hear(BACKUP)
    star.step(star.core.lease_acquired, 1, Grant(10.0, 8), star.now)
    assert star.sent() == [[b"3 epoch=8 interval=1 liveness=2"]]
    star.advance(5.0)
    assert star.errands() == [("acquire", 1), ("renew", 8)]
    star.step(star.core.leave, star.now)
    assert star.errands() == [("release", 8)]


def test_it_is_renewed_in_time_and_goes_on():
    star = holder(10.0)
    star.hear_for(5.0, b"4")
    assert star.errands() == [("renew", 1)]
    star.step(star.core.lease_renewed, 1, 10.0, star.now)
    star.hear_for(9.0, b"4")
    assert star.vote() == "serve"


def test_a_renewal_that_is_refused_steps_down_at_once():
    star = holder(10.0)
    star.advance(5.0)
    star.step(star.core.lease_renewed, 1, None, star.now)
    assert star.vote() == "refuse"


def test_a_renewal_that_failed_is_tried_again_until_the_lease_runs_out():
    star = holder(10.0)
    for _ in range(12):
        star.advance(0.5)
        if ("renew", 1) in star.errands():
            star.step(star.core.lease_unanswered, 1, star.now)
    assert star.state == "active"
    star.advance(2.0)
    assert ("renew", 1) in star.errands()
    star.step(star.core.lease_unanswered, 1, star.now)
    star.advance(3.0)
    assert star.state == "primary waiting"


def test_answers_to_an_earlier_renewal_change_nothing():
    star = holder(10.0)
    star.advance(5.0)
    star.step(star.core.lease_renewed, 7, None, star.now)
    star.step(star.core.lease_unanswered, 7, star.now)
    assert star.vote() == "serve"


@pytest.mark.parametrize("end", ["hears of a higher epoch", "stands still", "is told to", "leaves"])
def test_whoever_stops_serving_gives_the_lease_back_after_on_passive(end):
    star = Star("primary", has_fence=True, has_hooks=True)
    star.hear(BACKUP)
    star.step(star.core.lease_acquired, 1, Grant(10.0, 1), star.now)
    star.step(star.core.activated, 1, True, star.now)
    star.errands()
    if end == "hears of a higher epoch":
        star.hear(b"3 epoch=9")
    elif end == "stands still":
        star.stall(3.0)
    elif end == "is told to":
        star.step(star.core.step_down, star.now, "told to")
    else:
        star.step(star.core.leave, star.now)
    assert star.errands() == [("on-passive", 1), ("release", 1)]
    assert not star.application.serves


def test_promote_only_asks_the_fence():
    star = fenced()
    assert star.step(star.core.promote, star.now)[0] == b"202"
    star.step(star.core.lease_acquired, 1, None, star.now)
    assert star.step(star.core.promote, star.now)[0] == b"409"
    assert star.state == "primary waiting"


def test_a_node_that_is_being_stopped_takes_no_lease():
    star = fenced()
    star.hear(BACKUP)
    star.step(star.core.close, star.now)
    star.step(star.core.lease_acquired, 1, Grant(10.0, 1), star.now)
    assert star.state == "primary waiting"
    assert star.errands() == [("acquire", 1), ("release", 1)]
