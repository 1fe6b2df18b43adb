"""A Clone client with the two servers of a pair, in fake time: it turns to the one that serves, with all it has open.

A passive server of ours publishes nothing and reads ICANHAZ as a vote; the Guide's publishes HUGZ all the same.
"""

from __future__ import annotations

import pytest

from tests.clone.following import (
    A,
    B,
    CloneHarness,
    hugz,
    kthxbai,
    kvpub,
    kvsync,
    seq,
    uuid,
    zpack,
)
from zpatterns.clone.events import GapFound, ServerGivenUp
from zpatterns.core import SocketKind
from zpatterns.errors import RequestTimeout

ICANHAZ = ("snapshot", [b"ICANHAZ?", b""])


def at(client: CloneHarness) -> str:
    """The server that it speaks with."""
    return client.sockets[client.socket(SocketKind.DEALER)].endpoint


def zpset(number: int, properties: bytes = b"") -> tuple[str, list[bytes]]:
    return ("snapshot", [b"ZPSET", uuid(number), b"/k", properties, b"v"])


# Turning to the other.


def test_the_passive_one_is_asked_though_it_publishes_nothing_for_that_is_its_vote():
    client = CloneHarness(A, B).follow(last=10)
    client.later(5.1)
    assert at(client) == B.snapshot
    assert client.later(1.5) == [ICANHAZ]
    client.answer(kvsync(b"/a", 9, b"x"), kthxbai(11, instance="b"))
    assert client.map == {"/a": b"x"}
    assert client.states() == ["SUSPENDED", "CONNECTED"]


def test_subscription_requests_and_answers_all_move():
    client = CloneHarness(A, B, subtree="/s/").follow()
    client.later(5.1)
    opened = {client.sockets[port].endpoint for port in client.sockets if not str(port).startswith("sets")}
    assert opened == {B.snapshot, B.publisher}
    assert client.subscriptions[client.socket(SocketKind.SUB)] == [b"/s/", b"HUGZ"]


def test_one_that_says_nothing_at_all_keeps_nobody_from_the_other_for_long():
    client = CloneHarness(B, A)
    client.later(1.5)
    client.later(1.6)
    assert at(client) == A.snapshot
    (given_up,) = client.events(ServerGivenUp)
    assert given_up.endpoint == B.snapshot


def test_one_that_publishes_but_is_slow_to_answer_has_its_time():
    client = CloneHarness(A, B)
    client.publish(hugz(10))
    client.later(4.9)
    assert at(client) == A.snapshot
    client.later(0.2)
    assert at(client) == B.snapshot


def test_one_that_wakes_up_after_it_was_asked_has_its_time_too():
    client = CloneHarness(A, B)
    client.later(1.6)
    client.publish(hugz(10))
    client.later(4.9)
    assert at(client) == A.snapshot
    client.answer(kthxbai(10))
    assert client.state == "following"


def test_a_single_server_is_waited_for():
    client = CloneHarness(A)
    port = client.socket(SocketKind.DEALER)
    client.later(1.5 + 4.9)
    assert client.socket(SocketKind.DEALER) == port


def test_it_goes_back_and_forth_until_one_serves():
    client = CloneHarness(A, B).follow()
    client.later(5.1)
    asked = []
    for _ in range(4):
        asked.append(at(client))
        client.later(3.0)
    assert asked == [B.snapshot, A.snapshot, B.snapshot, A.snapshot]
    assert client.states() == ["SUSPENDED", "LOST"]
    assert client.map == {}
    client.publish(hugz(12, instance="b"))
    client.answer(kvsync(b"/a", 12, b"x"), kthxbai(12, instance="b"))
    assert client.states() == ["CONNECTED"]


def test_reading_goes_on_all_the_while():
    client = CloneHarness(A, B).follow(kvsync(b"/a", 1, b"x"))
    for _ in range(20):
        client.later(1.0)
        assert client.map == {"/a": b"x"}


# The map of the other.


def test_what_the_other_never_had_is_told_as_a_change():
    """An update that only the dead one had published is gone: who watches is told so."""
    client = CloneHarness(A, B).follow(kvsync(b"/a", 1, b"x"), last=10)
    client.publish(kvpub(b"/a", 11, b"y", "10"))
    assert client.changed() == [("/a", b"x", b"y", 11)]
    client.later(5.1)
    client.publish(hugz(10, instance="b"))
    client.answer(kvsync(b"/a", 1, b"x"), kthxbai(10, instance="b"))
    assert client.changed() == [("/a", b"y", b"x", 1)]


def test_a_key_that_was_deleted_at_the_other_does_not_come_back():
    client = CloneHarness(A, B).follow(kvsync(b"/a", 1, b"x"), last=10)
    client.later(5.1)
    client.publish(hugz(12, instance="b"))
    client.answer(kthxbai(12, instance="b"))
    assert client.map == {}
    client.publish(kvpub(b"/b", 13, b"z", "12"))
    assert client.map == {"/b": b"z"}


def test_the_other_one_s_numbers_count_even_if_they_are_lower():
    client = CloneHarness(A, B).follow(last=1000)
    client.later(5.1)
    client.publish(hugz(10, instance="b"))
    client.answer(kthxbai(10, instance="b"))
    client.publish(kvpub(b"/a", 11, b"x", "10"))
    assert client.map == {"/a": b"x"}
    assert client.events(GapFound) == []


def test_what_the_dead_one_still_sends_is_not_applied():
    client = CloneHarness(A, B).follow(last=10)
    old = client.socket(SocketKind.SUB)
    client.later(5.1)
    client.give(kvpub(b"/a", 11, b"x", "10"), hugz(11), port=old)
    client.publish(hugz(10, instance="b"))
    client.answer(kthxbai(10, instance="b"))
    assert client.map == {}


