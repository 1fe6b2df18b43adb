"""Half of a pair of Clone servers: what it follows, keeps, answers and publishes, with literal frames.

12/CHP, "Reliability"; the Guide's clonesrv6 in what it does and in what it gets wrong.
"""

from __future__ import annotations

from tests.clone.pair_harness import (
    ACTIVE,
    LIFE,
    PASSIVE,
    PROMOTED,
    STEP,
    WAITING,
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
from tests.clone.server_harness import FIRST, kvset, seq, uuid
from zpatterns.bstar.events import MadeWay
from zpatterns.clone.events import CopyTaken, PassiveLags, PendingPublished
from zpatterns.core import Close, MessagesDropped, Open

HAS = FIRST + 1000
"""What a passive half has after its copy."""


# A passive half.


def test_a_passive_half_serves_nobody():
    half = following(kvsync(b"a", HAS))
    assert half.request(b"ICANHAZ?", b"") == [], "a vote, refused and dropped"
    assert half.request(b"ZPLAST", b"") == []
    assert half.request(*zpset(b"k")) == [zpack(1, b"503", 0)]
    half.hear_for(10.0, state(ACTIVE))
    assert half.take("publisher") == [], "neither heartbeats nor anything else"


def test_icanhaz_is_a_vote_once_the_active_is_silent():
    half = following()
    half.advance(2.5)
    assert half.state == "passive"
    half.request(b"ZPLAST", b"")
    half.request(*zpset(b"k"))
    assert half.state == "passive", "nothing else is"
    half.request(b"ICANHAZ?", b"")
    assert half.state == "active"


def test_it_asks_only_while_the_other_says_that_it_is_active():
    """The Guide's server in any other state answers with nothing, or stands still."""
    half = Half("backup", peer="tcp://10.0.0.9:5556")
    half.hear([b"3"])
    assert [command.endpoint for command in half.asked(Open)] == ["tcp://10.0.0.9:5557", "tcp://10.0.0.9:5556"]
    half.advance(1.0)
    half.hear([b"4"])
    half.give([b"HUGZ", bytes(8), b"", b"", b""], port="peer-updates")
    half.hear_for(10.0, [b"4"])
    assert half.take("peer-snapshot") == []
    half.hear([b"3"])
    half.advance(0.0)
    assert half.take("peer-snapshot") == [[b"ICANHAZ?", b""]]


def test_without_a_port_of_the_other_it_follows_nobody():
    half = Half("backup")
    half.hear([b"3"])
    half.hear_for(10.0, [b"3"])
    assert half.asked(Open) == []
    assert half.server.has_copy, "and what it has is what there is"


def test_updates_before_during_and_after_the_copy_make_one_map():
    half = Half("backup")
    half.hear(state(ACTIVE))
    half.give(kvpub(b"a", 101, 100, b"early"), port="peer-updates")
    half.give(kvsync(b"a", 101, b"early"), kvsync(b"b", 99, b"old"), port="peer-snapshot")
    half.give(kvpub(b"b", 103, 102, b"new"), kvpub(b"c", 104, 103), kvpub(b"c", 105, 104, b""), port="peer-updates")
    half.give(kthxbai(102), port="peer-snapshot")
    half.give(kvpub(b"d", 106, 105), port="peer-updates")
    assert half.map == {b"a": b"early", b"b": b"new", b"d": b"v"}
    assert half.take("peer-snapshot")[-1] == [b"ZPHAVE", seq(106), half.server._life]


def test_a_copy_after_which_an_update_is_missing_is_fetched_anew():
    half = Half("backup")
    half.hear(state(ACTIVE))
    half.give(kvpub(b"a", 105, 104), port="peer-updates")
    half.give(kthxbai(102), port="peer-snapshot")
    assert not half.server.has_copy
    half.take("peer-snapshot")
    half.hear_for(1.0, state(ACTIVE))
    assert half.take("peer-snapshot") == [[b"ICANHAZ?", b""]]
    half.give(kthxbai(104), port="peer-snapshot")
    assert half.map == {b"a": b"v"}


def test_a_gap_is_noticed_and_the_map_stays_what_it_was_at_one_moment():
    half = following(kvsync(b"a", HAS))
    half.give(kvpub(b"b", HAS + 3, HAS + 2), port="peer-updates")
    assert half.map == {b"a": b"v"}
    assert half.server.statistics().gaps == 1
    half.hear_for(1.0, state(ACTIVE))
    assert half.take("peer-snapshot") == [[b"ICANHAZ?", b""]]
    half.give(kvsync(b"c", HAS + 2), kthxbai(HAS + 2), port="peer-snapshot")
    assert half.map == {b"b": b"v", b"c": b"v"}
    assert half.take("peer-snapshot") == [[b"ZPHAVE", seq(HAS + 3), half.server._life]]


def test_a_lost_last_update_shows_at_the_next_heartbeat():
    half = following()
    half.give(hugz(HAS + 1), port="peer-updates")
    assert half.server.statistics().gaps == 1


def test_an_active_that_says_so_and_publishes_nothing_is_connected_to_anew():
    half = following()
    half.hear_for(6.0, state(ACTIVE))
    asked = half.asked()
    assert Close("peer-updates") in asked
    assert [command.port for command in asked if isinstance(command, Open)] == ["peer-updates", "peer-snapshot"]


def test_it_says_again_with_each_heartbeat_what_it_has():
    half = following()
    half.give(hugz(HAS), hugz(HAS), port="peer-updates")
    assert half.take("peer-snapshot") == [[b"ZPHAVE", seq(HAS), half.server._life]] * 2


def test_a_c_server_is_told_nothing_that_it_does_not_know():
    half = Half("backup", peer="tcp://10.0.0.9:5556")
    half.hear([b"3"])
    half.give([b"HUGZ", seq(5), b"", b"", b""], port="peer-updates")
    half.give([b"a", seq(5), b"", b"ttl=0\n", b"v"], [b"KTHXBAI", seq(5), b"", b"", b""], port="peer-snapshot")
    half.give([b"b", seq(6), uuid(2), b"ttl=0\n", b"v"], [b"HUGZ", seq(6), b"", b"", b""], port="peer-updates")
    assert half.map == {b"a": b"v", b"b": b"v"}
    assert half.take("peer-snapshot") == [[b"ICANHAZ?", b""]]
    # The Guide's server, should it follow us, falls over on a pair without a uuid.
    promoted(half)
    snapshot = half.take("snapshot") or half.request(b"ICANHAZ?", b"")
    half.advance(0.0)
    snapshot += half.take("snapshot")
    assert all(len(frames) == 6 for frames in snapshot)
    assert all(len(frames[3]) == 16 for frames in snapshot if frames[1] != b"KTHXBAI")


def test_the_map_of_the_other_is_bounded_as_ours_is():
    half = Half("backup", keys_max=2)
    half.hear(state(ACTIVE))
    half.give(hugz(10), port="peer-updates")
    half.give(*(kvsync(b"k%d" % number, number) for number in range(1, 5)), kthxbai(9), port="peer-snapshot")
    assert not half.server.has_copy
    assert MessagesDropped("map-full", 1) in half.events(MessagesDropped)


# Pending sets.


def test_what_the_active_has_not_published_is_published_at_promotion_in_the_order_of_arrival():
    half = following()
    sets = [kvset(b"k%d" % number, b"%d" % number, number) for number in (3, 1, 2)]
    half.give(*sets, port="collector")
    assert half.take("publisher") == []
    promoted(half)
    published = half.published()
    assert [(frames[0], frames[2], frames[4]) for frames in published] == [
        (b"k3", uuid(3), b"3"),
        (b"k1", uuid(1), b"1"),
        (b"k2", uuid(2), b"2"),
    ]
    assert half.events(PendingPublished) == [PendingPublished(3)]


def test_what_the_active_has_published_is_not_published_again():
    half = following()
    half.give(kvset(b"a", b"1", 1), kvset(b"b", b"2", 2), port="collector")
    half.give(kvpub(b"a", HAS + 1, HAS, b"1", 1), kvpub(b"b", HAS + 2, HAS + 1, b"2", 2), port="peer-updates")
    assert half.server.statistics().held == 0
    promoted(half)
    assert half.published() == []


def test_a_set_that_comes_after_the_actives_publication_of_it_is_not_kept():
    half = following()
    half.give(kvpub(b"a", HAS + 1, HAS, b"1", 1), port="peer-updates")
    half.give(kvset(b"a", b"1", 1), port="collector")
    assert half.server.statistics().held == 0


def test_a_whole_copy_makes_what_was_kept_before_it_void():
    half = following()
    half.give(kvset(b"a", b"stale", 1), port="collector")
    half.give(hugz(HAS + 1), port="peer-updates")
    half.hear_for(1.0, state(ACTIVE))
    half.give(kvsync(b"a", HAS + 1, b"newer", 2), kthxbai(HAS + 1), port="peer-snapshot")
    promoted(half)
    assert half.map == {b"a": b"newer"}


def test_pending_sets_are_bounded_by_count_and_bytes():
    half = following(pending_max=3, pending_bytes_max=5000)
    half.give(*(kvset(b"k", b"v", number) for number in range(1, 6)), port="collector")
    assert half.server.statistics().held == 3
    assert half.events(MessagesDropped) == [MessagesDropped("held-full", 2)]
    half.give(kvset(b"large", bytes(4500), 9), port="collector")
    assert half.server.statistics().held == 1


# An active half.


def test_an_answer_waits_for_the_passive_half_and_the_publication_does_not():
    half = with_passive()
    assert half.request(*zpset(b"k")) == []
    assert [frames[0] for frames in half.published()] == [b"k"]
    assert half.request(b"ZPHAVE", seq(PROMOTED), LIFE, client=b"peer") == []
    assert half.request(b"ZPHAVE", seq(PROMOTED + 1), LIFE, client=b"peer") == [zpack(1, b"200", PROMOTED + 1)]


def test_a_set_that_is_repeated_meanwhile_is_answered_once_where_it_came_from_last():
    half = with_passive()
    half.request(*zpset(b"k"))
    assert half.request(*zpset(b"k"), client=b"again") == []
    assert len(half.published()) == 1
    sent = half.request(b"ZPHAVE", seq(PROMOTED + 1), LIFE, client=b"peer")
    assert sent == [zpack(1, b"200", PROMOTED + 1, client=b"again")]


def test_only_the_passive_half_confirms():
    """It calls itself what it says in its state frame, which clients do not hear."""
    half = with_passive()
    half.request(*zpset(b"k"))
    assert half.request(b"ZPHAVE", seq(PROMOTED + 9), b"guess", client=b"hostile") == []
    assert half.request(b"ZPHAVE", seq(PROMOTED + 9), client=b"hostile") == []
    assert half.server.statistics().unconfirmed == 1
    assert half.server.statistics().dropped["not-the-passive"] == 1


def test_one_that_is_promoted_beside_a_passive_half_knows_it_and_hears_what_it_confirms():
    """It says what it is once a heartbeat, and may have its copy and have confirmed it before the next."""
    half = Half()
    half.hear(state(PASSIVE))
    half.step(half.core.star.promote, half.now)
    assert half.request(*zpset(b"a")) == [zpack(1, b"200", PROMOTED + 1)], "it has not said what it has"
    half.request(b"ZPHAVE", seq(PROMOTED + 1), LIFE, client=b"peer")
    assert half.request(*zpset(b"b", number=2)) == []
    assert half.request(b"ZPHAVE", seq(PROMOTED + 2), LIFE, client=b"peer") == [zpack(2, b"200", PROMOTED + 2)]


def test_one_that_steps_down_beside_a_passive_half_waits_for_nothing_of_it():
    half = with_passive()
    half.step(half.core.star.step_down, half.now, "told to")
    half.hear(state(PASSIVE))
    assert half.core.drained


def test_nobody_waits_for_a_passive_half_that_is_dead_restarted_or_has_no_copy_yet():
    half = with_passive()
    half.request(*zpset(b"a", number=1))
    half.advance(2.5)
    assert half.take("snapshot") == [zpack(1, b"200", PROMOTED + 1)], "dead"
    half.hear(state(PASSIVE))
    assert half.request(*zpset(b"b", number=2)) == [zpack(2, b"200", PROMOTED + 2)], "it has not said what it has"
    half.request(b"ZPHAVE", seq(PROMOTED + 2), LIFE, client=b"peer")
    assert half.request(*zpset(b"c", number=3)) == []
    half.hear(state(PASSIVE, life=b"another"))
    assert half.take("snapshot") == [zpack(3, b"200", PROMOTED + 3)], "restarted"


def test_a_passive_half_that_is_there_and_does_not_follow_is_not_waited_for_longer_than_a_lease():
    half = with_passive()
    half.request(*zpset(b"k"))
    half.hear_for(4.5, state(PASSIVE))
    assert half.take("snapshot") == []
    half.hear_for(1.0, state(PASSIVE))
    assert half.take("snapshot") == [zpack(1, b"200", PROMOTED + 1)]
    assert half.events(PassiveLags) == [PassiveLags(1, 5.0)]
    half.request(b"ZPHAVE", seq(PROMOTED + 1), LIFE, client=b"peer")
    assert half.request(*zpset(b"l", number=2)) == [], "now it does again"


def test_with_a_store_an_answer_waits_for_both():
    half = active(durable=True)
    half.saved()  # the epoch
    half.hear(state(PASSIVE))
    half.request(b"ZPHAVE", seq(PROMOTED), LIFE, client=b"peer")
    half.request(*zpset(b"k"))
    assert half.published() == []
    half.saved()
    assert [frames[0] for frames in half.published()] == [b"k"]
    assert half.take("snapshot") == []
    assert half.request(b"ZPHAVE", seq(PROMOTED + 1), LIFE, client=b"peer") == [zpack(1, b"200", PROMOTED + 1)]


def test_a_passive_half_with_a_store_says_that_it_has_what_is_on_its_disk():
    half = following(durable=True)
    half.give(kvpub(b"a", HAS + 1, HAS), port="peer-updates")
    assert half.take("peer-snapshot") == []
    assert half.map == {}
    half.saved()
    assert half.take("peer-snapshot") == [[b"ZPHAVE", seq(HAS + 1), half.server._life]]
    assert half.map == {b"a": b"v"}


def test_a_half_that_is_stopped_waits_until_the_other_has_all():
    half = with_passive()
    half.request(*zpset(b"k"))
    half.step(half.core.drain, half.now)
    assert not half.core.drained
    half.request(b"ZPHAVE", seq(PROMOTED + 1), LIFE, client=b"peer")
    assert half.core.drained
    half.step(half.core.leave, half.now)
    goodbye = half.take("state")[-1][0]
    assert goodbye.startswith(b"1 ") and b" copy=0:0 " in goodbye, "so that the other serves whatever it has"


def test_a_half_that_is_stopped_lets_the_other_take_its_copy_first():
    half = active()
    half.hear(state(PASSIVE))
    half.step(half.core.drain, half.now)
    assert not half.core.drained
    half.request(b"ICANHAZ?", b"", client=b"peer")
    half.advance(0.0)
    assert half.take("snapshot") != []
    half.request(b"ZPHAVE", seq(PROMOTED), LIFE, client=b"peer")
    half.advance(0.0)
    assert half.core.drained
    assert half.request(b"ICANHAZ?", b"") == [], "nobody else joins"


# Promotion and giving up.


def test_each_promotion_is_a_new_instance_and_its_sequences_are_above_all_before():
    half = following(kvsync(b"a", HAS))
    promoted(half)
    half.advance(1.0)
    heartbeats = [frames for frames in half.take("publisher") if frames[0] == b"HUGZ"]
    instance = half.server.instance
    assert heartbeats and all(b"instance=%b\n" % instance in frames[3] for frames in heartbeats)
    half.request(*zpset(b"b"))
    assert half.published()[0][1] > seq(HAS + STEP)
    half.hear(state(ACTIVE, epoch=9))
    assert half.state == "passive"
    half.hear(state(WAITING, epoch=0))
    assert half.state == "active"
    assert half.server.instance != instance


def test_a_set_that_the_active_before_us_made_is_answered_and_not_made_again():
    half = following()
    half.give(kvpub(b"a", HAS + 1, HAS, b"1", 7), port="peer-updates")
    promoted(half)
    half.take("snapshot")
    assert half.request(*zpset(b"a", b"1", 7)) == [zpack(7, b"200", HAS + 1)]
    assert half.published() == []


def test_a_set_that_only_the_copy_tells_of_is_answered_and_not_made_again():
    """Its client did not hear of it, and its comparison, asked for again, would fail on what it has set itself."""
    half = promoted(following(kvsync(b"k", HAS, b"mine", 7)))
    assert half.request(*zpset(b"k", b"mine", 7, b"if-seq=0\n")) == [zpack(7, b"200", HAS)]
    assert half.published() == []
    assert half.request(*zpset(b"k", b"other", 8, b"if-seq=0\n")) == [zpack(8, b"409", HAS)]


def test_a_half_without_a_whole_copy_does_not_serve_whoever_asks():
    half = Half("backup")
    half.hear(state(ACTIVE))
    half.give(hugz(10), kvpub(b"a", 11, 10), port="peer-updates")
    half.give(kvsync(b"b", 9), port="peer-snapshot")
    half.advance(10.0)
    assert half.request(b"ICANHAZ?", b"") == []
    assert half.state == "passive"
    code, _ = half.step(half.core.star.promote, half.now)
    assert code == b"200", "an operator may, once the other is dead"


def test_an_operator_cannot_promote_a_half_without_a_copy_beside_a_live_active():
    half = Half("backup")
    half.hear(state(ACTIVE))
    code, text = half.step(half.core.star.promote, half.now)
    assert (code, text) == (b"409", "it has no full copy yet of what the other node serves with")


def test_the_loser_of_two_actives_gives_up_what_it_did_since_and_follows():
    half = active()
    half.request(*zpset(b"mine", number=5))
    half.hear(state(ACTIVE, epoch=2))
    assert half.state == "passive"
    half.take("snapshot")
    half.give(hugz(HAS), port="peer-updates")
    half.give(kvsync(b"theirs", HAS), kthxbai(HAS), port="peer-snapshot")
    assert half.map == {b"theirs": b"v"}
    assert half.events(CopyTaken) == [CopyTaken(1, HAS, 2)]
    promoted(half)
    half.take("snapshot")
    half.published()
    half.request(*zpset(b"mine", number=5))
    assert [frames[0] for frames in half.published()] == [b"mine"], "lost, so it is made when it is asked for again"


def test_two_that_were_active_in_one_epoch_have_two_maps():
    """They knew nothing of each other: the number is the same, and nothing else."""
    half = active("backup")
    half.request(*zpset(b"mine"))
    half.hear(state(ACTIVE, epoch=1))
    assert half.state == "passive"
    half.give(hugz(HAS), port="peer-updates")
    assert not half.server.has_copy
    assert half.take("peer-snapshot") == [[b"ICANHAZ?", b""]], "and it does not say that it has anything"


def test_answers_that_wait_end_with_the_promotion_and_are_given_when_it_serves_again():
    half = with_passive()
    half.request(*zpset(b"k"))
    half.step(half.core.star.step_down, half.now, "test")
    assert half.take("snapshot") == []
    half.hear(state(WAITING, epoch=0))
    assert half.state == "active"
    assert half.request(*zpset(b"k")) == [zpack(1, b"200", PROMOTED + 1)]
    assert len(half.published()) == 1, "it is made once"


def test_a_key_expires_though_a_change_that_was_to_replace_it_was_given_up():
    half = active(durable=True)
    half.saved()
    half.request(*zpset(b"k", properties=b"ttl=2\n"))
    half.saved()
    half.request(*zpset(b"other", number=2))  # the disk is busy
    half.request(*zpset(b"k", b"anew", number=3))
    half.hear_for(2.5, state(WAITING, epoch=0))
    half.step(half.core.star.step_down, half.now, "test")
    half.hear(state(WAITING, epoch=0))
    assert half.state == "active"
    while half.saves:
        half.saved()
    half.advance(0.5)
    while half.saves:
        half.saved()
    assert b"k" not in half.map


# Which half serves when both come back.


def test_of_two_that_wait_the_one_with_the_newer_copy_serves():
    half = Half("primary", epoch=3)
    half.hear(state(WAITING, epoch=0, copy=b"4:10"))
    assert half.state == "primary waiting"
    half.hear(state(WAITING, epoch=0, copy=b"3:%d" % (FIRST - 1)))
    assert half.state == "active"
    backup = Half("backup", epoch=3)
    backup.hear(state(b"1", epoch=0, copy=b"3:%d" % (FIRST + 1)))
    assert backup.state == "backup waiting"
    backup.hear(state(b"1", epoch=0, copy=b"2:99"))
    assert backup.state == "active"


def test_a_passive_makes_way_for_an_active_that_was_restarted_with_a_newer_map_in_its_store():
    half = following()
    half.hear(state(b"1", epoch=0, copy=b"1:%d" % (HAS + 1)))
    assert half.state == "backup waiting"
    assert any(isinstance(event, MadeWay) for event in half.events())


def test_a_passive_takes_over_from_an_active_that_was_restarted_with_nothing():
    half = following(kvsync(b"a", HAS))
    half.hear(state(b"1", epoch=0))
    assert half.state == "active"
    assert half.map == {b"a": b"v"}


def test_a_half_that_lost_its_active_before_it_had_a_copy_has_what_it_had():
    """What it did before is better than nothing, when the other comes back with that."""
    half = active()
    half.request(*zpset(b"old"))
    half.hear(state(ACTIVE, epoch=2))
    half.hear_for(3.0, state(WAITING, epoch=0))
    assert half.state == "active"
    assert half.map == {b"old": b"v"}


def test_each_half_says_where_it_can_be_copied_from_and_how_new_its_map_is():
    assert b" port=5556 copy=0:0 life=" in Half("primary").told
    half = following()
    assert b" port=5556 copy=1:%d life=" % HAS in half.told
