"""7/MDP (Majordomo 0.1), clause by clause, on raw frames: request and reply processing, heartbeating, reliability.

The lease is 3 s: heartbeats of 1 s, liveness 3.
"""

from __future__ import annotations

import pytest

from tests.harness import START, BrokerHarness, WorkerHarness, to
from tests.rfc.mdp01 import (
    ANSWER,
    DISCONNECT,
    GIVEN,
    HEARTBEAT,
    READY,
    REPLY,
    REQUEST,
    W_DISCONNECT,
    W_HEARTBEAT,
    W_READY,
    W_REQUEST,
    busy_worker,
)
from zpatterns.core import Close, Open, Run, SendFailure, SocketKind
from zpatterns.worker_state import WorkerState

# Request and Reply Processing.


def test_processing_request_must_contain_one_client_address_and_an_empty_frame():
    """Processing: "The REQUEST and the REPLY commands MUST contain precisely one client address frame. This frame MUST
    be followed by an empty (zero sized) frame.": as the broker sends REQUEST and the worker REPLY."""
    broker, worker = BrokerHarness(), busy_worker()
    ((_, _, _, _, address, delimiter, *body),) = broker.give(READY, REQUEST)
    assert (address, delimiter, body) == (b"client", b"", [b"hello"])
    worker.sent()
    worker.step(worker.core.handler_done, 1, [b"world"], worker.now)
    ((_, _, _, address, delimiter, *body),) = worker.sent()
    assert (address, delimiter, body) == (b"client", b"", [b"world"])


@pytest.mark.parametrize("envelope", [[b"client"], [b"client", b"client", b""], [b"client", b"x"], [b""], []])
def test_processing_an_envelope_of_another_form_is_invalid(envelope):
    """Processing: "MUST contain precisely one client address frame. This frame MUST be followed by an empty (zero
    sized) frame.": as worker and broker receive them."""
    worker = WorkerHarness()
    worker.give([b"", b"MDPW01", b"\x02", *envelope, b"hello"])
    assert worker.asked(Run) == []
    broker = BrokerHarness()
    broker.give(READY, REQUEST)
    assert broker.give([b"worker", b"", b"MDPW01", b"\x03", *envelope, b"world"]) == [DISCONNECT]


@pytest.mark.parametrize("address", [b"\x00k\x8bEg", b"client", b"x" * 255])
def test_processing_client_address_is_opaque_and_comes_back_unchanged(address):
    """Processing: "The address of each directly connected client is prepended by the ROUTER socket ... also expects a
    client address to be prepended to each reply message"."""
    broker = BrokerHarness()
    broker.give(READY)
    assert broker.give([address, *REQUEST[1:]]) == [[*GIVEN[:4], address, *GIVEN[5:]]]
    assert broker.give([*REPLY[:4], address, *REPLY[5:]]) == [[address, *ANSWER[1:]]]


# Heartbeating.


def test_heartbeating_heartbeats_are_valid_at_any_time_after_ready():
    """Heartbeating: "HEARTBEAT commands are valid at any time, after a READY command."."""
    broker = BrokerHarness()
    assert broker.give(READY, HEARTBEAT, REQUEST, HEARTBEAT, HEARTBEAT, REPLY, HEARTBEAT) == [GIVEN, ANSWER]
    worker = busy_worker()
    worker.give(W_HEARTBEAT)
    assert worker.core.state is WorkerState.BUSY
    assert worker.statistics.dropped == {}


def test_heartbeating_any_received_command_acts_as_a_heartbeat_at_the_broker():
    """Heartbeating: "Any received command except DISCONNECT acts as a heartbeat.": a REPLY renews the lease."""
    broker = BrokerHarness()
    broker.give(READY)
    for _ in range(4):
        broker.advance(1.4)
        broker.give(REQUEST)
        broker.advance(1.4)
        assert ANSWER in broker.give(REPLY)
    broker.advance(2.9)
    assert broker.statistics.workers == 1
    broker.advance(0.2)
    assert broker.statistics.workers == 0


def test_heartbeating_any_received_command_acts_as_a_heartbeat_at_the_worker():
    """Heartbeating: "Any received command except DISCONNECT acts as a heartbeat.": a REQUEST does."""
    worker = WorkerHarness()
    for run in range(1, 5):
        worker.advance(2.8)
        worker.give(W_REQUEST)
        worker.step(worker.core.handler_done, run, [b"x"], worker.now)
    worker.advance(2.9)
    assert len(worker.opened) == 1
    worker.asked()
    worker.advance(0.2)
    assert worker.asked(Close) == [Close("broker")]


def test_heartbeating_invalid_messages_are_no_heartbeats():
    """Heartbeating: "Any received *command*": what is none does not keep a broker alive."""
    worker = WorkerHarness()
    worker.asked()
    for _ in range(29):
        worker.advance(0.1)
        worker.give([b"", b"MDPW01", b"\x09"])
    worker.advance(0.2)
    assert worker.asked(Close) == [Close("broker")]


