"""Blocking and asyncio clients whose calls have nothing but a body, behind one face: what both do is tested once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

from tests.mdp.callers import in_thread
from tests.waiting import DEADLINE
from zpatterns.calls import AsyncCalls
from zpatterns.testing import BackgroundReactor

NOBODY = "tcp://127.0.0.1:1"
LOOPBACK = "tcp://127.0.0.1:*"


class Caller:
    """A client whose calls are started here and end in futures."""

    client: Any

    def start(self, *frames: bytes | str, **options: Any) -> Future[list[bytes]]:
        """Begin a request."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the client. Twice is once."""
        raise NotImplementedError

    def statistics(self) -> Any:
        raise NotImplementedError

    def ask(self, *frames: bytes | str, **options: Any) -> list[bytes]:
        """A whole request."""
        return self.start(*frames, **options).result(DEADLINE)


class Blocking(Caller):
    """A blocking client, each call in a thread of its own."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def start(self, *frames: bytes | str, **options: Any) -> Future[list[bytes]]:
        return in_thread(lambda: self.client.request(*frames, **options))

    def close(self) -> None:
        self.client.close()

    def statistics(self) -> Any:
        return self.client.statistics()


class Async(Caller):
    """An asyncio client on a loop in a thread."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.background = BackgroundReactor()
        self._closed = False

    def start(self, *frames: bytes | str, **options: Any) -> Future[list[bytes]]:
        work = self.client.request(*frames, **options)
        return asyncio.run_coroutine_threadsafe(work, self.background.reactor.loop)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.background.run(self.client.close())
            self.background.close()

    def statistics(self) -> Any:
        return self.client.statistics() if self._closed else self.background.call(self.client.statistics)


def behind_one_face(client: Any) -> Caller:
    """The caller that suits a client."""
    return Async(client) if isinstance(client, AsyncCalls) else Blocking(client)


def maker(kind: type[Any]) -> Iterator[Callable[..., Caller]]:
    """For a fixture: makes clients of that kind, ``make(endpoints, retries=0)``, and closes them at the end."""
    with ExitStack() as stack:

        def make(endpoints: Any, **options: Any) -> Caller:
            made = behind_one_face(kind(endpoints, **({"timeout": DEADLINE} | options)))
            stack.callback(made.close)
            return made

        yield make
