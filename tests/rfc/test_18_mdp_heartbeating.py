"""18/MDP (Majordomo 0.2), clause by clause, on raw frames: request and reply processing, heartbeating, reliability.

The lease is 3 s: heartbeats of 1 s, liveness 3.
"""

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
from zpatterns.core import Close, Open, Run, SendFailure, SocketKind
from zpatterns.worker_state import WorkerState

# Request and Reply Processing.


@pytest.mark.parametrize("partials", [0, 1, 5])
def test_processing_worker_shall_send_partials_followed_by_exactly_one_final(partials):
    """Processing: "The worker SHALL send zero or more PARTIAL commands for a single REQUEST, followed by exactly one
    FINAL command.", whatever its handler says after the end."""
    worker = busy_worker()
    for number in range(partials):
        worker.step(worker.core.handler_partial, 1, [b"%d" % number], worker.now)
    worker.step(worker.core.handler_done, 1, [b"end"], worker.now)
    worker.step(worker.core.handler_done, 1, [b"again"], worker.now)
    worker.step(worker.core.handler_failed, 1, "Late", "too late", worker.now)
    worker.step(worker.core.handler_partial, 1, [b"late"], worker.now)
    parts = [[b"MDPW02", b"\x03", b"client", b"", b"%d" % number] for number in range(partials)]
    assert worker.sent() == [*parts, [b"MDPW02", b"\x04", b"client", b"", b"end"]]


def test_processing_a_handler_that_raises_ends_in_exactly_one_final():
    """Processing: "followed by exactly one FINAL command.": the error is the FINAL."""
    worker = busy_worker()
    worker.step(worker.core.handler_partial, 1, [b"part"], worker.now)
    worker.step(worker.core.handler_failed, 1, "KeyError", "no such key", worker.now)
    worker.step(worker.core.handler_done, 1, [b"end"], worker.now)
    assert worker.sent() == [
        [b"MDPW02", b"\x03", b"client", b"", b"part"],
        [b"MDPW02", b"\x04", b"client", b"", b"\x00ZPATTERNS-ERROR\x00", b"KeyError", b"no such key"],
    ]


def test_processing_request_partial_and_final_shall_contain_one_client_address_and_an_empty_frame():
    """Processing: "The REQUEST, PARTIAL and FINAL commands SHALL contain precisely one client address frame. This frame
    MUST be followed by an empty (zero sized) frame.": as the broker and the worker send them."""
    broker, worker = BrokerHarness(), busy_worker()
    ((_, _, _, address, delimiter, *body),) = broker.give(READY, REQUEST)
    assert (address, delimiter, body) == (b"client", b"", [b"hello"])
    worker.step(worker.core.handler_partial, 1, [b"part"], worker.now)
    worker.step(worker.core.handler_done, 1, [b"end"], worker.now)
    for (_, _, address, delimiter, *body), expected in zip(worker.sent(), (b"part", b"end"), strict=True):
        assert (address, delimiter, body) == (b"client", b"", [expected])


@pytest.mark.parametrize("envelope", [[b"client"], [b"client", b"client", b""], [b"client", b"x"], [b""], []])
@pytest.mark.parametrize("command", [b"\x03", b"\x04"])
def test_processing_an_envelope_of_another_form_is_invalid(envelope, command):
    """Processing: "SHALL contain precisely one client address frame. This frame MUST be followed by an empty (zero
    sized) frame.": as worker and broker receive them."""
    worker = WorkerHarness("0.2")
    worker.give([b"MDPW02", b"\x02", *envelope, b"hello"])
    assert worker.asked(Run) == []
    broker = BrokerHarness()
    broker.give(READY, REQUEST)
    assert broker.give([b"worker", b"MDPW02", command, *envelope, b"world"]) == [DISCONNECT]


