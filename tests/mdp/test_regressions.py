"""Faults of the Guide's Majordomo programs and clients, each a test that ours does not have it, on the pure cores.

What only real sockets show is in test_regressions_live.py.
"""

from __future__ import annotations

import random

import pytest

from tests.harness import (
    START,
    BrokerHarness,
    ClientHarness,
    WorkerHarness,
    answer,
    disconnect,
    heartbeat,
    ready,
    reply,
    request,
    to,
    work,
)
from zpatterns.core import Close, Deliver, Fail, Run
from zpatterns.errors import RequestTimeout
from zpatterns.mdp.client_core import ClientCore, ClientOptions

# Majordomo.

ODD = [
    [],
    [b""],
    [b"", b""],
    [b"", b"", b"", b"", b""],
    [b"MDPW01"],
    [b"", b"MDPW01"],
    [b"", b"MDPC01"],
    [b"", b"MDPC01", b"echo"],
    [b"", b"MDPW01", b"\x03"],
    [b"", b"MDPW01", b"\x03", b"c"],
    [b"", b"MDPW01", b"\x03", b"c", b""],
    [b"", b"MDPW01", b""],
    [b"", b"MDPW01", b"\xff\xff"],
    [b"MDPC02"],
    [b"MDPC02", b"\x01"],
    [b"MDPW02"],
    [b"MDPW02", b""],
    [b"MDPW02", b"\x03", b"c"],
    [b"\xff" * 1000],
]


@pytest.mark.parametrize("sender", ["a stranger", "an idle worker", "a busy worker"])
@pytest.mark.parametrize("frames", ODD, ids=repr)
def test_majordomo_a_short_or_odd_message_does_not_kill_the_broker(frames, sender):
    broker = BrokerHarness()
    if sender != "a stranger":
        broker.ready(b"odd")
    if sender == "a busy worker":
        broker.give(request(b"c0"))
    broker.give([b"odd", *frames])
    broker.give([*frames])
    broker.ready(b"w", b"other")
    assert broker.give(request(b"c", b"other", b"hi"), reply(b"w", b"c", b"there"))[-1] == answer(
        b"c", b"other", b"there"
    )


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_majordomo_disconnect_from_a_busy_worker_does_not_kill_the_broker(version):
    broker = BrokerHarness()
    broker.ready(b"w", version=version)
    broker.give(request(b"c"))
    broker.give(disconnect(b"w", version=version))
    assert broker.ready(b"v", version=version) == [work(b"v", b"c", version=version)]


@pytest.mark.parametrize("end", ["silence", "DISCONNECT"])
def test_majordomo_the_request_of_a_worker_that_dies_busy_is_not_lost(end):
    broker = BrokerHarness()
    broker.ready(b"w")
    broker.give(request(b"c", b"echo", b"precious"))
    if end == "silence":
        broker.advance(3)
    else:
        broker.give(disconnect(b"w"))
    assert broker.ready(b"v") == [work(b"v", b"c", b"precious")]
    assert broker.give(reply(b"v", b"c", b"saved")) == [answer(b"c", b"echo", b"saved")]


def test_majordomo_busy_workers_expire_and_mmi_says_so():
    broker = BrokerHarness()
    broker.ready(b"w")
    broker.give(request(b"c"))
    assert broker.mmi(b"mmi.service", b"echo") == [b"200"]
    broker.until(START + 2.99)
    assert broker.mmi(b"mmi.service", b"echo") == [b"200"]
    broker.until(START + 3)
    assert broker.mmi(b"mmi.service", b"echo") == [b"404"]


def test_majordomo_a_live_worker_of_one_service_does_not_shield_a_dead_one_of_another():
    broker = BrokerHarness()
    broker.give(ready(b"live", b"a"), ready(b"dead", b"b"), ready(b"live-2", b"b"), ready(b"dead-2", b"a"))
    for _ in range(3):
        broker.advance(1)
        broker.give(heartbeat(b"live"), heartbeat(b"live-2"))
    assert broker.statistics.workers == 2
    assert sorted(frames[0] for frames in broker.advance(1)) == [b"live", b"live-2"]


def test_majordomo_a_live_worker_in_front_does_not_shield_a_dead_one_behind_it():
    broker = BrokerHarness()
    broker.give(ready(b"w1"), ready(b"w2"), ready(b"w3"))
    for _ in range(3):
        broker.advance(1)
        broker.give(heartbeat(b"w1"), heartbeat(b"w3"))
    assert broker.statistics.workers == 2


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_majordomo_two_replies_do_not_put_a_worker_in_the_queue_twice(version):
    broker = BrokerHarness()
    broker.ready(b"w", version=version)
    broker.give(request(b"c"))
    twice = [reply(b"w", b"c", b"x", version=version)] * 2
    assert to(b"c", broker.give(*twice)) == [answer(b"c", b"echo", b"x")[1:]], "and its client is answered once"
    assert to(b"w", broker.give(request(b"c1"), request(b"c2"))) == []
    assert broker.statistics.queued == 2


def test_majordomo_a_worker_may_not_answer_a_client_it_was_not_given():
    broker = BrokerHarness()
    broker.give(ready(b"evil"), ready(b"good"))
    broker.give(request(b"c1"), request(b"victim"))
    sent = broker.give(reply(b"evil", b"victim", b"forged"))
    assert to(b"victim", sent) == []
    assert to(b"evil", sent) == [disconnect()]
    assert broker.give(reply(b"good", b"victim", b"true"))[0] == answer(b"victim", b"echo", b"true")


