"""WorkerCore beyond the RFCs: handlers of every outcome, back-off, stalls, time-outs, drain and shut-down."""

from __future__ import annotations

import pytest

from tests.harness import START, WorkerHarness, disconnect, heartbeat, reply, work
from zpatterns.core import Cancel, Close, MessagesDropped, Open, Run, SendFailure, SocketKind
from zpatterns.mdp.events import BrokerLost, HandlerFailed, HandlerTimedOut, ReadySent
from zpatterns.mdp.worker_core import WorkerCore
from zpatterns.worker_core import GOODBYE
from zpatterns.worker_state import WorkerInput, WorkerState

ERROR = b"\x00ZPATTERNS-ERROR\x00"
VERSIONS = ["0.1", "0.2"]
ENDPOINT = "tcp://127.0.0.1:5555"
OPEN = Open("broker", SocketKind.DEALER, ENDPOINT)


def given(*body: bytes, version: str = "0.1", client: bytes = b"client") -> list[bytes]:
    """The broker's REQUEST as the worker's DEALER receives it."""
    return work(b"", client, *(body or (b"hello",)), version=version)[1:]


def said(*body: bytes, version: str = "0.1", client: bytes = b"client") -> list[bytes]:
    """The worker's REPLY or FINAL as its DEALER sends it."""
    return reply(b"", client, *body, version=version)[1:]


def busy(version: str = "0.1", **options) -> WorkerHarness:
    """A worker whose handler has just begun run 1."""
    worker = WorkerHarness(version, **options)
    worker.give(given(version=version))
    assert worker.asked(Run) == [Run(1, b"client", [b"hello"])]
    return worker


def ready_of(worker: WorkerHarness) -> list[bytes]:
    return [b"", b"MDPW01", b"\x01", b"echo"] if worker.version == "0.1" else [b"MDPW02", b"\x01", b"echo"]


# What becomes of a request.


@pytest.mark.parametrize("version", VERSIONS)
def test_each_request_is_a_run_of_its_own(version):
    worker = WorkerHarness(version)
    for run in (1, 2, 3):
        worker.give(given(b"%d" % run, b"more", version=version, client=b"c%d" % run))
        assert worker.asked(Run) == [Run(run, b"c%d" % run, [b"%d" % run, b"more"])]
        worker.step(worker.core.handler_done, run, [b"done"], worker.now)
        assert worker.sent() == [said(b"done", version=version, client=b"c%d" % run)]
    assert (worker.statistics.requests, worker.statistics.replies) == (3, 3)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_handler_that_raises_is_answered_with_our_error(version):
    worker = busy(version)
    worker.step(worker.core.handler_failed, 1, "ValueError", "größer", worker.now)
    assert worker.sent() == [said(ERROR, b"ValueError", "größer".encode(), version=version)]
    assert worker.events(HandlerFailed) == [HandlerFailed(b"echo", "ValueError", "größer")]
    assert worker.core.state is WorkerState.IDLE
    assert (worker.statistics.errors, worker.statistics.replies) == (1, 0)


def test_an_odd_error_still_makes_three_frames():
    worker = busy()
    worker.step(worker.core.handler_failed, 1, "Größe", "\ud800", worker.now)
    assert worker.sent() == [said(ERROR, b"Gr??e", b"?")]


def test_a_second_request_while_one_is_in_hand_is_dropped():
    """Our brokers never send one; a foreign one that does gets its reply from another worker."""
    worker = busy()
    assert worker.give(given(b"second", client=b"other")) == []
    assert worker.asked(Run) == []
    assert worker.events(MessagesDropped) == [MessagesDropped("second-request", 1)]
    worker.step(worker.core.handler_done, 1, [b"x"], worker.now)
    assert worker.sent() == [said(b"x")]


