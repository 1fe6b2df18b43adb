"""10/FLP (Freelance Protocol), clause by clause, on raw frames: what a server's and a client's sockets send."""

from __future__ import annotations

import pytest
import zmq

from tests.freelance.harness import A, B, Client, Server
from tests.harness import START
from zpatterns.core import Open, SocketKind
from zpatterns.freelance import FreelanceServer
from zpatterns.sockets import Link, SocketSettings, default_rng
from zpatterns.testing import BackgroundReactor

# Overall Operation: the server.


def test_overall_operation_server_must_answer_ping_with_pong():
    """Ping commands: "The server MUST respond with a message containing the four characters "PONG"."."""
    server = Server()
    assert server.give([b"client", b"PING"]) == [[b"client", b"PONG"]]


def test_overall_operation_server_answers_each_ping():
    """As above: one PONG for each, whatever else the server has to do."""
    server = Server()
    server.give([b"other", b"ccf", b"work"])
    assert server.give(*[[b"client", b"PING"]] * 3) == [[b"client", b"PONG"]] * 3


@pytest.mark.parametrize("control", [b"1", b"\x00\xff\x00", b"", b"x" * 300, b"PING", b"PONG"])
@pytest.mark.parametrize("body", [[b"reply"], [b""], [b"several", b"", b"frames"]])
def test_overall_operation_server_must_return_the_control_frame_unmodified(control, body):
    """Request commands: "The server MUST return the CCF unmodified, followed by one or more frames of reply body."."""
    server = Server()
    assert server.give([b"client", control, b"request"]) == []
    assert server.done(1, *body) == [[b"client", control, *body]]


def test_overall_operation_reply_body_is_never_without_a_frame():
    """As above, "one or more frames of reply body": a handler that returns nothing answers with one empty frame."""
    server = Server()
    server.give([b"client", b"7", b"request"])
    assert server.done(1) == [[b"client", b"7", b""]]


@pytest.mark.parametrize("body", [[b"request"], [b""], [b"several", b"", b"frames"]])
def test_overall_operation_request_has_two_frames_or_more(body):
    """Request commands "are formatted as two or more frames, where the first frame is the Client Control Frame (CCF),
    and the following frames are the request body"."""
    server = Server()
    server.give([b"client", b"7", *body])
    assert server.begun() == [(b"client", body)]


@pytest.mark.parametrize("frames", [[], [b""], [b"PONG"], [b"ping"], [b"7"]])
def test_overall_operation_what_is_neither_command_is_not_answered(frames):
    """ "Clients can issue two types of commands": there is no third."""
    server = Server()
    assert server.give([b"client", *frames]) == []
    assert server.begun() == []


def test_overall_operation_server_only_replies_to_clients_that_have_sent_a_command():
    """ "Servers can only reply to clients that have first sent a command.": left alone, it says nothing to anybody."""
    server = Server()
    assert server.advance(1000) == []
    server.give([b"client", b"7", b"request"])
    assert [frames[0] for frames in server.done(1, b"reply")] == [b"client"]
    assert server.advance(1000) == []


# Overall Operation: the client.


def test_overall_operation_client_pings_with_one_frame():
    """Ping commands "are formatted as a single frame containing the four characters "PING"."."""
    client = Client(A)
    assert client.out == [(A, [b"PING"])]


@pytest.mark.parametrize("body", [[b"x"], [b""], [b"a", b"", b"b"]])
def test_overall_operation_client_request_is_control_frame_and_body(body):
    """Request commands "are formatted as two or more frames, where the first frame is the Client Control Frame"."""
    client = Client(A)
    [(where, (control, *rest))] = client.call(1, *body)
    assert where == A
    assert control
    assert rest == body


def test_overall_operation_client_uses_the_control_frame_to_match():
    """ "Clients MAY use the CCF for any purpose, including request sequence numbering.": ours numbers every send, and
    believes no reply of another number."""
    client = Client(A)
    controls = [client.call(number)[0][1][0] for number in (1, 2)]
    assert controls == [b"1", b"2"]
    client.hear(A, b"3", b"to nobody")
    client.hear(A, b"2", b"to the second")
    assert client.delivered() == [(2, [b"to the second"])]


