"""Both Lazy Pirate clients over real sockets, against a plain REP, a plain ROUTER, and our own server."""

from __future__ import annotations

import asyncio
import os
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
from zpatterns.calls_core import AttemptFailed
from zpatterns.errors import ClosedError, QueueFull, RemoteError, RequestTimeout
from zpatterns.handlers import Request
from zpatterns.pirate import AsyncLazyPirateClient, LazyPirateClient, LazyPirateServer
from zpatterns.testing import BackgroundReactor, ReservedPort

ERROR = b"\x00ZPATTERNS-ERROR\x00"


@pytest.fixture(params=[LazyPirateClient, AsyncLazyPirateClient])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Caller]]:
    """Makes clients: ``make(endpoint, retries=0)``."""
    yield from maker(request.param)


@pytest.fixture
def serve() -> Iterator[Callable[..., LazyPirateServer]]:
    """Starts servers of ours: ``serve(handler)``."""
    with BackgroundReactor() as reactor:

        def start(handler: Callable[[Request], Any] | None = None, **options: Any) -> LazyPirateServer:
            return reactor.start(LazyPirateServer(LOOPBACK, handler=handler, **options))

        yield start


class TestRequests:
    @pytest.mark.parametrize(
        ("frames", "body"),
        [
            ((b"hello",), [b"hello"]),
            (("größer",), ["größer".encode()]),
            ((b"a", "b", b""), [b"a", b"b", b""]),
            ((b"", b"", b"x"), [b"", b"", b"x"]),
            ((), [b""]),
            ((b"x" * 1_000_000,), [b"x" * 1_000_000]),
        ],
        ids=["bytes", "str", "several", "empty", "none", "large"],
    )
    def test_what_a_plain_rep_gets_and_says(self, make, peer, frames, body):
        rep = peer(zmq.REP, bind=LOOPBACK)
        call = make(endpoint_of(rep)).start(*frames)
        assert rep.recv_multipart() == body
        rep.send_multipart([b"answer", b"", *body])
        assert call.result(DEADLINE) == [b"answer", b"", *body]

    def test_many_at_once_each_with_its_own_reply(self, make, serve):
        server = serve(concurrency=4)
        caller = make(server.endpoint, max_in_flight=16)
        calls = [caller.start(b"%d" % number) for number in range(200)]
        assert [call.result(DEADLINE) for call in calls] == [[b"%d" % number] for number in range(200)]
        statistics = caller.statistics()
        assert statistics.replies == statistics.calls == statistics.attempts == 200
        assert statistics.connections <= 16
        assert statistics.in_flight == statistics.waiting == 0

    def test_calls_one_after_another_need_one_connection(self, make, serve):
        caller = make(serve().endpoint)
        for number in range(50):
            assert caller.ask(b"%d" % number) == [b"%d" % number]
        assert caller.statistics().connections == 1

    def test_replies_that_come_in_another_order_find_their_calls(self, make, peer):
        """A server that works on many things at a time answers in whatever order they are done."""
        router = peer(zmq.ROUTER, bind=LOOPBACK)
        caller = make(endpoint_of(router))
        calls = {b"%d" % number: caller.start(b"%d" % number) for number in range(5)}
        asked = {frames[2]: frames[:2] for frames in (router.recv_multipart() for _ in range(5))}
        for body in sorted(asked, reverse=True):
            router.send_multipart([*asked[body], b"answer to " + body])
        for body, call in calls.items():
            assert call.result(DEADLINE) == [b"answer to " + body]

    def test_an_error_of_the_handler(self, make, peer):
        rep = peer(zmq.REP, bind=LOOPBACK)
        call = make(endpoint_of(rep)).start(b"x")
        rep.recv_multipart()
        rep.send_multipart([ERROR, b"LookupError", b"there is no such thing"])
        with pytest.raises(RemoteError, match="the server answered with error LookupError") as caught:
            call.result(DEADLINE)
        assert (caught.value.code, caught.value.message) == ("LookupError", "there is no such thing")
        assert (caught.value.attempts, caught.value.endpoint) == (1, endpoint_of(rep))

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


