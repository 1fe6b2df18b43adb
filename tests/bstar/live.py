"""One real node on another thread's loop, beside bare sockets that say what the other half would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import zmq

from tests.waiting import until
from zpatterns.bstar import BinaryStar
from zpatterns.core import Event
from zpatterns.testing import BackgroundReactor

FREE = "tcp://127.0.0.1:*"
PATIENT: dict[str, Any] = {"heartbeat_interval": 0.2, "liveness": 60}
"""A lease that no loaded machine lets run out."""

QUICK: dict[str, Any] = {"heartbeat_interval": 0.1, "liveness": 5}
"""How long an answer of the fence is waited for is their product."""


class Other:
    """The other half, as the node hears it, and hears of it."""

    def __init__(self, peer: Callable[..., zmq.Socket[bytes]]) -> None:
        self._peer = peer
        self._state = peer(zmq.PUB, bind=FREE)
        self.remote = where(self._state)

    def says(self, state: bytes, until_: Callable[[], bool]) -> None:
        """Say it again and again until it was heard."""

        def said() -> bool:
            self._state.send(state)
            return until_()

        until(said, f"the node does what {state!r} asks for")

    def listens_to(self, node: BinaryStar) -> zmq.Socket[bytes]:
        """A SUB that has heard the node."""
        heard = self._peer(zmq.SUB, connect=node.local, SUBSCRIBE=b"")
        heard.recv()
        return heard


def where(bound: zmq.Socket[bytes]) -> str:
    return bound.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0")  # type: ignore[union-attr]


class Started:
    """A node that runs on another thread's loop, a client of it, and what it told."""

    def __init__(self, reactor: BackgroundReactor, peer: Callable[..., zmq.Socket[bytes]], **options: Any) -> None:
        self.reactor = reactor
        self.events: list[Event] = []
        made: dict[str, Any] = {"primary": True, "local": FREE, "on_event": self.events.append} | PATIENT | options
        if "service" not in made:
            made["bind"] = FREE
        self.node = reactor.start(BinaryStar(**made))
        self._client = peer(zmq.DEALER, connect=self.node.endpoint)

    @property
    def state(self) -> str:
        return str(self._statistics.state)

    @property
    def serving(self) -> bool:
        return bool(self._statistics.serving)

    @property
    def _statistics(self) -> Any:
        """Between two turns: whatever is seen there has been told of."""
        return self.call(self.node.statistics)

    def told(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def ask(self, body: bytes = b"hello") -> None:
        self._client.send_multipart([b"", body])

    def answer(self) -> list[bytes]:
        return self._client.recv_multipart()[1:]

    def call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        return self.reactor.call(method, *arguments)


def active(started: Started, other: Other) -> Started:
    other.says(b"2" if started.node.statistics().role == "primary" else b"1", lambda: started.state == "active")
    return started
