"""One simulated ZeroMQ socket and its connections; :mod:`zpatterns.testing.network` carries what they send."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from zpatterns.core import Frames, SocketKind
from zpatterns.sockets import SocketSettings

if TYPE_CHECKING:
    from zpatterns.testing.clock import Entry
    from zpatterns.testing.network import Network

_THROTTLE: Final = 0.001
"""Seconds in which a second send does not look at the commands again (socket_base.cpp, max_command_delay)."""

ONE_PEER = (SocketKind.DEALER, SocketKind.REQ, SocketKind.SUB)
"""These find dead connections by `probe_interval` and `probe_timeout` (see SocketSettings)."""

ATTACH, READ, WRITE, LOST = range(4)
"""What the io thread tells a socket."""


class Host(Protocol):
    """What the network needs to know of the process that owns a socket."""

    name: str
    alive: bool
    paused_at: float | None

    def later(self, when: float, callback: Callable[..., object], *args: Any) -> object:
        """Call back at `when`; not before the process goes on if it is stopped, never once it is dead."""


class End:
    """One socket's end of one connection."""

    __slots__ = (
        "asleep",
        "closing",
        "connected",
        "connector",
        "flying",
        "gone",
        "held",
        "host",
        "inbox",
        "last_arrival",
        "latency",
        "lost",
        "out",
        "over",
        "peer",
        "peer_id",
        "read",
        "received",
        "reported",
        "seen",
        "silent",
        "socket",
        "subscriptions",
        "taken",
        "wire",
        "written",
    )

    def __init__(self, socket: SimSocket, connector: Connector | None) -> None:
        self.socket = socket
        self.host = socket.host
        self.connector = connector
        self.connected = False  # there is, or was, a peer
        self.peer: End
        self.peer_id = b""
        # What this end sends: taken by libzmq, then on the wire as (arrival, frames, sent at).
        self.out: deque[Any] = deque()
        self.wire: deque[tuple[float, Any, float]] = deque()
        self.written = self.taken = self.reported = 0
        self.last_arrival = 0.0
        self.latency: float | None = None  # of its path, once it was asked for
        self.flying: Entry | None = None  # a callback for the head of the wire is due
        self.held = False  # the head cannot arrive; somebody calls when it can
        # What it receives.
        self.inbox: deque[Frames] = deque()
        self.received = self.read = self.seen = 0
        self.asleep = False  # the reader found it empty, and wants a signal
        self.subscriptions: list[bytes] = []
        self.over = False  # the io thread found the connection broken
        self.lost = False  # and so did the socket
        self.closing = False  # the socket is closed, and the rest lingers
        self.gone = False  # there is nobody at this end any more
        self.silent = False  # and nobody told the other

    @property
    def full(self) -> bool:
        return 0 < self.socket.send_hwm <= self.written - self.reported


