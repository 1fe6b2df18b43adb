"""The two Majordomo clients behind one face, so that a test of what both promise is written once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from typing import Any

from tests.waiting import DEADLINE, until
from zpatterns.handlers import Request
from zpatterns.mdp import AsyncClient, Client, Worker
from zpatterns.mdp.client_core import ClientStatistics
from zpatterns.testing import BackgroundBroker, BackgroundReactor


class Caller:
    """A client whose calls are started here and end in futures."""

    def start(self, service: str, *frames: bytes | str, **options: Any) -> Future[list[bytes]]:
        """Begin a request."""
        raise NotImplementedError

    def start_stream(self, service: str, *frames: bytes | str, **options: Any) -> Future[list[list[bytes]]]:
        """Begin a stream of which all parts are taken as they come."""
        raise NotImplementedError

    def has_service(self, service: str) -> Future[bool]:
        """Begin to ask whether it is there."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def statistics(self) -> ClientStatistics:
        raise NotImplementedError

    def ask(self, service: str, *frames: bytes | str, **options: Any) -> list[bytes]:
        """A whole request."""
        return self.start(service, *frames, **options).result(DEADLINE)


class Blocking(Caller):
    """A :class:`Client`, each call in a thread of its own."""

    def __init__(self, endpoints: Any, **options: Any) -> None:
        self.client = Client(endpoints, **options)

    def start(self, service: str, *frames: bytes | str, **options: Any) -> Future[list[bytes]]:
        return in_thread(lambda: self.client.request(service, *frames, **options))

    def start_stream(self, service: str, *frames: bytes | str, **options: Any) -> Future[list[list[bytes]]]:
        return in_thread(lambda: list(self.client.stream(service, *frames, **options)))

    def has_service(self, service: str) -> Future[bool]:
        return in_thread(self.client.has_service, service)

    def close(self) -> None:
        self.client.close()

    def statistics(self) -> ClientStatistics:
        return self.client.statistics()


class Async(Caller):
    """An :class:`AsyncClient` on a loop in a thread."""

    def __init__(self, endpoints: Any, **options: Any) -> None:
        self.client = AsyncClient(endpoints, **options)
        self.background = BackgroundReactor()
        self._closed = False

    def start(self, service: str, *frames: bytes | str, **options: Any) -> Future[list[bytes]]:
        return self._submit(self.client.request(service, *frames, **options))

    def start_stream(self, service: str, *frames: bytes | str, **options: Any) -> Future[list[list[bytes]]]:
        return self._submit(collect(self.client.stream(service, *frames, **options)))

    def has_service(self, service: str) -> Future[bool]:
        return self._submit(self.client.has_service(service))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.background.run(self.client.close())
            self.background.close()

    def statistics(self) -> ClientStatistics:
        return self.client.statistics() if self._closed else self.background.call(self.client.statistics)

    def _submit(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self.background.reactor.loop)


async def collect(parts: AsyncIterator[list[bytes]]) -> list[list[bytes]]:
    """All the parts of a stream."""
    return [part async for part in parts]


def in_thread(work: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """Run `work` in a thread of its own, which does not keep the tests from ending."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class Services:
    """A broker with the services ``echo``, ``count``, ``fail``, and ``hold``, which answers when `release` is set."""

    def __init__(self, reactor: BackgroundReactor, broker: BackgroundBroker) -> None:
        self.broker = broker
        self.endpoint = broker.endpoint
        self.release = threading.Event()
        self.begun: list[bytes] = []
        for handler, lanes in ((self.echo, 4), (self.count, 2), (self.fail, 1), (self.hold, 2)):
            reactor.start(Worker(broker.endpoint, service=handler.__name__, handler=handler, concurrency=lanes))
        until(lambda: broker.statistics().workers == 9, "all are registered")

    async def echo(self, request: Request) -> Any:
        return request.frames

    async def count(self, request: Request) -> Any:
        for number in range(int(request.body)):
            yield b"%d" % number

    def fail(self, request: Request) -> None:
        raise LookupError("there is no such thing")

    def hold(self, request: Request) -> bytes:
        self.begun.append(request.body)
        self.release.wait(DEADLINE)
        return request.body
