"""12/CHP, clause by clause: what a client must do, in raw frames."""

from __future__ import annotations

import pytest

from tests.clone.following import A, B, CloneHarness
from zpatterns.core import SocketKind

ONE, TWO, NINE, TEN, ELEVEN = ((b"\x00" * 7 + bytes([number])) for number in (1, 2, 9, 10, 11))
UUID = b"\x00" * 15 + b"\x01"
HUGZ = [b"HUGZ", bytes(8), b"", b"", b""]
END = [b"KTHXBAI", TEN, b"", b"", b""]
LEASE = 5.0


def followed(subtree: str = "", *pairs: list[bytes]) -> CloneHarness:
    """A client that has joined a server which knows nothing but 12/CHP; its last sequence is 10."""
    client = CloneHarness(subtree=subtree)
    client.publish(HUGZ)
    client.answer(*pairs, [*END[:4], subtree.encode()])
    assert client.state == "following"
    return client


# Ports and Connections.


def test_connections():
    """ "The client SHOULD open at least two connections": a DEALER to P, a SUB to P + 1; it "MAY open a third", a PUB
    to P + 2."""
    client = CloneHarness()
    assert {(opened.kind, opened.endpoint) for opened in client.sockets.values()} == {
        (SocketKind.DEALER, "tcp://a:5556"),
        (SocketKind.SUB, "tcp://a:5557"),
        (SocketKind.PUB, "tcp://a:5558"),
    }


# State Synchronization.


@pytest.mark.parametrize("subtree", ["", "/a/", "/a/b/"])
def test_icanhaz(subtree):
    """ "The client MUST start by sending a ICANHAZ command to its snapshot connection. This command consists of two
    frames": the command, and the subtree, which "MAY be empty". Nothing else is sent before it."""
    client = CloneHarness(subtree=subtree)
    assert client.take() == []
    assert client.publish(HUGZ) == [("snapshot", [b"ICANHAZ?", subtree.encode()])]


@pytest.mark.parametrize("subtree", ["a", "/a", "a/", "/", "//"])
def test_a_subtree_is_slashes_around_segments(subtree):
    """ "If not empty, it consists of a slash followed by one or more path segments, ending in a slash.\""""
    with pytest.raises(ValueError, match="subtree must be"):
        CloneHarness(subtree=subtree)


def test_kvsync_and_kthxbai():
    """ "zero or more KVSYNC commands ..., followed with a KTHXBAI command": only then is there a map."""
    client = CloneHarness()
    client.publish(HUGZ)
    client.answer([b"/a", ONE, b"", b"", b"value"], [b"b", bytes(8), b"", b"", b"\x00\xff"])
    assert client.map == {}
    client.answer(END)
    assert client.map == {"/a": b"value", "b": b"\x00\xff"}


def test_the_sequence_of_a_pair_has_no_significance():
    """KVSYNC: "The sequence number has no significance and may be zero." A later update of the key counts all the
    same, whatever its pair said."""
    client = followed("", [b"k", b"\xff" * 8, b"", b"", b"old"])
    client.publish([b"k", ELEVEN, UUID, b"", b"new"])
    assert client.map == {"k": b"new"}


@pytest.mark.parametrize("extra", [(UUID, b""), (b"", b"ttl=1234567890123\n"), (UUID, b"ttl=7\n")])
def test_frames_2_and_3_of_a_pair_may_be_filled(extra):
    """The RFC has them empty; the Guide's server sends what it was given, and so do we."""
    assert followed("", [b"k", ONE, *extra, b"v"]).map == {"k": b"v"}


@pytest.mark.parametrize("said", [b"", b"/a/", b"/b/"])
def test_the_subtree_of_kthxbai_is_not_verified(said):
    """Frame 4 is the "subtree specification"; the Guide's server leaves it empty."""
    client = CloneHarness(subtree="/a/")
    client.publish(HUGZ)
    client.answer([*END[:4], said])
    assert client.state == "following"


def test_the_subscription_is_applied_after_kthxbai():
    """ "When the client has received a KTHXBAI command it SHOULD start to receive messages from its subscriber
    connection, and apply them.\""""
    client = CloneHarness()
    client.publish(HUGZ)
    client.publish([b"k", ELEVEN, UUID, b"", b"new"])
    assert client.map == {}
    client.answer([b"k", ONE, b"", b"", b"old"], END)
    assert client.map == {"k": b"new"}


# Server-to-Client Updates.


@pytest.mark.parametrize("sequence", [bytes(8), ONE, NINE, TEN])
def test_what_is_not_newer_than_kthxbai_is_discarded(sequence):
    """ "The client MUST discard any KVPUB commands whose sequence numbers are not strictly greater than the last
    KTHXBAI or KVPUB command received.\""""
    client = followed("", [b"k", ONE, b"", b"", b"v"])
    client.publish([b"k", sequence, UUID, b"", b"stale"])
    assert client.map == {"k": b"v"}