def test_heartbeating_peers_should_not_send_heartbeats_beside_other_commands():
    """Heartbeating: "Peers SHOULD NOT send HEARTBEAT commands while also sending other commands."."""
    broker, worker = BrokerHarness(), WorkerHarness()
    broker.give(READY)
    sent: list[list[bytes]] = []
    mine: list[list[bytes]] = []
    for run in range(1, 20):
        sent += broker.give(REQUEST) + broker.advance(0.8) + broker.give(REPLY)
        worker.give(W_REQUEST)
        worker.step(worker.core.handler_done, run, [b"x"], worker.now)
        mine += worker.sent() + worker.advance(0.8)
    assert HEARTBEAT not in sent
    assert W_HEARTBEAT not in mine


def test_heartbeating_broker_must_send_heartbeats_at_regular_intervals():
    """Heartbeating: "Both broker and worker MUST send heartbeats at regular and agreed-upon intervals.": to idle
    workers and to busy ones."""
    for messages in ([READY], [READY, REQUEST]):
        broker = BrokerHarness()
        broker.give(*messages)
        for _ in range(20):
            broker.give(HEARTBEAT)
            assert broker.advance(1) == [HEARTBEAT]


def test_heartbeating_worker_must_send_heartbeats_at_regular_intervals():
    """Heartbeating: "Both broker and worker MUST send heartbeats at regular and agreed-upon intervals.": an idle worker
    and one whose handler runs."""
    for worker in (WorkerHarness(), busy_worker()):
        worker.sent()
        for _ in range(20):
            assert worker.advance(1) == [W_HEARTBEAT]
            worker.give(W_HEARTBEAT)


@pytest.mark.parametrize("liveness", [1, 3, 5])
@pytest.mark.parametrize("busy", [False, True])
def test_heartbeating_broker_must_consider_a_silent_worker_disconnected(liveness, busy):
    """Heartbeating: "A peer MUST consider the other peer "disconnected" if no heartbeat arrives within some multiple of
    that interval (usually 3-5)."; "If the broker detects that the worked has disconnected, it SHOULD stop sending it
    messages of any type."."""
    broker = BrokerHarness(liveness=liveness)
    broker.give(READY, *([REQUEST] if busy else []))
    broker.until(START + liveness - 0.01)
    assert broker.statistics.workers == 1
    broker.until(START + liveness)
    assert broker.statistics.workers == 0
    assert to(b"worker", broker.give([b"client-2", *REQUEST[1:]]) + broker.advance(100)) == []


@pytest.mark.parametrize("liveness", [1, 3, 5])
def test_heartbeating_worker_must_consider_a_silent_broker_disconnected(liveness):
    """Heartbeating: "A peer MUST consider the other peer "disconnected" ..."; "If the worker detects that the broker
    has disconnected, it SHOULD restart a new conversation.": a new socket and READY."""
    worker = WorkerHarness(liveness=liveness)
    worker.asked()
    worker.sent()
    worker.until(START + liveness - 0.01)
    assert worker.asked() == []
    worker.until(START + liveness)
    assert worker.asked() == [Close("broker")]
    assert W_READY in worker.advance(1)
    assert worker.asked(Open) == [Open("broker", SocketKind.DEALER, "tcp://127.0.0.1:5555")]


def test_heartbeating_worker_gives_a_silent_broker_a_lease_after_its_reply():
    """Heartbeating: a broker that sends nothing to busy workers, as the Guide's, is judged from the REPLY on."""
    worker = busy_worker()
    worker.until(START + 30)
    worker.step(worker.core.handler_done, 1, [b"x"], worker.now)
    worker.asked()
    worker.until(START + 32.99)
    assert worker.asked() == []
    worker.until(START + 33)
    assert worker.asked() == [Close("broker")]


# Reliability.


def test_reliability_a_worker_that_runs_too_slowly_is_recovered_from():
    """Reliability: "Worker applications which crash, run too slowly, or freeze.": the late REPLY of an expired worker
    does not reach the client a second time."""
    broker = BrokerHarness()
    broker.give(READY, REQUEST)
    broker.until(START + 3)
    other = [b"other", *READY[1:]]
    assert to(b"other", broker.give(other)) == [GIVEN[1:]]
    assert broker.give(REPLY) == [DISCONNECT]
    assert broker.give([b"other", *REPLY[1:]]) == [ANSWER]


def test_reliability_a_client_that_is_away_costs_nothing_but_its_reply():
    """Reliability: "Client applications that are temporarily disconnected from the network."."""
    broker = BrokerHarness()
    assert broker.give(READY, REQUEST, REPLY) == [GIVEN, ANSWER]
    assert broker.fail(ANSWER, SendFailure.UNREACHABLE) == []
    assert broker.give(REQUEST) == [GIVEN]


def test_reliability_worker_fails_over_to_the_next_broker():
    """Reliability: "Actual failover to alternate brokers is handled by the clients and workers, not the protocol."."""
    worker = WorkerHarness(endpoints=("tcp://127.0.0.1:1", "tcp://127.0.0.1:2"))
    worker.give(W_DISCONNECT)
    worker.advance(1)
    assert [opened.endpoint for opened in worker.opened] == ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"]
