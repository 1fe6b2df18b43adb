"""One socket: what endpoints are taken for, what options it is given, and what a send does that fails halfway."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import zmq

from tests.broken_wire import Wire
from tests.waiting import DEADLINE, until
from zpatterns.core import Frames, PortId, SendFailure, SocketKind
from zpatterns.errors import EndpointError, ForkedError, ZPatternsError
from zpatterns.sockets import (
    Link,
    ProcessGuard,
    SocketSettings,
    check_endpoint,
    default_rng,
    new_context,
    resolve_endpoint,
)
from zpatterns.transfer import PlainTransfer
from zpatterns.wire import MESSAGE_OVERHEAD


class Fixed:
    """Draws the same share of every range."""

    def __init__(self, share: float) -> None:
        self.share = share

    def random(self) -> float:
        return self.share

    def getrandbits(self, k: int, /) -> int:
        return 0


@pytest.fixture
def make() -> Iterator[Any]:
    """Makes links that are closed in the end: ``make(SocketKind.DEALER, send_hwm=1)``."""
    with ExitStack() as stack:
        context = stack.enter_context(new_context())

        def link(kind: SocketKind, rng: Any = default_rng, **settings: Any) -> Link:
            made = Link(context, kind, "port", SocketSettings(**settings), rng)
            stack.callback(made.close, 0)
            return made

        yield link


class TestEndpoints:
    @pytest.mark.parametrize(
        "endpoint",
        [
            "tcp://127.0.0.1:5555",
            "tcp://localhost:1",
            "tcp://broker.example.com:65535",
            "tcp://[::1]:5555",
            "ipc:///tmp/socket",
            "ipc://@abstract",
            "inproc://name",
        ],
    )
    def test_good_to_connect_and_to_bind(self, endpoint):
        assert check_endpoint(endpoint) == endpoint
        assert check_endpoint(endpoint, bind=True) == endpoint

    @pytest.mark.parametrize(
        "endpoint", ["tcp://*:5555", "tcp://127.0.0.1:*", "tcp://*:*", "tcp://eth0:5555", "tcp://a:0"]
    )
    def test_good_to_bind(self, endpoint):
        assert check_endpoint(endpoint, bind=True) == endpoint

    @pytest.mark.parametrize(
        ("endpoint", "why"),
        [
            ("", "no 'transport://address'"),
            ("127.0.0.1:5555", "no 'transport://address'"),
            ("tcp://", "no 'transport://address'"),
            ("tcp://127.0.0.1", "no 'host:port'"),
            ("tcp://:5555", "no 'host:port'"),
            ("tcp://127.0.0.1:", "not a number"),
            ("tcp://127.0.0.1:http", "not a number"),
            ("tcp://127.0.0.1:65536", "not a number"),
            ("tcp://127.0.0.1:-1", "not a number"),
            ("tcp://127.0.0.1:٣", "not a number"),
            ("tcp://127.0.0.1 :5555", "white space"),
            ("tcp://127.0.0.1:5555\n", "white space"),
            ("tcp://::1:5555", "square brackets"),
            ("tcp://*:5555", "only good for binding"),
            ("tcp://127.0.0.1:*", "only good for binding"),
            ("tcp://127.0.0.1:0", "only good for binding"),
            ("udp://127.0.0.1:5555", "not tcp, ipc or inproc"),
            ("http://127.0.0.1:5555", "not tcp, ipc or inproc"),
            ("ipc://a\0b", "NUL"),
            ("ipc:///tmp/" + "x" * 103, "longer than 107 bytes"),
            ("ipc:///tmp/" + "ö" * 52, "longer than 107 bytes"),
            (b"tcp://127.0.0.1:5555", "not a string"),
            (None, "not a string"),
        ],
    )
    def test_bad_ones_are_named_with_the_reason(self, endpoint, why):
        with pytest.raises(EndpointError, match="is not an endpoint") as caught:
            check_endpoint(endpoint)
        assert why in str(caught.value)
        assert caught.value.endpoint == str(endpoint)
        assert isinstance(caught.value, ValueError)

    def test_a_host_that_does_not_exist(self):
        with pytest.raises(EndpointError, match="cannot be resolved"):
            resolve_endpoint("tcp://no-such-host.invalid:5555")
        with pytest.raises(EndpointError, match="cannot be resolved"):
            resolve_endpoint("tcp://a..b:5555")

    def test_a_host_of_which_libzmq_finds_no_address(self, monkeypatch):
        errors = {"six.test": socket.EAI_NONAME, "busy.test": socket.EAI_AGAIN, "::1": socket.EAI_FAMILY}

        def getaddrinfo(host, _port, family=0):
            if family == socket.AF_INET and host in errors:
                raise socket.gaierror(errors[host], "no address of IPv4")
            # All that is told of ip6-localhost where no family is named, though it is 127.0.0.1 to who asks for IPv4.
            return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0))]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        with pytest.raises(EndpointError, match="addresses of IPv6 only; say which"):
            resolve_endpoint("tcp://six.test:5555")
        for host in ("[::1]", "ip6-localhost", "busy.test"):
            resolve_endpoint(f"tcp://{host}:5555")

    @pytest.mark.parametrize(
        "endpoint", ["tcp://127.0.0.1:5555", "tcp://[::1]:1", "tcp://localhost:5555", "tcp://*:1", "ipc://anything"]
    )
    def test_a_host_that_does(self, endpoint):
        resolve_endpoint(endpoint)

    def test_a_port_that_is_taken(self, make):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(EndpointError, match="is another program using it") as caught:
                make(SocketKind.ROUTER).bind(endpoint)
            assert caught.value.endpoint == endpoint

    def test_an_interface_that_is_not_here(self, make):
        with pytest.raises(EndpointError, match="not on this machine"):
            make(SocketKind.ROUTER).bind("tcp://192.0.2.1:5555")

    @pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1:*", "tcp://*:*", "tcp://127.0.0.1:0"])
    def test_what_is_bound_can_be_connected_to(self, make, endpoint):
        server, client = make(SocketKind.ROUTER), make(SocketKind.DEALER)
        real = server.bind(endpoint)
        assert check_endpoint(real) == real
        client.connect(real)
        failures: list[Any] = []
        until(lambda: client.poll_item().poll(0, zmq.POLLOUT), "the connection")
        client.send([[b"ball"]], 0.0, failures)
        until(server.events, "the message")
        assert server.receive(10)[0][1:] == [b"ball"]
        assert failures == []

    @pytest.mark.parametrize(("host", "is_wanted"), [("127.0.0.1", 0), ("localhost", 0), ("[::1]", 1)])
    def test_an_address_of_ipv6_is_one_for_libzmq_too(self, make, host, is_wanted):
        """It could not be bound, and what connected to it waited for ever."""
        server, client = make(SocketKind.ROUTER), make(SocketKind.DEALER)
        with suppress(EndpointError):  # where there is no IPv6
            server.bind(f"tcp://{host}:*")
        client.connect(f"tcp://{host}:1")
        assert [link.poll_item().getsockopt(zmq.IPV6) for link in (server, client)] == [is_wanted, is_wanted]

    def test_what_one_endpoint_needs_the_next_is_spared(self, make):
        """Behind one of IPv6, a name was bound to its IPv6 address."""
        link = make(SocketKind.ROUTER)
        with suppress(EndpointError):  # where there is no IPv6
            link.bind("tcp://[::1]:*")
        assert link.bind("tcp://localhost:*").startswith("tcp://127.0.0.1:")


def test_a_socket_that_cannot_be_opened_is_an_error_of_ours():
    """There may be no descriptor left; here the context has no room."""
    with new_context() as context:
        context.set(zmq.MAX_SOCKETS, 1)
        with (
            context.socket(zmq.DEALER),
            pytest.raises(ZPatternsError, match="no socket can be opened: Too many open files"),
        ):
            Link(context, SocketKind.DEALER, "port", SocketSettings(), default_rng)


class TestOptions:
    def test_of_every_socket(self, make):
        options = make(SocketKind.ROUTER)._socket.getsockopt
        settings = SocketSettings()
        assert options(zmq.SNDHWM) == settings.send_hwm
        assert options(zmq.RCVHWM) == settings.receive_hwm
        assert options(zmq.MAXMSGSIZE) == settings.message_max
        assert options(zmq.BACKLOG) == settings.backlog
        assert options(zmq.HANDSHAKE_IVL) == settings.handshake_timeout * 1000
        assert options(zmq.LINGER) == 0
        assert options(zmq.TCP_KEEPALIVE) == 1

    @pytest.mark.parametrize(
        ("kind", "immediate"), [(SocketKind.ROUTER, 0), (SocketKind.DEALER, 1), (SocketKind.REQ, 1)]
    )
    def test_nothing_waits_in_libzmq_for_who_is_not_there(self, make, kind, immediate):
        assert make(kind)._socket.getsockopt(zmq.IMMEDIATE) == immediate

    def test_a_socket_with_one_peer_finds_out_when_it_is_gone(self, make):
        options = make(SocketKind.DEALER)._socket.getsockopt
        settings = SocketSettings()
        assert options(zmq.TCP_KEEPALIVE_IDLE) == options(zmq.TCP_KEEPALIVE_INTVL) == settings.probe_interval
        assert options(zmq.TCP_KEEPALIVE_CNT) == 3
        assert options(zmq.TCP_MAXRT) == settings.probe_timeout * 1000

    @pytest.mark.parametrize("interval", [0.0, 0.05, 1.0])
    def test_probes_are_no_more_than_tcp_takes(self, make, interval):
        options = make(SocketKind.DEALER, probe_interval=interval, probe_timeout=600.0)._socket.getsockopt
        assert (options(zmq.TCP_KEEPALIVE_IDLE), options(zmq.TCP_KEEPALIVE_CNT)) == (1, 127)

    @pytest.mark.parametrize("kind", SocketKind)
    def test_none_has_the_heartbeats_of_zmtp(self, make, kind):
        """libzmq aborts the process when one is due on a connection that was reset while its messages waited to be
        read: a caller that took its time over a stream did not survive the end of its broker."""
        assert make(kind)._socket.getsockopt(zmq.HEARTBEAT_IVL) == 0

    def test_reconnects_are_drawn(self, make):
        """libzmq doubles its delays without jitter: sockets that lost one server would come back as one."""
        drawn = [
            make(SocketKind.DEALER, Fixed(share), reconnect_first=0.2)._socket.getsockopt(zmq.RECONNECT_IVL)
            for share in (0.0, 0.5, 1.0)
        ]
        assert drawn == [100, 200, 300]

    def test_a_reconnect_may_not_be_later_than_its_cap(self, make):
        socket = make(SocketKind.DEALER, reconnect_first=0.1, reconnect_cap=0.7)._socket
        assert socket.getsockopt(zmq.RECONNECT_IVL_MAX) == 700

    def test_a_frame_that_is_too_large_costs_its_sender_the_connection(self, make, peer):
        server = make(SocketKind.ROUTER, message_max=1000)
        sender = peer(zmq.DEALER, connect=server.bind("tcp://127.0.0.1:*"))
        other = peer(zmq.DEALER, connect=server._socket.getsockopt_string(zmq.LAST_ENDPOINT))
        monitor = sender.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        try:
            sender.send(b"x" * 1001)
            assert monitor.poll(DEADLINE * 1000)
        finally:
            sender.disable_monitor()
            monitor.close()
        other.send(b"x" * 1000)
        until(server.events, "the other's message")
        assert [len(frames[1]) for frames in server.receive(10)] == [1000]

    def test_a_context_has_room_for_many_sockets(self):
        with new_context() as context:
            assert context.get(zmq.MAX_SOCKETS) > 10_000


class TestSending:
    def send(self, link: Link, wire: Wire, *messages: Frames) -> list[tuple[PortId, Frames, SendFailure]]:
        link._transfer = PlainTransfer(list, lambda: None, wire, link.routed, 10)
        failures: list[tuple[PortId, Frames, SendFailure]] = []
        link.send([list(frames) for frames in messages], 0.0, failures)
        return failures

    @pytest.mark.parametrize("frame", [2, 3, 4])
    def test_a_message_that_breaks_in_the_middle_is_failed_and_the_next_is_whole(self, make, frame):
        wire = Wire(breaks_at=frame)
        first, second = [b"1", b"2", b"3", b"4"], [b"5", b"6"]
        failures = self.send(make(SocketKind.DEALER), wire, first, second)
        assert failures == [("port", first, SendFailure.UNREACHABLE)]
        assert wire.sent == [second]

    def test_one_that_cannot_begin_waits_and_so_do_those_behind_it(self, make):
        link = make(SocketKind.DEALER)
        wire = Wire(breaks_at=1)
        assert self.send(link, wire, [b"1", b"2"], [b"3"]) == []
        assert wire.sent == []
        assert link.waiting == 2
        link.flush(0.0, [], force=True)
        assert wire.sent == [[b"1", b"2"], [b"3"]]
        assert link.waiting == 0

    @pytest.mark.parametrize("error", [zmq.EHOSTUNREACH, zmq.ENOTSOCK, zmq.ETERM])
    def test_a_peer_that_is_gone(self, make, error):
        wire = Wire(breaks_at=1, error=error)
        failures = self.send(make(SocketKind.ROUTER), wire, [b"peer", b"1"], [b"other", b"2"])
        assert failures == [("port", [b"peer", b"1"], SendFailure.UNREACHABLE)]
        assert wire.sent == [[b"other", b"2"]]

    def test_a_full_peer_is_tried_again_and_again_but_ever_less_often(self, make):
        link = make(SocketKind.ROUTER)
        wire = Wire(breaks_at=1)
        self.send(link, wire, [b"peer", b"1"])
        now, delays = 0.0, []
        for _ in range(40):
            assert link.retry_at is not None
            before, now = now, link.retry_at
            delays.append(now - before)
            wire.breaks_at = wire.frames + 1
            link.flush(now, [])
        assert delays[0] == 0.005
        assert sum(delays) > 1.5, "tried too often"
        assert max(delays) <= 0.1, "tried too seldom"
        wire.breaks_at = 0
        while link.waiting:
            assert link.retry_at is not None
            link.flush(link.retry_at, [])
        assert wire.sent == [[b"peer", b"1"]]
        assert not link.blocked

    def test_what_is_larger_than_an_outbox_is_an_overflow(self, make):
        link = make(SocketKind.ROUTER, outbox_bytes_max=MESSAGE_OVERHEAD + 100)
        failures = self.send(link, Wire(breaks_at=1), [b"peer", b"x" * 97], [b"peer", b"small"])
        # The small one behind it must not go in its stead: that would be a gap.
        assert [reason for _, _, reason in failures] == [SendFailure.OVERFLOW] * 2
        assert link.waiting == 0

    def test_a_message_larger_than_the_outbox_waits_alone_for_its_connection(self, make):
        """The first request over a new connection was lost if it was larger than 16 MiB, in many attempts."""
        link = make(SocketKind.DEALER, outbox_bytes_max=MESSAGE_OVERHEAD + 100)
        link.connect("tcp://127.0.0.1:1")
        failures: list[Any] = []
        link.send([[b"x" * 200], [b"y"]], 0.0, failures)
        assert link.discard() == [[b"x" * 200]]
        assert failures == [("port", [b"y"], SendFailure.OVERFLOW)]


class TestForks:
    def test_the_guard_lets_its_own_process_pass(self):
        ProcessGuard("thing").check()

    def test_the_guard_stops_another_process(self, monkeypatch):
        guard = ProcessGuard("thing")
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(ForkedError, match="this thing was made in process"):
            guard.check()

    def test_whatever_a_child_does_with_its_parents_objects_it_is_told(self):
        # From Python 3.12 on, a warning says that a process with threads had better not fork.
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
        result = subprocess.run(command, capture_output=True, timeout=DEADLINE, check=False)
        assert result.stderr == b""
        assert result.stdout.decode().splitlines() == [
            "client.request: ForkedError",
            "client.stream: ForkedError",
            "the parent's stream: ForkedError",
            "client.has_service: ForkedError",
            "client.close: ForkedError",
            "caller.request: ForkedError",
            "caller.close: ForkedError",
            "broker.start: ForkedError",
            "broker.stop: ForkedError",
            "worker.run: ForkedError",
            "worker.stop: ForkedError",
            "a new client in the child: [b'hello']",
            "the parent's own client: [b'hello']",
            "the parent's own stream: [b'2']",
        ]
        assert result.returncode == 0


FORK = f"""
import asyncio, os, sys, threading
sys.path[:0] = {sys.path!r}
from zpatterns.mdp import AsyncClient, Broker, Client, Worker
from zpatterns.testing import BackgroundReactor