def test_what_a_handler_says_of_another_run_is_ignored():
    worker = busy()
    worker.step(worker.core.handler_done, 1, [b"x"], worker.now)
    worker.give(given())
    worker.sent()
    worker.step(worker.core.handler_done, 1, [b"again"], worker.now)
    worker.step(worker.core.handler_failed, 1, "Late", "", worker.now)
    worker.step(worker.core.handler_partial, 1, [b"late"], worker.now)
    worker.step(worker.core.handler_done, 7, [b"never begun"], worker.now)
    assert worker.sent() == []
    assert worker.core.state is WorkerState.BUSY
    assert worker.events(HandlerFailed) == []


def test_over_0_1_the_parts_of_a_stream_are_one_reply():
    worker = busy()
    worker.step(worker.core.handler_partial, 1, [b"1", b"2"], worker.now)
    worker.step(worker.core.handler_partial, 1, [], worker.now)
    assert worker.sent() == []
    worker.step(worker.core.handler_done, 1, [b"end"], worker.now)
    assert worker.sent() == [said(b"1", b"2", b"", b"end")]
    worker.give(given())
    worker.step(worker.core.handler_done, 2, [b"alone"], worker.now)
    assert worker.sent() == [said(b"alone")], "nothing is left over for the next"


def test_over_0_1_parts_beyond_their_bound_end_in_too_large():
    worker = busy(held_bytes_max=1000)
    worker.step(worker.core.handler_partial, 1, [b"x" * 600], worker.now)
    worker.step(worker.core.handler_partial, 1, [b"x" * 600], worker.now)
    sent = worker.sent()
    assert sent[0][:7] == [b"", b"MDPW01", b"\x03", b"client", b"", ERROR, b"too-large"]
    assert sent[1:] == [disconnect()]
    assert worker.asked() == [Close("broker", GOODBYE), Cancel(1)]
    worker.step(worker.core.handler_partial, 1, [b"x" * 600], worker.now)
    assert worker.advance(60) == [], "it takes nothing more until its handler has returned"
    worker.step(worker.core.handler_done, 1, [b"end"], worker.now)
    assert worker.advance(0) == [ready_of(worker)]


@pytest.mark.parametrize(("parts", "frames"), [(1000, 1), (1, 1000)])
def test_a_thousand_small_parts_are_bounded_too_and_one_of_so_many_frames(parts, frames):
    worker = busy(held_bytes_max=10_000)
    for _ in range(parts):
        worker.step(worker.core.handler_partial, 1, [b""] * frames, worker.now)
    assert worker.sent()[0][6] == b"too-large"


def test_the_bound_of_parts_is_each_requests_own():
    worker = WorkerHarness(held_bytes_max=1000)
    for run in (1, 2, 3):
        worker.give(given())
        worker.step(worker.core.handler_partial, run, [b"x" * 600], worker.now)
        worker.step(worker.core.handler_done, run, [b"end"], worker.now)
        assert worker.sent() == [said(b"x" * 600, b"end")]


# handler_timeout.


@pytest.mark.parametrize("version", VERSIONS)
def test_after_handler_timeout_the_caller_gets_the_error_at_once(version):
    worker = busy(version, handler_timeout=5.5)
    worker.sent()
    beats = worker.until(START + 5.49)
    assert beats == [heartbeat(version=version)] * 5
    sent = worker.until(START + 5.5)
    assert sent[0][:-1] == said(ERROR, b"handler-timeout", version=version)
    assert b"5.5 s" in sent[0][-1]
    assert sent[1:] == [disconnect(version=version)]
    assert worker.asked() == [Close("broker", GOODBYE), Cancel(1)]
    assert worker.events(HandlerTimedOut) == [HandlerTimedOut(b"echo", 5.5)]
    assert worker.statistics.timeouts == 1


@pytest.mark.parametrize("outcome", ["done", "failed"])
def test_after_handler_timeout_the_lane_says_ready_only_when_its_handler_has_returned(outcome):
    worker = busy(handler_timeout=5)
    worker.until(START + 5)
    assert worker.advance(1000) == []
    assert worker.core.next_timer() is None
    assert worker.statistics.busy == 1
    worker.asked()
    if outcome == "done":
        worker.step(worker.core.handler_done, 1, [b"late"], worker.now)
    else:
        worker.step(worker.core.handler_failed, 1, "Late", "", worker.now)
    assert worker.advance(0) == [ready_of(worker)]
    assert worker.asked() == [OPEN]
    assert worker.statistics.discarded == 1
    worker.give(given(b"next"))
    assert worker.asked(Run) == [Run(2, b"client", [b"next"])]


