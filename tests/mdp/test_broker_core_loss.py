"""BrokerCore and the requests of workers that are lost: R3 of the promises."""

from __future__ import annotations

import pytest

from tests.harness import (
    START,
    BrokerHarness,
    answer,
    disconnect,
    heartbeat,
    part,
    partial,
    ready,
    reply,
    request,
    to,
    work,
)
from zpatterns.core import SendFailure
from zpatterns.mdp.broker_state import OnWorkerLoss
from zpatterns.mdp.events import RequestExpired, RequestLost, RequestRequeued, WorkerExpired, WorkerLost
from zpatterns.wire import MESSAGE_OVERHEAD

ERROR = b"\x00ZPATTERNS-ERROR\x00"
VERSIONS = ["0.1", "0.2"]


def lose(broker: BrokerHarness, worker: bytes, how: str, version: str = "0.1") -> list[list[bytes]]:
    """End `worker`, which has a request in hand, in one of the ways it can end."""
    if how == "disconnect":
        return broker.give(disconnect(worker, version=version))
    if how == "expiry":
        return broker.advance(3)
    if how == "a second READY":
        return broker.give(ready(worker, b"echo", version))
    if how == "an invalid message":
        return broker.give([worker, b"nonsense"])
    if how == "a reply to another":
        return broker.give(reply(worker, b"somebody", b"x", version=version))
    assert how == "a heartbeat that fails"
    (beat,) = to(worker, broker.advance(1))
    return broker.fail([worker, *beat], SendFailure.UNREACHABLE)


WAYS = [
    "disconnect",
    "expiry",
    "a second READY",
    "an invalid message",
    "a reply to another",
    "a heartbeat that fails",
]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("how", WAYS)
def test_the_request_of_a_lost_worker_waits_for_the_next(how, version):
    broker = BrokerHarness()
    broker.ready(b"w1", version=version)
    broker.give(request(b"c", b"echo", b"a", b"b"))
    assert to(b"c", lose(broker, b"w1", how, version)) == []
    assert broker.statistics.requeued == 1
    assert broker.statistics.workers_lost == 1
    assert broker.events(RequestRequeued) == [RequestRequeued(b"echo", b"c", 1)]
    assert broker.ready(b"w2", version=version) == [work(b"w2", b"c", b"a", b"b", version=version)]
    assert broker.give(reply(b"w2", b"c", b"x", version=version)) == [answer(b"c", b"echo", b"x")]


@pytest.mark.parametrize("how", WAYS)
def test_the_request_of_a_lost_worker_goes_to_an_idle_one_at_once(how):
    broker = BrokerHarness()
    broker.give(ready(b"w1"))
    broker.give(request(b"c", b"echo", b"a"))
    broker.give(ready(b"w2"), heartbeat(b"w2"))
    broker.now = START
    sent = lose(broker, b"w1", how) if how != "expiry" else _expire_only_w1(broker)
    assert work(b"w2", b"c", b"a") in sent


def _expire_only_w1(broker: BrokerHarness) -> list[list[bytes]]:
    broker.advance(2)
    broker.give(heartbeat(b"w2"))
    return broker.advance(1)


def test_a_requeued_request_waits_in_front_of_all_others():
    broker = BrokerHarness()
    broker.ready(b"w1")
    broker.give(request(b"c1"), request(b"c2"), request(b"c3"))
    broker.give(disconnect(b"w1"))
    assert [broker.ready(worker)[0][4] for worker in (b"w2", b"w3", b"w4")] == [b"c1", b"c2", b"c3"]


def test_a_requeued_request_is_not_refused_by_a_full_queue():
    broker = BrokerHarness(queue_max=1, queue_bytes_max=MESSAGE_OVERHEAD + 10)
    broker.ready(b"w1")
    broker.give(request(b"c1", b"echo", b"x" * 10), request(b"c2", b"echo", b"x" * 10))
    assert broker.give(disconnect(b"w1")) == []
    assert broker.statistics.queued == 2
    assert broker.statistics.queued_bytes == 2 * (MESSAGE_OVERHEAD + 10)


def test_a_requeued_request_counts_with_the_bytes_of_its_body():
    """A request that went straight to a worker was queued as if its body were empty."""
    broker = BrokerHarness()
    broker.ready(b"w")
    broker.give(request(b"c", b"echo", b"x" * 5000, b"y" * 100))
    assert broker.statistics.queued_bytes == 0
    broker.give(disconnect(b"w"))
    assert broker.statistics.queued_bytes == MESSAGE_OVERHEAD + 5100


