"""FreelanceServer over real sockets, asked by plain ones."""

from __future__ import annotations

import asyncio
import threading

import pytest
import zmq

from tests.waiting import DEADLINE, until
from zpatterns.errors import EndpointError
from zpatterns.freelance import FreelanceServer, Request
from zpatterns.testing import BackgroundReactor

LOOPBACK = "tcp://127.0.0.1:*"


@pytest.fixture
def serve():
    with BackgroundReactor() as reactor:

        def start(handler=None, kind=FreelanceServer, **options):
            if options.get("model", "addressed") == "addressed":
                options.setdefault("identity", "server")
            return reactor.start(kind(LOOPBACK, handler=handler, **options))

        yield start


def addressed(peer, server):
    """A ROUTER that knows the server as ``s``."""
    socket = peer(zmq.ROUTER, CONNECT_ROUTING_ID=b"s")
    socket.connect(server.endpoint)
    return socket


def shout(request: Request) -> list[bytes]:
    return [frame.upper() for frame in request.frames]


async def shout_async(request: Request) -> list[bytes]:
    await asyncio.sleep(0)
    return shout(request)


class Shouting(FreelanceServer):
    def handle(self, request: Request) -> object:
        return shout(request)


@pytest.mark.parametrize("handler", [shout, shout_async, None])
def test_a_handler_in_each_form(serve, peer, handler):
    server = serve(handler, kind=FreelanceServer if handler else Shouting)
    client = addressed(peer, server)
    client.send_multipart([b"s", b"ccf", b"a", b"", b"b"])
    assert client.recv_multipart() == [b"s", b"ccf", b"A", b"", b"B"]


def test_without_one_it_echoes(serve, peer):
    client = addressed(peer, serve())
    client.send_multipart([b"s", b"1", b"x", b"y"])
    assert client.recv_multipart() == [b"s", b"1", b"x", b"y"]


def test_pings_are_answered_while_a_handler_computes(serve, peer):
    release = threading.Event()
    client = addressed(peer, serve(lambda request: release.wait(DEADLINE) and b"done"))
    client.send_multipart([b"s", b"1", b"x"])
    for _ in range(3):
        client.send_multipart([b"s", b"PING"])
        assert client.recv_multipart() == [b"s", b"PONG"]
    release.set()
    assert client.recv_multipart() == [b"s", b"1", b"done"]


def test_concurrency_is_that_many_handlers_at_a_time(serve, peer):
    together = threading.Barrier(3)

    def meet(request: Request) -> bytes:
        together.wait(DEADLINE)
        return request.body

    client = addressed(peer, serve(meet, concurrency=3))
    for number in range(6):
        client.send_multipart([b"s", b"%d" % number, b"x"])
    assert sorted(client.recv_multipart()[1] for _ in range(6)) == [b"%d" % number for number in range(6)]


def test_a_handler_that_raises_costs_its_request_only(serve, peer):
    def fail(request: Request) -> bytes:
        if request.body == b"bad":
            raise ValueError("no such thing")
        return b"fine"

    client = addressed(peer, serve(fail))
    client.send_multipart([b"s", b"1", b"bad"])
    assert client.recv_multipart() == [b"s", b"1", b"\x00ZPATTERNS-ERROR\x00", b"ValueError", b"no such thing"]
    client.send_multipart([b"s", b"2", b"good"])
    assert client.recv_multipart() == [b"s", b"2", b"fine"]


def test_a_req_of_the_failover_model(serve, peer):
    client = peer(zmq.REQ, connect=serve(shout, model="failover").endpoint)
    client.send_multipart([b"a", b"b"])
    assert client.recv_multipart() == [b"A", b"B"]


def test_a_dealer_of_the_shotgun_model(serve, peer):
    client = peer(zmq.DEALER, connect=serve(shout, model="shotgun").endpoint)
    client.send_multipart([b"", b"12", b"a", b"b"])
    client.send_multipart([b"", b"13", b"c"])
    assert client.recv_multipart() == [b"", b"13", b"C"]


