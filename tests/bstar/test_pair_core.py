"""PairCore: a service hears only what its half is to serve; votes are counted, refused or answered as they should."""

from __future__ import annotations

import pytest

from tests.bstar.star_harness import (
    ACTIVE,
    BACKUP,
    Pair,
    broker_pair,
    paranoid_queue_pair,
    server_pair,
    simple_queue_pair,
)
from tests.pirate.lazy_harness import ERROR, refusal, request
from zpatterns.bstar.bstar_state import Grant
from zpatterns.core import Cancel, Errand, MessagesDropped, Open, Run, SendFailure, Subscribe

REQUEST_01 = [b"client", b"", b"MDPC01", b"echo", b"hello"]
REQUEST_02 = [b"client", b"MDPC02", b"\x01", b"echo", b"hello"]
READY_01 = [b"worker", b"", b"MDPW01", b"\x01", b"echo"]
READY_02 = [b"worker", b"MDPW02", b"\x01", b"echo"]
DISCONNECT_01 = [b"worker", b"", b"MDPW01", b"\x05"]
DISCONNECT_02 = [b"worker", b"MDPW02", b"\x06"]


def not_state(sent: list[list[bytes]]) -> list[list[bytes]]:
    return [frames for frames in sent if len(frames) > 1]


def passive(pair: Pair) -> Pair:
    pair.hear(ACTIVE)
    assert pair.state == "passive"
    pair.asked()
    return pair


def active(pair: Pair) -> Pair:
    pair.hear(BACKUP)
    assert pair.state == "active"
    pair.asked()
    return pair


# A Majordomo broker.


@pytest.mark.parametrize("frames", [REQUEST_01, REQUEST_02])
def test_a_passive_broker_reads_requests_and_drops_them(frames):
    pair = passive(broker_pair())
    assert not_state(pair.give(frames)) == []
    assert pair.events(MessagesDropped) == [MessagesDropped("refused", 1)]
    assert pair.hosted.statistics().requests == 0
    assert pair.statistics.refused == 1


@pytest.mark.parametrize(("frames", "answer"), [(READY_01, DISCONNECT_01), (READY_02, DISCONNECT_02)])
def test_a_passive_broker_answers_ready_with_disconnect(frames, answer):
    pair = passive(broker_pair())
    assert not_state(pair.give(frames)) == [answer]
    assert pair.hosted.statistics().workers == 0


@pytest.mark.parametrize("frames", [REQUEST_01, REQUEST_02, READY_01, READY_02])
def test_requests_and_ready_are_votes(frames):
    pair = passive(broker_pair())
    pair.advance(2.0)
    pair.give(frames)
    assert pair.state == "active"
    statistics = pair.hosted.statistics()
    assert statistics.requests + statistics.workers == 1, "and the vote itself is served"


@pytest.mark.parametrize(
    "frames",
    [
        [b"worker", b"", b"MDPW01", b"\x04"],
        [b"worker", b"MDPW02", b"\x05"],
        [b"worker", b"", b"MDPW01", b"\x05"],
        [b"worker", b"", b"MDPW01", b"\x03", b"client", b"", b"late reply"],
        [b"worker", b"", b"MDPW01", b"\x01"],
        [b"client", b"", b"MDPC01", b"echo"],
        [b"client", b"MDPC02", b"\x01", b"echo"],
        [b"client"],
        [],
        [b"x", b"y", b"z"],
    ],
)
def test_heartbeats_and_what_is_neither_request_nor_ready_are_no_votes(frames):
    pair = passive(broker_pair())
    pair.advance(10.0)
    pair.give(frames)
    assert pair.state == "passive"


def test_a_worker_that_heartbeats_a_passive_broker_is_told_to_go():
    pair = passive(broker_pair())
    assert not_state(pair.give([b"worker", b"", b"MDPW01", b"\x04"])) == [DISCONNECT_01]


def test_before_a_vote_is_accepted_the_batch_is_refused_and_behind_it_all_is_served():
    pair = active(broker_pair())
    assert not_state(pair.give(READY_01, REQUEST_01)) == [
        [b"worker", b"", b"MDPW01", b"\x02", b"client", b"", b"hello"]
    ]