class Connector:
    """What ``zmq_connect`` leaves behind: it tries until the socket is closed."""

    __slots__ = ("end", "endpoint", "interval", "peer_id", "socket")

    def __init__(self, socket: SimSocket, endpoint: str, peer_id: bytes) -> None:
        self.socket = socket
        self.endpoint = endpoint
        self.peer_id = peer_id
        self.end: End | None = None
        self.interval = 0.0
        if peer_id:
            # Without IMMEDIATE the pipe is there before the connection is, and is kept when that breaks.
            self._keep(End(socket, self))
        self._again(0.0)

    def broken(self) -> None:
        """The connection is gone: begin anew."""
        if self.peer_id:
            self._keep(End(self.socket, self))
        else:
            self.end = None
        self.interval = 0.0
        self._wait()

    def made(self, end: End) -> None:
        """There is a connection again."""
        if self.peer_id:
            self._keep(end)
            end.over = False
            self.socket.network.resume(end)

    def _keep(self, end: End) -> None:
        """`end` goes on with the pipe of the one before it: what was not sent, and what was not read."""
        socket, before = self.socket, self.end
        end.peer_id = self.peer_id
        end.over = True  # nothing leaves before there is a connection
        if before is None:
            socket.ends.append(end)
            socket.active.append(end)
        else:
            end.out, end.inbox, end.asleep = before.out, before.inbox, before.asleep
            end.written = len(end.out)
            before.out, before.inbox = deque(), deque()
            socket.ends[socket.ends.index(before)] = end
            if before in socket.active:
                socket.active[socket.active.index(before)] = end
        socket.by_id[self.peer_id] = self.end = end

    def _wait(self) -> None:
        settings = self.socket.settings
        if self.interval:
            self.interval = min(2 * self.interval, max(self.interval, settings.reconnect_cap))
        else:
            self.interval = settings.reconnect_first * (0.5 + self.socket.network.chance.random())
        self._again(self.interval)

    def _again(self, delay: float, *args: Any) -> None:
        host = self.socket.host
        host.later(self.socket.network.clock.now() + delay, self._attempt, *args)

    def _attempt(self, lost_syns: int = 0, since: float | None = None) -> None:
        socket = self.socket
        if socket.closed:
            return
        network = socket.network
        now = network.clock.now()
        host = network.hosts.get(self.endpoint)
        if host is None:
            self._wait()
        elif network.is_cut(socket.host, host) or network.is_cut(host, socket.host) or host.name in network.dark:
            # TCP sends its SYN again after 1, 2, 4 ... seconds; CONNECT_TIMEOUT ends that.
            since = now if since is None else since
            delay, patience = 2.0**lost_syns, since + socket.settings.connect_timeout - now
            if delay < patience:
                self._again(delay, lost_syns + 1, since)
            else:
                socket.host.later(now + patience, self._wait)
        elif self.endpoint not in network.listeners:
            self._wait()
        elif host.paused_at is not None:
            # The kernel accepts for a stopped process, but its handshake does not go on.
            if since is not None and now - since > socket.settings.handshake_timeout:
                self._wait()
            else:
                self._again(0.2, 0, now if since is None else since)
        else:
            # TCP's and ZMTP's handshakes: some round trips.
            self._again_connect(4 * network.latency(socket.host, host))

    def _again_connect(self, delay: float) -> None:
        network = self.socket.network
        self.socket.host.later(network.clock.now() + delay, self._connected, network.listeners[self.endpoint])

    def _connected(self, listener: SimSocket) -> None:
        socket = self.socket
        network = socket.network
        if socket.closed:
            return
        if (
            listener.closed
            or listener.host.paused_at is not None
            or network.is_cut(socket.host, listener.host)
            or network.is_cut(listener.host, socket.host)
        ):
            self._attempt()
            return
        self.interval = 0.0
        end = network.join(self, listener)
        if not self.peer_id:
            self.end = end


