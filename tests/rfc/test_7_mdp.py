"""7/MDP (Majordomo 0.1), clause by clause in the order of its text, on raw frames: topology and MDP/Client.

Those of MDP/Worker are in test_7_mdp_worker.py and test_7_mdp_heartbeating.py.
"""

from __future__ import annotations

import asyncio

import pytest
import zmq

from tests.harness import START, BrokerHarness, ClientHarness, to
from tests.rfc.mdp01 import ANSWER, GIVEN, READY, REPLY, REQUEST
from zpatterns.core import Close, Deliver, Fail, Open, SocketKind
from zpatterns.errors import RequestTimeout
from zpatterns.mdp import Broker

# Goals and overall topology.


def test_goals_requests_are_routed_by_service_name():
    """Goals: "Allow requests to be routed to workers on the basis of abstract service names."."""
    broker = BrokerHarness()
    broker.give([b"w1", b"", b"MDPW01", b"\x01", b"add"], [b"w2", b"", b"MDPW01", b"\x01", b"multiply"])
    assert broker.give([b"c", b"", b"MDPC01", b"multiply", b"2", b"3"]) == [
        [b"w2", b"", b"MDPW01", b"\x02", b"c", b"", b"2", b"3"]
    ]


def test_goals_a_dead_workers_request_is_resent_to_another():
    """Goals: "Allow the broker to recover from dead or disconnected workers by resending requests"."""
    broker = BrokerHarness()
    assert broker.give(READY, REQUEST) == [GIVEN]
    sent = broker.advance(2.9)
    broker.give([b"other", b"", b"MDPW01", b"\x01", b"echo"])
    sent = broker.advance(0.2)
    assert [b"other", b"", b"MDPW01", b"\x02", b"client", b"", b"hello"] in sent


def test_topology_clients_and_workers_may_share_one_socket():
    """Overall Topology: "MDP is also designed to work over a single broker socket."."""
    broker = BrokerHarness()
    assert broker.core.PORTS == ("broker",)
    assert broker.give(READY, REQUEST, REPLY) == [GIVEN, ANSWER]


def test_topology_clients_and_workers_come_and_go():
    """Overall Topology: "both can come and go arbitrarily": the broker remembers nobody who is gone."""
    broker = BrokerHarness()
    broker.give(READY, REQUEST, REPLY, [b"worker", b"", b"MDPW01", b"\x05"])
    statistics = broker.statistics
    assert (statistics.workers, statistics.services, statistics.queued, statistics.in_flight) == (0, 0, 0, 0)
    assert broker.give([b"worker-2", b"", b"MDPW01", b"\x01", b"echo"], REQUEST) == [[b"worker-2", *GIVEN[1:]]]


def test_topology_a_worker_is_given_at_most_one_request_at_a_time():
    """Overall Topology: "Workers will handle at most one request a time"."""
    broker = BrokerHarness()
    second = [b"client-2", b"", b"MDPC01", b"echo", b"again"]
    assert broker.give(READY, REQUEST, second) == [GIVEN]
    assert broker.give(REPLY) == [ANSWER, [b"worker", b"", b"MDPW01", b"\x02", b"client-2", b"", b"again"]]


def test_topology_each_service_has_one_shared_queue():
    """Overall Topology: "a set of shared request queues, one per service": many writers, many readers."""
    broker = BrokerHarness()
    for client in (b"c1", b"c2", b"c3"):
        broker.give([client, b"", b"MDPC01", b"echo", client])
    assert broker.give([b"w1", b"", b"MDPW01", b"\x01", b"echo"], [b"w2", b"", b"MDPW01", b"\x01", b"echo"]) == [
        [b"w1", b"", b"MDPW01", b"\x02", b"c1", b"", b"c1"],
        [b"w2", b"", b"MDPW01", b"\x02", b"c2", b"", b"c2"],
    ]
    assert broker.statistics.queued == 1


def test_topology_broker_should_serve_clients_on_a_fair_basis():
    """Overall Topology: "The broker SHOULD serve clients on a fair basis": in order of arrival, whoever asked."""
    broker = BrokerHarness()
    order = [b"a", b"b", b"a", b"c", b"b"]
    for number, client in enumerate(order):
        broker.give([client, b"", b"MDPC01", b"echo", b"%d" % number])
    served = [sent[0][4] for sent in [broker.give(READY)]]
    while len(served) < len(order):
        sent = broker.give([b"worker", b"", b"MDPW01", b"\x03", served[-1], b"", b"x"])
        served.append(to(b"worker", sent)[0][3])
    assert served == order


def test_topology_broker_may_deliver_to_the_least_recently_used_worker():
    """Overall Topology: "MAY deliver requests to workers on any basis, including ... least-recently used"."""
    broker = BrokerHarness()
    for worker in (b"w1", b"w2", b"w3"):
        broker.give([worker, b"", b"MDPW01", b"\x01", b"echo"])
    used = []
    for _ in range(6):
        ((worker, *_),) = broker.give(REQUEST)
        used.append(worker)
        broker.give([worker, b"", b"MDPW01", b"\x03", b"client", b"", b"x"])
    assert used == [b"w1", b"w2", b"w3", b"w1", b"w2", b"w3"]


