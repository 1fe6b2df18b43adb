"""What the clients of every pattern without services do alike when they are shared, left and misused."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from tests.plain_callers import LOOPBACK, NOBODY
from zpatterns.errors import ClosedError, EndpointError, ForkedError
from zpatterns.testing import BackgroundReactor


class ClientPromises:
    """To be derived from where there are the fixtures ``make`` and ``serve``."""

    Client: ClassVar[type[Any]]
    AsyncClient: ClassVar[type[Any]]

    def test_afterwards_it_says_so(self):
        client = self.Client(NOBODY)
        client.close()
        client.close()
        with pytest.raises(ClosedError, match=f"this {self.Client.__name__} was closed"):
            client.request(b"")

        async def main() -> None:
            async with self.AsyncClient(NOBODY) as caller:
                pass
            await caller.close()
            with pytest.raises(ClosedError, match=f"this {self.AsyncClient.__name__} was closed"):
                await caller.request(b"")

        asyncio.run(main())

    def test_it_belongs_to_one_loop(self, serve):
        client = self.AsyncClient(serve().endpoint)

        async def ask() -> Any:
            return await client.request(b"hello")

        with BackgroundReactor() as other:
            assert other.run(ask()) == [b"hello"]
            with pytest.raises(RuntimeError, match=f"this {self.AsyncClient.__name__} belongs to another event loop"):
                asyncio.run(ask())
            with pytest.raises(RuntimeError, match="belongs to another event loop"):
                asyncio.run(client.close())
            other.run(client.close())

    def test_it_does_not_survive_a_fork(self, serve):
        with self.Client(serve().endpoint) as client:
            client._process._pid += 1  # as a child would find it
            with pytest.raises(ForkedError, match=f"this {self.Client.__name__} was made in process"):
                client.request(b"x")
            client._process._pid -= 1

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"timeout": 0}, "timeout must be a positive number"),
            ({"timeout": float("inf")}, "timeout must be a positive number"),
            ({"retries": -1}, "retries must be 0 or more"),
            ({"retries": 10**400}, r"retries must be at most 10\*\*9"),
            ({"attempt_timeout": 0}, "attempt_timeout must be a positive number"),
            ({"max_in_flight": 0}, "max_in_flight must be at least 1"),
        ],
    )
    def test_values_that_make_no_sense(self, options, text):
        for kind in (self.Client, self.AsyncClient):
            with pytest.raises(ValueError, match=text):
                kind(NOBODY, **options)

    @pytest.mark.parametrize("endpoints", ["nonsense", [], [NOBODY, "tcp://"], LOOPBACK])
    def test_addresses_that_are_none(self, endpoints):
        for kind in (self.Client, self.AsyncClient):
            with pytest.raises(EndpointError):
                kind(endpoints)

    @pytest.mark.parametrize(
        ("frames", "options", "error"),
        [((42,), {}, TypeError), ((None,), {}, TypeError), ((b"",), {"timeout": 0}, ValueError)],
    )
    def test_calls_that_make_no_sense(self, make, frames, options, error):
        caller = make(NOBODY)
        with pytest.raises(error):
            caller.ask(*frames, **options)
        assert caller.statistics().calls == 0
