"""Hostility over real sockets: the broker serves a correct request while it lasts and afterwards."""

from __future__ import annotations

import random
import socket as plain
from urllib.parse import urlsplit

import pytest
import zmq

from tests.mdp.live import Peers, serving
from tests.mdp.mutate import Mutator
from tests.waiting import DEADLINE
from zpatterns.mdp import Broker

MESSAGES = 20_000
PEERS = 10
CHUNK = 100


def a_correct_request_is_served(peers: Peers, endpoint: str, service: bytes) -> None:
    """A worker and a client of ordinary manners, each on a new connection."""
    worker = peers.socket(zmq.DEALER, endpoint)
    client = peers.socket(zmq.REQ, endpoint)
    worker.send_multipart([b"", b"MDPW01", b"\x01", service])
    client.send_multipart([b"MDPC01", service, b"are you there?"])
    while (frames := worker.recv_multipart())[2] == b"\x04":
        pass
    assert frames[:3] == [b"", b"MDPW01", b"\x02"]
    assert frames[4:] == [b"", b"are you there?"]
    worker.send_multipart([b"", b"MDPW01", b"\x03", frames[3], b"", b"yes"])
    assert client.recv_multipart() == [b"MDPC01", service, b"yes"]
    worker.send_multipart([b"", b"MDPW01", b"\x05"])


def assert_nothing_was_caught(caplog: pytest.LogCaptureFixture) -> None:
    """The drivers catch what a core raises, and say so: here it must not have happened at all."""
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


def test_the_broker_serves_after_20_000_hostile_messages(caplog):
    broker = Broker("tcp://127.0.0.1:*", heartbeat_interval=0.5, request_ttl=1.0)
    mutator = Mutator(18, [b"victim", b"\x00\x01\x02\x03\x04"])
    with serving(broker), Peers() as peers:
        hostile = [peers.socket(zmq.DEALER, broker.endpoint) for _ in range(PEERS)]
        sent = 0
        while sent < MESSAGES:
            for sender in hostile:
                for _ in range(CHUNK):
                    sender.send_multipart(mutator.message() or [b""])
                sent += CHUNK
                # A peer's messages stay in order: the answer to this one says that those before it were taken in.
                mark = b"mmi.mark-%d" % sent
                sender.send_multipart([b"", b"MDPC01", mark, b"x"])
                while sender.recv_multipart() != [b"", b"MDPC01", mark, b"501"]:
                    pass
            a_correct_request_is_served(peers, broker.endpoint, b"proof-%d" % sent)
        statistics = broker.statistics()
        assert sum(statistics.dropped.values()) > MESSAGES / 10
        assert statistics.queued <= statistics.requests < MESSAGES + MESSAGES / CHUNK
        a_correct_request_is_served(peers, broker.endpoint, b"proof")
    assert_nothing_was_caught(caplog)


def test_the_broker_serves_after_peers_that_take_nothing_and_leave_in_the_middle(caplog):
    """They send commands that are answered, never read an answer, and close with everything on its way."""
    broker = Broker("tcp://127.0.0.1:*", heartbeat_interval=0.5)
    mutator = Mutator(7, [b"victim"])
    with serving(broker), Peers() as peers:
        for number in range(20):
            sender = peers.socket(zmq.DEALER, broker.endpoint, rcvhwm=1, sndtimeo=round(DEADLINE * 1000))
            for _ in range(200):
                sender.send_multipart(mutator.command())
                sender.send_multipart([b"", b"MDPC01", b"mmi.workers", b"x"])
            sender.close(linger=0 if number % 2 else 50)
        a_correct_request_is_served(peers, broker.endpoint, b"proof")
    assert_nothing_was_caught(caplog)


def test_the_broker_serves_after_noise_below_zmtp(caplog):
    """Connections that are no ZeroMQ at all, or break off within its greeting."""
    broker = Broker("tcp://127.0.0.1:*")
    rng = random.Random(3)
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
    with serving(broker), Peers() as peers:
        address = urlsplit(broker.endpoint)
        held = []
        for number in range(60):
            connection = plain.create_connection((address.hostname, address.port), timeout=DEADLINE)
            held.append(connection)
            noise = (
                rng.randbytes(200),
                greeting[: rng.randrange(65)],
                greeting + rng.randbytes(100),
                b"GET / HTTP/1.1\r\n\r\n",
            )
            connection.sendall(noise[number % 4])
        a_correct_request_is_served(peers, broker.endpoint, b"while they are open")
        for connection in held:
            connection.close()
        a_correct_request_is_served(peers, broker.endpoint, b"afterwards")
    assert_nothing_was_caught(caplog)