def test_an_active_broker_that_gives_way_sends_its_clients_and_workers_to_the_other():
    pair = active(broker_pair())
    pair.give(READY_01, REQUEST_01, [b"client2", b"", b"MDPC01", b"echo", b"waits"])
    sent = not_state(pair.hear(b"3 epoch=9"))
    assert DISCONNECT_01 in sent
    refused = {(frames[0], frames[5]) for frames in sent if frames[4:5] == [ERROR]}
    assert refused == {(b"client", b"503"), (b"client2", b"503")}
    statistics = pair.hosted.statistics()
    assert (statistics.workers, statistics.queued, statistics.in_flight) == (0, 0, 0)


def test_a_broker_that_takes_over_again_serves_as_if_new():
    pair = active(broker_pair())
    pair.give(READY_01)
    pair.hear(b"3 epoch=9")
    pair.hear(BACKUP)
    assert pair.state == "active"
    assert not_state(pair.give(READY_01, REQUEST_01)) == [
        [b"worker", b"", b"MDPW01", b"\x02", b"client", b"", b"hello"]
    ]


def test_an_active_that_stood_still_takes_in_nothing_of_what_waited():
    pair = active(broker_pair())
    pair.give(READY_01)
    pair.now += 5.0
    sent = pair.give(REQUEST_01)
    assert DISCONNECT_01 in sent
    assert [b"1 epoch=1 interval=1 liveness=2"] in sent
    assert pair.hosted.statistics().requests == 0


# A handler.


def test_a_server_starts_no_handler_before_it_is_active():
    pair = server_pair()
    pair.asked()
    pair.give(request(b"a"))
    assert pair.asked() == []
    active(pair)
    pair.give(request(b"a"))
    assert pair.asked(Run) == [Run(0, b"a", [b"hello"])]


def test_a_server_that_gives_way_refuses_what_waits_and_stops_what_runs():
    pair = active(server_pair())
    pair.give(request(b"a"), request(b"b"))
    [run] = pair.asked(Run)
    sent = not_state(pair.hear(b"3 epoch=9"))
    assert sent == [refusal(b"b", b"503", b"the server is shutting down; ask another one")]
    assert pair.asked(Cancel) == [Cancel(run.run)]
    pair.step(pair.hosted.handler_done, run.run, [b"late"], pair.now)
    assert not_state(pair.sent()) == [], "its client has turned to the other"


def test_the_lane_of_a_handler_that_outlived_its_time_serves_again():
    pair = active(server_pair())
    pair.give(request(b"a"))
    [run] = pair.asked(Run)
    pair.hear(b"3 epoch=9")
    pair.hear(BACKUP)
    pair.give(request(b"b"))
    assert pair.asked(Run) == [], "the handler is still at it"
    pair.step(pair.hosted.handler_failed, run.run, "cancelled", "", pair.now)
    assert [run.client for run in pair.asked(Run)] == [b"b"]


def test_a_handler_that_ends_after_a_stall_brings_no_other_request_to_its_turn():
    """S1: the other half may be active by now, and what waits here is asked there."""
    pair = active(server_pair())
    pair.give(request(b"a"), request(b"b"))
    [run] = pair.asked(Run)
    pair.now += 5.0
    pair.step(pair.hosted.handler_done, run.run, [b"done"], pair.now)
    assert pair.asked(Run) == []
    assert pair.state == "primary waiting"
    assert not_state(pair.sent()) == [refusal(b"b", b"503", b"the server is shutting down; ask another one")]


def test_a_handler_that_ends_past_the_lease_of_the_fence_brings_no_other_request_to_its_turn():
    pair = server_pair(has_fence=True, longest_turn=0.5)
    pair.hear(BACKUP)
    pair.step(pair.core.star.lease_acquired, 1, Grant(1.0, 1), pair.now)
    pair.give(request(b"a"), request(b"b"))
    [run] = pair.asked(Run)
    pair.now += 0.5
    pair.step(pair.hosted.handler_failed, run.run, "ValueError", "no", pair.now)
    assert pair.asked(Run) == []
    assert pair.state == "primary waiting"


def test_malformed_requests_are_no_votes():
    pair = passive(server_pair())
    pair.advance(10.0)
    pair.give([b"a"], [b"a", b"hello"], [b"a", b""], [])
    assert pair.state == "passive"
    assert pair.events(MessagesDropped) == [MessagesDropped("invalid", 4)]


# A Pirate queue.