def test_majordomo_an_idle_worker_may_not_answer_anybody():
    broker = BrokerHarness()
    broker.ready(b"evil")
    assert broker.give(reply(b"evil", b"victim", b"forged")) == [disconnect(b"evil")]


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_majordomo_mmi_evil_may_not_register(version):
    broker = BrokerHarness()
    assert broker.ready(b"w", b"mmi.evil", version) == [disconnect(b"w", version=version)]
    assert broker.mmi(b"mmi.service", b"mmi.evil") == [b"404"]
    assert broker.mmi(b"mmi.evil", b"hello") == [b"501"]


def test_majordomo_requests_for_unknown_services_do_not_pile_up_for_ever():
    broker = BrokerHarness(request_ttl=10, queue_max=100, services_max=50)
    for ten in range(0, 500, 10):
        numbers = range(ten, ten + 10)
        broker.give(*(request(b"c%d" % number, b"service-%d" % (number % 100), b"x") for number in numbers))
    for ten in range(0, 500, 10):
        broker.give(*(request(b"c%d" % number, b"service-1", b"x") for number in range(ten, ten + 10)))
    statistics = broker.statistics
    assert statistics.services == 50
    assert statistics.queued <= 50 * 100
    assert statistics.refused > 0
    broker.advance(10)
    statistics = broker.statistics
    assert (statistics.services, statistics.queued, statistics.queued_bytes) == (0, 0, 0)


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_majordomo_heartbeats_do_not_stop_while_a_handler_runs(version):
    worker, broker = WorkerHarness(version), BrokerHarness()
    broker.give([b"w", *worker.sent()[0]], request(b"c"))
    worker.give(work(b"w", b"c", version=version)[1:])
    assert len(worker.asked(Run)) == 1
    for _ in range(100):
        for beat in worker.advance(1):
            broker.give([b"w", *beat])
        broker.advance(1)
    assert broker.statistics.in_flight == 1
    worker.step(worker.core.handler_done, 1, [b"at last"], worker.now)
    assert broker.give([b"w", *worker.sent()[0]]) == [answer(b"c", b"echo", b"at last")]


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_majordomo_a_busy_worker_is_sent_heartbeats(version):
    broker = BrokerHarness()
    broker.ready(b"w", version=version)
    broker.give(request(b"c"))
    beats = []
    for _ in range(10):
        beats += broker.advance(1)
        broker.give(heartbeat(b"w", version=version))
    assert beats == [heartbeat(b"w", version=version)] * 10


# Clients.


def test_clients_a_late_reply_does_not_answer_the_next_call():
    client = ClientHarness(timeout=2, retries=0)
    late = client.call(1, b"echo", b"first")
    client.until(START + 2)
    assert [type(command.error) for command in client.asked(Fail)] == [RequestTimeout]
    port = client.call(2, b"echo", b"second")
    assert port != late
    client.give([b"", b"MDPC01", b"echo", b"first"], port=late)
    assert client.asked(Deliver) == []
    client.give([b"", b"MDPC01", b"echo", b"second"], port=port)
    assert client.asked(Deliver) == [Deliver(2, [b"second"], True)]


def test_clients_a_late_reply_to_a_call_that_was_cancelled_does_not_answer_the_next():
    client = ClientHarness()
    late = client.call(1)
    client.step(client.core.cancel_call, 1, client.now)
    port = client.call(2)
    client.give([b"", b"MDPC01", b"echo", b"first"], port=late)
    client.give([b"", b"MDPC01", b"echo", b"second"], port=port)
    assert client.asked(Deliver) == [Deliver(2, [b"second"], True)]


def test_clients_concurrent_replies_in_any_order_are_matched():
    for seed in range(20):
        client = ClientHarness(max_in_flight=50)
        ports = {number: client.call(number, b"echo", b"%d" % number) for number in range(50)}
        order = list(ports)
        random.Random(seed).shuffle(order)
        for number in order:
            client.give([b"", b"MDPC01", b"echo", b"%d" % number], port=ports[number])
        delivered = client.asked(Deliver)
        assert [command.call for command in delivered] == order
        assert all(command.frames == [b"%d" % command.call] for command in delivered)


def test_clients_a_request_the_caller_gave_up_on_is_not_kept_for_later():
    """It is unsent while the socket has nobody to send to: the core has it discarded, and the connection closed."""
    client = ClientHarness(timeout=2, retries=0)
    port = client.call(1)
    client.until(START + 2)
    assert Close(port) in client.asked()
    assert client.sent()[1:] == []
    port = client.call(2)
    client.step(client.core.cancel_call, 2, client.now)
    assert Close(port) in client.asked()


def test_clients_there_is_no_retry_storm():
    """A server that is down for a while is not met by all retries at once, nor by more than were promised."""
    sends: list[float] = []
    for seed in range(100):
        core = ClientCore(["tcp://127.0.0.1:1"], ClientOptions(timeout=10, retries=3), random.Random(seed))
        core.start_call(1, b"echo", [b"x"], 0.0)
        while (timer := core.next_timer()) is not None:
            for port in tuple(core.ports_to_send()):
                core.messages_to_send(port)
            core.handle_timer(timer)
            core.commands()
            sends += [timer] * len(core.ports_to_send())
    assert len(sends) == 100 * 3
    for tenth in range(100):
        assert sum(tenth / 10 <= when < (tenth + 1) / 10 for when in sends) < 50
