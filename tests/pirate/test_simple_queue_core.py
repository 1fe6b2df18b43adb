"""The Simple Pirate queue's core: a reply means ready, and slow is not told from dead."""

from __future__ import annotations

import pytest

from tests.pirate.pirates import ERROR, QueueHarness
from zpatterns.core import SendFailure
from zpatterns.pirate.events import WorkerLost
from zpatterns.testing.weight import reachable_frames


@pytest.fixture
def queue():
    return QueueHarness("simple")


@pytest.mark.parametrize(
    "message",
    [[], [b""], [b"\x01"], [b"", b""], [b"", b"\x02"], [b"", b"\x01\x01"], [b"x", b"\x01"], [b"", b"a", b"b"]],
)
def test_ready_is_exactly_one_frame_01_behind_the_delimiter(queue, message):
    queue.give([b"w", *message])
    assert queue.statistics.workers == 0
    assert queue.statistics.dropped == {"invalid": 1}


def test_a_client_whose_id_begins_with_01_is_answered_all_the_same(queue):
    """The Guide's queue takes its reply for READY: it looks at one byte of it."""
    queue.ready(b"w")
    queue.ask(b"\x01client")
    queue.reply(b"w", b"\x01client")
    assert queue.answered() == [[b"\x01client", b"", b"reply"]]


def test_a_body_of_01_is_a_body(queue):
    queue.ready(b"w")
    queue.ask(b"c")
    queue.reply(b"w", b"c", b"\x01")
    assert queue.answered() == [[b"c", b"", b"\x01"]]


def test_a_worker_is_waited_for_without_end(queue):
    queue.ready(b"slow", b"idle")
    queue.ask(b"c")
    assert queue.core.next_timer() is None
    assert queue.advance(100_000.0) == []
    queue.reply(b"slow", b"c")
    assert queue.answered() == [[b"c", b"", b"reply"]]


def test_there_are_no_heartbeats(queue):
    queue.ready(b"w")
    assert queue.core.next_timer() is None
    assert queue.statistics.heartbeats == 0


def test_a_late_reply_is_dropped_but_says_that_the_worker_is_ready():
    queue = QueueHarness("simple", worker_timeout=1.0)
    queue.ready(b"slow", b"other")
    queue.ask(b"c")
    queue.advance(1.0)
    assert queue.statistics.workers == 1
    queue.reply(b"slow", b"c", b"late")
    assert queue.answered() == []
    assert queue.statistics.dropped == {"late": 1}
    assert queue.ask(b"d") == [queue.work(b"slow", b"d")]


def test_so_does_a_reply_from_before_the_queue_was_started(queue):
    """A REQ says nothing more until it is given something."""
    queue.reply(b"w", b"client of another life")
    assert queue.answered() == []
    assert queue.ask(b"c") == [queue.work(b"w", b"c")]


def test_a_reply_to_another_is_not_handed_on_and_its_own_client_is_told(queue):
    queue.ready(b"liar", b"w")
    queue.ask(b"1", b"2")
    queue.now += 1.0
    queue.reply(b"liar", b"2", b"a lie")
    assert [frames[:4] for frames in queue.answered()] == [[b"1", b"", ERROR, b"502"]]
    assert queue.statistics.dropped == {"unexpected": 1}
    queue.reply(b"w", b"2")
    assert queue.answered() == [[b"2", b"", b"reply"]]


def test_with_a_worker_timeout_the_request_is_kept_and_goes_to_another():
    queue = QueueHarness("simple", worker_timeout=10.0)
    queue.ready(b"began anew", b"w")
    queue.ask(b"c")
    queue.now += 1.0
    assert queue.ready(b"began anew") == [queue.work(b"w", b"c")]


def test_without_one_the_body_is_not_kept(queue):
    """A worker that died may hold it for ever."""
    queue.ready(b"w")
    queue.ask(b"c", body=b"q:1")
    assert reachable_frames(queue.core, b"q:") == 0


def test_yet_it_comes_back_whole_if_it_cannot_be_sent(queue):
    queue.ready(b"gone", b"w")
    [sent] = queue.give([b"proxy", b"c", b"", b"one", b"", b"two"], port="front")
    [sent] = queue.fail(sent, SendFailure.UNREACHABLE)
    assert sent == [b"w", b"", b"proxy", b"c", b"", b"one", b"", b"two"]


def test_ready_twice_is_once(queue):
    queue.ready(b"w", b"w")
    queue.ready(b"w")
    assert len(queue.ask(b"1", b"2")) == 1


def test_dead_workers_do_not_keep_new_ones_out():
    queue = QueueHarness("simple", workers_max=2)
    queue.ready(b"died", b"died too")
    queue.ask(b"1", b"2")
    queue.ready(b"w")
    assert queue.events(WorkerLost) == [WorkerLost(b"died", "too many workers")]
    assert [(frames[0], frames[3]) for frames in queue.answered()] == [(b"1", b"502")]
    assert queue.statistics.workers == 2
    assert queue.ask(b"3") == [queue.work(b"w", b"3")]


def test_idle_workers_are_bounded_too_and_the_newest_is_refused():
    queue = QueueHarness("simple", workers_max=2)
    queue.ready(b"a", b"b", b"c")
    assert queue.statistics.workers == 2
    assert queue.statistics.dropped == {"too-many-workers": 1}
