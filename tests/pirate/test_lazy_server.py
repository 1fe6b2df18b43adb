"""The Lazy Pirate server over real sockets: plain REQ clients, hostile ones, handlers of every kind, and its end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import zmq

from tests.waiting import DEADLINE, eventually, until
from zpatterns.core import Event, MessagesDropped
from zpatterns.errors import ClosedError, EndpointError
from zpatterns.handlers import Request
from zpatterns.pirate import LazyPirateServer
from zpatterns.server_core import HandlerFailed
from zpatterns.testing import BackgroundReactor

LOOPBACK = "tcp://127.0.0.1:*"
ERROR = b"\x00ZPATTERNS-ERROR\x00"


@pytest.fixture
def reactor() -> Iterator[BackgroundReactor]:
    with BackgroundReactor() as reactor:
        yield reactor


@pytest.fixture
def serve(reactor: BackgroundReactor) -> Callable[..., LazyPirateServer]:
    """Starts servers: ``serve(handler)``."""

    def start(handler: Callable[[Request], Any] | None = None, **options: Any) -> LazyPirateServer:
        return reactor.start(LazyPirateServer(LOOPBACK, handler=handler, **options))

    return start


@pytest.fixture
def ask(peer: Callable[..., zmq.Socket[bytes]]) -> Callable[..., list[bytes]]:
    """One request of a plain REQ: ``ask(server, b"hello")``."""

    def once(server: LazyPirateServer, *body: bytes) -> list[bytes]:
        req = peer(zmq.REQ, connect=server.endpoint)
        req.send_multipart(body)
        return req.recv_multipart()

    return once


class Greeter(LazyPirateServer):
    def handle(self, request: Request) -> str:
        return f"hello {request.body.decode()}, of {threading.current_thread().name}"


class Shouter(LazyPirateServer):
    async def handle(self, request: Request) -> list[bytes]:
        return [frame.upper() for frame in request.frames]


class TestHandlers:
    @pytest.mark.parametrize("body", [[b"hello"], [b""], [b"one", b"", b"three"], [b"x" * 1_000_000]])
    def test_without_a_handler_it_echoes(self, serve, ask, body):
        assert ask(serve(), *body) == body

    def test_a_plain_function_runs_in_a_thread_of_its_own(self, serve, ask):
        def reverse(request: Request) -> bytes:
            assert threading.current_thread() is not threading.main_thread()
            assert request.service == ""
            assert request.client
            return request.body[::-1]

        assert ask(serve(reverse), b"abc") == [b"cba"]

    def test_a_coroutine_runs_on_the_loop(self, serve, ask):
        async def shout(request: Request) -> list[bytes]:
            await asyncio.sleep(0)
            return [frame.upper() for frame in request.frames]

        assert ask(serve(shout), b"a", b"b") == [b"A", b"B"]

    def test_a_subclass(self, reactor, ask):
        assert ask(reactor.start(Greeter(LOOPBACK)), b"you") == [b"hello you, of pirate.server:0"]
        assert ask(reactor.start(Shouter(LOOPBACK)), b"you") == [b"YOU"]

    def test_what_returns_nothing_answers_one_empty_frame(self, serve, ask):
        assert ask(serve(lambda request: None), b"x") == [b""]

    @pytest.mark.parametrize("kind", ["function", "coroutine"])
    def test_one_that_raises_costs_that_one_request(self, serve, ask, kind):
        def fail(request: Request) -> bytes:
            if request.body == b"bad":
                raise LookupError("no such thing")
            return request.body

        async def fail_on_the_loop(request: Request) -> bytes:
            return fail(request)

        events: list[Event] = []
        server = serve(fail if kind == "function" else fail_on_the_loop, on_event=events.append)
        assert ask(server, b"bad") == [ERROR, b"LookupError", b"no such thing"]
        assert ask(server, b"good") == [b"good"]
        assert [event for event in events if isinstance(event, HandlerFailed)] == [
            HandlerFailed("LookupError", "no such thing")
        ]

    def test_a_function_that_returns_a_generator_is_an_error(self, serve, ask):
        def sneaky(request: Request) -> Any:
            return (part for part in [b"one", b"two"])

        server = serve(sneaky)
        assert ask(server, b"x")[:2] == [ERROR, b"TypeError"]
        assert ask(server, b"x")[:2] == [ERROR, b"TypeError"], "and its lane goes on"

    def test_what_cannot_be_sent_is_an_error(self, serve, ask):
        assert ask(serve(lambda request: 42), b"x")[:2] == [ERROR, b"TypeError"]


class TestManyClients:
    def test_each_gets_its_own_answer(self, serve, peer):
        server = serve(concurrency=3)
        clients = [peer(zmq.REQ, connect=server.endpoint) for _ in range(30)]
        for turn in range(5):
            for number, client in enumerate(clients):
                client.send(b"%d of %d" % (turn, number))
            for number, client in enumerate(clients):
                assert client.recv() == b"%d of %d" % (turn, number)

    def test_concurrency_is_how_many_are_served_at_a_time(self, serve, peer):
        together = threading.Barrier(3)

        def meet(request: Request) -> bytes:
            together.wait(DEADLINE)
            return request.body

        server = serve(meet, concurrency=3)
        clients = [peer(zmq.REQ, connect=server.endpoint) for _ in range(3)]
        for client in clients:
            client.send(b"x")
        assert [client.recv() for client in clients] == [b"x"] * 3

    def test_one_that_asks_ahead_is_answered_as_often(self, serve, peer):
        """A DEALER, or a proxy, may have many requests open; each envelope comes back as it went."""
        dealer = peer(zmq.DEALER, connect=serve(concurrency=2).endpoint)
        for number in range(20):
            dealer.send_multipart([b"hop %d" % number, b"", b"%d" % number])
        answers = [dealer.recv_multipart() for _ in range(20)]
        assert sorted(answers) == sorted([b"hop %d" % number, b"", b"%d" % number] for number in range(20))

    def test_through_a_proxy_of_router_and_dealer(self, serve, peer):
        """The extended envelope of the Guide's request-reply broker."""
        server = serve()
        front = peer(zmq.ROUTER, bind=LOOPBACK)
        back = peer(zmq.DEALER, connect=server.endpoint)
        client = peer(zmq.REQ, connect=front.getsockopt(zmq.LAST_ENDPOINT))
        client.send(b"hello")
        back.send_multipart(front.recv_multipart())
        front.send_multipart(back.recv_multipart())
        assert client.recv() == b"hello"

    def test_a_full_queue_refuses_the_newest(self, serve, reactor, peer):
        release = threading.Event()

        def hold(request: Request) -> bytes:
            release.wait(DEADLINE)
            return request.body

        server = serve(hold, queue_max=1)

        def has_come(count: int) -> bool:
            return bool(reactor.call(server.statistics).requests == count)

        clients = []
        for number in range(2):
            clients.append(peer(zmq.REQ, connect=server.endpoint))
            clients[-1].send(b"%d" % number)
            until(partial(has_come, number + 1), "it has come")
        newest = peer(zmq.REQ, connect=server.endpoint)
        newest.send(b"newest")
        assert newest.recv_multipart() == [ERROR, b"429", b"the server's queue is full"]
        release.set()
        assert [client.recv() for client in clients] == [b"0", b"1"]
        statistics = reactor.call(server.statistics)
        assert (statistics.requests, statistics.replies, statistics.refused) == (3, 2, 1)


