"""What happens in a Freelance client or server, told as events. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zpatterns.core import Event


@dataclass(frozen=True, slots=True)
class ServerUp(Event):
    """Client: a server has answered, for the first time or after it was given up."""

    endpoint: str


@dataclass(frozen=True, slots=True)
class ServerDown(Event):
    """Client: a server does not answer, for the `reason` given; the connection to it was made anew."""

    level: ClassVar[str] = "warning"
    endpoint: str
    reason: str


@dataclass(frozen=True, slots=True)
class AttemptFailed(Event):
    """Client: an attempt had no answer in time, or was refused, or lost its server."""

    level: ClassVar[str] = "warning"
    endpoint: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class RequestRefused(Event):
    """Server: a request was not accepted, for the `reason` given; its client was told where the model can."""

    level: ClassVar[str] = "warning"
    client: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class RequestExpired(Event):
    """Server: a request waited in the queue for its whole `request_ttl`, and was dropped."""

    level: ClassVar[str] = "warning"
    client: bytes


@dataclass(frozen=True, slots=True)
class HandlerFailed(Event):
    """Server: the handler raised; its caller got the error, but for the shotgun model, which has none."""

    level: ClassVar[str] = "debug"
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class HandlerTimedOut(Event):
    """Server: the handler has run for longer than `handler_timeout`; its caller got the error."""

    level: ClassVar[str] = "error"
    seconds: float