def test_a_handler_in_time_is_not_timed_out_later():
    worker = busy(handler_timeout=5)
    worker.until(START + 4)
    worker.step(worker.core.handler_done, 1, [b"x"], worker.now)
    worker.sent()
    worker.keep_alive(20)
    assert worker.statistics.timeouts == 0
    worker.give(given())
    worker.keep_alive(4.9)
    assert worker.statistics.timeouts == 0, "each run has the whole time"
    worker.advance(0.2)
    assert worker.statistics.timeouts == 1


def test_without_handler_timeout_a_handler_may_take_for_ever():
    worker = busy()
    worker.sent()
    assert worker.until(START + 1000) == [heartbeat()] * 1000
    worker.step(worker.core.handler_done, 1, [b"x"], worker.now)
    assert worker.sent() == [said(b"x")]


# The connection.


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_the_back_off_has_full_jitter_doubles_and_is_capped(share):
    """Full jitter, first = heartbeat interval, cap = interval x liveness."""
    worker = WorkerHarness(share=share)
    delays = []
    for _ in range(6):
        worker.give(disconnect())
        ((lost),) = worker.events(BrokerLost)
        delays.append(lost.delay)
        worker.asked()
        worker.advance(lost.delay)
        assert worker.asked(Open) == [OPEN]
    assert delays == pytest.approx([limit * share for limit in (1, 2, 3, 3, 3, 3)])


def test_a_stable_connection_resets_the_back_off():
    worker = WorkerHarness(share=1.0)
    for _ in range(4):
        worker.give(disconnect())
        worker.advance(3)
    worker.keep_alive(3.5)
    worker.events()
    worker.give(disconnect())
    assert worker.events(BrokerLost)[0].delay == 1.0


def test_a_connection_that_never_spoke_does_not_reset_the_back_off():
    """Nobody is there: each attempt lasts for a lease, and a little, for timers are never early."""
    worker = WorkerHarness(share=1.0)
    worker.advance(24, late=0.001)
    delays = [event.delay for event in worker.events(BrokerLost)]
    assert delays == [1.0, 2.0, 3.0, 3.0]


def test_the_next_broker_is_tried_each_time_in_turn():
    endpoints = ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp://127.0.0.1:3")
    worker = WorkerHarness(endpoints=endpoints)
    for _ in range(5):
        worker.give(disconnect())
        worker.advance(3)
    assert [opened.endpoint for opened in worker.opened] == [endpoints[number % 3] for number in range(6)]
    assert worker.core.endpoint == endpoints[5 % 3]


def test_what_was_heard_before_the_goodbye_in_one_batch_counts_and_what_came_behind_does_not():
    worker = WorkerHarness()
    worker.asked()
    worker.give(heartbeat(), disconnect(), given(), heartbeat())
    assert worker.asked() == [Close("broker")]
    assert worker.statistics.dropped == {"not-registered": 2}


def test_losing_the_broker_is_told_with_its_endpoint_and_the_delay():
    worker = WorkerHarness()
    assert worker.events() == [ReadySent(ENDPOINT, b"echo")]
    worker.until(START + 3)
    assert worker.events() == [BrokerLost(ENDPOINT, "silent for a lease", 0.5)]
    worker.advance(0.5)
    assert worker.events() == [ReadySent(ENDPOINT, b"echo")]
    assert worker.statistics.ready_sent == 2


def test_a_handler_that_outlives_its_connection_keeps_the_worker_from_taking_more():
    worker = busy()
    worker.give(disconnect())
    assert worker.statistics.registered == 0
    assert worker.advance(100) == []
    worker.step(worker.core.handler_failed, 1, "Oops", "", worker.now)
    assert worker.statistics.discarded == 1
    assert worker.advance(0) == [ready_of(worker)]