def test_a_requeued_request_keeps_its_first_ttl():
    broker = BrokerHarness(request_ttl=4)
    broker.ready(b"w1")
    broker.give(request(b"c"))
    broker.until(START + 3)
    assert broker.statistics.queued == 1
    broker.until(START + 4)
    assert broker.statistics.queued == 0
    assert broker.events(RequestExpired) == [RequestExpired(b"echo", b"c")]


def test_a_request_whose_ttl_ran_out_in_a_lost_workers_hands_is_not_started_again():
    """R4: a broker starts nothing past the deadline it knows."""
    broker = BrokerHarness(request_ttl=2)
    broker.ready(b"w1")
    broker.give(request(b"c"))
    broker.ready(b"w2")
    for _ in range(3):
        broker.give(heartbeat(b"w2"))
        sent = broker.advance(1)
    assert broker.statistics.workers == 1
    assert work(b"w2", b"c") not in sent
    assert broker.statistics.expired == 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_a_request_is_delivered_deliveries_max_times_and_then_lost_with_502(limit, version):
    broker = BrokerHarness(deliveries_max=limit)
    broker.give(request(b"c", b"echo", b"poison", version=version))
    for number in range(limit):
        worker = b"w%d" % number
        assert broker.ready(worker) == [work(worker, b"c", b"poison")]
        sent = broker.give(disconnect(worker))
        assert bool(sent) == (number == limit - 1)
    assert sent[0][:4] == answer(b"c", b"echo", version=version)[:4]
    assert sent[0][4:6] == [ERROR, b"502"]
    assert f"at delivery {limit} of {limit};".encode() in sent[0][6]
    assert broker.events(RequestLost) == [RequestLost(b"echo", b"c", limit)]
    assert broker.statistics.lost == 1
    assert broker.ready(b"w9") == []


def test_the_limit_of_deliveries_is_each_requests_own():
    broker = BrokerHarness(deliveries_max=2)
    for number in range(6):
        broker.ready(b"a%d" % number)
        broker.give(request(b"c%d" % number))
        broker.give(disconnect(b"a%d" % number))
        assert broker.statistics.lost == 0
        assert broker.ready(b"b%d" % number) != []
        broker.give(reply(b"b%d" % number, b"c%d" % number), disconnect(b"b%d" % number))


@pytest.mark.parametrize("how", WAYS)
def test_on_worker_loss_fail_gives_a_request_to_one_worker_only(how):
    broker = BrokerHarness(on_worker_loss=OnWorkerLoss.FAIL)
    broker.ready(b"w1")
    broker.give(request(b"c"))
    broker.give(ready(b"w2"))
    (error,) = to(b"c", lose(broker, b"w1", how))
    assert error[3:5] == [ERROR, b"502"]
    assert broker.statistics.lost == 1
    assert broker.statistics.requeued == 0


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("reason", list(SendFailure))
def test_a_request_that_was_not_handed_over_goes_to_the_next_worker(reason, version):
    broker = BrokerHarness()
    broker.give(ready(b"w1", b"echo", version), ready(b"w2", b"echo", version))
    (given,) = broker.give(request(b"c", b"echo", b"x"))
    assert broker.fail(given, reason) == [work(b"w2", b"c", b"x", version=version)]
    assert broker.events(WorkerLost) == [WorkerLost(b"w1", b"echo", reason.value)]
    assert broker.statistics.workers == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_a_delivery_that_failed_does_not_count(version):
    """However many workers are unreachable: the request was never begun."""
    broker = BrokerHarness(deliveries_max=2)
    for number in range(10):
        broker.ready(b"gone%d" % number, version=version)
    sent = broker.give(request(b"c", b"echo", b"x"))
    for number in range(10):
        assert sent == [work(b"gone%d" % number, b"c", b"x", version=version)]
        sent = broker.fail(sent[0], SendFailure.UNREACHABLE)
    assert sent == []
    assert broker.statistics.queued == 1
    assert broker.ready(b"w", version=version) == [work(b"w", b"c", b"x", version=version)]
    assert broker.give(disconnect(b"w", version=version)) == []
    assert broker.ready(b"v", version=version) == [work(b"v", b"c", b"x", version=version)]
    assert broker.give(disconnect(b"v", version=version))[0][4:6] == [ERROR, b"502"]