# Sets.


def test_what_is_open_is_sent_to_the_other_under_its_own_uuid_as_soon_as_that_is_followed():
    client = CloneHarness(A, B).follow()
    assert client.set(1, timeout=30.0) == [zpset(1)]
    client.later(5.1)
    assert client.set(2, b"/l", timeout=30.0) == []
    client.publish(hugz(12, instance="b"))
    sent = client.answer(kthxbai(12, instance="b"))
    assert sent.count(zpset(1)) == 1
    assert [frames[2] for _, frames in sent] == [b"/k", b"/l"]


def test_one_that_the_dead_server_made_is_acknowledged_by_the_other():
    client = CloneHarness(A, B).follow(last=10)
    client.set(1, timeout=30.0)
    client.publish(kvpub(b"/k", 11, b"v", "10", uuid=uuid(1)))
    assert client.ended() == [], "published, and perhaps not yet at the other"
    client.later(5.1)
    client.publish(hugz(11, instance="b"))
    client.answer(kvsync(b"/k", 11, b"v"), kthxbai(11, instance="b"))
    client.answer(zpack(uuid(1), b"200", 11))
    assert client.results() == {1: 11}


def test_one_that_was_acknowledged_is_not_asked_again():
    client = CloneHarness(A, B).follow(last=10)
    client.set(1, timeout=30.0)
    client.answer(zpack(uuid(1), b"200", 11))
    assert client.ended() == [], "its update has not come"
    client.later(5.1)
    client.publish(hugz(11, instance="b"))
    assert client.answer(kvsync(b"/k", 11, b"v"), kthxbai(11, instance="b")) == []
    assert client.results() == {1: 11}


def test_a_comparison_goes_with_it_to_the_other():
    client = CloneHarness(A, B).follow(kvsync(b"/k", 7, b"x"))
    client.set(1, if_sequence=7, timeout=30.0)
    client.later(5.1)
    client.publish(hugz(12, instance="b"))
    assert client.answer(kthxbai(12, instance="b")) == [zpset(1, b"if-seq=7\n")]


def test_its_deadline_holds_while_nobody_serves():
    client = CloneHarness(A, B).follow()
    client.set(1, timeout=8.0)
    client.later(8.1)
    assert isinstance(client.results()[1], RequestTimeout)


def test_one_that_says_it_is_not_active_is_left_at_once_even_while_its_snapshot_comes():
    client = CloneHarness(A, B)
    client.set(1, timeout=30.0)
    assert zpset(1) in client.publish(hugz(10))
    client.answer(kvsync(b"/a", 1, b"x"), zpack(uuid(1), b"503"))
    assert at(client) == B.snapshot
    client.publish(hugz(12, instance="b"))
    assert client.answer(kthxbai(12, instance="b")).count(zpset(1)) == 1
    assert client.map == {}


def test_a_post_goes_to_both_for_the_passive_one_keeps_what_the_active_may_lose():
    client = CloneHarness(A, B).follow()
    client.step(client.core.post, b"/k", b"v")
    (first, one), (second, other) = client.take()
    assert {first, second} == {"sets0", "sets1"}
    assert one == other == [b"/k", bytes(8), uuid(1), b"ttl=0\n", b"v"]


# The Guide's pair: no zp=1; HUGZ from the passive one too.


def foreign(client: CloneHarness, last: int = 10) -> CloneHarness:
    return client.follow(last=last, ours=False)


def test_the_guide_s_passive_one_is_left_when_it_does_not_answer():
    client = CloneHarness(B, A)
    client.publish(hugz(sequence=0))
    for _ in range(4):
        client.later(1.2)
        client.publish(hugz(sequence=0))
    client.later(0.5)
    assert at(client) == A.snapshot, "HUGZ does not mean active"


@pytest.mark.parametrize("way", ["silent", "gap"])
def test_the_guide_s_other_one_takes_over(way):
    client = foreign(CloneHarness(A, B))
    client.set(1, timeout=30.0)
    if way == "silent":
        client.later(5.1)
    else:  # it has become passive: it knows more than it publishes, and does not answer
        client.publish(hugz(sequence=12))
        client.later(5.5)
    assert at(client) == B.snapshot
    client.publish(hugz(sequence=12))
    sent = client.answer(kvsync(b"/a", 11, b"x", b"ttl=0\n"), kthxbai(12, ours=False))
    kvset = [b"/k", seq(0), uuid(1), b"ttl=0\n", b"v"]
    assert sent == [("sets0", kvset), ("sets1", kvset)]
    client.publish(kvpub(b"/k", 13, b"v", uuid=uuid(1)))
    assert client.results() == {1: 13}
    assert client.map == {"/a": b"x", "/k": b"v"}


def test_what_the_guide_s_passive_one_had_kept_answers_the_set_when_it_takes_over():
    client = foreign(CloneHarness(A, B))
    client.set(1, timeout=30.0)
    client.later(5.1)
    client.publish(hugz(sequence=10), kvpub(b"/k", 11, b"v", uuid=uuid(1)))
    client.answer(kthxbai(11, ours=False))
    assert client.results() == {1: 11}


def test_a_pair_of_both_kinds_is_spoken_to_in_its_own_way():
    client = CloneHarness(A, B).follow()
    client.set(1, timeout=30.0)
    client.later(5.1)
    client.publish(hugz(sequence=10))
    sent = client.answer(kthxbai(10, ours=False))
    assert {role for role, _ in sent} == {"sets0", "sets1"}
