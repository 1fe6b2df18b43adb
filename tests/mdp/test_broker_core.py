"""BrokerCore beyond the RFCs: bounds and refusals, expiry, lost workers, held PARTIALs, stalls, the end.

Those of losing workers are in test_broker_core_loss.py.
"""

from __future__ import annotations

import pytest

from tests.harness import (
    START,
    BrokerHarness,
    answer,
    disconnect,
    heartbeat,
    numbers,
    part,
    partial,
    ready,
    reply,
    request,
    to,
    work,
)
from zpatterns.core import MessagesDropped, SendFailure
from zpatterns.mdp.broker_core import BrokerCore
from zpatterns.mdp.broker_state import BrokerOptions
from zpatterns.mdp.events import (
    RequestExpired,
    RequestRefused,
    WorkerExpired,
    WorkerLeft,
    WorkerLost,
    WorkerRegistered,
)
from zpatterns.timing import Liveness
from zpatterns.wire import MESSAGE_OVERHEAD

ERROR = b"\x00ZPATTERNS-ERROR\x00"


def error_of(frames: list[bytes]) -> bytes:
    """The code of an error reply to a client, of either version."""
    assert frames[4] == ERROR
    assert len(frames) == 7
    frames[6].decode()
    return frames[5]


# Bounds.


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_a_full_queue_refuses_the_newest_with_429(version):
    broker = BrokerHarness(queue_max=2)
    for client in (b"c1", b"c2"):
        assert broker.give(request(client, b"echo", b"x", version=version)) == []
    (refusal,) = broker.give(request(b"c3", b"echo", b"x", version=version))
    assert refusal[:4] == answer(b"c3", b"echo", version=version)[:4]
    assert error_of(refusal) == b"429"
    assert b"echo" in refusal[-1]
    assert broker.events(RequestRefused)[0].client == b"c3"
    assert (broker.statistics.queued, broker.statistics.refused) == (2, 1)
    assert [frames[4] for frames in broker.ready(b"w1") + broker.ready(b"w2")] == [b"c1", b"c2"], "not the oldest"


def test_a_full_queue_of_one_service_does_not_refuse_another():
    broker = BrokerHarness(queue_max=1)
    broker.give(request(b"c1", b"slow"), request(b"c2", b"slow"))
    assert broker.give(request(b"c3", b"other")) == []
    assert broker.statistics.queued == 2


def test_a_full_queue_takes_requests_again_once_there_is_room():
    broker = BrokerHarness(queue_max=1)
    broker.give(request(b"c1"))
    broker.ready(b"w1")
    assert broker.give(request(b"c2")) == []
    assert broker.statistics.refused == 0


