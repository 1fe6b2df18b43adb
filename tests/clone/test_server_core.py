"""The server's core: updates in order, what is dropped, answers, lives that end, limits, heartbeats."""

from __future__ import annotations

import pytest

from tests.clone.server_harness import FIRST, NO_TTL, ServerHarness, kvset, seq, uuid, zpack, zpset
from zpatterns.clone import wire
from zpatterns.clone.server_state import ServerOptions
from zpatterns.core import MessagesDropped, SendFailure
from zpatterns.timing import Liveness

# Updates.


def test_each_update_is_published_with_the_next_sequence_and_what_came_before():
    server = ServerHarness()
    published = server.collect(kvset(b"/x/a", b"1", 1), kvset(b"/x/a", b"2", 2), kvset(b"b", b"3", 3))
    assert published == [
        [b"/x/a", seq(5001), uuid(1), NO_TTL + b"prev=5000,5000\n", b"1"],
        [b"/x/a", seq(5002), uuid(2), NO_TTL + b"prev=5001,5001\n", b"2"],
        [b"b", seq(5003), uuid(3), NO_TTL + b"prev=5002\n", b"3"],
    ]
    assert server.map() == {b"/x/a": b"2", b"b": b"3"}


def test_an_empty_value_deletes_and_is_published_whether_the_key_was_there_or_not():
    server = ServerHarness()
    server.collect(kvset(b"a", b"1"))
    assert server.collect(kvset(b"a", b"", 2), kvset(b"never", b"", 3)) == [
        [b"a", seq(5002), uuid(2), b"prev=5001\n", b""],
        [b"never", seq(5003), uuid(3), b"prev=5002\n", b""],
    ]
    assert server.map() == {}
    assert server.statistics.deletes == 2


def test_an_update_without_uuid_is_given_one():
    """A C server that follows us falls over an empty one."""
    server = ServerHarness()
    frames = kvset(b"a")
    frames[2] = b""
    (published,) = server.collect(frames)
    assert len(published[2]) == 16 and any(published[2])
    assert server.ask()[0][2] == published[2]


def test_the_same_uuid_twice_is_two_updates():
    """The Guide's server deletes an expired pair under the uuid of its set."""
    server = ServerHarness()
    assert len(server.collect(kvset(b"a", b"1", 7), kvset(b"a", b"2", 7))) == 2
    assert server.map() == {b"a": b"2"}


def test_properties_of_others_are_passed_on_and_ours_cannot_be_forged():
    server = ServerHarness()
    (published,) = server.collect(kvset(b"a", b"v", 1, b"colour=red\nprev=1\nzp=1\ninstance=x\nseq=9\nif-seq=3\n"))
    assert published[3] == NO_TTL + b"colour=red\nprev=5000\n"
    assert server.ask()[0][3] == NO_TTL + b"colour=red\n"


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "invalid"),
        ([b"k"], "invalid"),
        ([b"k", bytes(8), uuid(1), b""], "invalid"),
        ([b"k", bytes(8), uuid(1), b"", b"v", b""], "invalid"),
        ([b"k", b"", uuid(1), b"", b"v"], "invalid"),
        ([b"k", bytes(8), b"short", b"", b"v"], "invalid"),
        ([b"", bytes(8), uuid(1), b"", b"v"], "invalid-key"),
        ([b"HUGZ", bytes(8), uuid(1), b"", b"v"], "invalid-key"),
        ([b"KTHXBAI", bytes(8), uuid(1), b"", b"v"], "invalid-key"),
        ([b"a\0b", bytes(8), uuid(1), b"", b"v"], "invalid-key"),
        ([b"\xff", bytes(8), uuid(1), b"", b"v"], "invalid-key"),
        ([b"k" * 256, bytes(8), uuid(1), b"", b"v"], "invalid-key"),
        ([b"k" * 21, bytes(8), uuid(1), b"", b"v"], "too-large"),
        ([b"k", bytes(8), uuid(1), b"", b"v" * 101], "too-large"),
        ([b"k", bytes(8), uuid(1), b"p=" + b"v" * 100 + b"\n", b"v"], "too-large"),
        ([b"/a/b/c/d/k", bytes(8), uuid(1), b"", b"v"], "too-deep"),
    ],
)
def test_what_is_no_update_is_dropped_and_counted(frames, reason):
    server = ServerHarness(key_max=20, value_max=100, depth_max=3)
    assert server.collect(frames, kvset(b"/a/b/c/k")) == [
        [b"/a/b/c/k", seq(5001), uuid(1), NO_TTL + b"prev=5000,5000,5000,5000\n", b"v"]
    ]
    assert server.events() == [MessagesDropped(reason, 1)]
    assert server.statistics.dropped == {reason: 1}


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"C"],
        [b"C", b""],
        [b"C", b"ICANHAZ?"],
        [b"C", b"ICANHAZ?", b"", b""],
        [b"C", b"ICANHAZ", b""],
        [b"C", b"", b"ICANHAZ?", b""],
        [b"C", b"ICANHAZ?", b"x" * 256],
        [b"C", b"ZPSET", uuid(1), b"k", b""],
        [b"C", b"ZPSET", b"short", b"k", b"", b"v"],
        [b"C", b"ZPSET", uuid(1), b"k", b"if-seq=x\n", b"v"],
        [b"C", b"ZPLAST", b"no-subtree"],
        [b"C", b"ZPACK", uuid(1), b"200", bytes(8)],
        [b"C", b"KTHXBAI", bytes(8), b"", b"", b""],
    ],
)
def test_what_is_no_request_is_dropped_and_counted(frames):
    server = ServerHarness()
    assert server.give(frames) == []
    assert server.statistics.dropped == {"invalid": 1}
    assert not server.map()