class TestHostile:
    def test_no_frames_wedge_it(self, serve, reactor, peer, ask):
        events: list[Event] = []
        server = serve(on_event=events.append)
        hostile = peer(zmq.DEALER, connect=server.endpoint)
        messages = [[b"x"], [b""], [b"x", b"y"], [b"x", b""], [b"x" * 100_000], [b"\x01"] * 300]
        for frames in messages:
            hostile.send_multipart(frames)
        assert ask(server, b"still there?") == [b"still there?"]

        def dropped() -> list[MessagesDropped]:
            return [event for event in events if isinstance(event, MessagesDropped)]

        until(lambda: sum(event.count for event in dropped()) == len(messages), "each is counted")
        assert {event.reason for event in dropped()} <= {"invalid", "too-many-frames"}

    def test_one_that_never_reads_its_answers_disturbs_nobody(self, serve, reactor, peer, ask):
        server = serve()
        hostile = peer(zmq.DEALER, connect=server.endpoint, RCVHWM=1, SNDHWM=10_000)
        for number in range(4000):
            hostile.send_multipart([b"", b"%d" % number, b"x" * 1000])
        assert ask(server, b"still there?")[-1] in (b"still there?", b"the server's queue is full")
        until(lambda: reactor.call(server.statistics).requests >= 4001, "all was read")
        assert ask(server, b"and now?") == [b"and now?"]

    def test_a_client_that_leaves_costs_its_own_answer(self, serve, reactor, peer, ask):
        begun, release = threading.Event(), threading.Event()

        def hold(request: Request) -> bytes:
            if request.body == b"hold":
                begun.set()
                release.wait(DEADLINE)
            return request.body

        server = serve(hold)
        leaving = peer(zmq.REQ, connect=server.endpoint)
        leaving.send(b"hold")
        assert begun.wait(DEADLINE)
        leaving.close(0)
        probe = partial(ask, server, b"next")
        release.set()
        assert probe() == [b"next"]
        # ZeroMQ may learn that it is gone only after it took the answer.
        until(lambda: reactor.call(server.statistics).replies >= 2, "both were answered")


