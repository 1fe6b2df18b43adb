"""12/CHP, clause by clause: what a server must do, in raw frames."""

from __future__ import annotations

from tests.clone.pair_harness import following, promoted
from tests.clone.server_harness import ServerHarness, kvset
from zpatterns.clone.server_core import CloneServerCore

UUID = bytes(range(16))


def test_ports_and_connections():
    """ "The server MUST open three ports": SNAPSHOT, PUBLISHER and COLLECTOR."""
    assert CloneServerCore.PORTS == ("snapshot", "publisher", "collector")


def test_state_synchronization_answers_with_pairs_and_kthxbai():
    """ "The server MUST respond to a ICANHAZ command by sending zero or more KVSYNC commands to its snapshot port,
    followed with a KTHXBAI command." "The server MUST prefix each command with the identity of the client"."""
    server = ServerHarness()
    server.collect([b"/a/k", bytes(8), UUID, b"", b"value"])
    server.give([b"client", b"ICANHAZ?", b""])
    pair, end = server.work(2)
    assert (pair[0], pair[1], pair[5], len(pair)) == (b"client", b"/a/k", b"value", 6)
    assert (end[0], end[1], end[5], len(end)) == (b"client", b"KTHXBAI", b"", 6)
    assert len(pair[2]) == len(end[2]) == 8


def test_state_synchronization_of_a_subtree():
    """ "The subtree specification MAY be empty. If not empty, it consists of a slash followed by one or more path
    segments, ending in a slash." KTHXBAI repeats it in frame 4."""
    server = ServerHarness()
    server.collect(kvset(b"/a/k"), kvset(b"/b/k"))
    snapshot = server.ask(b"/b/")
    assert [frames[0] for frames in snapshot] == [b"/b/k", b"KTHXBAI"]
    assert snapshot[-1][4] == b"/b/"


def test_kthxbai_has_a_sequence_not_below_any_before_it():
    """ "The sequence number MUST be the highest sequence number of the KVSYNC commands previously sent." The Guide's
    server sends that of the whole map, which deletions and other subtrees may have raised; so do we."""
    server = ServerHarness()
    server.collect(kvset(b"a"), kvset(b"b"))
    *pairs, end = server.ask()
    assert max(frames[1] for frames in pairs) == end[1]


def test_updates_are_broadcast():
    """ "When the server has an update for its hashmap it MUST broadcast this on its publisher socket as a KVPUB
    command." Frame 2 is the UUID of the KVSET."""
    server = ServerHarness()
    (published,) = server.collect([b"key", bytes(8), UUID, b"", b"value"])
    assert (published[0], published[2], published[4], len(published)) == (b"key", UUID, b"value", 5)


def test_sequences_are_strictly_incremental():
    """ "The sequence number MUST be strictly incremental.\""""
    server = ServerHarness()
    server.fill(100)
    published = server.collect(*(kvset(b"k") for _ in range(100)))
    sequences = [frames[1] for frames in published]
    assert sequences == sorted(set(sequences))


def test_the_sequence_of_an_update_has_no_significance():
    """ "The sequence number has no significance and may be zero.\""""
    server = ServerHarness()
    (published,) = server.collect([b"key", b"\xff" * 8, UUID, b"", b"value"])
    assert published[1] == (5001).to_bytes(8, "big")


def test_an_empty_value_deletes():
    """ "If the value is empty, the server MUST delete its key-value entry with the specified key.\""""
    server = ServerHarness()
    server.collect(kvset(b"key", b"value"), kvset(b"key", b""))
    assert [frames[0] for frames in server.ask()] == [b"KTHXBAI"]


def test_hugz_at_regular_intervals():
    """ "the server SHOULD send a HUGZ command at regular intervals, e.g. once per second": frame 1 is zero, 2 and 4
    are empty. (Frame 3 holds properties of our extension.)"""
    server = ServerHarness()
    server.advance(3)
    published = server.publications()
    assert len(published) == 3
    for frames in published:
        assert (frames[0], frames[1], frames[2], frames[4], len(frames)) == (b"HUGZ", bytes(8), b"", b"", 5)


def test_ttl():
    """ "the server SHOULD delete the key-value pair and broadcast a KVPUB with an empty value, to delete this from all
    clients, when the TTL has expired.\""""
    server = ServerHarness()
    server.collect(kvset(b"key", b"value", 1, b"ttl=2\n"))
    server.advance(2)
    assert [(frames[0], frames[4]) for frames in server.publications() if frames[0] != b"HUGZ"] == [(b"key", b"")]
    assert [frames[0] for frames in server.ask()] == [b"KTHXBAI"]


def test_reliability_a_backup_takes_over():
    """ "CHP may be used in a dual-server configuration where a backup server takes over if the primary server fails."
    Its clients then "connect to a backup server and re-request a state synchronization"."""
    backup = following([b"/a/k", bytes(7) + b"\5", UUID, b"", b"value"], sequence=5)
    assert backup.request(b"ICANHAZ?", b"", client=b"client") == [], "the primary is there"
    backup.advance(2.5)
    backup.request(b"ICANHAZ?", b"", client=b"client")
    backup.advance(0.0)
    pair, end = backup.take("snapshot")
    assert (pair[:2], pair[5], end[:2]) == ([b"client", b"/a/k"], b"value", [b"client", b"KTHXBAI"])


def test_reliability_a_uuid_tells_which_updates_the_primary_had():
    """ "The UUID SHOULD be a universally unique identifier, if a reliable server architecture is used.\""""
    backup = following(sequence=5)
    other = bytes(16)
    backup.give(kvset(b"seen", b"1", 1), [b"lost", bytes(8), other, b"", b"2"], port="collector")
    backup.give([b"seen", bytes(7) + b"\6", (1).to_bytes(16, "big"), b"prev=5\n", b"1"], port="peer-updates")
    promoted(backup)
    assert [(frames[0], frames[2]) for frames in backup.published()] == [(b"lost", other)]