def test_a_set_may_have_as_many_properties_as_clients_read():
    server = ServerHarness()
    lines = b"".join(b"%d=\n" % number for number in range(1001))
    assert server.collect(kvset(b"k", properties=lines)) == []
    assert server.statistics.dropped == {"too-large": 1}
    [frames] = server.collect(kvset(b"k", properties=lines[: lines.index(b"1000=")]))
    assert wire.parse_properties(frames[3])[b"prev"] == b"5000", "what the server adds is read too"


# Heartbeats.


def test_a_heartbeat_goes_out_every_second_whatever_else_does():
    """Who follows a subtree sees nothing else, and the C client gives a server up after 5 s."""
    server = ServerHarness()
    server.collect(kvset(b"a"))
    hugz = [b"HUGZ", bytes(8), b"", server.status, b""]
    for _ in range(3):
        server.advance(0.5)
        assert server.publications() == []
        server.collect(kvset(b"a"))
        server.advance(0.5)
        hugz[3] = server.status
        assert server.publications() == [hugz]


def test_a_late_heartbeat_is_not_made_up_for():
    server = ServerHarness()
    server.stall(10.3)
    assert len(server.publications()) == 1
    server.advance(0.9)
    assert server.publications() == []
    server.advance(0.1)
    assert len(server.publications()) == 1


# Lives that end.


def test_a_key_with_a_ttl_is_deleted_and_the_deletion_published():
    """12/CHP, "Client-to-Server Updates"."""
    server = ServerHarness()
    assert server.collect(kvset(b"/s/a", b"v", 1, b"ttl=3\n")) == [
        [b"/s/a", seq(5001), uuid(1), b"ttl=3\nprev=5000,5000\n", b"v"]
    ]
    server.advance(2.999)
    assert server.map() == {b"/s/a": b"v"}
    server.publications()
    server.advance(0.001)
    deletion = next(frames for frames in server.publications() if frames[0] != b"HUGZ")
    assert deletion[:2] == [b"/s/a", seq(5002)]
    assert deletion[3:] == [b"prev=5001,5001\n", b""]
    assert len(deletion[2]) == 16 and deletion[2] != uuid(1)
    assert server.map() == {}
    assert server.statistics.expired == 1


@pytest.mark.parametrize("properties", [b"", b"ttl=0\n", b"ttl=x\n", b"ttl=-1\n", b"ttl=5"])
def test_a_key_without_a_ttl_never_expires(properties):
    server = ServerHarness()
    server.collect(kvset(b"a", b"v", 1, properties))
    server.stall(1e9)
    assert server.map() == {b"a": b"v"}