class SimSocket:
    """One ZeroMQ socket, as far as our drivers use one."""

    __slots__ = (
        "_pending",
        "_processed_at",
        "_subscriptions",
        "active",
        "by_id",
        "closed",
        "connectors",
        "ends",
        "filters",
        "host",
        "immediate",
        "kind",
        "name",
        "network",
        "notify",
        "publishes",
        "receive_batch",
        "receive_hwm",
        "routed",
        "send_batch",
        "send_hwm",
        "settings",
        "signalled",
    )

    def __init__(self, network: Network, host: Host, kind: SocketKind, settings: SocketSettings, name: str) -> None:
        self.network = network
        self.host = host
        self.kind = kind
        self.routed = kind is SocketKind.ROUTER
        self.publishes = kind is SocketKind.PUB
        self.filters = kind is SocketKind.SUB
        self.settings = settings
        self.name = name
        # How many messages are taken until the other end is told, so that it knows of room (pipe.cpp, compute_lwm).
        self.send_hwm = settings.send_hwm
        self.send_batch = (settings.send_hwm + 1) // 2
        self.receive_hwm = settings.receive_hwm
        self.receive_batch = (settings.receive_hwm + 1) // 2
        self.immediate = kind in (SocketKind.DEALER, SocketKind.REQ)
        self.closed = False
        self.notify: Callable[[], None] | None = None
        self.signalled = False
        self.ends: list[End] = []
        self.by_id: dict[bytes, End] = {}
        self.active: deque[End] = deque()
        self.connectors: list[Connector] = []
        self._pending: list[tuple[int, End, int]] = []
        self._processed_at = 0.0
        self._subscriptions: list[bytes] = []

    def bind(self, endpoint: str) -> None:
        """Listen. Errors: ValueError if somebody does already."""
        listeners = self.network.listeners
        if endpoint in listeners:
            raise ValueError(f"{endpoint!r} is bound already")
        listeners[endpoint] = self
        self.network.hosts[endpoint] = self.host

    def connect(self, endpoint: str, peer_id: bytes = b"") -> None:
        """Begin to connect. `peer_id`: see :class:`~zpatterns.core.Open`."""
        self.connectors.append(Connector(self, endpoint, peer_id))

    def subscribe(self, prefix: bytes) -> None:
        """Tell every publisher, now and on each connection to come."""
        self._subscriptions.append(prefix)
        for end in self.ends:
            self.network.write(end, (prefix,))

    def choose(self, first: bytes) -> End | int:
        """The end that takes a message beginning with this frame, or the errno with which it is refused: EAGAIN, or
        EHOSTUNREACH."""
        if self.network.clock.time > self._processed_at + _THROTTLE:
            self.process()
        if self.routed:
            known = self.by_id.get(first)
            if known is None:
                return errno.EHOSTUNREACH
            if 0 < self.send_hwm <= known.written - known.reported:
                return errno.EAGAIN
            return errno.EHOSTUNREACH if known.lost else known
        ends, hwm = self.ends, self.send_hwm  # what `full` says is written out here, where every message passes
        for _ in range(len(ends)):
            end = ends.pop(0)
            ends.append(end)
            if not end.lost and not 0 < hwm <= end.written - end.reported:
                return end
        return errno.EAGAIN

    def publish(self, frames: Frames) -> None:
        """Send to every subscriber of the first frame's beginning that has room."""
        if self.network.clock.time > self._processed_at + _THROTTLE:
            self.process()
        key, hwm = frames[0], self.send_hwm
        for end in self.ends:
            if not end.lost and not 0 < hwm <= end.written - end.reported:
                for prefix in end.subscriptions:
                    if key.startswith(prefix):
                        self.network.write(end, frames)
                        break

    def receive(self) -> Frames | None:
        """The next message, fairly from all peers, or None. A ROUTER's has the peer's id in front."""
        active = self.active
        while active:
            end = active[0]
            if not end.inbox:
                active.popleft()
                end.asleep = True
                if end.lost:
                    self._drop(end)
                continue
            frames = end.inbox.popleft()
            end.read += 1
            batch = self.receive_batch
            if batch and end.read % batch == 0:
                end.seen = end.read
                if end.connected and end.peer.held:
                    self.network.release(end.peer)
            active.rotate(-1)
            if self.routed:
                return [end.peer_id, *frames]
            if not self.filters or any(frames[0].startswith(prefix) for prefix in self._subscriptions):
                return frames
        return None

    def look(self) -> bool:
        """Look at the commands, which takes the descriptor's signal away; whether a message waits."""
        self._processed_at = self.network.clock.time
        self.signalled = False
        if self._pending:
            self._obey()
        active = self.active
        while active:
            end = active[0]
            if end.inbox:
                return True
            active.popleft()
            end.asleep = True
            if end.lost:
                self._drop(end)
        return False

    def writable(self) -> bool:
        """Whether any peer has room."""
        return any(not end.lost and not end.full for end in self.ends)

    def process(self) -> None:
        """:meth:`look` without the question."""
        self._processed_at = self.network.clock.time
        self.signalled = False
        if self._pending:
            self._obey()

    def _obey(self) -> None:
        pending, self._pending = self._pending, []
        for command, end, value in pending:
            if command == READ:
                if end in self.ends:
                    self.active.append(end)
            elif command == WRITE:
                end.reported = value
            elif command == ATTACH:
                self.ends.append(end)
                self.active.append(end)
                if self.kind is SocketKind.ROUTER:
                    self.by_id[end.peer_id] = end
            elif end in self.ends:
                end.lost = True
                if self.immediate:
                    end.inbox.clear()
                if end.inbox and end not in self.active:
                    self.active.append(end)
                elif not end.inbox:
                    self._drop(end)

    def post(self, command: int, end: End, value: int = 0) -> None:
        """The io thread has something to tell."""
        if self.closed:
            return
        self._pending.append((command, end, value))
        if not self.signalled:
            self.signalled = True
            if self.notify is not None:
                self.notify()

    def close(self, linger: float) -> None:
        """Close; what was taken goes on being sent for `linger` seconds."""
        if self.closed:
            return
        for command, end, _ in self._pending:
            if command == ATTACH:
                self.ends.append(end)
        self.closed = True
        self._unlisten()
        for end in self.ends:
            if end.connected:
                self.network.close(end, linger)
        self._forget()

    def die(self) -> None:
        """The process is dead."""
        self.closed = True
        self._unlisten()
        self._forget()

    def _unlisten(self) -> None:
        listeners = self.network.listeners
        for endpoint in [endpoint for endpoint, socket in listeners.items() if socket is self]:
            del listeners[endpoint]

    def _forget(self) -> None:
        self.ends, self.by_id, self._pending = [], {}, []
        self.active.clear()

    def _drop(self, end: End) -> None:
        self.ends.remove(end)
        self.by_id.pop(end.peer_id, None)
        if end in self.active:
            self.active.remove(end)
