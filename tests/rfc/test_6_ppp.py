"""6/PPP, clause by clause, on raw frames. Its "client" is our queue; who asks that is left open."""

from __future__ import annotations

import pytest

from tests.pirate.pirates import BEAT, START, QueueHarness, WorkerHarness
from zpatterns.core import Run


@pytest.fixture
def queue():
    return QueueHarness()


@pytest.fixture
def worker():
    return WorkerHarness()


# Overall Conversation.


def test_the_worker_initiates_the_conversation_by_sending_ready_to_the_client(worker):
    """Overall Conversation: "The worker initiates the conversation by sending READY to the client." """
    assert worker.sent() == [[b"\x01"]]


def test_the_first_message_in_any_conversation_is_ready(queue, worker):
    """Overall Conversation: "The first message in any conversation MUST be W:READY." """
    queue.give([b"w", b"\x02"], [b"w", b"client", b"", b"reply"])
    assert queue.ask(b"c") == []
    assert queue.answered() == []
    assert queue.advance(5.0) == queue.beats == []
    # And a worker of ours says nothing before it, on whichever connection.
    assert worker.sent() == [[b"\x01"]]
    for _ in range(3):
        worker.until(worker.now + 2.0)
        while worker.open:
            worker.advance(0.1)
        assert worker.advance(1.5)[0] == [b"\x01"]


def test_the_client_responds_with_a_request(queue):
    """Overall Conversation: "The client responds with a REQUEST." """
    assert queue.ready(b"w") == []
    assert queue.ask(b"c") == [[b"w", b"c", b"", b"body"]]


def test_the_worker_replies_and_this_repeats_indefinitely(queue, worker):
    """Overall Conversation: "The worker replies with a REPLY, and this repeats indefinitely." """
    worker.sent()
    queue.ready(b"w")
    for run in range(1, 100):
        [[_, *request]] = queue.ask(b"c%d" % run)
        worker.give(list(request))
        [reply] = worker.done(run, b"%d" % run)
        queue.give([b"w", *reply])
        assert queue.answered() == [[b"c%d" % run, b"", b"%d" % run]]


def test_each_request_results_in_one_reply(queue):
    """Roles: "Each request results in one reply." """
    queue.ready(b"w")
    queue.ask(b"c")
    queue.reply(b"w", b"c", b"first")
    queue.reply(b"w", b"c", b"second")
    assert queue.answered() == [[b"c", b"", b"first"]]


def test_each_request_is_treated_independently(queue):
    """Roles: "Each request is a message, and is treated independently." """
    queue.ready(b"v", b"w")
    queue.ask(b"c")
    queue.ask(b"c", body=b"other")
    queue.reply(b"w", b"c", b"to the other")
    assert queue.answered() == [[b"c", b"", b"to the other"]]


def test_the_worker_sends_heartbeats_at_regular_intervals_to_the_client(worker):
    """Overall Conversation: "The worker sends HEARTBEAT at regular intervals to the client.", busy or not."""
    worker.sent()
    assert worker.keep_alive(5.0) == [[b"\x02"]] * 5
    worker.work(b"c")
    assert worker.keep_alive(5.0) == [[b"\x02"]] * 5


def test_the_client_sends_heartbeats_at_regular_intervals_to_the_worker(queue):
    """Overall Conversation: "The client sends HEARTBEAT at regular intervals to the worker.", busy or not."""
    queue.ready(b"idle", b"busy")
    queue.ask(b"c")
    queue.keep_alive(5.0, b"idle", b"busy")
    assert queue.beats == [[b"idle", b"\x02"], [b"busy", b"\x02"]] * 5


# Goals.


def test_tasks_are_distributed_to_the_least_recently_used_worker(queue):
    """Goals: "Allow the client to implement a "least recently used" pattern for task distribution to workers." """
    queue.ready(b"1", b"2")
    queue.ask(b"a")
    queue.reply(b"1", b"a")
    assert queue.ask(b"b") == [[b"2", b"b", b"", b"body"]]


def test_requests_are_resent_to_other_workers(queue):
    """Goals: "recover from dead or disconnected workers by resending requests to other workers." """
    queue.ready(b"dies", b"lives")
    queue.ask(b"c")
    assert queue.keep_alive(3.1, b"lives") == [[b"lives", b"c", b"", b"body"]]


# Command Specifications.


