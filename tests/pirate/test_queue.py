"""The Pirate queues' front ends over real sockets: where they listen, what they hold back, and how they end."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tests.mdp.live import Peers
from tests.pirate.front_ends import FREE, KINDS
from tests.waiting import DEADLINE, eventually, until
from zpatterns.errors import ClosedError, EndpointError, RemoteError, RequestTimeout
from zpatterns.pirate import (
    LazyPirateClient,
    ParanoidPirateQueue,
    ParanoidPirateWorker,
)
from zpatterns.pirate.events import RequestRefused, WorkerExpired, WorkerRegistered


@pytest.fixture
def raw() -> Iterator[Peers]:
    with Peers() as peers:
        yield peers


def lazy(queue, **options):
    return LazyPirateClient(queue.frontend, **({"timeout": DEADLINE, "retries": 0} | options))


def test_it_listens_at_both_ends_and_says_where(reactor, kind):
    queue = KINDS[kind][0](FREE, FREE)
    assert (queue.frontend, queue.backend, queue.endpoint) == (FREE, FREE, FREE)
    reactor.start(queue)
    assert queue.endpoint == queue.frontend != queue.backend
    assert "*" not in queue.frontend + queue.backend
    reactor.start(KINDS[kind][1](queue.backend))
    with lazy(queue) as client:
        assert client.request(b"one", b"", b"three") == [b"one", b"", b"three"]


@pytest.mark.parametrize("place", [0, 1])
def test_an_endpoint_that_is_taken(reactor, kind, place):
    first = reactor.start(KINDS[kind][0](FREE, FREE))
    endpoints = [FREE, FREE]
    endpoints[place] = first.frontend
    with pytest.raises(EndpointError, match="cannot bind"):
        reactor.start(KINDS[kind][0](*endpoints))


@pytest.mark.parametrize("wrong", [("nonsense", FREE), (FREE, "tcp://127.0.0.1"), ("", FREE)])
def test_an_endpoint_that_is_none(kind, wrong):
    with pytest.raises(EndpointError):
        KINDS[kind][0](*wrong)


@pytest.mark.parametrize("wrong", [{"queue_max": 0}, {"request_ttl": 0}, {"worker_timeout": -1}, {"deliveries_max": 0}])
def test_options_that_make_no_sense(kind, wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        KINDS[kind][0](FREE, FREE, **wrong)


def test_heartbeats_that_make_no_sense():
    for wrong in ({"heartbeat_interval": 0}, {"liveness": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            KINDS["paranoid"][0](FREE, FREE, **wrong)


def test_clients_wait_in_zeromq_until_a_worker_is_ready(reactor, kind, raw):
    beats = {"heartbeat_interval": 0.3} if kind == "paranoid" else {}
    queue = reactor.start(KINDS[kind][0](FREE, FREE, **beats))
    clients = [raw.socket(zmq.REQ, queue.frontend) for _ in range(40)]
    for number, client in enumerate(clients):
        client.send(b"%d" % number)
    # A worker that takes one request: until it answers, the queue has read no more than one batch.
    worker = raw.socket(zmq.DEALER, queue.backend)
    head = [] if kind == "paranoid" else [b""]
    worker.send_multipart([*head, b"\x01"])
    request = worker.recv_multipart()
    while request == [b"\x02"]:
        request = worker.recv_multipart()
    statistics = queue.statistics()
    assert statistics.in_flight == 1
    assert statistics.queued <= 16
    reactor.start(KINDS[kind][1](queue.backend, concurrency=4, **beats))
    first = int(request[-1])
    for number, client in enumerate(clients):
        if number != first:
            assert client.recv() == b"%d" % number
    if kind == "simple":  # the other has been silent, perhaps for a lease
        worker.send_multipart(request)
    assert clients[first].recv() == b"%d" % first


def test_a_dealer_may_have_many_requests_open(reactor, kind, raw):
    queue = reactor.start(KINDS[kind][0](FREE, FREE))
    reactor.start(KINDS[kind][1](queue.backend, concurrency=4))
    client = raw.socket(zmq.DEALER, queue.frontend)
    for number in range(300):
        client.send_multipart([b"", b"%d" % number, b"more"])
    got = {int(client.recv_multipart()[1]) for _ in range(300)}
    assert got == set(range(300))


def test_a_proxy_in_front_of_it_is_one_hop_more(reactor, kind, raw):
    queue = reactor.start(KINDS[kind][0](FREE, FREE))
    reactor.start(KINDS[kind][1](queue.backend))
    front, back = raw.socket(zmq.ROUTER), raw.socket(zmq.DEALER, queue.frontend)
    port = front.bind_to_random_port("tcp://127.0.0.1")
    clients = [raw.socket(zmq.REQ, f"tcp://127.0.0.1:{port}") for _ in range(5)]
    for number, client in enumerate(clients):
        client.send(b"%d" % number)
    for _ in clients:
        back.send_multipart(front.recv_multipart())
    for _ in clients:
        front.send_multipart(back.recv_multipart())
    assert [client.recv() for client in clients] == [b"0", b"1", b"2", b"3", b"4"]


def test_hostile_frames_at_both_ends_disturb_nobody(reactor, kind, raw):
    queue = reactor.start(KINDS[kind][0](FREE, FREE))
    reactor.start(KINDS[kind][1](queue.backend))
    rng = random.Random(5)
    sockets = [raw.socket(zmq.DEALER, endpoint) for endpoint in (queue.frontend, queue.backend)]
    for socket in sockets:
        socket.setsockopt(zmq.SNDTIMEO, round(DEADLINE * 1000))
    with lazy(queue, timeout=DEADLINE, retries=3) as client:
        for number in range(2000):
            # No frame is empty, so none of it is a request or a reply, and none is READY.
            frames = [rng.randbytes(1 + rng.randrange(5)) + b"!" for _ in range(1 + rng.randrange(6))]
            rng.choice(sockets).send_multipart(frames)
            if number % 200 == 0:
                assert client.request(b"%d" % number) == [b"%d" % number]
        until(lambda: queue.statistics().dropped.get("invalid", 0) == 2000, "all was dropped, and counted")
        assert client.request(b"still there") == [b"still there"]


def test_a_worker_that_goes_silent_is_replaced(reactor, raw):
    """One that takes a request and is heard no more: the next gets it a lease later."""
    events: list[object] = []
    queue = reactor.start(ParanoidPirateQueue(FREE, FREE, heartbeat_interval=0.1, on_event=events.append))
    client = raw.socket(zmq.REQ, queue.frontend)
    client.send(b"hello")
    dead = raw.socket(zmq.DEALER, queue.backend)
    dead.send(b"\x01")
    while (frames := dead.recv_multipart()) == [b"\x02"]:
        pass
    assert frames[1:] == [b"", b"hello"]
    reactor.start(ParanoidPirateWorker(queue.backend, heartbeat_interval=0.1))
    assert client.recv() == b"hello"
    assert any(isinstance(event, WorkerExpired) for event in events)


def test_workers_that_start_together_have_ids_of_their_own(reactor, kind):
    """The Guide's are drawn from the second in which they start."""
    events: list[object] = []
    queue = reactor.start(KINDS[kind][0](FREE, FREE, on_event=events.append))
    reactor.start(KINDS[kind][1](queue.backend, concurrency=8))

    def ids() -> set[bytes]:
        return {event.worker for event in events if isinstance(event, WorkerRegistered)}

    until(lambda: len(ids()) == 8, "all are registered")
    assert queue.statistics().workers == 8
    assert all(id[0] == 0 and len(id) == 5 for id in ids()), "the ROUTER's own"


