"""Our extension of 12/CHP, byte by byte, as docs/wire.md has it; and that strangers are sent nothing of it."""

from __future__ import annotations

import pytest

from tests.clone.following import CloneHarness
from tests.clone.server_harness import ServerHarness
from zpatterns.errors import CompareFailed, RemoteError

SEQ_10 = b"\x00\x00\x00\x00\x00\x00\x00\x0a"
SEQ_11 = b"\x00\x00\x00\x00\x00\x00\x00\x0b"
SEQ_12 = b"\x00\x00\x00\x00\x00\x00\x00\x0c"
UUID = b"\x00" * 15 + b"\x01"
HUGZ = [b"HUGZ", bytes(8), b"", b"zp=1\ninstance=i\nseq=10\n", b""]
END = [b"KTHXBAI", SEQ_10, b"", b"zp=1\ninstance=i\nseq=10\n", b""]


def followed(subtree: str = "") -> CloneHarness:
    client = CloneHarness(subtree=subtree)
    client.publish(HUGZ)
    client.answer(END)
    assert client.state == "following"
    return client


# What a client sends to a server that said zp=1, and only to that.


@pytest.mark.parametrize(
    ("options", "properties"),
    [
        ({}, b""),
        ({"ttl": 30}, b"ttl=30\n"),
        ({"if_sequence": 0}, b"if-seq=0\n"),
        ({"ttl": 30, "if_sequence": 9}, b"ttl=30\nif-seq=9\n"),
    ],
)
def test_zpset(options, properties):
    client = followed()
    assert client.set(1, b"/k", b"v", **options) == [("snapshot", [b"ZPSET", UUID, b"/k", properties, b"v"])]


def test_nothing_of_it_goes_to_a_server_that_did_not_say_so():
    client = CloneHarness(subtree="/a/")
    sent = client.publish([b"HUGZ", bytes(8), b"", b"", b""])
    sent += client.answer([b"KTHXBAI", SEQ_10, b"", b"", b""])
    sent += client.set(1, b"/a/k")
    for number in range(20):
        sent += client.later(0.9)
        sent += client.publish([b"HUGZ", (20 + number).to_bytes(8, "big"), b"", b"", b""])
    assert {frames[0] for _, frames in sent} == {b"ICANHAZ?", b"/a/k"}


@pytest.mark.parametrize(
    "lie", [b"zp=2\ninstance=i\nseq=10\n", b"zp=1\nseq=10\n", b"zp=1\ninstance=i\nseq=x\n", b"zp=1\n"]
)
def test_half_of_it_is_nothing(lie):
    client = CloneHarness()
    client.publish([b"HUGZ", bytes(8), b"", lie, b""])
    client.answer([b"KTHXBAI", SEQ_10, b"", lie, b""])
    assert client.set(1, b"/k") == [("sets0", [b"/k", bytes(8), UUID, b"ttl=0\n", b"v"])]


# Answers.


def test_zpack_200_has_the_sequence_of_the_update():
    client = followed()
    client.set(1, b"/k")
    client.publish([b"/k", SEQ_11, UUID, b"ttl=0\nprev=10\n", b"v"])
    client.answer([b"ZPACK", UUID, b"200", SEQ_11])
    assert client.results() == {1: 11}


def test_zpack_409_has_the_sequence_of_the_key():
    client = followed()
    client.set(1, b"/k", if_sequence=3)
    client.answer([b"ZPACK", UUID, b"409", b"\x00" * 7 + b"\x07"])
    error = client.results()[1]
    assert isinstance(error, CompareFailed)
    assert error.sequence == 7


def test_zpack_413_is_a_refusal():
    client = followed()
    client.set(1, b"/k")
    client.answer([b"ZPACK", UUID, b"413", bytes(8)])
    error = client.results()[1]
    assert isinstance(error, RemoteError)
    assert error.code == "413"


def test_zpack_503_is_not_the_end_of_a_set():
    client = followed()
    client.set(1, b"/k")
    client.answer([b"ZPACK", UUID, b"503", bytes(8)])
    assert client.results() == {}
    assert ("snapshot", [b"ZPSET", UUID, b"/k", b"", b"v"]) in client.later(3.0)


# What shows that something was missed.


def test_prev_has_a_number_for_each_prefix_the_whole_map_first():
    client = followed("/x/y/")
    client.publish([b"/x/y/k", SEQ_11, b"", b"ttl=0\nprev=10,9,8\n", b"v"])
    assert client.map == {"/x/y/k": b"v"}
    client.publish([b"/x/y/k", SEQ_12, b"", b"prev=11,11,11\n", b"w"])
    assert client.map == {"/x/y/k": b"w"}
    client.publish([b"/x/y/k", b"\x00" * 7 + b"\x0f", b"", b"prev=14,14,14\n", b"z"])
    assert client.state == "behind"


def test_zplast_asks_when_hugz_is_ahead_of_a_subtree():
    client = followed("/x/")
    ahead = [b"HUGZ", bytes(8), b"", b"zp=1\ninstance=i\nseq=12\n", b""]
    assert client.publish(ahead) == [("snapshot", [b"ZPLAST", b"/x/"])]
    client.answer([b"ZPLAST", b"/x/", SEQ_11])
    assert client.publish(ahead) == []
    assert client.state == "behind"


def test_a_new_instance_is_another_life():
    client = followed()
    client.publish([b"HUGZ", bytes(8), b"", b"zp=1\ninstance=j\nseq=10\n", b""])
    assert client.state == "behind"


# What a server of ours says.


def test_a_server_tells_its_life_and_its_last_sequence_and_what_came_before():
    server = ServerHarness()
    instance = server.core.instance
    (published,) = server.collect([b"/x/y/k", bytes(8), UUID, b"ttl=0\n", b"v"])
    assert published[3] == b"ttl=0\nprev=5000,5000,5000\n"
    (published,) = server.collect([b"/x/z", bytes(8), UUID, b"ttl=0\n", b"v"])
    assert published[3] == b"ttl=0\nprev=5001,5001\n"
    server.advance(1.0)
    assert server.publications() == [[b"HUGZ", bytes(8), b"", b"zp=1\ninstance=%b\nseq=5002\n" % instance, b""]]
    assert server.ask()[-1][3] == b"zp=1\ninstance=%b\nseq=5002\n" % instance


def test_a_server_answers_each_request_of_it():
    server = ServerHarness()
    first, packed = (5000).to_bytes(8, "big"), (5001).to_bytes(8, "big")
    other, third = (b"\x00" * 15 + bytes([number]) for number in (2, 3))
    once = server.give([b"C", b"ZPSET", UUID, b"/x/k", b"", b"v"])
    assert once == server.give([b"C", b"ZPSET", UUID, b"/x/k", b"", b"v"]) == [[b"C", b"ZPACK", UUID, b"200", packed]]
    refused = server.give([b"C", b"ZPSET", other, b"/x/k", b"if-seq=0\n", b"w"])
    assert refused == [[b"C", b"ZPACK", other, b"409", packed]]
    refused = server.give([b"C", b"ZPSET", third, b"/x/k", b"", b"w" * (2**20 + 1)])
    assert refused == [[b"C", b"ZPACK", third, b"413", bytes(8)]]
    assert server.give([b"C", b"ZPLAST", b"/x/"], [b"C", b"ZPLAST", b""], [b"C", b"ZPLAST", b"/none/"]) == [
        [b"C", b"ZPLAST", b"/x/", packed],
        [b"C", b"ZPLAST", b"", packed],
        [b"C", b"ZPLAST", b"/none/", first],
    ]
