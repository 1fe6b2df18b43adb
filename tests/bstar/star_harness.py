"""Binary Star's cores under test; frames are literal, as the Guide's peers and ours have them on the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.harness import FixedRng, Harness
from zpatterns.bstar.bstar_core import StarCore
from zpatterns.bstar.bstar_state import StarOptions
from zpatterns.bstar.client_core import ClientOptions, StarClientCore
from zpatterns.bstar.pair_core import PairCore
from zpatterns.core import Errand, Frames, Open
from zpatterns.mdp.broker_state import BrokerOptions
from zpatterns.mdp.paired_broker_core import PairedBrokerCore
from zpatterns.paired_core import Stateless
from zpatterns.pirate.paired_lazy_server_core import PairedLazyServerCore
from zpatterns.pirate.paired_queue_core import PairedParanoidQueueCore, PairedSimpleQueueCore
from zpatterns.pirate.queue_state import QueueOptions
from zpatterns.server_core import ServerOptions
from zpatterns.timing import Liveness

REMOTE = "tcp://127.0.0.1:5004"
PRIMARY, BACKUP, ACTIVE, PASSIVE = b"1", b"2", b"3", b"4"


class _Recorder(Stateless):
    """An application that says when it was told what."""

    def __init__(self) -> None:
        self.serves = False
        self.calls: list[tuple[str, float]] = []

    def take_over(self, now: float) -> None:
        self.serves = True
        self.calls.append(("take over", now))

    def stand_by(self, now: float) -> None:
        self.serves = False
        self.calls.append(("stand by", now))

    def peer_told(self, peer: object, now: float) -> None:
        """Nothing to it."""


class Star(Harness[StarCore]):
    """A node with heartbeats of 1 s and a lease of 2 s, unless told otherwise; started."""

    def __init__(self, role: str = "primary", *, interval: float = 1.0, liveness: int = 2, **options: Any) -> None:
        self.application = _Recorder()
        made = StarOptions(primary=role == "primary", remote=REMOTE, liveness=Liveness(interval, liveness), **options)
        super().__init__(StarCore(made, self.application), "peer")
        self.step(self.core.start, self.now)

    @property
    def state(self) -> str:
        return self.core.state.value

    def hear(self, frame: bytes) -> list[Frames]:
        """The other node's state comes; what is published then."""
        return self.give([frame])

    def vote(self) -> str:
        """A client asks this side: ``serve``, ``hold`` or ``refuse``."""
        self.step(self.core.look, self.now)
        return str(self.step(self.core.vote, self.now).value)

    def hear_for(self, seconds: float, frame: bytes, every: float = 1.0) -> list[Frames]:
        """Time passes, and the other node says the same once a heartbeat."""
        sent: list[Frames] = []
        end = self.now + seconds
        while self.now < end:
            sent += self.advance(min(every, end - self.now))
            sent += self.hear(frame)
        return sent

    def errands(self) -> list[tuple[str, int]]:
        return [(errand.what, errand.number) for errand in self.asked(Errand)]


def digits(sent: list[Frames]) -> list[bytes]:
    """The states that were published, as the Guide's ``atoi`` reads them."""
    assert all(len(frames) == 1 for frames in sent)
    return [frames[0].split()[0] for frames in sent]


def in_state(state: str, **options: Any) -> Star:
    """A node that was brought to `state` by what happens to one."""
    role = "backup" if state in ("backup waiting", "passive") else "primary"
    star = Star(role, **options)
    if state == "active":
        star.hear(BACKUP)
    elif state == "passive":
        star.hear(ACTIVE)
    assert star.state == state
    star.sent()
    star.asked()
    star.events()
    return star


class Pair(Harness[PairCore]):
    """Half of a pair with a service, and heartbeats of 1 s; started."""

    def __init__(self, make: Callable[[PairCore], Any], role: str = "primary", **options: Any) -> None:
        pair = PairCore(StarOptions(primary=role == "primary", remote=REMOTE, liveness=Liveness(1.0, 2), **options))
        self.hosted = pair.hosted = make(pair)
        super().__init__(pair, self.hosted.PORTS[0])
        self.step(self.core.star.start, self.now)
        self.sent()

    def hear(self, frame: bytes) -> list[Frames]:
        return self.give([frame], port="peer")

    @property
    def state(self) -> str:
        return self.core.star.state.value


def broker_pair(role: str = "primary", **options: Any) -> Pair:
    return Pair(lambda _: PairedBrokerCore(BrokerOptions(liveness=Liveness(1.0, 3))), role, **options)


def server_pair(role: str = "primary", **options: Any) -> Pair:
    return Pair(lambda pair: PairedLazyServerCore(ServerOptions(), pair.star.look), role, **options)


def simple_queue_pair(role: str = "primary", **options: Any) -> Pair:
    return Pair(lambda _: PairedSimpleQueueCore(QueueOptions()), role, **options)


def paranoid_queue_pair(role: str = "primary", **options: Any) -> Pair:
    return Pair(lambda _: PairedParanoidQueueCore(QueueOptions()), role, **options)


class StarClient(Harness[StarClientCore]):
    """A client of two nodes, with attempts of 1 s and a settle delay of 2 s. `out`: when who was sent what."""

    def __init__(self, *endpoints: str, timeout: float = 10.0, retries: int = 3, settle: float = 2.0) -> None:
        self.endpoints: dict[Any, str] = {}
        self.out: list[tuple[float, str, Frames]] = []
        self.ports: list[Any] = []
        options = ClientOptions(timeout=timeout, retries=retries, attempt_timeout=1.0, settle_delay=settle)
        super().__init__(StarClientCore(endpoints or ("tcp://a:1", "tcp://b:1"), options, FixedRng()), 0)

    def call(self, number: int, *body: bytes, **options: Any) -> None:
        self.step(self.core.start_call, number, list(body or (b"hello",)), self.now, **options)

    def _collect(self) -> None:
        core = self.core
        for command in core.commands():
            self._asked.append(command)
            if isinstance(command, Open):
                self.endpoints[command.port] = command.endpoint
        for port in tuple(core.ports_to_send()):
            for frames in core.messages_to_send(port):
                self.out.append((self.now, self.endpoints[port], frames))
                self.ports.append(port)
