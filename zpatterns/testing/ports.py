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
    `count`: so many in a row, of which this is the first; a Clone server has three.
    """

    def __init__(self, count: int = 1) -> None:
        self._holders: list[socket.socket] = []
        while len(self._holders) < count:
            try:
                self._hold(self.port + len(self._holders) if self._holders else 0)
            except OSError:
                self.close()  # the next one is taken: try elsewhere
        if sys.platform != "linux":
            self.close()

    def _hold(self, port: int) -> None:
        holder = socket.socket()
        try:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            holder.close()
            raise OSError from None
        if not self._holders:
            self.port: int = holder.getsockname()[1]
        self._holders.append(holder)

    @property
    def endpoint(self) -> str:
        """The port as ZeroMQ writes it: ``tcp://127.0.0.1:PORT``."""
        return f"tcp://127.0.0.1:{self.port}"

    def close(self) -> None:
        """Let go of the port. Twice is once."""
        for holder in self._holders:
            holder.close()
        self._holders.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
