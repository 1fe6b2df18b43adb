"""Faults of the Guide's Clone client, each a test that ours does not have it, on the pure core.

Those of its server are in the tests of ours.
"""

from __future__ import annotations

from tests.clone.following import A, B, CloneHarness, hugz, kthxbai, kvpub, kvsync, seq, uuid, zpack
from tests.clone.server_harness import ServerHarness
from zpatterns.core import Frames, Open, SocketKind, Subscribe
from zpatterns.errors import RequestTimeout

ICANHAZ = ("snapshot", [b"ICANHAZ?", b""])


def test_a_snapshot_that_is_cut_silently_is_not_taken_for_a_map():
    """Beyond a thousand messages the Guide's server loses the rest, KTHXBAI included; its client then takes what came
    after for part of the snapshot, or waits for ever."""
    client = CloneHarness()
    client.publish(hugz())
    client.answer(*(kvsync(b"/%d" % number, number, b"v") for number in range(1, 1001)))
    client.publish(kvpub(b"/late", 1001, b"v"))
    client.later(5.1)
    assert client.map == {}
    assert client.state == "joining"
    client.publish(hugz())
    assert client.later(0) == []
    client.answer(kvsync(b"/1", 1, b"v"), kthxbai(1001, ours=False))
    assert client.map == {"/1": b"v"}


def test_updates_between_the_snapshot_and_the_subscription_are_not_lost():
    """clone.c asks for its snapshot as soon as it has a socket, whether or not its subscription is there."""
    client = CloneHarness(start=False)
    client.step(client.core.start, client.now)
    opened = [command for command in client.asked() if isinstance(command, Open | Subscribe)]
    subscribed = next(at for at, command in enumerate(opened) if isinstance(command, Subscribe))
    assert any(isinstance(command, Open) and command.kind is SocketKind.SUB for command in opened[:subscribed])
    assert client.take() == []
    client.later(1.4)
    assert client.take() == []
    assert client.publish(hugz(10)) == [ICANHAZ]
    client.publish(kvpub(b"/a", 11, b"x", "10"))
    client.answer(kthxbai(10))
    assert client.map == {"/a": b"x"}


def test_gaps_are_noticed():
    """clone.c takes any higher sequence for the next one."""
    client = CloneHarness().follow()
    client.publish(kvpub(b"/a", 13, b"x", "12"))
    assert client.states() == ["SUSPENDED"]
    assert client.later(0.5) == [ICANHAZ]


def test_a_client_that_was_not_answered_asks_again_and_again():
    """clone.c counts its requests, and after two that nobody answered it only waits."""
    client = CloneHarness(A, B)
    asked = 0
    for _ in range(60):
        asked += client.later(1.0).count(ICANHAZ)
    assert asked >= 15
    client.publish(hugz(10))
    client.answer(kthxbai(10))
    assert client.state == "following"


def test_a_single_server_that_comes_late_is_asked_again_too():
    client = CloneHarness(A)
    asked = 0
    for _ in range(60):
        asked += client.later(1.0).count(ICANHAZ)
    assert asked >= 8


def test_sets_right_after_connecting_do_not_vanish():
    """A PUB that has no connection yet drops what it is given, and clone.c never asks what became of it."""
    client = CloneHarness()
    assert client.set(1, timeout=30.0) == []
    client.publish(hugz())
    kvset = ("sets0", [b"/k", seq(0), uuid(1), b"ttl=0\n", b"v"])
    assert client.answer(kthxbai(10, ours=False)) == [kvset]
    assert client.later(4.0).count(kvset) >= 2, "until it is seen to be published"
    client.publish(kvpub(b"/k", 11, b"v", uuid=uuid(1)))
    assert client.results() == {1: 11}
    assert client.later(4.0) == []


def test_a_set_that_nobody_takes_is_told_to_whoever_waits():
    """clone_set returns nothing, and cannot fail."""
    client = CloneHarness().follow()
    client.set(1, timeout=3.0)
    client.later(3.1)
    assert isinstance(client.results()[1], RequestTimeout)


def test_what_is_only_set_is_not_in_the_map_before_the_server_has_it():
    """clone.c stores what it sets at once, whatever the server makes of it."""
    client = CloneHarness().follow(kvsync(b"/k", 1, b"old"))
    client.set(1, b"/k", b"new")
    assert client.map == {"/k": b"old"}
    client.answer(zpack(uuid(1), b"413"))
    assert client.map == {"/k": b"old"}


def test_deleted_keys_do_not_come_back_on_resync():
    """clone.c stores a new snapshot into the old map: what was deleted meanwhile stays in it."""
    client = CloneHarness().follow(kvsync(b"/gone", 1, b"x"), kvsync(b"/kept", 2, b"y"))
    client.publish(hugz(12))
    client.later(0.5)
    client.answer(kvsync(b"/kept", 2, b"y"), kthxbai(12))
    assert client.map == {"/kept": b"y"}
    assert client.changed() == [("/gone", b"x", None, 12)]


def test_a_key_deleted_while_the_snapshot_comes_stays_deleted():
    client = CloneHarness()
    client.publish(hugz(10), kvpub(b"/gone", 11, b"", "10"))
    client.answer(kvsync(b"/gone", 1, b"x"), kthxbai(10))
    assert client.map == {}


def test_keys_without_a_time_to_live_do_not_expire():
    """clonesrv6 reads what is no property as a time to live: whatever goes there says 0."""
    client = CloneHarness().follow(ours=False)
    (_, frames), *_ = client.set(1)
    assert frames[3] == b"ttl=0\n"
    client.step(client.core.post, b"/k", b"v")
    assert client.take()[0][1][3] == b"ttl=0\n"


def test_a_repeated_set_of_before_does_not_overwrite_a_later_one():
    """What a passive server had kept could be published after something newer; and so could what is sent twice."""
    client = CloneHarness(A, B).follow()
    client.set(1, b"/k", b"old", timeout=30.0)
    assert client.set(2, b"/k", b"new", timeout=30.0) == [], "while the first may still be made"
    client.later(5.1)
    client.publish(hugz(12, instance="b"))
    sent = [frames[4] for _, frames in client.answer(kthxbai(12, instance="b")) if frames[0] == b"ZPSET"]
    assert sent == [b"old"]
    client.publish(kvpub(b"/k", 13, b"old", "12"))
    assert [frames[4] for _, frames in client.answer(zpack(uuid(1), b"200", 13))] == [b"new"]


def test_a_join_of_ours_and_theirs_ends_with_the_same_map():
    """Client and server of ours, core to core: twenty updates before, between and after."""
    server = ServerHarness()
    client = CloneHarness()

    def pass_on(messages: list[Frames]) -> None:
        client.publish(*messages)

    def change(number: int) -> list[Frames]:
        return server.collect(
            [b"/k/%d" % (number % 7), bytes(8), uuid(number), b"ttl=0\n", b"%d" % number * (number % 3)]
        )

    for number in range(1, 8):
        change(number)
    for number in range(8, 15):
        pass_on(change(number))
    client.answer(*server.ask())
    for number in range(15, 21):
        pass_on(change(number))
    assert client.state == "following"
    assert client.map == {key.decode(): value for key, value in server.map().items()}
