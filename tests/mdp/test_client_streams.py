"""Streams of both clients over real sockets: in order, without holes, and never piled up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from tests.mdp.callers import collect
from tests.waiting import DEADLINE, eventually, until
from zpatterns.driver import DRAIN_BUDGET
from zpatterns.errors import RemoteError, RequestTimeout
from zpatterns.handlers import Request
from zpatterns.mdp import AsyncClient, Client, Worker
from zpatterns.mdp.client_core import PARTS_MAX
from zpatterns.sockets import SocketSettings
from zpatterns.testing import BackgroundBroker, BackgroundReactor


class TestStreams:
    def test_all_its_parts_in_order(self, make, services):
        caller = make(services.endpoint)
        assert caller.start_stream("count", b"1000").result(DEADLINE) == [[b"%d" % number] for number in range(1000)]
        assert caller.start_stream("count", b"0").result(DEADLINE) == []

    def test_many_at_once(self, make, services):
        caller = make(services.endpoint)
        streams = [caller.start_stream("count", b"%d" % (100 + number)) for number in range(10)]
        for number, stream in enumerate(streams):
            assert len(stream.result(DEADLINE)) == 100 + number

    def test_of_a_service_that_does_not_stream(self, make, services):
        assert make(services.endpoint).start_stream("echo", b"a", b"b").result(DEADLINE) == [[b"a", b"b"]]

    def test_that_fails(self, make, services):
        with pytest.raises(RemoteError, match="no such thing"):
            make(services.endpoint).start_stream("fail", b"").result(DEADLINE)

    def test_that_nobody_answers(self, make, services):
        with pytest.raises(RequestTimeout):
            make(services.endpoint).start_stream("absent", b"", timeout=0.2).result(DEADLINE)

    def test_left_early_it_is_cancelled(self, services):
        with Client(services.endpoint, timeout=DEADLINE) as client:
            parts = client.stream("count", b"5000")
            assert [next(parts) for _ in range(3)] == [[b"0"], [b"1"], [b"2"]]
            parts.close()  # type: ignore[attr-defined]
            assert client.statistics().cancelled == 1
            assert client.statistics().in_flight == 0
            assert client.request("echo", b"next") == [b"next"]

    def test_left_early_it_is_cancelled_with_asyncio_too(self, services):
        async def main() -> None:
            async with AsyncClient(services.endpoint, timeout=DEADLINE) as client:
                parts = client.stream("count", b"5000")
                assert [await anext(parts) for _ in range(3)] == [[b"0"], [b"1"], [b"2"]]
                await parts.aclose()  # type: ignore[attr-defined]
                assert client.statistics().cancelled == 1
                assert client.statistics().in_flight == 0
                assert await client.request("echo", b"next") == [b"next"]

        asyncio.run(main())


class TestASlowConsumer:
    """What nobody takes is not piled up: not in the client, and not in the broker."""

    # Little room on the way, so that little is enough to fill it.
    NARROW = SocketSettings(send_hwm=10, receive_hwm=10, outbox_max=50)

    @pytest.fixture
    def stream(self) -> Iterator[tuple[BackgroundBroker, list[int]]]:
        """A broker and a worker of ``flood``, 30 MB of parts of 10 KB; the list counts what the worker made."""
        made = [0]
        over = threading.Event()

        def flood(request: Request) -> Iterator[bytes]:
            while made[0] < 3000 and not over.is_set():
                made[0] += 1
                yield b"%08d" % (made[0] - 1) + b"x" * 10_000

        with BackgroundBroker(settings=self.NARROW) as broker, BackgroundReactor() as reactor:
            reactor.start(Worker(broker.endpoint, service="flood", handler=flood))
            yield broker, made
            over.set()

    def test_with_asyncio(self, stream):
        broker, made = stream

        async def main() -> None:
            async with AsyncClient(broker.endpoint, timeout=2.0, retries=0, settings=self.NARROW) as client:
                parts = client.stream("flood", b"")
                taken = [await anext(parts)]
                (held,) = client._calls.values()
                # The consumer stands still until the worker has made it all.
                await eventually(lambda: made[0] == 3000, "the flood")
                assert len(held._items) < PARTS_MAX + DRAIN_BUDGET  # type: ignore[union-attr]
                with pytest.raises(RequestTimeout):
                    taken += await collect(parts)
                self.check(broker, taken)

        asyncio.run(main())

    def test_with_threads(self, stream):
        broker, made = stream
        with Client(broker.endpoint, timeout=2.0, retries=0, settings=self.NARROW) as client:
            parts = client.stream("flood", b"")
            taken = [next(parts)]
            (held,) = client._calls.values()
            # Others go on calling, and so do the work for all, meanwhile.
            until(lambda: client.has_service("flood", timeout=DEADLINE) and made[0] == 3000, "the flood")
            assert len(held.items) < PARTS_MAX + DRAIN_BUDGET
            with pytest.raises(RequestTimeout):
                taken += list(parts)
        self.check(broker, taken)

    def check(self, broker: BackgroundBroker, taken: list[list[bytes]]) -> None:
        numbers = [int(part[:8]) for (part,) in taken]
        assert numbers == list(range(len(numbers))), "a stream with a hole"
        assert len(numbers) < 3000
        # Too full, or, on a machine that is slow, gone: either way it was counted.
        assert sum(count for reason, count in broker.statistics().dropped.items() if reason.startswith("client-")) >= 1
