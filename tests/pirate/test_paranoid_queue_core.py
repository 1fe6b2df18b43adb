"""The Paranoid Pirate queue's core: leases, heartbeats, and what makes a worker ready."""

from __future__ import annotations

import pytest

from tests.pirate.pirates import START, QueueHarness
from zpatterns.core import SendFailure
from zpatterns.pirate.events import RequestRequeued, WorkerExpired, WorkerLost, WorkerRegistered


@pytest.fixture
def queue():
    return QueueHarness()


def test_a_worker_registers_with_ready_only(queue):
    queue.heartbeat(b"w")
    queue.reply(b"w", b"c")
    assert queue.statistics.workers == 0
    assert queue.statistics.dropped == {"not-registered": 2}
    assert queue.answered() == []
    queue.ready(b"w")
    assert queue.statistics.workers == 1
    assert queue.events(WorkerRegistered) == [WorkerRegistered(b"w")]


@pytest.mark.parametrize("message", [[b""], [b"\x01\x01"], [b"\x03"], [b"\x02x"], [b"a", b"b"], [b"c", b""], []])
def test_what_is_no_message_of_a_worker_is_dropped_and_shows_no_life(queue, message):
    queue.ready(b"w")
    queue.until(START + 2.9)
    queue.give([b"w", *message])
    assert queue.statistics.dropped == {"invalid": 1}
    queue.advance(0.2)
    assert queue.events(WorkerExpired) == [WorkerExpired(b"w")]


def test_a_silent_worker_expires_after_its_lease_to_the_moment(queue):
    queue.ready(b"w")
    queue.until(START + 2.999)
    assert queue.statistics.workers == 1
    queue.until(START + 3.0)
    assert queue.statistics.workers == 0
    assert queue.ask(b"c") == []


@pytest.mark.parametrize("sign", [[b"\x02"], [b"\x01"], [b"other", b"", b"reply to nobody"]])
def test_any_message_of_a_registered_worker_renews_its_lease(queue, sign):
    queue.ready(b"w")
    queue.until(START + 2.5)
    queue.give([b"w", *sign])
    queue.until(START + 5.4)
    assert queue.statistics.workers == 1
    queue.until(START + 5.6)
    assert queue.statistics.workers == 0


def test_a_busy_worker_expires_too_and_its_request_goes_to_another(queue):
    queue.ready(b"dies", b"lives")
    queue.ask(b"c")
    assert queue.keep_alive(3.1, b"lives") == [queue.work(b"lives", b"c")]
    assert queue.events() == [
        WorkerRegistered(b"dies"),
        WorkerRegistered(b"lives"),
        WorkerExpired(b"dies"),
        RequestRequeued(b"c", 1),
    ]


def test_a_busy_worker_that_heartbeats_keeps_its_request(queue):
    queue.ready(b"w")
    queue.ask(b"c")
    assert queue.keep_alive(20.0, b"w") == []
    queue.reply(b"w", b"c")
    assert queue.answered() == [[b"c", b"", b"reply"]]


def test_workers_that_expire_together_are_not_given_each_others_requests():
    """Seed 259: each counted for a delivery, and the client was told that all had been lost."""
    queue = QueueHarness(deliveries_max=3)
    queue.ready(b"a", b"b", b"c")
    queue.ask(b"client")
    assert queue.until(START + 3.0) == []
    assert queue.answered() == []
    assert (queue.statistics.workers, queue.statistics.queued) == (0, 1)
    assert queue.ready(b"d") == [queue.work(b"d", b"client")]


def test_heartbeats_go_to_idle_and_busy_workers_every_interval(queue):
    queue.ready(b"idle", b"busy")
    queue.ask(b"c")  # to the one that said READY first
    queue.keep_alive(5.0, b"idle", b"busy")
    for worker in (b"idle", b"busy"):
        assert queue.beats.count([worker, b"\x02"]) == 5
    assert queue.statistics.heartbeats == 10


def test_heartbeats_do_not_wait_for_a_pause_in_the_work(queue):
    """They have a timer of their own: a worker of the Guide's takes only some of the requests for a sign of life."""
    queue.ready(b"w")
    for _ in range(50):
        queue.advance(0.1)
        queue.ask(b"c")
        queue.reply(b"w", b"c")
    assert 4 <= queue.beats.count([b"w", b"\x02"]) <= 5