def test_draining_finishes_what_was_begun(peer):
    release, begun = threading.Event(), threading.Event()

    def hold(request: Request) -> bytes:
        begun.set()
        release.wait(DEADLINE)
        return b"finished"

    with BackgroundReactor() as reactor:
        server = reactor.start(FreelanceServer(LOOPBACK, handler=hold, identity="server"))
        client = addressed(peer, server)
        client.send_multipart([b"s", b"1", b"x"])
        client.send_multipart([b"s", b"2", b"y"])
        assert begun.wait(DEADLINE)
        until(lambda: server.statistics().queued == 1, "the other one waits")
        stopping = asyncio.run_coroutine_threadsafe(server.stop(drain=DEADLINE), reactor.reactor.loop)
        assert client.recv_multipart()[:4] == [b"s", b"2", b"\x00ZPATTERNS-ERROR\x00", b"503"]
        release.set()
        assert client.recv_multipart() == [b"s", b"1", b"finished"]
        stopping.result(DEADLINE)


def test_several_endpoints_and_figures(peer):
    with BackgroundReactor() as reactor:
        server = reactor.start(FreelanceServer(LOOPBACK, LOOPBACK, identity=b"both"))
        assert len(set(server.endpoints)) == 2
        for number, endpoint in enumerate(server.endpoints):
            client = peer(zmq.ROUTER, CONNECT_ROUTING_ID=b"s")
            client.connect(endpoint)
            client.send_multipart([b"s", b"%d" % number, b"x"])
            assert client.recv_multipart() == [b"s", b"%d" % number, b"x"]
        assert server.statistics().replies == 2


class TestIdentity:
    @pytest.mark.parametrize("bind", ["tcp://127.0.0.1:5555", "tcp://host.example:5555", "ipc:///tmp/x", "inproc://x"])
    def test_by_default_it_is_what_it_binds(self, bind):
        assert FreelanceServer(bind, "tcp://127.0.0.1:6666").identity == bind.encode()

    @pytest.mark.parametrize(
        "bind", ["tcp://*:5555", "tcp://0.0.0.0:5555", "tcp://[::]:5555", "tcp://127.0.0.1:*", "tcp://127.0.0.1:0"]
    )
    def test_with_a_wildcard_it_must_be_said(self, bind):
        with pytest.raises(EndpointError, match="say it with identity"):
            FreelanceServer(bind)
        assert FreelanceServer(bind, identity="tcp://localhost:5555").identity == b"tcp://localhost:5555"
        for model in ("failover", "shotgun"):
            assert FreelanceServer(bind, model=model).identity == b""

    @pytest.mark.parametrize("identity", ["", b"\x00abc", "x" * 256])
    def test_what_zeromq_does_not_take(self, identity):
        with pytest.raises(ValueError, match="identity must be 1 to 255 bytes"):
            FreelanceServer(LOOPBACK, identity=identity)

    def test_other_models_have_none(self):
        with pytest.raises(ValueError, match="only the addressed model has an identity"):
            FreelanceServer(LOOPBACK, identity="x", model="shotgun")


class TestMisuse:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"concurrency": 0}, "concurrency must be at least 1"),
            ({"concurrency": 1001}, "concurrency must be at least 1 and at most 1000, not 1001"),
            ({"queue_max": 0}, "queue_max must be at least 1"),
            ({"request_ttl": 0}, "request_ttl must be a positive number"),
            ({"model": "lucky"}, "model must be"),
        ],
    )
    def test_values_that_make_no_sense(self, options, text):
        with pytest.raises(ValueError, match=text):
            FreelanceServer(LOOPBACK, identity="x", **options)

    def test_endpoints_that_are_none(self):
        with pytest.raises(EndpointError, match="FreelanceServer needs at least one endpoint"):
            FreelanceServer()
        with pytest.raises(EndpointError):
            FreelanceServer("nonsense")

    def test_a_generator_cannot_serve(self):
        def parts(request: Request):
            yield b"part"

        with pytest.raises((ValueError, TypeError), match="cannot be a generator"):
            FreelanceServer(LOOPBACK, handler=parts, identity="x")