class TestAttempts:
    def test_the_next_attempt_comes_over_a_new_socket_and_a_late_reply_to_the_first_is_nobodys(self, make, peer):
        router = peer(zmq.ROUTER, bind=LOOPBACK)
        caller = make(endpoint_of(router), attempt_timeout=0.3, retries=20)
        call = caller.start(b"hello")
        first, *rest = router.recv_multipart()
        second, *again = router.recv_multipart()
        assert first != second
        assert rest == again == [b"", b"hello"]
        router.send_multipart([first, b"", b"late"])
        router.send_multipart([second, b"", b"right"])
        while not call.done():  # or, where that was late on a slow machine, the next one
            if router.poll(20):
                router.send_multipart([*router.recv_multipart()[:2], b"right"])
        assert call.result(DEADLINE) == [b"right"]
        other = caller.start(b"other")
        while (frames := router.recv_multipart())[2] != b"other":
            pass  # an attempt more of the first call, on a slow machine
        router.send_multipart([frames[0], b"", b"other's"])
        assert other.result(DEADLINE) == [b"other's"]

    def test_a_call_ends_at_its_deadline(self, make, peer):
        rep = peer(zmq.REP, bind=LOOPBACK)
        caller = make(endpoint_of(rep), timeout=60, retries=1)

        def attempts() -> int:
            began = time.monotonic()
            with pytest.raises(RequestTimeout, match="is the server there") as caught:
                caller.ask(b"", timeout=0.3)
            assert 0.3 <= time.monotonic() - began < DEADLINE
            error = caught.value
            assert isinstance(error, TimeoutError)
            assert (error.service, error.endpoint) == (None, endpoint_of(rep))
            assert error.elapsed is not None
            assert 0.3 <= error.elapsed < DEADLINE
            return error.attempts or 0

        # Where the machine stood still when the second was due there was one.
        until(lambda: attempts() == 2, "a call of both attempts")

    def test_nobody_there(self, make):
        with pytest.raises(RequestTimeout):
            make(NOBODY, timeout=0.2).ask(b"hello")

    def test_a_server_that_comes_late_gets_what_is_asked_then_and_nothing_older(self, make, peer):
        with ReservedPort() as port:
            caller = make(port.endpoint, retries=2)
            for number in range(3):
                with pytest.raises(RequestTimeout):
                    caller.ask(b"given up %d" % number, timeout=0.1)
            call = caller.start(b"wanted", timeout=DEADLINE)
            router = peer(zmq.ROUTER, bind=port.endpoint)
            client, *rest = router.recv_multipart()
            assert rest == [b"", b"wanted"]
            router.send_multipart([client, b"", b"done"])
            assert call.result(DEADLINE) == [b"done"]
            assert not router.poll(200), "something that was given up has come after all"

    def test_it_turns_to_a_server_that_is_there_and_stays_with_it(self, make, serve):
        events: list[Any] = []
        server = serve()
        caller = make([NOBODY, server.endpoint], attempt_timeout=0.2, retries=50, on_event=events.append)
        for number in range(5):
            assert caller.ask(b"%d" % number) == [b"%d" % number]
        failed = [event for event in events if isinstance(event, AttemptFailed)]
        assert failed[0].endpoint == NOBODY
        assert failed[0].reason == "no answer"

    def test_a_server_that_dies_and_comes_back_under_load_costs_no_call(self, make):
        served = [0, 0]

        def handler(life: int) -> Callable[[Request], bytes]:
            def handle(request: Request) -> bytes:
                served[life] += 1
                return request.body

            return handle

        with ReservedPort() as port, BackgroundReactor() as reactor:
            first = reactor.start(LazyPirateServer(port.endpoint, handler=handler(0)))
            caller = make(port.endpoint, timeout=2 * DEADLINE, attempt_timeout=0.5, retries=70, max_in_flight=4)
            calls = [caller.start(b"%d" % number) for number in range(100)]
            until(lambda: served[0] >= 20, "some are answered")
            reactor.stop(first, drain=0.0)
            calls += [caller.start(b"%d" % number) for number in range(100, 150)]
            reactor.start(LazyPirateServer(port.endpoint, handler=handler(1)))
            assert [call.result(DEADLINE) for call in calls] == [[b"%d" % number] for number in range(150)]
            assert served[1] >= 50

    def test_a_refusal_is_tried_again(self, make, peer):
        rep = peer(zmq.REP, bind=LOOPBACK)
        call = make(endpoint_of(rep), attempt_timeout=0.5, retries=30).start(b"x")
        for code in (b"429", b"503"):
            assert rep.recv_multipart() == [b"x"]
            rep.send_multipart([ERROR, code, b"not now"])
        while not call.done():  # on a slow machine the answer to one attempt may come after the next
            if rep.poll(20):
                assert rep.recv_multipart() == [b"x"]
                rep.send(b"now")
        assert call.result(DEADLINE) == [b"now"]


