"""The broker's front end over real sockets: where it listens, what it holds, whom it tells, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from tests.waiting import DEADLINE, eventually, until
from zpatterns.core import Event
from zpatterns.errors import EndpointError, RemoteError, RequestTimeout
from zpatterns.handlers import Request
from zpatterns.mdp import AsyncClient, Broker, Client, Worker
from zpatterns.mdp.events import RequestExpired, RequestLost, RequestRefused, WorkerLeft, WorkerRegistered
from zpatterns.sockets import SocketSettings
from zpatterns.testing import BackgroundReactor

FREE = "tcp://127.0.0.1:*"


@pytest.fixture
def reactor() -> Iterator[BackgroundReactor]:
    with BackgroundReactor() as reactor:
        yield reactor


def run(main):
    """Run a coroutine, within the deadline."""

    async def bounded():
        async with asyncio.timeout(DEADLINE):
            return await main

    return asyncio.run(bounded())


class TestEndpoints:
    def test_it_listens_at_all_of_them(self, reactor, tmp_path):
        endpoints = [FREE, FREE, f"ipc://{tmp_path}/broker"]
        broker = reactor.start(Broker(*endpoints))
        assert len(set(broker.endpoints)) == 3
        assert broker.endpoint == broker.endpoints[0]
        assert "*" not in "".join(broker.endpoints)
        reactor.start(Worker(broker.endpoints[1], service="echo"))
        for endpoint in broker.endpoints:
            with Client(endpoint, timeout=DEADLINE) as client:
                assert client.request("echo", b"hello") == [b"hello"]

    def test_before_it_starts_it_knows_what_it_was_told(self):
        broker = Broker(FREE)
        assert broker.endpoint == FREE
        assert broker.endpoints == ()

    def test_one_that_is_taken(self, reactor):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(EndpointError, match="cannot bind"):
                reactor.start(Broker(FREE, endpoint))

    def test_workers_of_both_versions_share_a_service(self, reactor):
        broker = reactor.start(Broker(FREE))
        names = {}
        for protocol in ("0.1", "0.2"):
            names[protocol] = protocol.encode()
            reactor.start(
                Worker(
                    broker.endpoint,
                    service="which",
                    protocol=protocol,
                    handler=lambda request, name=protocol: name,  # type: ignore[misc]
                )
            )
        until(lambda: broker.statistics().workers == 2, "both are registered")
        # Each is asked once: a request more would be the turn of another worker.
        once: dict[str, Any] = {"timeout": DEADLINE, "retries": 0}
        with Client(broker.endpoint, **once) as one, Client(broker.endpoint, protocol="0.2", **once) as two:
            for client in (one, two):
                # The least recently used first: they take turns.
                assert sorted(client.request("which", b"")[0] for _ in range(4)) == [b"0.1", b"0.1", b"0.2", b"0.2"]


class TestLimits:
    def test_a_full_queue_refuses_the_newest(self, reactor):
        events: list[Event] = []
        broker = reactor.start(Broker(FREE, queue_max=2, on_event=events.append))
        with Client(broker.endpoint, timeout=DEADLINE, retries=0) as client:
            waiting = [
                threading.Thread(target=lambda: client.request("absent", b"first"), daemon=True) for _ in range(2)
            ]
            for thread in waiting:
                thread.start()
            until(lambda: broker.statistics().queued == 2, "two requests wait")
            with pytest.raises(RemoteError) as caught:
                client.request("absent", b"one too many")
            assert caught.value.code == "429"
            until(lambda: any(isinstance(event, RequestRefused) for event in events), "it is told")
            refused = [event.reason for event in events if isinstance(event, RequestRefused)]
            assert refused == ["the queue of service 'absent' is full"]
            reactor.start(Worker(broker.endpoint, service="absent"))
            for thread in waiting:
                thread.join(DEADLINE)
                assert not thread.is_alive()

    def test_a_request_that_nobody_serves_expires(self, reactor):
        events: list[Event] = []
        broker = reactor.start(Broker(FREE, request_ttl=0.1, on_event=events.append))
        with Client(broker.endpoint, timeout=0.3, retries=0) as client:
            with pytest.raises(RequestTimeout):
                client.request("absent", b"first")
            until(lambda: any(isinstance(event, RequestExpired) for event in events), "it is told")
        assert broker.statistics().expired == 1
        assert broker.statistics().queued == 0
        assert broker.statistics().services == 0

    @pytest.mark.parametrize(("loss", "deliveries"), [("retry", 2), ("fail", 1)])
    def test_a_request_is_given_to_so_many_workers(self, reactor, loss, deliveries):
        events: list[Event] = []
        broker = reactor.start(Broker(FREE, deliveries_max=2, on_worker_loss=loss, on_event=events.append))
        delivered = 0

        def take_and_leave(worker: zmq.Socket[bytes]) -> None:
            nonlocal delivered
            worker.send_multipart([b"", b"MDPW01", b"\x01", b"fatal"])
            assert worker.recv_multipart()[:3] == [b"", b"MDPW01", b"\x02"]
            delivered += 1
            worker.send_multipart([b"", b"MDPW01", b"\x05"])

        with contextlib.ExitStack() as stack:
            context: zmq.Context[zmq.Socket[bytes]] = stack.enter_context(zmq.Context())
            client = stack.enter_context(context.socket(zmq.REQ))
            client.setsockopt(zmq.RCVTIMEO, int(DEADLINE * 1000))
            client.connect(broker.endpoint)
            client.send_multipart([b"MDPC01", b"fatal", b"poison"])
            for _ in range(deliveries):
                worker = stack.enter_context(context.socket(zmq.DEALER))
                worker.setsockopt(zmq.RCVTIMEO, int(DEADLINE * 1000))
                worker.connect(broker.endpoint)
                take_and_leave(worker)
            answer = client.recv_multipart()
        assert answer[:4] == [b"MDPC01", b"fatal", b"\x00ZPATTERNS-ERROR\x00", b"502"]
        assert delivered == deliveries
        until(lambda: any(isinstance(event, RequestLost) for event in events), "it is told")
        assert [event.deliveries for event in events if isinstance(event, RequestLost)] == [deliveries]

    def test_the_settings_reach_the_socket(self, reactor):
        broker = reactor.start(Broker(FREE, settings=SocketSettings(message_max=1000)))
        reactor.start(Worker(broker.endpoint, service="echo"))
        with Client(broker.endpoint, timeout=DEADLINE) as client:
            assert client.request("echo", b"x" * 900) == [b"x" * 900]
            with pytest.raises(RequestTimeout):
                client.request("echo", b"x" * 1001, timeout=0.2)
            assert client.request("echo", b"still there") == [b"still there"]


class TestTelling:
    def test_what_it_knows(self, reactor):
        broker = reactor.start(Broker(FREE))
        reactor.start(Worker(broker.endpoint, service="echo", concurrency=2))
        until(lambda: broker.statistics().workers == 2, "both lanes are registered")
        with Client(broker.endpoint, timeout=DEADLINE) as client:
            for _ in range(3):
                client.request("echo", b"hello")
            assert client.has_service("echo")
            assert not client.has_service("absent")
            assert client.request("mmi.anything", b"") == [b"501"]
            code, services = client.request("mmi.services", b"")
            assert code == b"200"
            assert [(each["service"], each["workers"]) for each in json.loads(services)] == [("echo", 2)]
            code, told = client.request("mmi.statistics", b"")
            assert code == b"200"
            assert json.loads(told)["replies"] == 3
        statistics = broker.statistics()
        assert statistics.replies == 3
        assert statistics.requests == 8
        assert statistics.services == 1
        assert statistics.in_flight == 0

    def test_who_comes_and_goes(self, reactor):
        events: list[Event] = []
        broker = reactor.start(Broker(FREE, on_event=events.append))
        worker = reactor.start(Worker(broker.endpoint, service="echo"))
        until(lambda: events, "it has come")
        reactor.stop(worker)
        until(lambda: len(events) == 2, "it has gone")
        came, went = events
        assert isinstance(came, WorkerRegistered)
        assert isinstance(went, WorkerLeft)
        assert (came.service, came.protocol) == (b"echo", "0.1")
        assert (went.worker, went.service, went.reason) == (came.worker, b"echo", "disconnected")

    def test_what_a_callback_raises_stops_nothing(self, reactor):
        def on_event(event: Event) -> None:
            raise RuntimeError("the callback broke")

        broker = reactor.start(Broker(FREE, on_event=on_event))
        reactor.start(Worker(broker.endpoint, service="echo", on_event=on_event))
        with Client(broker.endpoint, timeout=DEADLINE, on_event=on_event) as client:
            assert client.request("echo", b"hello") == [b"hello"]


class TestTheEnd:
    def test_every_reply_arrives_that_came_while_it_drained(self, monkeypatch):
        """A client's libzmq throws away what nobody has read when the connection ends: the last replies were lost."""
        monkeypatch.setattr("zpatterns.service.PEERS_READ", 3600.0)  # a slow machine reads for longer than a tenth

        async def drain_with_work_in_hand() -> None:
            begun: list[Request] = []
            go_on = asyncio.Event()

            async def handler(request: Request) -> bytes:
                begun.append(request)
                await go_on.wait()
                return request.body

            broker = await Broker(FREE).start()
            worker = await Worker(broker.endpoint, service="slow", handler=handler, concurrency=8).start()
            client = AsyncClient(broker.endpoint, retries=0, timeout=DEADLINE)
            calls = [asyncio.create_task(client.request("slow", b"%d" % number)) for number in range(8)]
            await eventually(lambda: len(begun) == 8, "all are in a worker's hands")
            stopping = asyncio.create_task(broker.stop(drain=DEADLINE))
            await eventually(lambda: broker._core._draining, "it drains")
            go_on.set()
            assert await asyncio.gather(*calls) == [[b"%d" % number] for number in range(8)]
            assert not broker._drivers[0].closed
            stopping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await stopping
            await broker.stop(drain=0)
            await worker.stop(drain=0)
            await client.close()

        async def main():
            for _ in range(5):
                await drain_with_work_in_hand()

        run(main())

    def test_what_waits_in_a_queue_is_refused(self, monkeypatch):
        monkeypatch.setattr("zpatterns.service.PEERS_READ", 3600.0)  # a slow machine reads for longer than a tenth

        async def main():
            broker = await Broker(FREE).start()
            async with AsyncClient(broker.endpoint, retries=0, timeout=DEADLINE) as client:
                call = asyncio.create_task(client.request("absent", b"waits"))
                await eventually(lambda: broker.statistics().queued == 1, "it waits")
                stopping = asyncio.create_task(broker.stop())
                with pytest.raises(RemoteError) as caught:
                    await call
                assert caught.value.code == "503"
                stopping.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await stopping
                await broker.stop(drain=0)

        run(main())

    @pytest.mark.parametrize("protocol", ["0.1", "0.2"])
    def test_workers_are_told_and_told_again_when_they_come_back(self, reactor, peer, protocol, monkeypatch):
        """Those that answer DISCONNECT with READY are not left to believe that they are registered."""
        monkeypatch.setattr("zpatterns.service.PEERS_READ", 3600.0)  # a slow machine answers later than in a tenth
        broker = reactor.start(Broker(FREE))
        head, disconnect = {
            "0.1": ([b"", b"MDPW01"], [b"", b"MDPW01", b"\x05"]),
            "0.2": ([b"MDPW02"], [b"MDPW02", b"\x06"]),
        }[protocol]
        worker = peer(zmq.DEALER, connect=broker.endpoint)
        worker.send_multipart([*head, b"\x01", b"echo"])
        until(lambda: broker.statistics().workers == 1, "it is registered")
        stopping = asyncio.run_coroutine_threadsafe(broker.stop(), reactor.reactor.loop)
        assert worker.recv_multipart() == disconnect
        worker.send_multipart([*head, b"\x01", b"echo"])
        assert worker.recv_multipart() == disconnect
        assert not stopping.done()
        stopping.cancel()
        reactor.stop(broker, 0.0)

    def test_its_address_is_free_again(self, reactor):
        first = reactor.start(Broker(FREE))
        endpoint = first.endpoint
        reactor.stop(first)
        second = reactor.start(Broker(endpoint))
        assert second.endpoint == endpoint


class TestMisuse:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"heartbeat_interval": 0}, "heartbeat_interval must be a positive number"),
            ({"heartbeat_interval": -1}, "heartbeat_interval must be a positive number"),
            ({"liveness": 0}, "liveness must be at least 1"),
            ({"queue_max": 0}, "queue_max must be at least 1"),
            ({"queue_bytes_max": 0}, "queue_bytes_max must be at least 1"),
            ({"services_max": 0}, "services_max must be at least 1"),
            ({"request_ttl": 0}, "request_ttl must be a positive number"),
            ({"deliveries_max": 0}, "deliveries_max must be at least 1"),
            ({"held_bytes_max": 0}, "held_bytes_max must be at least 1"),
            ({"on_worker_loss": "ignore"}, "on_worker_loss must be 'retry' or 'fail'"),
        ],
    )
    def test_values_that_make_no_sense(self, options, text):
        with pytest.raises(ValueError, match=text):
            Broker(FREE, **options)

    @pytest.mark.parametrize("endpoints", [(), ("nonsense",), (FREE, "tcp://127.0.0.1")])
    def test_addresses_that_are_none(self, endpoints):
        with pytest.raises(EndpointError):
            Broker(*endpoints)
