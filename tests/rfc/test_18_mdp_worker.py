"""18/MDP (Majordomo 0.2), clause by clause, on raw frames: MDP/Worker, its commands and its connection."""

from __future__ import annotations

import pytest

from tests.harness import START, BrokerHarness, WorkerHarness, to
from tests.rfc.mdp02 import (
    ANSWER,
    DISCONNECT,
    FINAL,
    GIVEN,
    HEARTBEAT,
    PARTIAL,
    READY,
    REQUEST,
    W_DISCONNECT,
    W_HEARTBEAT,
    W_READY,
    W_REQUEST,
    busy_worker,
)
from zpatterns.core import Close, Open, Run, SocketKind
from zpatterns.worker_state import WorkerState

# The forms of the commands.


def test_worker_sends_ready_of_3_frames():
    """MDP/Worker: "A READY command consists of a multipart message of 3 frames"."""
    assert WorkerHarness("0.2", service=b"coffee").sent() == [[b"MDPW02", b"\x01", b"coffee"]]


@pytest.mark.parametrize(
    "frames",
    [
        [b"MDPW02"],
        [b"MDPW02", b"\x01"],
        [b"MDPW02", b"\x01", b"echo", b"more"],
        [b"MDPW02", b"\x01", b""],
        [b"MDPW02", b"\x01", b"tab\t"],
        [b"MDPW02", b"\x01", b"\xff"],
        [b"MDPW02", b"", b"echo"],
        [b"MDPW02", b"\x01\x01", b"echo"],
        [b"MDPW02", b"1", b"echo"],
        [b"mdpw02", b"\x01", b"echo"],
        [b"", b"MDPW02", b"\x01", b"echo"],
    ],
)
def test_broker_drops_a_ready_of_another_form(frames):
    """MDP/Worker: READY: "MDPW02", 0x01 and a printable service name, nothing else."""
    broker = BrokerHarness()
    assert broker.give([b"worker", *frames]) == []
    assert broker.statistics.workers == 0
    assert sum(broker.statistics.dropped.values()) == 1


def test_broker_sends_request_of_5_or_more_frames():
    """MDP/Worker: "A REQUEST command consists of a multipart message of 5 or more frames"."""
    broker = BrokerHarness()
    broker.give(READY)
    assert broker.give([b"client", b"MDPC02", b"\x01", b"echo", b"1", b"", b"3"]) == [
        [b"worker", b"MDPW02", b"\x02", b"client", b"", b"1", b"", b"3"]
    ]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"MDPW02"],
        [b"MDPW02", b"\x02"],
        [b"MDPW02", b"\x02", b"client"],
        [b"MDPW02", b"\x02", b"client", b""],
        [b"MDPC02", b"\x02", b"client", b"", b"hello"],
        [b"MDPW01", b"\x02", b"client", b"", b"hello"],
        [b"", b"MDPW02", b"\x02", b"client", b"", b"hello"],
        [b"MDPW02", b"\x07", b"client", b"", b"hello"],
        [b"MDPW02", b"\x01", b"echo"],
        [b"MDPW02", b"\x03", b"client", b"", b"hello"],
        [b"MDPW02", b"\x04", b"client", b"", b"hello"],
        [b"MDPW02", b"\x05", b"more"],
        [b"MDPW02", b"\x06", b"more"],
    ],
)
def test_worker_drops_what_is_no_command_for_it(frames):
    """MDP/Worker: the forms of REQUEST, HEARTBEAT and DISCONNECT; "to allow proper validation of all messages that a
    peer receives"."""
    worker = WorkerHarness("0.2")
    worker.sent()
    worker.asked()
    assert worker.give(frames) == []
    assert worker.asked() == []
    assert worker.core.state is WorkerState.IDLE
    assert worker.statistics.dropped == {"invalid": 1}


@pytest.mark.parametrize("body", [[b"world"], [b""], [b"1", b"", b"3"]])
def test_worker_sends_partial_and_final_of_5_or_more_frames(body):
    """MDP/Worker: "A PARTIAL command consists of a multipart message of 5 or more frames", and so does FINAL."""
    worker = busy_worker()
    worker.step(worker.core.handler_partial, 1, body, worker.now)
    assert worker.sent() == [[b"MDPW02", b"\x03", b"client", b"", *body]]
    worker.step(worker.core.handler_done, 1, body, worker.now)
    assert worker.sent() == [[b"MDPW02", b"\x04", b"client", b"", *body]]