def test_what_came_before_kthxbai_and_is_not_newer_is_discarded():
    """The same clause, for a KVPUB that came while the snapshot did."""
    client = CloneHarness()
    client.publish(HUGZ, [b"k", NINE, UUID, b"", b"stale"], [b"l", TEN, UUID, b"", b"stale"])
    client.answer([b"k", ONE, b"", b"", b"v"], END)
    assert client.map == {"k": b"v"}


def test_what_is_not_newer_than_the_last_kvpub_is_discarded():
    """The same clause; also between KVPUBs that came before the KTHXBAI."""
    client = followed()
    client.publish([b"k", ELEVEN, UUID, b"", b"v"], [b"k", ELEVEN, UUID, b"", b"again"], [b"k", TEN, UUID, b"", b"old"])
    assert client.map == {"k": b"v"}
    client = CloneHarness()
    client.publish(HUGZ, [b"k", ELEVEN, UUID, b"", b"v"], [b"k", ELEVEN, UUID, b"", b"again"])
    client.answer(END)
    assert client.map == {"k": b"v"}


def test_the_uuid_is_optional_and_so_are_properties():
    """ "The UUID is optional and frame 2 MAY be empty (size zero). The properties field is formatted as zero or more
    instances of "name=value<newline>".\""""
    client = followed()
    client.publish([b"k", ELEVEN, b"", b"", b"v"])
    client.publish([b"k", ELEVEN[:7] + b"\x0c", b"", b"any=thing\nelse\n=\n", b"w"])
    assert client.map == {"k": b"w"}
    assert client.state == "following"


def test_an_empty_value_deletes():
    """ "If the value is empty, the client SHOULD delete its key-value entry with the specified key.\""""
    client = followed("", [b"k", ONE, b"", b"", b"v"])
    client.publish([b"k", ELEVEN, UUID, b"", b""])
    assert client.map == {}


@pytest.mark.parametrize("sequence", [bytes(8), TEN])
def test_hugz_with_and_without_a_sequence(sequence):
    """HUGZ: frame 1 is zero; the Guide's server sends its own. Neither is an update."""
    client = followed("", [b"k", ONE, b"", b"", b"v"])
    client.publish([b"HUGZ", sequence, b"", b"", b""])
    assert client.map == {"k": b"v"}
    assert client.state == "following"


def test_the_absence_of_hugz():
    """ "The client MAY treat the absence of HUGZ as an indicator that the server has crashed.\""""
    client = followed()
    client.later(LEASE - 0.1)
    client.publish(HUGZ)
    client.later(LEASE - 0.1)
    assert client.state == "following"
    client.later(0.2)
    assert client.state == "joining"


# Client-to-Server Updates.


def test_kvset():
    """KVSET: five frames: key, a sequence that "has no significance and may be zero", a UUID of 16 bytes, properties,
    value; on the publisher connection."""
    client = followed()
    assert client.set(1, b"/k", b"value") == [("sets0", [b"/k", bytes(8), UUID, b"ttl=0\n", b"value"])]


def test_ttl():
    """ ""ttl" - specifies a time-to-live in seconds.\""""
    client = followed()
    assert client.set(1, b"/k", b"v", ttl=30) == [("sets0", [b"/k", bytes(8), UUID, b"ttl=30\n", b"v"])]


def test_an_empty_value_asks_for_deletion():
    """ "If the value is empty, the server MUST delete its key-value entry with the specified key.\""""
    client = followed()
    assert client.set(1, b"/k", b"") == [("sets0", [b"/k", bytes(8), UUID, b"ttl=0\n", b""])]


# Reliability.


def test_every_kvset_has_a_uuid_of_its_own():
    """ "the client MAY: Set a UUID in every KVSET command.\""""
    client = followed()
    uuids = {client.set(number, b"/%d" % number)[0][1][2] for number in range(1, 20)}
    assert len(uuids) == 19
    assert {len(uuid) for uuid in uuids} == {16}


def test_a_backup_server_is_asked_for_the_state_anew():
    """ "Detect the lack of HUGZ over time ...; Connect to a backup server and re-request a state synchronization.\""""
    client = CloneHarness(A, B)
    client.publish(HUGZ)
    client.answer([b"k", ONE, b"", b"", b"v"], END)
    client.later(LEASE + 0.1)
    assert client.sockets[client.socket(SocketKind.SUB)].endpoint == "tcp://b:5567"
    assert client.publish(HUGZ) == [("snapshot", [b"ICANHAZ?", b""])]
    client.answer([b"l", TWO, b"", b"", b"w"], END)
    assert client.map == {"l": b"w"}
