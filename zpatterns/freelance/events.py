"""What happens to the servers of a Freelance client, told as events. Pure.

A client's other events are those of :mod:`zpatterns.calls_core`; a server's are those of :mod:`zpatterns.server_core`.
"""

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