def test_worker_partial_and_final_have_a_body_though_the_handler_has_none():
    """MDP/Worker: PARTIAL and FINAL: "5 or more frames": at least one of them is the body's."""
    worker = busy_worker()
    worker.step(worker.core.handler_partial, 1, [], worker.now)
    worker.step(worker.core.handler_done, 1, [], worker.now)
    assert worker.sent() == [[b"MDPW02", b"\x03", b"client", b"", b""], [b"MDPW02", b"\x04", b"client", b"", b""]]


def test_heartbeat_has_2_frames():
    """MDP/Worker: "A HEARTBEAT command consists of a multipart message of 2 frames", from either side."""
    broker, worker = BrokerHarness(), WorkerHarness("0.2")
    broker.give(READY)
    worker.sent()
    assert broker.advance(1) == [[b"worker", b"MDPW02", b"\x05"]]
    assert worker.advance(1) == [[b"MDPW02", b"\x05"]]


def test_disconnect_has_2_frames():
    """MDP/Worker: "A DISCONNECT command consists of a multipart message of 2 frames", from either side."""
    broker, worker = BrokerHarness(), WorkerHarness("0.2")
    broker.give(READY)
    worker.sent()
    broker.step(broker.core.shut_down, broker.now)
    worker.step(worker.core.shut_down, worker.now)
    assert broker.sent() == [[b"worker", b"MDPW02", b"\x06"]]
    assert worker.sent() == [[b"MDPW02", b"\x06"]]


# Opening and Closing a Connection.


def test_opening_one_worker_must_connect_to_one_broker_with_one_dealer():
    """Opening: "One worker MUST connect to exactly one broker using a single ØMQ DEALER socket."."""
    worker = WorkerHarness("0.2", endpoints=("tcp://127.0.0.1:1", "tcp://127.0.0.1:2"))
    assert worker.asked() == [Open("broker", SocketKind.DEALER, "tcp://127.0.0.1:1")]
    worker.advance(60)  # silence: it goes from broker to broker, and the harness asserts one socket at a time
    assert {opened.endpoint for opened in worker.opened} == {"tcp://127.0.0.1:1", "tcp://127.0.0.1:2"}


def test_opening_every_command_includes_the_header():
    """Opening: "every MDP command includes the protocol header to allow proper validation of all messages"."""
    broker, worker = BrokerHarness(), busy_worker()
    sent = broker.give(READY, REQUEST) + broker.advance(1)
    broker.step(broker.core.shut_down, broker.now)
    sent = to(b"worker", sent + broker.sent())
    assert [frames[:2] for frames in sent] == [[b"MDPW02", b"\x02"], [b"MDPW02", b"\x05"], [b"MDPW02", b"\x06"]]
    worker.step(worker.core.handler_partial, 1, [b"x"], worker.now)
    worker.step(worker.core.handler_done, 1, [b"x"], worker.now)
    mine = worker.sent() + worker.advance(1)
    worker.step(worker.core.drain, worker.now)
    mine += worker.sent()
    assert [frames[:2] for frames in mine] == [[b"MDPW02", b"%c" % command] for command in (3, 4, 5, 6)]


def test_opening_worker_connects_a_new_socket_and_then_sends_ready():
    """Opening: "by creating a new socket, connecting it, and then sending a READY command to register a service"."""
    worker = WorkerHarness("0.2")
    assert worker.asked() == [Open("broker", SocketKind.DEALER, "tcp://127.0.0.1:5555")]
    assert worker.sent() == [W_READY]


def test_opening_many_workers_may_handle_the_same_service():
    """Opening: "One worker handles precisely one service, and many workers MAY handle the same service."."""
    broker = BrokerHarness()
    for number in range(10):
        broker.give([b"w%d" % number, b"MDPW02", b"\x01", b"echo"])
    workers = {broker.give([b"c%d" % number, *REQUEST[1:]])[0][0] for number in range(10)}
    assert len(workers) == 10


