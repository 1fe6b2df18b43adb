"""What both Pirate queues do: order, back-pressure, limits, requests that come back, the end."""

from __future__ import annotations

import pytest

from tests.pirate.pirates import ERROR, START, QueueHarness
from zpatterns.core import MessagesDropped, SendFailure
from zpatterns.pirate.events import RequestExpired, RequestLost, RequestRefused, RequestRequeued, WorkerLost
from zpatterns.pirate.paranoid_queue_core import ParanoidQueueCore
from zpatterns.pirate.queue_state import QueueOptions
from zpatterns.testing.weight import reachable_frames


@pytest.fixture(params=["simple", "paranoid"])
def kind(request):
    return request.param


@pytest.fixture
def queue(kind):
    return QueueHarness(kind)


def test_a_request_goes_to_a_worker_and_its_reply_to_the_client(queue):
    queue.ready(b"w")
    assert queue.ask(b"c") == [queue.work(b"w", b"c")]
    assert queue.reply(b"w", b"c", b"one", b"", b"two") == []
    assert queue.answered() == [[b"c", b"", b"one", b"", b"two"]]
    assert (queue.statistics.requests, queue.statistics.replies, queue.statistics.in_flight) == (1, 1, 0)


def test_a_body_may_have_many_frames_and_empty_ones(queue):
    queue.ready(b"w")
    assert queue.give([b"c", b"", b"", b"a", b""], port="front") == [queue.work(b"w", b"c", b"", b"a", b"")]


def test_the_least_recently_used_worker_is_first(queue):
    queue.ready(b"a", b"b", b"c")
    assert [frames[0] for frames in queue.ask(b"1", b"2")] == [b"a", b"b"]
    queue.reply(b"b", b"2")
    queue.reply(b"a", b"1")
    assert [frames[0] for frames in queue.ask(b"3", b"4", b"5")] == [b"c", b"b", b"a"]


def test_an_envelope_of_more_hops_is_kept_whole(queue):
    """A proxy before the queue adds a hop; the stack ends with the first empty frame."""
    queue.ready(b"w")
    [sent] = queue.give([b"proxy", b"client", b"", b"body", b""], port="front")
    assert sent == [b"w", *queue.head, b"proxy", b"client", b"", b"body", b""]
    queue.give([b"w", *queue.head, b"proxy", b"client", b"", b"reply"])
    assert queue.answered() == [[b"proxy", b"client", b"", b"reply"]]


def test_two_clients_behind_one_proxy_get_each_their_own(queue):
    queue.ready(b"v", b"w")
    queue.give([b"proxy", b"1", b"", b"x"], [b"proxy", b"2", b"", b"x"], port="front")
    queue.give([b"w", *queue.head, b"proxy", b"2", b"", b"second"])
    assert queue.answered() == [[b"proxy", b"2", b"", b"second"]]


@pytest.mark.parametrize("rest", [[], [b""], [b"body"], [b"a", b"b"], [b"a", b""], [b"\x01"]])
def test_a_request_without_delimiter_or_body_is_dropped_and_counted(queue, rest):
    queue.ready(b"w")
    assert queue.give([b"c", *rest], port="front") == []
    assert queue.statistics.dropped == {"invalid": 1}
    assert queue.events(MessagesDropped) == [MessagesDropped("invalid", 1)]
    assert queue.statistics.requests == 0
    assert len(queue.ask(b"c")) == 1, "and the worker is still there"


# Back-pressure and limits.


def test_clients_are_read_only_while_a_worker_is_ready(queue):
    core = queue.core
    assert not core.wants_to_read("front")
    assert core.wants_to_read("back")
    queue.ready(b"a", b"b")
    assert core.wants_to_read("front")
    queue.ask(b"1")
    assert core.wants_to_read("front")
    queue.ask(b"2")
    assert not core.wants_to_read("front")
    queue.reply(b"a", b"1")
    assert core.wants_to_read("front")


def test_what_came_in_the_same_batch_waits_in_its_order(queue):
    queue.ready(b"w")
    assert queue.ask(b"1", b"2", b"3") == [queue.work(b"w", b"1")]
    assert queue.statistics.queued == 2
    assert queue.reply(b"w", b"1") == [queue.work(b"w", b"2")]
    assert queue.reply(b"w", b"2") == [queue.work(b"w", b"3")]
    assert not queue.core.wants_to_read("front")


def test_a_full_queue_refuses_the_newest(kind):
    queue = QueueHarness(kind, queue_max=1)
    queue.ready(b"w")
    queue.ask(b"1", b"2", b"3")
    [[client, empty, marker, code, _]] = queue.answered()
    assert (client, empty, marker, code) == (b"3", b"", ERROR, b"429")
    assert queue.statistics.refused == 1
    assert queue.events(RequestRefused) == [RequestRefused(b"3", "the queue is full")]


