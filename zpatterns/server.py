"""A bound server around a handler: what every server without a broker shares."""

from __future__ import annotations

from collections.abc import Callable

from zpatterns.core import Cancel, Command, Event, Run
from zpatterns.handlers import Handler, Handles, Lane, Request, Threads, is_stream
from zpatterns.reactor import Reactor
from zpatterns.server_core import PORT, ServerCore, ServerStatistics
from zpatterns.service import BoundService
from zpatterns.sockets import SocketSettings


class Server(Handles, BoundService):
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
        super().__init__(endpoints, settings=settings, on_event=on_event)
        self._handler = self._choose_handler(handler)
        if is_stream(self._handler):
            name = type(self).__name__
            raise ValueError(f"the clients of a {name} get one answer, so its handler cannot be a generator")
        self._core = core
        self._lanes: list[Lane] = []

    def statistics(self) -> ServerStatistics:
        """Counters since the start and what is held now."""
        return self._counted(self._core.statistics())

    def _attach(self, reactor: Reactor) -> None:
        driver = self._drive(reactor, self._core, settings=self._settings, on_command=self._on_command)
        threads = Threads(reactor.loop)
        self._lanes += [
            Lane(self._handler, self._core, driver, f"{self.source}:{number}", threads)
            for number in range(self._core.options.concurrency)
        ]
        self._bind(driver, PORT)

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
