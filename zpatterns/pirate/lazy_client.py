"""Lazy Pirate clients: :class:`LazyPirateClient` for threads, :class:`AsyncLazyPirateClient` for asyncio. One core."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zpatterns.calls import AsyncCalls, BlockingCalls, Calls, Start, check_timeout
from zpatterns.calls_state import CallOptions, ClientStatistics
from zpatterns.core import Event
from zpatterns.pirate.lazy_client_core import LazyClientCore
from zpatterns.sockets import SocketSettings, default_rng, endpoint_list

_DEFAULTS = CallOptions()


class _LazyPirate(Calls):
    """What both clients share: options, and how a call is begun."""

    source = "pirate.client"
    _core: LazyClientCore

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        timeout: float = _DEFAULTS.timeout,
        retries: int = _DEFAULTS.retries,
        attempt_timeout: float | None = None,
        max_in_flight: int = _DEFAULTS.max_in_flight,
        queue_max: int = _DEFAULTS.queue_max,
        settings: SocketSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.endpoints = endpoint_list(endpoints, type(self).__name__)
        options = CallOptions(
            timeout=timeout,
            retries=retries,
            attempt_timeout=attempt_timeout,
            max_in_flight=max_in_flight,
            queue_max=queue_max,
        )
        super().__init__(LazyClientCore(self.endpoints, options, default_rng), settings=settings, on_event=on_event)

    def statistics(self) -> ClientStatistics:
        """Counters since the start, and what is open now."""
        return self._counted(self._core.statistics())

    def _request(self, frames: Sequence[bytes | str], timeout: float | None) -> Start:
        body, core = self._body(frames), self._core
        check_timeout(timeout)
        return lambda number, now: core.start_call(number, body, now, timeout=timeout)


class AsyncLazyPirateClient(_LazyPirate, AsyncCalls):
    """Calls any REP or ROUTER server from asyncio, and tries again until one answers (Guide, "Lazy Pirate").

    `endpoints`: one server or several that do the same; an attempt that fails turns to the next.
    `timeout` (seconds): from call to outcome, queueing included. `retries`: attempts after the first.
    `attempt_timeout` (seconds): default ``timeout / (retries + 1)``. An attempt that had no answer by then is given
    up with its socket, and the next one, after a random pause that is a part of its own time, opens a new one: a
    late answer is never taken for another's. Each attempt is a request of its own, and a slow server may do the work
    of all of them; at most once is ``retries=0``.
    `max_in_flight`: calls on the wire, each with a connection of its own, which then serves another call; `queue_max`:
    calls that may wait behind them, before :class:`QueueFull`.

    Use it with ``async with``, or call :meth:`close`. It belongs to the event loop of its first call.
    """

    async def request(self, *frames: bytes | str, timeout: float | None = None) -> list[bytes]:
        """One request of one frame or several; the frames of its reply.

        `timeout`: seconds, in the place of the client's. Errors: RequestTimeout, RemoteError (the handler of a server
        of ours raised, or it had no room), QueueFull, ClosedError; ValueError and TypeError for what cannot be sent.
        """
        return await self._answer(self._request(frames, timeout))


class LazyPirateClient(_LazyPirate, BlockingCalls):
    """Calls any REP or ROUTER server, blocking, and tries again until one answers; threads may share it.

    The options are those of :class:`AsyncLazyPirateClient`. It starts no thread: whoever waits does the work for all.
    """

    def request(self, *frames: bytes | str, timeout: float | None = None) -> list[bytes]:
        """One request of one frame or several; the frames of its reply. See :meth:`AsyncLazyPirateClient.request`."""
        return self._answer(self._request(frames, timeout), timeout or self._core.options.timeout)