def test_a_new_set_begins_a_new_life():
    server = ServerHarness()
    server.collect(kvset(b"a", b"1", 1, b"ttl=3\n"), kvset(b"b", b"1", 2, b"ttl=3\n"))
    server.advance(2)
    server.collect(kvset(b"a", b"2", 3, b"ttl=3\n"), kvset(b"b", b"2", 4))
    server.advance(2.9)
    assert server.map() == {b"a": b"2", b"b": b"2"}
    server.advance(100)
    assert server.map() == {b"b": b"2"}


def test_a_thousand_keys_expire_in_a_turn_and_the_rest_in_the_next():
    server = ServerHarness()
    server.collect(*(kvset(b"%d" % number, b"v", number, b"ttl=1\n") for number in range(2500)))
    server.now += 1.0
    for left in (1500, 500, 0):
        server.work()
        assert len(server.map()) == left


# Answers.


def test_a_set_is_published_at_once_and_answered():
    server = ServerHarness()
    assert server.give(zpset(b"/a/k", b"v", 1, b"ttl=3\ncolour=red\n")) == [zpack(1, b"200", 5001)]
    assert server.publications() == [[b"/a/k", seq(5001), uuid(1), b"ttl=3\ncolour=red\nprev=5000,5000\n", b"v"]]
    assert server.give(zpset(b"/a/k", b"", 2)) == [zpack(2, b"200", 5002)]
    assert server.publications() == [[b"/a/k", seq(5002), uuid(2), b"prev=5001,5001\n", b""]]


@pytest.mark.parametrize("again", [b"C", b"reconnected"])
def test_a_repeated_set_is_answered_the_same_and_never_published_twice(again):
    server = ServerHarness()
    server.give(zpset(b"k", b"v", 1))
    server.give(zpset(b"k", b"newer", 2))
    server.publications()
    assert server.give(zpset(b"k", b"v", 1, client=again)) == [zpack(1, b"200", 5001, again)]
    assert server.publications() == []
    assert server.map() == {b"k": b"newer"}
    assert server.statistics.repeated == 1


def test_a_comparison_succeeds_only_with_the_last_sequence_of_the_key():
    server = ServerHarness()
    assert server.give(zpset(b"k", b"1", 1, b"if-seq=0\n")) == [zpack(1, b"200", 5001)]
    assert server.give(zpset(b"k", b"x", 2, b"if-seq=0\n")) == [zpack(2, b"409", 5001)]
    server.collect(kvset(b"other"))
    assert server.give(zpset(b"k", b"2", 3, b"if-seq=5001\n")) == [zpack(3, b"200", 5003)]
    assert server.give(zpset(b"k", b"", 4, b"if-seq=5001\n")) == [zpack(4, b"409", 5003)]
    assert server.give(zpset(b"k", b"", 5, b"if-seq=5003\n")) == [zpack(5, b"200", 5004)]
    assert server.give(zpset(b"k", b"x", 6, b"if-seq=5003\n")) == [zpack(6, b"409", 0)]
    assert server.map() == {b"other": b"v"}
    assert server.statistics.conflicts == 3


def test_a_repeated_conflict_stays_one():
    """Its client has given up, or will: it must not come true when the key happens to fit later."""
    server = ServerHarness()
    server.give(zpset(b"k", b"1", 1))
    assert server.give(zpset(b"k", b"2", 2, b"if-seq=0\n")) == [zpack(2, b"409", 5001)]
    server.give(zpset(b"k", b"", 3))
    assert server.give(zpset(b"k", b"2", 2, b"if-seq=0\n")) == [zpack(2, b"409", 5001)]
    assert server.map() == {}


@pytest.mark.parametrize(
    "frames",
    [
        zpset(b"k", b"v" * 101),
        zpset(b"k" * 21),
        zpset(b"k" * 300),
        zpset(b"/a/b/c/d/k"),
        zpset(b"k", b"v", 1, b"p=" + b"v" * 100 + b"\n"),
    ],
)
def test_a_set_over_a_limit_is_refused(frames):
    server = ServerHarness(key_max=20, value_max=100, depth_max=3)
    assert server.give(frames) == [zpack(1, b"413", 0)]
    assert server.publications() == []
    assert server.statistics.refused == 1


def test_a_set_that_was_refused_stays_so_when_it_comes_again():
    server = ServerHarness(keys_max=1)
    server.give(zpset(b"a", b"v", 1))
    assert server.give(zpset(b"b", b"v", 2)) == [zpack(2, b"413", 0)]
    server.give(zpset(b"a", b"", 3))
    assert server.give(zpset(b"b", b"v", 2)) == [zpack(2, b"413", 0)]
    assert server.map() == {}


