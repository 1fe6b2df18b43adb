"""Majordomo clients: :class:`Client` for threads and scripts, :class:`AsyncClient` for asyncio. One core."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Literal, TypeAlias

from zpatterns.calls import AsyncCalls, BlockingCalls, Calls, Start, check_timeout
from zpatterns.core import Event
from zpatterns.errors import RemoteError
from zpatterns.mdp import wire
from zpatterns.mdp.client_core import ClientCore, ClientOptions, ClientStatistics
from zpatterns.sockets import SocketSettings, default_rng, endpoint_list

Protocol: TypeAlias = Literal["auto", "0.1", "0.2"]

_DEFAULTS = ClientOptions()


class _Majordomo(Calls):
    """What both clients share: options, and how a call is begun."""

    source = "mdp.client"
    _core: ClientCore

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
        super().__init__(ClientCore(self.endpoints, options, default_rng), settings=settings, on_event=on_event)

    def statistics(self) -> ClientStatistics:
        """Counters since the start, and what is open now."""
        return self._counted(self._core.statistics())

    def _request(self, service: str, frames: Sequence[bytes | str], timeout: float | None) -> Start:
        name, body, version = _service_name(service), self._body(frames), self._version
        check_timeout(timeout)
        core = self._core
        return lambda number, now: core.start_call(number, name, body, now, version=version, timeout=timeout)

    def _stream(self, service: str, frames: Sequence[bytes | str], timeout: float | None) -> Start:
        name, body = _service_name(service), self._body(frames)
        check_timeout(timeout)
        core = self._core
        return lambda number, now: core.start_call(
            number, name, body, now, version="0.2", is_stream=True, timeout=timeout
        )


def _service_name(service: str) -> bytes:
    if not isinstance(service, str):
        raise TypeError(f"a service is named by a str, not by {type(service).__name__}: {service!r}")
    name = service.encode()
    if not wire.is_service_name(name):
        raise ValueError(f"{service!r} cannot be a service name: 1 to 255 printable bytes")
    return name


def _is_there(reply: list[bytes]) -> bool:
    """What ``mmi.service`` has answered. Errors: RemoteError for what is neither of the two codes of 8/MMI."""
    code = reply[0]
    if code not in (wire.OK, wire.NOT_FOUND):
        text = "this broker does not tell which services have workers"
        raise RemoteError(code.decode("ascii", "replace"), text, service=wire.MMI_SERVICE.decode())
    return code == wire.OK


class AsyncClient(_Majordomo, AsyncCalls):
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

    async def request(self, service: str, *frames: bytes | str, timeout: float | None = None) -> list[bytes]:
        """One request; the frames of its reply.

        `timeout`: seconds, in the place of the client's. Errors: RequestTimeout, RemoteError (the handler raised, or
        the broker gave the request up), QueueFull, ClosedError; ValueError and TypeError for what cannot be sent.
        """
        return await self._answer(self._request(service, frames, timeout))

    async def stream(
        self, service: str, *frames: bytes | str, timeout: float | None = None
    ) -> AsyncIterator[list[bytes]]:
        """One request; the frames of each PARTIAL as it comes, then those of the FINAL unless it is empty.

        `timeout` and errors are those of :meth:`request`; the timeout is for the whole stream. A stream of which a
        part has come is never tried again. Leaving it early cancels it.
        """
        async with aclosing(self._parts(self._stream(service, frames, timeout))) as parts:
            async for part in parts:
                yield part

    async def has_service(self, service: str, *, timeout: float | None = None) -> bool:
        """Whether a worker is registered for `service` now (8/MMI, ``mmi.service``).

        Errors: those of :meth:`request`; a broker that does not know ``mmi.service`` is a RemoteError, code 501.
        """
        _service_name(service)
        return _is_there(await self.request("mmi.service", service, timeout=timeout))


class Client(_Majordomo, BlockingCalls):
    """Calls services through a Majordomo broker, blocking; safe to share between threads (7/MDP; streams 18/MDP).

    The options are those of :class:`AsyncClient`. It starts no thread: whoever waits does the work for all.
    """

    def request(self, service: str, *frames: bytes | str, timeout: float | None = None) -> list[bytes]:
        """One request; the frames of its reply. See :meth:`AsyncClient.request`."""
        return self._answer(self._request(service, frames, timeout), timeout or self._core.options.timeout)

    def stream(self, service: str, *frames: bytes | str, timeout: float | None = None) -> Iterator[list[bytes]]:
        """One request; the frames of each PARTIAL as it comes, then those of the FINAL unless it is empty.

        See :meth:`AsyncClient.stream`.
        """
        return self._parts(self._stream(service, frames, timeout), timeout or self._core.options.timeout)

    def has_service(self, service: str, *, timeout: float | None = None) -> bool:
        """Whether a worker is registered for `service` now. See :meth:`AsyncClient.has_service`."""
        _service_name(service)
        return _is_there(self.request("mmi.service", service, timeout=timeout))