def test_what_waits_beyond_the_limit_is_refused(reactor, kind, raw):
    events: list[object] = []
    queue = reactor.start(KINDS[kind][0](FREE, FREE, queue_max=2, on_event=events.append))
    client = raw.socket(zmq.DEALER, queue.frontend)
    for number in range(12):
        client.send_multipart([b"", b"%d" % number])

    refused: list[list[bytes]] = []

    def enough() -> bool:
        """Bring one more worker, which never answers: a Simple queue reads on for it, and takes all that has come."""
        silent = raw.socket(zmq.DEALER, queue.backend)
        silent.send_multipart([b"\x01"] if kind == "paranoid" else [b"", b"\x01"])
        while client.poll(200):
            refused.append(client.recv_multipart())
        return len(refused) >= 3

    until(enough, "more have come than the workers and the queue can take")
    assert all(frames[:3] == [b"", b"\x00ZPATTERNS-ERROR\x00", b"429"] for frames in refused)
    until(lambda: sum(isinstance(event, RequestRefused) for event in events) >= 3, "each refusal is told")


def test_stop_lets_what_is_in_hand_be_finished(reactor, kind, monkeypatch):
    monkeypatch.setattr("zpatterns.service.PEERS_READ", 3600.0)  # a slow machine reads for longer than a tenth
    queue = reactor.start(KINDS[kind][0](FREE, FREE))
    begun, release = threading.Event(), threading.Event()

    def handler(request):
        begun.set()
        release.wait(DEADLINE)
        return b"finished"

    reactor.start(KINDS[kind][1](queue.backend, handler=handler))
    outcome: list[object] = []

    def ask():
        with lazy(queue) as client:
            outcome.extend(client.request(b"x"))

    asking = threading.Thread(target=ask)
    asking.start()
    assert begun.wait(DEADLINE)
    stopping = asyncio.run_coroutine_threadsafe(queue.stop(DEADLINE), reactor.reactor.loop)
    with lazy(queue) as late, pytest.raises(RemoteError) as error:
        late.request(b"late")
    assert error.value.code == "503"
    release.set()
    asking.join(DEADLINE)
    assert outcome == [b"finished"]
    assert not stopping.done()
    stopping.cancel()
    reactor.stop(queue, 0.0)


