"""The Lazy Pirate server: see :class:`LazyPirateServer`."""

from __future__ import annotations

from collections.abc import Callable

from zpatterns.core import Event
from zpatterns.handlers import Handler
from zpatterns.pirate.lazy_server_core import LazyServerCore
from zpatterns.pirate.paired_lazy_server_core import PairedLazyServerCore
from zpatterns.server import Server
from zpatterns.server_core import ServerOptions
from zpatterns.sockets import SocketSettings

_DEFAULTS = ServerOptions()


class LazyPirateServer(Server):
    """Answers the requests of REQ clients with its handler (Guide, "Lazy Pirate"); without one it echoes.

    Pass a `handler`, or subclass it with a ``handle(self, request)``. A plain function runs in a thread; a coroutine
    runs on the loop and must not block it. It returns bytes, str, None or a sequence of bytes and str. One that raises
    costs that one request: a client of ours gets :class:`RemoteError` with the exception's name and text.

    To a client it is a REP: it needs an empty frame before the body and answers with the envelope it got. Unlike a REP
    it takes requests while handlers run, `concurrency` of them at a time, and one that is malformed is dropped and
    counted.

    `endpoints`: one or more to bind; ``tcp://127.0.0.1:*`` takes a free port.
    `queue_max`: requests that may wait for a handler; the newest beyond it is refused. `queue_bytes_max`: bytes of
    all of them. `request_ttl`: seconds after which a waiting request is dropped.
    Errors: ValueError for values that make no sense and for a generator, EndpointError for an address that is none.
    """

    source = "pirate.server"

    def __init__(
        self,
        *endpoints: str,
        handler: Handler | None = None,
        concurrency: int = _DEFAULTS.concurrency,
        queue_max: int = _DEFAULTS.queue_max,
        queue_bytes_max: int = _DEFAULTS.queue_bytes_max,
        request_ttl: float = _DEFAULTS.request_ttl,
        settings: SocketSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        options = ServerOptions(
            concurrency=concurrency, queue_max=queue_max, queue_bytes_max=queue_bytes_max, request_ttl=request_ttl
        )
        super().__init__(LazyServerCore(options), endpoints, handler=handler, settings=settings, on_event=on_event)

    def _join_pair(self, look: Callable[[float], None]) -> None:
        self._core = PairedLazyServerCore(self._core.options, look)