def test_opening_worker_must_not_send_a_further_ready():
    """Opening: "The worker MUST NOT send a further READY.": one a socket, whatever happens on it."""
    worker = WorkerHarness("0.2")
    sent = worker.sent()
    sent += worker.keep_alive(20)
    sent += worker.give(W_REQUEST)
    worker.step(worker.core.handler_done, 1, [b"x"], worker.now)
    sent += worker.sent() + worker.keep_alive(20)
    assert len(worker.opened) == 1
    assert sent.count(W_READY) == 1


def test_opening_broker_disconnects_a_worker_that_sends_a_further_ready():
    """Opening: "The worker MUST NOT send a further READY.", for the same service or another."""
    for service in (b"echo", b"other"):
        broker = BrokerHarness()
        broker.give(READY)
        assert broker.give([b"worker", b"MDPW02", b"\x01", service]) == [DISCONNECT]
        assert broker.statistics.workers == 0
        assert broker.advance(10) == []


def test_opening_there_is_no_response_to_ready():
    """Opening: "There is no response to a READY."."""
    assert BrokerHarness().give(READY) == []


def test_opening_worker_should_assume_the_registration_succeeded():
    """Opening: "The worker SHOULD assume the registration succeeded until or unless it receives a DISCONNECT, or it
    detects a broker failure through heartbeating."."""
    worker = WorkerHarness("0.2")
    worker.until(START + 2.99)
    assert worker.core.state is WorkerState.IDLE
    worker.give(W_REQUEST)
    assert worker.asked(Run) == [Run(1, b"client", [b"hello"])]


def test_opening_worker_may_send_disconnect_at_any_time_before_ready_included():
    """Opening: "The worker MAY send DISCONNECT at any time, including before READY."."""
    broker = BrokerHarness()
    assert broker.give(DISCONNECT) == []
    assert broker.statistics.dropped == {}
    assert broker.give(READY, DISCONNECT) == []
    assert broker.statistics.workers == 0


def test_opening_broker_must_send_nothing_more_to_a_worker_that_disconnects():
    """Opening: "When the broker receives DISCONNECT from a worker it MUST send no further commands to that worker."."""
    for messages in ([READY], [READY, REQUEST], [READY, REQUEST, PARTIAL]):
        broker = BrokerHarness()
        broker.give(*messages)
        assert to(b"worker", broker.give(DISCONNECT)) == []
        assert to(b"worker", broker.give([b"client-2", *REQUEST[1:]]) + broker.advance(100)) == []


def test_opening_broker_may_send_disconnect_at_any_time():
    """Opening: "The broker MAY send DISCONNECT at any time": ours does when it stops, to idle and busy workers."""
    broker = BrokerHarness()
    broker.give(READY, REQUEST, [b"worker-2", b"MDPW02", b"\x01", b"echo"])
    broker.step(broker.core.shut_down, broker.now)
    sent = broker.sent()
    assert to(b"worker", sent) == [W_DISCONNECT]
    assert to(b"worker-2", sent) == [W_DISCONNECT]
    assert broker.advance(100) == []


UNEXPECTED = {
    "HEARTBEAT before READY": [HEARTBEAT],
    "PARTIAL before READY": [PARTIAL],
    "FINAL before READY": [FINAL],
    "a second READY": [READY, READY],
    "PARTIAL without a REQUEST": [READY, PARTIAL],
    "FINAL without a REQUEST": [READY, FINAL],
    "PARTIAL after FINAL": [READY, REQUEST, FINAL, PARTIAL],
    "a second FINAL": [READY, REQUEST, FINAL, FINAL],
    "PARTIAL for a client that it was not given": [READY, REQUEST, [*PARTIAL[:3], b"other", *PARTIAL[4:]]],
    "FINAL for a client that it was not given": [READY, REQUEST, [*FINAL[:3], b"other", *FINAL[4:]]],
    "HEARTBEAT after its own DISCONNECT": [READY, DISCONNECT, HEARTBEAT],
    "FINAL after its own DISCONNECT": [READY, REQUEST, DISCONNECT, FINAL],
}


@pytest.mark.parametrize("messages", UNEXPECTED.values(), ids=UNEXPECTED)
def test_opening_broker_must_answer_an_unexpected_command_with_disconnect(messages):
    """Opening: "The broker MUST respond to any valid but unexpected command by sending DISCONNECT and then no further
    commands to that worker."."""
    broker = BrokerHarness()
    sent = broker.give(*messages)
    assert to(b"worker", sent)[-1] == W_DISCONNECT
    assert sent.count(DISCONNECT) == 1
    assert broker.statistics.workers == 0
    later = broker.give([b"client-2", *REQUEST[1:]]) + broker.advance(100)
    assert to(b"worker", later) == []


