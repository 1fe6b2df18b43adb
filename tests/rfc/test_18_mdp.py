"""18/MDP (Majordomo 0.2), clause by clause in the order of its text, on raw frames: topology and MDP/Client.

Those of MDP/Worker are in test_18_mdp_worker.py and test_18_mdp_heartbeating.py.
"""

from __future__ import annotations

import asyncio

import pytest
import zmq

from tests.harness import START, BrokerHarness, ClientHarness, to
from tests.rfc import mdp01
from tests.rfc.mdp02 import ANSWER, FINAL, GIVEN, HEARTBEAT, PART, PARTIAL, READY, REQUEST
from zpatterns.core import Close, Deliver, Fail, Open, SocketKind
from zpatterns.errors import RequestTimeout
from zpatterns.mdp import Broker

# Goals and overall topology.


def test_goals_reply_is_replaced_by_partial_and_final():
    """Goals: "(a) replacement of REPLY command with PARTIAL and FINAL commands"."""
    broker = BrokerHarness()
    assert broker.give(READY, REQUEST, PARTIAL, PARTIAL, FINAL) == [GIVEN, PART, PART, ANSWER]


def test_goals_commands_have_no_empty_frame_in_front():
    """Goals: "(b) removal of empty frames at start of commands", in all that broker, worker and client send."""
    broker = BrokerHarness()
    sent = broker.give(READY, REQUEST, PARTIAL, FINAL) + broker.advance(1)
    assert len(sent) == 4
    assert all(frames[1] in (b"MDPC02", b"MDPW02") for frames in sent)
    client = ClientHarness()
    client.call(1, version="0.2")
    assert client.sent()[0][0] == b"MDPC02"


@pytest.mark.parametrize(
    "frames",
    [
        [b"worker", b"", b"MDPW02", b"\x01", b"echo"],
        [b"worker", b"MDPW01", b"\x01", b"echo"],
        [b"client", b"", b"MDPC02", b"\x01", b"echo", b"hello"],
        [b"client", b"MDPC01", b"\x01", b"echo", b"hello"],
    ],
)
def test_goals_it_is_not_compatible_with_0_1(frames):
    """Goals: "MDP/0.2 is not compatible with MDP/0.1.": a mixture of the two is neither."""
    broker = BrokerHarness()
    assert broker.give(frames) == []
    assert broker.statistics.dropped == {"invalid": 1}


@pytest.mark.parametrize(
    "frames", [mdp01.REPLY, mdp01.HEARTBEAT, mdp01.DISCONNECT, mdp01.READY], ids=["REPLY", "HEARTBEAT", "BYE", "READY"]
)
def test_goals_a_worker_speaks_the_version_it_registered_with(frames):
    """Goals: "MDP/0.2 is not compatible with MDP/0.1.": a 0.1 command of a 0.2 worker is unexpected."""
    broker = BrokerHarness()
    broker.give(READY, REQUEST)
    assert to(b"worker", broker.give(frames)) == [[b"MDPW02", b"\x06"]]
    assert broker.statistics.workers == 0


def test_goals_requests_are_routed_by_service_name():
    """Goals: "Allow requests to be routed to workers on the basis of abstract service names."."""
    broker = BrokerHarness()
    broker.give([b"w1", b"MDPW02", b"\x01", b"add"], [b"w2", b"MDPW02", b"\x01", b"multiply"])
    assert broker.give([b"c", b"MDPC02", b"\x01", b"multiply", b"2", b"3"]) == [
        [b"w2", b"MDPW02", b"\x02", b"c", b"", b"2", b"3"]
    ]


def test_goals_a_dead_workers_request_is_resent_to_another():
    """Goals: "Allow the broker to recover from dead or disconnected workers by resending requests"."""
    broker = BrokerHarness()
    broker.give(READY, REQUEST)
    broker.until(START + 3)
    assert broker.give([b"other", b"MDPW02", b"\x01", b"echo"]) == [[b"other", *GIVEN[1:]]]


def test_goals_workers_are_used_least_recently_first():
    """Goals: "Allow the broker to implement a "least recently used" pattern for task distribution"."""
    broker = BrokerHarness()
    for worker in (b"w1", b"w2"):
        broker.give([worker, b"MDPW02", b"\x01", b"echo"])
    used = []
    for _ in range(4):
        ((worker, *_),) = broker.give(REQUEST)
        used.append(worker)
        broker.give([worker, b"MDPW02", b"\x04", b"client", b"", b"x"])
    assert used == [b"w1", b"w2", b"w1", b"w2"]


