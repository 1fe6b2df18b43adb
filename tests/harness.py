"""Cores under test: each step is given literal times and is followed by the core's own check of its invariants.

Nothing here opens a socket. Frames in the tests are literal bytes, as the RFCs print them, never the constants of
:mod:`zpatterns.mdp.wire`: a wrong constant must fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from zpatterns.core import Close, Command, Core, Event, Frames, Open, PortId, SendFailure, SocketKind
from zpatterns.mdp.broker_core import BrokerCore
from zpatterns.mdp.broker_state import BrokerOptions
from zpatterns.mdp.client_core import ClientCore, ClientOptions
from zpatterns.mdp.worker_core import WorkerCore
from zpatterns.timing import Liveness

C = TypeVar("C", bound=Core)
T = TypeVar("T")

START = 1000.0
"""The monotonic time at which every harness begins."""


class FixedRng:
    """Draws the same share of every range, so that a back-off has a literal length."""

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def random(self) -> float:
        return self.share

    def getrandbits(self, k: int, /) -> int:
        return (1 << k) - 1


class Harness(Generic[C]):
    """One core, the time, and all that the core has asked for since the last :meth:`sent` or :meth:`asked`."""

    def __init__(self, core: C, port: PortId) -> None:
        self.core = core
        self.port = port
        self.now = START
        self._sent: list[Frames] = []
        self._asked: list[Command] = []

    def step(self, method: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """One turn: call `method`, then take commands and messages in a driver's order."""
        result = method(*args, **kwargs)
        self.core.check_invariants()
        self._collect()
        self.core.check_invariants()
        return result

    def give(self, *messages: Frames, at: float | None = None, port: PortId | None = None) -> list[Frames]:
        """One batch of messages for the core; what it sends."""
        if at is not None:
            self.now = at
        batch = [list(frames) for frames in messages]
        self.step(self.core.receive_many, batch, self.now, self.port if port is None else port)
        return self.sent()

    def advance(self, seconds: float, late: float = 0.0) -> list[Frames]:
        """Let time pass, with every timer on the way at its very moment, or `late`; what the core sends."""
        return self.until(self.now + seconds, late)

    def until(self, when: float, late: float = 0.0) -> list[Frames]:
        """:meth:`advance` to an absolute time."""
        for _ in range(100_000):
            timer = self.core.next_timer()
            if timer is None or timer + late > when:
                self.now = when
                return self.sent()
            self.now = max(self.now, timer + late)
            self.step(self.core.handle_timer, self.now)
        raise AssertionError("the core's timer spins")

    def stall(self, seconds: float) -> list[Frames]:
        """Let time pass with nothing done on the way, and then the timer, late."""
        self.now += seconds
        self.step(self.core.handle_timer, self.now)
        return self.sent()

    def fail(self, frames: Frames, reason: SendFailure, port: PortId | None = None) -> list[Frames]:
        """Report that `frames` were not handed over; what the core sends then."""
        self.step(self.core.send_failed, self.port if port is None else port, frames, reason, self.now)
        return self.sent()

    def sent(self) -> list[Frames]:
        """Take what was sent."""
        sent, self._sent = self._sent, []
        return sent

    def asked(self, kind: type[T] | None = None) -> list[Any]:
        """Take the commands, or those of one kind; the others are then forgotten."""
        asked, self._asked = self._asked, []
        return asked if kind is None else [command for command in asked if isinstance(command, kind)]

    def events(self, kind: type[T] | None = None) -> list[Any]:
        """Take the events, or those of one kind; the others are then forgotten."""
        events: list[Event] = self.core.events()
        return events if kind is None else [event for event in events if isinstance(event, kind)]

    @property
    def statistics(self) -> Any:
        return self.core.statistics()

    def _collect(self) -> None:
        core = self.core
        for command in core.commands():
            self._asked.append(command)
            if isinstance(command, Close) and command.linger > 0:
                self._sent += core.messages_to_send(command.port)
        for port in tuple(core.ports_to_send()):
            self._sent += core.messages_to_send(port)


class BrokerHarness(Harness[BrokerCore]):
    """A broker with heartbeats of 1 s and a lease of 3 s, unless `options` say otherwise."""

    def __init__(self, *, interval: float = 1.0, liveness: int = 3, **options: Any) -> None:
        super().__init__(BrokerCore(BrokerOptions(liveness=Liveness(interval, liveness), **options)), "broker")

    def ready(self, worker: bytes, service: bytes = b"echo", version: str = "0.1") -> list[Frames]:
        """A worker registers; what is sent (the first request that waits, say)."""
        return self.give(ready(worker, service, version))

    def mmi(self, name: bytes, *body: bytes) -> list[bytes]:
        """The body of the reply to a management request."""
        sent = self.give(request(b"mmi-client", name, *(body or (b"",))))
        assert len(sent) == 1
        assert sent[0][:4] == [b"mmi-client", b"", b"MDPC01", name]
        return sent[0][4:]


