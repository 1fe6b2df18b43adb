"""What the simulator found in the cores, each as a small test with literal frames."""

from __future__ import annotations

import pytest
import zmq

from tests.harness import (
    START,
    BrokerHarness,
    ClientHarness,
    FixedRng,
    WorkerHarness,
    answer,
    heartbeat,
    partial,
    reply,
    request,
    work,
)
from zpatterns.core import Close, SendFailure, SocketKind
from zpatterns.sockets import Link, SocketSettings
from zpatterns.testing.weight import reachable_frames

ERROR = b"\x00ZPATTERNS-ERROR\x00"


def test_an_error_after_held_partials_reaches_a_0_1_client_as_an_error():
    """Seed 73: parts and error were joined to one reply, and no client could tell it from a good one."""
    broker = BrokerHarness()
    broker.ready(b"worker", version="0.2")
    broker.give(request(b"client"))
    assert broker.give(partial(b"worker", b"client", b"one")) == []
    sent = broker.give(reply(b"worker", b"client", ERROR, b"ValueError", b"no", version="0.2"))
    assert sent == [answer(b"client", b"echo", ERROR, b"ValueError", b"no")]


def test_a_broker_lets_go_of_a_request_that_was_answered():
    """Seeds 4 and 91: the heap of expiries kept the bodies, beside what `queue_bytes_max` counts."""
    broker = BrokerHarness()
    for number in range(3):
        broker.give(request(b"client", b"echo", b"q:%d" % number))
    assert reachable_frames(broker.core, b"q:") == 3
    broker.ready(b"worker")
    for _ in range(3):
        broker.give(reply(b"worker", b"client"))
    assert reachable_frames(broker.core, b"q:") == 0


def test_a_broker_lets_go_of_a_request_that_was_lost():
    broker = BrokerHarness(deliveries_max=1)
    broker.give(request(b"client", b"echo", b"q:1"))
    broker.ready(b"worker")
    broker.give([b"worker", b"nonsense"])
    assert reachable_frames(broker.core, b"q:") == 0


def test_a_client_lets_go_of_a_call_that_has_ended():
    client = ClientHarness()
    port = client.call(1, b"echo", b"q:1")
    client.sent()
    client.give([b"", b"MDPC01", b"echo", b"reply"], port=port)
    assert client.statistics.replies == 1
    assert reachable_frames(client.core, b"q:") == 0


@pytest.mark.parametrize("reason", list(SendFailure))
@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_a_worker_whose_reply_was_not_sent_gives_its_broker_up(version, reason):
    """Seed 1234: the broker held it for busy, and it the broker for informed, while heartbeats went to and fro."""
    worker = WorkerHarness(version)
    worker.give(work(b"", b"client", version=version)[1:])
    worker.asked()
    worker.step(worker.core.handler_done, 1, [b"reply"], worker.now)
    [lost] = worker.sent()[-1:]
    worker.fail(lost, reason)
    assert worker.asked(Close) == [Close("broker")]
    assert len(worker.advance(3)) >= 1, "it registers anew"
    assert len(worker.opened) == 2


def test_a_worker_whose_partial_was_not_sent_gives_its_broker_up():
    """A FINAL after it would end a stream with a hole."""
    worker = WorkerHarness("0.2")
    worker.give(work(b"", b"client", version="0.2")[1:])
    worker.step(worker.core.handler_partial, 1, [b"part"], worker.now)
    [lost] = worker.sent()[-1:]
    worker.asked()
    worker.fail(lost, SendFailure.OVERFLOW)
    assert worker.asked(Close) == [Close("broker")]
    worker.step(worker.core.handler_done, 1, [b"reply"], worker.now)
    assert worker.sent() == []
    assert worker.statistics.discarded == 1


def test_a_worker_whose_heartbeat_was_not_sent_stays():
    worker = WorkerHarness()
    [beat] = worker.keep_alive(1.5)[-1:]
    worker.asked()
    worker.fail(beat, SendFailure.OVERFLOW)
    assert worker.asked(Close) == []


def test_a_delivery_that_failed_beside_a_heartbeat_does_not_count():
    """Seed 244: the heartbeat failed first, the worker was forgotten, and its request had been delivered once more."""
    broker = BrokerHarness(deliveries_max=2)
    broker.ready(b"other")
    broker.until(START + 2.5)
    broker.give(request(b"client"))
    broker.ready(b"idle")
    sent = broker.until(START + 3)
    assert work(b"idle", b"client") in sent, "the first worker was silent for a lease"
    broker.fail(heartbeat(b"idle"), SendFailure.UNREACHABLE)
    broker.fail(work(b"idle", b"client"), SendFailure.UNREACHABLE)
    assert broker.ready(b"third") == [work(b"third", b"client")]


def test_a_connection_that_tcp_does_not_make_is_soon_tried_anew():
    """Seed 174: a stream waited for a network that had long been whole again, until TCP's next SYN."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    link = Link(context, SocketKind.DEALER, "broker", SocketSettings(connect_timeout=1.5), FixedRng())
    try:
        assert link.poll_item().getsockopt(zmq.CONNECT_TIMEOUT) == 1500
    finally:
        link.close(0)
        context.term()
