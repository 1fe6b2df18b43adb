"""Faults of the Guide's programs, of pyzmq's ways, and of our own drivers, that only real sockets show."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest
import zmq

from tests.mdp.live import Peers, serving
from tests.waiting import DEADLINE, until
from zpatterns.core import Event, PortId, SendFailure, SocketKind
from zpatterns.errors import RemoteError, RequestTimeout
from zpatterns.handlers import Request
from zpatterns.mdp import AsyncClient, Broker, Client, Worker
from zpatterns.sockets import Link, SocketSettings
from zpatterns.testing import ReservedPort


async def echo(request: Request) -> object:
    return request.frames


# Majordomo.


def test_majordomo_heartbeats_do_not_stop_while_a_plain_handler_runs():
    done = threading.Event()

    def spin(request: Request) -> str:
        while not done.is_set():
            sum(range(1000))
        return "done"

    with Peers() as peers:
        broker = peers.socket(zmq.ROUTER)
        port = broker.bind_to_random_port("tcp://127.0.0.1")
        # This broker is silent: it is to be believed in for as long as that takes.
        worker = Worker(f"tcp://127.0.0.1:{port}", service="spin", handler=spin, heartbeat_interval=0.1, liveness=200)
        with serving(worker):
            peer, *ready = broker.recv_multipart()
            assert ready == [b"", b"MDPW01", b"\x01", b"spin"]
            try:
                broker.send_multipart([peer, b"", b"MDPW01", b"\x02", b"client", b"", b"go"])
                for _ in range(6):
                    assert broker.recv_multipart() == [peer, b"", b"MDPW01", b"\x04"], "and on the same connection"
            finally:
                done.set()
            while (frames := broker.recv_multipart())[3] == b"\x04":
                pass
            assert frames == [peer, b"", b"MDPW01", b"\x03", b"client", b"", b"done"]


# Clients.


def test_clients_a_request_the_caller_gave_up_on_is_not_delivered_when_the_server_returns():
    with Peers() as peers, ReservedPort() as port, Client(port.endpoint, timeout=0.3, retries=2) as client:
        for _ in range(3):
            with pytest.raises(RequestTimeout):
                client.request("echo", b"given up")
        server = peers.socket(zmq.ROUTER)
        server.bind(port.endpoint)
        thread = threading.Thread(target=client.request, args=("echo", b"wanted"), kwargs={"timeout": DEADLINE})
        thread.start()
        peer, *frames = server.recv_multipart()
        assert frames == [b"", b"MDPC01", b"echo", b"wanted"], "the first that arrives"
        server.send_multipart([peer, b"", b"MDPC01", b"echo", b"fine"])
        thread.join(DEADLINE)
        assert not thread.is_alive()
        assert not server.poll(0), "and the only one"


def test_clients_reconnects_are_drawn_at_random():
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    intervals: list[int] = []
    try:
        for seed in range(20):
            link = Link(context, SocketKind.DEALER, 1, SocketSettings(reconnect_first=0.2), random.Random(seed))
            socket = link.poll_item()
            intervals.append(int(socket.getsockopt(zmq.RECONNECT_IVL)))
            assert socket.getsockopt(zmq.RECONNECT_IVL_MAX) == 1000
            assert socket.getsockopt(zmq.IMMEDIATE) == 1
            link.close(0)
    finally:
        context.destroy(linger=0)
    assert len(set(intervals)) > 10
    assert min(intervals) >= 100
    assert max(intervals) <= 300


# pyzmq underneath.


def test_pyzmq_an_exception_in_a_callback_does_not_wedge_the_socket():
    """A ZMQStream whose callback raises never calls again."""
    heard: list[Event] = []

    def explode(event: Event) -> None:
        heard.append(event)
        raise RuntimeError("the application's own fault")

    broker = Broker("tcp://127.0.0.1:*", on_event=explode)
    with serving(broker), Peers() as peers:
        for number in range(20):
            worker = peers.socket(zmq.DEALER, broker.endpoint)
            worker.send_multipart([b"", b"MDPW01", b"\x01", b"s%d" % number])
            until(lambda number=number: len(heard) > number, "the event of the registration")  # type: ignore[misc]
            client = peers.socket(zmq.REQ, broker.endpoint)
            client.send_multipart([b"MDPC01", b"mmi.service", b"s%d" % number])
            assert client.recv_multipart() == [b"MDPC01", b"mmi.service", b"200"]


def test_pyzmq_an_exception_in_the_core_itself_costs_one_batch():
    broker = Broker("tcp://127.0.0.1:*")
    core = broker._core
    receive_many = core.receive_many
    calls = []

    def fail_now_and_then(*args, **kwargs):
        calls.append(args)
        if len(calls) % 2:
            raise RuntimeError("a fault that nobody has found yet")
        receive_many(*args, **kwargs)

    core.receive_many = fail_now_and_then  # type: ignore[method-assign]
    with serving(broker), Client(broker.endpoint, timeout=DEADLINE, attempt_timeout=0.1, retries=100) as client:
        for _ in range(5):
            assert client.has_service("nothing") is False
    assert len(calls) >= 10


def test_pyzmq_a_handler_that_raises_anything_at_all_costs_one_request():
    def handle(request: Request) -> object:
        if request.body == b"exit":
            raise SystemExit(3)
        if request.body == b"nothing to send":
            return object()
        return request.frames

    broker = Broker("tcp://127.0.0.1:*")
    with serving(broker):
        worker = Worker(broker.endpoint, service="odd", handler=handle)
        with serving(worker), Client(broker.endpoint, timeout=DEADLINE, retries=0) as client:
            for body, code in (("exit", "SystemExit"), ("nothing to send", "TypeError")) * 3:
                with pytest.raises(RemoteError) as error:
                    client.request("odd", body)
                assert error.value.code == code
                assert client.request("odd", b"well") == [b"well"]
            assert worker.statistics().ready_sent == 1


def test_pyzmq_one_full_peer_does_not_stop_the_loop():
    """A send without NOBLOCK on a mandatory ROUTER waits for the one peer that never reads."""
    settings = SocketSettings(send_hwm=10, outbox_max=10, receive_hwm=1000)
    broker = Broker("tcp://127.0.0.1:*", settings=settings)
    body = b"x" * 100_000
    with serving(broker):
        worker = Worker(broker.endpoint, service="echo", handler=echo)
        with serving(worker), Peers() as peers, Client(broker.endpoint, timeout=DEADLINE, retries=0) as client:
            client.request("echo", b"there?")
            deaf = peers.socket(zmq.DEALER, broker.endpoint, rcvhwm=1, sndhwm=0, rcvbuf=8192)
            sent = 0
            while broker.statistics().undelivered == 0:
                assert sent < 5000, "nothing was ever dropped"
                for _ in range(20):
                    deaf.send_multipart([b"", b"MDPC01", b"echo", body])
                    sent += 1
                assert client.request("echo", b"%d" % sent) == [b"%d" % sent], "a neighbour is served all the while"
            assert "client-overflow" in broker.statistics().dropped


async def _cancel_and_ask(endpoint: str) -> None:
    rng = random.Random(7)
    async with AsyncClient(endpoint, timeout=DEADLINE, retries=0, max_in_flight=8) as client:
        await client.request("echo", b"warm up")
        asked = answered = 0
        while client.statistics().cancelled < 10 or asked < 200:
            asked += 1
            assert asked < 5000, "hardly any call was given up"
            body = b"%d" % asked
            try:
                reply = await asyncio.wait_for(client.request("echo", body), rng.random() * 0.002)
            except TimeoutError:
                pass
            else:
                answered += 1
                assert reply == [body]
            # Whatever became of it, the next is answered, and with its own reply.
            assert await client.request("echo", b"after " + body) == [b"after " + body]
        statistics = client.statistics()
        assert (statistics.in_flight, statistics.waiting) == (0, 0)
        # Each call ended once; a reply may have come in the very turn in which its caller gave up.
        assert statistics.replies + statistics.cancelled == statistics.calls
        assert statistics.replies >= 1 + answered + asked


def test_pyzmq_a_call_that_is_cancelled_by_wait_for_loses_no_message_of_another():
    """A recv that is cancelled between its two halves has taken a message that nobody gets."""
    broker = Broker("tcp://127.0.0.1:*")
    with serving(broker):
        worker = Worker(broker.endpoint, service="echo", handler=echo, concurrency=4)
        with serving(worker):
            asyncio.run(_cancel_and_ask(broker.endpoint))


# Our own.


def test_driver_a_port_that_is_closed_and_opened_in_one_turn_keeps_what_it_is_to_send():
    """A worker that stood still for a lease registers anew at once: its READY was thrown away with the Close."""
    with Peers() as peers:
        broker = peers.socket(zmq.ROUTER)
        port = broker.bind_to_random_port("tcp://127.0.0.1")
        worker = Worker(f"tcp://127.0.0.1:{port}", service="echo", handler=echo, heartbeat_interval=60)
        with serving(worker):
            first, *ready = broker.recv_multipart()
            assert ready == [b"", b"MDPW01", b"\x01", b"echo"]
            driver = worker._drivers[0]
            driver.call_threadsafe(driver.core.handle_timer, driver.now() + 1000)
            second, *ready = broker.recv_multipart()
            assert ready == [b"", b"MDPW01", b"\x01", b"echo"]
            assert second != first, "over a new socket"


def test_driver_a_stream_has_no_hole_when_its_client_takes_no_more():
    """Streams: "Once one PARTIAL was dropped, nothing more of that request is sent, FINAL included": nor what came from
    the core in the same turn, and would still have fitted."""
    settings = SocketSettings(send_hwm=2, outbox_max=100, outbox_bytes_max=1000)
    with Peers() as peers:
        link = Link(peers.context, SocketKind.ROUTER, 1, settings, random.Random(1))
        try:
            endpoint = link.bind("inproc://stream")
            client = peers.socket(zmq.DEALER, endpoint, rcvhwm=2, identity=b"client")
            client.send(b"hello")
            until(lambda: link.receive(1), "connected")
            failures: list[tuple[PortId, list[bytes], SendFailure]] = []
            while not link.blocked:
                link.send([[b"client", b"before"]], 0.0, failures)
            assert failures == []
            huge, small = [b"client", b"PARTIAL", b"x" * 2000], [b"client", b"FINAL", b"y"]
            link.send([huge, small], 0.0, failures)
            assert [(frames[1], reason) for _, frames, reason in failures] == [
                (b"PARTIAL", SendFailure.OVERFLOW),
                (b"FINAL", SendFailure.OVERFLOW),
            ]
            failures.clear()

            def emptied() -> bool:
                while client.poll(0):
                    assert client.recv_multipart() == [b"before"]
                link.flush(1.0, failures, force=True)
                return not link.blocked

            until(emptied, "empty")
            link.send([[b"client", b"after"]], 1.0, failures)
            assert failures == []
            while (frames := client.recv_multipart()) != [b"after"]:
                assert frames == [b"before"]
        finally:
            link.close(0)