def test_nobody_answers_where_there_is_no_worker(reactor, kind):
    queue = reactor.start(KINDS[kind][0](FREE, FREE))
    with lazy(queue, timeout=0.3, retries=1) as client, pytest.raises(RequestTimeout):
        client.request(b"x")
    assert queue.statistics().requests == 0, "the requests were not even read"


def test_it_is_started_once(kind):
    async def main():
        queue = KINDS[kind][0](FREE, FREE)
        async with queue:
            with pytest.raises(ClosedError):
                await queue.start()
        assert queue.statistics().in_flight == 0

    asyncio.run(main())


def test_several_in_one_reactor(reactor):
    """A queue of each kind, one worker each, in one thread."""
    queues = {name: reactor.start(KINDS[name][0](FREE, FREE)) for name in KINDS}
    for name, queue in queues.items():
        reactor.start(KINDS[name][1](queue.backend, handler=lambda request, name=name: name))
    for name, queue in queues.items():
        with lazy(queue) as client:
            assert client.request(b"who?") == [name.encode()]


def test_events_are_told_on_the_loop():
    async def main():
        names: set[str] = set()
        queue = ParanoidPirateQueue(
            FREE,
            FREE,
            heartbeat_interval=0.1,
            liveness=100,  # so that it is found gone by its connection
            on_event=lambda event: names.add(f"{type(event).__name__} in {threading.current_thread().name}"),
        )
        async with queue:
            async with ParanoidPirateWorker(queue.backend, heartbeat_interval=0.1):
                await eventually(lambda: queue.statistics().workers, "it registered")
            await eventually(lambda: not queue.statistics().workers, "it left, and was found gone")
        # LoopStalled is told too, on a machine that stands still for a moment.
        assert {name.split()[0] for name in names} - {"LoopStalled"} == {"WorkerRegistered", "WorkerLost"}
        assert all(name.endswith("MainThread") for name in names)

    asyncio.run(main())