QUEUES = pytest.mark.parametrize(
    ("make", "head"), [(simple_queue_pair, [b""]), (paranoid_queue_pair, [])], ids=["simple", "paranoid"]
)


def ready(pair: Pair, head: list[bytes], worker: bytes = b"worker") -> list[list[bytes]]:
    return not_state(pair.give([worker, *head, b"\x01"], port="back"))


@QUEUES
def test_a_passive_queue_reads_requests_and_drops_them_with_workers_and_without(make, head):
    pair = passive(make())
    assert pair.core.wants_to_read("front")
    ready(pair, head)
    assert not_state(pair.give(request(b"a"))) == []
    assert MessagesDropped("refused", 1) in pair.events()
    assert pair.statistics.refused == 1
    assert pair.hosted.statistics().requests == 0


@QUEUES
def test_a_request_is_a_vote_and_the_first_that_is_served(make, head):
    pair = passive(make())
    pair.advance(2.0)
    pair.give(request(b"a"))
    assert pair.state == "active"
    assert not pair.core.wants_to_read("front"), "no worker is ready"
    assert ready(pair, head) == [[b"worker", *head, b"a", b"", b"hello"]]


@pytest.mark.parametrize(
    "frames",
    [
        [b"worker", b"\x01"],
        [b"worker", b"", b"\x01"],
        [b"worker", b"\x02"],
        [b"worker", b"a", b"", b"late reply"],
        [b"worker", b"", b"a", b"", b"late reply"],
        [b"worker"],
        [],
    ],
)
@QUEUES
def test_nothing_that_a_worker_says_is_a_vote(make, head, frames):
    pair = passive(make())
    pair.advance(10.0)
    assert not_state(pair.give(frames, port="back")) == []
    assert pair.state == "passive"


def test_malformed_requests_to_a_queue_are_no_votes():
    pair = passive(paranoid_queue_pair())
    pair.advance(10.0)
    pair.give([b"a"], [b"a", b"hello"], [b"a", b""], [])
    assert pair.state == "passive"


def test_a_passive_paranoid_queue_says_nothing_to_a_worker_so_that_it_turns_to_the_other():
    """6/PPP has no DISCONNECT: silence is all that sends a worker away."""
    pair = passive(paranoid_queue_pair())
    assert ready(pair, []) == []
    assert pair.events(MessagesDropped) == [MessagesDropped("standing-by", 1)]
    assert not_state(pair.advance(10.0)) == []
    assert pair.hosted.statistics().workers == 0


def test_a_passive_simple_queue_keeps_the_workers_that_say_ready_only_once():
    pair = passive(simple_queue_pair())
    ready(pair, [b""])
    assert pair.hosted.statistics().workers == 1
    pair.advance(2.0)
    assert not_state(pair.give(request(b"a"))) == [[b"worker", b"", b"a", b"", b"hello"]]


@QUEUES
def test_an_active_queue_that_gives_way_invites_its_clients_to_ask_again(make, head):
    pair = active(make())
    ready(pair, head)
    pair.give(request(b"a"), request(b"b"), port="front")
    refused = pair.hear(b"3 epoch=9")
    text = b"the queue is shutting down; ask another one"
    assert sorted(not_state(refused)) == [refusal(b"a", b"503", text), refusal(b"b", b"503", text)]
    statistics = pair.hosted.statistics()
    assert (statistics.queued, statistics.in_flight) == (0, 0)
    assert not_state(pair.give([b"worker", *head, b"a", b"", b"done"], port="back")) == [], "its client asks the other"


def test_a_simple_worker_that_was_busy_when_its_queue_gave_way_is_idle_when_it_has_replied():
    pair = active(simple_queue_pair())
    ready(pair, [b""])
    pair.give(request(b"a"))
    pair.hear(b"3 epoch=9")
    pair.give([b"worker", b"", b"a", b"", b"done"], port="back")
    pair.hear(BACKUP)
    assert pair.state == "active"
    assert not_state(pair.give(request(b"b"))) == [[b"worker", b"", b"b", b"", b"hello"]]


def test_a_paranoid_queue_that_takes_over_again_serves_as_if_new():
    pair = active(paranoid_queue_pair())
    ready(pair, [])
    pair.hear(b"3 epoch=9")
    assert pair.hosted.statistics().workers == 0
    pair.hear(BACKUP)
    ready(pair, [], b"another")
    assert not_state(pair.give(request(b"b"))) == [[b"another", b"b", b"", b"hello"]]


