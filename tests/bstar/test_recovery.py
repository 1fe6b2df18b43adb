"""Where the Guide's pair gives up, ours goes on: two actives, two passives, stalls; and what operators do to it."""

from __future__ import annotations

import pytest

from tests.bstar.star_harness import ACTIVE, BACKUP, PASSIVE, PRIMARY, Star, digits, in_state
from tests.harness import START
from zpatterns.bstar.events import StoodStill, TwoActives
from zpatterns.core import Close

# Two actives.


def two_actives(mine: int, theirs: int | None, role: str) -> Star:
    star = Star(role)
    for _ in range(mine):
        star.step(star.core.promote, star.now)
        if star.core.epoch < mine:
            star.step(star.core.step_down, star.now, "again")
    star.sent()
    star.hear(ACTIVE if theirs is None else b"3 epoch=%d" % theirs)
    return star


@pytest.mark.parametrize("role", ["primary", "backup"])
@pytest.mark.parametrize(
    ("mine", "theirs", "stays"), [(1, 2, False), (2, 1, True), (3, None, True), (1, 10**12, False)]
)
def test_of_two_actives_the_higher_epoch_stays(role, mine, theirs, stays):
    star = two_actives(mine, theirs, role)
    assert star.state == ("active" if stays else "passive")
    assert star.application.serves == stays
    [event] = star.events(TwoActives)
    assert (event.stays, event.epoch, event.peer_epoch) == (stays, mine, theirs or 0)


@pytest.mark.parametrize(("role", "stays"), [("primary", True), ("backup", False)])
def test_of_two_actives_with_one_epoch_the_primary_stays(role, stays):
    assert (two_actives(3, 3, role).state == "active") == stays


@pytest.mark.parametrize("epochs", [(1, 1), (1, 2), (2, 1), (7, 7)])
def test_exactly_one_of_two_actives_stays_whoever_hears_first(epochs):
    primary, backup = two_actives(epochs[0], epochs[1], "primary"), two_actives(epochs[1], epochs[0], "backup")
    assert {primary.state, backup.state} == {"active", "passive"}


def test_a_split_is_told_of_once_and_again_when_it_comes_again():
    star = two_actives(5, 1, "primary")
    star.hear(b"3 epoch=1")
    assert len(star.events(TwoActives)) == 1
    star.hear(b"4 epoch=1")
    star.hear(b"3 epoch=2")
    assert len(star.events(TwoActives)) == 1
    assert star.statistics.two_actives == 2


def test_the_loser_goes_on_as_passive_and_takes_over_again_later():
    star = two_actives(1, 2, "backup")
    star.advance(2.0)
    assert star.vote() == "serve"
    assert star.core.epoch == 3


# Two passives.


def test_of_two_passives_the_primary_becomes_active_after_a_lease():
    star = Star("primary")
    star.hear(ACTIVE)
    star.hear(PASSIVE)
    star.hear_for(1.5, PASSIVE, every=0.5)
    assert star.state == "passive"
    star.hear_for(0.5, PASSIVE)
    assert star.state == "active"


def test_of_two_passives_the_backup_waits_for_the_primary():
    star = Star("backup")
    star.hear(ACTIVE)
    star.hear_for(20.0, PASSIVE)
    assert star.state == "passive"


def test_two_passives_are_counted_anew_when_the_other_was_something_else():
    star = Star("primary")
    star.hear(ACTIVE)
    star.hear_for(2.0, PASSIVE)
    star.hear(ACTIVE)
    star.hear_for(2.0, PASSIVE)
    assert star.state == "passive"


# Stalls.


@pytest.mark.parametrize(("interval", "liveness"), [(1.0, 2), (0.1, 2), (1.0, 4)])
def test_an_active_that_stood_still_steps_down_before_it_takes_in_another_message(interval, liveness):
    star = in_state("active", interval=interval, liveness=liveness)
    star.now += (liveness - 1) * interval * 0.99
    assert star.vote() == "serve"
    star.now += (liveness - 1) * interval * 1.01
    assert star.vote() == "refuse"
    assert star.state == "primary waiting"
    assert len(star.events(StoodStill)) == 1


def test_the_first_that_is_published_after_a_stall_is_the_waiting_state():
    star = in_state("active")
    assert digits(star.stall(30.0)) == [b"1"]


@pytest.mark.parametrize(("queued", "after"), [(PASSIVE, "primary waiting"), (ACTIVE, "passive")])
def test_what_the_other_said_meanwhile_is_heard_after_the_step_down(queued, after):
    star = in_state("active")
    star.now += 3.0
    sent = digits(star.give([PASSIVE], [queued]))
    assert star.state == after
    assert b"3" not in sent


def test_the_other_gets_a_lease_to_take_over_and_then_a_request_brings_us_back():
    star = in_state("active")
    star.stall(30.0)
    star.advance(1.9)
    assert star.vote() == "refuse"
    star.advance(0.2)
    assert star.vote() == "serve"


def test_a_backup_that_was_active_comes_back_too():
    star = in_state("passive")
    star.advance(2.0)
    star.vote()
    star.stall(30.0)
    assert star.state == "backup waiting"
    star.advance(2.0)
    assert star.vote() == "serve"