class TestItsLife:
    def test_the_endpoint_is_the_real_one(self, serve):
        server = serve()
        assert server.endpoint.startswith("tcp://127.0.0.1:")
        assert "*" not in server.endpoint

    def test_it_may_listen_in_several_places(self, reactor, peer):
        server = reactor.start(LazyPirateServer(LOOPBACK, LOOPBACK))
        assert len(set(server.endpoints)) == 2
        for endpoint in server.endpoints:
            req = peer(zmq.REQ, connect=endpoint)
            req.send(b"hello")
            assert req.recv() == b"hello"

    def test_draining_answers_what_was_begun_and_refuses_what_waits(self, serve, reactor, peer):
        begun, release = threading.Event(), threading.Event()

        def hold(request: Request) -> bytes:
            begun.set()
            release.wait(DEADLINE)
            return request.body

        server = serve(hold)
        running, waiting = (peer(zmq.REQ, connect=server.endpoint) for _ in range(2))
        running.send(b"running")
        assert begun.wait(DEADLINE)
        waiting.send(b"waiting")
        until(lambda: reactor.call(server.statistics).queued == 1, "one waits")
        stopping = asyncio.run_coroutine_threadsafe(server.stop(drain=DEADLINE), reactor.reactor.loop)
        assert waiting.recv_multipart() == [ERROR, b"503", b"the server is shutting down; ask another one"]
        assert not stopping.done()
        release.set()
        assert running.recv() == b"running"
        stopping.result(DEADLINE)

    def test_stopping_without_patience_cancels_a_coroutine(self, serve, reactor, peer):
        ended: list[str] = []

        async def hold(request: Request) -> bytes:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            return b"never"

        server = serve(hold)
        peer(zmq.REQ, connect=server.endpoint).send(b"x")
        until(lambda: reactor.call(server.statistics).running == 1, "it runs")
        reactor.stop(server, drain=0.0)
        until(lambda: ended, "it was cancelled")

    def test_it_runs_once(self):
        async def main() -> None:
            async with LazyPirateServer(LOOPBACK) as server:
                with pytest.raises(ClosedError, match="was started before"):
                    await server.start()
            await server.stop()
            with pytest.raises(ClosedError):
                await server.start()

        asyncio.run(main())

    def test_it_leaves_no_thread_behind(self, peer):
        before = threading.active_count()

        async def main() -> None:
            async with LazyPirateServer(LOOPBACK, handler=lambda request: request.frames, concurrency=3) as server:
                req = peer(zmq.REQ, connect=server.endpoint)
                req.send(b"x")
                await eventually(lambda: server.statistics().replies == 1, "it is answered")

        asyncio.run(main())
        until(lambda: threading.active_count() <= before, "its lanes have ended")


class TestMisuse:
    @pytest.mark.parametrize("name", ["concurrency", "queue_max", "queue_bytes_max"])
    def test_limits_are_at_least_one(self, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1"):
            LazyPirateServer(LOOPBACK, **{name: 0})  # type: ignore[arg-type]

    def test_a_generator_cannot_serve(self):
        def stream(request: Request) -> Iterator[bytes]:
            yield b"part"

        with pytest.raises(ValueError, match="the clients of a LazyPirateServer get one answer"):
            LazyPirateServer(LOOPBACK, handler=stream)

    def test_a_handler_can_be_called(self):
        with pytest.raises(TypeError, match="handler must be a function"):
            LazyPirateServer(LOOPBACK, handler=42)  # type: ignore[arg-type]

    @pytest.mark.parametrize("endpoints", [(), ("nonsense",), (LOOPBACK, "tcp://")])
    def test_addresses_that_are_none(self, endpoints):
        with pytest.raises(EndpointError):
            LazyPirateServer(*endpoints)

    def test_an_address_that_is_taken(self, serve):
        async def main() -> None:
            with pytest.raises(EndpointError):
                await LazyPirateServer(serve().endpoint).start()

        asyncio.run(main())