@pytest.mark.parametrize("address", [b"\x00k\x8bEg", b"client", b"x" * 255])
def test_processing_client_address_is_opaque_and_comes_back_unchanged(address):
    """Processing: "The address of each directly connected client is prepended by the ROUTER socket ... also expects a
    client address to be prepended to each reply message"."""
    broker = BrokerHarness()
    broker.give(READY)
    assert broker.give([address, *REQUEST[1:]]) == [[*GIVEN[:3], address, *GIVEN[4:]]]
    assert broker.give([*FINAL[:3], address, *FINAL[4:]]) == [[address, *ANSWER[1:]]]


# Heartbeating.


def test_heartbeating_heartbeats_are_valid_at_any_time_after_ready():
    """Heartbeating: "HEARTBEAT commands are valid at any time, after a READY command."."""
    broker = BrokerHarness()
    sent = broker.give(READY, HEARTBEAT, REQUEST, HEARTBEAT, PARTIAL, HEARTBEAT, FINAL, HEARTBEAT)
    assert to(b"worker", sent) == [W_REQUEST]
    assert broker.statistics.workers == 1
    worker = busy_worker()
    worker.give(W_HEARTBEAT)
    assert worker.core.state is WorkerState.BUSY
    assert worker.statistics.dropped == {}


@pytest.mark.parametrize("command", [PARTIAL, HEARTBEAT])
def test_heartbeating_any_received_command_acts_as_a_heartbeat_at_the_broker(command):
    """Heartbeating: "Any received command except DISCONNECT acts as a heartbeat.": a PARTIAL renews the lease."""
    broker = BrokerHarness()
    broker.give(READY, REQUEST)
    for _ in range(5):
        broker.advance(2.9)
        broker.give(command)
    broker.advance(2.9)
    assert broker.statistics.workers == 1
    broker.advance(0.1)
    assert broker.statistics.workers == 0


def test_heartbeating_a_final_acts_as_a_heartbeat_at_the_broker():
    """Heartbeating: "Any received command except DISCONNECT acts as a heartbeat.": a FINAL does."""
    broker = BrokerHarness()
    broker.give(READY, REQUEST)
    broker.advance(2.9)
    broker.give(FINAL)
    broker.advance(2.9)
    assert broker.statistics.workers == 1
    broker.advance(0.1)
    assert broker.statistics.workers == 0


def test_heartbeating_any_received_command_acts_as_a_heartbeat_at_the_worker():
    """Heartbeating: "Any received command except DISCONNECT acts as a heartbeat.": a REQUEST does."""
    worker = WorkerHarness("0.2")
    for run in range(1, 5):
        worker.advance(2.8)
        worker.give(W_REQUEST)
        worker.step(worker.core.handler_done, run, [b"x"], worker.now)
    worker.advance(2.9)
    assert len(worker.opened) == 1
    worker.asked()
    worker.advance(0.2)
    assert worker.asked(Close) == [Close("broker")]


def test_heartbeating_peers_should_not_send_heartbeats_beside_other_commands():
    """Heartbeating: "Peers SHOULD NOT send HEARTBEAT commands while also sending other commands."."""
    broker, worker = BrokerHarness(), busy_worker()
    broker.give(READY)
    sent: list[list[bytes]] = []
    mine: list[list[bytes]] = []
    for _ in range(20):
        sent += broker.give(REQUEST) + broker.advance(0.8) + broker.give(FINAL)
        worker.step(worker.core.handler_partial, 1, [b"x"], worker.now)
        mine += worker.sent() + worker.advance(0.8)
    assert HEARTBEAT not in sent
    assert W_HEARTBEAT not in mine


def test_heartbeating_broker_must_send_heartbeats_at_regular_intervals():
    """Heartbeating: "Both broker and worker MUST send heartbeats at regular and agreed-upon intervals.": to idle
    workers, busy ones and those in a stream (a PARTIAL goes to the client, not to the worker)."""
    for messages in ([READY], [READY, REQUEST], [READY, REQUEST, PARTIAL]):
        broker = BrokerHarness()
        broker.give(*messages)
        for _ in range(20):
            broker.give(HEARTBEAT)
            assert broker.advance(1) == [HEARTBEAT]