def test_topology_broker_may_integrate_services():
    """Overall Topology: "the broker may integrate services directly rather than using MDP/Worker"."""
    broker = BrokerHarness()
    sent = broker.give([b"client", b"", b"MDPC01", b"mmi.service", b"echo"])
    assert sent == [[b"client", b"", b"MDPC01", b"mmi.service", b"404"]]


async def _routed_dialog() -> tuple[list[bytes], list[bytes]]:
    """A raw DEALER as worker and a raw REQ as client at a real broker: what each received."""
    context = zmq.Context()
    try:
        async with Broker("tcp://127.0.0.1:*") as broker:
            worker = context.socket(zmq.DEALER, zmq.Socket)
            client = context.socket(zmq.REQ, zmq.Socket)
            for socket, identity in ((worker, b"the-worker"), (client, b"the-client")):
                socket.setsockopt(zmq.LINGER, 0)
                socket.setsockopt(zmq.IDENTITY, identity)
                socket.setsockopt(zmq.RCVTIMEO, 10_000)
                socket.connect(broker.endpoint)
            worker.send_multipart([b"", b"MDPW01", b"\x01", b"echo"])
            client.send_multipart([b"MDPC01", b"echo", b"hello"])
            loop = asyncio.get_running_loop()
            given = await loop.run_in_executor(None, worker.recv_multipart)
            worker.send_multipart([b"", b"MDPW01", b"\x03", *given[3:5], b"world"])
            return given, await loop.run_in_executor(None, client.recv_multipart)
    finally:
        context.destroy(linger=0)


def test_router_addressing_broker_must_use_a_router_socket():
    """ROUTER Addressing: "The broker MUST use a ROUTER socket": it alone shows and uses routing ids.

    MDP/Client: "Clients SHOULD use a REQ socket when implementing a synchronous request-reply pattern": one is served.
    """
    given, answered = asyncio.run(_routed_dialog())
    assert given == [b"", b"MDPW01", b"\x02", b"the-client", b"", b"hello"]
    assert answered == [b"MDPC01", b"echo", b"world"]


# MDP/Client: the broker's side.


def test_client_is_a_dialog_of_request_and_reply():
    """MDP/Client: "C: REQUEST, B: REPLY", repeated: exactly one REPLY for each REQUEST."""
    broker = BrokerHarness()
    broker.give(READY)
    for _ in range(3):
        assert to(b"client", broker.give(REQUEST)) == []
        assert to(b"client", broker.give(REPLY)) == [ANSWER[1:]]


@pytest.mark.parametrize("body", [[b""], [b"one"], [b"one", b"", b"three"], [b"\x00\xff" * 500]])
def test_client_request_has_4_or_more_frames_and_an_opaque_body(body):
    """MDP/Client: "A REQUEST command consists of a multipart message of 4 or more frames"; "Frames 3+: Request body
    (opaque binary)"."""
    broker = BrokerHarness()
    broker.give(READY)
    assert broker.give([*REQUEST[:4], *body]) == [[*GIVEN[:6], *body]]


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"", b"MDPC01"],
        [b"", b"MDPC01", b"echo"],
        [b"MDPC01", b"echo", b"hello"],
        [b"x", b"MDPC01", b"echo", b"hello"],
        [b"", b"MDPC1", b"echo", b"hello"],
        [b"", b"MDPC010", b"echo", b"hello"],
        [b"", b"mdpc01", b"echo", b"hello"],
        [b"", b"MDPC02", b"echo", b"hello"],
        [b"", b"MDPC01", b"", b"hello"],
        [b"", b"MDPC01", b"echo\x00", b"hello"],
        [b"", b"MDPC01", b"\xff\xfe", b"hello"],
        [b"", b"MDPC01", b"a\nb", b"hello"],
    ],
)
def test_client_request_of_another_form_is_dropped(frames):
    """MDP/Client: the form of a REQUEST: an empty frame, "MDPC01" (six bytes), a printable service name, a body."""
    broker = BrokerHarness()
    broker.give(READY)
    assert broker.give([b"client", *frames]) == []
    assert sum(broker.statistics.dropped.values()) == 1
    assert broker.statistics.queued == 0
    assert broker.give(REQUEST) == [GIVEN], "the client and the worker are as before"


@pytest.mark.parametrize("body", [[b""], [b"one"], [b"one", b"", b"three"], [b"\x00\xff" * 500]])
def test_client_reply_has_4_or_more_frames_and_an_opaque_body(body):
    """MDP/Client: "A REPLY command consists of a multipart message of 4 or more frames", the request's service in
    frame 2 and the worker's body behind it, as it came."""
    broker = BrokerHarness()
    broker.give(READY, REQUEST)
    assert broker.give([*REPLY[:6], *body]) == [[b"client", b"", b"MDPC01", b"echo", *body]]


