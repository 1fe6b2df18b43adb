"""What happens in a Pirate queue or worker, told as events. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zpatterns.core import Event
from zpatterns.server_core import HandlerFailed, RequestExpired, RequestRefused

__all__ = [
    "HandlerFailed",
    "HandlerTimedOut",
    "QueueLost",
    "ReadySent",
    "RequestExpired",
    "RequestLost",
    "RequestRefused",
    "RequestRequeued",
    "WorkerExpired",
    "WorkerLost",
    "WorkerRegistered",
]


@dataclass(frozen=True, slots=True)
class WorkerRegistered(Event):
    """Queue: a worker said READY, or what a Simple Pirate queue takes for it: a reply from a worker it did not know."""

    worker: bytes


@dataclass(frozen=True, slots=True)
class WorkerLost(Event):
    """Queue: a worker is no longer counted on, for the `reason` given."""

    level: ClassVar[str] = "warning"
    worker: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerExpired(Event):
    """Queue: a worker was silent for a whole lease."""

    level: ClassVar[str] = "warning"
    worker: bytes


@dataclass(frozen=True, slots=True)
class RequestRequeued(Event):
    """Queue: a request whose worker was lost goes to another one; it was delivered `deliveries` times."""

    level: ClassVar[str] = "warning"
    client: bytes
    deliveries: int


@dataclass(frozen=True, slots=True)
class RequestLost(Event):
    """Queue: a request was given up after its workers were lost; its client was told."""

    level: ClassVar[str] = "error"
    client: bytes
    deliveries: int


@dataclass(frozen=True, slots=True)
class ReadySent(Event):
    """Worker: READY was sent to the queue at `endpoint`, or will be once it is there. It is never answered."""

    endpoint: str


@dataclass(frozen=True, slots=True)
class QueueLost(Event):
    """Worker: the queue is given up, for the `reason` given; the next try is in `delay` seconds."""

    level: ClassVar[str] = "warning"
    endpoint: str
    reason: str
    delay: float


@dataclass(frozen=True, slots=True)
class HandlerTimedOut(Event):
    """Worker: the handler has run for longer than `handler_timeout`; its caller got the error."""

    level: ClassVar[str] = "error"
    seconds: float