def test_topology_a_worker_is_given_at_most_one_request_at_a_time():
    """Overall Topology: "Workers will handle at most one request a time": a PARTIAL does not make it free."""
    broker = BrokerHarness()
    second = [b"client-2", b"MDPC02", b"\x01", b"echo", b"again"]
    assert broker.give(READY, REQUEST, second, PARTIAL) == [GIVEN, PART]
    assert broker.give(FINAL) == [ANSWER, [b"worker", b"MDPW02", b"\x02", b"client-2", b"", b"again"]]


def test_topology_broker_should_serve_clients_on_a_fair_basis():
    """Overall Topology: "The broker SHOULD serve clients on a fair basis": in order of arrival, whoever asked."""
    broker = BrokerHarness()
    order = [b"a", b"b", b"a", b"c", b"b"]
    for number, client in enumerate(order):
        broker.give([client, b"MDPC02", b"\x01", b"echo", b"%d" % number])
    served = [broker.give(READY)[0][3]]
    while len(served) < len(order):
        sent = broker.give([b"worker", b"MDPW02", b"\x04", served[-1], b"", b"x"])
        served.append(to(b"worker", sent)[0][2])
    assert served == order


async def _dialog() -> tuple[list[bytes], list[list[bytes]]]:
    """A raw DEALER as worker and another as client at a real broker: what each received."""
    context = zmq.Context()
    try:
        async with Broker("tcp://127.0.0.1:*") as broker:
            worker = context.socket(zmq.DEALER, zmq.Socket)
            client = context.socket(zmq.DEALER, zmq.Socket)
            for socket, identity in ((worker, b"the-worker"), (client, b"the-client")):
                socket.setsockopt(zmq.LINGER, 0)
                socket.setsockopt(zmq.IDENTITY, identity)
                socket.setsockopt(zmq.RCVTIMEO, 10_000)
                socket.connect(broker.endpoint)
            worker.send_multipart([b"MDPW02", b"\x01", b"count"])
            client.send_multipart([b"MDPC02", b"\x01", b"count", b"2"])
            loop = asyncio.get_running_loop()
            given = await loop.run_in_executor(None, worker.recv_multipart)
            worker.send_multipart([b"MDPW02", b"\x03", *given[2:4], b"0"])
            worker.send_multipart([b"MDPW02", b"\x04", *given[2:4], b"1"])
            return given, [await loop.run_in_executor(None, client.recv_multipart) for _ in range(2)]
    finally:
        context.destroy(linger=0)


def test_router_addressing_broker_must_use_a_router_socket():
    """ROUTER Addressing: "The broker MUST use a ROUTER socket": it alone shows and uses routing ids.

    MDP/Client: "Clients MUST use a DEALER socket.": one is served.
    """
    given, answered = asyncio.run(_dialog())
    assert given == [b"MDPW02", b"\x02", b"the-client", b"", b"2"]
    assert answered == [[b"MDPC02", b"\x02", b"count", b"0"], [b"MDPC02", b"\x03", b"count", b"1"]]


# MDP/Client: the broker's side.


@pytest.mark.parametrize("partials", [0, 1, 5])
def test_client_is_a_dialog_of_request_partials_and_final(partials):
    """MDP/Client: "C: REQUEST, B: *PARTIAL, B: FINAL", repeated, in order."""
    broker = BrokerHarness()
    broker.give(READY)
    for _ in range(3):
        assert broker.give(REQUEST) == [GIVEN]
        parts = [[*PARTIAL[:5], b"%d" % number] for number in range(partials)]
        assert broker.give(*parts) == [[*PART[:4], b"%d" % number] for number in range(partials)]
        assert broker.give(FINAL) == [ANSWER]


@pytest.mark.parametrize("body", [[b""], [b"one"], [b"one", b"", b"three"], [b"\x00\xff" * 500]])
def test_client_bodies_are_opaque(body):
    """MDP/Client: REQUEST, PARTIAL and FINAL have "4 or more frames"; "Frames 3+: ... body (opaque binary)"."""
    broker = BrokerHarness()
    broker.give(READY)
    assert broker.give([*REQUEST[:4], *body]) == [[*GIVEN[:5], *body]]
    assert broker.give([*PARTIAL[:5], *body]) == [[*PART[:4], *body]]
    assert broker.give([*FINAL[:5], *body]) == [[*ANSWER[:4], *body]]


