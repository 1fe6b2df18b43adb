"""The processes of the Pirate worlds: queues and workers with their real cores, and callers without any of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zpatterns.core import Command, Frames, SocketKind
from zpatterns.errors import RemoteError, RequestTimeout
from zpatterns.pirate.paranoid_queue_core import ParanoidQueueCore
from zpatterns.pirate.queue_core import BACK, FRONT, QueueCore
from zpatterns.pirate.queue_state import QueueOptions
from zpatterns.pirate.simple_queue_core import SimpleQueueCore
from zpatterns.pirate.wire import PARANOID, SIMPLE
from zpatterns.pirate.worker_core import WorkerCore
from zpatterns.sockets import SocketSettings
from zpatterns.testing.driving import SimDriver
from zpatterns.testing.ledger import Call
from zpatterns.testing.serving import ServingNode, SimLane, leave
from zpatterns.testing.simsocket import SimSocket
from zpatterns.testing.world import Node
from zpatterns.timing import Liveness

if TYPE_CHECKING:
    from zpatterns.testing.pirate import PirateWorld

_ERROR = b"\0ZPATTERNS-ERROR\0"


class QueueNode(Node):
    """A queue's process."""

    def __init__(self, world: PirateWorld, name: str, options: QueueOptions, settings: SocketSettings) -> None:
        super().__init__(world, name)
        self.world: PirateWorld = world
        self.frontend = f"sim://{name}-front"
        self.backend = f"sim://{name}-back"
        self.options = options
        self.is_leaving = False
        self._settings = settings

    def boot(self) -> None:
        self.is_leaving = False
        kind: type[QueueCore] = ParanoidQueueCore if self.world.is_paranoid else SimpleQueueCore
        self.core = kind(self.options)
        self.driver = SimDriver(self, self.core, settings=self._settings, rng=self.chance, on_command=self._no_command)
        self.driver.bind(FRONT, SocketKind.ROUTER, self.frontend)
        self.driver.bind(BACK, SocketKind.ROUTER, self.backend)

    def leave(self, drain: float) -> None:
        """SIGTERM."""
        self.is_leaving = True
        leave(self, [self.driver], drain)

    def _no_command(self, command: Command) -> None:
        raise AssertionError(f"a queue core asked for {command!r}")


class WorkerNode(ServingNode):
    """A worker's process, with one core a lane."""

    def __init__(
        self,
        world: PirateWorld,
        name: str,
        *,
        endpoints: list[str],
        lanes: int,
        liveness: Liveness,
        handler_timeout: float | None,
        settings: SocketSettings,
    ) -> None:
        super().__init__(world, name)
        self.world: PirateWorld = world
        self.service = world.service
        self._endpoints = endpoints
        self._lane_count = lanes
        self._liveness = liveness
        self._handler_timeout = handler_timeout
        self._settings = settings
        self.is_async = self.chance.happens(0.5)
        self.lanes: list[SimLane] = []

    def boot(self) -> None:
        self.lanes = []
        for number in range(self._lane_count):
            core = WorkerCore(
                self._endpoints,
                dialect=PARANOID if self.world.is_paranoid else SIMPLE,
                liveness=self._liveness,
                rng=self.chance,
                handler_timeout=self._handler_timeout,
                held_bytes_max=100_000,
            )
            lane = SimLane(self, number, core, self._settings)
            self.lanes.append(lane)
            lane.driver.call(core.start, lane.driver.now())

    def killed(self) -> None:
        self.lanes = []

    def leave(self, drain: float) -> None:
        """SIGTERM."""
        leave(self, [lane.driver for lane in self.lanes], drain)


