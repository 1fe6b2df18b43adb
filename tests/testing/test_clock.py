"""FakeClock and Chance: time and decisions under a test's control."""

from __future__ import annotations

import pytest

from zpatterns.testing import Chance, FakeClock


def test_time_passes_only_when_told():
    clock = FakeClock(start=5.0)
    assert clock.now() == 5.0
    clock.advance(2.5)
    assert clock.now() == 7.5


def test_callbacks_come_at_their_moment_and_in_order():
    clock = FakeClock(start=0.0)
    seen: list[tuple[str, float]] = []

    def note(name: str) -> None:
        seen.append((name, clock.now()))

    clock.call_at(3.0, note, "third")
    clock.call_later(1.0, note, "first")
    clock.call_at(1.0, note, "second")
    clock.call_at(9.0, note, "too late")
    clock.advance(5.0)
    assert seen == [("first", 1.0), ("second", 1.0), ("third", 3.0)]
    assert clock.now() == 5.0


def test_what_a_callback_asks_for_comes_in_the_same_advance():
    clock = FakeClock(start=0.0)
    seen: list[float] = []

    def again() -> None:
        seen.append(clock.now())
        clock.call_later(1.0, again)

    again()
    clock.advance(3.0)
    assert seen == [0.0, 1.0, 2.0, 3.0]


def test_a_callback_in_the_past_is_called_at_the_next_step():
    clock = FakeClock(start=10.0)
    seen: list[float] = []
    clock.call_at(1.0, lambda: seen.append(clock.now()))
    clock.advance(0.0)
    assert seen == [10.0], "time never goes back"


def test_a_cancelled_callback_is_not_called():
    clock = FakeClock()
    seen: list[int] = []
    timer = clock.call_later(1.0, seen.append, 1)
    clock.call_later(0.5, timer.cancel)
    clock.advance(2.0)
    timer.cancel()
    assert seen == []


def test_a_halted_clock_goes_no_further():
    clock = FakeClock(start=0.0)
    seen: list[int] = []
    clock.call_at(1.0, seen.append, 1)
    clock.call_at(1.0, clock.halt)
    clock.call_at(1.0, seen.append, 2)
    assert clock.run_until(5.0) == 2
    assert clock.run_until(9.0) == 0
    assert (seen, clock.now()) == ([1], 1.0)


def test_a_limit_ends_what_spins():
    clock = FakeClock(start=0.0)

    def spin() -> None:
        clock.call_later(0.0, spin)

    spin()
    assert clock.run_until(1.0, limit=100) == 100
    assert clock.now() == 0.0


def test_the_same_seed_draws_the_same_on_every_platform():
    """Literal values: a change of these changes every seed there is."""
    chance = Chance("seven")
    assert [chance.below(1000) for _ in range(6)] == [387, 35, 451, 146, 693, 410]
    assert chance.bytes(4).hex() == "cc79d0f2"
    assert "".join(chance.shuffled("abcdef")) == "edfcab"


def test_a_fork_draws_from_a_source_of_its_own():
    one, other = Chance(1), Chance(1)
    one.random()
    assert one.fork("a").random() == other.fork("a").random()
    assert one.fork("a").random() != one.fork("b").random()
    assert Chance(1).random() != Chance(2).random()


@pytest.mark.parametrize("seed", range(20))
def test_what_is_drawn_stays_within_its_bounds(seed):
    chance = Chance(seed)
    assert 0 <= chance.below(3) < 3
    assert 2.0 <= chance.between(2.0, 4.0) <= 4.0
    assert chance.pick("xyz") in "xyz"
    assert sorted(chance.shuffled(range(9))) == list(range(9))
    assert len(chance.bytes(5)) == 5
    assert chance.bytes(0) == b""
    assert chance.some([1, 2, 3], 1.0) == [1, 2, 3]
    assert chance.some([1, 2, 3], 0.0) == []
    assert chance.happens(1.0)
    assert not chance.happens(0.0)