# While it is not known yet.


def test_what_was_read_waits_for_on_active_and_nothing_more_is_read():
    pair = server_pair(has_hooks=True)
    pair.advance(2.0)
    pair.asked()
    assert pair.core.wants_to_read("server")
    pair.give(request(b"a"), request(b"b"))
    assert pair.asked() == [Errand("on-active", 1)]
    assert not pair.core.wants_to_read("server")
    assert pair.core.wants_to_read("peer") and pair.core.wants_to_read("control")
    pair.step(pair.core.star.activated, 1, True, pair.now)
    assert [run.client for run in pair.asked(Run)] == [b"a"]
    assert pair.core.wants_to_read("server")


def test_what_was_read_is_dropped_and_counted_when_it_is_not_to_be():
    pair = server_pair(has_hooks=True)
    pair.advance(2.0)
    pair.give(request(b"a"), request(b"b"))
    pair.events()
    pair.step(pair.core.star.activated, 1, False, pair.now)
    assert pair.events(MessagesDropped) == [MessagesDropped("refused", 2)]
    assert pair.asked(Run) == []
    assert pair.core.wants_to_read("server")


def test_a_worker_whose_ready_was_kept_is_told_to_go_when_it_is_not_to_be():
    pair = broker_pair(has_hooks=True)
    pair.advance(2.0)
    other = [b"other", b"", b"MDPW01", b"\x05"]
    assert not_state(pair.give(READY_01, REQUEST_01, other)) == []
    pair.step(pair.core.star.activated, 1, False, pair.now)
    assert not_state(pair.sent()) == [DISCONNECT_01]
    assert pair.events(MessagesDropped) == [MessagesDropped("refused", 1), MessagesDropped("not-registered", 1)]


def test_one_that_is_stopped_while_on_active_runs_does_not_serve_when_that_is_done():
    pair = server_pair(has_hooks=True)
    pair.advance(2.0)
    pair.give(request(b"a"))
    pair.step(pair.core.drain, pair.now)
    pair.step(pair.core.star.activated, 1, True, pair.now)
    pair.give(request(b"b"))
    assert pair.asked(Run) == []
    assert pair.state == "primary waiting"
    assert pair.core.drained


# As one core.


def test_both_have_their_ports_timers_commands_and_messages():
    pair = broker_pair()
    assert {type(command) for command in pair.asked()} == {Open, Subscribe}
    pair.advance(0.0)
    pair.hear(BACKUP)
    pair.give(READY_01)
    assert pair.core.next_timer() == pytest.approx(pair.now + 0.25)
    sent = pair.advance(1.0)
    assert [b"worker", b"", b"MDPW01", b"\x04"] in sent
    assert any(frames[0].startswith(b"3 ") for frames in sent)


def test_a_failure_to_send_reaches_whose_it_is():
    pair = active(broker_pair())
    pair.give(READY_01)
    pair.fail(DISCONNECT_01, SendFailure.UNREACHABLE, port="broker")
    assert pair.hosted.statistics().workers == 0
    pair.fail([b"operator", b"200"], SendFailure.UNREACHABLE, port="control")
    assert pair.statistics.dropped == {"client-unreachable": 1}


def test_stopped_it_finishes_first_and_hands_over_then():
    pair = active(server_pair())
    pair.give(request(b"a"))
    [run] = pair.asked(Run)
    pair.step(pair.core.drain, pair.now)
    assert not pair.core.drained
    assert not_state(pair.give(request(b"b")))[0][2:4] == [ERROR, b"503"]
    pair.step(pair.hosted.handler_done, run.run, [b"done"], pair.now)
    assert pair.core.drained
    assert not_state(pair.sent()) == [[b"a", b"", b"done"]]
    pair.step(pair.core.shut_down, pair.now)
    assert pair.sent() == [[b"1 epoch=1 interval=1 liveness=2"]]


def test_a_passive_that_is_being_stopped_does_not_take_over():
    pair = passive(server_pair())
    pair.step(pair.core.drain, pair.now)
    assert pair.core.drained
    pair.hear(BACKUP)
    pair.advance(5.0)
    pair.give(request(b"a"))
    assert pair.state == "passive"
