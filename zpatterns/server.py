"""A bound server around a handler: what every server without a broker shares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zpatterns.core import Cancel, Command, Event, Run, SocketKind
from zpatterns.errors import EndpointError
from zpatterns.handlers import Handler, Handles, Lane, Request, Threads, is_stream
from zpatterns.reactor import Reactor
from zpatterns.server_core import PORT, ServerCore, ServerStatistics
from zpatterns.service import Service
from zpatterns.sockets import SocketSettings, check_endpoint


class Server(Handles, Service):
    """Binds a ROUTER to `endpoints` and answers what comes with its handler; a pattern brings the core.

    Errors: EndpointError for an address that is none; TypeError for a handler that cannot be called, ValueError for
    one that is a generator.
    """

    def __init__(
        self,
        core: ServerCore,
        endpoints: tuple[str, ...],
        *,
        handler: Handler | None,
        settings: SocketSettings | None,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        name = type(self).__name__
        if not endpoints:
            raise EndpointError(f"{name} needs at least one endpoint to bind, such as 'tcp://127.0.0.1:5555'")
        super().__init__(on_event=on_event)
        self._handler = self._choose_handler(handler)
        if is_stream(self._handler):
            raise ValueError(f"the clients of a {name} get one answer, so its handler cannot be a generator")
        self._core = core
        self._settings = settings
        self._wanted = tuple(check_endpoint(endpoint, bind=True) for endpoint in endpoints)
        self._lanes: list[Lane] = []
        self.endpoints: tuple[str, ...] = ()
        """What it is bound to, once started, with real ports."""

    @property
    def endpoint(self) -> str:
        """The first endpoint; the real one, once bound."""
        return (self.endpoints or self._wanted)[0]

    def statistics(self) -> ServerStatistics:
        """Counters since the start and what is held now."""
        return self._counted(self._core.statistics())

    def _announcement(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"endpoint": self.endpoint}
        if len(self.endpoints) > 1:
            fields["endpoints"] = self.endpoints
        return fields

    def _attach(self, reactor: Reactor) -> None:
        driver = self._drive(reactor, self._core, settings=self._settings, on_command=self._on_command)
        threads = Threads(reactor.loop)
        self._lanes += [
            Lane(self._handler, self._core, driver, f"{self.source}:{number}", threads)
            for number in range(self._core.options.concurrency)
        ]
        self.endpoints = tuple(driver.bind(PORT, SocketKind.ROUTER, endpoint) for endpoint in self._wanted)

    def _on_command(self, command: Command) -> None:
        if isinstance(command, Run):
            request = Request(tuple(command.frames), "", command.client)
            self._lanes[command.run % len(self._lanes)].start(command.run, request)
        elif isinstance(command, Cancel):
            self._lanes[command.run % len(self._lanes)].cancel(command.run)

    def _close(self) -> None:
        for lane in self._lanes:
            lane.close()
        super()._close()