@pytest.mark.parametrize("version", VERSIONS)
def test_on_worker_loss_fail_still_finds_a_worker_that_can_be_reached(version):
    """R3: once with `on_worker_loss="fail"`: what no worker was given has been delivered to none."""
    broker = BrokerHarness(on_worker_loss=OnWorkerLoss.FAIL)
    broker.give(ready(b"w1", b"echo", version), ready(b"w2", b"echo", version))
    (given,) = broker.give(request(b"c", b"echo", b"x"))
    assert broker.fail(given, SendFailure.UNREACHABLE) == [work(b"w2", b"c", b"x", version=version)]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_heartbeat_that_fails_does_not_undo_a_delivery(version):
    broker = BrokerHarness(deliveries_max=1)
    broker.ready(b"w", version=version)
    broker.give(request(b"c"))
    (beat,) = broker.advance(1)
    assert beat == heartbeat(b"w", version=version)
    (error,) = broker.fail(beat, SendFailure.UNREACHABLE)
    assert error[4:6] == [ERROR, b"502"]


def test_an_idle_worker_whose_heartbeat_fails_is_forgotten():
    broker = BrokerHarness()
    broker.ready(b"w")
    broker.fail(broker.advance(1)[0], SendFailure.OVERFLOW)
    assert broker.statistics.workers == 0
    assert broker.events(WorkerLost) == [WorkerLost(b"w", b"echo", "overflow")]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_goodbye_that_fails_concerns_nobody(version):
    broker = BrokerHarness()
    broker.ready(b"w", version=version)
    (bye,) = broker.give([b"w", b"nonsense"])
    assert broker.fail(bye, SendFailure.UNREACHABLE) == []
    assert broker.statistics.undelivered == 0


# Streams.


@pytest.mark.parametrize("how", WAYS)
def test_a_request_of_which_a_partial_was_forwarded_is_never_sent_to_another(how):
    """Streams: it "is never sent to another worker ...: it ends with our error reply"."""
    broker = BrokerHarness()
    broker.ready(b"w1", version="0.2")
    broker.give(request(b"c", version="0.2"))
    assert broker.give(partial(b"w1", b"c", b"1")) == [part(b"c", b"echo", b"1")]
    (error,) = to(b"c", lose(broker, b"w1", how, "0.2"))
    assert error[:5] == [b"MDPC02", b"\x03", b"echo", ERROR, b"502"]
    assert broker.ready(b"w2", version="0.2") == []
    assert broker.statistics.lost == 1


def test_a_request_of_which_no_partial_was_forwarded_yet_is():
    broker = BrokerHarness()
    broker.ready(b"w1", version="0.2")
    broker.give(request(b"c", version="0.2"), disconnect(b"w1", version="0.2"))
    assert broker.ready(b"w2", version="0.2") == [work(b"w2", b"c", version="0.2")]


def test_held_partials_are_discarded_when_the_request_goes_to_another():
    broker = BrokerHarness()
    broker.ready(b"w1", version="0.2")
    broker.give(request(b"c"), partial(b"w1", b"c", b"half"), disconnect(b"w1", version="0.2"))
    assert broker.ready(b"w2", version="0.2") == [work(b"w2", b"c", version="0.2")]
    broker.give(partial(b"w2", b"c", b"1"))
    assert broker.give(reply(b"w2", b"c", b"2", version="0.2")) == [answer(b"c", b"echo", b"1", b"2")]


def test_the_bound_of_held_partials_begins_anew_with_another_worker():
    broker = BrokerHarness(held_bytes_max=1000)
    broker.ready(b"w1", version="0.2")
    broker.give(request(b"c"), partial(b"w1", b"c", b"x" * 900), disconnect(b"w1", version="0.2"))
    broker.ready(b"w2", version="0.2")
    assert broker.give(partial(b"w2", b"c", b"y" * 900)) == []
    assert broker.give(reply(b"w2", b"c", b"z", version="0.2")) == [answer(b"c", b"echo", b"y" * 900, b"z")]


def test_a_call_that_was_told_too_large_does_not_go_to_another_worker():
    broker = BrokerHarness(held_bytes_max=100)
    broker.ready(b"w1", version="0.2")
    broker.give(request(b"c"), partial(b"w1", b"c", b"x" * 900))
    broker.ready(b"w2", version="0.2")
    assert broker.give(disconnect(b"w1", version="0.2")) == []
    assert broker.statistics.queued == 0


