"""The connections of a :class:`~zpatterns.testing.proxy.TcpProxy`, and how bytes pass through them. Not public."""

from __future__ import annotations

import socket
from collections import deque

CHUNK = 64 * 1024
"""Bytes that are read at a time."""

_HELD_CHUNKS_MAX = 4096
"""Limits the memory that many small reads take beside their bytes."""

_SLICE = 0.02
"""Seconds of a throttled rate that are let through at a time."""


class Way:
    """What is done to the bytes of one direction, in every connection."""

    __slots__ = ("delay", "passed", "rate", "stalled")

    def __init__(self) -> None:
        self.delay = 0.0
        self.rate: float | None = None
        self.stalled = False
        self.passed = 0


class Flow:
    """One direction of one connection: bytes, and at last an end, held until their time has come."""

    __slots__ = ("allowed_at", "ended", "finished", "held", "held_bytes", "held_max", "sink", "source", "way")

    def __init__(self, source: socket.socket, sink: socket.socket, way: Way, held_max: int) -> None:
        self.source = source
        self.sink = sink
        self.way = way
        self.held: deque[tuple[float, memoryview]] = deque()
        """With the time of arrival. An empty one is the source's end."""
        self.held_bytes = 0
        self.held_max = held_max
        self.ended = False
        self.finished = False
        self.allowed_at = 0.0

    @property
    def wants_to_read(self) -> bool:
        has_room = self.held_bytes < self.held_max and len(self.held) < _HELD_CHUNKS_MAX
        return has_room and not (self.ended or self.way.stalled)

    def next_time(self) -> float | None:
        """When the next bytes may be sent."""
        way = self.way
        if not self.held or way.stalled:
            return None
        when = self.held[0][0] + way.delay
        return when if way.rate is None else max(when, self.allowed_at)

    def receive(self, now: float) -> None:
        data = self.source.recv(min(CHUNK, self.held_max - self.held_bytes))
        self.held.append((now, memoryview(data)))
        self.held_bytes += len(data)
        self.ended = not data

    def send(self, now: float) -> bool:
        """Send what may be sent. Returns whether the sink takes no more for now."""
        while (when := self.next_time()) is not None and when <= now:
            arrived, data = self.held[0]
            if not data:
                self.held.popleft()
                self.finished = True
                self.sink.shutdown(socket.SHUT_WR)
                return False
            rate = self.way.rate
            if rate is not None:
                data = data[: max(1, int(rate * _SLICE))]
            try:
                sent = self.sink.send(data)
            except BlockingIOError:
                return True
            if rate is not None:
                self.allowed_at = now + sent / rate
            self.way.passed += sent
            self.held_bytes -= sent
            rest = self.held[0][1][sent:]
            if rest:
                self.held[0] = (arrived, rest)
            else:
                self.held.popleft()
        return False


class Connection:
    """A client's connection and ours to the target."""

    __slots__ = ("blocked", "client", "connecting", "flows", "lost", "target")

    def __init__(self, client: socket.socket, target: socket.socket, flows: tuple[Flow, Flow]) -> None:
        self.client = client
        self.target = target
        self.flows = flows
        self.connecting = True
        self.blocked: set[socket.socket] = set()
        """Those that take no more bytes for now."""
        self.lost = False
        """Half open: one end is gone, and what the other one says is thrown away."""

    def sendable(self) -> list[Flow]:
        """The flows whose sink can take bytes now."""
        return [
            flow
            for flow in self.flows
            if flow.sink not in self.blocked and not (self.connecting and flow.sink is self.target)
        ]

    def next_time(self) -> float | None:
        """When there is something to send."""
        times = [when for flow in self.sendable() if (when := flow.next_time()) is not None]
        return min(times) if times else None
