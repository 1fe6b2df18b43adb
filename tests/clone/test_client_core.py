"""A Clone client's core: joining, following, what it misses and how it finds out, and whom it turns to."""

from __future__ import annotations

import pytest

from tests.clone.following import A, B, CloneHarness, hugz, kthxbai, kvpub, kvsync, seq
from zpatterns.clone.client_state import ClientOptions
from zpatterns.clone.events import GapFound, ServerGivenUp, SnapshotTaken, StateChanged
from zpatterns.core import Close, Open, SendFailure, SocketKind

ICANHAZ = ("snapshot", [b"ICANHAZ?", b""])


# Joining.


def test_it_opens_a_socket_to_each_port_and_a_publisher_to_every_server():
    client = CloneHarness(A, B)
    opened = {(command.kind, command.endpoint) for command in client.asked(Open)}
    assert opened == {
        (SocketKind.DEALER, "tcp://a:5556"),
        (SocketKind.SUB, "tcp://a:5557"),
        (SocketKind.PUB, "tcp://a:5558"),
        (SocketKind.PUB, "tcp://b:5568"),
    }


def test_the_whole_map_needs_one_subscription_and_a_subtree_one_for_heartbeats_after_it():
    client = CloneHarness()
    assert client.subscriptions[client.socket(SocketKind.SUB)] == [b""]
    client = CloneHarness(subtree="/a/")
    assert client.subscriptions[client.socket(SocketKind.SUB)] == [b"/a/", b"HUGZ"]


def test_the_snapshot_is_asked_for_when_the_subscription_is_known_to_be_live():
    client = CloneHarness()
    assert client.take() == []
    assert client.later(1.4) == []
    assert client.publish(hugz(5)) == [ICANHAZ]
    assert client.state == "fetching"


def test_any_message_of_the_subscription_proves_it():
    client = CloneHarness(subtree="/a/")
    assert client.publish(kvpub(b"/a/b", 7, b"v", "6,5")) == [("snapshot", [b"ICANHAZ?", b"/a/"])]


def test_a_server_that_publishes_nothing_is_asked_after_a_while_for_a_passive_one_waits_for_that():
    client = CloneHarness()
    assert client.later(1.49) == []
    assert client.later(0.02) == [ICANHAZ]


def test_a_snapshot_becomes_the_map_when_it_is_whole():
    client = CloneHarness()
    client.publish(hugz(10))
    client.answer(kvsync(b"/a", 3, b"x"), kvsync(b"/b", 9, b"y"))
    assert client.map == {}
    client.answer(kthxbai(10))
    assert client.map == {"/a": b"x", "/b": b"y"}
    assert client.core.replica.entries["/b"] == (b"y", 9)
    assert client.events(SnapshotTaken) == [SnapshotTaken("tcp://a:5556", 2, 10)]


def test_updates_that_come_while_the_snapshot_does_are_applied_after_it():
    client = CloneHarness()
    client.publish(hugz(10), kvpub(b"/a", 11, b"new", "10"))
    client.answer(kvsync(b"/a", 3, b"old"))
    client.publish(kvpub(b"/b", 12, b"", "11"), kvpub(b"/c", 13, b"c", "12"))
    client.answer(kvsync(b"/b", 4, b"gone"), kthxbai(10))
    assert client.map == {"/a": b"new", "/c": b"c"}
    client.publish(kvpub(b"/d", 14, b"d", "13"))
    assert client.map["/d"] == b"d"


def test_updates_that_the_snapshot_holds_already_are_not_applied_again():
    client = CloneHarness()
    client.publish(hugz(10), kvpub(b"/a", 11, b"older", "10"), kvpub(b"/b", 12, b"", "11"))
    client.answer(kvsync(b"/a", 14, b"newer"), kvsync(b"/b", 13, b"back"), kthxbai(14))
    assert client.map == {"/a": b"newer", "/b": b"back"}


def test_a_join_tells_watchers_what_is_there():
    client = CloneHarness()
    client.publish(hugz(10))
    client.answer(kvsync(b"/b", 9, b"y"), kvsync(b"/a", 3, b"x"), kthxbai(10))
    assert client.changed() == [("/a", None, b"x", 3), ("/b", None, b"y", 9)]