def test_answers_are_remembered_up_to_a_bound():
    server = ServerHarness(answers_max=3)
    for number in range(10):
        server.give(zpset(b"k", b"%d" % number, number))
    assert server.give(zpset(b"k", b"7", 7)) == [zpack(7, b"200", 5008)]
    assert server.give(zpset(b"k", b"6", 6)) == [zpack(6, b"200", 5011)], "forgotten: made once more"


def test_an_answer_that_cannot_be_delivered_is_counted():
    server = ServerHarness()
    server.gone.add(b"C")
    server.give(zpset(b"k"))
    assert server.statistics.undelivered == 1
    assert server.map() == {b"k": b"v"}


def test_the_last_sequence_of_a_subtree():
    server = ServerHarness()
    server.collect(kvset(b"/a/1"), kvset(b"/b/1"), kvset(b"/b/c/1"))
    asked = [[b"C", b"ZPLAST", subtree] for subtree in (b"", b"/a/", b"/b/", b"/b/c/", b"/none/")]
    assert server.give(*asked) == [
        [b"C", b"ZPLAST", b"", seq(5003)],
        [b"C", b"ZPLAST", b"/a/", seq(5001)],
        [b"C", b"ZPLAST", b"/b/", seq(5003)],
        [b"C", b"ZPLAST", b"/b/c/", seq(5003)],
        [b"C", b"ZPLAST", b"/none/", seq(5000)],
    ]


# Limits of the map.


def test_a_full_map_takes_changes_and_deletes_but_no_more_keys():
    server = ServerHarness(keys_max=2)
    server.fill(3)
    assert server.statistics.dropped == {"map-full": 1}
    assert len(server.collect(kvset(b"/k/0", b"changed"), kvset(b"/k/1", b""), kvset(b"new"))) == 3
    assert server.map() == {b"/k/0": b"changed", b"new": b"v"}


def test_bytes_are_bounded_by_what_the_map_would_hold():
    server = ServerHarness(bytes_max=1000)
    server.collect(kvset(b"a", b"x" * 500))
    assert server.collect(kvset(b"b", b"x" * 100)) == []
    assert len(server.collect(kvset(b"a", b"x" * 50), kvset(b"b", b"x" * 100))) == 2
    assert server.statistics.bytes <= 1000


@pytest.mark.parametrize("durable", [False, True])
def test_bytes_are_bounded_whatever_subtrees_keys_lie_in(durable):
    server = ServerHarness(bytes_max=50_000, durable=durable)
    form = b"/%d" + b"/a" * 31 + b"/k"
    server.fill(100, form)
    while server.saves:
        server.saved()
    assert 1 < len(server.map()) < 10
    assert 20_000 < server.statistics.bytes <= 50_000
    again = server.collect(kvset(form % 0, b"changed"))
    assert durable or len(again) == 1, "what is there can be changed"


# The end.


def test_a_server_that_drains_ends_what_was_asked_for_and_begins_nothing_more():
    server = ServerHarness()
    server.fill(3000)
    server.give([b"C", b"ICANHAZ?", b""])
    server.step(server.core.drain, server.now)
    assert not server.core.drained
    assert not server.core.wants_to_read("collector")
    server.give([b"D", b"ICANHAZ?", b""], zpset(b"k"))
    assert len(server.snapshot()) == 3001
    assert server.core.drained
    assert server.statistics.dropped == {"stopping": 2}
    server.step(server.core.shut_down, server.now)
    assert server.core.next_timer() is None
    assert not server.core.wants_to_read("snapshot")


# Arguments.


@pytest.mark.parametrize(
    "options",
    [{"keys_max": 0}, {"key_max": 256}, {"key_max": 0}, {"value_max": 0}, {"joins_max": 0}, {"pending_max": 0}],
)
def test_limits_that_make_no_sense(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ServerOptions(**options)
    ServerOptions(liveness=Liveness(0.1, 1))


def test_a_failed_publication_is_nobodys():
    server = ServerHarness()
    server.fail([b"k", seq(FIRST), uuid(1), b"", b"v"], SendFailure.UNREACHABLE, port="publisher")
    assert server.statistics.undelivered == 0
