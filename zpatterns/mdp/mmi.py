"""8/MMI: the services that a broker answers itself. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from zpatterns.core import Frames
from zpatterns.mdp import wire
from zpatterns.mdp.broker_state import BrokerStatistics, Service, Worker


def answer(
    name: bytes,
    body: Frames,
    *,
    services: Mapping[bytes, Service],
    workers: Mapping[bytes, Worker],
    statistics: Callable[[], BrokerStatistics],
    now: float,
) -> Frames:
    """The reply's body: a code, and for our own services JSON behind it."""
    if name == wire.MMI_SERVICE:
        service = services.get(body[-1])
        return [wire.OK if service is not None and service.workers else wire.NOT_FOUND]
    if name == wire.MMI_SERVICES:
        return [wire.OK, _json([_service(services[name]) for name in sorted(services)])]
    if name == wire.MMI_WORKERS:
        return [wire.OK, _json([_worker(worker, now) for worker in workers.values()])]
    if name == wire.MMI_STATISTICS:
        return [wire.OK, _json(asdict(statistics()))]
    return [wire.NOT_IMPLEMENTED]


def _service(service: Service) -> dict[str, Any]:
    return {
        "service": service.name.decode(),
        "workers": service.workers,
        "idle": len(service.idle) - service.stale,
        "queued": service.queued,
    }


def _worker(worker: Worker, now: float) -> dict[str, Any]:
    return {
        "worker": worker.id.hex(),
        "service": worker.service.name.decode(),
        "protocol": worker.dialect.version,
        "busy": worker.request is not None,
        "expires_in": round(max(0.0, worker.expiry - now), 3),
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
