"""Real sockets in one process: services in a thread of their own, and conditions that are waited for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import zmq

from tests.waiting import DEADLINE, until
from zpatterns import Reactor
from zpatterns.reactor import Runnable


@contextlib.contextmanager
def serving(*services: Runnable) -> Iterator[None]:
    """Serve in a thread until the block is left. A service with endpoints is bound when it is entered."""
    reactor = Reactor()
    thread = threading.Thread(target=reactor.run, args=services, kwargs={"drain": 0.0}, name="serving")
    thread.start()
    try:
        for service in services:
            if hasattr(service, "endpoints"):
                until(lambda service=service: service.endpoints or not thread.is_alive(), "bound")  # type: ignore[misc]
        yield
    finally:
        reactor.stop()
        thread.join(DEADLINE)
        assert not thread.is_alive()


class Peers:
    """Raw sockets that end with the block, whatever happened in it."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, *_: object) -> None:
        for socket in self._sockets:
            socket.close(linger=0)
        self.context.term()

    def socket(self, kind: int, endpoint: str = "", **options: Any) -> zmq.Socket[bytes]:
        """A socket that waits :data:`DEADLINE` seconds for a message, connected to `endpoint` if there is one."""
        socket = self.context.socket(kind)
        self._sockets.append(socket)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, round(DEADLINE * 1000))
        for name, value in options.items():
            socket.setsockopt(getattr(zmq, name.upper()), value)
        if endpoint:
            socket.connect(endpoint)
        return socket