@pytest.mark.parametrize(
    "frames",
    [
        [b"MDPC02"],
        [b"MDPC02", b"\x01"],
        [b"MDPC02", b"\x01", b"echo"],
        [b"MDPC02", b"\x02", b"echo", b"hello"],
        [b"MDPC02", b"\x03", b"echo", b"hello"],
        [b"MDPC02", b"", b"echo", b"hello"],
        [b"MDPC02", b"1", b"echo", b"hello"],
        [b"MDPC2", b"\x01", b"echo", b"hello"],
        [b"mdpc02", b"\x01", b"echo", b"hello"],
        [b"MDPC02", b"\x01", b"", b"hello"],
        [b"MDPC02", b"\x01", b"echo\x00", b"hello"],
        [b"MDPC02", b"\x01", b"\xff\xfe", b"hello"],
    ],
)
def test_client_request_of_another_form_is_dropped(frames):
    """MDP/Client: the form of a REQUEST: "MDPC02" (six bytes), 0x01 (one byte), a printable service name, a body."""
    broker = BrokerHarness()
    broker.give(READY)
    assert broker.give([b"client", *frames]) == []
    assert sum(broker.statistics.dropped.values()) == 1
    assert broker.statistics.queued == 0
    assert broker.give(REQUEST) == [GIVEN], "the client and the worker are as before"


def test_client_after_final_the_broker_shall_send_nothing_more():
    """MDP/Client: "After a FINAL command, the broker SHALL not send any further commands to the client."."""
    for late in (PARTIAL, FINAL):
        broker = BrokerHarness()
        broker.give(READY, REQUEST, PARTIAL, FINAL)
        assert to(b"client", broker.give(late) + broker.advance(100)) == []


def test_client_after_an_error_in_the_place_of_final_nothing_more_is_sent():
    """MDP/Client: "After a FINAL command, the broker SHALL not send any further commands to the client.": nor when the
    FINAL was the broker's own, for a stream whose worker was lost."""
    broker = BrokerHarness()
    broker.give(READY, REQUEST, PARTIAL)
    (final,) = to(b"client", broker.until(START + 3))
    assert final[:3] == ANSWER[1:4]
    late = broker.give(PARTIAL, FINAL) + broker.give([b"other", *READY[1:]]) + broker.advance(100)
    assert to(b"client", late) == []


@pytest.mark.parametrize("name", [b"echo", b"a", "größe".encode(), b"with space", b"x" * 255])
def test_client_service_name_is_a_printable_string_that_matches_the_workers(name):
    """MDP/Client: "The service name is a 0MQ string that matches the service name specified by a worker in its
    READY command"."""
    broker = BrokerHarness()
    broker.give([b"worker", b"MDPW02", b"\x01", name])
    assert broker.give([b"client", b"MDPC02", b"\x01", name, b"hello"]) == [GIVEN]


def test_client_broker_should_queue_requests_for_unknown_services():
    """MDP/Client: "The broker SHOULD queue client requests for which no service has been registered"."""
    broker = BrokerHarness()
    assert broker.give(REQUEST) == []
    broker.advance(30)
    assert broker.give(READY) == [GIVEN]


@pytest.mark.parametrize("ttl", [2.0, 60.0])
def test_client_broker_should_expire_queued_requests(ttl):
    """MDP/Client: "and SHOULD expire these requests after a reasonable and configurable time"."""
    broker = BrokerHarness(request_ttl=ttl)
    broker.give(REQUEST)
    broker.advance(ttl - 0.01)
    assert broker.statistics.queued == 1
    broker.advance(0.01)
    assert broker.statistics.queued == 0
    assert broker.give(READY) == []


# MDP/Client: the client's side.


def test_client_must_use_a_dealer_and_send_the_rfcs_form():
    """MDP/Client: "Clients MUST use a DEALER socket."; REQUEST."""
    client = ClientHarness()
    client.call(1, b"echo", b"one", b"", b"three", version="0.2")
    assert client.asked() == [Open(1, SocketKind.DEALER, "tcp://127.0.0.1:5555")]
    assert client.sent() == [[b"MDPC02", b"\x01", b"echo", b"one", b"", b"three"]]