def test_the_bytes_of_all_queues_together_are_bounded():
    size = 1000
    broker = BrokerHarness(queue_bytes_max=2 * (size + MESSAGE_OVERHEAD))
    assert (
        broker.give(request(b"c1", b"a", b"x" * size), request(b"c2", b"b", b"x" * (size // 2), b"x" * (size // 2)))
        == []
    )
    assert broker.statistics.queued_bytes == 2 * (size + MESSAGE_OVERHEAD)
    (refusal,) = broker.give(request(b"c3", b"c", b""))
    assert error_of(refusal) == b"429"
    assert broker.statistics.services == 2, "a refused request leaves no service behind"
    broker.ready(b"w", b"a")
    assert broker.statistics.queued_bytes == size + MESSAGE_OVERHEAD
    assert broker.give(request(b"c3", b"c", b"x" * size)) == []


def test_a_request_larger_than_the_bound_is_still_given_to_an_idle_worker():
    broker = BrokerHarness(queue_bytes_max=1000)
    broker.ready(b"w")
    assert broker.give(request(b"c", b"echo", b"x" * 5000)) == [work(b"w", b"c", b"x" * 5000)]


def test_names_without_a_worker_are_bounded():
    broker = BrokerHarness(services_max=2, request_ttl=5)
    broker.give(request(b"c1", b"a"))
    broker.give(request(b"c1", b"b"))
    (refusal,) = broker.give(request(b"c2", b"c"))
    assert error_of(refusal) == b"429"
    assert broker.statistics.services == 2
    assert broker.give(request(b"c2", b"b")) == [], "one that is known may have more requests"
    broker.advance(5)
    assert broker.give(request(b"c2", b"c")) == [], "the others are forgotten"


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_requests_for_unknown_names_keep_no_worker_out(version):
    """Anybody may ask for names that do not exist; that must not lock out the workers of a new service."""
    broker = BrokerHarness(services_max=2)
    broker.give(request(b"evil", b"x"), request(b"evil", b"y"))
    assert broker.ready(b"w1", b"a", version) == []
    assert broker.ready(b"w2", b"b", version) == []
    assert broker.mmi(b"mmi.service", b"a") == [b"200"]
    assert broker.give(request(b"c", b"b")) == [work(b"w2", b"c", version=version)]
    assert broker.statistics.dropped == {}


def test_services_with_a_worker_do_not_count_against_the_limit():
    broker = BrokerHarness(services_max=1)
    for number in range(5):
        broker.ready(b"w%d" % number, b"service-%d" % number)
    assert broker.give(request(b"c1", b"a")) == []
    (refusal,) = broker.give(request(b"c2", b"b"))
    assert error_of(refusal) == b"429"
    # A name gets its first worker, and one that is asked for loses its last.
    assert broker.ready(b"w", b"a") == [work(b"w", b"c1")]
    assert broker.give(request(b"c2", b"b")) == []
    broker.give(request(b"c3", b"service-0"))
    broker.give(disconnect(b"w0"))
    assert broker.ready(b"v", b"b") == [work(b"v", b"c2")]
    (refusal,) = broker.give(request(b"c4", b"c"))
    assert error_of(refusal) == b"429", "the request that lost its worker waits and is counted"
    assert broker.ready(b"v0", b"service-0") == [work(b"v0", b"c3")]
    assert broker.give(request(b"c4", b"c")) == []


def test_a_service_without_worker_and_request_is_forgotten():
    broker = BrokerHarness(request_ttl=5)
    broker.ready(b"w1", b"a")
    broker.give(request(b"c1", b"b"))
    assert broker.statistics.services == 2
    broker.give(disconnect(b"w1"))
    assert broker.statistics.services == 1
    broker.advance(5)
    assert broker.statistics.services == 0


def test_names_of_forgotten_services_may_be_used_again():
    broker = BrokerHarness()
    for number in range(5):
        broker.ready(b"w%d" % number)
        assert broker.give(request(b"c")) == [work(b"w%d" % number, b"c")]
        broker.give(reply(b"w%d" % number, b"c"), disconnect(b"w%d" % number))
        assert broker.statistics.services == 0


# Expiry of what waits.


def test_expired_requests_are_counted_and_told():
    broker = BrokerHarness(request_ttl=5)
    broker.give(request(b"c1"), request(b"c2", version="0.2"))
    assert broker.advance(5) == []
    assert broker.events(RequestExpired) == [RequestExpired(b"echo", b"c1"), RequestExpired(b"echo", b"c2")]
    assert broker.statistics.expired == 2
    assert broker.statistics.queued_bytes == 0


def test_each_request_has_its_own_ttl_and_the_timer_comes_for_each():
    broker = BrokerHarness(request_ttl=5)
    for number in range(3):
        broker.give(request(b"c%d" % number), at=START + number)
    for second, left in ((4.9, 3), (5.0, 2), (5.9, 2), (6.0, 1), (7.0, 0)):
        broker.until(START + second)
        assert broker.statistics.queued == left
    assert broker.core.next_timer() is None


def test_a_worker_that_comes_in_time_stops_the_expiry():
    broker = BrokerHarness(request_ttl=2)
    broker.give(request(b"c"))
    broker.advance(1)
    assert broker.ready(b"w") == [work(b"w", b"c")]
    broker.give(heartbeat(b"w"))
    broker.advance(2)
    assert broker.statistics.expired == 0
    assert broker.give(reply(b"w", b"c", b"done")) == [answer(b"c", b"echo", b"done")]


def test_an_expired_request_is_not_started_though_the_timer_has_not_come():
    """R4: a broker starts nothing past the deadline it knows."""
    broker = BrokerHarness(request_ttl=2)
    broker.give(request(b"late"))
    broker.give(request(b"fresh"), at=START + 1)
    assert broker.give(ready(b"w"), at=START + 2.5) == [work(b"w", b"fresh")]
    assert broker.statistics.expired == 1


def test_expiry_behind_a_requeued_request_is_not_hidden():
    broker = BrokerHarness(request_ttl=4)
    broker.ready(b"w")
    broker.give(request(b"c1"))
    broker.give(request(b"c2"), at=START + 1)
    broker.until(START + 3)  # the worker's lease ends: c1 is queued again, before c2
    assert broker.statistics.queued == 2
    broker.until(START + 4)
    assert broker.statistics.queued == 1
    broker.until(START + 5)
    assert broker.statistics.queued == 0


# Heartbeats and leases.


def test_heartbeats_of_many_workers_share_one_wake_up():
    broker = BrokerHarness()
    for number, worker in enumerate(numbers(b"w", 100)):
        broker.give(ready(worker), at=START + number * 0.0004)
    timer = broker.core.next_timer()
    assert timer is not None
    broker.now = timer
    broker.step(broker.core.handle_timer, timer)
    assert len(broker.sent()) == 100


def test_heartbeats_cost_no_more_timers_than_intervals():
    """O(1): a worker that is busy with messages is looked at once an interval, not once a message."""
    broker = BrokerHarness()
    broker.ready(b"w")
    wakes = 0
    for _ in range(1000):
        broker.now += 0.01
        broker.step(broker.core.receive_many, [heartbeat(b"w"), request(b"c"), reply(b"w", b"c")], broker.now, "broker")
        while (timer := broker.core.next_timer()) is not None and timer <= broker.now:
            broker.step(broker.core.handle_timer, broker.now)
            wakes += 1
    assert wakes <= 11
    assert broker.statistics.heartbeats == 0


def test_watching_a_worker_does_not_grow_with_its_registrations():
    """B1: a peer that registers and leaves over and over does not fill the broker's memory."""
    broker = BrokerHarness()
    for _ in range(5000):
        broker.core.receive_many([ready(b"w"), disconnect(b"w")], broker.now)
    assert len(broker.core._checks) < 300
    broker.give(ready(b"other"))
    for _ in range(5000):
        broker.core.receive_many([ready(b"w"), disconnect(b"w")], broker.now)
    assert len(next(iter(broker.core._services.values())).idle) < 100


def test_a_message_moves_the_lease():
    broker = BrokerHarness()
    broker.ready(b"w")
    broker.give(heartbeat(b"w"), at=START + 0.9)
    broker.until(START + 3.5)
    assert broker.statistics.workers == 1, "the first lease would have ended at 3"
    broker.until(START + 3.9)
    assert broker.statistics.workers == 0
    assert broker.events(WorkerExpired) == [WorkerExpired(b"w", b"echo")]


@pytest.mark.parametrize("stall", [1.6, 2.9, 3.5, 30.0])
def test_a_broker_that_stood_still_hears_its_workers_out_before_it_judges(stall):
    broker = BrokerHarness()
    broker.ready(b"w")
    broker.stall(stall)
    assert broker.statistics.workers == 1
    broker.give(heartbeat(b"w"))
    broker.advance(2.9)
    assert broker.statistics.workers == 1


def test_the_grace_after_a_stall_is_one_interval():
    broker = BrokerHarness()
    broker.ready(b"dead")
    broker.stall(30)
    broker.advance(0.99)
    assert broker.statistics.workers == 1
    broker.advance(0.01)
    assert broker.statistics.workers == 0


def test_the_grace_is_also_given_when_a_message_is_first():
    broker = BrokerHarness()
    broker.give(ready(b"w1"), ready(b"w2"))
    broker.give(heartbeat(b"w1"), at=START + 30)
    broker.stall(0)
    assert broker.statistics.workers == 2
    broker.advance(1)
    assert broker.statistics.workers == 1


def test_a_lively_broker_gives_no_grace():
    broker = BrokerHarness()
    broker.ready(b"dead")
    for second in (1, 2, 3):
        broker.give(request(b"c%d" % second, b"other"), at=START + second)
    broker.stall(0)
    assert broker.statistics.workers == 0


def test_without_workers_and_requests_there_is_no_timer():
    broker = BrokerHarness()
    assert broker.core.next_timer() is None
    broker.give(ready(b"w"), request(b"c"), reply(b"w", b"c"), disconnect(b"w"))
    assert broker.core.next_timer() is None
    assert broker.stall(100) == []


# PARTIALs for a client that can take one reply.


def test_partials_for_a_0_1_client_are_held_and_come_in_one_reply():
    broker = BrokerHarness()
    broker.ready(b"w", version="0.2")
    broker.give(request(b"c"))
    assert broker.give(partial(b"w", b"c", b"1", b"2"), partial(b"w", b"c", b"3")) == []
    assert broker.give(reply(b"w", b"c", b"4", version="0.2")) == [answer(b"c", b"echo", b"1", b"2", b"3", b"4")]
    assert broker.statistics.partials == 2


def test_held_partials_beyond_their_bound_end_the_call_with_too_large():
    broker = BrokerHarness(held_bytes_max=1000)
    broker.ready(b"w", version="0.2")
    broker.give(request(b"c"))
    assert broker.give(partial(b"w", b"c", b"x" * 900)) == []
    (refusal,) = broker.give(partial(b"w", b"c", b"x" * 100))
    assert refusal[:4] == [b"c", b"", b"MDPC01", b"echo"]
    assert error_of(refusal) == b"too-large"
    assert broker.give(partial(b"w", b"c", b"y")) == [], "the client is told once"
    assert broker.statistics.workers == 1, "it is not the worker's fault"
    assert broker.give(reply(b"w", b"c", b"end", version="0.2")) == [], "nor does the end follow"
    assert broker.give(request(b"c2", b"echo", b"next")) == [work(b"w", b"c2", b"next", version="0.2")]


def test_many_empty_held_partials_are_bounded_too():
    broker = BrokerHarness(held_bytes_max=10_000)
    broker.ready(b"w", version="0.2")
    broker.give(request(b"c"))
    sent = [frames for _ in range(200) for frames in broker.give(partial(b"w", b"c", b""))]
    assert [error_of(frames) for frames in sent] == [b"too-large"]


def test_a_0_2_client_of_a_0_1_worker_gets_a_final():
    broker = BrokerHarness()
    broker.ready(b"w")
    assert broker.give(request(b"c", b"echo", b"hi", version="0.2")) == [work(b"w", b"c", b"hi")]
    assert broker.give(reply(b"w", b"c", b"a", b"b")) == [answer(b"c", b"echo", b"a", b"b", version="0.2")]


# A client that cannot be reached.


@pytest.mark.parametrize("reason", list(SendFailure))
def test_a_reply_that_does_not_arrive_is_counted_and_disturbs_nobody(reason):
    broker = BrokerHarness()
    broker.ready(b"w")
    broker.give(request(b"c"), reply(b"w", b"c", b"x"))
    assert broker.fail(answer(b"c", b"echo", b"x"), reason) == []
    assert broker.statistics.undelivered == 1
    assert broker.events(MessagesDropped) == [MessagesDropped(f"client-{reason.value}", 1)]
    assert broker.give(request(b"c2")) == [work(b"w", b"c2")]


@pytest.mark.parametrize("reason", list(SendFailure))
def test_after_a_partial_was_dropped_nothing_more_of_its_stream_is_sent(reason):
    """Streams: "Once one PARTIAL was dropped, nothing more of that request is sent, FINAL included."."""
    broker = BrokerHarness()
    broker.ready(b"w", version="0.2")
    broker.give(request(b"c", version="0.2"))
    assert broker.give(partial(b"w", b"c", b"1")) == [part(b"c", b"echo", b"1")]
    broker.fail(part(b"c", b"echo", b"1"), reason)
    assert broker.give(partial(b"w", b"c", b"2"), reply(b"w", b"c", b"end", version="0.2")) == []
    assert broker.give(request(b"c", b"echo", b"again", version="0.2")) == [work(b"w", b"c", b"again", version="0.2")]
    assert broker.give(partial(b"w", b"c", b"1")) == [part(b"c", b"echo", b"1")], "a later stream is whole again"


def test_a_stream_that_was_broken_off_is_not_given_to_another_worker():
    broker = BrokerHarness()
    broker.ready(b"w", version="0.2")
    broker.give(request(b"c", version="0.2"), partial(b"w", b"c", b"1"))
    broker.fail(part(b"c", b"echo", b"1"), SendFailure.UNREACHABLE)
    broker.ready(b"w2", version="0.2")
    assert broker.give(disconnect(b"w", version="0.2")) == []
    assert broker.statistics.in_flight == 0
    assert broker.statistics.queued == 0


# Events and statistics.


def test_the_life_of_a_worker_is_told():
    broker = BrokerHarness()
    broker.give(ready(b"w1"), ready(b"w2", b"other", "0.2"), disconnect(b"w1"), heartbeat(b"w2"))
    assert broker.events() == [
        WorkerRegistered(b"w1", b"echo", "0.1"),
        WorkerRegistered(b"w2", b"other", "0.2"),
        WorkerLeft(b"w1", b"echo", "disconnected"),
        WorkerLost(b"w2", b"other", "unexpected"),
        MessagesDropped("unexpected", 1),
    ]
    assert broker.events() == []


def test_drops_are_told_once_each_with_their_count():
    broker = BrokerHarness()
    broker.give([b"x"], [b"x"], [b"x", b"", b"MDPC01", b"\x00", b"body"])
    assert broker.events() == [MessagesDropped("invalid", 2), MessagesDropped("bad-service-name", 1)]
    broker.give([b"x"])
    assert broker.events() == [MessagesDropped("invalid", 1)]
    assert broker.statistics.dropped == {"invalid": 3, "bad-service-name": 1}


def test_statistics_count_what_happened_and_what_is_held():
    broker = BrokerHarness()
    broker.ready(b"w1")
    broker.ready(b"w2", version="0.2")
    broker.give(request(b"c1", b"echo", b"x"), request(b"c2", b"echo", version="0.2"), request(b"c3", b"other", b"xyz"))
    broker.give(partial(b"w2", b"c2"), reply(b"w1", b"c1"))
    statistics = broker.statistics
    assert (statistics.requests, statistics.replies, statistics.partials) == (3, 1, 1)
    assert (statistics.workers, statistics.services, statistics.in_flight) == (2, 2, 1)
    assert (statistics.queued, statistics.queued_bytes) == (1, MESSAGE_OVERHEAD + 3)
    broker.advance(1)
    assert broker.statistics.heartbeats == 2
    assert statistics.heartbeats == 0, "a snapshot does not change"


# The end.


def test_drain_refuses_what_waits_and_what_comes_and_lets_what_runs_finish():
    broker = BrokerHarness()
    broker.ready(b"w")
    broker.give(request(b"c1"), request(b"c2"), request(b"c3", b"other", version="0.2"))
    broker.step(broker.core.drain, broker.now)
    sent = broker.sent()
    assert [(frames[0], error_of(frames)) for frames in sent] == [(b"c2", b"503"), (b"c3", b"503")]
    assert not broker.core.drained
    assert error_of(broker.give(request(b"c4"))[0]) == b"503"
    assert broker.give(reply(b"w", b"c1", b"done")) == [answer(b"c1", b"echo", b"done")]
    assert broker.core.drained
    assert broker.statistics.services == 1


def test_a_broker_that_drains_takes_ready_and_heartbeats_but_gives_no_work():
    """The Guide's C worker answers DISCONNECT with READY at once, for ever."""
    broker = BrokerHarness()
    broker.step(broker.core.drain, broker.now)
    assert broker.core.drained
    assert broker.ready(b"w") == []
    assert error_of(broker.give(request(b"c"))[0]) == b"503"
    assert broker.advance(1) == [heartbeat(b"w")]
    broker.step(broker.core.shut_down, broker.now)
    assert broker.sent() == [disconnect(b"w")]


def test_shut_down_disconnects_every_worker_in_its_own_version():
    broker = BrokerHarness()
    broker.give(ready(b"w1"), ready(b"w2", b"echo", "0.2"), ready(b"w3"), request(b"c"))
    broker.step(broker.core.shut_down, broker.now)
    sent = broker.sent()
    assert to(b"w1", sent) == [disconnect()]
    assert to(b"w2", sent) == [disconnect(version="0.2")]
    assert to(b"w3", sent) == [disconnect()]
    assert error_of(next(frames for frames in sent if frames[0] == b"c")) == b"503"
    assert broker.statistics.workers == 0
    assert broker.core.drained
    assert {event.reason for event in broker.events(WorkerLeft)} == {"broker stopped"}


# Options.


@pytest.mark.parametrize(
    "name", ["queue_max", "queue_bytes_max", "services_max", "deliveries_max", "held_bytes_max", "request_ttl"]
)
@pytest.mark.parametrize("value", [0, -1])
def test_options_that_make_no_sense_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        BrokerOptions(**{name: value})


def test_options_have_the_documented_defaults():
    options = BrokerCore().options
    assert options.liveness == Liveness(2.5, 3)
    assert (options.request_ttl, options.deliveries_max) == (60.0, 3)
    assert options.queue_max >= 100_000, "C mdclient2 opens 100,000 requests before it reads a reply"
