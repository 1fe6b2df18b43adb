"""What happens in a Majordomo broker, worker or client, told as events. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zpatterns.core import Event


@dataclass(frozen=True, slots=True)
class WorkerRegistered(Event):
    """Broker: a worker said READY."""

    worker: bytes
    service: bytes
    protocol: str


@dataclass(frozen=True, slots=True)
class WorkerLost(Event):
    """Broker: a worker is no longer counted on, for the `reason` given."""

    level: ClassVar[str] = "warning"
    worker: bytes
    service: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerLeft(Event):
    """Broker: a worker said DISCONNECT with nothing in hand, or the broker itself is stopping."""

    worker: bytes
    service: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerExpired(Event):
    """Broker: a worker was silent for a whole lease."""

    level: ClassVar[str] = "warning"
    worker: bytes
    service: bytes


@dataclass(frozen=True, slots=True)
class RequestRequeued(Event):
    """Broker: a request whose worker was lost goes to another one; it was delivered `deliveries` times."""

    level: ClassVar[str] = "warning"
    service: bytes
    client: bytes
    deliveries: int


@dataclass(frozen=True, slots=True)
class RequestLost(Event):
    """Broker: a request was given up after its workers were lost; its client was told."""

    level: ClassVar[str] = "error"
    service: bytes
    client: bytes
    deliveries: int


@dataclass(frozen=True, slots=True)
class RequestExpired(Event):
    """Broker: a request waited in the queue for its whole `request_ttl`."""

    level: ClassVar[str] = "warning"
    service: bytes
    client: bytes


@dataclass(frozen=True, slots=True)
class RequestRefused(Event):
    """Broker: a request was answered with an error at once, for the `reason` given."""

    level: ClassVar[str] = "warning"
    service: bytes
    client: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class ReadySent(Event):
    """Worker: READY was sent to the broker at `endpoint`. No proof that a broker is there: READY has no answer."""

    endpoint: str
    service: bytes


@dataclass(frozen=True, slots=True)
class BrokerLost(Event):
    """Worker: the broker is given up, for the `reason` given; the next try is in `delay` seconds."""

    level: ClassVar[str] = "warning"
    endpoint: str
    reason: str
    delay: float


@dataclass(frozen=True, slots=True)
class HandlerFailed(Event):
    """Worker: the handler raised; its caller got the error. (Its traceback is logged beside this.)"""

    level: ClassVar[str] = "debug"
    service: bytes
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class HandlerTimedOut(Event):
    """Worker: the handler has run for longer than `handler_timeout`; its caller got the error."""

    level: ClassVar[str] = "error"
    service: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class AttemptFailed(Event):
    """Client: an attempt had no answer in time, or was refused, and is given up or repeated."""

    level: ClassVar[str] = "warning"
    service: bytes
    endpoint: str
    attempt: int
    reason: str