class TestEnding:
    def test_a_cancelled_call_leaves_nothing_behind(self, serve, hold):
        server = serve(hold)

        async def main() -> None:
            async with AsyncLazyPirateClient(server.endpoint, timeout=DEADLINE, max_in_flight=20) as client:
                assert await client.request(b"now") == [b"now"]
                before = len(os.listdir("/dev/fd"))
                calls = [asyncio.create_task(client.request(b"%d" % number)) for number in range(40)]
                await eventually(lambda: client.statistics().in_flight == 20, "half of them are on the wire")
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
                statistics = client.statistics()
                assert (statistics.in_flight, statistics.waiting) == (0, 0)
                assert statistics.connections <= 1, "a connection on which an answer may still come"
                assert statistics.cancelled == 40
                await eventually(lambda: len(os.listdir("/dev/fd")) <= before, "their sockets are closed")

        asyncio.run(main())

    def test_an_interrupt_while_a_call_begins_leaves_nothing_behind(self, monkeypatch):
        with LazyPirateClient(NOBODY, timeout=DEADLINE) as client:
            driver = client._open()
            submit = driver.submit

            def interrupted(work):
                submit(work)
                monkeypatch.undo()
                raise KeyboardInterrupt

            monkeypatch.setattr(driver, "submit", interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.request("x")
            statistics = client.statistics()
            assert (statistics.cancelled, statistics.waiting, statistics.in_flight) == (1, 0, 0)
            assert client._calls == {}

    def test_open_calls_end_with_the_client(self, make, serve, hold):
        caller = make(serve(hold).endpoint)
        calls = [caller.start(b"%d" % number) for number in range(3)]
        until(lambda: caller.statistics().in_flight == 3, "all are on the wire")
        caller.close()
        for call in calls:
            with pytest.raises(ClosedError):
                call.result(DEADLINE)

    def test_attempts_leave_no_descriptors(self, peer):
        rep = peer(zmq.REP, bind=LOOPBACK)
        with LazyPirateClient(endpoint_of(rep), timeout=0.4, retries=7) as client:
            with pytest.raises(RequestTimeout):
                client.request(b"x")
            before = len(os.listdir("/dev/fd"))
            for _ in range(3):
                with pytest.raises(RequestTimeout):
                    client.request(b"x")
            until(lambda: len(os.listdir("/dev/fd")) <= before + 2, "the sockets of attempts are closed")
            assert client.statistics().connections == 0


def test_threads_share_a_client_which_starts_none_of_its_own(serve):
    server = serve(concurrency=2)
    with LazyPirateClient(server.endpoint, timeout=DEADLINE) as client:
        before = threading.active_count()

        def ask(thread: int) -> bool:
            bodies = (b"%d of %d" % (number, thread) for number in range(20))
            return all(client.request(body) == [body] for body in bodies)

        calls = [in_thread(partial(ask, thread)) for thread in range(8)]
        assert all(call.result(DEADLINE) for call in calls)
        until(lambda: threading.active_count() <= before, "no thread of the client's own")


class TestPromises(ClientPromises):
    Client, AsyncClient = LazyPirateClient, AsyncLazyPirateClient
