"""The Pirate worker's core, Simple and Paranoid."""

from __future__ import annotations

import pytest

from tests.pirate.pirates import BEAT, ERROR, START, WorkerHarness
from zpatterns.core import Cancel, Close, Run, SendFailure
from zpatterns.pirate.events import HandlerFailed, HandlerTimedOut, QueueLost, ReadySent
from zpatterns.pirate.worker_core import WorkerCore
from zpatterns.worker_state import WorkerInput, WorkerState

ENDPOINT = "tcp://127.0.0.1:5556"


@pytest.fixture(params=["simple", "paranoid"])
def kind(request):
    return request.param


@pytest.fixture
def worker(kind):
    return WorkerHarness(kind)


def test_it_says_ready_on_its_connection_and_nothing_else(worker):
    assert worker.sent() == [[*worker.head, b"\x01"]]
    assert worker.events() == [ReadySent(ENDPOINT)]
    assert [opened.endpoint for opened in worker.opened] == [ENDPOINT]


def test_a_request_is_run_and_its_reply_carries_the_envelope(worker):
    worker.sent()
    worker.asked()
    worker.give([*worker.head, b"client", b"", b"one", b"", b"two"])
    assert worker.asked(Run) == [Run(1, b"client", [b"one", b"", b"two"])]
    assert worker.done(1, b"r1", b"r2") == [[*worker.head, b"client", b"", b"r1", b"r2"]]
    assert (worker.statistics.requests, worker.statistics.replies) == (1, 1)


def test_an_envelope_of_more_hops_goes_back_whole(worker):
    worker.sent()
    worker.asked()
    worker.give([*worker.head, b"proxy", b"client", b"", b"body"])
    assert worker.asked(Run) == [Run(1, b"proxy", [b"body"])]
    assert worker.done(1) == [[*worker.head, b"proxy", b"client", b"", b"reply"]]


def test_an_empty_reply_is_one_empty_frame(worker):
    worker.sent()
    worker.work(b"c")
    worker.step(worker.core.handler_done, 1, [], worker.now)
    assert worker.sent() == [[*worker.head, b"c", b"", b""]]


def test_parts_of_a_generator_go_out_as_one_reply(worker):
    worker.sent()
    worker.work(b"c")
    for part in ([b"a"], [], [b"b", b"c"]):
        worker.step(worker.core.handler_partial, 1, part, worker.now)
    assert worker.sent() == []
    assert worker.done(1, b"last") == [[*worker.head, b"c", b"", b"a", b"", b"b", b"c", b"last"]]
    worker.work(b"d")
    assert worker.done(2) == [[*worker.head, b"d", b"", b"reply"]]


def test_parts_are_bounded(kind):
    worker = WorkerHarness(kind, held_bytes_max=1000)
    worker.sent()
    worker.work(b"c")
    for _ in range(3):
        worker.step(worker.core.handler_partial, 1, [b"x" * 400], worker.now)
    [[*_, marker, code, _]] = worker.sent()
    assert (marker, code) == (ERROR, b"too-large")
    assert worker.asked(Cancel) == [Cancel(1)]


def test_an_exception_goes_out_by_our_convention(worker):
    worker.sent()
    worker.work(b"c")
    worker.step(worker.core.handler_failed, 1, "ValueError", "no ☃", worker.now)
    assert worker.sent() == [[*worker.head, b"c", b"", ERROR, b"ValueError", "no ☃".encode()]]
    assert worker.events(HandlerFailed) == [HandlerFailed("ValueError", "no ☃")]
    assert worker.core.state is WorkerState.IDLE


@pytest.mark.parametrize("message", [[b"\x01"], [b"\x03"], [b""], [b"\x02\x02"]])
def test_what_is_no_message_is_dropped_and_counted(worker, message):
    worker.sent()
    assert worker.give([*worker.head, *message]) == []
    assert worker.statistics.dropped == {"invalid": 1}


def test_a_simple_worker_wants_the_delimiter_of_a_req():
    worker = WorkerHarness("simple")
    worker.sent()
    worker.asked()
    worker.give([b"client", b"", b"body"], [b"\x02"])
    assert worker.asked(Run) == []
    assert worker.statistics.dropped == {"invalid": 2}


# More than one request.


def test_requests_that_cross_are_kept_and_served_in_order(worker):
    """The Guide's queue takes a heartbeat of a busy worker for READY."""
    worker.sent()
    worker.asked()
    for client in (b"1", b"2", b"3"):
        worker.work(client)
    assert [run.client for run in worker.asked(Run)] == [b"1"]
    assert worker.done(1) == [[*worker.head, b"1", b"", b"reply"]]
    assert [run.client for run in worker.asked(Run)] == [b"2"]
    worker.done(2)
    assert worker.done(3) == [[*worker.head, b"3", b"", b"reply"]]
    assert worker.core.state is WorkerState.IDLE


def test_no_more_than_sixteen_are_kept(worker):
    worker.sent()
    for number in range(20):
        worker.work(b"%d" % number)
    assert worker.statistics.dropped == {"too-many-requests": 3}
    replies = [worker.done(run)[0][len(worker.head)] for run in range(1, 18)]
    assert replies == [b"%d" % number for number in range(17)]