# Following.


def test_updates_are_applied_as_they_come_and_watchers_told_in_order():
    client = CloneHarness().follow(kvsync(b"/a", 1, b"x"))
    client.publish(kvpub(b"/a", 11, b"y", "10"), kvpub(b"/b", 12, b"z", "11"), kvpub(b"/a", 13, b"", "12"))
    assert client.map == {"/b": b"z"}
    assert client.changed() == [("/a", b"x", b"y", 11), ("/b", None, b"z", 12), ("/a", b"y", None, 13)]


def test_a_delete_of_what_is_not_there_is_no_change():
    client = CloneHarness().follow()
    client.publish(kvpub(b"/a", 11, b"", "10"))
    assert client.changed() == []
    assert client.core.replica.last == 11


@pytest.mark.parametrize("sequence", [1, 9, 10])
def test_what_is_not_newer_than_the_snapshot_is_dropped(sequence):
    client = CloneHarness().follow(kvsync(b"/a", 1, b"x"))
    client.publish(kvpub(b"/a", sequence, b"stale", str(sequence - 1)))
    assert client.map == {"/a": b"x"}
    assert client.statistics.dropped == {"stale": 1}


def test_what_is_not_newer_than_the_last_update_is_dropped():
    client = CloneHarness().follow()
    client.publish(kvpub(b"/a", 12, b"x", "10"), kvpub(b"/a", 12, b"again", "10"), kvpub(b"/a", 11, b"old", "10"))
    assert client.map == {"/a": b"x"}


def test_a_gap_is_noticed_by_the_update_after_it_and_repaired():
    client = CloneHarness().follow(kvsync(b"/a", 1, b"x"), kvsync(b"/b", 2, b"y"))
    client.publish(kvpub(b"/c", 13, b"c", "12"))
    assert client.events(GapFound) == [GapFound(10, "13 follows 12")]
    assert "/c" not in client.map
    assert client.later(0.2) == [ICANHAZ]
    client.publish(kvpub(b"/d", 14, b"d", "13"))
    client.answer(kvsync(b"/a", 11, b"X"), kvsync(b"/c", 13, b"c"), kthxbai(13))
    assert client.map == {"/a": b"X", "/c": b"c", "/d": b"d"}
    assert client.changed() == [
        ("/a", b"x", b"X", 11),
        ("/c", None, b"c", 13),
        ("/b", b"y", None, 13),
        ("/d", None, b"d", 14),
    ]


def test_a_gap_in_a_subtree_is_noticed_by_what_came_before_under_its_prefix():
    client = CloneHarness(subtree="/a/b/").follow()
    client.publish(kvpub(b"/a/b/x", 20, b"x", "19,15,10"))
    assert client.map == {"/a/b/x": b"x"}
    client.publish(kvpub(b"/a/b/y", 30, b"y", "29,28,25"))
    assert client.state == "behind"


def test_a_lost_last_update_is_noticed_by_the_next_heartbeat():
    client = CloneHarness().follow()
    client.publish(hugz(10))
    assert client.state == "following"
    client.publish(hugz(11))
    assert client.state == "behind"


def test_in_a_subtree_the_server_is_asked_for_its_last_and_the_heartbeat_after_the_answer_shows_it():
    client = CloneHarness(subtree="/a/").follow()
    assert client.publish(hugz(20)) == [("snapshot", [b"ZPLAST", b"/a/"])]
    client.answer([b"ZPLAST", b"/a/", seq(15)])
    assert client.state == "following", "it may be on its way"
    client.publish(hugz(20))
    assert client.state == "behind"
    assert [event.reason for event in client.events(GapFound)] == ["the server has published 15 in the subtree"]


def test_in_a_subtree_an_update_that_was_on_its_way_is_no_gap():
    client = CloneHarness(subtree="/a/").follow()
    client.publish(hugz(20))
    client.answer([b"ZPLAST", b"/a/", seq(15)])
    client.publish(kvpub(b"/a/x", 15, b"x", "14,10"), hugz(20))
    assert client.state == "following"


