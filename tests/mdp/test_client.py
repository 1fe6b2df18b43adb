"""Both clients' front ends over real sockets, against our broker and workers. Streams are in test_client_streams.py."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
import time
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from tests.mdp.callers import collect, in_thread
from tests.waiting import DEADLINE, eventually, until
from zpatterns.errors import ClosedError, EndpointError, QueueFull, RemoteError, RequestTimeout
from zpatterns.mdp import AsyncClient, Client
from zpatterns.mdp.events import AttemptFailed
from zpatterns.testing import BackgroundReactor

NOBODY = "tcp://127.0.0.1:1"


class TestRequests:
    @pytest.mark.parametrize(
        ("frames", "reply"),
        [
            ((b"hello",), [b"hello"]),
            (("größer",), ["größer".encode()]),
            ((b"a", "b", b""), [b"a", b"b", b""]),
            ((), [b""]),
            ((b"x" * 1_000_000,), [b"x" * 1_000_000]),
            (tuple(b"%d" % number for number in range(1000)), [b"%d" % number for number in range(1000)]),
        ],
        ids=["bytes", "str", "several", "none", "large", "many"],
    )
    @pytest.mark.parametrize("protocol", ["auto", "0.1", "0.2"])
    def test_what_is_asked_and_answered(self, make, services, frames, reply, protocol):
        assert make(services.endpoint, protocol=protocol).ask("echo", *frames) == reply

    def test_many_at_once_each_with_its_own_reply(self, make, services):
        caller = make(services.endpoint, max_in_flight=16)
        calls = [caller.start("echo", b"%d" % number) for number in range(300)]
        assert [call.result(DEADLINE) for call in calls] == [[b"%d" % number] for number in range(300)]
        statistics = caller.statistics()
        assert statistics.replies == statistics.calls == 300
        assert statistics.connections <= 16
        assert statistics.in_flight == statistics.waiting == 0

    def test_no_more_on_the_wire_than_allowed(self, make, services):
        caller = make(services.endpoint, max_in_flight=1)
        calls = [caller.start("hold", b"%d" % number) for number in range(3)]
        until(lambda: services.begun, "one is in a worker's hands")
        assert caller.statistics().in_flight == 1
        until(lambda: caller.statistics().waiting == 2, "two wait")
        services.release.set()
        assert [call.result(DEADLINE) for call in calls] == [[b"%d" % number] for number in range(3)]

    def test_a_full_queue_is_told_at_once(self, make, services):
        caller = make(services.endpoint, max_in_flight=1, queue_max=1)
        calls = [caller.start("hold", b"first")]
        until(lambda: caller.statistics().in_flight == 1, "one is on the wire")
        calls.append(caller.start("hold", b"second"))
        until(lambda: caller.statistics().waiting == 1, "one waits")
        # The one that leads waits for its own answer; the others must not wait for that.
        with pytest.raises(QueueFull) as caught:
            caller.ask("hold", b"third")
        assert caught.value.service == "hold"
        assert isinstance(caught.value, BlockingIOError)
        services.release.set()
        assert [call.result(DEADLINE) for call in calls] == [[b"first"], [b"second"]]

    def test_an_error_of_the_handler(self, make, services):
        with pytest.raises(RemoteError, match="service 'fail' answered with error LookupError") as caught:
            make(services.endpoint).ask("fail", b"")
        error = caught.value
        assert (error.code, error.message, error.service) == ("LookupError", "there is no such thing", "fail")
        assert (error.attempts, error.endpoint) == (1, services.endpoint)
        assert error.elapsed is not None

    def test_whether_a_service_is_there(self, make, services):
        caller = make(services.endpoint)
        assert caller.has_service("echo").result(DEADLINE) is True
        assert caller.has_service("absent").result(DEADLINE) is False


class TestTimeouts:
    def test_a_call_ends_at_its_deadline(self, make, services):
        caller = make(services.endpoint, timeout=60, retries=1)

        def attempts() -> int:
            began = time.monotonic()
            with pytest.raises(RequestTimeout) as caught:
                caller.ask("absent", b"", timeout=0.2)
            assert 0.2 <= time.monotonic() - began < DEADLINE
            error = caught.value
            assert isinstance(error, TimeoutError)
            assert (error.service, error.endpoint) == ("absent", services.endpoint)
            assert error.elapsed is not None
            assert 0.2 <= error.elapsed < DEADLINE
            assert "is the broker there, and a worker for the service?" in str(error)
            return error.attempts or 0

        # Where the machine stood still when the second was due there was one.
        until(lambda: attempts() == 2, "a call of both attempts")

    def test_one_that_waits_in_the_queue_has_its_deadline_too(self, make, services):
        caller = make(services.endpoint, max_in_flight=1)
        first = caller.start("hold", b"first")
        until(lambda: services.begun, "the first is in a worker's hands")
        with pytest.raises(RequestTimeout, match="raise max_in_flight") as caught:
            caller.ask("hold", b"second", timeout=0.1)
        assert caught.value.attempts == 0
        services.release.set()
        assert first.result(DEADLINE) == [b"first"]
        assert services.begun == [b"first"]

    def test_nobody_there(self, make):
        with pytest.raises(RequestTimeout):
            make(NOBODY, timeout=0.2).ask("echo", b"hello")

    def test_it_turns_to_a_broker_that_is_there(self, make, services):
        events: list[Any] = []
        caller = make([NOBODY, services.endpoint], attempt_timeout=0.2, retries=50, on_event=events.append)
        for number in range(5):
            assert caller.ask("echo", b"%d" % number) == [b"%d" % number]
        failed = [(event.endpoint, event.attempt) for event in events if isinstance(event, AttemptFailed)]
        assert failed[0] == (NOBODY, 1)
        # It remembers, and turns back only from one that on a slow machine was too slow.
        assert all(before == services.endpoint for (before, _), (after, _) in pairwise(failed) if after == NOBODY)

    def test_a_late_reply_is_no_bodys(self, make, services):
        caller = make(services.endpoint, retries=0)
        with pytest.raises(RequestTimeout):
            caller.ask("hold", b"given up", timeout=0.2)
        services.release.set()
        for number in range(5):
            assert caller.ask("hold", b"%d" % number) == [b"%d" % number]


class TestCancelling:
    def test_a_cancelled_call_leaves_nothing_behind(self, services):
        async def main() -> None:
            async with AsyncClient(services.endpoint, timeout=DEADLINE, retries=0, max_in_flight=50) as client:
                assert await client.request("echo", b"first") == [b"first"]
                before = len(os.listdir("/dev/fd"))
                for _ in range(3):
                    calls = [asyncio.create_task(client.request("hold", b"%d" % number)) for number in range(100)]
                    await eventually(lambda: client.statistics().in_flight == 50, "half of them are on the wire")
                    for call in calls:
                        call.cancel()
                    await asyncio.gather(*calls, return_exceptions=True)
                    assert all(call.cancelled() for call in calls)
                    statistics = client.statistics()
                    assert (statistics.in_flight, statistics.waiting) == (0, 0)
                    assert statistics.connections <= 1, "a connection on which an answer may still come"
                assert client.statistics().cancelled == 300
                assert client._calls == {}
                await eventually(lambda: len(os.listdir("/dev/fd")) <= before, "their sockets are closed")
                assert await client.request("echo", b"last") == [b"last"]

        asyncio.run(main())

    def test_giving_up_by_a_timeout_of_asyncio(self, services):
        async def main() -> None:
            async with AsyncClient(services.endpoint, timeout=DEADLINE) as client:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(client.request("hold", b"given up"), 0.1)
                assert client.statistics().cancelled == 1
                assert await client.request("echo", b"next") == [b"next"]

        asyncio.run(main())


class TestThreads:
    def test_one_client_for_many(self, services):
        with Client(services.endpoint, timeout=DEADLINE) as client:
            started = threading.active_count()

            def ask(thread: int) -> bool:
                return all(
                    client.request("echo", body) == [body]
                    for body in (b"%d of %d" % (number, thread) for number in range(40))
                )

            calls = [in_thread(partial(ask, thread)) for thread in range(16)]
            assert all(call.result(DEADLINE) for call in calls)
            until(lambda: threading.active_count() <= started, "no thread of the client's own")
            assert client.statistics().replies == 16 * 40

    def test_streams_and_requests_share_it(self, services):
        with Client(services.endpoint, timeout=DEADLINE) as client:
            parts = client.stream("count", b"2000")
            taken = [next(parts)]
            for number in range(50):
                assert client.request("echo", b"%d" % number) == [b"%d" % number]
            taken += list(parts)
            assert taken == [[b"%d" % number] for number in range(2000)]


class TestClosing:
    def test_open_calls_end_with_it(self, make, services):
        caller = make(services.endpoint)
        calls = [caller.start("hold", b"%d" % number) for number in range(5)]
        until(lambda: caller.statistics().in_flight == 5, "all are on the wire")
        caller.close()
        for call in calls:
            with pytest.raises(ClosedError):
                call.result(DEADLINE)

    def test_afterwards_it_says_so(self, services):
        client = Client(services.endpoint)
        client.close()
        client.close()
        for call in (lambda: client.request("echo", b""), lambda: client.has_service("echo"), client.__enter__):
            with pytest.raises(ClosedError, match="this Client was closed"):
                call()

        async def main() -> None:
            caller = AsyncClient(services.endpoint)
            async with caller:
                await caller.request("echo", b"")
            await caller.close()
            with pytest.raises(ClosedError, match="this AsyncClient was closed"):
                await caller.request("echo", b"")
            with pytest.raises(ClosedError, match="this AsyncClient was closed"):
                await collect(caller.stream("echo", b""))

        asyncio.run(main())

    def test_it_belongs_to_one_loop(self, services):
        client = AsyncClient(services.endpoint)

        async def ask() -> list[bytes]:
            return await client.request("echo", b"hello")

        with BackgroundReactor() as other:
            assert other.run(ask()) == [b"hello"]
            with pytest.raises(RuntimeError, match="belongs to another event loop"):
                asyncio.run(ask())
            other.run(client.close())


class TestMisuse:
    @pytest.mark.parametrize("kind", [Client, AsyncClient])
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"timeout": 0}, "timeout must be a positive number"),
            ({"timeout": float("inf")}, "timeout must be a positive number"),
            ({"timeout": float("nan")}, "timeout must be a positive number"),
            ({"retries": -1}, "retries must be 0 or more"),
            ({"attempt_timeout": 0}, "attempt_timeout must be a positive number"),
            ({"max_in_flight": 0}, "max_in_flight must be at least 1"),
            ({"protocol": "0.3"}, "protocol must be"),
        ],
    )
    def test_values_that_make_no_sense(self, kind, options, text):
        with pytest.raises(ValueError, match=text):
            kind(NOBODY, **options)

    @pytest.mark.parametrize("kind", [Client, AsyncClient])
    @pytest.mark.parametrize("endpoints", ["nonsense", [], [NOBODY, "tcp://"], "tcp://127.0.0.1:*"])
    def test_addresses_that_are_none(self, kind, endpoints):
        with pytest.raises(EndpointError):
            kind(endpoints)

    @pytest.mark.parametrize(
        ("arguments", "options", "error"),
        [
            (("", b""), {}, ValueError),
            (("x" * 256, b""), {}, ValueError),
            (("a\0b", b""), {}, ValueError),
            ((b"echo", b""), {}, TypeError),
            (("echo", 42), {}, TypeError),
            (("echo", None), {}, TypeError),
            (("echo", b""), {"timeout": 0}, ValueError),
            (("echo", b""), {"timeout": -1}, ValueError),
        ],
    )
    def test_calls_that_make_no_sense(self, make, services, arguments, options, error):
        caller = make(services.endpoint)
        with pytest.raises(error):
            caller.ask(*arguments, **options)
        with pytest.raises(error):
            caller.start_stream(*arguments, **options).result(DEADLINE)
        assert caller.statistics().calls == 0


class TestLeaks:
    """Thousands of calls leave nothing behind: no memory, no descriptor, no thread."""

    CALLS = 400
    ROUNDS = 3
    """What is left of each call is left in every round; what else goes on in this process, only in some."""

    @pytest.fixture(autouse=True)
    def _unlogged(self, caplog):
        """pytest keeps what is logged; and the slower a machine, the more lines get through, one a second."""
        caplog.set_level(logging.CRITICAL, logger="zpatterns")

    def measure(self) -> tuple[int, int, int]:
        gc.collect()
        return sys.getallocatedblocks(), len(os.listdir("/dev/fd")), threading.active_count()

    def check(self, rounds: list[tuple[int, int, int]]) -> None:
        memory, descriptors, threads = zip(*rounds, strict=True)
        grown = [after - before for before, after in pairwise(memory)]
        assert min(grown) < self.CALLS / 2, f"memory for each call: {grown}"
        # libzmq closes what is behind a closed socket when it comes to it.
        until(lambda: len(os.listdir("/dev/fd")) <= descriptors[0], "descriptors")
        until(lambda: threading.active_count() <= threads[0], "threads")

    def test_of_the_blocking_client(self, services):
        with Client(services.endpoint, timeout=DEADLINE) as client:

            def ask(count: int) -> None:
                for number in range(count):
                    if number % 10:
                        client.request("echo", b"%d" % number)
                    elif number % 20:
                        assert len(list(client.stream("count", b"3"))) == 3
                    else:
                        with pytest.raises(RemoteError):
                            client.request("fail", b"")

            ask(300)
            rounds = [self.measure()]
            for _ in range(self.ROUNDS):
                ask(self.CALLS)
                rounds.append(self.measure())
            self.check(rounds)

    def test_of_the_asyncio_client(self, services):
        async def main() -> None:
            async with AsyncClient(services.endpoint, timeout=DEADLINE, max_in_flight=8) as client:

                async def ask_once(number: int) -> None:
                    if number % 10:
                        await client.request("echo", b"%d" % number)
                    elif number % 20:
                        assert len(await collect(client.stream("count", b"3"))) == 3
                    else:
                        with pytest.raises(RemoteError):
                            await client.request("fail", b"")

                async def ask(count: int) -> None:
                    for first in range(0, count, 50):
                        await asyncio.gather(*(ask_once(number) for number in range(first, first + 50)))

                await ask(300)
                rounds = [self.measure()]
                for _ in range(self.ROUNDS):
                    await ask(self.CALLS)
                    rounds.append(self.measure())
                self.check(rounds)

        asyncio.run(main())

    def test_of_clients_that_come_and_go(self, services):
        def once() -> None:
            with Client(services.endpoint, timeout=DEADLINE) as client:
                client.request("echo", b"hello")

        async def once_with_asyncio() -> None:
            async with AsyncClient(services.endpoint, timeout=DEADLINE) as client:
                await client.request("echo", b"hello")

        async def many_with_asyncio(count: int) -> None:
            for _ in range(count):
                await once_with_asyncio()

        once()
        asyncio.run(many_with_asyncio(3))
        _, descriptors, threads = self.measure()
        for _ in range(30):
            once()
        asyncio.run(many_with_asyncio(30))
        until(lambda: self.measure()[1:] <= (descriptors, threads), "all is closed")