def test_an_answer_for_an_old_run_is_ignored(worker):
    worker.sent()
    worker.work(b"1")
    worker.done(1)
    worker.work(b"2")
    assert worker.done(1, b"again") == []
    worker.step(worker.core.handler_partial, 1, [b"old"], worker.now)
    worker.step(worker.core.handler_failed, 1, "X", "old", worker.now)
    assert worker.done(2) == [[*worker.head, b"2", b"", b"reply"]]


# A handler that takes too long.


def test_after_handler_timeout_the_caller_gets_an_error_and_the_worker_goes(kind):
    """A reply says ready, and there is no word to take that back: it closes, and comes back when it is ready."""
    worker = WorkerHarness(kind, handler_timeout=2.0)
    worker.sent()
    worker.work(b"1")
    worker.work(b"kept")
    worker.asked()
    sent = [frames for frames in worker.advance(2.0) if frames != [BEAT]]
    assert [frames[:-1] for frames in sent] == [[*worker.head, b"1", b"", ERROR, b"handler-timeout"]]
    assert worker.asked() == [Close("queue", 1.0), Cancel(1)]
    assert worker.events(HandlerTimedOut) == [HandlerTimedOut(2.0)]
    assert worker.statistics.dropped == {"abandoned": 1}
    assert worker.advance(50.0) == []
    assert worker.done(1) == []
    assert worker.advance(0.0) == [[*worker.head, b"\x01"]]
    assert worker.statistics.discarded == 1


# The queue.


def test_a_simple_worker_waits_for_ever():
    worker = WorkerHarness("simple")
    worker.sent()
    assert worker.core.next_timer() is None
    worker.now += 100_000.0
    worker.asked()
    worker.work(b"c")
    assert len(worker.asked(Run)) == 1, "it knows of no stall either"


def test_a_silent_queue_is_given_up_after_a_lease():
    worker = WorkerHarness()
    assert worker.until(START + 2.999) == [[b"\x01"], [BEAT], [BEAT]]
    worker.asked()
    worker.until(START + 3.0)
    assert worker.asked(Close) == [Close("queue")]
    [lost] = worker.events(QueueLost)
    assert (lost.endpoint, lost.reason) == (ENDPOINT, "silent for a lease")
    # Full jitter: half of the first limit, which is the interval.
    assert lost.delay == 0.5
    assert worker.until(START + 3.499) == []
    assert worker.until(START + 3.5) == [[b"\x01"]]


def test_the_back_off_grows_to_a_lease_and_a_stable_queue_resets_it():
    worker = WorkerHarness(share=1.0)
    worker.advance(40.0)
    delays = [lost.delay for lost in worker.events(QueueLost)]
    assert delays[:5] == [1.0, 2.0, 3.0, 3.0, 3.0]
    worker.keep_alive(5.0)
    worker.advance(4.0)
    assert [lost.delay for lost in worker.events(QueueLost)][-1] == 1.0


def test_each_connection_is_a_new_socket_to_the_next_endpoint():
    worker = WorkerHarness(endpoints=("tcp://127.0.0.1:1", "tcp://127.0.0.1:2"))
    worker.advance(12.0)
    assert [opened.endpoint[-1] for opened in worker.opened[:4]] == ["1", "2", "1", "2"]


@pytest.mark.parametrize("message", [[BEAT], [b"c", b"", b"body"]])
def test_heartbeats_and_requests_keep_the_queue(message):
    worker = WorkerHarness()
    worker.until(START + 2.9)
    worker.give(list(message))
    worker.done(1)
    worker.until(START + 5.8)
    assert worker.events(QueueLost) == []


def test_a_busy_worker_does_not_count_silence():
    """The Guide's queue sends busy workers nothing; from the reply on it has one lease."""
    worker = WorkerHarness()
    worker.work(b"c")
    sent = worker.advance(60.0)
    assert sent.count([BEAT]) == 60, "and goes on heartbeating"
    assert worker.done(1) == [[b"c", b"", b"reply"]]
    worker.advance(2.9)
    assert worker.events(QueueLost) == []
    worker.advance(0.2)
    assert len(worker.events(QueueLost)) == 1


def test_heartbeats_go_out_every_interval_whatever_else_does():
    worker = WorkerHarness()
    beats = 0
    for run in range(1, 51):
        beats += worker.advance(0.1).count([BEAT])
        worker.work(b"c")
        worker.done(run)
        worker.give([BEAT])
    assert 4 <= beats <= 5


def test_what_arrives_after_it_gave_the_queue_up_is_dropped():
    worker = WorkerHarness()
    worker.until(START + 3.1)
    worker.asked()
    worker.work(b"c")
    assert worker.asked(Run) == []
    assert worker.statistics.dropped == {"not-registered": 1}


# R4: what stood still begins nothing old.