def test_workers_share_wake_ups(queue):
    for number in range(100):
        queue.now += 0.0004
        queue.ready(b"%d" % number)
    timers = 0
    while queue.now < START + 1.1:
        timer = queue.core.next_timer()
        assert timer is not None
        queue.now = max(queue.now, timer)
        queue.step(queue.core.handle_timer, queue.now)
        timers += 1
    assert len(queue.beats) >= 100
    assert timers < 10


def test_ready_of_a_busy_worker_begins_a_new_conversation(queue):
    """6/PPP: it MUST send READY again after it gave the queue up, and then knows nothing of its request."""
    queue.ready(b"w", b"other")
    queue.ask(b"c")
    queue.now += 0.5
    assert queue.ready(b"w") == [queue.work(b"other", b"c")]
    assert queue.events(WorkerLost) == [WorkerLost(b"w", "began anew")]
    assert queue.statistics.workers == 2
    assert queue.ask(b"d") == [queue.work(b"w", b"d")], "and is ready"


def test_ready_of_an_idle_worker_does_not_put_it_in_line_twice(queue):
    queue.ready(b"w")
    queue.now += 0.5
    queue.ready(b"w")
    assert len(queue.ask(b"1", b"2")) == 1
    assert queue.statistics.workers == 1


def test_a_reply_that_is_not_owed_is_dropped(queue):
    queue.ready(b"w", b"v")
    queue.ask(b"1", b"2")
    queue.reply(b"w", b"2")
    queue.give([b"w", b"1", b""], [b"w", b"1", b"reply"])
    assert queue.answered() == []
    assert queue.statistics.dropped == {"unexpected": 1, "invalid": 2}
    queue.reply(b"w", b"1")
    queue.reply(b"v", b"2")
    assert len(queue.answered()) == 2


def test_a_worker_that_swallows_a_request_and_goes_on_heartbeating_is_found_out():
    """The Guide's worker does so with all that is not three frames."""
    queue = QueueHarness(worker_timeout=5.0)
    queue.ready(b"swallows", b"other")
    queue.ask(b"c")
    assert queue.keep_alive(5.0, b"swallows", b"other") == [queue.work(b"other", b"c")]
    assert queue.events(WorkerLost) == [WorkerLost(b"swallows", "took too long")]
    queue.heartbeat(b"swallows")
    assert queue.statistics.workers == 1, "it hears nothing more, and so will say READY"


def test_overdue_workers_are_found_in_turn_whoever_else_is_busy():
    queue = QueueHarness(worker_timeout=1.5, interval=10.0)
    queue.ready(b"a", b"b", b"c")
    queue.ask(b"1")
    queue.now += 1.0
    queue.ask(b"2")
    assert queue.until(START + 1.5) == [queue.work(b"c", b"1")]
    assert queue.until(START + 2.5) == []
    assert queue.statistics.queued == 1


def test_a_queue_that_stood_still_hears_its_workers_before_it_judges(queue):
    queue.ready(b"w")
    queue.ask(b"c")
    queue.stall(10.0)
    assert queue.statistics.workers == 1
    queue.heartbeat(b"w")
    queue.advance(2.5)
    assert queue.statistics.workers == 1
    queue.advance(1.0)
    assert queue.statistics.workers == 0


def test_and_judges_those_who_said_nothing_one_interval_later(queue):
    queue.ready(b"w")
    queue.stall(10.0)
    queue.until(START + 10.9)
    assert queue.statistics.workers == 1
    queue.until(START + 11.1)
    assert queue.statistics.workers == 0


@pytest.mark.parametrize("reason", list(SendFailure))
def test_a_worker_that_does_not_get_its_heartbeat_is_forgotten(queue, reason):
    queue.ready(b"w", b"other")
    queue.ask(b"c")
    queue.now += 1.0
    assert queue.fail([b"w", b"\x02"], reason) == [queue.work(b"other", b"c")]
    assert queue.events(WorkerLost) == [WorkerLost(b"w", reason.value)]


