"""The Freelance server: see :class:`FreelanceServer`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

from zpatterns.core import Event
from zpatterns.errors import EndpointError
from zpatterns.freelance import wire
from zpatterns.freelance.server_core import FreelanceServerCore
from zpatterns.freelance.wire import Model
from zpatterns.handlers import Handler
from zpatterns.server import Server
from zpatterns.server_core import ServerOptions
from zpatterns.sockets import SocketSettings

_DEFAULTS = ServerOptions()


class FreelanceServer(Server):
    """Serves clients that know it by its address, without a broker (10/FLP; Guide, "Brokerless Reliability").

    Pass a `handler`, or subclass it with a ``handle(self, request)``; without either it echoes. A plain function runs
    in a thread, so that pings are answered while it computes; a coroutine runs on the loop and must not block it. It
    returns bytes, str, None or a sequence of bytes and str. One that raises costs that one request: a client of ours
    gets :class:`RemoteError` with the exception's name and text.

    `endpoints`: one or more to bind. `model`: ``"addressed"`` speaks 10/FLP; ``"failover"`` serves REQ sockets, any
    body; ``"shotgun"`` takes and returns exactly one body frame beside the sequence number. The shotgun model has no
    error reply: where its handler raises, or its queue is full, it is silent, and another server's answer is the one.
    `identity`: how ROUTERs of clients know this server, addressed model only: by default the text of the first
    endpoint, which must be what clients connect to (10/FLP, "Request and Reply Routing"), and so is required for a
    wildcard. Clients of ours do without it.
    `concurrency`: requests served at a time. `queue_max`: requests that may wait for that; the newest beyond it is
    refused. `queue_bytes_max`: bytes of all of them. `request_ttl`: seconds after which a waiting request is dropped.
    Errors: ValueError for values that make no sense and for a generator, EndpointError for an address that is none.
    """

    source = "freelance.server"
    model: ClassVar[Model] = "addressed"

    def __init__(
        self,
        *endpoints: str,
        handler: Handler | None = None,
        identity: str | bytes | None = None,
        model: Model | None = None,
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
        core = FreelanceServerCore(model or self.model, options)
        super().__init__(core, endpoints, handler=handler, settings=settings, on_event=on_event)
        self._model = core.model
        self.identity = b""
        """How the ROUTER of a client knows it; empty in the models that have no need of that."""
        if core.model == wire.ADDRESSED:
            self.identity = _identity(identity, self._wanted[0])
            self._settings = dataclasses.replace(settings or SocketSettings(), routing_id=self.identity)
        elif identity is not None:
            raise ValueError(f"only the addressed model has an identity, and this server's model is {core.model!r}")

    def _announcement(self) -> dict[str, Any]:
        fields = super()._announcement() | {"model": self._model}
        return fields | {"identity": self.identity} if self.identity else fields


def _identity(identity: str | bytes | None, endpoint: str) -> bytes:
    """The routing id of a server that is bound to `endpoint`. Errors: ValueError, EndpointError."""
    if identity is None:
        host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
        if endpoint.startswith("tcp://") and (host in ("*", "0.0.0.0", "[::]") or port in ("*", "0")):
            raise EndpointError(
                f"{endpoint!r} is not what clients connect to, and 10/FLP wants a server's identity to be that: say it "
                "with identity, such as 'tcp://localhost:5555'",
                endpoint=endpoint,
            )
        identity = endpoint
    name = identity.encode() if isinstance(identity, str) else identity
    if not 0 < len(name) <= 255 or name[0] == 0:
        raise ValueError(f"identity must be 1 to 255 bytes of which the first is not zero, and is {identity!r}")
    return name
