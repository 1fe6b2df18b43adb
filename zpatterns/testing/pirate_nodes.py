"""The processes of the Pirate worlds: queues and workers with their real cores, and callers without any of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zpatterns.core import Frames, SocketKind
from zpatterns.errors import RemoteError, RequestTimeout
from zpatterns.pirate.paranoid_queue_core import ParanoidQueueCore
from zpatterns.pirate.queue_core import BACK, FRONT, QueueCore
from zpatterns.pirate.queue_state import QueueOptions
from zpatterns.pirate.simple_queue_core import SimpleQueueCore
from zpatterns.pirate.wire import PARANOID, SIMPLE
from zpatterns.pirate.worker_core import WorkerCore
from zpatterns.sockets import SocketSettings
from zpatterns.testing.callers import CallingNode
from zpatterns.testing.hostile import HostileNode
from zpatterns.testing.ledger import Call
from zpatterns.testing.serving import HubNode, WorkerNode
from zpatterns.testing.simsocket import SimSocket
from zpatterns.timing import Liveness

if TYPE_CHECKING:
    from zpatterns.testing.pirate import PirateWorld

_ERROR = b"\0ZPATTERNS-ERROR\0"


class QueueNode(HubNode):
    """A queue's process."""

    core: QueueCore
    world: PirateWorld

    def __init__(self, world: PirateWorld, name: str, options: QueueOptions, settings: SocketSettings) -> None:
        self.frontend = f"sim://{name}-front"
        self.backend = f"sim://{name}-back"
        self.options = options
        self.is_leaving = False
        super().__init__(world, name, {FRONT: self.frontend, BACK: self.backend}, settings)

    def make_core(self) -> QueueCore:
        return ParanoidQueueCore(self.options) if self.world.is_paranoid else SimpleQueueCore(self.options)

    def boot(self) -> None:
        self.is_leaving = False
        super().boot()

    def leave(self, drain: float) -> None:
        self.is_leaving = True
        super().leave(drain)


class PirateWorkerNode(WorkerNode):
    """A worker's process."""

    world: PirateWorld

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
        super().__init__(world, name, world.service, lane_count=lanes, settings=settings)
        self._endpoints = endpoints
        self._liveness = liveness
        self._handler_timeout = handler_timeout

    def make_core(self) -> WorkerCore:
        return WorkerCore(
            self._endpoints,
            dialect=PARANOID if self.world.is_paranoid else SIMPLE,
            liveness=self._liveness,
            rng=self.chance,
            handler_timeout=self._handler_timeout,
            held_bytes_max=100_000,
        )


class ReqNode(CallingNode):
    """A process that calls as REQ clients do: a new socket for each attempt, or one for all.

    The second is what a queue sees of many clients behind a proxy, a hop more in each envelope: there, a reply that
    comes twice is seen.
    """

    world: PirateWorld
    burst = (0.15, 30)

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
        super().__init__(world, name, timeout=timeout, idle=idle)
        self.settings = settings
        self._endpoints = endpoints
        self._attempts = attempts
        self._is_proxied = is_proxied
        self.connections: list[Connection] = []
        self._proxies: list[Connection] = []

    def boot(self) -> None:
        self.connections = []
        self._proxies = [Connection(self, endpoint) for endpoint in self._endpoints] if self._is_proxied else []
        super().boot()

    def killed(self) -> None:
        super().killed()
        self.connections = []

    def ask(self) -> Call:
        """Begin a call."""
        world = self.world
        call = world.ledger.begin(self, world.service, self.timeout)
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

    def drop(self, connection: Connection) -> None:
        """Nothing that may still come over this connection of one attempt is wanted."""
        if connection in self.connections:
            self.connections.remove(connection)
            connection.close()

    def _time_out(self, call: Call) -> None:
        if not call.closed:
            self.world.ledger.error(call, RequestTimeout("no reply"))

    def make_call(self) -> None:
        self.maybe_give_up(self.ask())

    def give_up(self, call: Call) -> None:
        if not call.closed:
            self.world.ledger.cancel(call)


class Attempts:
    """The attempts of one call, one after another."""

    def __init__(self, node: ReqNode, call: Call, count: int) -> None:
        self.node = node
        self.call = call
        self._left = count
        self._made = 0
        self._connection: Connection | None = None
        self._window = (call.deadline - call.started) / count

    def next(self) -> None:
        """Give up what there is, and send again."""
        if self._connection is not None:
            self.node.drop(self._connection)
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

    def __init__(self, node: ReqNode, endpoint: str) -> None:
        self.node = node
        self._name = f"{node.name}:{node.world.number()}"
        self.socket = SimSocket(node.world.network, node, SocketKind.DEALER, node.settings, self._name)
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


class HostilePirate(HostileNode):
    """Sends broken, unexpected and forged messages to both sides of the queues.

    It does not play a worker that answers its own request wrongly: no queue can tell a handler that lies.
    """

    world: PirateWorld
    connections_max = 4
    round_max = 0.2

    def __init__(self, world: PirateWorld, name: str, queues: list[QueueNode], settings: SocketSettings) -> None:
        super().__init__(world, name, [], settings)
        self._queues = queues
        self._parts: list[str] = []
        self._requests_left = 20

    def boot(self) -> None:
        self._parts = []
        super().boot()

    def target(self) -> str:
        queue = self.chance.pick(self._queues)
        part = self.chance.pick(("client", "forger", "idler"))
        self._parts.append(part)
        return queue.frontend if part == "client" else queue.backend

    def message_on(self, number: int) -> Frames:
        says = {"client": self._client, "forger": self._forger, "idler": self._idler}
        return says[self._parts[number]]()

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
