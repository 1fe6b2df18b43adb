"""Servers of the command line: run until told to stop, and one log line when ready."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zpatterns.mdp import Broker


def run_announced(server: Broker) -> None:
    """Run `server` until SIGINT or SIGTERM, and log the real endpoint once it is bound."""
    from zpatterns.reactor import Reactor

    Reactor().run(server, _ReadyLine(server))


class _ReadyLine:
    """Started after the server itself, and so just when that is ready."""

    def __init__(self, server: Broker) -> None:
        self._server = server

    async def start(self, reactor: Any = None) -> None:
        from zpatterns.telemetry import Telemetry

        endpoints = self._server.endpoints
        fields = {"endpoints": endpoints} if len(endpoints) > 1 else {}
        Telemetry(self._server.source).info("ready", endpoint=endpoints[0], **fields)

    async def stop(self, drain: float = 0.0) -> None:
        pass