def test_nor_does_a_timer_that_comes_out_of_turn_make_it_take_more():
    worker = busy()
    worker.give(disconnect())
    worker.asked()
    assert worker.stall(100) == []
    assert worker.asked() == []


@pytest.mark.parametrize("reason", list(SendFailure))
def test_what_cannot_be_sent_is_counted_and_left_to_the_lease(reason):
    worker = WorkerHarness()
    worker.asked()
    worker.fail(ready_of(worker), reason)
    assert worker.core.state is WorkerState.IDLE
    assert worker.events(MessagesDropped) == [MessagesDropped(f"broker-{reason.value}", 1)]
    worker.until(START + 3)
    assert worker.asked(Close) == [Close("broker")]


# Stalls.


@pytest.mark.parametrize("first", ["message", "timer"])
def test_an_idle_worker_that_stood_still_for_a_lease_registers_anew(first):
    """R4: it drops what it has not begun, for that was given to others."""
    worker = WorkerHarness()
    worker.sent()
    worker.asked()
    worker.now += 3.1
    if first == "message":
        sent = worker.give(heartbeat(), given(b"stale"), given(b"stale, too"))
        assert worker.statistics.dropped == {"stale": 3}
    else:
        sent = worker.stall(0)
    assert sent == [ready_of(worker)]
    assert worker.asked() == [Close("broker"), OPEN]
    assert worker.statistics.requests == 0
    assert worker.events(BrokerLost)[0].delay == 0.0
    worker.give(given(b"fresh"))
    assert worker.asked(Run) == [Run(1, b"client", [b"fresh"])]


def test_after_a_stall_it_goes_back_to_the_same_broker():
    worker = WorkerHarness(endpoints=("tcp://127.0.0.1:1", "tcp://127.0.0.1:2"))
    worker.stall(10)
    assert [opened.endpoint for opened in worker.opened] == ["tcp://127.0.0.1:1"] * 2


def test_a_shorter_stall_changes_nothing():
    worker = WorkerHarness()
    worker.sent()
    worker.asked()
    worker.now += 2.9
    assert worker.give(given(b"in time")) == []
    assert worker.asked() == [Run(1, b"client", [b"in time"])]


def test_a_busy_worker_that_stood_still_replies_and_leaves_it_to_the_broker():
    worker = busy()
    worker.sent()
    worker.stall(30)
    worker.sent()
    worker.step(worker.core.handler_done, 1, [b"late"], worker.now)
    assert worker.sent() == [said(b"late")]
    assert worker.give(disconnect()) == []
    assert worker.until(worker.now + 1) == [ready_of(worker)]


def test_a_reply_of_the_handler_that_stalled_its_worker_is_not_thrown_away():
    """A coroutine that blocks for longer than the lease returns before any timer or message is looked at."""
    worker = busy()
    worker.sent()
    worker.asked()
    worker.now += 30
    worker.step(worker.core.handler_done, 1, [b"late"], worker.now)
    assert worker.sent() == [said(b"late")]
    worker.step(worker.core.handle_timer, worker.now)
    assert worker.asked() == [], "the connection over which the reply goes stays open"


def test_a_worker_that_is_away_takes_no_harm_from_a_stall():
    worker = WorkerHarness()
    worker.give(disconnect())
    worker.asked()
    assert worker.stall(100) == [ready_of(worker)]
    assert worker.asked() == [OPEN]


# The end.


@pytest.mark.parametrize("version", VERSIONS)
def test_draining_an_idle_worker_says_disconnect(version):
    worker = WorkerHarness(version)
    worker.asked()
    worker.sent()
    worker.step(worker.core.drain, worker.now)
    assert worker.core.drained
    assert worker.sent() == [disconnect(version=version)]
    assert worker.asked() == [Close("broker", GOODBYE)]
    assert worker.give(given(version=version)) == []
    assert worker.asked() == []
    assert worker.core.next_timer() is None