def test_in_a_subtree_nothing_is_asked_again_while_nothing_is_published():
    client = CloneHarness(subtree="/a/").follow()
    assert client.publish(hugz(10)) == []
    assert client.publish(hugz(20)) == [("snapshot", [b"ZPLAST", b"/a/"])]
    client.answer([b"ZPLAST", b"/a/", seq(7)])
    assert client.publish(hugz(20), hugz(20)) == []
    assert client.publish(hugz(21)) == [("snapshot", [b"ZPLAST", b"/a/"])]


def test_an_answer_counts_for_the_oldest_open_question():
    """Else an update lost between two questions would be taken for one that the first answer knew of."""
    client = CloneHarness(subtree="/a/").follow()
    client.publish(hugz(20), hugz(30))
    client.answer([b"ZPLAST", b"/a/", seq(7)])
    assert client.publish(hugz(30)) == [("snapshot", [b"ZPLAST", b"/a/"])]


def test_a_server_that_does_not_answer_for_a_subtree_is_asked_for_everything():
    client = CloneHarness(subtree="/a/").follow()
    for last in range(20, 25):
        client.publish(hugz(last))
    assert client.state == "following"
    client.publish(hugz(25))
    assert client.state == "behind"


def test_a_server_that_began_anew_is_asked_for_everything():
    client = CloneHarness().follow(kvsync(b"/a", 1, b"x"))
    client.publish(hugz(10, instance="two"))
    assert client.state == "behind"
    assert client.later(0.5) == [ICANHAZ]
    client.answer(kthxbai(3, instance="two"))
    assert client.map == {}
    assert client.core.replica.last == 3
    client.publish(hugz(3, instance="two"))
    assert client.state == "following"


def test_a_snapshot_that_does_not_reach_the_first_update_is_asked_for_again():
    client = CloneHarness()
    client.publish(hugz(10), kvpub(b"/b", 13, b"b", "12"))
    client.answer(kvsync(b"/a", 1, b"a"), kthxbai(11))
    assert client.map == {}
    assert client.later(0.5) == [ICANHAZ]
    client.answer(kvsync(b"/a", 1, b"a"), kvsync(b"/x", 12, b"x"), kthxbai(12))
    assert client.map == {"/a": b"a", "/x": b"x", "/b": b"b"}


def test_a_gap_among_the_updates_that_were_kept_shows_too():
    client = CloneHarness()
    client.publish(hugz(10), kvpub(b"/b", 11, b"b", "10"), kvpub(b"/c", 14, b"c", "13"))
    client.answer(kthxbai(10))
    assert client.state == "behind"
    client.later(0.5)
    client.answer(kvsync(b"/b", 11, b"b"), kvsync(b"/x", 13, b"x"), kthxbai(13))
    assert client.map == {"/b": b"b", "/x": b"x", "/c": b"c"}


def test_a_gap_that_the_snapshot_covers_is_none():
    client = CloneHarness()
    client.publish(hugz(10), kvpub(b"/b", 11, b"b", "10"), kvpub(b"/c", 14, b"c", "13"))
    client.answer(kvsync(b"/b", 11, b"b"), kvsync(b"/x", 13, b"x"), kthxbai(13))
    assert client.map == {"/b": b"b", "/x": b"x", "/c": b"c"}


def test_an_update_of_ours_without_its_chain_is_dropped_and_the_next_one_shows_it():
    client = CloneHarness().follow()
    client.publish(kvpub(b"/a", 11, b"x"))
    assert client.statistics.dropped == {"invalid": 1}
    client.publish(kvpub(b"/a", 12, b"y", "11"))
    assert client.state == "behind"


def test_gaps_one_after_another_are_repaired_at_a_growing_distance():
    client = CloneHarness(share=1.0).follow()
    waits = []
    last = 10
    for _ in range(4):
        client.publish(hugz(last + 5))
        began = client.now
        assert client.until(client.core.next_timer() or 0.0) == [[b"ICANHAZ?", b""]]
        client.take()
        waits.append(client.now - began)
        last += 5
        client.answer(kthxbai(last))
    assert waits == pytest.approx([0.25, 0.5, 1.0, 2.0])


