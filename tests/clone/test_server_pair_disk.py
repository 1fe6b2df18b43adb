"""Half of a pair with a store, whose disk is behind what it follows when it has to serve, or to follow another."""

from __future__ import annotations

from tests.clone.pair_harness import (
    ACTIVE,
    WAITING,
    Half,
    following,
    hugz,
    kthxbai,
    kvpub,
    kvsync,
    promoted,
    state,
    zpack,
    zpset,
)
from tests.clone.server_harness import FIRST, seq
from zpatterns.clone.server_state import Change, Era

HAS = FIRST + 1000
"""What it has after its copy."""


def all_saved(half: Half) -> list[Era]:
    """The disk does all that it was asked. Returns the whole copies among that."""
    copies = []
    while half.saves:
        copies += [era for era in half.saves[0].changes if isinstance(era, Era) and era.store is not None]
        half.saved()
    return copies


def with_a_copy_behind_a_change(*pairs: list[bytes]) -> Half:
    """The disk is busy with a change of ``a`` (uuid 1), and a copy of the same map waits for it."""
    half = following(durable=True)
    half.give(kvpub(b"a", HAS + 1, HAS, b"1", 1), port="peer-updates")
    assert len(half.saves) == 1
    half.give(hugz(HAS + 3), port="peer-updates")
    half.hear_for(1.0, state(ACTIVE))
    half.give(*pairs, kthxbai(HAS + 3), port="peer-snapshot")
    half.take("peer-snapshot")
    assert len(half.saves) == 1
    return half


def test_a_copy_that_was_served_with_is_written_down_though_the_half_steps_down_before():
    """Else what it does when it serves again would be written to the map that was there before the copy."""
    half = promoted(with_a_copy_behind_a_change(kvsync(b"b", HAS + 3, b"2", 2)))
    assert half.map == {b"b": b"2"}
    half.step(half.core.star.step_down, half.now, "test")
    half.hear(state(WAITING, epoch=0))
    assert half.state == "active"
    (copy,) = all_saved(half)
    assert copy.sequence == HAS + 3
    assert half.map == {b"b": b"2"}


def test_a_change_that_waits_in_front_of_the_copy_that_was_served_with_is_not_written_any_more():
    half = following(durable=True)
    half.give(kvpub(b"a", HAS + 1, HAS, b"1", 1), port="peer-updates")
    half.give(kvpub(b"b", HAS + 2, HAS + 1, b"2", 2), hugz(HAS + 5), port="peer-updates")
    half.hear_for(1.0, state(ACTIVE))
    half.give(kvsync(b"c", HAS + 5, b"5", 5), kthxbai(HAS + 5), port="peer-snapshot")
    promoted(half)
    written = []
    while half.saves:
        written += half.saves[0].changes
        half.saved()
    half.step(half.server.check_invariants)
    assert half.map == {b"c": b"5"}
    [copy] = [each for each in written if isinstance(each, Era) and each.store is not None]
    assert b"b" not in [each.key for each in written[: written.index(copy)] if isinstance(each, Change)]


def test_a_comparison_is_with_the_copy_and_not_with_what_was_before_it():
    half = promoted(with_a_copy_behind_a_change(kvsync(b"a", HAS + 3, b"2", 2)))
    half.take("snapshot")
    properties = b"if-seq=%d\n" % (HAS + 1)
    assert half.request(*zpset(b"a", b"mine", 3, properties)) == [zpack(3, b"409", HAS + 3)]
    all_saved(half)
    assert half.map == {b"a": b"2"}


def test_a_set_that_the_copy_has_and_the_disk_had_not_is_not_made_again():
    half = promoted(with_a_copy_behind_a_change(kvsync(b"a", HAS + 3, b"2", 2)))
    all_saved(half)
    half.take("snapshot")
    assert half.request(*zpset(b"a", b"1", 1)) == [zpack(1, b"200", HAS + 1)]
    all_saved(half)
    assert half.map == {b"a": b"2"}


def test_a_key_of_the_copy_expires_though_a_change_before_it_is_on_its_way_to_the_disk():
    half = promoted(with_a_copy_behind_a_change(kvsync(b"a", HAS + 3, b"2", 2, b"ttl=1\n")))
    half.hear_for(3.0, state(WAITING, epoch=0))
    all_saved(half)
    half.hear_for(3.0, state(WAITING, epoch=0))
    all_saved(half)
    assert half.map == {}


def test_a_change_of_another_active_is_not_made_in_the_copy_that_came_after_it():
    """Its sequences may be higher: the clock of the one after it was set back."""
    half = following(durable=True)
    half.give(kvpub(b"a", HAS + 1, HAS, b"lost", 1), port="peer-updates")
    half.hear(state(ACTIVE, epoch=3, life=b"another"))
    half.give(hugz(10), port="peer-updates")
    half.give(kvsync(b"a", 10, b"right", 2), kthxbai(10), port="peer-snapshot")
    half.hear(state(WAITING, epoch=0))
    assert half.state == "active"
    all_saved(half)
    assert half.map == {b"a": b"right"}
    assert half.published() == []


def between_two_actives() -> Half:
    """It has a copy of one on its way to the disk, and follows another one, whose copy it has not got."""
    half = Half("backup", durable=True)
    half.hear(state(ACTIVE))
    half.give(hugz(HAS), kvpub(b"a", HAS + 1, HAS, b"1", 1), port="peer-updates")
    half.give(kthxbai(HAS), port="peer-snapshot")
    assert len(half.saves) == 1
    half.hear(state(ACTIVE, epoch=3, life=b"another"))
    return half


def test_a_copy_of_an_active_that_is_followed_no_longer_does_not_make_a_half_fit_to_serve():
    half = between_two_actives()
    all_saved(half)
    assert half.map == {b"a": b"1"}, "it is better than nothing"
    assert not half.server.has_copy
    half.give(hugz(10), port="peer-updates")
    half.take("peer-snapshot")
    half.give(kthxbai(10), hugz(10), port="peer-snapshot")
    assert half.take("peer-snapshot") == [], "nor does it say that it has what the other one never had"
    all_saved(half)
    assert half.server.has_copy
    assert half.take("peer-snapshot") == [[b"ZPHAVE", seq(10), half.server._life]]


def test_it_answers_for_what_that_copy_has_when_it_has_to_serve_with_it():
    half = between_two_actives()
    half.hear(state(WAITING, epoch=0))
    assert half.state == "active"
    all_saved(half)
    assert half.request(*zpset(b"a", b"1", 1)) == [zpack(1, b"200", HAS + 1)]
    assert half.published() == []


def test_what_one_active_made_is_not_answered_for_by_the_copy_of_another():
    half = following(durable=True)
    half.give(kvpub(b"a", HAS + 1, HAS, b"1", 1), port="peer-updates")
    half.hear(state(ACTIVE, epoch=3, life=b"another"))
    half.give(hugz(HAS + 9), port="peer-updates")
    half.give(kthxbai(HAS + 9), port="peer-snapshot")
    all_saved(half)
    promoted(half)
    all_saved(half)
    assert half.map == {}
    half.take("snapshot")
    half.request(*zpset(b"a", b"1", 1))
    all_saved(half)
    assert half.map == {b"a": b"1"}