background = BackgroundReactor()
broker = background.start(Broker("tcp://127.0.0.1:*"))
worker = background.start(Worker(broker.endpoint, service="echo"))

def count(request):
    yield b"1"
    yield b"2"

background.start(Worker(broker.endpoint, service="count", handler=count))
client = Client(broker.endpoint)
assert client.request("echo", b"hello") == [b"hello"]
caller = AsyncClient(broker.endpoint)
background.run(caller.request("echo", b"hello"))
parts = client.stream("count")
assert next(parts) == [b"1"]

def attempt(name, work):
    try:
        result = work()
        if asyncio.iscoroutine(result):
            asyncio.run(result)
        print(name + ": nothing", flush=True)
    except Exception as error:
        print(name + ": " + type(error).__name__, flush=True)

child = os.fork()
if not child:
    attempt("client.request", lambda: client.request("echo", b"hello"))
    attempt("client.stream", lambda: list(client.stream("echo", b"hello")))
    attempt("the parent's stream", lambda: next(parts))
    attempt("client.has_service", lambda: client.has_service("echo"))
    attempt("client.close", client.close)
    attempt("caller.request", lambda: caller.request("echo", b"hello"))
    attempt("caller.close", caller.close)
    attempt("broker.start", broker.start)
    attempt("broker.stop", broker.stop)
    attempt("worker.run", worker.run)
    attempt("worker.stop", worker.stop)
    with Client(broker.endpoint) as own:
        print("a new client in the child:", own.request("echo", b"hello"), flush=True)
    # As a child of a server does, not by the interpreter's own end.
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print("the parent's own client:", client.request("echo", b"hello"), flush=True)
print("the parent's own stream:", next(parts), flush=True)
client.close()
background.run(caller.close())
background.close()
"""