def test_snapshots_that_come_incomplete_one_after_another_are_asked_for_at_a_growing_distance():
    """Each was asked for at once, as if the client had followed since the last: a storm of whole snapshots."""
    client = CloneHarness(share=1.0).follow()
    for _ in range(6):
        client.later(1.0)
        client.publish(hugz(10))
    client.publish(kvpub(b"/a", 13, b"a", "12"))
    waits = []
    for _ in range(5):
        began = client.now
        assert client.state == "behind"
        assert client.until(client.core.next_timer() or 0.0) == [[b"ICANHAZ?", b""]]
        client.take()
        waits.append(client.now - began)
        client.answer(kthxbai(10))
    assert waits == pytest.approx([0.0, 0.25, 0.5, 1.0, 2.0])


# Bounds.


def test_what_cannot_be_kept_while_a_snapshot_comes_ends_it():
    client = CloneHarness(A, B, kept_max=2)
    client.publish(hugz(10), kvpub(b"/a", 11, b"1", "10"), kvpub(b"/b", 12, b"2", "11"), kvpub(b"/a", 13, b"3", "12"))
    assert client.state == "fetching", "the latest of each key is enough"
    client.publish(kvpub(b"/c", 14, b"4", "13"))
    assert [event.endpoint for event in client.events(ServerGivenUp)] == ["tcp://a:5556"]
    assert client.sockets[client.socket(SocketKind.SUB)].endpoint == "tcp://b:5567"
    assert client.statistics.dropped["kept-overflow"] == 1


def test_what_is_kept_is_bounded_in_bytes():
    client = CloneHarness(kept_bytes_max=1000)
    client.publish(hugz(10), kvpub(b"/a", 11, bytes(800), "10"))
    assert client.state == "joining"


@pytest.mark.parametrize(
    "options", [{"subtree": "a"}, {"subtree": "/a"}, {"subtree": "/"}, {"kept_max": 0}, {"kept_bytes_max": 0}]
)
def test_options_that_are_none_are_refused(options):
    with pytest.raises(ValueError):
        ClientOptions(**options)


# Silence, and the next server.


def test_silence_after_a_heartbeat_is_death():
    client = CloneHarness(A, B).follow(kvsync(b"/a", 1, b"x"))
    client.later(4.9)
    assert client.state == "following"
    client.later(0.2)
    assert client.state == "joining"
    assert client.sockets[client.socket(SocketKind.DEALER)].endpoint == "tcp://b:5566"
    assert client.map == {"/a": b"x"}, "what it last knew can still be read"
    assert client.states() == ["SUSPENDED"]


def test_updates_are_no_sign_of_silence():
    client = CloneHarness().follow()
    for number in range(11, 20):
        client.later(4.0)
        client.publish(kvpub(b"/a", number, b"x", str(number - 1)))
    assert client.state == "following"


def test_a_server_that_never_gave_a_heartbeat_may_be_silent():
    """The Guide's model five has none."""
    client = CloneHarness()
    client.later(1.5)
    client.answer(kthxbai(10, ours=False))
    client.later(60.0)
    assert client.state == "following"


def test_a_snapshot_that_stops_midway_is_asked_for_over_new_sockets():
    client = CloneHarness()
    client.publish(hugz(10))
    client.answer(kvsync(b"/a", 1, b"x"))
    before = client.socket(SocketKind.DEALER)
    client.later(4.0)
    client.answer(kvsync(b"/b", 1, b"x"))
    client.later(4.9)
    assert client.socket(SocketKind.DEALER) == before
    client.later(0.2)
    assert client.socket(SocketKind.DEALER) != before
    assert client.publish(hugz(10)) == [ICANHAZ]
    client.answer(kvsync(b"/c", 1, b"x"), kthxbai(10))
    assert client.map == {"/c": b"x"}, "nothing is left of the first"


