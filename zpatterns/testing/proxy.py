"""A TCP proxy that is a bad network, at the turn of a switch: :class:`TcpProxy`."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypeAlias, TypeVar
from urllib.parse import urlsplit

from zpatterns.errors import ClosedError, EndpointError
from zpatterns.testing.ports import ReservedPort
from zpatterns.testing.proxy_flow import CHUNK, Connection, Flow, Way

T = TypeVar("T")

Direction: TypeAlias = Literal["both", "to_target", "to_client"]
"""Which bytes a fault is for: those on their way to the target, to the client, or all."""

End: TypeAlias = Literal["client", "target"]

_CONNECTIONS_MAX = 1000
"""Connections that are open at a time."""
_PATIENCE = 10.0

_RESET = struct.pack("ii", 1, 0)
_IN_PROGRESS = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)


@dataclass(frozen=True, slots=True)
class ProxyStatistics:
    """`accepted`: connections since the start. `open`: those that are now. `to_target`, `to_client`: bytes passed on.
    `held`: bytes read and not passed on yet."""

    accepted: int
    open: int
    to_target: int
    to_client: int
    held: int


class TcpProxy:
    """Passes TCP connections on to a `target`, and does to them what a bad network does. For tests.

    `target`: ``tcp://host:port``. `held_bytes_max`: bytes held for one direction of one connection; beyond that nothing
    is read, so that TCP's own back-pressure reaches the sender.

    Connect to :attr:`endpoint` instead of the target. The proxy works in a thread of its own from the moment it
    is made; every method may be called from any thread, event loops included, and has taken effect when it returns.
    Faults add up, and hold for connections to come as well, until :meth:`heal`. Use it with ``with``, or
    call :meth:`close`.

    As long as the target does not listen, a connection is accepted and reset at once.
    """

    def __init__(self, target: str, *, held_bytes_max: int = 2**20) -> None:
        if held_bytes_max < 1:
            raise ValueError(f"held_bytes_max must be at least 1, not {held_bytes_max!r}")
        self._family, self._address = _resolved(target)
        self._held_bytes_max = held_bytes_max
        self._to_target, self._to_client = Way(), Way()
        self._connections: dict[Connection, None] = {}
        self._timed: set[Connection] = set()
        self._accepted = 0
        self._closed = False
        self._lock = threading.Lock()
        self._tasks: deque[Callable[[], None]] = deque()
        self._bell_in, self._bell_out = socket.socketpair()
        self._bell_in.setblocking(False)
        self._bell_out.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell_in, selectors.EVENT_READ)
        self._port = ReservedPort()
        self.endpoint: str = self._port.endpoint
        """Where the proxy listens."""
        self._listener: socket.socket | None = None
        self._listen()
        self._thread = threading.Thread(target=self._run, name=f"zpatterns-proxy {self.endpoint}", daemon=True)
        self._thread.start()

    # Faults.

    def delay(self, seconds: float, direction: Direction = "both") -> None:
        """Every byte arrives `seconds` later, in order. 0 ends it."""
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"a delay is a number of seconds from 0, not {seconds!r}")
        self._set(direction, "delay", seconds)

    def throttle(self, bytes_per_second: float | None, direction: Direction = "both") -> None:
        """Each connection passes at most so many bytes a second. None ends it."""
        if bytes_per_second is not None and not 0 < bytes_per_second < float("inf"):
            raise ValueError(f"a rate is a positive number of bytes a second, not {bytes_per_second!r}")
        self._set(direction, "rate", bytes_per_second)

    def stall(self, direction: Direction = "both") -> None:
        """Nothing passes any more, and nothing is lost: what is sent waits for :meth:`heal`, as in a network that loses
        every packet while TCP repeats them. Neither end is told, not even when the other one is gone."""
        self._set(direction, "stalled", True)

    def half_open(self, lost: End = "client") -> None:
        """Every open connection loses one end, and the other end is not told.

        The `lost` end finds itself reset, as after a restart of its machine, and may connect anew. The other end's
        connection stays open until it closes it: what it says is thrown away.
        """
        if lost not in ("client", "target"):
            raise ValueError(f"lost must be 'client' or 'target', not {lost!r}")
        self._for_each(lambda connection: self._lose(connection, lost))

    def cut(self) -> None:
        """Reset every open connection at both ends; what was on its way is lost. New ones are taken."""
        self._for_each(self._drop)

    def refuse(self) -> None:
        """Refuse new connections. Open ones stay; add :meth:`cut` to be rid of them."""
        self._do(self._unlisten)

    def heal(self) -> None:
        """End every fault. What was held goes out at once; half-open connections are reset, as they would be now."""

        def end() -> None:
            for way in (self._to_target, self._to_client):
                way.delay, way.rate, way.stalled = 0.0, None, False
            for connection in list(self._connections):
                if connection.lost:
                    self._drop(connection)
            self._listen()

        self._do(end)

    # The rest of what is public.

    def statistics(self) -> ProxyStatistics:
        """What has passed and what is open now."""

        def read() -> ProxyStatistics:
            return ProxyStatistics(
                accepted=self._accepted,
                open=len(self._connections),
                to_target=self._to_target.passed,
                to_client=self._to_client.passed,
                held=sum(flow.held_bytes for connection in self._connections for flow in connection.flows),
            )

        return self._do(read)

    def close(self) -> None:
        """Reset every connection, stop listening and end the thread. Twice is once."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._ring()
        self._thread.join(_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _set(self, direction: Direction, name: str, value: float | bool | None) -> None:
        ways = {"both": (self._to_target, self._to_client), "to_target": (self._to_target,)}
        ways["to_client"] = (self._to_client,)
        if direction not in ways:
            raise ValueError(f"direction must be 'both', 'to_target' or 'to_client', not {direction!r}")

        def change() -> None:
            for way in ways[direction]:
                setattr(way, name, value)

        self._do(change)

    def _for_each(self, work: Callable[[Connection], None]) -> None:
        def visit() -> None:
            for connection in list(self._connections):
                work(connection)

        self._do(visit)

    def _do(self, work: Callable[[], T]) -> T:
        """Have `work` done in the proxy's thread, and all that follows from it, before this returns."""
        done: Future[T] = Future()

        def task() -> None:
            try:
                result = work()
                for connection in list(self._connections):
                    self._update(connection)
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(result)

        with self._lock:
            if self._closed:
                raise ClosedError("this TcpProxy was closed; make a new one")
            self._tasks.append(task)
        self._ring()
        return done.result(_PATIENCE)

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # it rings already, or the thread was awake and has ended
            self._bell_out.send(b"\0")

    # In the proxy's thread.

    def _run(self) -> None:
        try:
            while not self._closed or self._tasks:
                self._turn()
        finally:
            for connection in list(self._connections):
                self._drop(connection)
            self._unlisten()
            self._port.close()
            self._selector.close()
            self._bell_in.close()
            self._bell_out.close()

    def _turn(self) -> None:
        for key, mask in self._selector.select(self._timeout()):
            if key.fileobj is self._bell_in:
                with contextlib.suppress(BlockingIOError):
                    while self._bell_in.recv(4096):
                        pass
            elif key.fileobj is self._listener:
                self._accept()
            elif key.data in self._connections:
                assert isinstance(key.fileobj, socket.socket)
                self._ready(key.data, key.fileobj, mask)
        while self._tasks:
            self._tasks.popleft()()
        now = time.monotonic()
        for connection in list(self._timed):
            when = connection.next_time()
            if when is not None and when <= now:
                self._update(connection)

    def _timeout(self) -> float | None:
        times = [when for each in self._timed if (when := each.next_time()) is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _listen(self) -> None:
        if self._listener is None:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            listener.bind(("127.0.0.1", self._port.port))
            listener.listen(1024)
            self._listener = listener
            self._watch_listener()

    def _unlisten(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            if listener in self._selector.get_map():
                self._selector.unregister(listener)
            listener.close()

    def _watch_listener(self) -> None:
        """Beyond the limit of connections new ones wait, as at a busy server."""
        listener = self._listener
        if listener is None:
            return
        has_room = len(self._connections) < _CONNECTIONS_MAX
        if has_room != (listener in self._selector.get_map()):
            if has_room:
                self._selector.register(listener, selectors.EVENT_READ)
            else:
                self._selector.unregister(listener)

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        self._accepted += 1
        target = socket.socket(self._family)
        for end in (client, target):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        flows = (
            Flow(client, target, self._to_target, self._held_bytes_max),
            Flow(target, client, self._to_client, self._held_bytes_max),
        )
        connection = Connection(client, target, flows)
        self._connections[connection] = None
        self._watch_listener()
        if target.connect_ex(self._address) in _IN_PROGRESS:
            self._update(connection)
        else:
            self._drop(connection)

    def _ready(self, connection: Connection, end: socket.socket, mask: int) -> None:
        if connection.connecting and end is connection.target:
            if end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._drop(connection)
                return
            connection.connecting = False
        if mask & selectors.EVENT_WRITE:
            connection.blocked.discard(end)
        if mask & selectors.EVENT_READ:
            try:
                if connection.lost:
                    if not end.recv(CHUNK):
                        self._drop(connection)
                        return
                else:
                    flow = connection.flows[0] if end is connection.client else connection.flows[1]
                    if flow.wants_to_read:
                        flow.receive(time.monotonic())
            except BlockingIOError:
                pass
            except OSError:  # reset: so is the other end
                self._drop(connection)
                return
        self._update(connection)

    def _update(self, connection: Connection) -> None:
        """Send what may be sent, and find out what to wait for."""
        if connection.lost:
            return
        to_target, to_client = connection.flows
        now = time.monotonic()
        try:
            connection.blocked.update([flow.sink for flow in connection.sendable() if flow.send(now)])
        except OSError:
            self._drop(connection)
            return
        if to_target.finished and to_client.finished:
            self._drop(connection, reset=False)
            return
        self._watch(connection, connection.client, to_target.wants_to_read, connection.client in connection.blocked)
        self._watch(
            connection,
            connection.target,
            to_client.wants_to_read and not connection.connecting,
            connection.connecting or connection.target in connection.blocked,
        )
        if connection.next_time() is None:
            self._timed.discard(connection)
        else:
            self._timed.add(connection)

    def _watch(self, connection: Connection, end: socket.socket, read: bool, write: bool) -> None:
        mask = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
        key = self._selector.get_map().get(end)
        if key is None:
            if mask:
                self._selector.register(end, mask, connection)
        elif not mask:
            # Not even a reset is noticed now: that is what a stalled network is like.
            self._selector.unregister(end)
        elif mask != key.events:
            self._selector.modify(end, mask, connection)

    def _lose(self, connection: Connection, lost: End) -> None:
        if connection.lost:
            return
        gone, stays = connection.client, connection.target
        if lost == "target":
            gone, stays = stays, gone
        self._watch(connection, gone, False, False)
        _reset(gone)
        connection.lost = True
        self._timed.discard(connection)
        for flow in connection.flows:
            flow.held.clear()
            flow.held_bytes = 0
        self._watch(connection, stays, True, False)

    def _drop(self, connection: Connection, reset: bool = True) -> None:
        del self._connections[connection]
        self._timed.discard(connection)
        for end in (connection.client, connection.target):
            if end.fileno() >= 0:
                self._watch(connection, end, False, False)
                if reset:
                    _reset(end)
                end.close()
        self._watch_listener()


def _reset(end: socket.socket) -> None:
    """Close with a RST: what was not sent yet is thrown away."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.close()


def _resolved(endpoint: str) -> tuple[int, tuple[object, ...]]:
    """The address family and address of a ``tcp://host:port``. Errors: EndpointError."""
    parts = urlsplit(endpoint)
    try:
        if parts.scheme != "tcp" or not parts.hostname or not parts.port:
            raise ValueError("it is not 'tcp://host:port'")
        family, _, _, _, address = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)[0]
    except (OSError, ValueError) as error:
        raise EndpointError(f"{endpoint!r} cannot be the target of a proxy: {error}", endpoint=endpoint) from error
    return family, address