class WorkerHarness(Harness[WorkerCore]):
    """A worker of ``echo`` with heartbeats of 1 s and a lease of 3 s, started unless told otherwise.

    `opened` and `closed` count its sockets, and every turn asserts that it never has two.
    """

    def __init__(
        self,
        version: str = "0.1",
        *,
        endpoints: tuple[str, ...] = ("tcp://127.0.0.1:5555",),
        service: bytes = b"echo",
        interval: float = 1.0,
        liveness: int = 3,
        share: float = 0.5,
        start: bool = True,
        **options: Any,
    ) -> None:
        self.version = version
        self.opened: list[Open] = []
        self.open = False
        core = WorkerCore(
            endpoints, service, version=version, liveness=Liveness(interval, liveness), rng=FixedRng(share), **options
        )
        super().__init__(core, "broker")
        if start:
            self.step(core.start, self.now)

    def _collect(self) -> None:
        before = len(self._asked)
        super()._collect()
        for command in self._asked[before:]:
            if isinstance(command, Open):
                assert not self.open, "a second socket"
                assert command.kind is SocketKind.DEALER
                self.opened.append(command)
                self.open = True
            elif isinstance(command, Close):
                self.open = False

    def keep_alive(self, seconds: float, every: float = 1.0) -> list[Frames]:
        """Let time pass while the broker heartbeats; what the worker sends."""
        result: list[Frames] = []
        end = self.now + seconds
        while self.now < end:
            result += self.advance(min(every, end - self.now))
            result += self.give(heartbeat(version=self.version))
        return result


class ClientHarness(Harness[ClientCore]):
    """A client with a timeout of 8 s and 3 retries: four windows of 2 s. Ports are told from what it opens."""

    def __init__(
        self, *endpoints: str, share: float = 0.5, timeout: float = 8.0, retries: int = 3, **options: Any
    ) -> None:
        core = ClientCore(
            endpoints or ("tcp://127.0.0.1:5555",),
            ClientOptions(timeout=timeout, retries=retries, **options),
            FixedRng(share),
        )
        super().__init__(core, 0)
        self.out: list[tuple[int, Frames]] = []

    def call(self, number: int, service: bytes = b"echo", *body: bytes, **options: Any) -> int:
        """Start a call; the port its first request went out on (0 if it waits)."""
        self.out.clear()
        self.step(self.core.start_call, number, service, list(body or (b"hello",)), self.now, **options)
        return self.out[-1][0] if self.out else 0

    def _collect(self) -> None:
        core = self.core
        self._asked += core.commands()
        for port in tuple(core.ports_to_send()):
            assert isinstance(port, int)
            messages = core.messages_to_send(port)
            self._sent += messages
            self.out += [(port, frames) for frames in messages]


# Frames as a ROUTER sees them, the routing id in front; from the tables of 7/MDP and 18/MDP.


def request(client: bytes, service: bytes = b"echo", *body: bytes, version: str = "0.1") -> Frames:
    """A client's REQUEST, its body one empty frame unless given."""
    head = [b"", b"MDPC01"] if version == "0.1" else [b"MDPC02", b"\x01"]
    return [client, *head, service, *(body or (b"",))]


def ready(worker: bytes, service: bytes = b"echo", version: str = "0.1") -> Frames:
    """A worker's READY."""
    return [worker, *([b"", b"MDPW01", b"\x01"] if version == "0.1" else [b"MDPW02", b"\x01"]), service]


def reply(worker: bytes, client: bytes, *body: bytes, version: str = "0.1") -> Frames:
    """A worker's REPLY, or FINAL in 0.2."""
    head = [b"", b"MDPW01", b"\x03"] if version == "0.1" else [b"MDPW02", b"\x04"]
    return [worker, *head, client, b"", *(body or (b"",))]


def partial(worker: bytes, client: bytes, *body: bytes) -> Frames:
    """A worker's PARTIAL."""
    return [worker, b"MDPW02", b"\x03", client, b"", *(body or (b"",))]


def heartbeat(*worker: bytes, version: str = "0.1") -> Frames:
    """A HEARTBEAT: of `worker`, or of the broker as a worker's DEALER receives it."""
    return [*worker, *([b"", b"MDPW01", b"\x04"] if version == "0.1" else [b"MDPW02", b"\x05"])]


def disconnect(*worker: bytes, version: str = "0.1") -> Frames:
    """A DISCONNECT: of `worker`, or of the broker as a worker's DEALER receives it."""
    return [*worker, *([b"", b"MDPW01", b"\x05"] if version == "0.1" else [b"MDPW02", b"\x06"])]


# What the broker sends: the routing id of the peer in front.


def work(worker: bytes, client: bytes, *body: bytes, version: str = "0.1") -> Frames:
    """The broker's REQUEST to a worker."""
    head = [b"", b"MDPW01", b"\x02"] if version == "0.1" else [b"MDPW02", b"\x02"]
    return [worker, *head, client, b"", *(body or (b"",))]


def answer(client: bytes, service: bytes = b"echo", *body: bytes, version: str = "0.1") -> Frames:
    """The broker's REPLY to a client, or FINAL in 0.2."""
    head = [b"", b"MDPC01"] if version == "0.1" else [b"MDPC02", b"\x03"]
    return [client, *head, service, *(body or (b"",))]


def part(client: bytes, service: bytes = b"echo", *body: bytes) -> Frames:
    """The broker's PARTIAL to a client."""
    return [client, b"MDPC02", b"\x02", service, *(body or (b"",))]


# What a peer of a broker would find in one message of ours.


def to(peer: bytes, sent: list[Frames]) -> list[Frames]:
    """The messages of `sent` that go to `peer`, without its routing id."""
    return [frames[1:] for frames in sent if frames[0] == peer]


def numbers(prefix: bytes, count: int) -> Iterator[bytes]:
    """`count` distinct names."""
    return (b"%s%d" % (prefix, number) for number in range(count))