@pytest.mark.parametrize("message", [[b"\x01\x00"], [b"\x01", b""], [b"", b"\x01"], [b"\x01", b"x"], [b"READY"], [b""]])
def test_ready_is_a_1_part_message_containing_the_single_byte_0x01(queue, message):
    """READY: "Consists of a 1-part message containing the single byte 0x01." """
    queue.give([b"w", *message])
    assert queue.statistics.workers == 0
    queue.give([b"w", b"\x01"])
    assert queue.statistics.workers == 1


@pytest.mark.parametrize("message", [[b"\x02\x00"], [b"\x02", b""], [b"HEARTBEAT"], [b"\x03"]])
def test_heartbeat_is_a_1_part_message_containing_the_single_byte_0x02(queue, worker, message):
    """HEARTBEAT: "Consists of a 1-part message containing the single byte 0x02." """
    queue.ready(b"w")
    queue.until(START + 2.5)
    queue.give([b"w", *message])
    queue.until(START + 3.1)
    assert queue.statistics.workers == 0
    worker.until(START + 2.5)
    if len(message) == 1:  # of more frames it is a request
        worker.give(list(message))
        worker.until(START + 3.1)
        assert not worker.open


@pytest.mark.parametrize(
    ("stack", "content"),
    [
        ([b"client", b""], [b"x"]),
        ([b"client", b""], [b"x", b"", b"y"]),
        ([b"client", b""], [b""]),
        ([b"hop", b"hop", b"client", b""], [b"x", b"y"]),
        ([b""], [b"x"]),
        ([], [b"x", b"y"]),
    ],
)
def test_a_request_is_an_optional_address_stack_and_content_of_1_or_more_parts(worker, stack, content):
    """REQUEST, REPLY: "a multipart message containing an optional address stack with null terminator, followed by a
    message content of 1 or more parts"."""
    worker.sent()
    worker.asked()
    worker.give([*stack, *content])
    [run] = worker.asked(Run)
    assert run.frames == content
    assert worker.done(1, *content) == [[*stack, *content]]


def test_a_reply_is_a_multipart_message_even_without_an_address_stack(worker):
    """REPLY: "a multipart message"; one part alone would be a command, so an empty stack's terminator goes first."""
    worker.sent()
    worker.give([b"x", b"y"])
    assert worker.done(1, b"\x01") == [[b"", b"\x01"]]


@pytest.mark.parametrize("content", [[b"x"], [b""], [b"", b""], [b"\x01"], [b"\x02", b""], [b"a", b"b", b"c"]])
def test_replies_of_1_or_more_parts_are_handed_on(queue, content):
    """REPLY: "followed by a message content of 1 or more parts" """
    queue.ready(b"w")
    queue.ask(b"c")
    queue.reply(b"w", b"c", *content)
    assert queue.answered() == [[b"c", b"", *content]]


# Heartbeating.


@pytest.mark.parametrize("liveness", [3, 5])
def test_a_peer_is_disconnected_if_no_heartbeat_arrives_within_some_multiple_of_the_interval(liveness):
    """Heartbeating: "A peer can consider the other peer "disconnected" if no heartbeat arrives within some multiple of
    that interval (usually 3-5)." """
    queue = QueueHarness(liveness=liveness)
    queue.ready(b"w")
    queue.until(START + liveness - 0.01)
    assert queue.statistics.workers == 1
    queue.until(START + liveness)
    assert queue.statistics.workers == 0


def test_a_worker_that_detects_a_disconnected_client_sends_ready_again(worker):
    """Heartbeating: "If the worker detects that the client has disconnected, it MUST send READY again to start a new
    conversation." """
    worker.sent()
    worker.until(START + 3.0)
    assert not worker.open
    assert worker.until(START + 4.0)[0] == [b"\x01"]
    assert worker.open


def test_a_client_that_detects_a_disconnected_worker_stops_sending_it_anything(queue):
    """Heartbeating: "If the client detects that the worker has disconnected, it SHOULD stop sending it messages of any
    type." """
    queue.ready(b"w")
    queue.until(START + 3.0)
    queue.beats.clear()
    queue.give([b"w", b"\x02"])
    assert queue.ask(b"c") == []
    queue.until(START + 10.0)
    assert queue.beats == []


def test_a_new_conversation_may_be_begun_with_the_same_peer(queue):
    """Heartbeating: "it MUST send READY again to start a new conversation": what the old one left is over."""
    queue.ready(b"w")
    queue.until(START + 3.0)
    assert queue.ready(b"w") == []
    assert queue.ask(b"c") == [[b"w", b"c", b"", b"body"]]
    queue.keep_alive(2.0, b"w")
    assert queue.beats.count([b"w", BEAT]) == 4
