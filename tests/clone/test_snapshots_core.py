"""Snapshots: whole, of one moment, in bounded pieces, to many clients, and to clients that take little or nothing."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.clone.server_harness import NO_TTL, ServerHarness, kvset, seq, uuid, zpset
from zpatterns.clone.server_state import SnapshotAbandoned, SnapshotSent
from zpatterns.clone.snapshots_core import PIECE_BYTES, TURN_MESSAGES
from zpatterns.clone.store import PAGE

KEYS = 2000


def content(snapshot: list[list[bytes]]) -> dict[bytes, bytes]:
    """The pairs of a snapshot, each of which must come once."""
    keys = [frames[0] for frames in snapshot[:-1]]
    assert len(keys) == len(set(keys)), "a key came twice"
    assert snapshot[-1][0] == b"KTHXBAI"
    return {frames[0]: frames[4] for frames in snapshot[:-1]}


def test_a_snapshot_is_every_pair_with_its_own_sequence_and_the_end():
    server = ServerHarness()
    server.collect(kvset(b"a", b"1", 1), kvset(b"b", b"2", 2), kvset(b"a", b"3", 3), kvset(b"c", b"", 4))
    assert server.ask() == [
        [b"a", seq(5003), uuid(3), NO_TTL, b"3"],
        [b"b", seq(5002), uuid(2), NO_TTL, b"2"],
        [b"KTHXBAI", seq(5004), b"", server.status, b""],
    ]
    assert server.events() == [SnapshotSent(b"C", b"", 2, 5004)]


def test_an_empty_map_is_just_the_end():
    server = ServerHarness()
    assert server.ask() == [[b"KTHXBAI", seq(5000), b"", server.status, b""]]


def test_a_snapshot_of_a_subtree_is_what_lies_in_it():
    server = ServerHarness()
    server.collect(
        *(kvset(key, key, number) for number, key in enumerate([b"/a/1", b"/b/1", b"/b/c/1", b"/b", b"/bb/1"]))
    )
    assert content(server.ask(b"/b/")) == {b"/b/1": b"/b/1", b"/b/c/1": b"/b/c/1"}
    assert content(server.ask(b"/none/")) == {}
    assert server.ask(b"/none/")[-1] == [b"KTHXBAI", seq(5005), b"", server.status, b"/none/"]


def test_any_prefix_is_taken_for_a_subtree_as_the_guides_server_does():
    server = ServerHarness()
    server.collect(kvset(b"abc"), kvset(b"abd"), kvset(b"b"))
    assert content(server.ask(b"ab")) == {b"abc": b"v", b"abd": b"v"}


@pytest.mark.parametrize(("after", "left"), [(0.0, b"5"), (0.1, b"5"), (4.0, b"1"), (4.5, b"1")])
def test_the_seconds_that_remain_are_rounded_up(after, left):
    server = ServerHarness()
    server.collect(kvset(b"a", b"v", 1, b"ttl=5\ncolour=red\n"))
    server.advance(after)
    assert server.ask()[0] == [b"a", seq(5001), uuid(1), b"ttl=%b\ncolour=red\n" % left, b"v"]


def test_a_key_on_the_point_of_expiry_is_never_sent_as_one_for_ever():
    """A ttl of zero is none."""
    server = ServerHarness()
    server.fill(TURN_MESSAGES)
    server.collect(kvset(b"z", b"v", 1, b"ttl=1\n"))
    server.give([b"C", b"ICANHAZ?", b""])
    server.work()
    server.now += 2
    assert server.snapshot()[0][3] == b"ttl=1\n"


# One moment, whatever happens meanwhile.


@pytest.mark.parametrize("seed", range(5))
def test_updates_that_flow_while_a_snapshot_is_sent_are_not_in_it_and_come_after_it(seed):
    """Regression, Clone: updates between snapshot and subscription are lost."""
    rng = random.Random(seed)
    server = ServerHarness()
    server.fill(KEYS)
    before = server.map()
    server.give([b"C", b"ICANHAZ?", b""])
    received = server.sent()
    updates = []
    while not received or received[-1][1] != b"KTHXBAI":
        received += server.work()
        updates += server.collect(
            *(
                kvset(b"/k/%d" % rng.randrange(KEYS + 500), rng.choice((b"", b"new")), 1)
                for _ in range(rng.randrange(200))
            )
        )
    received = [frames[1:] for frames in received]
    assert content(received) == before
    end = int.from_bytes(received[-1][1], "big")
    assert updates, "nothing was tested"
    replica = content(received)
    for key, sequence, _, _, body in updates:
        assert int.from_bytes(sequence, "big") > end
        replica[key] = body
    assert {key: body for key, body in replica.items() if body} == server.map()


def test_a_turn_sends_a_bounded_piece_however_many_ask():
    server = ServerHarness()
    server.fill(KEYS)
    server.give(*([b"C%d" % number, b"ICANHAZ?", b""] for number in range(50)))
    ended = 0
    while ended < 50:
        sent = server.work()
        assert 0 < len(sent) <= TURN_MESSAGES + PAGE + 50
        ended += sum(frames[1] == b"KTHXBAI" for frames in sent)
    server.work()
    assert server.statistics.snapshots == 50
    assert server.statistics.snapshot_keys == 50 * KEYS
    assert server.statistics.joining == 0


def test_a_turn_looks_through_a_bounded_part_of_the_map():
    """A subtree of which there is nothing must not stop the loop for as long as it takes to see that."""
    server = ServerHarness()
    server.fill(20_000)
    server.give([b"C", b"ICANHAZ?", b"/none/"])
    turns = 0
    while not server.work():
        turns += 1
    assert turns >= 1


def test_a_turn_sends_a_bounded_number_of_bytes():
    server = ServerHarness()
    body = b"x" * (PIECE_BYTES // 10)
    server.collect(*(kvset(b"%d" % number, body, number) for number in range(100)))
    server.give([b"C", b"ICANHAZ?", b""])
    sizes: list[int] = []
    keys: set[bytes] = set()
    while not sizes or sizes[-1]:
        sent = server.work()
        keys |= {frames[1] for frames in sent}
        sizes.append(sum(len(frames[5]) for frames in sent))
    assert max(sizes) <= PIECE_BYTES + len(body)
    assert len(keys) == 101


def test_one_who_asks_while_others_are_served_is_served_with_them():
    server = ServerHarness()
    server.fill(20_000)
    server.give([b"large", b"ICANHAZ?", b""])
    server.work()
    server.give([b"late", b"ICANHAZ?", b""])
    assert any(frames[0] == b"late" for frames in server.work(2))


def test_each_of_several_requests_of_one_client_is_answered_in_order():
    """Regression, Clone: a client asks twice and then waits for ever."""
    server = ServerHarness()
    server.collect(kvset(b"/a/1"), kvset(b"/b/1"))
    server.give([b"C", b"ICANHAZ?", b"/a/"], [b"C", b"ICANHAZ?", b"/b/"])
    received = [frames[1] for frames in server.work(4)]
    assert received == [b"/a/1", b"KTHXBAI", b"/b/1", b"KTHXBAI"]


def test_requests_beyond_the_bounds_are_dropped_and_counted():
    server = ServerHarness(joins_max=2)
    server.fill(10)
    server.give(
        *([b"C", b"ICANHAZ?", b""] for _ in range(12)), *([b"%d" % number, b"ICANHAZ?", b""] for number in range(4))
    )
    assert server.statistics.dropped == {"too-many-joins": 4 + 3}
    assert server.statistics.joining == 2


# Clients that take little, or nothing.


def test_what_a_full_connection_did_not_take_is_sent_again_in_order():
    """Regression, Clone: a snapshot beyond 1,000 messages is cut silently, KTHXBAI included."""
    server = ServerHarness()
    server.fill(KEYS)
    server.takes[b"C"] = 100
    server.give([b"C", b"ICANHAZ?", b""])
    received: list[list[bytes]] = []
    while not received or received[-1][1] != b"KTHXBAI":
        received += server.advance(0.1)
        server.takes[b"C"] = 100
    order = [frames[1] for frames in received]
    assert order == [b"/k/%d" % number for number in range(KEYS)] + [b"KTHXBAI"]
    server.advance(1)
    assert server.statistics.snapshots == 1


@pytest.mark.parametrize("room", [0, 1, KEYS - 1, KEYS])
def test_a_snapshot_of_which_the_last_messages_were_not_taken_is_not_over(room):
    server = ServerHarness()
    server.fill(KEYS)
    server.takes[b"C"] = room
    server.give([b"C", b"ICANHAZ?", b""])
    assert len(server.advance(1)) == room
    assert server.statistics.joining == 1
    del server.takes[b"C"]
    assert len(server.advance(1)) == KEYS + 1 - room
    assert server.statistics.joining == 0


def test_a_full_connection_is_tried_ever_less_often():
    server = ServerHarness(liveness=100)
    server.fill(KEYS)
    server.takes[b"C"] = 0
    server.give([b"C", b"ICANHAZ?", b""])
    server.work()
    tries = []
    while server.now < 1001:
        timer = server.core.next_timer()
        assert timer is not None
        tries.append(timer)
        server.until(timer)
    gaps = [after - before for before, after in itertools.pairwise(tries)]
    assert 8 < len(tries) < 20
    assert max(gaps) <= 0.11


def test_a_client_that_stops_reading_is_given_up_and_disturbs_nobody():
    server = ServerHarness()
    server.fill(KEYS)
    server.takes[b"dead"] = 300
    server.give([b"dead", b"ICANHAZ?", b""])
    assert len(content(server.ask(client=b"C"))) == KEYS
    server.advance(4.9)
    assert server.statistics.joining == 1
    server.advance(0.3)
    assert server.statistics.joining == 0
    assert server.statistics.abandoned == 1
    (event,) = server.events(SnapshotAbandoned)
    assert (event.client, event.reason) == (b"dead", "not read")
    server.takes.clear()
    assert len(content(server.ask(client=b"dead"))) == KEYS, "it may come back"


def test_a_client_that_takes_a_message_now_and_then_is_given_up_too():
    """Or a few such clients would keep old maps in memory for days."""
    server = ServerHarness()
    server.fill(KEYS)
    server.takes[b"C"] = 0
    server.give([b"C", b"ICANHAZ?", b""])
    for _ in range(11):
        server.advance(0.5)
        server.takes[b"C"] = 1
    assert server.statistics.abandoned == 1


def test_a_slow_client_that_reads_on_is_served_to_the_end():
    server = ServerHarness()
    server.fill(KEYS)
    server.takes[b"C"] = 0
    server.give([b"C", b"ICANHAZ?", b""])
    received: list[list[bytes]] = []
    for _ in range(100):
        received += server.advance(1)
        server.takes[b"C"] = 100
    assert len(content([frames[1:] for frames in received])) == KEYS


def test_a_client_that_is_gone_is_forgotten_at_once():
    server = ServerHarness()
    server.fill(KEYS)
    server.gone.add(b"C")
    server.give([b"C", b"ICANHAZ?", b""])
    server.work()
    assert server.statistics.joining == 0
    assert [event.reason for event in server.events(SnapshotAbandoned)] == ["unreachable"]


def test_an_answer_to_a_client_whose_connection_is_full_is_no_part_of_its_snapshot():
    server = ServerHarness()
    server.fill(KEYS)
    server.takes[b"C"] = 10
    server.give([b"C", b"ICANHAZ?", b""])
    server.work()
    server.give(zpset(b"ZPACK", b"v", 9))
    assert server.statistics.undelivered == 1
    del server.takes[b"C"]
    assert len(server.advance(1)) == KEYS + 1 - 10


def test_clients_that_never_read_keep_one_old_map_each_at_the_most_and_only_for_a_while():
    server = ServerHarness()
    server.fill(KEYS)
    for number in range(3):
        server.takes[b"%d" % number] = 0
        server.give([b"%d" % number, b"ICANHAZ?", b""])
        server.work()
        server.collect(kvset(b"/k/0", b"%d" % number))
    server.advance(20)
    assert server.statistics.abandoned == 3
    assert server.core.store._view is None