def test_a_heartbeat_that_fails_beside_the_request_costs_no_delivery():
    """In the same turn: the worker is gone, and neither of the two left."""
    queue = QueueHarness(deliveries_max=1)
    queue.ready(b"w")
    [sent] = queue.ask(b"c")
    queue.unreachable([b"w", b"\x02"])
    queue.unreachable(sent)
    assert queue.ready(b"v") == [queue.work(b"v", b"c")]


def test_an_older_request_that_fails_before_it_costs_no_delivery():
    """Seed 704: it stood before the new one in the same full outbox, so that one cannot have left either."""
    queue = QueueHarness(deliveries_max=1)
    queue.ready(b"w")
    [old] = queue.ask(b"1")
    queue.now += 0.5
    queue.ready(b"w")  # it begins anew: the limit is reached, and the client told
    assert len(queue.answered()) == 1
    queue.ask(b"2")
    queue.now += 0.1
    queue.unreachable(old)
    assert queue.ready(b"v") == [queue.work(b"v", b"2")]


def test_nothing_is_said_to_workers_when_it_stops(queue):
    queue.ready(b"a", b"b")
    queue.step(queue.core.shut_down, queue.now)
    assert queue.sent() == queue.beats == []
    queue.advance(10.0)
    assert queue.beats == []


def test_an_overdue_worker_is_lost_at_the_very_time_that_was_asked_for():
    """Whatever the rounding of that time, or the driver would ask again and again."""
    for number in range(100):
        queue = QueueHarness(worker_timeout=0.7, interval=10.0)
        queue.now += number / 7
        queue.ready(b"w")
        queue.ask(b"c")
        timer = queue.core.next_timer()
        assert timer is not None
        queue.core.handle_timer(timer)
        assert queue.statistics.workers == 0


def test_those_in_line_that_are_lost_are_passed_over(queue):
    queue.ready(b"a", b"b", b"c", b"d")
    for lost in (b"b", b"d"):
        queue.unreachable([lost, b"\x02"])
        queue.core.check_invariants()
    assert queue.ask(b"1") == [queue.work(b"a", b"1")]
    assert queue.ask(b"2") == [queue.work(b"c", b"2")]
    assert not queue.core.wants_to_read("front")


def test_one_in_line_that_expires_is_lost_once(queue):
    queue.ready(b"a", b"b", b"c", b"d")
    queue.keep_alive(3.5, b"a", b"c", b"d")
    queue.core.check_invariants()
    assert (queue.statistics.workers, queue.statistics.workers_lost) == (3, 1)


def test_the_next_in_line_is_a_live_one_when_a_request_came_back_too(queue):
    queue.ready(b"a", b"b", b"c", b"d")
    [sent] = queue.ask(b"1")
    queue.unreachable([b"c", b"\x02"])
    assert queue.unreachable(sent) == [queue.work(b"b", b"1")]
    queue.core.check_invariants()
    assert queue.ask(b"2") == [queue.work(b"d", b"2")]


def test_requests_that_come_back_in_any_order_are_given_out_in_their_own(queue):
    queue.ready(b"a", b"b", b"c")
    sent = queue.ask(b"1", b"2", b"3")
    for lost in (0, 2, 1):
        queue.unreachable(sent[lost])
        queue.core.check_invariants()
    assert queue.ready(b"d", b"e", b"f") == [queue.work(b"d", b"1"), queue.work(b"e", b"2"), queue.work(b"f", b"3")]


def test_a_reply_with_less_of_an_envelope_than_its_request_had_is_none(queue):
    queue.ready(b"w")
    queue.give([b"c", b"hop", b"", b"body"], port="front")
    queue.reply(b"w", b"c", b"not to him")
    assert queue.answered() == []
    queue.give([b"w", b"c", b"hop", b"", b"reply"])
    assert queue.answered() == [[b"c", b"hop", b"", b"reply"]]


def test_workers_that_come_and_go_leave_nothing_behind(queue):
    """Though the first in line stays where it is, and nobody asks for anything."""
    queue.ready(b"stays")
    for number in range(1000):
        queue.ready(b"%d" % number)
        queue.unreachable([b"%d" % number, b"\x02"])
    queue.core.check_invariants()
    assert queue.statistics.workers == 1
    assert len(queue.core._idle) < 10