def test_after_a_stall_longer_than_its_lease_it_registers_anew_and_begins_nothing_old():
    worker = WorkerHarness()
    worker.sent()
    worker.asked()
    worker.now += 3.1
    assert worker.work(b"old") == [[b"\x01"]]
    assert worker.asked(Run) == []
    assert len(worker.opened) == 2
    assert worker.statistics.dropped == {"stale": 1}
    assert worker.events(QueueLost) == [QueueLost(ENDPOINT, "this worker stood still for a lease", 0.0)]


def test_the_same_if_the_timer_comes_first():
    worker = WorkerHarness()
    worker.sent()
    assert worker.stall(3.1) == [[b"\x01"]]


def test_a_shorter_stall_changes_nothing():
    worker = WorkerHarness()
    worker.sent()
    worker.asked()
    worker.now += 2.9
    worker.work(b"new")
    assert len(worker.asked(Run)) == 1


def test_a_busy_worker_that_stalls_finishes_what_it_began_and_drops_what_it_kept():
    worker = WorkerHarness()
    worker.sent()
    worker.work(b"1")
    worker.work(b"kept")
    worker.asked()
    worker.now += 3.1
    worker.work(b"unread")
    assert worker.statistics.dropped == {"stale": 2}
    assert worker.done(1) == [[b"1", b"", b"reply"]]
    assert worker.asked(Run) == []


def test_a_handler_that_held_everything_up_is_heard_first_but_what_was_kept_is_old():
    worker = WorkerHarness()
    worker.sent()
    worker.work(b"1")
    worker.work(b"kept")
    worker.asked()
    worker.now += 10.0
    assert worker.done(1) == [[b"1", b"", b"reply"]]
    assert worker.asked(Run) == []
    assert worker.statistics.dropped == {"stale": 1}


# What cannot be sent.


@pytest.mark.parametrize("reason", list(SendFailure))
def test_a_reply_that_was_not_sent_ends_the_conversation(worker, reason):
    worker.sent()
    worker.work(b"c")
    [reply] = worker.done(1)
    worker.asked()
    worker.fail(reply, reason)
    assert worker.asked(Close) == [Close("queue")]
    assert worker.statistics.dropped == {f"queue-{reason.value}": 1}
    assert [*worker.head, b"\x01"] in worker.advance(1.0)


def test_so_does_a_ready(worker):
    [ready] = worker.sent()
    worker.asked()
    worker.fail(ready, SendFailure.UNREACHABLE)
    assert worker.asked(Close) == [Close("queue")]
    assert worker.advance(1.0)[0] == [*worker.head, b"\x01"]


def test_a_heartbeat_does_not():
    worker = WorkerHarness()
    worker.fail([BEAT], SendFailure.OVERFLOW)
    worker.asked()
    assert worker.core.state is WorkerState.IDLE


# The end.


def test_an_idle_worker_that_drains_closes_and_says_nothing(worker):
    """There is no DISCONNECT: the queue finds it unreachable."""
    worker.sent()
    worker.asked()
    worker.step(worker.core.drain, worker.now)
    assert worker.sent() == []
    assert worker.asked() == [Close("queue", 1.0)]
    assert worker.core.drained


def test_a_busy_worker_that_drains_finishes_what_it_holds_and_replies(worker):
    worker.sent()
    worker.work(b"1")
    worker.work(b"kept")
    worker.step(worker.core.drain, worker.now)
    worker.work(b"crossed")
    assert worker.statistics.dropped == {"draining": 1}
    assert worker.done(1) == [[*worker.head, b"1", b"", b"reply"]]
    assert not worker.core.drained
    worker.asked()
    assert worker.done(2) == [[*worker.head, b"kept", b"", b"reply"]]
    assert worker.asked() == [Close("queue", 1.0)]
    assert worker.core.drained
    assert worker.core.next_timer() is None


def test_it_heartbeats_while_it_drains():
    worker = WorkerHarness()
    worker.work(b"1")
    worker.step(worker.core.drain, worker.now)
    assert worker.advance(5.0).count([BEAT]) == 5


def test_shutting_down_cancels_the_handler_and_closes(worker):
    worker.sent()
    worker.work(b"1")
    worker.work(b"kept")
    worker.asked()
    worker.step(worker.core.shut_down, worker.now)
    assert worker.asked() == [Cancel(1), Close("queue", 1.0)]
    assert worker.sent() == []
    assert worker.core.drained
    assert worker.done(1) == []
    assert worker.statistics.discarded == 1


def test_draining_while_away_stops():
    worker = WorkerHarness()
    worker.until(START + 3.1)
    worker.step(worker.core.drain, worker.now)
    assert worker.core.drained
    assert worker.core.next_timer() is None


# The table.


def test_every_state_can_be_left_or_is_the_end():
    left = {state for state, _ in WorkerCore.transitions}
    assert left == set(WorkerState)
    assert {state for _, state in WorkerCore.transitions.values()} == set(WorkerState)
    assert {what for _, what in WorkerCore.transitions} == set(WorkerInput) - {WorkerInput.DISCONNECT}  # 6/PPP has none


@pytest.mark.parametrize("state", list(WorkerState))
def test_every_state_stops_when_told_to(state):
    if state is not WorkerState.STOPPED:
        assert WorkerCore.transitions[state, WorkerInput.SHUT_DOWN][1] is WorkerState.STOPPED