def test_heartbeating_worker_must_send_heartbeats_at_regular_intervals():
    """Heartbeating: "Both broker and worker MUST send heartbeats at regular and agreed-upon intervals.": an idle worker
    and one whose handler runs."""
    for worker in (WorkerHarness("0.2"), busy_worker()):
        worker.sent()
        for _ in range(20):
            assert worker.advance(1) == [W_HEARTBEAT]
            worker.give(W_HEARTBEAT)


@pytest.mark.parametrize("liveness", [1, 3, 5])
@pytest.mark.parametrize("messages", [[READY], [READY, REQUEST], [READY, REQUEST, PARTIAL]], ids=len)
def test_heartbeating_broker_must_consider_a_silent_worker_disconnected(liveness, messages):
    """Heartbeating: "A peer MUST consider the other peer "disconnected" if no heartbeat arrives within some multiple of
    that interval (usually 3-5)."; "If the broker detects that the worked has disconnected, it SHOULD stop sending it
    messages of any type."."""
    broker = BrokerHarness(liveness=liveness)
    broker.give(*messages)
    broker.until(START + liveness - 0.01)
    assert broker.statistics.workers == 1
    broker.until(START + liveness)
    assert broker.statistics.workers == 0
    assert to(b"worker", broker.give([b"client-2", *REQUEST[1:]]) + broker.advance(100)) == []


@pytest.mark.parametrize("liveness", [1, 3, 5])
def test_heartbeating_worker_must_consider_a_silent_broker_disconnected(liveness):
    """Heartbeating: "A peer MUST consider the other peer "disconnected" ..."; "If the worker detects that the broker
    has disconnected, it SHOULD restart a new conversation.": a new socket and READY."""
    worker = WorkerHarness("0.2", liveness=liveness)
    worker.asked()
    worker.until(START + liveness - 0.01)
    assert worker.asked() == []
    worker.until(START + liveness)
    assert worker.asked() == [Close("broker")]
    assert W_READY in worker.advance(1)
    assert worker.asked(Open) == [Open("broker", SocketKind.DEALER, "tcp://127.0.0.1:5555")]


# Reliability.


def test_reliability_a_worker_that_freezes_is_recovered_from():
    """Reliability: "Worker applications which crash, run too slowly, or freeze.": another one has its request, and what
    it sends when it thaws reaches nobody."""
    broker = BrokerHarness()
    broker.give(READY, REQUEST)
    broker.until(START + 3)
    assert to(b"other", broker.give([b"other", *READY[1:]])) == [W_REQUEST]
    assert broker.give(PARTIAL, FINAL) == [DISCONNECT, DISCONNECT]
    assert broker.give([b"other", *FINAL[1:]]) == [ANSWER]


def test_reliability_a_client_that_is_away_costs_nothing_but_its_reply():
    """Reliability: "Client applications that are temporarily disconnected from the network."."""
    broker = BrokerHarness()
    assert broker.give(READY, REQUEST, FINAL) == [GIVEN, ANSWER]
    assert broker.fail(ANSWER, SendFailure.UNREACHABLE) == []
    assert broker.give(REQUEST) == [GIVEN]


def test_reliability_a_broker_that_crashed_and_was_restarted_is_found_again():
    """Reliability: "A queue broker that crashes and is restarted.": its DISCONNECT makes the worker register again."""
    restarted, worker = BrokerHarness(), WorkerHarness("0.2")
    worker.sent()
    (beat,) = worker.advance(1)
    assert to(b"worker", restarted.give([b"worker", *beat])) == [W_DISCONNECT]
    worker.give(W_DISCONNECT)
    (again,) = worker.advance(1)
    assert restarted.give([b"worker-2", *again], REQUEST) == [[b"worker-2", *GIVEN[1:]]]


def test_reliability_worker_fails_over_to_the_next_broker():
    """Reliability: "Actual failover to alternate brokers is handled by the clients and workers, not the protocol."."""
    worker = WorkerHarness("0.2", endpoints=("tcp://127.0.0.1:1", "tcp://127.0.0.1:2"))
    worker.give(W_DISCONNECT)
    worker.advance(1)
    assert [opened.endpoint for opened in worker.opened] == ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"]