@pytest.mark.parametrize("state", ["passive", "primary waiting"])
def test_one_that_stood_still_hears_the_other_out_before_it_takes_it_for_dead(state):
    star = in_state(state)
    star.now += 30.0
    assert star.vote() == "refuse"
    star.advance(1.9)
    assert star.vote() == "refuse"
    star.advance(0.2)
    assert star.vote() == "serve"


def test_turns_that_are_a_little_late_are_no_stall():
    star = in_state("active")
    star.advance(60.0, late=0.7)
    assert star.state == "active"


# A backup alone.


def test_a_lone_backup_serves_when_it_was_told_that_it_may():
    star = Star("backup", lone_backup_after=10.0)
    star.advance(9.9)
    assert star.vote() == "refuse"
    star.advance(0.2)
    assert star.vote() == "serve"


def test_a_primary_that_was_heard_makes_the_backup_wait_anew():
    star = Star("backup", lone_backup_after=10.0)
    star.advance(9.0)
    star.hear(PRIMARY)
    star.advance(9.0)
    assert star.vote() == "refuse"
    star.advance(1.1)
    assert star.vote() == "serve"


# Operators.


@pytest.mark.parametrize("state", ["primary waiting", "backup waiting", "passive"])
def test_promote_makes_it_active_with_an_epoch_that_the_other_gives_way_to(state):
    star = in_state(state)
    star.hear(b"3 epoch=6")
    code, _ = star.step(star.core.promote, star.now)
    assert (code, star.state, star.core.epoch) == (b"200", "active", 7)
    other = two_actives(6, 7, "backup" if star.core.options.primary else "primary")
    assert other.state == "passive"


def test_promote_never_makes_the_guides_active_server_end():
    star = in_state("passive")
    code, text = star.step(star.core.promote, star.now)
    assert code == b"409"
    assert "stop it first" in text
    star.advance(2.0)
    assert star.step(star.core.promote, star.now)[0] == b"200"


@pytest.mark.parametrize(("state", "digit"), [("active", b"1"), ("passive", b"2")])
def test_to_step_down_publishes_the_waiting_state_of_its_role(state, digit):
    star = in_state(state)
    if state == "passive":
        star.hear(b"3 epoch=1")
        star.step(star.core.promote, star.now)
        star.sent()
    star.step(star.core.step_down, star.now, "told to")
    assert digits(star.sent()) == [digit]
    assert not star.application.serves
    assert star.vote() == "refuse"


def test_the_other_takes_over_from_one_that_steps_down():
    star = in_state("active")
    star.step(star.core.step_down, star.now, "told to")
    star.hear(b"3 epoch=2")
    assert star.state == "passive"


@pytest.mark.parametrize("state", ["primary waiting", "backup waiting", "passive"])
def test_to_step_down_changes_nothing_for_one_that_is_not_active(state):
    star = in_state(state)
    star.step(star.core.step_down, star.now, "told to")
    assert star.state == state
    assert star.sent() == []


def test_who_leaves_hands_over_says_nothing_more_and_never_serves_again():
    star = in_state("active")
    star.step(star.core.leave, star.now)
    star.step(star.core.leave, star.now)
    assert digits(star.sent()) == [b"1"]
    assert star.asked(Close) == [Close("peer")]
    star.hear(BACKUP)
    assert star.advance(10.0) == []
    assert star.vote() == "refuse"
    assert star.step(star.core.promote, star.now)[0] == b"409"
    assert star.state == "primary waiting"
    assert star.now > START


# Hooks.


def test_it_serves_only_once_on_active_is_done():
    star = Star("primary", has_hooks=True)
    star.hear(BACKUP)
    assert star.errands() == [("on-active", 1)]
    assert (star.state, star.vote(), star.application.serves) == ("active", "hold", False)
    star.step(star.core.activated, 1, True, star.now)
    assert (star.vote(), star.application.serves) == ("serve", True)


def test_an_on_active_that_raises_steps_down():
    star = Star("primary", has_hooks=True)
    star.hear(BACKUP)
    star.step(star.core.activated, 1, False, star.now)
    assert star.state == "primary waiting"
    assert star.errands() == [("on-active", 1), ("on-passive", 1)]


def test_an_on_active_that_ends_too_late_serves_nothing():
    star = Star("primary", has_hooks=True)
    star.hear(BACKUP)
    star.hear(b"3 epoch=9")
    star.step(star.core.activated, 1, True, star.now)
    assert (star.state, star.application.serves) == ("passive", False)
    star.advance(2.0)
    star.vote()
    star.step(star.core.activated, 1, True, star.now)
    assert star.vote() == "hold", "that was the promotion before"


def test_on_passive_is_done_once_for_each_time_that_it_was_active():
    star = Star("primary", has_hooks=True)
    star.hear(BACKUP)
    star.step(star.core.activated, 1, True, star.now)
    star.asked()
    star.stall(5.0)
    star.hear(b"3 epoch=2")
    assert star.errands() == [("on-passive", 1)]
    star.hear(BACKUP)
    assert star.errands() == [("on-active", 3)]
