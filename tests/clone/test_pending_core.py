"""Sets that come to the passive half of a pair after the active has published them: none is published again.

A client sends a set to both halves; its way to the passive one may be longer than that over the active one, by
any time.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.clone.pair_harness import (
    ACTIVE,
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
from tests.clone.server_harness import FIRST, kvset, seq, uuid
from zpatterns.clone.events import PendingPublished
from zpatterns.clone.pending_core import Pending

HAS = FIRST + 1000
"""What a passive half has after its copy."""

LATE = kvset(b"a", b"stale", 1)

OVERWRITTEN = pytest.mark.parametrize("newer", [b"newer", b""], ids=["overwritten", "deleted"])


def behind(newer: bytes, **options: Any) -> Half:
    """A passive half that missed an update, and then read of the set that is late and of what came after it."""
    half = following(kvsync(b"a", HAS, b"old", 9), **options)
    half.give(kvpub(b"a", HAS + 2, HAS + 1, b"stale", 1), port="peer-updates")
    half.give(kvpub(b"a", HAS + 3, HAS + 2, newer, 2), port="peer-updates")
    assert half.server.statistics().gaps == 1
    return half


def copied(half: Half, *pairs: list[bytes]) -> Half:
    """It asks, and is sent the whole map as it was at ``HAS + 3``."""
    half.hear_for(1.0, state(ACTIVE))
    assert half.take("peer-snapshot") == [[b"ICANHAZ?", b""]]
    half.give(*pairs, kthxbai(HAS + 3), port="peer-snapshot")
    while half.saves:
        half.saved()
    return half


def published_when_promoted(half: Half) -> list[tuple[bytes, bytes]]:
    promoted(half)
    while half.saves:
        half.saved()
    return [(frames[0], frames[4]) for frames in half.published()]


@OVERWRITTEN
@pytest.mark.parametrize("durable", [False, True])
def test_a_set_that_the_active_published_while_this_half_was_behind_is_not_kept(newer, durable):
    half = behind(newer, durable=durable)
    half.give(LATE, port="collector")
    assert half.server.statistics().held == 0
    assert published_when_promoted(half) == []
    assert half.map == {b"a": b"old"}, "the map of one moment"


@OVERWRITTEN
@pytest.mark.parametrize("durable", [False, True])
def test_nor_is_it_after_a_copy_that_does_not_show_it_any_more(newer, durable):
    half = copied(behind(newer, durable=durable), *([kvsync(b"a", HAS + 3, newer, 2)] if newer else []))
    half.give(LATE, port="collector")
    assert published_when_promoted(half) == []
    assert half.map == ({b"a": newer} if newer else {})


@OVERWRITTEN
def test_a_set_that_was_published_between_the_subscription_and_the_end_of_the_copy_is_not_kept(newer):
    half = Half("backup")
    half.hear(state(ACTIVE))
    half.give(kvpub(b"a", 11, 10, b"stale", 1), kvpub(b"a", 12, 11, newer, 2), port="peer-updates")
    half.give(kthxbai(10), port="peer-snapshot")
    half.give(LATE, port="collector")
    assert published_when_promoted(half) == []


def test_a_set_that_another_active_published_is_not_kept_either():
    """It was restarted with its store, in which there is what came after the set."""
    half = following()
    half.give(kvpub(b"a", HAS + 1, HAS, b"stale", 1), kvpub(b"a", HAS + 2, HAS + 1, b"newer", 2), port="peer-updates")
    half.hear(state(ACTIVE, epoch=3, life=b"another"))
    half.give(hugz(HAS + 2), port="peer-updates")
    half.give(kvsync(b"a", HAS + 2, b"newer", 2), kthxbai(HAS + 2), port="peer-snapshot")
    half.give(LATE, port="collector")
    assert published_when_promoted(half) == []
    assert half.map == {b"a": b"newer"}


def test_a_set_that_a_server_of_the_guides_published_where_one_of_ours_was_is_not_kept():
    """Its updates say nothing of those before them, and cannot be applied before a copy of its map."""
    half = following()
    half.give([b"a", seq(HAS + 1), uuid(1), b"ttl=0\n", b"stale"], port="peer-updates")
    assert half.map == {}
    half.give(LATE, port="collector")
    assert published_when_promoted(half) == []


@OVERWRITTEN
def test_a_set_that_comes_after_the_promotion_and_was_published_before_is_dropped(newer):
    half = following()
    half.give(kvpub(b"a", HAS + 1, HAS, b"stale", 1), kvpub(b"a", HAS + 2, HAS + 1, newer, 2), port="peer-updates")
    promoted(half)
    half.give(LATE, port="collector")
    assert half.published() == []
    assert half.map == ({b"a": newer} if newer else {})
    assert half.server.statistics().dropped["published-before"] == 1


def test_it_is_dropped_once_for_a_client_may_give_all_its_sets_one_uuid():
    """12/CHP: "The UUID SHOULD be a universally unique identifier"."""
    half = following()
    half.give(kvpub(b"a", HAS + 1, HAS, b"1", 1), port="peer-updates")
    promoted(half)
    half.give(kvset(b"a", b"1", 1), kvset(b"a", b"2", 1), kvset(b"a", b"3", 1), port="collector")
    assert [frames[4] for frames in half.published()] == [b"2", b"3"]


def test_what_is_published_at_the_promotion_and_comes_again_is_dropped():
    """A client repeats its sets as long as it believes in an active server of the Guide's."""
    half = following()
    half.give(LATE, port="collector")
    assert published_when_promoted(half) == [(b"a", b"stale")]
    half.request(*zpset(b"a", b"newer", 2))
    half.give(LATE, port="collector")
    assert half.map == {b"a": b"newer"}


def test_a_set_that_the_copy_shows_is_not_published_again():
    """Its key would live longer than it was given."""
    half = following(kvsync(b"a", HAS, b"v", 1, b"ttl=1\n"))
    half.give(kvset(b"a", b"v", 1, b"ttl=60\n"), kvset(b"b", b"w", 2), port="collector")
    assert published_when_promoted(half) == [(b"b", b"w")]
    assert half.events(PendingPublished) == [PendingPublished(1)]


def test_who_waits_for_a_set_that_was_published_and_lost_has_it_made():
    """The answer to a ZPSET says that the map has it: what was seen of it while this half was behind does not count."""
    half = promoted(behind(b"newer"))
    half.take("snapshot")
    half.request(*zpset(b"a", b"stale", 1))
    assert [frames[2] for frames in half.published()] == [uuid(1)]
    sequence = half.server.store.sequence
    assert half.request(*zpset(b"a", b"stale", 1)) == [zpack(1, b"200", sequence)]
    assert seq(sequence) > seq(HAS + 3)


def test_the_uuids_that_are_known_are_bounded_and_the_oldest_go_first():
    pending = Pending(10, 10_000, published_max=3)
    for number in range(1, 5):
        pending.published(uuid(number), b"k")
        pending.check_invariants()
    pending.clear()
    for number in range(1, 5):
        pending.add(uuid(number), kvset(b"k", b"v", number))
    assert [frames[2] for frames in pending.take()] == [uuid(1)]


def test_a_half_of_a_pair_knows_as_many_as_answers():
    half = following(answers_max=2)
    half.give(*(kvpub(b"k", HAS + number, HAS + number - 1, b"v", number) for number in (1, 2, 3)), port="peer-updates")
    half.give(*(kvset(b"k", b"v", number) for number in (1, 2, 3)), port="collector")
    assert half.server.statistics().held == 1
