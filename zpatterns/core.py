"""The contract between protocol cores and the drivers that run them.

A core is a pure state machine: it has no socket, no clock, no randomness of its own and logs nothing.
A driver (:mod:`zpatterns.reactor`, :mod:`zpatterns.blocking`, or the simulator of
:mod:`zpatterns.testing`) feeds it messages and the time, and carries out what it asks for.

One turn of a driver, in this order: :meth:`Core.receive_many` or :meth:`Core.handle_timer`; every
command of :meth:`Core.commands`; every message of the ports in :meth:`Core.ports_to_send`;
:meth:`Core.send_failed` for what could not be handed over, and again from the commands on until nothing is
left; the timer; and last of all the events.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, TypeAlias

Frames: TypeAlias = list[bytes]
"""One multipart message. On a ROUTER port frame 0 is the peer's routing id, in both directions."""

PortId: TypeAlias = str | int
"""Names one socket of a core: a role (``"broker"``), or a number for one of many connections."""


class SocketKind(enum.Enum):
    """The socket types that the patterns use, by ZeroMQ's own names."""

    ROUTER = "ROUTER"
    DEALER = "DEALER"
    REQ = "REQ"
    REP = "REP"
    PUB = "PUB"
    SUB = "SUB"


class SendFailure(enum.Enum):
    """Why a message could not be handed to ZeroMQ."""

    UNREACHABLE = "unreachable"
    """The peer is gone, or the port is closed."""
    OVERFLOW = "overflow"
    """The peer takes nothing and its outbox is full."""


class Rng(Protocol):
    """What a core may draw randomness from: the two calls of :class:`random.Random` it needs."""

    def random(self) -> float: ...

    def getrandbits(self, k: int, /) -> int: ...


# Commands are named tuples, not dataclasses: one is made for each request, and a tuple costs a third.


class Open(NamedTuple):
    """Open a socket for `port` and connect it to `endpoint`.

    A ROUTER is told by which `peer_id` it knows its one peer, whatever that calls itself (ZMQ_CONNECT_ROUTING_ID). It
    takes messages for it at once, keeps them until the connection is made, and goes on when that is made anew: what
    must not leave any more is dropped with the socket.
    """

    port: PortId
    kind: SocketKind
    endpoint: str
    peer_id: bytes = b""


class Close(NamedTuple):
    """Close the socket of `port`. With a `linger`, in seconds, what was to be sent before still goes out."""

    port: PortId
    linger: float = 0.0


class Discard(NamedTuple):
    """Give up what ZeroMQ has not taken from `port` yet; each message is reported by :meth:`Core.send_failed`."""

    port: PortId


class Subscribe(NamedTuple):
    """Subscribe the SUB socket of `port` to a prefix."""

    port: PortId
    prefix: bytes


class Run(NamedTuple):
    """Start the handler on a request. The front end answers with the core's ``handler_*`` calls."""

    run: int
    client: bytes
    frames: Frames


class Cancel(NamedTuple):
    """Nobody waits for run `run` any more: stop it if that can be done."""

    run: int


class Deliver(NamedTuple):
    """Hand `frames` to the caller of `call`; with `last` the call is over."""

    call: int
    frames: Frames
    last: bool


class Fail(NamedTuple):
    """The call ends with `error`."""

    call: int
    error: Exception


class Changed(NamedTuple):
    """A shared map has changed: hand `changes`, in order, to whoever watches."""

    changes: list[Any]


class Errand(NamedTuple):
    """Have the front end do what only the application can: `what` names it, and `number` goes with its outcome."""

    what: str
    number: int


class Save(NamedTuple):
    """Write `changes` to disk, all or none. The front end answers with the core's ``saved`` or ``save_failed``."""

    changes: list[Any]


Command: TypeAlias = Open | Close | Discard | Subscribe | Run | Cancel | Deliver | Fail | Changed | Errand | Save


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, told after the fact. An event never asks for anything."""


@dataclass(frozen=True, slots=True)
class MessagesDropped(Event):
    """`count` messages of peers were dropped, for the one `reason`."""

    reason: str
    count: int


class Drops:
    """A core's count of the messages it dropped, by reason."""

    __slots__ = ("_fresh", "totals")

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self._fresh: dict[str, int] = {}

    def add(self, reason: str) -> None:
        """One more."""
        self.totals[reason] = self.totals.get(reason, 0) + 1
        self._fresh[reason] = self._fresh.get(reason, 0) + 1

    def tell(self, events: list[Event]) -> None:
        """Append an event for each reason that was added since the last call."""
        if self._fresh:
            events += [MessagesDropped(reason, count) for reason, count in self._fresh.items()]
            self._fresh.clear()


class Core(Protocol):
    """A protocol as a pure state machine; see the module's text for the order of a turn."""

    PORTS: ClassVar[tuple[str, ...]]
    """The sockets it has by name. Numbered ports come and go with Open and Close."""

    def receive_many(self, batch: Iterable[Frames], now: float, port: PortId) -> None:
        """Take in messages. Never raises, whatever a peer has sent. The lists become the core's."""

    def ports_to_send(self) -> Collection[PortId]:
        """The ports for which :meth:`messages_to_send` has something now."""

    def messages_to_send(self, port: PortId) -> list[Frames]:
        """Take what is to be sent on `port`, in order."""

    def wants_to_read(self, port: PortId) -> bool:
        """False pauses reading from `port`, so that ZeroMQ's own back-pressure works."""

    def commands(self) -> list[Command]:
        """Take the socket and handler work that is to be done before anything is sent."""

    def next_timer(self) -> float | None:
        """When :meth:`handle_timer` is due, in absolute monotonic seconds."""

    def handle_timer(self, now: float) -> None:
        """Do what is due at `now`. A call too early or too late does no harm."""

    def send_failed(self, port: PortId, frames: Frames, reason: SendFailure, now: float) -> None:
        """A message of :meth:`messages_to_send` was not handed over. There is no receipt for the others:
        what libzmq took and lost is never reported."""

    def events(self) -> list[Event]:
        """Take what happened since the last call."""

    def statistics(self) -> Any:
        """A frozen snapshot of the counters."""

    def check_invariants(self) -> None:
        """Assert what must always be true. For tests; slow."""


class ServiceCore(Core, Protocol):
    """The core of a server or worker, which can be brought to an orderly end."""

    def drain(self, now: float) -> None:
        """Begin nothing more; finish what was begun."""

    @property
    def drained(self) -> bool:
        """Whether nothing that was begun is left."""

    def shut_down(self, now: float) -> None:
        """Say goodbye to the peers. Nothing follows but closing the sockets."""