INVALID = {
    "no command": [b"MDPW02"],
    "an unknown command": [b"MDPW02", b"\x07"],
    "an empty command": [b"MDPW02", b""],
    "the broker's own command": [b"MDPW02", b"\x02", b"client", b"", b"hello"],
    "READY without a service": [b"MDPW02", b"\x01"],
    "PARTIAL without an address": [b"MDPW02", b"\x03"],
    "PARTIAL without a delimiter": [b"MDPW02", b"\x03", b"client", b"x", b"world"],
    "FINAL without a delimiter": [b"MDPW02", b"\x04", b"client", b"x", b"world"],
    "FINAL without a body": [b"MDPW02", b"\x04", b"client", b""],
    "HEARTBEAT with more": [b"MDPW02", b"\x05", b"more"],
    "DISCONNECT with more": [b"MDPW02", b"\x06", b"more"],
    "an unknown protocol": [b"MDPX02", b"\x05"],
    "an empty frame in front": [b"", b"MDPW02", b"\x05"],
    "one frame": [b"hello"],
    "nothing": [],
}


@pytest.mark.parametrize("frames", INVALID.values(), ids=INVALID)
@pytest.mark.parametrize("busy", [False, True])
def test_opening_broker_should_drop_invalid_messages_and_treat_the_peer_as_invalid(frames, busy):
    """Opening: "The broker SHOULD respond to invalid messages by dropping them and treating that peer as invalid."."""
    broker = BrokerHarness()
    broker.give(READY)
    if busy:
        broker.give(REQUEST)
    assert to(b"worker", broker.give([b"worker", *frames])) == [W_DISCONNECT]
    assert broker.statistics.workers == 0
    assert broker.statistics.dropped == {"invalid": 1}
    assert to(b"worker", broker.give([b"client-2", *REQUEST[1:]]) + broker.advance(100)) == []


@pytest.mark.parametrize("frames", INVALID.values(), ids=INVALID)
def test_opening_broker_drops_invalid_messages_of_strangers(frames):
    """Opening: "The broker SHOULD respond to invalid messages by dropping them"."""
    broker = BrokerHarness()
    broker.give(READY)
    assert broker.give([b"stranger", *frames]) == []
    assert broker.give(REQUEST, FINAL) == [GIVEN, ANSWER]


def test_opening_worker_that_gets_disconnect_reconnects_on_a_new_socket():
    """Opening: "When the worker receives DISCONNECT it must send no further commands to the broker; it MUST close its
    socket, and reconnect to the broker on a new socket."."""
    worker = WorkerHarness("0.2")
    worker.sent()
    worker.asked()
    assert worker.give(W_DISCONNECT) == []
    assert worker.asked() == [Close("broker")]
    assert worker.advance(1) == [W_READY]
    assert worker.asked() == [Open("broker", SocketKind.DEALER, "tcp://127.0.0.1:5555")]


def test_opening_busy_worker_that_gets_disconnect_sends_neither_partial_nor_final():
    """Opening: "When the worker receives DISCONNECT it must send no further commands to the broker": it reconnects once
    its handler is done, whose replies belong to a conversation that is over."""
    worker = busy_worker()
    assert worker.give(W_DISCONNECT) == []
    assert worker.asked() == [Close("broker")]
    worker.step(worker.core.handler_partial, 1, [b"part"], worker.now)
    assert worker.sent() + worker.advance(30) == []
    worker.step(worker.core.handler_done, 1, [b"world"], worker.now)
    assert worker.sent() == []
    assert worker.advance(0) == [W_READY]


def test_opening_worker_hears_a_disconnect_before_it_said_ready_again():
    """Opening: "The broker MAY send DISCONNECT at any time": what crosses the worker's goodbye is of no account."""
    worker = WorkerHarness("0.2")
    worker.give(W_DISCONNECT)
    assert worker.give(W_DISCONNECT, W_HEARTBEAT, W_REQUEST) == []
    assert worker.asked(Run) == []
    assert worker.until(START + 1) == [W_READY]