# Request and Reply Routing.


def test_routing_both_must_use_router_sockets():
    """ "Both clients and servers MUST use ROUTER (XREP) sockets."."""
    client = Client(A, B)
    assert [command.kind for command in client.asked() if isinstance(command, Open)] == [SocketKind.ROUTER] * 2
    with BackgroundReactor() as reactor:
        server = reactor.start(FreelanceServer("tcp://127.0.0.1:*", identity="server"))
        [driver] = server._drivers
        [link] = driver.links.values()
        assert link.poll_item().getsockopt(zmq.TYPE) == zmq.ROUTER


def test_routing_client_must_not_set_an_identity():
    """ "Clients use transient sockets, and MUST not set an identity.": nor does naming the server give us one."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    link = Link(context, SocketKind.ROUTER, 1, SocketSettings(), default_rng)
    try:
        link.connect("tcp://127.0.0.1:1", b"server")
        assert link.poll_item().getsockopt(zmq.ROUTING_ID) == b""
    finally:
        link.close(0)
        context.term()


@pytest.mark.parametrize(
    ("bind", "identity", "expected"),
    [
        ("tcp://127.0.0.1:5055", None, b"tcp://127.0.0.1:5055"),
        ("tcp://*:5055", "tcp://192.168.55.162:5055", b"tcp://192.168.55.162:5055"),
        ("ipc:///tmp/flp", None, b"ipc:///tmp/flp"),
    ],
)
def test_routing_server_must_set_an_identity_which_is_its_public_endpoint(bind, identity, expected):
    """ "Servers use durable sockets and MUST set an identity."; "Server identities are their public endpoints. This is
    the address string that clients will use to connect to the server"."""
    server = FreelanceServer(bind, identity=identity)
    assert server.identity == expected
    assert server._settings is not None
    assert server._settings.routing_id == expected


def test_routing_server_is_known_by_its_identity(peer):
    """As above, over the wire: a client that addresses the server by that string reaches it."""
    with BackgroundReactor() as reactor:
        server = reactor.start(FreelanceServer("tcp://127.0.0.1:*", identity="tcp://server.example:5055"))
        router = peer(zmq.ROUTER, connect=server.endpoint, PROBE_ROUTER=0)
        # A ROUTER drops what it sends to a peer that it does not know yet.
        while not router.poll(50):
            router.send_multipart([b"tcp://server.example:5055", b"PING"])
        assert router.recv_multipart() == [b"tcp://server.example:5055", b"PONG"]


# Server Reliability.


def test_reliability_client_pings_at_regular_intervals():
    """ "Clients MAY send ping commands at regular intervals.": while a server is silent, one each interval."""
    client = Client(A, interval=2.0, liveness=5)
    assert client.pings() == [A]
    for second in (2, 4, 6, 8):
        client.until(START + second - 0.001)
        assert client.pings() == []
        client.until(START + second)
        assert client.pings() == [A]


@pytest.mark.parametrize("liveness", [2, 3])
def test_reliability_client_should_consider_a_silent_server_disconnected(liveness):
    """ "A client SHOULD consider a server "disconnected" if no "pong" arrives within some multiple of that interval
    (usually 2-3).": its calls go to another one, and its connection is made anew."""
    client = Client(A, B, interval=2.0, liveness=liveness, timeout=100, retries=1)
    client.pong(A, B)
    client.call(1)
    for second in range(1, 2 * liveness):
        client.until(START + second)
        client.pong(B)
        assert client.take() == []
        assert client.health == {A: "up", B: "up"}
    client.until(START + 2 * liveness)
    assert client.health == {A: "down", B: "up"}
    assert client.take() == [(B, [b"2", b"hello"])]


def test_reliability_a_pong_in_time_keeps_a_server_connected():
    """As above, the other way round."""
    client = Client(A, interval=2.0)
    for second in range(100):
        client.until(START + second)
        if second % 5 == 0:
            client.pong(A)
    assert client.health == {A: "up"}
    assert len([command for command in client.asked() if isinstance(command, Open)]) == 1
