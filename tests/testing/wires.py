"""A proxy between two plain TCP sockets, whose every byte a test sees."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from zpatterns.testing import TcpProxy

PATIENCE = 20.0
"""Seconds after which a socket gives up: nothing here waits for ever."""


def received(end: socket.socket, count: int) -> bytes:
    """Exactly so many bytes, or as many as come before the end of the connection."""
    data = b""
    while len(data) < count and (more := end.recv(count - len(data))):
        data += more
    return data


def is_reset(end: socket.socket) -> bool:
    """Wait for the end of the connection: whether it was broken off, not ended in order."""
    try:
        while end.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return False


def is_silent(end: socket.socket) -> bool:
    """Whether nothing has come for a while, not even an end."""
    end.settimeout(0.05)
    try:
        end.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return True
    finally:
        end.settimeout(PATIENCE)
    return False


class Wire:
    """A listening target, a proxy in front of it, and the connections that go through."""

    def __init__(self, stack: contextlib.ExitStack, **options: int) -> None:
        self._stack = stack
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.listener.settimeout(PATIENCE)
        self.target_port = self.listener.getsockname()[1]
        self.proxy = stack.enter_context(TcpProxy(f"tcp://127.0.0.1:{self.target_port}", **options))
        self.address = ("127.0.0.1", int(self.proxy.endpoint.rpartition(":")[2]))

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """A new connection: the client's end, and the target's."""
        return self.dial(), self.accept()

    def dial(self) -> socket.socket:
        return self._stack.enter_context(socket.create_connection(self.address, PATIENCE))

    def accept(self) -> socket.socket:
        end = self._stack.enter_context(self.listener.accept()[0])
        end.settimeout(PATIENCE)
        return end


@contextlib.contextmanager
def wire(**options: int) -> Iterator[Wire]:
    """A :class:`Wire` with the proxy's `options`."""
    with contextlib.ExitStack() as stack:
        yield Wire(stack, **options)


@contextlib.contextmanager
def flooding(end: socket.socket) -> Iterator[list[int]]:
    """Send without a pause from a thread until the block is left; the one number is the count of bytes so far."""
    count = [0]
    end.settimeout(0.05)
    leaving = threading.Event()

    def send() -> None:
        with contextlib.suppress(ConnectionError):
            while not leaving.is_set():
                with contextlib.suppress(TimeoutError):
                    count[0] += end.send(bytes(65536))

    thread = threading.Thread(target=send, name="flooding")
    thread.start()
    try:
        yield count
    finally:
        leaving.set()
        thread.join(PATIENCE)
