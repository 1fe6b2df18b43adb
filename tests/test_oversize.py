"""Messages of more than `frames_max` frames, which no core ever sees, count among what was dropped: at every front end,
for each has to add what its sockets dropped (B1)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial

import pytest
import zmq

from tests.example import endpoint_of, free_endpoint
from tests.mdp.callers import in_thread
from tests.waiting import DEADLINE, until
from zpatterns.bstar import BinaryStar, BinaryStarClient
from zpatterns.clone import Clone, CloneServer
from zpatterns.errors import ClosedError
from zpatterns.freelance import FreelanceClient, FreelanceServer
from zpatterns.mdp import AsyncClient, Broker, Client, Worker
from zpatterns.pirate import (
    LazyPirateClient,
    LazyPirateServer,
    ParanoidPirateQueue,
    ParanoidPirateWorker,
    SimplePirateQueue,
    SimplePirateWorker,
)
from zpatterns.sockets import ENVELOPE, SocketSettings
from zpatterns.testing import BackgroundReactor

ANY = "tcp://127.0.0.1:*"
NARROW = SocketSettings(frames_max=8)
TOO_MANY = [b"x"] * (NARROW.frames_max + ENVELOPE + 1)


@pytest.fixture(scope="module")
def background() -> Iterator[BackgroundReactor]:
    with BackgroundReactor() as background:
        yield background


@pytest.mark.parametrize(
    "make",
    [
        partial(Broker, ANY),
        partial(LazyPirateServer, ANY),
        partial(FreelanceServer, ANY, identity="any"),
        partial(CloneServer, ANY),
        partial(SimplePirateQueue, ANY, ANY),
        partial(ParanoidPirateQueue, ANY, ANY),
    ],
    ids=lambda make: make.func.__name__,
)
def test_what_a_server_dropped(background, peer, make):
    server = background.start(make(settings=NARROW))
    assert background.call(server.statistics).dropped == {}
    # A queue without workers does not read its clients.
    socket = peer(zmq.DEALER, connect=getattr(server, "backend", server.endpoint))
    socket.send_multipart(TOO_MANY)
    socket.send_multipart(TOO_MANY)
    until(lambda: background.call(server.statistics).dropped == {"too-many-frames": 2}, "both are counted")


def test_what_half_of_a_pair_dropped_is_its_services(background, peer):
    broker = Broker(ANY, settings=NARROW)
    star = background.start(BinaryStar(broker, primary=True, local=ANY, remote=free_endpoint()))
    peer(zmq.DEALER, connect=star.endpoint).send_multipart(TOO_MANY)
    until(lambda: background.call(broker.statistics).dropped == {"too-many-frames": 1}, "it is counted")
    assert background.call(star.statistics).dropped == {}


@pytest.mark.parametrize(
    "make",
    [partial(Worker, service="any"), SimplePirateWorker, ParanoidPirateWorker],
    ids=["Worker", "SimplePirateWorker", "ParanoidPirateWorker"],
)
def test_what_all_lanes_of_a_worker_dropped(background, peer, make):
    broker = peer(zmq.ROUTER, bind=ANY)
    worker = background.start(make(endpoint_of(broker), concurrency=2, settings=NARROW))
    lanes: set[bytes] = set()
    while len(lanes) < 2:
        lanes.add(broker.recv_multipart()[0])
    for lane in lanes:
        broker.send_multipart([lane, *TOO_MANY])
    until(lambda: background.call(worker.statistics).dropped == {"too-many-frames": 2}, "one of each lane is counted")


@pytest.mark.parametrize(
    ("make", "call"),
    [
        (Client, lambda client: client.request("any")),
        (LazyPirateClient, lambda client: client.request("any")),
        (FreelanceClient, lambda client: client.request("any")),
        (BinaryStarClient, lambda client: client.request("any")),
        (Clone, lambda client: client.wait()),
    ],
    ids=lambda each: each.__name__.replace("<lambda>", "call"),
)
def test_what_a_client_dropped(peer, make, call):
    server = peer(zmq.ROUTER, bind=ANY)
    client = make(endpoint_of(server), timeout=DEADLINE, settings=NARROW)
    assert client.statistics().dropped == {}
    calling = in_thread(call, client)
    server.send_multipart([server.recv_multipart()[0], *TOO_MANY])
    until(lambda: client.statistics().dropped == {"too-many-frames": 1}, "it is counted")
    client.close()
    assert isinstance(calling.exception(DEADLINE), ClosedError)


def test_what_an_asynchronous_client_dropped(background, peer):
    server = peer(zmq.ROUTER, bind=ANY)
    client = AsyncClient(endpoint_of(server), timeout=DEADLINE, settings=NARROW)
    calling = asyncio.run_coroutine_threadsafe(client.request("any"), background.reactor.loop)
    server.send_multipart([server.recv_multipart()[0], *TOO_MANY])
    until(lambda: background.call(client.statistics).dropped == {"too-many-frames": 1}, "it is counted")
    background.run(client.close())
    assert isinstance(calling.exception(DEADLINE), ClosedError)