def test_what_still_comes_over_a_socket_that_is_closed_is_dropped():
    client = CloneHarness()
    old = client.socket(SocketKind.DEALER)
    client.later(7.0)
    client.give(kvsync(b"/a", 1, b"x"), kthxbai(10), port=old)
    assert client.map == {}
    assert client.statistics.dropped == {"late": 2}


def test_it_goes_round_the_list_and_tells_when_nobody_is_there():
    client = CloneHarness(A, B).follow()
    client.later(5.1)
    assert client.states() == ["SUSPENDED"]
    client.later(3.0)
    assert client.sockets[client.socket(SocketKind.DEALER)].endpoint == "tcp://a:5556"
    assert client.states() == ["LOST"]
    client.publish(hugz(10))
    client.answer(kthxbai(10))
    assert client.states() == ["CONNECTED"]


def test_the_next_server_s_map_is_taken_whole_and_its_difference_told():
    client = CloneHarness(A, B).follow(kvsync(b"/a", 1, b"x"), kvsync(b"/b", 2, b"y"))
    client.later(5.1)
    client.publish(hugz(20, instance="b"))
    client.answer(kvsync(b"/b", 2, b"y"), kvsync(b"/c", 20, b"z"), kthxbai(20, instance="b"))
    assert client.map == {"/b": b"y", "/c": b"z"}
    assert client.changed() == [("/c", None, b"z", 20), ("/a", b"x", None, 20)]


def test_states_are_told_once_each():
    client = CloneHarness()
    assert client.core.public_state.name == "LOST"
    client.publish(hugz(10))
    client.answer(kthxbai(10))
    client.publish(kvpub(b"/a", 11, b"x", "10"), hugz(12))
    client.later(0.5)
    client.answer(kthxbai(12))
    assert client.states() == ["CONNECTED", "SUSPENDED", "CONNECTED"]


def test_closing_closes_every_socket_and_is_the_last_state():
    client = CloneHarness(A, B).follow()
    client.step(client.core.close, client.now)
    assert client.sockets == {}
    assert client.states() == ["LOST"]
    assert client.core.next_timer() is None
    assert all(command.linger == 0 for command in client.asked(Close))


# A foreign server.


def test_a_gap_in_a_foreign_server_s_whole_map_is_noticed_for_it_counts_by_ones():
    client = CloneHarness().follow(ours=False)
    client.publish(kvpub(b"/a", 11, b"x"), kvpub(b"/a", 13, b"z"))
    assert client.state == "behind"


def test_one_that_does_not_count_by_ones_is_soon_known_to_skip():
    client = CloneHarness().follow(ours=False)
    last = 10
    for _ in range(3):
        last += 2
        client.publish(kvpub(b"/a", last, b"x"))
        assert client.state == "behind"
        client.later(3.0)
        client.answer(kvsync(b"/a", last, b"x"), kthxbai(last, ours=False))
    client.publish(kvpub(b"/a", last + 2, b"y"))
    assert client.state == "following"
    assert client.map == {"/a": b"y"}


def test_one_that_skips_cannot_keep_a_client_from_joining():
    client = CloneHarness()
    client.publish(hugz())
    last = 10
    for _ in range(4):
        assert client.state == "fetching"
        client.publish(kvpub(b"/a", last + 10, b"x"))
        client.answer(kthxbai(last, ours=False))
        last += 10
        if client.state == "behind":
            client.later(2.0)
    assert client.state == "following"
    assert client.map == {"/a": b"x"}


def test_its_heartbeat_s_sequence_shows_a_lost_last_update_and_a_restart():
    client = CloneHarness().follow(ours=False)
    client.publish(hugz(sequence=10))
    assert client.state == "following"
    client.publish(hugz(sequence=11))
    assert client.state == "behind"
    client.later(0.5)
    client.answer(kthxbai(11, ours=False))
    client.publish(hugz(sequence=11), hugz(sequence=0))
    assert [event.reason for event in client.events(GapFound)][-1] == "the server has begun anew"


