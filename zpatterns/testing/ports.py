"""A free port of this machine that stays free: :class:`ReservedPort`."""

from __future__ import annotations

import socket
import sys
from types import TracebackType
from typing import Self


class ReservedPort:
    """A TCP port of the loopback interface for a server that is to come, or to come back.

    On Linux it is bound but not listened on until :meth:`close`: a connection is refused, the system gives the port to
    nobody else, and a server that sets SO_REUSEADDR (libzmq and asyncio do) can bind it, any number of times.
    Elsewhere two sockets cannot share a port in this way: there it is only a port that was free when it was chosen.
    """

    def __init__(self) -> None:
        self._holder: socket.socket | None = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind(("127.0.0.1", 0))
        self.port: int = self._holder.getsockname()[1]
        if sys.platform != "linux":
            self.close()

    @property
    def endpoint(self) -> str:
        """The port as ZeroMQ writes it: ``tcp://127.0.0.1:PORT``."""
        return f"tcp://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Let go of the port. Twice is once."""
        if self._holder is not None:
            self._holder.close()
            self._holder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