class CallerNode(Node):
    """A process that calls as REQ clients do: a new socket for each attempt, or one for all.

    The second is what a queue sees of many clients behind a proxy, a hop more in each envelope: there, a reply that
    comes twice is seen.
    """

    def __init__(
        self,
        world: PirateWorld,
        name: str,
        *,
        endpoints: list[str],
        timeout: float,
        attempts: int,
        is_proxied: bool,
        settings: SocketSettings,
        idle: bool = False,
    ) -> None:
        super().__init__(world, name)
        self.world: PirateWorld = world
        self._endpoints = endpoints
        self._timeout = timeout
        self._attempts = attempts
        self._is_proxied = is_proxied
        self._settings = settings
        self._idle = idle
        self._pace = world.lease * self.chance.pick((0.05, 0.3, 1.0))
        self.connections: list[Connection] = []
        self._proxies: list[Connection] = []

    def boot(self) -> None:
        self.connections = []
        self._proxies = [Connection(self, endpoint) for endpoint in self._endpoints] if self._is_proxied else []
        if not self._idle:
            self._later_calls()

    def killed(self) -> None:
        self.world.ledger.abandon(self)
        self.connections = []

    def ask(self) -> Call:
        """Begin a call."""
        world = self.world
        call = world.ledger.begin(self, world.service, self._timeout)
        call.body += [self.chance.pick((b"", b"more", b"\x01", b"\x02")) for _ in range(self.chance.below(3))]
        Attempts(self, call, self._attempts).next()
        self.later(call.deadline, self._time_out, call)
        return call

    def send(self, call: Call, attempt: int, attempts: Attempts) -> Connection:
        """Send an attempt of a call on its way; the connection that it takes."""
        if self._is_proxied:
            connection = self._proxies[(call.number + attempt) % len(self._proxies)]
            connection.send([b"%d.%d" % (call.number, attempt), b"", *call.body], attempts)
        else:
            connection = Connection(self, self._endpoints[(call.number + attempt) % len(self._endpoints)])
            self.connections.append(connection)
            connection.send([b"", *call.body], attempts)
        return connection

    def give_up(self, connection: Connection) -> None:
        """Nothing that may still come over this connection of one attempt is wanted."""
        if connection in self.connections:
            self.connections.remove(connection)
            connection.close()

    def _time_out(self, call: Call) -> None:
        if not call.closed:
            self.world.ledger.error(call, RequestTimeout("no reply"))

    def _later_calls(self) -> None:
        pause = self._pace * 2 * self.chance.random()
        self.later(self.world.clock.now() + pause, self._make_calls)

    def _make_calls(self) -> None:
        world, chance = self.world, self.chance
        if world.phase != "faults" or world.calls_left <= 0:
            return
        count = 5 + chance.below(30) if "burst" in world.active_behaviours and chance.happens(0.15) else 1
        for _ in range(count):
            world.calls_left -= 1
            call = self.ask()
            if "cancel" in world.active_behaviours and chance.happens(0.2):
                self.later(world.clock.now() + self._timeout * chance.random(), self._cancel, call)
        self._later_calls()

    def _cancel(self, call: Call) -> None:
        if not call.closed:
            self.world.ledger.cancel(call)