def test_an_error_of_the_worker_after_held_partials_stands_alone():
    """In one reply with the parts, nobody could tell it from a good one."""
    broker = BrokerHarness()
    broker.ready(b"w", version="0.2")
    broker.give(request(b"c"), partial(b"w", b"c", b"part"))
    error = [ERROR, b"KeyError", b"text"]
    assert broker.give(reply(b"w", b"c", *error, version="0.2")) == [answer(b"c", b"echo", *error)]


# Several at once.


@pytest.mark.parametrize("how", ["disconnect", "expiry", "an invalid message", "a heartbeat that fails"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_idle_worker_that_is_gone_is_given_nothing_while_its_service_lives_on(how, place):
    broker = BrokerHarness()
    workers = [b"w0", b"w1", b"w2"]
    broker.give(*map(ready, workers))
    gone = workers.pop(place)
    if how == "disconnect":
        broker.give(disconnect(gone))
    elif how == "an invalid message":
        broker.give([gone, b"nonsense"])
    elif how == "expiry":
        broker.advance(2)
        broker.give(*map(heartbeat, workers))
        broker.advance(1)
    else:
        broker.advance(1)
        broker.fail(heartbeat(gone), SendFailure.UNREACHABLE)
    sent = broker.give(request(b"c1"), request(b"c2"), request(b"c3"))
    assert [frames[0] for frames in sent] == workers
    assert broker.ready(gone) == [work(gone, b"c3")], "until it registers again"


def test_two_requests_of_one_client_are_answered_by_whoever_has_them():
    broker = BrokerHarness()
    broker.give(ready(b"w1"), ready(b"w2"))
    broker.give(request(b"c", b"echo", b"1"), request(b"c", b"echo", b"2"))
    assert broker.give(reply(b"w2", b"c", b"two")) == [answer(b"c", b"echo", b"two")]
    assert broker.give(disconnect(b"w1")) == [work(b"w2", b"c", b"1")]
    assert broker.give(reply(b"w2", b"c", b"one")) == [answer(b"c", b"echo", b"one")]


def test_all_workers_of_a_service_expire_at_once_and_nothing_is_lost():
    broker = BrokerHarness()
    for number in range(50):
        broker.ready(b"w%d" % number)
        broker.give(request(b"c%d" % number))
    broker.advance(3)
    assert broker.statistics.workers == 0
    assert broker.statistics.queued == 50
    assert len(broker.events(WorkerExpired)) == 50
    assert {broker.ready(b"v%d" % number)[0][4] for number in range(50)} == {b"c%d" % number for number in range(50)}


# The broker's own end.


def test_a_request_that_comes_back_while_the_broker_drains_is_refused_with_503():
    broker = BrokerHarness()
    broker.ready(b"w1")
    broker.give(request(b"c"))
    broker.ready(b"w2")
    broker.step(broker.core.drain, broker.now)
    (error,) = broker.give(disconnect(b"w1"))
    assert error[4:6] == [ERROR, b"503"]
    assert broker.core.drained


@pytest.mark.parametrize("end", ["drain", "shut_down"])
def test_a_broker_that_stops_does_not_say_503_of_what_may_not_be_tried_again(end):
    """503 invites another attempt, which `on_worker_loss="fail"`, a spent limit or a stream forbid."""
    for options, version, messages in (
        ({"on_worker_loss": OnWorkerLoss.FAIL}, "0.1", []),
        ({"deliveries_max": 1}, "0.1", []),
        ({}, "0.2", [partial(b"w", b"c", b"1")]),
    ):
        broker = BrokerHarness(**options)
        broker.ready(b"w", version=version)
        broker.give(request(b"c", version=version), *messages)
        broker.step(getattr(broker.core, end), broker.now)
        sent = broker.sent() + broker.give(disconnect(b"w", version=version))
        assert [frames[4:6] for frames in sent if frames[0] == b"c"] == [[ERROR, b"502"]]


def test_workers_that_expire_together_are_not_given_each_others_requests():
    """Each counted for a delivery, and the client was told that all had been lost, though only one had it."""
    broker = BrokerHarness(deliveries_max=3)
    for worker in (b"a", b"b", b"c"):
        broker.ready(worker)
    broker.give(request(b"client"))
    sent = broker.until(START + 3.0)
    assert all(frames[3] == b"\x04" for frames in sent), "heartbeats, and nothing else"
    assert (broker.statistics.workers, broker.statistics.queued) == (0, 1)
    assert broker.ready(b"d") == [work(b"d", b"client")]
