"""Servers and workers of the command line: run until told to stop, and one log line when ready."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zpatterns.service import Service


def serve(service: Service) -> None:
    """Run `service` until SIGINT or SIGTERM, then let it finish what it has in hand."""
    from zpatterns.reactor import Reactor

    Reactor().run(service, _ReadyLine(service))


class _ReadyLine:
    """Started after the service itself, and so just when that is ready."""

    def __init__(self, service: Any) -> None:
        self._service = service

    async def start(self, reactor: Any = None) -> None:
        from zpatterns.telemetry import Telemetry

        service = self._service
        endpoints = list(getattr(service, "endpoints", ()))
        fields = {"endpoints": endpoints} if len(endpoints) > 1 else {}
        Telemetry(service.source).info("ready", endpoint=service.endpoint, **fields)

    async def stop(self, drain: float = 0.0) -> None:
        pass