@pytest.mark.parametrize("version", VERSIONS)
def test_draining_a_busy_worker_finishes_replies_and_says_disconnect(version):
    worker = busy(version)
    worker.sent()
    worker.step(worker.core.drain, worker.now)
    assert not worker.core.drained
    assert worker.advance(1) == [heartbeat(version=version)], "heartbeats go on"
    worker.step(worker.core.handler_done, 1, [b"x"], worker.now)
    assert worker.sent() == [said(b"x", version=version), disconnect(version=version)]
    assert worker.asked() == [Close("broker", GOODBYE)]
    assert worker.core.drained


def test_draining_a_worker_that_is_away_ends_it():
    worker = WorkerHarness()
    worker.give(disconnect())
    worker.asked()
    worker.step(worker.core.drain, worker.now)
    assert worker.core.drained
    assert worker.advance(100) == []
    assert worker.asked() == []


def test_draining_waits_for_a_handler_whose_connection_is_gone():
    for lost in ("before", "after"):
        worker = busy()
        if lost == "before":
            worker.give(disconnect())
        worker.step(worker.core.drain, worker.now)
        if lost == "after":
            worker.give(disconnect())
        assert not worker.core.drained
        worker.step(worker.core.handler_done, 1, [b"x"], worker.now)
        assert worker.core.drained
        assert worker.advance(100) == []


def test_draining_waits_for_a_handler_that_timed_out():
    worker = busy(handler_timeout=2)
    worker.step(worker.core.drain, worker.now)
    worker.until(START + 2)
    assert not worker.core.drained
    worker.step(worker.core.handler_done, 1, [b"x"], worker.now)
    assert worker.core.drained


@pytest.mark.parametrize("version", VERSIONS)
def test_shut_down_cancels_the_handler_and_gives_the_request_back(version):
    worker = busy(version)
    worker.sent()
    worker.step(worker.core.shut_down, worker.now)
    assert worker.sent() == [disconnect(version=version)], "so that the broker sends it to another at once"
    assert worker.asked() == [Cancel(1), Close("broker", GOODBYE)]
    assert worker.core.drained
    worker.step(worker.core.handler_done, 1, [b"late"], worker.now)
    assert worker.sent() == []
    assert worker.core.state is WorkerState.STOPPED


def test_shut_down_after_drain_says_goodbye_once():
    worker = WorkerHarness()
    worker.sent()
    worker.step(worker.core.drain, worker.now)
    worker.step(worker.core.shut_down, worker.now)
    assert worker.sent() == [disconnect()]


# Statistics.


def test_statistics_count_what_happened_and_what_is_now():
    worker = busy("0.2")
    worker.step(worker.core.handler_partial, 1, [b"1"], worker.now)
    worker.advance(2)
    statistics = worker.statistics
    assert (statistics.requests, statistics.replies, statistics.partials) == (1, 0, 1)
    assert (statistics.ready_sent, statistics.heartbeats) == (1, 2)
    assert (statistics.registered, statistics.busy) == (1, 1)
    worker.step(worker.core.handler_done, 1, [], worker.now)
    assert (worker.statistics.registered, worker.statistics.busy, worker.statistics.replies) == (1, 0, 1)


# The table of states.


def test_a_worker_can_be_stopped_in_every_state():
    for state in WorkerState:
        if state is not WorkerState.STOPPED:
            assert WorkerCore.transitions[state, WorkerInput.SHUT_DOWN][1] is WorkerState.STOPPED
            assert state is WorkerState.AWAY or any(after is state for _, after in WorkerCore.transitions.values())
    assert {after for (before, _), (_, after) in WorkerCore.transitions.items() if before is WorkerState.STOPPED} == {
        WorkerState.STOPPED
    }


def test_no_connection_is_made_while_a_handler_runs():
    running = (WorkerState.BUSY, WorkerState.FINISHING, WorkerState.HELD_UP, WorkerState.LEAVING)
    for (before, what), (_, after) in WorkerCore.transitions.items():
        if before in running and what not in (WorkerInput.RETURN, WorkerInput.SHUT_DOWN):
            assert after in running, f"{what} while {before}"
        if after is WorkerState.IDLE:
            assert what is WorkerInput.RETURN or before in (WorkerState.AWAY, WorkerState.IDLE)
