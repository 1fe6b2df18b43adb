"""What the Guide's Paranoid Pirate gets wrong: each stays right here."""

from __future__ import annotations

from tests.pirate.pirates import START, QueueHarness, WorkerHarness


def test_a_heartbeat_does_not_make_a_busy_worker_ready():
    queue = QueueHarness()
    queue.ready(b"w")
    queue.ask(b"1", b"2")
    for _ in range(5):
        assert queue.heartbeat(b"w") == []
    assert queue.statistics.queued == 1
    assert queue.reply(b"w", b"1") == [[b"w", b"2", b"", b"body"]]


def test_nor_does_a_reply_that_it_does_not_owe():
    queue = QueueHarness()
    queue.ready(b"w")
    queue.ask(b"1", b"2")
    assert queue.reply(b"w", b"someone") == []
    assert queue.statistics.in_flight == 1


def test_expiry_does_not_stop_at_the_first_live_worker():
    """The one in front of the line is alive, those behind it are not, idle and busy ones alike."""
    queue = QueueHarness()
    queue.ready(b"busy", b"alive", b"dead", b"alive too", b"dead too")
    queue.ask(b"c")
    queue.until(START + 2.5)
    queue.heartbeat(b"alive", b"alive too")
    assert queue.until(START + 3.1) == [[b"alive", b"c", b"", b"body"]]
    assert queue.statistics.workers == 2
    assert queue.ask(b"d") == [[b"alive too", b"d", b"", b"body"]]


def test_two_workers_that_start_at_the_same_moment_are_two():
    queue = QueueHarness()
    queue.ready(b"\x00\x00\x00\x00\x01", b"\x00\x00\x00\x00\x02")
    assert len(queue.ask(b"1", b"2")) == 2


def test_multi_frame_bodies_are_served_and_not_taken_for_garbage():
    queue, worker = QueueHarness(), WorkerHarness()
    worker.sent()
    queue.ready(b"w")
    [[_, *request]] = queue.give([b"c", b"", b"one", b"", b"three"], port="front")
    worker.give(list(request))
    [reply] = worker.done(1, b"r1", b"r2", b"")
    queue.give([b"w", *reply])
    assert queue.answered() == [[b"c", b"", b"r1", b"r2", b""]]


def test_a_request_in_a_dead_workers_hands_is_not_lost():
    queue = QueueHarness()
    queue.ready(b"dies")
    queue.ask(b"c")
    queue.until(START + 3.0)
    assert queue.ready(b"next") == [[b"next", b"c", b"", b"body"]]


def test_heartbeats_go_to_busy_workers_too():
    """The Guide's queue sends them to those in its line only, and a slow worker gives it up."""
    queue = QueueHarness()
    queue.ready(b"w")
    queue.ask(b"c")
    queue.keep_alive(3.0, b"w")
    assert queue.beats == [[b"w", b"\x02"]] * 3


def test_a_busy_worker_goes_on_heartbeating():
    """The Guide's does not while it works, and is forgotten."""
    worker = WorkerHarness()
    worker.work(b"c")
    assert worker.advance(10.0).count([b"\x02"]) == 10


def test_a_late_reply_is_not_handed_on():
    """The Guide's queue sends on whatever a worker says, to whomever it says."""
    queue = QueueHarness()
    queue.ready(b"stalls", b"other")
    queue.ask(b"c")
    queue.keep_alive(3.1, b"other")
    queue.reply(b"other", b"c", b"right")
    queue.reply(b"stalls", b"c", b"late")
    assert queue.answered() == [[b"c", b"", b"right"]]


def test_a_short_or_odd_message_of_a_worker_harms_nobody():
    queue = QueueHarness()
    queue.ready(b"w")
    queue.give([b"w"], [b"w", b""], [b"w", b"", b""], [b"x"], [b"x", b"y"])
    assert queue.ask(b"c") == [[b"w", b"c", b"", b"body"]]