@pytest.mark.parametrize("parts", [0, 1, 10])
def test_client_must_be_prepared_for_zero_or_more_partials(parts):
    """MDP/Client: "The client MUST be prepared to handle zero or more PARTIAL commands from the broker."."""
    client = ClientHarness()
    port = client.call(1, version="0.2", is_stream=True)
    for number in range(parts):
        client.give([b"MDPC02", b"\x02", b"echo", b"%d" % number], port=port)
    client.give([b"MDPC02", b"\x03", b"echo", b"end"], port=port)
    delivered = [Deliver(1, [b"%d" % number], False) for number in range(parts)]
    assert client.asked(Deliver) == [*delivered, Deliver(1, [b"end"], True)]


def test_client_that_wants_one_reply_gets_the_partials_in_it():
    """MDP/Client: "MUST be prepared to handle zero or more PARTIAL commands": also where one reply was asked for."""
    client = ClientHarness()
    port = client.call(1, version="0.2")
    client.give([b"MDPC02", b"\x02", b"echo", b"1", b"2"], [b"MDPC02", b"\x02", b"echo", b"3"], port=port)
    assert client.asked(Deliver) == []
    client.give([b"MDPC02", b"\x03", b"echo", b"4"], port=port)
    assert client.asked(Deliver) == [Deliver(1, [b"1", b"2", b"3", b"4"], True)]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"MDPC02"],
        [b"MDPC02", b"\x03"],
        [b"MDPC02", b"\x03", b"echo"],
        [b"MDPC02", b"\x02", b"echo"],
        [b"MDPC02", b"\x01", b"echo", b"world"],
        [b"MDPC02", b"\x04", b"echo", b"world"],
        [b"MDPC02", b"", b"echo", b"world"],
        [b"MDPC02", b"\x03", b"other", b"world"],
        [b"MDPW02", b"\x03", b"echo", b"world"],
        [b"", b"MDPC02", b"\x03", b"echo", b"world"],
        [b"", b"MDPC01", b"echo", b"world"],
    ],
)
def test_client_drops_a_reply_of_another_form(frames):
    """MDP/Client: PARTIAL and FINAL: what is neither, or of another service, is not taken for one."""
    client = ClientHarness()
    port = client.call(1, version="0.2")
    client.give(frames, port=port)
    assert client.asked(Deliver) == []
    client.give([b"MDPC02", b"\x03", b"echo", b"world"], port=port)
    assert client.asked(Deliver) == [Deliver(1, [b"world"], True)]


def test_client_may_resend_to_a_silent_broker_on_a_new_socket_and_signals_failure():
    """MDP/Client: "to ... open a new socket, and resend the request on that new socket. If there is no reply after
    several retries, to signal the transaction as failed."."""
    client = ClientHarness(timeout=8, retries=3)
    client.call(1, version="0.2")
    (request,) = client.sent()
    assert client.until(START + 7.99) == [request] * 3
    ports = [opened.port for opened in client.asked(Open)]
    assert len(set(ports)) == 4
    client.until(START + 8)
    asked = client.asked()
    (failed,) = [command for command in asked if isinstance(command, Fail)]
    assert isinstance(failed.error, RequestTimeout)
    assert {command.port for command in asked if isinstance(command, Close)} == set(ports)


# Both versions on one broker (18/MDP leaves it open).


def test_versions_share_services():
    """Overall Topology: "a set of shared request queues, one per service": workers and clients of either version."""
    broker = BrokerHarness()
    broker.give([b"w1", b"", b"MDPW01", b"\x01", b"echo"])
    assert broker.give(REQUEST) == [[b"w1", b"", b"MDPW01", b"\x02", b"client", b"", b"hello"]]
    assert broker.give([b"w1", b"", b"MDPW01", b"\x03", b"client", b"", b"world"]) == [ANSWER]
    broker.give([b"w1", b"", b"MDPW01", b"\x05"], READY)
    assert broker.give([b"old", b"", b"MDPC01", b"echo", b"hi"]) == [
        [b"worker", b"MDPW02", b"\x02", b"old", b"", b"hi"]
    ]
    assert broker.give([b"worker", b"MDPW02", b"\x03", b"old", b"", b"1"]) == []
    assert broker.give(HEARTBEAT, [b"worker", b"MDPW02", b"\x04", b"old", b"", b"2"]) == [
        [b"old", b"", b"MDPC01", b"echo", b"1", b"2"]
    ]
