"""Both Freelance clients over real sockets: against servers of ours and bare sockets, in all three models."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import zmq

from tests.example import endpoint_of
from tests.mdp.callers import in_thread
from tests.plain_callers import LOOPBACK, NOBODY, Caller, maker
from tests.plain_client_promises import ClientPromises
from tests.waiting import DEADLINE, eventually, until
from zpatterns.errors import ClosedError, EndpointError, QueueFull, RemoteError, RequestTimeout
from zpatterns.freelance import AsyncFreelanceClient, FreelanceClient, FreelanceServer
from zpatterns.freelance.events import ServerDown
from zpatterns.handlers import Request
from zpatterns.testing import BackgroundReactor, ReservedPort

MODELS = ["addressed", "shotgun", "failover"]


@pytest.fixture(params=[FreelanceClient, AsyncFreelanceClient])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Caller]]:
    """Makes clients: ``make(endpoints, model="failover")``."""
    yield from maker(request.param)


@pytest.fixture
def serve() -> Iterator[Callable[..., FreelanceServer]]:
    """Starts servers of ours: ``serve(handler, model="shotgun")``."""
    with BackgroundReactor() as reactor:

        def start(handler: Callable[[Request], Any] | None = None, **options: Any) -> FreelanceServer:
            if options.get("model", "addressed") == "addressed":
                options.setdefault("identity", "server")
            return reactor.start(FreelanceServer(LOOPBACK, handler=handler, **options))

        yield start


class TestRequests:
    @pytest.mark.parametrize("model", MODELS)
    def test_many_at_once_each_with_its_own_reply(self, make, serve, model):
        servers = [serve(model=model, concurrency=4) for _ in range(2)]
        caller = make([server.endpoint for server in servers], model=model)
        calls = [caller.start(b"%d" % number) for number in range(200)]
        assert [call.result(DEADLINE) for call in calls] == [[b"%d" % number] for number in range(200)]
        statistics = caller.statistics()
        assert (statistics.replies, statistics.in_flight, statistics.waiting) == (200, 0, 0)

    @pytest.mark.parametrize(
        ("frames", "body"),
        [
            ((b"hello",), [b"hello"]),
            (("größer",), ["größer".encode()]),
            ((b"a", "b", b""), [b"a", b"b", b""]),
            ((b"PING",), [b"PING"]),
            ((), [b""]),
            ((b"x" * 1_000_000,), [b"x" * 1_000_000]),
        ],
        ids=["bytes", "str", "several", "PING", "none", "large"],
    )
    @pytest.mark.parametrize("model", ["addressed", "failover"])
    def test_any_body(self, make, serve, model, frames, body):
        caller = make(serve(lambda request: [b"got", *request.frames], model=model).endpoint, model=model)
        assert caller.ask(*frames) == [b"got", *body]

    def test_shotgun_goes_to_all_and_takes_the_first_answer(self, make, peer):
        routers = [peer(zmq.ROUTER, bind=LOOPBACK) for _ in range(3)]
        caller = make([endpoint_of(router) for router in routers], model="shotgun")
        call = caller.start(b"x")
        asked = [router.recv_multipart() for router in routers]
        assert [frames[1:] for frames in asked] == [[b"", b"1", b"x"]] * 3
        routers[1].send_multipart([*asked[1][:3], b"quick"])
        assert call.result(DEADLINE) == [b"quick"]
        routers[0].send_multipart([*asked[0][:3], b"slow"])
        again = caller.start(b"y")
        client, _, number, body = routers[2].recv_multipart()
        assert (number, body) == (b"2", b"y")
        routers[2].send_multipart([client, b"", number, b"right"])
        assert again.result(DEADLINE) == [b"right"]

    def test_failover_is_a_req_to_a_plain_rep(self, make, peer):
        rep = peer(zmq.REP, bind=LOOPBACK)
        call = make(endpoint_of(rep), model="failover").start(b"a", b"b")
        assert rep.recv_multipart() == [b"a", b"b"]
        rep.send_multipart([b"c", b"d"])
        assert call.result(DEADLINE) == [b"c", b"d"]

    def test_addressed_reaches_a_bare_router_by_any_spelling_and_without_identity(self, make, peer):
        """CONNECT_ROUTING_ID: the name by which we know a server is ours to choose."""
        router = peer(zmq.ROUTER, bind=LOOPBACK)
        port = endpoint_of(router).rpartition(":")[2]
        call = make(f"tcp://localhost:{port}").start(b"x")
        while (frames := router.recv_multipart())[1] == b"PING":
            router.send_multipart([frames[0], b"PONG"])
        router.send_multipart([*frames[:2], b"done"])
        assert call.result(DEADLINE) == [b"done"]

    def test_an_error_of_the_handler(self, make, serve):
        def fail(request: Request) -> None:
            raise LookupError("there is no such thing")

        with pytest.raises(RemoteError, match="the server answered with error LookupError") as caught:
            make(serve(fail).endpoint).ask(b"x")
        assert (caught.value.code, caught.value.attempts) == ("LookupError", 1)

    def test_a_shotgun_server_whose_handler_fails_leaves_the_answer_to_another(self, make, serve):
        def fail(request: Request) -> None:
            raise LookupError("no")

        servers = [serve(fail, model="shotgun"), serve(model="shotgun")]
        assert make([server.endpoint for server in servers], model="shotgun").ask(b"x") == [b"x"]

    def test_a_full_queue_is_told_at_once(self, make, serve, hold):
        caller = make(serve(hold).endpoint, max_in_flight=1, queue_max=1)
        calls = [caller.start(b"first")]
        until(lambda: caller.statistics().in_flight == 1, "one is on the wire")
        calls.append(caller.start(b"second"))
        until(lambda: caller.statistics().waiting == 1, "one waits")
        with pytest.raises(QueueFull):
            caller.ask(b"third")
        hold.release.set()
        assert [call.result(DEADLINE) for call in calls] == [[b"first"], [b"second"]]

    def test_a_server_without_room_is_passed_over(self, make, serve, hold):
        full, other = serve(hold, queue_max=1), serve(lambda request: b"other")
        blocking = make(full.endpoint)
        held = [blocking.start(b"1"), blocking.start(b"2")]
        until(lambda: full.statistics().queued == 1, "it is full")
        assert make([full.endpoint, other.endpoint]).ask(b"x") == [b"other"]
        assert full.statistics().refused == 1
        hold.release.set()
        assert [call.result(DEADLINE) for call in held] == [[b"1"], [b"2"]]


class TestServers:
    @pytest.mark.parametrize("model", MODELS)
    def test_a_dead_first_server_costs_one_attempt_at_most(self, make, serve, model):
        server = serve(model=model)

        def attempts() -> int:
            caller = make([NOBODY, server.endpoint], model=model, attempt_timeout=0.3, retries=50)
            for number in range(5):
                assert caller.ask(b"%d" % number) == [b"%d" % number]
            return int(caller.statistics().attempts)

        # Where the machine stands still for an attempt there is one more.
        until(lambda: attempts() <= 6, "one attempt too many for five calls")

    def test_a_slow_server_that_answers_pings_is_sent_a_call_once(self, make, serve, hold):
        server = serve(hold, concurrency=4)
        # A busy machine has half of an attempt's time for the answer to a PING.
        caller = make(server.endpoint, attempt_timeout=1.0, retries=20, heartbeat_interval=0.1, liveness=15)
        call = caller.start(b"slow")
        until(lambda: caller.statistics().pings >= 20, "it is asked whether it is there, for longer than its lease")
        assert caller.statistics().attempts == 1
        hold.release.set()
        assert call.result(DEADLINE) == [b"slow"]
        assert hold.begun == [b"slow"]

    def test_servers_are_pinged_while_nobody_calls(self, make, peer):
        router = peer(zmq.ROUTER, bind=LOOPBACK)
        events: list[Any] = []
        caller = make(endpoint_of(router), heartbeat_interval=0.1, liveness=8, on_event=events.append)
        call = caller.start(b"x")
        while (frames := router.recv_multipart())[1] == b"PING":
            router.send_multipart([frames[0], b"PONG"])
        router.send_multipart([*frames[:2], b"done"])
        assert call.result(DEADLINE) == [b"done"]
        for _ in range(5):
            assert router.recv_multipart()[1:] == [b"PING"]
        until(lambda: [event for event in events if isinstance(event, ServerDown)], "and found to be gone")

    def test_a_server_that_comes_back_is_found_again(self, make):
        with ReservedPort() as port:
            caller = make(port.endpoint, heartbeat_interval=0.1, liveness=2)
            for _ in range(2):
                with BackgroundReactor() as reactor:
                    reactor.start(FreelanceServer(port.endpoint))
                    assert caller.ask(b"x") == [b"x"]
                    until(lambda: caller.statistics().servers == {port.endpoint: "up"}, "it is there")
                until(lambda: caller.statistics().servers == {port.endpoint: "down"}, "it is gone")

    def test_what_was_given_up_is_not_delivered_to_a_server_that_comes_late(self, make, peer):
        def first_to_come() -> list[bytes]:
            bodies = []
            with ReservedPort() as port:
                caller = make(port.endpoint, retries=0, heartbeat_interval=0.2, liveness=100)
                for number in range(3):
                    with pytest.raises(RequestTimeout):
                        caller.ask(b"given up %d" % number, timeout=0.4)
                call = caller.start(b"wanted")
                router = peer(zmq.ROUTER, bind=port.endpoint)
                while not call.done():
                    if router.poll(20):
                        client, control, *body = router.recv_multipart()
                        bodies += body
                        router.send_multipart([client, control, b"done"] if body else [client, b"PONG"])
                assert call.result(DEADLINE) == [b"done"]
            return bodies

        # One that has stood still itself does not blame its server at once, and keeps what was given up until then.
        until(lambda: first_to_come() == [b"wanted"], "a client that did not stand still")

    @pytest.mark.parametrize("model", MODELS)
    def test_servers_are_added_and_removed_while_it_runs(self, serve, model):
        first, second = serve(lambda request: b"first", model=model), serve(lambda request: b"second", model=model)
        with FreelanceClient(first.endpoint, model=model, timeout=DEADLINE) as client:
            assert client.request(b"x") == [b"first"]
            client.add_server(second.endpoint)
            assert client.endpoints == (first.endpoint, second.endpoint)
            client.remove_server(first.endpoint)
            assert client.request(b"x") == [b"second"]
            with pytest.raises(ValueError, match="the last server"):
                client.remove_server(second.endpoint)
            with pytest.raises(ValueError, match="none of this client's servers"):
                client.remove_server(first.endpoint)
            with pytest.raises(EndpointError):
                client.add_server("nonsense")

    @pytest.mark.parametrize("model", MODELS)
    def test_servers_are_added_and_removed_while_it_runs_in_asyncio(self, serve, model):
        first, second = serve(lambda request: b"first", model=model), serve(lambda request: b"second", model=model)

        async def main() -> None:
            async with AsyncFreelanceClient(first.endpoint, model=model, timeout=DEADLINE) as client:
                assert await client.request(b"x") == [b"first"]
                client.add_server(second.endpoint)
                client.remove_server(first.endpoint)
                assert client.endpoints == (second.endpoint,)
                assert await client.request(b"x") == [b"second"]
                with pytest.raises(ValueError, match="the last server"):
                    client.remove_server(second.endpoint)

        asyncio.run(main())

    def test_an_open_call_turns_away_from_a_server_that_is_removed(self, serve, hold):
        slow, other = serve(hold), serve(lambda request: b"other")
        with FreelanceClient([slow.endpoint, other.endpoint], timeout=DEADLINE) as client:
            call = in_thread(lambda: client.request(b"x"))
            until(lambda: hold.begun, "it is being served")
            client.remove_server(slow.endpoint)
            assert call.result(DEADLINE) == [b"other"]

    def test_round_robin_gives_both_servers_work(self, make, serve):
        servers = [serve(), serve()]
        caller = make([server.endpoint for server in servers], round_robin=True)
        until(lambda: list(caller.statistics().servers.values()) == ["up", "up"] or not caller.ask(b""), "both are up")
        for _ in range(10):
            caller.ask(b"x")
        assert all(server.statistics().requests >= 5 for server in servers)


class TestEnding:
    @pytest.mark.parametrize("model", MODELS)
    def test_a_call_ends_at_its_deadline(self, make, peer, model):
        router = peer(zmq.ROUTER, bind=LOOPBACK)
        began = time.monotonic()
        with pytest.raises(RequestTimeout, match="is any of the servers there") as caught:
            make([endpoint_of(router), NOBODY], model=model).ask(b"", timeout=0.3)
        assert 0.3 <= time.monotonic() - began < DEADLINE
        assert isinstance(caught.value, TimeoutError)

    @pytest.mark.parametrize("model", MODELS)
    def test_open_calls_end_with_the_client(self, make, serve, hold, model):
        caller = make(serve(hold, model=model).endpoint, model=model)
        calls = [caller.start(b"%d" % number) for number in range(3)]
        until(lambda: caller.statistics().in_flight == 3, "all are on the wire")
        caller.close()
        for call in calls:
            with pytest.raises(ClosedError):
                call.result(DEADLINE)

    def test_a_cancelled_call_leaves_nothing_behind(self, serve, hold):
        server = serve(hold, concurrency=2)

        async def main() -> None:
            async with AsyncFreelanceClient(server.endpoint, timeout=DEADLINE) as client:
                calls = [asyncio.create_task(client.request(b"%d" % number)) for number in range(40)]
                await eventually(lambda: client.statistics().in_flight == 40, "all are on the wire")
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
                statistics = client.statistics()
                assert (statistics.in_flight, statistics.waiting, statistics.cancelled) == (0, 0, 40)
                hold.release.set()
                assert await client.request(b"x") == [b"x"]

        asyncio.run(main())

    @pytest.mark.parametrize("model", MODELS)
    def test_threads_share_a_client_of_which_no_thread_is_left(self, serve, model):
        server = serve(model=model, concurrency=2)
        before = threading.active_count()
        with FreelanceClient(server.endpoint, model=model, timeout=DEADLINE) as client:

            def ask(thread: int) -> bool:
                bodies = (b"%d of %d" % (number, thread) for number in range(20))
                return all(client.request(body) == [body] for body in bodies)

            calls = [in_thread(partial(ask, thread)) for thread in range(8)]
            assert all(call.result(DEADLINE) for call in calls)
            threads = [thread.name for thread in threading.enumerate() if thread.name == "freelance.client"]
            assert len(threads) == (model == "addressed")
        until(lambda: threading.active_count() <= before, "no thread of the client's own")

    def test_a_program_that_forgets_to_close_ends_all_the_same(self, serve):
        program = f"from zpatterns.freelance import FreelanceClient as C\nprint(C({serve().endpoint!r}).request(b'x'))"
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
        assert (result.returncode, result.stdout, result.stderr) == (0, "[b'x']\n", "")


class TestPromises(ClientPromises):
    Client, AsyncClient = FreelanceClient, AsyncFreelanceClient


class TestMisuse:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"heartbeat_interval": 0}, "heartbeat_interval must be a positive number"),
            ({"liveness": 0}, "liveness must be at least 1"),
            ({"model": "lucky"}, "model must be"),
        ],
    )
    def test_values_that_make_no_sense(self, options, text):
        for kind in (FreelanceClient, AsyncFreelanceClient):
            with pytest.raises(ValueError, match=text):
                kind(NOBODY, **options)

    def test_shotgun_has_one_frame(self, make):
        caller = make(NOBODY, model="shotgun")
        with pytest.raises(ValueError):
            caller.ask(b"a", b"b")
        assert caller.statistics().calls == 0

    def test_no_server_is_added_afterwards(self):
        client = FreelanceClient(NOBODY)
        client.close()
        with pytest.raises(ClosedError, match="this FreelanceClient was closed"):
            client.add_server("tcp://127.0.0.1:2")

    def test_an_endpoint_that_is_given_twice_is_one_server(self):
        with FreelanceClient([NOBODY, NOBODY]) as client:
            assert client.endpoints == (NOBODY,)

    @pytest.mark.parametrize(("servers", "retries"), [(1, 3), (4, 3), (5, 4), (9, 8)])
    def test_retries_give_every_server_one_attempt(self, servers, retries):
        with FreelanceClient([f"tcp://127.0.0.1:{port + 1}" for port in range(servers)]) as client:
            assert client._core.options.retries == retries
