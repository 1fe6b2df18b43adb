"""Half of a pair of Clone servers beside one that is stopped, ill or strange."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.clone.pair_harness import (
    ACTIVE,
    LIFE,
    PASSIVE,
    PROMOTED,
    Half,
    active,
    following,
    hugz,
    kthxbai,
    kvpub,
    kvsync,
    promoted,
    state,
    with_passive,
    zpack,
    zpset,
)
from tests.clone.server_harness import kvset, seq, uuid
from zpatterns.clone.events import PassiveLags
from zpatterns.core import Close, Open

HAS = 6000
"""What a passive half has after its copy."""


def test_states_that_come_over_ipc_come_from_this_machine_and_so_does_the_map():
    half = Half("backup")
    half.core.star.options = replace(half.core.star.options, remote="ipc:///run/states")
    half.hear(state(ACTIVE))
    assert [command.endpoint for command in half.asked(Open)] == ["tcp://127.0.0.1:5567", "tcp://127.0.0.1:5566"]


def test_a_passive_half_that_says_the_same_again_and_again_is_waited_for_no_longer():
    """Its disk may be full: it follows, answers each HUGZ, and has nothing more than before."""
    half = with_passive()
    half.request(*zpset(b"k"))
    for _ in range(6):
        half.hear_for(1.0, state(PASSIVE))
        half.request(b"ZPHAVE", seq(PROMOTED), LIFE, client=b"peer")
    assert len(half.events(PassiveLags)) == 1
    assert half.request(*zpset(b"l", number=2)) == [zpack(2, b"200", PROMOTED + 2)], "nor is it for the next"
    half.request(b"ZPHAVE", seq(PROMOTED + 2), LIFE, client=b"peer")
    assert half.request(*zpset(b"m", number=3)) == [], "now that it has all again"


def test_a_half_that_is_stopped_before_the_other_has_a_copy_of_its_map_does_not_make_that_serve():
    """It would serve an empty map, and when the first comes back with its store, that would be replaced by it."""
    half = active()
    half.request(*zpset(b"k"))
    half.hear(state(PASSIVE, epoch=0))
    half.step(half.core.drain, half.now)
    half.step(half.core.leave, half.now)
    goodbye = half.take("state")[-1]
    assert goodbye[0].startswith(b"1 ") and b" copy=1:%d " % (PROMOTED + 1) in goodbye[0]
    other = Half("backup")
    other.hear(state(ACTIVE))
    assert other.state == "passive"
    other.hear(goodbye)
    assert other.state == "backup waiting"
    other.advance(2.5)
    other.request(b"ICANHAZ?", b"")
    assert other.state == "backup waiting", "it waits for the one that has the map"


@pytest.mark.parametrize(
    ("port", "frames", "reason"),
    [
        ("peer-updates", kvpub(b"\xff", HAS + 1, HAS), "invalid-key"),
        ("peer-updates", [b"k", seq(HAS + 1), uuid(1), b"zp=1\n", b"v"], "invalid"),
        ("peer-updates", [b"k", seq(HAS + 1), b"", b"v"], "invalid"),
        ("peer-snapshot", kvsync(b"k", HAS + 1), "late"),
        ("collector", [b"k", b"short", uuid(1), b"", b"v"], "invalid"),
        ("collector", kvset(b"\xff"), "invalid"),
        ("collector", kvset(b"k", b"v" * 11), "too-large"),
    ],
)
def test_a_passive_half_drops_and_counts_what_makes_no_sense(port, frames, reason):
    half = following(kvsync(b"a", HAS), sequence=HAS, value_max=10)
    half.give(frames, port=port)
    assert half.server.statistics().dropped == {reason: 1}
    assert (half.map, half.server.statistics().held) == ({b"a": b"v"}, 0)
    half.give(kvpub(b"b", HAS + 2, HAS), port="peer-updates")
    assert half.map == {b"a": b"v", b"b": b"v"}, "and goes on"


@pytest.mark.parametrize("pair", [kvsync(b"\xff", HAS), kvsync(b"k", HAS, b"")])
def test_a_passive_half_takes_no_pair_of_a_snapshot_that_makes_no_sense(pair):
    half = following(kvsync(b"a", HAS), pair, sequence=HAS)
    assert half.map == {b"a": b"v"}
    assert half.server.statistics().dropped == {"invalid-key": 1}


def test_what_is_published_while_a_passive_half_fetches_is_kept_once_and_up_to_a_bound():
    half = Half("backup", keys_max=2)
    half.hear(state(ACTIVE))
    half.give(hugz(HAS), port="peer-updates")
    half.give(kvpub(b"a", HAS + 1, HAS), kvpub(b"a", HAS + 1, HAS), port="peer-updates")
    assert half.server.statistics().dropped == {"stale": 1}
    half.give(kvpub(b"b", HAS + 2, HAS + 1), kvpub(b"c", HAS + 3, HAS + 2), port="peer-updates")
    assert half.server.statistics().dropped == {"stale": 1, "kept-full": 1}
    assert [type(command) for command in half.asked()][-2:] == [Close, Close], "it begins anew, after a pause"


def test_a_sequence_that_leaves_no_room_for_ours_is_not_followed():
    """Above the last of 64 bits there is none to promote to, and SQLite keeps no more than 63."""
    half = following(kvsync(b"a", HAS))
    half.give(kvpub(b"b", 2**64 - 1, HAS), port="peer-updates")
    assert half.server.statistics().dropped["invalid"] == 1
    promoted(half)
    half.request(*zpset(b"c"))
    assert half.map == {b"a": b"v", b"c": b"v"}


def test_it_says_at_once_what_it_has_of_an_active_whose_sequences_are_lower():
    """One that was started anew after its clock was set back; each of its sets would wait for a heartbeat."""
    half = following()
    half.hear(state(ACTIVE, epoch=2, life=b"another"))
    half.give(hugz(10), port="peer-updates")
    half.give(kthxbai(10), port="peer-snapshot")
    half.take("peer-snapshot")
    half.give(kvpub(b"a", 11, 10), port="peer-updates")
    assert half.take("peer-snapshot") == [[b"ZPHAVE", seq(11), half.server._life]]
