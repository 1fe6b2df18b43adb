"""Clients of a Binary Star pair: :class:`BinaryStarClient` for threads, :class:`AsyncBinaryStarClient` for asyncio."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zpatterns.bstar.client_core import ClientOptions, ClientStatistics, StarClientCore
from zpatterns.calls import AsyncCalls, BlockingCalls, Calls, Start, check_timeout
from zpatterns.core import Event
from zpatterns.sockets import SocketSettings, default_rng, endpoint_list
from zpatterns.timing import Liveness

_DEFAULTS = ClientOptions()


class _BinaryStar(Calls):
    """What both clients share: options, and how a call is begun."""

    source = "bstar.client"
    _core: StarClientCore

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        timeout: float = _DEFAULTS.timeout,
        retries: int = _DEFAULTS.retries,
        attempt_timeout: float | None = None,
        heartbeat_interval: float = 1.0,
        liveness: int = 2,
        max_in_flight: int = _DEFAULTS.max_in_flight,
        queue_max: int = _DEFAULTS.queue_max,
        settings: SocketSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.endpoints = endpoint_list(endpoints, type(self).__name__)
        options = ClientOptions(
            timeout=timeout,
            retries=retries,
            attempt_timeout=heartbeat_interval if attempt_timeout is None else attempt_timeout,
            max_in_flight=max_in_flight,
            queue_max=queue_max,
            settle_delay=Liveness(heartbeat_interval, liveness).lease,
        )
        super().__init__(StarClientCore(self.endpoints, options, default_rng), settings=settings, on_event=on_event)

    def statistics(self) -> ClientStatistics:
        """Counters since the start, and what is open now."""
        return self._counted(self._core.statistics())

    def _request(self, frames: Sequence[bytes | str], timeout: float | None) -> Start:
        body, core = self._body(frames), self._core
        check_timeout(timeout)
        return lambda number, now: core.start_call(number, body, now, timeout=timeout)


class AsyncBinaryStarClient(_BinaryStar, AsyncCalls):
    """Calls the active node of a Binary Star pair from asyncio (Guide chapter 4, "Binary Star").

    `endpoints`: those of the two nodes, the primary's first. The one that answered last is asked first.
    `timeout` (seconds): from call to outcome, queueing, waiting and all attempts included.
    `attempt_timeout` (seconds): after so long without an answer the other side is asked, by default one heartbeat
    interval. Give it more than the handler takes: an attempt that was sent still counts if its answer comes later, but
    each is a request of its own, and the work may be done more than once. `retries`: attempts after the first, of which
    the last waits until the deadline; at most once is ``retries=0``.
    `heartbeat_interval` (seconds), `liveness`: the pair's. Their product is the settle delay: for so long nothing is
    sent between giving one side up and asking the other, since that takes over only when it has missed the first.
    `max_in_flight`: calls on the wire, each with a connection of its own; `queue_max`: calls that may wait behind
    them, before :class:`QueueFull`.

    Use it with ``async with``, or call :meth:`close`. It belongs to the event loop of its first call.
    """

    async def request(self, *frames: bytes | str, timeout: float | None = None) -> list[bytes]:
        """One request of one frame or several; the frames of its reply.

        `timeout`: seconds, in the place of the client's. Errors: RequestTimeout, RemoteError (the handler raised, or
        the server had no room), QueueFull, ClosedError; ValueError and TypeError for what cannot be sent.
        """
        return await self._answer(self._request(frames, timeout))


class BinaryStarClient(_BinaryStar, BlockingCalls):
    """Calls the active node of a Binary Star pair, blocking; threads may share it.

    The options are those of :class:`AsyncBinaryStarClient`. It starts no thread: whoever waits does the work for all.
    """

    def request(self, *frames: bytes | str, timeout: float | None = None) -> list[bytes]:
        """One request of one frame or several; the frames of its reply. See :meth:`AsyncBinaryStarClient.request`."""
        return self._answer(self._request(frames, timeout), timeout or self._core.options.timeout)
