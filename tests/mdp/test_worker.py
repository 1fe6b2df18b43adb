"""The worker's front end over real sockets: handlers, lanes, time-outs, and a worker's coming and going."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from tests.example import endpoint_of
from tests.mdp.callers import in_thread
from tests.waiting import DEADLINE, until
from zpatterns.core import Event
from zpatterns.driver import LoopStalled
from zpatterns.errors import EndpointError, RemoteError
from zpatterns.handlers import Request
from zpatterns.mdp import Client, Worker
from zpatterns.mdp.events import BrokerLost, HandlerFailed, HandlerTimedOut, ReadySent
from zpatterns.testing import BackgroundBroker, BackgroundReactor
from zpatterns.worker_state import WorkerState

NOBODY = "tcp://127.0.0.1:1"
INTERVAL = 0.5


@pytest.fixture
def broker() -> Iterator[BackgroundBroker]:
    with BackgroundBroker(heartbeat_interval=INTERVAL, liveness=6) as broker:
        yield broker


@pytest.fixture
def reactor(broker: BackgroundBroker) -> Iterator[BackgroundReactor]:
    with BackgroundReactor() as reactor:
        yield reactor


@pytest.fixture
def client(broker: BackgroundBroker) -> Iterator[Client]:
    with Client(broker.endpoint, timeout=DEADLINE, retries=0) as client:
        yield client


@pytest.fixture
def serve(broker: BackgroundBroker, reactor: BackgroundReactor) -> Callable[..., Worker]:
    """Starts a worker of ``it`` at the broker, and returns once it is registered."""

    def start(handler: Callable[[Request], Any] | None = None, **options: Any) -> Worker:
        given: dict[str, Any] = {"service": "it", "heartbeat_interval": INTERVAL, "liveness": 6} | options
        before = broker.statistics().workers
        worker = reactor.start(Worker(broker.endpoint, handler=handler, **given))
        lanes = given.get("concurrency", 1)
        until(lambda: broker.statistics().workers == before + lanes, "it is registered")
        return worker

    return start


def workers(client: Client, service: str = "it") -> int:
    """How many workers of `service` the broker counts on, as it says itself."""
    _, listed = client.request("mmi.services", b"")
    return sum(entry["workers"] for entry in json.loads(listed) if entry["service"] == service)


def told(events: list[Event]) -> list[Event]:
    """What a worker has told, without what it tells on a machine that stands still for a moment."""
    return [event for event in events if not isinstance(event, LoopStalled)]


class Numbers(Worker):
    service = "numbers"
    protocol = "0.2"

    async def handle(self, request: Request) -> Any:
        for number in range(int(request.body)):
            yield str(number).encode()


class TestHandlers:
    def test_without_a_handler_it_echoes(self, serve, client):
        serve()
        assert client.request("it", b"one", "two", b"") == [b"one", b"two", b""]

    def test_a_request_says_what_it_is(self, serve, client):
        seen: list[Request] = []
        serve(lambda request: seen.append(request))
        assert client.request("it", b"one", b"two") == [b""]
        assert seen[0].frames == (b"one", b"two")
        assert seen[0].service == "it"
        assert seen[0].client

    def test_a_subclass_has_its_own_service_and_protocol(self, broker, reactor, client):
        reactor.start(Numbers(broker.endpoint, heartbeat_interval=INTERVAL))
        assert list(client.stream("numbers", b"3")) == [[b"0"], [b"1"], [b"2"]]
        assert not client.has_service("it")
        assert client.has_service("numbers")

    @pytest.mark.parametrize("protocol", ["0.1", "0.2"])
    def test_replies_and_streams_in_both_protocols(self, serve, client, protocol):
        def handler(request: Request) -> Any:
            yield b"a"
            yield [b"b", b"c"]
            return b"d"

        serve(handler, protocol=protocol)
        assert client.request("it", b"") == [b"a", b"b", b"c", b"d"]
        parts = list(client.stream("it", b""))
        assert parts == ([[b"a"], [b"b", b"c"], [b"d"]] if protocol == "0.2" else [[b"a", b"b", b"c", b"d"]])

    def test_a_generator_speaks_the_protocol_of_streams(self, serve, client):
        async def handler(request: Request) -> Any:
            yield b"a"
            yield b"b"

        serve(handler)
        assert list(client.stream("it", b"")) == [[b"a"], [b"b"]]

    def test_one_that_raises_costs_its_caller_that_request(self, serve, client, broker):
        def handler(request: Request) -> bytes:
            if request.body == b"bad":
                raise LookupError("there is no such thing")
            return request.body

        events: list[Event] = []
        serve(handler, on_event=events.append)
        for _ in range(3):
            with pytest.raises(RemoteError) as caught:
                client.request("it", b"bad")
            assert caught.value.code == "LookupError"
            assert caught.value.message == "there is no such thing"
            assert caught.value.service == "it"
            assert client.request("it", b"good") == [b"good"]
        assert [event for event in events if isinstance(event, HandlerFailed)] == [
            HandlerFailed(b"it", "LookupError", "there is no such thing")
        ] * 3
        assert broker.statistics().workers_lost == 0

    def test_one_that_wants_to_leave_does_not_take_the_worker_with_it(self, serve, client):
        async def handler(request: Request) -> bytes:
            if request.body == b"bad":
                raise SystemExit(1)
            return request.body

        serve(handler)
        with pytest.raises(RemoteError, match="SystemExit"):
            client.request("it", b"bad")
        assert client.request("it", b"good") == [b"good"]

    def test_a_stream_that_raises_ends_with_the_error(self, serve, client):
        def handler(request: Request) -> Any:
            yield b"a"
            raise LookupError("no more")

        serve(handler)
        parts = client.stream("it", b"")
        assert next(parts) == [b"a"]
        with pytest.raises(RemoteError, match="no more"):
            next(parts)


class TestLanes:
    def test_as_many_requests_as_lanes_run_at_a_time(self, serve, client):
        together = threading.Barrier(3)

        def handler(request: Request) -> bytes:
            together.wait(DEADLINE)
            return request.body

        worker = serve(handler, concurrency=3)
        assert workers(client) == 3
        assert worker.statistics().registered == 3
        calls = [in_thread(client.request, "it", b"%d" % number) for number in range(6)]
        assert [call.result(DEADLINE) for call in calls] == [[b"%d" % number] for number in range(6)]
        assert worker.statistics().requests == worker.statistics().replies == 6

    def test_no_more_than_that(self, serve, client, broker):
        release = threading.Event()
        running: list[bytes] = []

        def handler(request: Request) -> bytes:
            running.append(request.body)
            release.wait(DEADLINE)
            return request.body

        worker = serve(handler, concurrency=2)
        calls = [in_thread(client.request, "it", b"%d" % number) for number in range(5)]
        until(lambda: broker.statistics().queued == 3, "three wait at the broker")
        until(lambda: len(running) == 2, "two run")
        assert worker.statistics().busy == 2
        release.set()
        assert sorted(call.result(DEADLINE) for call in calls) == [[b"%d" % number] for number in range(5)]

    def test_lanes_of_coroutines_run_at_a_time_too(self, serve, client):
        arrived: list[bytes] = []
        everybody = asyncio.Event()

        async def handler(request: Request) -> bytes:
            arrived.append(request.body)
            if len(arrived) == 3:
                everybody.set()
            await everybody.wait()
            return request.body

        serve(handler, concurrency=3)
        calls = [in_thread(client.request, "it", b"%d" % number) for number in range(3)]
        assert [call.result(DEADLINE) for call in calls] == [[b"%d" % number] for number in range(3)]

    def test_what_they_dropped_is_added_up(self, reactor, peer):
        router = peer(zmq.ROUTER, bind="tcp://127.0.0.1:*")
        worker = reactor.start(Worker(endpoint_of(router), service="it", concurrency=2, heartbeat_interval=DEADLINE))
        lanes = [router.recv_multipart()[0] for _ in range(2)]
        for lane in (*lanes, lanes[0]):
            router.send_multipart([lane, b"what is this?"])
        until(lambda: dict(worker.statistics().dropped) == {"invalid": 3}, "both lanes have dropped it")


class TestTimeouts:
    def test_the_caller_is_told_at_once_and_the_lane_waits_for_its_thread(self, serve, client, broker):
        release = threading.Event()

        def handler(request: Request) -> bytes:
            if request.body == b"slow":
                release.wait(DEADLINE)
            return request.body

        events: list[Event] = []
        worker = serve(handler, handler_timeout=0.2, on_event=events.append)
        with pytest.raises(RemoteError) as caught:
            client.request("it", b"slow")
        assert caught.value.code == "handler-timeout"
        until(lambda: HandlerTimedOut(b"it", 0.2) in events, "it is told, last of all in the turn")
        worker._cores[0]._handler_timeout = DEADLINE  # the next is in time, however slow this machine is
        until(lambda: broker.statistics().workers == 0, "the lane has left")
        waiting = in_thread(client.request, "it", b"next")
        until(lambda: broker.statistics().queued == 1, "the next request waits")
        assert worker.statistics().registered == 0
        assert worker.statistics().busy == 1
        release.set()
        assert waiting.result(DEADLINE) == [b"next"]
        assert worker.statistics().timeouts == 1
        assert worker.statistics().discarded == 1

    def test_a_coroutine_is_cancelled_and_its_lane_free(self, serve, client):
        cancelled = threading.Event()

        async def handler(request: Request) -> bytes:
            if request.body == b"slow":
                try:
                    await asyncio.Event().wait()
                finally:
                    cancelled.set()
            return request.body

        serve(handler, handler_timeout=0.2)
        with pytest.raises(RemoteError, match=r"did not finish within 0\.2 s"):
            client.request("it", b"slow")
        assert cancelled.wait(DEADLINE)
        assert client.request("it", b"next") == [b"next"]

    def test_one_that_is_fast_enough_never_notices(self, serve, client):
        worker = serve(lambda request: request.body, handler_timeout=DEADLINE)
        assert client.request("it", b"fast") == [b"fast"]
        assert worker.statistics().timeouts == 0

    def test_a_coroutine_that_blocks_is_told_of(self, serve, client):
        """It stops the heartbeats, too: whoever writes it must know."""

        async def handler(request: Request) -> bytes:
            threading.Event().wait(2 * INTERVAL + 0.2)
            return request.body

        events: list[Event] = []
        serve(handler, on_event=events.append)
        assert client.request("it", b"blocks") == [b"blocks"]
        until(lambda: any(isinstance(event, LoopStalled) for event in events), "the stall is told")
        stall = next(event for event in events if isinstance(event, LoopStalled))
        assert INTERVAL < stall.seconds < DEADLINE


class TestComingAndGoing:
    def test_it_finishes_what_it_has_in_hand(self, serve, client, reactor, broker):
        release = threading.Event()
        begun = threading.Event()

        def handler(request: Request) -> bytes:
            begun.set()
            release.wait(DEADLINE)
            return request.body

        worker = serve(handler)
        call = in_thread(client.request, "it", b"mine")
        assert begun.wait(DEADLINE)
        stopping = in_thread(reactor.stop, worker, DEADLINE)
        until(lambda: worker._cores[0].state is WorkerState.FINISHING, "it drains")
        release.set()
        assert call.result(DEADLINE) == [b"mine"]
        stopping.result(DEADLINE)
        until(lambda: broker.statistics().workers == 0, "it has left")
        assert broker.statistics().workers_lost == 0
        assert broker.statistics().requeued == 0

    def test_without_time_to_drain_another_one_gets_its_request(self, serve, client, reactor):
        release = threading.Event()
        begun = threading.Event()

        def handler(request: Request) -> bytes:
            begun.set()
            release.wait(DEADLINE)
            return b"from the first"

        worker = serve(handler)
        call = in_thread(client.request, "it", b"mine")
        assert begun.wait(DEADLINE)
        serve(lambda request: b"from the second")
        reactor.stop(worker, 0.0)
        assert call.result(DEADLINE) == [b"from the second"]
        release.set()

    def test_it_knows_its_broker(self, serve, broker):
        events: list[Event] = []
        worker = serve(on_event=events.append)
        assert worker.endpoint == broker.endpoint
        assert told(events) == [ReadySent(broker.endpoint, b"it")]

    def test_it_is_back_when_its_broker_is(self, serve, client, broker):
        events: list[Event] = []
        serve(on_event=events.append)
        broker.stop()
        until(lambda: any(isinstance(event, BrokerLost) for event in events), "it knows that its broker is gone")
        broker.start()
        until(lambda: broker.statistics().workers == 1, "it is back")
        assert client.request("it", b"again") == [b"again"]
        assert sum(isinstance(event, ReadySent) for event in events) > 1

    def test_it_turns_to_the_next_broker(self, broker, reactor):
        events: list[Event] = []
        with BackgroundBroker(heartbeat_interval=0.1) as other, Client(other.endpoint, timeout=DEADLINE) as client:
            endpoints = [NOBODY, other.endpoint]
            worker = reactor.start(
                Worker(endpoints, service="it", heartbeat_interval=0.1, liveness=2, on_event=events.append)
            )
            assert client.request("it", b"here") == [b"here"]
            until(lambda: worker.endpoint == other.endpoint, "it is there, or there again")
            turned: list[Any] = told(events)
            before = turned[: turned.index(ReadySent(other.endpoint, b"it"))]
            # One that has stood still itself tries the same broker again.
            assert {(type(event), event.endpoint) for event in before} == {(ReadySent, NOBODY), (BrokerLost, NOBODY)}
            assert before[0] == ReadySent(NOBODY, b"it")
            assert isinstance(before[-1], BrokerLost)
            reactor.stop(worker)

    def test_starting_and_stopping_under_load_loses_nothing(self, serve, client, reactor, broker):
        serve()
        stop = threading.Event()

        def ask() -> int:
            asked = 0
            while not stop.is_set():
                body = b"%d" % asked
                assert client.request("it", body) == [body]
                asked += 1
            return asked

        callers = [in_thread(ask) for _ in range(3)]
        for _ in range(8):
            reactor.stop(serve(lambda request: request.body, concurrency=2))
            until(lambda: broker.statistics().workers == 1, "the broker knows that both lanes have left")
        stop.set()
        assert all(caller.result(DEADLINE) > 0 for caller in callers)


class TestMisuse:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"service": ""}, "needs a service name"),
            ({"service": "mmi.service"}, "cannot be a service name"),
            ({"service": "x" * 256}, "cannot be a service name"),
            ({"service": "a\nb"}, "cannot be a service name"),
            ({"protocol": "0.3"}, "protocol must be"),
            ({"concurrency": 0}, "concurrency must be at least 1"),
            ({"concurrency": 1001}, "concurrency must be at least 1 and at most 1000, not 1001"),
            ({"heartbeat_interval": 0}, "heartbeat_interval must be a positive number"),
            ({"heartbeat_interval": float("inf")}, "heartbeat_interval must be a positive number"),
            ({"liveness": 0}, "liveness must be at least 1"),
            ({"handler_timeout": 0}, "handler_timeout must be a positive number"),
        ],
    )
    def test_values_that_make_no_sense(self, options, text):
        with pytest.raises(ValueError, match=text):
            Worker(NOBODY, **({"service": "it"} | options))

    def test_a_handler_that_cannot_be_called(self):
        with pytest.raises(TypeError, match="handler must be a function of one request"):
            Worker(NOBODY, service="it", handler="handle")  # type: ignore[arg-type]

    @pytest.mark.parametrize("endpoints", ["nonsense", [], [NOBODY, "tcp://nowhere"], "tcp://*:5555"])
    def test_addresses_that_are_none(self, endpoints):
        with pytest.raises(EndpointError):
            Worker(endpoints, service="it")

    def test_a_broker_that_is_never_there_is_no_error(self):
        """It goes on trying, and stops when it is told."""
        with BackgroundReactor() as reactor:
            worker = reactor.start(Worker(NOBODY, service="it", heartbeat_interval=0.05, liveness=1))
            until(lambda: worker.statistics().ready_sent > 2, "some tries")
            reactor.stop(worker)
        assert worker.statistics().registered == 0
