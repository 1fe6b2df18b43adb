"""A message of too many frames is dropped by whom it reaches. Nobody may wait for it for ever: the lane of a worker
whose reply, or whose request, was dropped so would never be given another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import pytest
import zmq

from tests.waiting import DEADLINE, until
from zpatterns.bstar import BinaryStarClient
from zpatterns.errors import RemoteError, RequestTimeout
from zpatterns.freelance import FreelanceClient
from zpatterns.mdp import Broker, Client, Worker
from zpatterns.pirate import LazyPirateClient, LazyPirateServer, SimplePirateQueue, SimplePirateWorker
from zpatterns.sockets import ENVELOPE, SocketSettings
from zpatterns.testing import BackgroundReactor

ANY = "tcp://127.0.0.1:*"
NARROW = SocketSettings(frames_max=16)
BODY_MAX = NARROW.frames_max - ENVELOPE


def frames(request: Any) -> list[bytes]:
    """A handler: as many frames as it is asked for."""
    return [b"x"] * int(request.body)


@pytest.fixture(scope="module")
def background() -> Iterator[BackgroundReactor]:
    with BackgroundReactor() as background:
        yield background


@pytest.fixture
def start(background) -> Callable[..., Any]:
    def start_worker(
        version: Literal["auto", "0.1", "0.2"] = "auto", handler: Callable[[Any], Any] | None = None
    ) -> Any:
        broker = background.start(Broker(ANY, heartbeat_interval=0.1, liveness=100, settings=NARROW))
        worker = partial(Worker, service="any", handler=handler, protocol=version, settings=NARROW)
        background.start(worker(broker.endpoint, heartbeat_interval=0.1, liveness=100))
        return broker

    return start_worker


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_a_request_of_any_length_leaves_the_worker_with_the_next_one(start, background, peer, version):
    broker = start(version)
    head = [b"", b"MDPC01", b"any"] if version == "0.1" else [b"MDPC02", b"\x01", b"any"]
    lengths = range(BODY_MAX - 1, NARROW.frames_max + 2)
    for length in lengths:
        peer(zmq.DEALER, connect=broker.endpoint).send_multipart([*head, *[b"x"] * length])

    def all_came() -> bool:
        told = background.call(broker.statistics)
        return bool(told.requests + told.dropped.get("too-many-frames", 0) >= len(lengths))

    until(all_came, "the broker has them all")
    with Client(broker.endpoint, timeout=DEADLINE, retries=0) as client:
        assert client.request("any", *[b"y"] * BODY_MAX) == [b"y"] * BODY_MAX


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_a_reply_of_too_many_frames_is_an_error(start, version):
    with Client(start(version, frames).endpoint, timeout=DEADLINE, retries=0) as client:
        assert len(client.request("any", str(BODY_MAX))) == BODY_MAX
        with pytest.raises(RemoteError, match=f"a reply of {BODY_MAX + 1} frames; {BODY_MAX} is the most") as caught:
            client.request("any", str(BODY_MAX + 1))
        assert caught.value.code == "too-large"
        assert client.request("any", "1") == [b"x"]


def test_a_part_of_too_many_frames_is_an_error(start):
    def parts(request):
        yield b"a part"
        yield frames(request)

    with Client(start("0.2", parts).endpoint, timeout=DEADLINE) as client:
        stream = client.stream("any", str(BODY_MAX + 1))
        assert next(stream) == [b"a part"]
        with pytest.raises(RemoteError, match="too-large"):
            next(stream)
        assert list(client.stream("any", "2")) == [[b"a part"], [b"x", b"x"]]


def test_parts_that_are_too_many_for_one_reply_leave_the_lane_with_the_next_request(start):
    def parts(request):
        for _ in range(int(request.body)):
            yield b"x"

    with Client(start("0.1", parts).endpoint, timeout=DEADLINE, retries=0) as client:
        with pytest.raises(RemoteError, match="502"):  # lost with it, three times
            client.request("any", str(NARROW.frames_max))
        assert client.request("any", "2") == [b"x", b"x", b""]


def test_a_simple_pirate_worker_has_a_next_request_too(background):
    def parts(request):
        for _ in range(int(request.body)):
            yield b"x"

    queue = background.start(SimplePirateQueue(ANY, ANY, settings=NARROW))
    background.start(SimplePirateWorker(queue.backend, handler=parts, settings=NARROW))
    with LazyPirateClient(queue.frontend, timeout=DEADLINE, retries=0) as client:
        with pytest.raises(RequestTimeout):  # the worker comes back with nothing: this pattern promises no more
            client.request(str(NARROW.frames_max), timeout=0.3)
        assert client.request("2") == [b"x", b"x", b""]


def test_a_server_without_broker_says_so(background):
    server = background.start(LazyPirateServer(ANY, handler=frames, settings=NARROW))
    with LazyPirateClient(server.endpoint, timeout=DEADLINE, settings=NARROW) as client:
        with pytest.raises(RemoteError, match="too-large"):
            client.request("100")
        assert client.request("2") == [b"x", b"x"]


@pytest.mark.parametrize("kind", [Client, LazyPirateClient, FreelanceClient, BinaryStarClient])
def test_a_request_of_too_many_frames_is_refused_at_once(kind):
    most = SocketSettings().frames_max - ENVELOPE
    name = ("any",) if kind is Client else ()
    with kind("tcp://127.0.0.1:1", timeout=DEADLINE) as client:
        with pytest.raises(ValueError, match=f"a request of {most + 1} frames; {most} is the most"):
            client.request(*name, *[b"x"] * (most + 1))
        with pytest.raises(RequestTimeout):
            client.request(*name, *[b"x"] * most, timeout=0.01)
