"""What the Guide's Clone servers get wrong: each as a test of ours, with literal frames."""

from __future__ import annotations

from tests.clone.pair_harness import ACTIVE, following, kvpub, kvsync, promoted, state
from tests.clone.server_harness import FIRST, ServerHarness, kvset

HAS = FIRST + 1000


def test_a_snapshot_beyond_a_thousand_messages_is_whole_with_its_end():
    """libzmq holds a thousand messages for a client; of what comes then, the Guide's server loses every one."""
    server = ServerHarness()
    server.fill(3000)
    server.takes[b"C"] = 1000
    sent = server.give([b"C", b"ICANHAZ?", b""]) + server.advance(0.1)
    assert len(sent) == 1000
    server.takes[b"C"] = 10_000
    keys = [frames[1] for frames in sent + server.advance(1.0)]
    assert len(keys) == len(set(keys)) == 3001
    assert keys[-1] == b"KTHXBAI"


def test_a_client_that_asks_twice_does_not_wait_for_ever():
    server = ServerHarness()
    server.fill(2)
    server.give([b"C", b"ICANHAZ?", b""], [b"C", b"ICANHAZ?", b""])
    ends = [frames for frames in server.work(5) if frames[1] == b"KTHXBAI"]
    assert len(ends) == 2


def test_keys_without_a_ttl_do_not_expire():
    server = ServerHarness()
    server.collect(kvset(b"a"), kvset(b"b", properties=b"ttl=0\n"), kvset(b"c", properties=b"ttl=\n"))
    server.advance(1000.0)
    assert server.map().keys() == {b"a", b"b", b"c"}


def test_the_passive_server_does_not_expire_keys():
    """The Guide's does, beside the active."""
    half = following(kvsync(b"a", HAS, properties=b"ttl=1\n"))
    half.hear_for(5.0, state(ACTIVE))
    assert half.take("publisher") == []
    assert half.map == {b"a": b"v"}, "until the active says so"
    promoted(half)
    half.advance(0.0)
    assert [(frames[0], frames[4]) for frames in half.published()] == [(b"a", b"")], "then it is ours to do"


def test_stale_pending_updates_do_not_overwrite_newer_ones_at_failover():
    """The Guide's backup publishes what it still has, whatever was published since."""
    half = following()
    half.give(kvset(b"a", b"stale", 1), port="collector")
    half.give(kvpub(b"a", HAS + 1, HAS, b"newer", 2), port="peer-updates")
    promoted(half)
    assert half.published() == []
    assert half.map == {b"a": b"newer"}


def test_a_set_that_comes_after_what_followed_it_does_not_overwrite_that_at_failover():
    """The active had published both, and they were on their way to the disk when the first of them came here too."""
    half = following(durable=True)
    updates = (kvpub(b"a", HAS + 1, HAS, b"stale", 1), kvpub(b"a", HAS + 2, HAS + 1, b"newer", 2))
    half.give(*updates, port="peer-updates")
    half.give(kvset(b"a", b"stale", 1), port="collector")
    promoted(half)
    while half.saves:
        half.saved()
    assert [frames[4] for frames in half.published()] == [b"stale", b"newer"], "as the active did"
    assert half.map == {b"a": b"newer"}


def test_a_deleted_key_does_not_come_back_at_failover():
    half = following(kvsync(b"a", HAS, b"old", 1))
    half.give(kvset(b"a", b"stale", 2), port="collector")
    half.give(kvpub(b"a", HAS + 1, HAS, b"", 3), port="peer-updates")
    promoted(half)
    assert half.published() == []
    assert half.map == {}


def test_a_passive_server_that_misses_an_update_does_not_take_the_next():
    """The Guide's goes on with a hole in its map."""
    half = following(kvsync(b"a", HAS))
    half.give(kvpub(b"c", HAS + 2, HAS + 1), port="peer-updates")
    assert half.map == {b"a": b"v"}
    half.hear_for(1.0, state(ACTIVE))
    assert half.take("peer-snapshot") == [[b"ICANHAZ?", b""]]