@pytest.mark.parametrize("name", [b"echo", b"a", "größe".encode(), b"with space", b"x" * 255])
def test_client_service_name_is_a_printable_string_that_matches_the_workers(name):
    """MDP/Client: "The service name is a 0MQ string that matches the service name specified by a worker in its
    READY command"."""
    broker = BrokerHarness()
    broker.give([b"worker", b"", b"MDPW01", b"\x01", name])
    assert broker.give([b"client", b"", b"MDPC01", name, b"hello"]) == [GIVEN]
    assert broker.give([b"client", b"", b"MDPC01", name + b"." if len(name) < 255 else b"y", b"hello"]) == []


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


def test_client_sends_a_request_of_the_rfcs_form():
    """MDP/Client: REQUEST; "Clients MAY use a DEALER (XREQ) socket ... In that case the clients MUST create the empty
    frame 0 explicitly."."""
    client = ClientHarness()
    client.call(1, b"echo", b"one", b"", b"three")
    assert client.asked() == [Open(1, SocketKind.DEALER, "tcp://127.0.0.1:5555")]
    assert client.sent() == [[b"", b"MDPC01", b"echo", b"one", b"", b"three"]]


@pytest.mark.parametrize("body", [[b""], [b"one"], [b"one", b"", b"three"]])
def test_client_takes_a_reply_of_the_rfcs_form(body):
    """MDP/Client: REPLY: "4 or more frames"."""
    client = ClientHarness()
    port = client.call(1)
    client.give([b"", b"MDPC01", b"echo", *body], port=port)
    assert client.asked(Deliver) == [Deliver(1, body, True)]


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"", b"MDPC01", b"echo"],
        [b"MDPC01", b"echo", b"world"],
        [b"x", b"MDPC01", b"echo", b"world"],
        [b"", b"MDPC02", b"echo", b"world"],
        [b"", b"MDPW01", b"echo", b"world"],
        [b"", b"MDPC01", b"other", b"world"],
        [b"MDPC02", b"\x03", b"echo", b"world"],
    ],
)
def test_client_drops_a_reply_of_another_form(frames):
    """MDP/Client: REPLY: what is none, or of another service, is not taken for one, and the call goes on."""
    client = ClientHarness()
    port = client.call(1)
    client.give(frames, port=port)
    assert client.asked(Deliver) == []
    client.give([b"", b"MDPC01", b"echo", b"world"], port=port)
    assert client.asked(Deliver) == [Deliver(1, [b"world"], True)]


def test_client_dialog_is_strictly_synchronous():
    """MDP/Client: "a strictly synchronous dialog": one open request a connection, the next after its reply."""
    client = ClientHarness()
    first, second = client.call(1), client.call(2)
    assert first != second
    client.give([b"", b"MDPC01", b"echo", b"world"], port=first)
    assert client.call(3) == first


def test_client_may_recover_from_a_silent_broker_by_resending_on_a_new_socket():
    """MDP/Client: "If there is no reply within some timeout, to ... open a new socket, and resend the request on that
    new socket."."""
    client = ClientHarness(timeout=8, retries=3)
    first = client.call(1)
    (request,) = client.sent()
    client.asked()
    assert client.until(START + 2) == []
    assert client.until(START + 4) == [request]
    (opened,) = client.asked(Open)
    assert opened.port != first


def test_client_signals_failure_after_several_retries():
    """MDP/Client: "If there is no reply after several retries, to signal the transaction as failed."."""
    client = ClientHarness(timeout=8, retries=3)
    client.call(1)
    assert len(client.until(START + 7.99)) == 4
    assert client.asked(Fail) == []
    assert client.until(START + 8) == []
    asked = client.asked()
    (failed,) = [command for command in asked if isinstance(command, Fail)]
    assert isinstance(failed.error, RequestTimeout)
    assert len([command for command in asked if isinstance(command, Close)]) == 4, "every socket is closed"


def test_reliability_failover_to_another_broker_is_the_clients_work():
    """Reliability: "Actual failover to alternate brokers is handled by the clients and workers"."""
    client = ClientHarness("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")
    client.call(1)
    client.until(START + 4)
    assert [opened.endpoint for opened in client.asked(Open)] == ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"]


def test_reliability_a_broker_keeps_no_significant_state():
    """Reliability: "by keeping no significant state in a broker": workers and clients of a broker that crashed and was
    restarted are served by the new one after a READY."""
    BrokerHarness().give(READY, REQUEST)
    restarted = BrokerHarness()
    assert restarted.give([b"worker", b"", b"MDPW01", b"\x04"]) == [[b"worker", b"", b"MDPW01", b"\x05"]]
    assert restarted.give([b"worker-2", b"", b"MDPW01", b"\x01", b"echo"], REQUEST, REPLY) == [
        [b"worker-2", *GIVEN[1:]],
        [b"worker", b"", b"MDPW01", b"\x05"],
    ]