def test_bytes_that_wait_are_bounded(kind):
    queue = QueueHarness(kind, queue_bytes_max=2000)
    queue.ready(b"w")
    queue.ask(b"1", b"2", b"3", body=b"x" * 600)
    assert [frames[3] for frames in queue.answered()] == [b"429"]
    assert queue.statistics.queued_bytes == 512 + 601
    queue.reply(b"w", b"1")
    assert queue.statistics.queued_bytes == 0


def test_a_refusal_keeps_the_whole_envelope(kind):
    queue = QueueHarness(kind, queue_max=1)
    queue.ready(b"w")
    queue.give(*([b"proxy", b"%d" % number, b"", b"x"] for number in range(3)), port="front")
    assert [frames[:4] for frames in queue.answered()] == [[b"proxy", b"2", b"", ERROR]]


def test_a_request_that_waited_for_too_long_is_not_started(kind):
    queue = QueueHarness(kind, request_ttl=5.0)
    queue.ready(b"w")
    queue.ask(b"1", b"2")
    assert queue.core.next_timer() is not None
    queue.keep_alive(5.5, b"w") if kind == "paranoid" else queue.advance(5.5)
    assert queue.events(RequestExpired) == [RequestExpired(b"2")]
    assert queue.reply(b"w", b"1") == []
    assert (queue.statistics.expired, queue.statistics.queued) == (1, 0)


def test_not_even_when_the_timer_is_late(kind):
    queue = QueueHarness(kind, request_ttl=1.0)
    queue.ready(b"w")
    queue.ask(b"1", b"2")
    queue.now += 1.0
    assert queue.reply(b"w", b"1") == []
    assert queue.statistics.expired == 1


# Requests that come back.


def test_a_worker_that_is_unreachable_at_dispatch_costs_nothing(queue):
    """The request goes to the next; that was no delivery."""
    queue.ready(b"gone", b"gone too", b"there")
    [sent] = queue.ask(b"c")
    [sent] = queue.unreachable(sent)
    [sent] = queue.unreachable(sent)
    assert sent == queue.work(b"there", b"c")
    assert queue.statistics.workers_lost == 2
    assert [event.worker for event in queue.events(WorkerLost)] == [b"gone", b"gone too"]
    queue.reply(b"there", b"c")
    assert queue.answered() == [[b"c", b"", b"reply"]]


def test_it_waits_in_front_of_the_others_where_there_is_no_next(queue):
    queue.ready(b"gone")
    [sent] = queue.ask(b"1", b"2")
    assert queue.unreachable(sent) == []
    assert queue.ready(b"w") == [queue.work(b"w", b"1")]
    assert queue.reply(b"w", b"1") == [queue.work(b"w", b"2")]


def test_a_worker_whose_outbox_is_full_is_given_up(queue):
    queue.ready(b"full", b"there")
    [sent] = queue.ask(b"c")
    assert queue.fail(sent, SendFailure.OVERFLOW) == [queue.work(b"there", b"c")]
    assert queue.events(WorkerLost) == [WorkerLost(b"full", "overflow")]


def test_an_overdue_request_goes_to_another_worker(kind):
    queue = QueueHarness(kind, worker_timeout=2.0)
    queue.ready(b"a", b"b")
    queue.ask(b"c")
    alive = (b"a", b"b") if kind == "paranoid" else ()
    sent = queue.keep_alive(2.0, *alive) if alive else queue.advance(2.0)
    assert sent == [queue.work(b"b", b"c")]
    assert queue.events(RequestRequeued) == [RequestRequeued(b"c", 1)]


def test_the_late_reply_of_the_first_worker_answers_nothing(kind):
    """R1: the client is answered once, whoever comes first."""
    queue = QueueHarness(kind, worker_timeout=2.0)
    queue.ready(b"a", b"b")
    queue.ask(b"c")
    queue.keep_alive(2.0, b"a", b"b") if kind == "paranoid" else queue.advance(2.0)
    queue.reply(b"a", b"c", b"late")
    assert queue.answered() == []
    queue.reply(b"b", b"c", b"second")
    queue.reply(b"a", b"c", b"late again")
    assert queue.answered() == [[b"c", b"", b"second"]]
    assert sum(queue.statistics.dropped.values()) >= 2


def test_deliveries_have_a_limit_and_the_client_is_told(kind):
    queue = QueueHarness(kind, worker_timeout=0.5, deliveries_max=2)
    queue.ready(b"a", b"b", b"c")
    queue.ask(b"client")
    assert [frames[0] for frames in queue.advance(1.0)] == [b"b"]
    assert [frames[:4] for frames in queue.answered()] == [[b"client", b"", ERROR, b"502"]]
    assert queue.events(RequestLost) == [RequestLost(b"client", 2)]
    assert queue.statistics.lost == 1


@pytest.mark.parametrize(("limit", "count"), [(1, b"1 delivery"), (2, b"2 deliveries")])
def test_the_client_is_told_how_often_its_request_was_delivered(kind, limit, count):
    queue = QueueHarness(kind, worker_timeout=0.5, deliveries_max=limit)
    queue.ready(b"a", b"b", b"c")
    queue.ask(b"client")
    queue.advance(0.5 * limit)
    [[*_, text]] = queue.answered()
    assert text == b"its worker was lost after %s; see the workers' logs" % count