class Attempts:
    """The attempts of one call, one after another."""

    def __init__(self, node: CallerNode, call: Call, count: int) -> None:
        self.node = node
        self.call = call
        self._left = count
        self._made = 0
        self._connection: Connection | None = None
        self._window = (call.deadline - call.started) / count

    def next(self) -> None:
        """Give up what there is, and send again."""
        if self._connection is not None:
            self.node.give_up(self._connection)
            self._connection = None
        if self.call.closed or not self._left:
            return
        self._left -= 1
        self._made += 1
        self._connection = self.node.send(self.call, self._made, self)
        self.node.later(self.node.world.clock.now() + self._window, self.next)

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for an answer."""
        return self.call.closed

    def answered(self, body: Frames) -> None:
        """A reply has come for an attempt of this call."""
        if self.call.closed:
            return
        if len(body) == 3 and body[0] == _ERROR:
            error = RemoteError(body[1].decode(), body[2].decode())
            if error.code in ("429", "503") and self._left:
                return  # the next attempt may do better
            self.node.world.ledger.error(self.call, error)
        else:
            self.node.world.ledger.reply(self.call, body)


class Connection:
    """A DEALER that sends as a REQ does, or as the back of a proxy."""

    def __init__(self, node: CallerNode, endpoint: str) -> None:
        self.node = node
        self._name = f"{node.name}:{node.world.number()}"
        self.socket = SimSocket(node.world.network, node, SocketKind.DEALER, node._settings, self._name)
        self.socket.notify = self._notify
        self.socket.connect(endpoint)
        self._unsent: list[tuple[Frames, Attempts]] = []
        self._open: dict[bytes, Attempts] = {}

    def send(self, frames: Frames, attempts: Attempts) -> None:
        """Send as soon as there is a connection that takes it."""
        self._unsent.append((frames, attempts))
        self._ready()

    def close(self) -> None:
        self.socket.close(0)

    def _notify(self) -> None:
        self.node.later(self.node.world.clock.now() + self.node.lag, self._ready)

    def _ready(self) -> None:
        socket, world = self.socket, self.node.world
        if socket.closed:
            return
        socket.process()
        while (frames := socket.receive()) is not None:
            world.note(self._name, "read", frames)
            self._read(frames)
            if socket.closed:
                return
        while self._unsent and not socket.closed:
            frames, attempts = self._unsent[0]
            if not attempts.is_over:
                end = socket.choose(frames[0])
                if isinstance(end, int):
                    return
                world.note(self._name, "sent", frames)
                self._open[frames[0]] = attempts
                world.network.write(end, list(frames))
            del self._unsent[0]

    def _read(self, frames: Frames) -> None:
        depth = frames.index(b"") + 1 if b"" in frames else 0
        attempts = self._open.pop(frames[0], None)
        if attempts is None or len(frames) <= depth or depth != (2 if frames[0] else 1):
            self.node.world.violate("R1", f"{self._name} got {frames[:4]}, which answers nothing that is open there")
            return
        attempts.answered(frames[depth:])


class HostileNode(Node):
    """Sends broken, unexpected and forged messages to both sides of the queues; from some connections it never reads.

    It does not play a worker that answers its own request wrongly: no queue can tell a handler that lies.
    """

    def __init__(self, world: PirateWorld, name: str, queues: list[QueueNode], settings: SocketSettings) -> None:
        super().__init__(world, name)
        self.world: PirateWorld = world
        self._queues = queues
        self._settings = settings
        self._sockets: list[tuple[SimSocket, bool, str]] = []
        self._requests_left = 20

    def boot(self) -> None:
        self._sockets = []
        for number in range(1 + self.chance.below(4)):
            socket = SimSocket(self.world.network, self, SocketKind.DEALER, self._settings, f"{self.name}:{number}")
            queue = self.chance.pick(self._queues)
            part = self.chance.pick(("client", "forger", "idler"))
            socket.connect(queue.frontend if part == "client" else queue.backend)
            self._sockets.append((socket, self.chance.happens(0.7), part))
        self.later(self.world.clock.now(), self._attack)

    def _attack(self) -> None:
        chance, world = self.chance, self.world
        if world.phase != "faults":
            for socket, _, _ in self._sockets:
                socket.close(0)
            return
        for socket, reads, part in self._sockets:
            socket.process()
            while reads and socket.receive() is not None:
                pass
            for _ in range(chance.pick((1, 1, 3, 30))):
                self._send(socket, getattr(self, f"_{part}")())
        self.later(world.clock.now() + world.lease * 0.2 * chance.random(), self._attack)

    def _send(self, socket: SimSocket, frames: Frames) -> None:
        end = socket.choose(frames[0])
        if not isinstance(end, int):
            self.world.note(socket.name, "sent", frames)
            self.world.network.write(end, list(frames))

    def _client(self) -> Frames:
        """To the front: a request that nobody waits for the answer of, or none at all."""
        if self._requests_left and self.chance.happens(0.3):
            self._requests_left -= 1
            call = self.world.ledger.begin(self, self.world.service, 1.0)
            self.world.ledger.cancel(call)
            return [b"h%d" % call.number, *[b"hop"] * self.chance.below(2), b"", *call.body]
        return self.chance.pick(([b""], [b"x"], [b"\x01"], [b"a", b"b", b"c"], [b"x", b""]))

    def _forger(self) -> Frames:
        """To the back: replies to others' requests, heartbeats without READY, garbage."""
        chance = self.chance
        head = [] if self.world.is_paranoid else [b""]
        # A Simple queue takes any reply for READY, and would give it work, to which the next one would be a lie.
        victim = self._victim() if self.world.is_paranoid else b"nobody"
        kind = chance.below(6)
        if kind < 2:
            return [*head, victim, b"", b"a:1:1:0"]
        if kind == 2:
            return [*head, b"\x02"]
        if kind == 3:
            return [*head, chance.pick((b"\x01\x01", b"\x02x", b"\xff"))]
        if kind == 4:
            return [b"x" * chance.below(3), b"y", b"z"]
        return [b"\xfe" + chance.bytes(chance.below(4))]  # but never READY

    def _idler(self) -> Frames:
        """To the back: a worker that takes requests and never answers them; now and then it begins anew."""
        head = [] if self.world.is_paranoid else [b""]
        return [*head, *self.chance.pick(([b"\x01"], [b"\x02"], [b"nobody", b"", b"a:1:1:0"]))]

    def _victim(self) -> bytes:
        ids = [end.peer_id for end in self.world.network.ends if end.peer_id]
        return self.chance.pick(ids) if ids else b"nobody"
