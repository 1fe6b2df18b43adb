"""Majordomo clients: :class:`Client` for threads and scripts, :class:`AsyncClient` for asyncio. One core."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import TracebackType
from typing import Literal, Self, TypeAlias

from zpatterns.blocking import BlockingDriver, Waiter
from zpatterns.core import Command, Deliver, Event, Fail, Frames
from zpatterns.errors import ClosedError
from zpatterns.handlers import to_frames
from zpatterns.mdp import wire
from zpatterns.mdp.client_core import ClientCore, ClientOptions, ClientStatistics
from zpatterns.reactor import Reactor, ReactorDriver
from zpatterns.service import endpoint_list
from zpatterns.sockets import ProcessGuard, SocketSettings, default_rng
from zpatterns.telemetry import Telemetry

Protocol: TypeAlias = Literal["auto", "0.1", "0.2"]

_DEFAULTS = ClientOptions()


class _ClientBase:
    """What both clients share: options, checks, and what becomes of a call."""

    source = "mdp.client"

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        timeout: float = _DEFAULTS.timeout,
        retries: int = _DEFAULTS.retries,
        attempt_timeout: float | None = None,
        protocol: Protocol = "auto",
        max_in_flight: int = _DEFAULTS.max_in_flight,
        queue_max: int = _DEFAULTS.queue_max,
        settings: SocketSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.endpoints = endpoint_list(endpoints, type(self).__name__)
        if protocol not in ("auto", "0.1", "0.2"):
            raise ValueError(f"protocol must be 'auto', '0.1' or '0.2', not {protocol!r}")
        self._version = "0.1" if protocol == "auto" else protocol
        options = ClientOptions(
            timeout=timeout,
            retries=retries,
            attempt_timeout=attempt_timeout,
            max_in_flight=max_in_flight,
            queue_max=queue_max,
        )
        self._settings = settings
        self._telemetry = Telemetry(self.source, on_event)
        self._core = ClientCore(self.endpoints, options, default_rng)
        self._numbers = itertools.count(1)
        self._closed = False
        self._process = ProcessGuard(type(self).__name__)
        self._prepare()

    def _prepare(self) -> None:
        """What only one of the clients has."""

    def statistics(self) -> ClientStatistics:
        """Counters since the start, and what is open now."""
        return self._core.statistics()

    def _check(self) -> None:
        self._process.check()
        if self._closed:
            raise ClosedError(f"this {type(self).__name__} was closed; make a new one")


def _service_name(service: str) -> bytes:
    if not isinstance(service, str):
        raise TypeError(f"a service is named by a str, not by {type(service).__name__}: {service!r}")
    name = service.encode()
    if not wire.is_service_name(name):
        raise ValueError(f"{service!r} cannot be a service name: 1 to 255 printable bytes")
    return name


def _check_timeout(timeout: float | None) -> None:
    if timeout is not None and not 0 < timeout < float("inf"):
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout!r}")


def _is_end(frames: Frames) -> bool:
    """A FINAL that is one empty frame says no more than that the stream is over."""
    return frames == [b""]


class AsyncClient(_ClientBase):
    """Calls services through a Majordomo broker from asyncio (7/MDP; streams 18/MDP).

    `endpoints`: one broker or several; an attempt that fails turns to the next.
    `timeout` (seconds): from call to outcome, queueing included. `retries`: attempts after the first.
    `attempt_timeout` (seconds): default ``timeout / (retries + 1)``. An attempt that was sent still counts if its
    reply comes while a later one runs. Each attempt is a request of its own to the broker, so a service may
    run more than once for a call; at most once is ``retries=0`` and a broker with ``on_worker_loss="fail"``.
    `protocol`: ``"0.1"``, ``"0.2"`` or ``"auto"``, which is 0.1; a stream always speaks 0.2.
    `max_in_flight`: calls on the wire, each with a connection of its own; `queue_max`: calls that may wait behind
    them, before :class:`QueueFull`.

    Use it with ``async with``, or call :meth:`close`. It belongs to the event loop of its first call.
    """

    def _prepare(self) -> None:
        self._calls: dict[int, asyncio.Future[Frames] | _Parts] = {}
        self._driver: ReactorDriver | None = None

    async def request(self, service: str, *frames: bytes | str, timeout: float | None = None) -> list[bytes]:
        """One request; the frames of its reply.

        `timeout`: seconds, in the place of the client's. Errors: RequestTimeout, RemoteError (the handler raised, or
        the broker gave the request up), QueueFull, ClosedError; ValueError and TypeError for what cannot be sent.
        """
        driver = self._open()
        name, body = _service_name(service), to_frames(frames)
        _check_timeout(timeout)
        number = next(self._numbers)
        future: asyncio.Future[Frames] = asyncio.get_running_loop().create_future()
        self._calls[number] = future
        try:
            driver.call(self._core.start_call, number, name, body, driver.now(), version=self._version, timeout=timeout)
            return await future
        except BaseException:
            self._cancel(number)
            raise
        finally:
            del self._calls[number]

    async def stream(
        self, service: str, *frames: bytes | str, timeout: float | None = None
    ) -> AsyncIterator[list[bytes]]:
        """One request; the frames of each PARTIAL as it comes, then those of the FINAL unless it is empty.

        `timeout` and errors are those of :meth:`request`; the timeout is for the whole stream. A stream of which a
        part has come is never tried again. Leaving it early cancels it.
        """
        driver = self._open()
        name, body = _service_name(service), to_frames(frames)
        _check_timeout(timeout)
        number = next(self._numbers)
        parts = self._calls[number] = _Parts()
        try:
            driver.call(
                self._core.start_call,
                number,
                name,
                body,
                driver.now(),
                version="0.2",
                is_stream=True,
                timeout=timeout,
            )
            while True:
                part, last = await parts.get()
                if last:
                    if not _is_end(part):
                        yield part
                    return
                driver.call(self._core.part_taken, number, driver.now())
                yield part
        finally:
            self._cancel(number)
            del self._calls[number]

    async def has_service(self, service: str, *, timeout: float | None = None) -> bool:
        """Whether a worker is registered for `service` now (8/MMI, ``mmi.service``). Errors: RequestTimeout."""
        _service_name(service)
        return (await self.request("mmi.service", service, timeout=timeout))[0] == wire.OK

    async def close(self) -> None:
        """End every open call with ClosedError and close the connections. Twice is once."""
        if self._closed:
            return
        self._check()
        self._closed = True
        driver = self._driver
        if driver is not None:
            driver.call(self._core.close, driver.now())
            driver.close()
            await self._reactor.settled()

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _open(self) -> ReactorDriver:
        self._check()
        if self._driver is None:
            self._reactor = Reactor.current()
            self._driver = ReactorDriver(
                self._reactor,
                self._core,
                settings=self._settings,
                telemetry=self._telemetry,
                on_command=self._on_command,
            )
        elif self._reactor.loop is not asyncio.get_running_loop():
            raise RuntimeError("this AsyncClient belongs to another event loop; make one for each loop")
        return self._driver

    def _cancel(self, number: int) -> None:
        driver = self._driver
        if driver is not None and not driver.closed:
            driver.call(self._core.cancel_call, number, driver.now())

    def _on_command(self, command: Command) -> None:
        if not isinstance(command, Deliver | Fail):
            raise AssertionError(f"a client core asked for {command!r}")
        waits = self._calls.get(command.call)
        if isinstance(waits, _Parts):
            waits.put(command)
        elif waits is not None and not waits.done():
            if isinstance(command, Deliver):
                waits.set_result(command.frames)
            else:
                waits.set_exception(command.error)


class _Parts:
    """The parts of one stream between the core and its consumer; the core bounds them."""

    __slots__ = ("_items", "_wake")

    def __init__(self) -> None:
        self._items: deque[Deliver | Fail] = deque()
        self._wake: asyncio.Future[None] | None = None

    def put(self, item: Deliver | Fail) -> None:
        self._items.append(item)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def get(self) -> tuple[Frames, bool]:
        while not self._items:
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        item = self._items.popleft()
        if isinstance(item, Fail):
            raise item.error
        return item.frames, item.last


class _BlockingCall:
    """What came for one call, and until when its thread waits, in monotonic seconds."""

    __slots__ = ("items", "number", "over", "patience")

    def __init__(self, number: int, patience: float) -> None:
        self.number = number
        self.patience = patience
        self.items: deque[Deliver | Fail] = deque()
        self.over = False


class Client(_ClientBase):
    """Calls services through a Majordomo broker, blocking; safe to share between threads (7/MDP; streams 18/MDP).

    The options are those of :class:`AsyncClient`. It starts no thread: whoever waits does the work for all.
    """

    def _prepare(self) -> None:
        self._calls: dict[int, _BlockingCall] = {}
        self._driver: BlockingDriver | None = None
        self._lock = threading.Lock()

    def request(self, service: str, *frames: bytes | str, timeout: float | None = None) -> list[bytes]:
        """One request; the frames of its reply. See :meth:`AsyncClient.request`."""
        name, body = _service_name(service), to_frames(frames)
        _check_timeout(timeout)
        call = self._start(name, body, self._version, False, timeout)
        try:
            return self._next(call)[0]
        finally:
            self._finish(call)

    def stream(self, service: str, *frames: bytes | str, timeout: float | None = None) -> Iterator[list[bytes]]:
        """One request; the frames of each PARTIAL as it comes, then those of the FINAL unless it is empty.

        See :meth:`AsyncClient.stream`.
        """
        name, body = _service_name(service), to_frames(frames)
        _check_timeout(timeout)
        return self._stream(self._start(name, body, "0.2", True, timeout))

    def _stream(self, call: _BlockingCall) -> Iterator[list[bytes]]:
        driver = self._open()
        try:
            while True:
                part, last = self._next(call)
                if last:
                    if not _is_end(part):
                        yield part
                    return
                driver.submit(lambda: driver.call(self._core.part_taken, call.number, driver.now()))
                yield part
        finally:
            self._finish(call)

    def has_service(self, service: str, *, timeout: float | None = None) -> bool:
        """Whether a worker is registered for `service` now (8/MMI, ``mmi.service``). Errors: RequestTimeout."""
        _service_name(service)
        return self.request("mmi.service", service, timeout=timeout)[0] == wire.OK

    def close(self) -> None:
        """End every open call with ClosedError and close the connections. Safe from any thread; twice is once."""
        with self._lock:
            if self._closed:
                return
            self._check()
            self._closed = True
            driver = self._driver
        if driver is not None:
            driver.submit(lambda: driver.call(self._core.close, driver.now()))
            driver.close()

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> BlockingDriver:
        with self._lock:
            self._check()
            if self._driver is None:
                self._driver = BlockingDriver(
                    self._core, settings=self._settings, telemetry=self._telemetry, on_command=self._on_command
                )
            return self._driver

    def _start(self, name: bytes, body: Frames, version: str, is_stream: bool, timeout: float | None) -> _BlockingCall:
        driver = self._open()
        # The core ends every call at its deadline; to wait a little longer than that is only to be safe.
        patience = (self._core.options.timeout if timeout is None else timeout) + 5.0
        call = _BlockingCall(next(self._numbers), driver.now() + patience)
        self._calls[call.number] = call

        def begin() -> None:
            try:
                driver.call(
                    self._core.start_call,
                    call.number,
                    name,
                    body,
                    driver.now(),
                    version=version,
                    is_stream=is_stream,
                    timeout=timeout,
                )
            except Exception as error:
                call.over = True
                call.items.append(Fail(call.number, error))

        driver.submit(begin)
        return call

    def _next(self, call: _BlockingCall) -> tuple[Frames, bool]:
        driver = self._driver
        assert driver is not None
        items = call.items
        if not items:
            driver.wait(Waiter(lambda: bool(items)), call.patience)
        if not items:
            raise ClosedError("the client was closed while the call was open")
        item = items.popleft()
        if isinstance(item, Fail):
            raise item.error
        return item.frames, item.last

    def _finish(self, call: _BlockingCall) -> None:
        """The caller is gone: by an answer, an error, an interrupt, or because it left a stream early."""
        del self._calls[call.number]
        driver = self._driver
        if not call.over and driver is not None and not self._closed:
            driver.submit(lambda: driver.call(self._core.cancel_call, call.number, driver.now()))

    def _on_command(self, command: Command) -> None:
        if not isinstance(command, Deliver | Fail):
            raise AssertionError(f"a client core asked for {command!r}")
        call = self._calls.get(command.call)
        if call is not None:
            call.items.append(command)
            call.over = isinstance(command, Fail) or command.last