def test_what_is_past_its_time_is_not_given_to_another(kind):
    queue = QueueHarness(kind, worker_timeout=2.0, request_ttl=1.0)
    queue.ready(b"a", b"b")
    queue.ask(b"c")
    alive = (b"a", b"b") if kind == "paranoid" else ()
    assert (queue.keep_alive(2.0, *alive) if alive else queue.advance(2.0)) == []
    assert queue.statistics.expired == 1


def test_a_reply_whose_client_is_gone_is_counted(queue):
    queue.ready(b"w")
    queue.ask(b"c")
    queue.reply(b"w", b"c")
    queue.fail(queue.answered()[0], SendFailure.UNREACHABLE, port="front")
    assert queue.statistics.undelivered == 1
    assert queue.statistics.dropped == {"client-unreachable": 1}


def test_a_failed_message_to_a_worker_that_is_forgotten_changes_nothing(queue):
    queue.ready(b"w")
    [sent] = queue.ask(b"c")
    queue.unreachable(sent)
    before = queue.statistics
    queue.unreachable(sent)
    assert queue.statistics == before


def test_a_second_ready_before_the_first_request_could_arrive_changes_nothing(queue):
    """In the batch of the first: the request is on its way, and giving it to another would do it twice."""
    queue.ready(b"a", b"b")
    queue.ask(b"c")
    queue.ready(b"a")
    assert queue.statistics.in_flight == 1
    assert queue.statistics.workers_lost == 0


# The end.


def test_a_queue_that_drains_refuses_what_waits_and_what_comes(queue):
    queue.ready(b"w")
    queue.ask(b"1", b"2")
    queue.step(queue.core.drain, queue.now)
    assert [(frames[0], frames[3]) for frames in queue.answered()] == [(b"2", b"503")]
    assert queue.core.wants_to_read("front"), "those who wait are told"
    queue.ask(b"3")
    assert [(frames[0], frames[3]) for frames in queue.answered()] == [(b"3", b"503")]
    assert not queue.core.drained
    assert queue.reply(b"w", b"1") == []
    assert queue.answered() == [[b"1", b"", b"reply"]]
    assert queue.core.drained


def test_what_comes_back_while_it_drains_is_refused(kind):
    queue = QueueHarness(kind, worker_timeout=1.0)
    queue.ready(b"a", b"b")
    queue.ask(b"1")
    queue.step(queue.core.drain, queue.now)
    assert queue.advance(1.0) == []
    assert [(frames[0], frames[3]) for frames in queue.answered()] == [(b"1", b"503")]


def test_a_queue_that_stops_tells_the_clients_of_what_is_in_hand(queue):
    queue.ready(b"w")
    queue.ask(b"1")
    queue.step(queue.core.shut_down, queue.now)
    assert [(frames[0], frames[3]) for frames in queue.answered()] == [(b"1", b"503")]
    assert queue.core.drained
    queue.reply(b"w", b"1")
    assert queue.answered() == []


def test_it_lets_go_of_what_is_over(kind):
    queue = QueueHarness(kind, worker_timeout=1.0, deliveries_max=1, request_ttl=5.0)
    queue.ready(b"w")
    for number in range(4):
        queue.ask(b"c", body=b"q:%d" % number)
    assert reachable_frames(queue.core, b"q:") == 4
    queue.reply(b"w", b"c")
    queue.advance(10.0)
    assert reachable_frames(queue.core, b"q:") == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"queue_max": 0},
        {"queue_bytes_max": 0},
        {"deliveries_max": 0},
        {"workers_max": 0},
        {"request_ttl": 0.0},
        {"request_ttl": float("inf")},
        {"worker_timeout": 0.0},
        {"worker_timeout": float("nan")},
    ],
)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        QueueOptions(**wrong)


def test_both_keep_the_contract_from_the_start(queue):
    core = queue.core
    assert core.PORTS == ("front", "back")
    assert not core.ports_to_send()
    assert core.commands() == []
    assert core.events() == []
    assert core.next_timer() is None
    core.handle_timer(START)
    assert core.drained


def test_cost_does_not_grow_with_idle_workers():
    """A turn looks at the worker it is about, and at no other."""
    core = ParanoidQueueCore(QueueOptions())
    core.receive_many([[b"%d" % number, b"\x01"] for number in range(2000)], START, "back")

    class Counted(bytes):
        looked = 0

        def __hash__(self) -> int:
            Counted.looked += 1
            return super().__hash__()

    core.receive_many([[b"client", b"", b"x"]], START, "front")
    [[worker, *_]] = core.messages_to_send("back")
    core.receive_many([[Counted(worker), b"client", b"", b"y"]], START, "back")
    assert 0 < Counted.looked < 5
    assert core.messages_to_send("front") == [[b"client", b"", b"y"]]
