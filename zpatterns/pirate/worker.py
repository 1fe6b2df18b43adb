"""The Pirate workers: see :class:`SimplePirateWorker` and :class:`ParanoidPirateWorker`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from zpatterns.core import Event, Rng
from zpatterns.handlers import Handler
from zpatterns.pirate.wire import PARANOID, SIMPLE, Dialect
from zpatterns.pirate.worker_core import WorkerCore
from zpatterns.sockets import SocketSettings, endpoint_list
from zpatterns.timing import Liveness
from zpatterns.worker import LaneWorker


class _Worker(LaneWorker):
    """A worker of either kind, which its `dialect` tells."""

    source = "pirate.worker"
    dialect: ClassVar[Dialect]

    def _lane_core(self, rng: Rng) -> WorkerCore:
        return WorkerCore(
            self._endpoints,
            dialect=self.dialect,
            liveness=self._liveness,
            rng=rng,
            handler_timeout=self._handler_timeout,
        )


class SimplePirateWorker(_Worker):
    """Serves requests of a Simple Pirate queue (Guide chapter 4, "Basic Reliable Queuing").

    Subclass it with a ``handle(self, request)``, or pass `handler`; without either it echoes. A plain function runs in
    a thread, a coroutine on the loop, which it must not block; what a generator of either kind yields goes out with
    what it returns, as one reply. A handler returns bytes, str, None or a sequence of bytes and str. One that raises
    costs that one request: the caller gets the exception's name and text by our convention.

    `endpoint`: the queue's backend. There are no heartbeats: a worker does not notice that its queue was restarted.
    `concurrency`: requests served at a time; each lane is a worker of its own to the queue.
    `handler_timeout` (seconds): when the caller of a handler that still runs gets an error. The lane takes no
    more work until the handler has returned.
    Errors: ValueError for values that make no sense, EndpointError for an address that is none.
    """

    dialect = SIMPLE

    def __init__(
        self,
        endpoint: str,
        *,
        handler: Handler | None = None,
        concurrency: int = 1,
        handler_timeout: float | None = None,
        settings: SocketSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        endpoints = endpoint_list(endpoint, type(self).__name__)
        if len(endpoints) > 1:
            raise ValueError("a Simple Pirate worker has one endpoint: it cannot tell when to turn to another")
        super().__init__(
            endpoints,
            handler=handler,
            concurrency=concurrency,
            liveness=Liveness(1.0, 3),
            handler_timeout=handler_timeout,
            settings=settings,
            on_event=on_event,
        )


class ParanoidPirateWorker(_Worker):
    """Serves requests of a Paranoid Pirate queue (6/PPP; Guide chapter 4, "Robust Reliable Queuing").

    Subclass it with a ``handle(self, request)``, or pass `handler`; without either it echoes. A plain function runs in
    a thread, so heartbeats go on while it computes; a coroutine runs on the loop and must not block it; what a
    generator of either kind yields goes out with what it returns, as one reply. A handler returns bytes, str, None or
    a sequence of bytes and str. One that raises costs that one request: the caller gets the exception's name and text
    by our convention.

    `endpoints`: the backend of the queue, or of several; when one is lost the next is tried.
    `concurrency`: requests served at a time; each lane is a worker of its own to the queue.
    `heartbeat_interval` (seconds) x `liveness`: the silence after which the queue is given up.
    `handler_timeout` (seconds): when the caller of a handler that still runs gets an error. The lane takes no
    more work until the handler has returned.
    Errors: ValueError for values that make no sense, EndpointError for an address that is none.
    """

    dialect = PARANOID

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        handler: Handler | None = None,
        concurrency: int = 1,
        heartbeat_interval: float = 1.0,
        liveness: int = 3,
        handler_timeout: float | None = None,
        settings: SocketSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        super().__init__(
            endpoint_list(endpoints, type(self).__name__),
            handler=handler,
            concurrency=concurrency,
            liveness=Liveness(heartbeat_interval, liveness),
            handler_timeout=handler_timeout,
            settings=settings,
            on_event=on_event,
        )