def test_a_foreign_server_asked_before_the_subscription_was_live_is_asked_again_when_it_is():
    client = CloneHarness()
    client.later(1.5)
    client.answer(kvsync(b"/a", 1, b"x"), kthxbai(10, ours=False))
    assert client.map == {"/a": b"x"}
    client.publish(hugz())
    assert client.state == "behind"
    assert client.later(0.5) == [ICANHAZ]


def test_one_of_ours_need_not_be_for_its_chain_shows_what_was_missed():
    client = CloneHarness()
    client.later(1.5)
    client.answer(kvsync(b"/a", 1, b"x"), kthxbai(10))
    client.publish(hugz(10), kvpub(b"/a", 11, b"y", "10"))
    assert client.state == "following"


def test_another_kind_of_server_at_the_same_place_is_noticed():
    client = CloneHarness().follow()
    client.publish(hugz(sequence=10))
    assert client.state == "behind"
    client = CloneHarness().follow(ours=False)
    client.publish(hugz(10))
    assert client.state == "behind"


# Hostile frames.


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"HUGZ"],
        [b"HUGZ", b"", b"", b"", b""],
        [b"/a", b"1234567", b"", b"", b"v"],
        [b"/a", seq(11), b"short", b"prev=10\n", b"v"],
        [b"/a", seq(11), b"", b"prev=10\n", b"v", b""],
        [b"", seq(11), b"", b"prev=10\n", b"v"],
        [b"a\0b", seq(11), b"", b"prev=10\n", b"v"],
        [b"\xff", seq(11), b"", b"prev=10\n", b"v"],
        [b"a" * 256, seq(11), b"", b"prev=10\n", b"v"],
        [b"/a", seq(11), b"", b"prev=\n", b"v"],
        [b"/a", seq(11), b"", b"prev=-1\n", b"v"],
        [b"KTHXBAI", seq(11), b"", b"", b""],
    ],
)
def test_what_cannot_be_published_is_dropped_and_counted(frames):
    client = CloneHarness().follow(kvsync(b"/a", 1, b"x"))
    client.publish(frames)
    assert client.map == {"/a": b"x"}
    assert client.statistics.dropped == {"invalid": 1}


def test_what_lies_outside_the_subtree_is_dropped():
    client = CloneHarness(subtree="/a/").follow()
    client.publish(kvpub(b"/b/x", 11, b"x", "10"), kvpub(b"HUGZ-like", 12, b"x", "11"))
    assert client.map == {}
    assert client.statistics.dropped == {"outside": 2}


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"ZPACK"],
        [b"ZPACK", bytes(16), b"200", b""],
        [b"ZPACK", bytes(16), b"999", seq(1)],
        [b"ZPLAST", b"/other/", seq(1)],
        [b"HUGZ", seq(1), b"", b"", b""],
        [b"x"] * 6,
    ],
)
def test_what_cannot_be_answered_is_dropped_and_counted(frames):
    client = CloneHarness().follow()
    client.answer(frames)
    assert client.statistics.dropped == {"invalid": 1}
    assert client.state == "following"


def test_answers_to_what_was_not_asked_are_dropped():
    client = CloneHarness(subtree="/a/").follow()
    client.answer(
        kvsync(b"/a/x", 1, b"x"), kthxbai(99), [b"ZPLAST", b"/a/", seq(99)], [b"ZPACK", bytes(16), b"200", seq(1)]
    )
    assert client.map == {}
    assert client.core.replica.last == 10
    assert client.statistics.dropped == {"unsolicited": 3, "unknown-set": 1}


def test_a_request_that_was_not_handed_over_is_made_again_with_the_next_connection():
    client = CloneHarness()
    client.publish(hugz(10))
    client.fail([b"ICANHAZ?", b""], SendFailure.UNREACHABLE, client.socket(SocketKind.DEALER))
    client.later(5.1)
    assert client.publish(hugz(10)) == [ICANHAZ]


def test_an_event_of_a_state_says_why():
    client = CloneHarness().follow()
    client.publish(hugz(11))
    assert client.events(StateChanged)[0].reason == "the server has published 11"
