"""The Freelance server: see :class:`FreelanceServer`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from zpatterns.core import Cancel, Command, Event, Frames, Run, SocketKind
from zpatterns.errors import EndpointError
from zpatterns.freelance import wire
from zpatterns.freelance.server_core import PORT, ServerCore, ServerOptions, ServerStatistics
from zpatterns.freelance.wire import Model
from zpatterns.handlers import Handler, Lane, Request
from zpatterns.reactor import Reactor, ReactorDriver
from zpatterns.service import Service
from zpatterns.sockets import SocketSettings, check_endpoint

_DEFAULTS = ServerOptions()


async def _echo(request: Request) -> Sequence[bytes]:
    return request.frames


class FreelanceServer(Service):
    """Serves clients that know it by its address, without a broker (10/FLP; Guide chapter 4, "Brokerless Reliability").

    Subclass it with a ``handle(self, request)``, or pass `handler`; without either it echoes. A plain function runs in
    a thread, so that pings are answered while it computes; a coroutine runs on the loop and must not block it; of a
    generator of either kind all parts go out as one reply. A handler returns bytes, str, None or a sequence of bytes
    and str. One that raises costs that one request: the caller gets :class:`RemoteError`.

    `endpoints`: one or more to bind. `model`: ``"addressed"`` speaks 10/FLP; ``"failover"`` serves REQ sockets, any
    body; ``"shotgun"`` takes and returns exactly one body frame beside the sequence number. The shotgun model has no
    error reply: where its handler raises, or its queue is full, it is silent, and another server's answer is the one.
    `identity`: how ROUTERs of clients know this server, addressed model only: by default the text of the first
    endpoint, which must be what clients connect to (10/FLP); so with a wildcard it is required. Clients of ours do not
    need it.
    `concurrency`: requests served at a time. `queue_max`, `queue_bytes_max`: what may wait for that; the newest beyond
    it is refused. `request_ttl` (seconds): what has waited for longer is dropped.
    `handler_timeout` (seconds): when the caller of a handler that still runs gets an error. Its place is not free
    until the handler has returned.
    Errors: ValueError for values that make no sense, EndpointError for an address that is none.
    """

    source = "freelance.server"
    model: ClassVar[Model] = "addressed"

    def __init__(
        self,
        *endpoints: str,
        handler: Handler | None = None,
        identity: str | bytes | None = None,
        model: Model | None = None,
        concurrency: int = 1,
        queue_max: int = _DEFAULTS.queue_max,
        queue_bytes_max: int = _DEFAULTS.queue_bytes_max,
        request_ttl: float = _DEFAULTS.request_ttl,
        handler_timeout: float | None = None,
        settings: SocketSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        if not endpoints:
            raise EndpointError("FreelanceServer needs at least one endpoint to bind, such as 'tcp://127.0.0.1:5555'")
        super().__init__(on_event=on_event)
        own = _echo if type(self).handle is FreelanceServer.handle else self.handle
        self._handler: Handler = handler or own
        if not callable(self._handler):
            raise TypeError(f"handler must be a function of one request, not {self._handler!r}")
        options = ServerOptions(
            model=model or self.model,
            concurrency=concurrency,
            queue_max=queue_max,
            queue_bytes_max=queue_bytes_max,
            request_ttl=request_ttl,
            handler_timeout=handler_timeout,
        )
        self._core = ServerCore(options)
        self._wanted = tuple(check_endpoint(endpoint, bind=True) for endpoint in endpoints)
        self._settings = settings or SocketSettings()
        self.identity = b""
        """How the ROUTER of a client knows it; empty in the models that have no need of that."""
        if options.model == wire.ADDRESSED:
            self.identity = _identity(identity, self._wanted[0])
            self._settings = dataclasses.replace(self._settings, routing_id=self.identity)
        elif identity is not None:
            raise ValueError(f"only the addressed model has an identity, and this server's is {options.model!r}")
        self._free: list[_Place] = []
        self._busy: dict[int, _Place] = {}
        self.endpoints: tuple[str, ...] = ()
        """What it is bound to, once started, with real ports."""

    def handle(self, request: Request) -> object:
        """Answer one request. Override it; this one echoes."""
        return request.frames

    @property
    def endpoint(self) -> str:
        """The first endpoint; the real one, once bound."""
        return (self.endpoints or self._wanted)[0]

    def statistics(self) -> ServerStatistics:
        """Counters since the start and what is held now."""
        return self._core.statistics()

    def _announcement(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"endpoint": self.endpoint, "model": self._core.options.model}
        if self.identity:
            fields["identity"] = self.identity
        if len(self.endpoints) > 1:
            fields["endpoints"] = self.endpoints
        return fields

    def _attach(self, reactor: Reactor) -> None:
        driver = ReactorDriver(
            reactor, self._core, settings=self._settings, telemetry=self._telemetry, on_command=self._on_command
        )
        self._drivers.append(driver)
        self._free = [_Place(self, driver, number) for number in range(self._core.options.concurrency)]
        self.endpoints = tuple(driver.bind(PORT, SocketKind.ROUTER, endpoint) for endpoint in self._wanted)

    def _on_command(self, command: Command) -> None:
        if isinstance(command, Run):
            place = self._busy[command.run] = self._free.pop()
            place.lane.start(command.run, Request(tuple(command.frames), "", command.client))
        elif isinstance(command, Cancel) and command.run in self._busy:
            self._busy[command.run].lane.cancel(command.run)

    def _close(self) -> None:
        for place in [*self._free, *self._busy.values()]:
            place.lane.close()
        super()._close()


class _Place:
    """One of the `concurrency` places: a lane, which is free again as soon as its handler has returned."""

    def __init__(self, server: FreelanceServer, driver: ReactorDriver, number: int) -> None:
        self._server = server
        self._core = server._core
        self.handler_partial = self._core.handler_partial
        self.lane = Lane(server._handler, self, driver, f"{server.source}:{number}")

    def handler_done(self, run: int, frames: Frames, now: float) -> None:
        self._leave(run)
        self._core.handler_done(run, frames, now)

    def handler_failed(self, run: int, code: str, message: str, now: float) -> None:
        self._leave(run)
        self._core.handler_failed(run, code, message, now)

    def _leave(self, run: int) -> None:
        if self._server._busy.pop(run, None) is not None:
            self._server._free.append(self)


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
