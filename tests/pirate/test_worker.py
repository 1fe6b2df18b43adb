"""The Pirate workers' front ends over real sockets: handlers of every form, concurrency, reconnects, draining."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import zmq

from tests.pirate.front_ends import FREE, KINDS
from tests.waiting import DEADLINE, busy, eventually, until
from zpatterns.errors import EndpointError, RemoteError
from zpatterns.pirate import (
    LazyPirateClient,
    ParanoidPirateQueue,
    ParanoidPirateWorker,
    Request,
    SimplePirateWorker,
)
from zpatterns.pirate.events import HandlerTimedOut, QueueLost, ReadySent, WorkerExpired
from zpatterns.testing import ReservedPort


@pytest.fixture
def cluster(reactor, kind):
    """``cluster(handler, ...)``: a queue, a worker with this handler, and a client."""
    clients = []

    def make(handler=None, **options):
        queue = reactor.start(KINDS[kind][0](FREE, FREE))
        worker = reactor.start(KINDS[kind][1](queue.backend, handler=handler, **options))
        clients.append(LazyPirateClient(queue.frontend, timeout=DEADLINE, retries=0))
        return queue, worker, clients[-1]

    yield make
    for client in clients:
        client.close()


def function(request):
    return [b"function", *request.frames]


async def coroutine(request):
    await asyncio.sleep(0)
    return [b"coroutine", *request.frames]


def generator(request):
    yield from request.frames
    return b"returned"


async def async_generator(request):
    for frame in request.frames:
        yield frame


@pytest.mark.parametrize(
    ("handler", "reply"),
    [
        (None, [b"a", b"", b"c"]),
        (function, [b"function", b"a", b"", b"c"]),
        (coroutine, [b"coroutine", b"a", b"", b"c"]),
        (generator, [b"a", b"", b"c", b"returned"]),
        (async_generator, [b"a", b"", b"c", b""]),
        (lambda request: None, [b""]),
        (lambda request: "text ☃", ["text ☃".encode()]),
        (lambda request: [], [b""]),
    ],
)
def test_handlers_of_every_form(cluster, handler, reply):
    _, worker, client = cluster(handler)
    assert client.request(b"a", b"", b"c") == reply
    until(lambda: worker.statistics().replies == 1, "it is counted")


def test_a_subclass_with_a_method(reactor, kind):
    base: Any = KINDS[kind][1]

    class Greeter(base):  # type: ignore[misc]
        def handle(self, request: Request) -> object:
            return b"hello " + request.body

    queue = reactor.start(KINDS[kind][0](FREE, FREE))
    reactor.start(Greeter(queue.backend))
    with LazyPirateClient(queue.frontend, timeout=DEADLINE) as client:
        assert client.request(b"you") == [b"hello you"]


def test_a_request_tells_who_asks_and_no_service(cluster):
    _, _, client = cluster(lambda request: [request.client, request.service, b"|".join(request.frames)])
    who, service, body = client.request(b"x", b"y")
    assert len(who) == 5 and service == b"" and body == b"x|y"


def test_a_handler_that_raises_costs_one_request(cluster):
    def handler(request):
        if request.body == b"bad":
            raise ValueError("no such customer: 42")
        return b"fine"

    _, worker, client = cluster(handler)
    with pytest.raises(RemoteError) as error:
        client.request(b"bad")
    assert (error.value.code, error.value.message) == ("ValueError", "no such customer: 42")
    assert client.request(b"good") == [b"fine"]
    assert worker.statistics().errors == 1


def test_each_lane_serves_one_at_a_time(cluster):
    gate = threading.Barrier(3, timeout=DEADLINE)

    def handler(request):
        gate.wait()  # only where three are inside at once
        return request.body

    queue, _, _ = cluster(handler, concurrency=3)
    replies: list[list[bytes]] = []

    def ask(number):
        with LazyPirateClient(queue.frontend, timeout=DEADLINE, retries=0) as client:
            replies.append(client.request(b"%d" % number))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert sorted(replies) == [[b"0"], [b"1"], [b"2"]]


def test_heartbeats_go_on_while_a_handler_computes(reactor):
    """For several leases, holding the GIL as much as Python lets it: the worker is not given up."""
    events: list[object] = []
    queue = reactor.start(ParanoidPirateQueue(FREE, FREE, heartbeat_interval=0.3, on_event=events.append))

    def handler(request):
        busy(2.0)
        return b"computed"

    reactor.start(ParanoidPirateWorker(queue.backend, handler=handler, heartbeat_interval=0.3))
    with LazyPirateClient(queue.frontend, timeout=DEADLINE, retries=0) as client:
        assert client.request(b"x") == [b"computed"]
    assert not [event for event in events if isinstance(event, WorkerExpired)]


def test_a_handler_that_takes_too_long(reactor, kind):
    events: list[object] = []
    release = threading.Event()
    # What crosses the end of the lane's connection comes back to the queue only then, of a Simple one.
    queue = reactor.start(KINDS[kind][0](FREE, FREE, worker_timeout=2.0))

    def handler(request):
        if request.body == b"slow":
            release.wait(DEADLINE)
        return request.body

    worker = KINDS[kind][1](queue.backend, handler=handler, handler_timeout=0.2, on_event=events.append)
    reactor.start(worker)
    with LazyPirateClient(queue.frontend, timeout=DEADLINE, retries=0) as client:
        with pytest.raises(RemoteError) as error:
            client.request(b"slow")
        assert error.value.code == "handler-timeout"
        assert [event for event in events if isinstance(event, HandlerTimedOut)] == [HandlerTimedOut(0.2)]
        assert worker.statistics().registered == 0, "it takes no more until the handler has returned"
        worker._cores[0]._handler_timeout = DEADLINE  # the next is in time, however slow this machine is
        release.set()
        assert client.request(b"quick") == [b"quick"]


def test_it_comes_back_when_its_queue_does(reactor):
    """Restarted on the same ports, and the worker registers anew by itself."""
    events: list[object] = []
    with ReservedPort() as front, ReservedPort() as back:
        first = reactor.start(ParanoidPirateQueue(front.endpoint, back.endpoint, heartbeat_interval=0.2))
        reactor.start(ParanoidPirateWorker(back.endpoint, heartbeat_interval=0.2, on_event=events.append))
        until(lambda: first.statistics().workers == 1, "registered")
        reactor.stop(first, drain=0.0)
        until(lambda: any(isinstance(event, QueueLost) for event in events), "the worker finds out")
        second = reactor.start(ParanoidPirateQueue(front.endpoint, back.endpoint, heartbeat_interval=0.2))
        until(lambda: second.statistics().workers == 1, "registered anew")
        with LazyPirateClient(front.endpoint, timeout=DEADLINE) as client:
            assert client.request(b"again") == [b"again"]
    assert len([event for event in events if isinstance(event, ReadySent)]) >= 2


def test_it_turns_to_another_queue(reactor):
    with ReservedPort() as nobody:
        queue = reactor.start(ParanoidPirateQueue(FREE, FREE))
        worker = ParanoidPirateWorker([nobody.endpoint, queue.backend], heartbeat_interval=0.1)
        reactor.start(worker)
        until(
            lambda: queue.statistics().workers == 1 and worker.endpoint == queue.backend, "registered with the second"
        )


def test_stop_finishes_what_is_in_hand(reactor, kind):
    queue = reactor.start(KINDS[kind][0](FREE, FREE))
    begun, release = threading.Event(), threading.Event()

    def handler(request):
        begun.set()
        release.wait(DEADLINE)
        return b"finished"

    worker = reactor.start(KINDS[kind][1](queue.backend, handler=handler))
    outcome: list[bytes] = []

    def ask():
        with LazyPirateClient(queue.frontend, timeout=DEADLINE, retries=0) as client:
            outcome.extend(client.request(b"x"))

    asking = threading.Thread(target=ask)
    asking.start()
    assert begun.wait(DEADLINE)
    stopping = threading.Thread(target=reactor.stop, args=(worker, DEADLINE))
    stopping.start()
    release.set()
    for thread in (asking, stopping):
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert outcome == [b"finished"]


def test_what_crosses_a_worker_that_leaves_is_answered_by_another(reactor, kind):
    """One worker after the other stops under load, and no request is lost: the queue finds each one gone."""
    queue = reactor.start(KINDS[kind][0](FREE, FREE))
    stayer = KINDS[kind][1](queue.backend)
    leavers = [reactor.start(KINDS[kind][1](queue.backend)) for _ in range(5)]
    until(lambda: queue.statistics().workers == 5, "registered")
    reactor.start(stayer)
    done = threading.Event()
    answered: list[int] = []

    def ask(caller):
        # Simple Pirate promises nothing of what crossed, so its clients may have to ask again.
        attempts = 0 if kind == "paranoid" else 40
        with LazyPirateClient(queue.frontend, timeout=DEADLINE, retries=attempts) as client:
            while not done.is_set():
                body = b"%d/%d" % (caller, len(answered))
                assert client.request(body) == [body]
                answered.append(caller)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for leaver in leavers:
        before = len(answered)
        until(lambda before=before: len(answered) > before + 10, "the load runs")  # type: ignore[misc]
        reactor.stop(leaver, 5.0)
    before = len(answered)
    until(lambda: len(answered) > before + 20, "the load runs on")
    done.set()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()


def test_requests_of_a_queue_that_sends_several_at_once_are_served_in_order(reactor):
    """As the Guide's does to a worker that heartbeats while it is busy."""
    context: zmq.Context = zmq.Context()
    queue = context.socket(zmq.ROUTER)
    try:
        queue.setsockopt(zmq.RCVTIMEO, round(DEADLINE * 1000))
        port = queue.bind_to_random_port("tcp://127.0.0.1")
        reactor.start(ParanoidPirateWorker(f"tcp://127.0.0.1:{port}", handler=function))
        worker, ready = queue.recv_multipart()
        assert ready == b"\x01"
        for number in range(5):
            queue.send_multipart([worker, b"client", b"", b"%d" % number])
        replies: list[list[bytes]] = []
        while len(replies) < 5:
            frames = queue.recv_multipart()
            if frames[1:] != [b"\x02"]:
                replies.append(frames[1:])
        assert replies == [[b"client", b"", b"function", b"%d" % number] for number in range(5)]
    finally:
        context.destroy(linger=0)


def test_a_simple_worker_has_one_endpoint():
    with pytest.raises(ValueError, match="one endpoint"):
        SimplePirateWorker(["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"])  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"handler_timeout": 0}])
def test_options_that_make_no_sense(kind, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        KINDS[kind][1]("tcp://127.0.0.1:1", **wrong)


def test_a_handler_that_cannot_be_called_and_an_endpoint_that_is_none(kind):
    with pytest.raises(TypeError):
        KINDS[kind][1]("tcp://127.0.0.1:1", handler=b"no")
    with pytest.raises(EndpointError):
        KINDS[kind][1]("nonsense")


def test_in_asyncio_without_a_thread(kind):
    async def main():
        queue = KINDS[kind][0](FREE, FREE)
        async with queue, KINDS[kind][1](queue.backend, concurrency=2):
            await eventually(lambda: queue.statistics().workers == 2, "both lanes are registered")

    asyncio.run(main())
