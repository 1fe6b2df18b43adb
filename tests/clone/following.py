"""A Clone client's core under test: frames are literal, as 12/CHP prints them; ports are told from what it opens."""

from __future__ import annotations

from typing import Any

from tests.harness import FixedRng, Harness
from zpatterns.clone.client_core import ClientCore
from zpatterns.clone.client_state import ClientOptions, Endpoints
from zpatterns.clone.events import StateChanged
from zpatterns.clone.replica_core import Change
from zpatterns.clone.sets_core import SetOptions
from zpatterns.core import Changed, Close, Deliver, Fail, Frames, Open, PortId, SocketKind, Subscribe
from zpatterns.timing import Liveness

A = Endpoints("tcp://a:5556", "tcp://a:5557", "tcp://a:5558")
B = Endpoints("tcp://b:5566", "tcp://b:5567", "tcp://b:5568")


class UuidRng(FixedRng):
    """Numbers its bits, so that each set has a known UUID: ``uuid(1)``, ``uuid(2)`` ..."""

    def __init__(self, share: float = 0.5) -> None:
        super().__init__(share)
        self.count = 0

    def getrandbits(self, k: int, /) -> int:
        self.count += 1
        return self.count


def uuid(number: int) -> bytes:
    return bytes(15) + bytes([number])


def seq(number: int) -> bytes:
    return number.to_bytes(8, "big")


def kvsync(key: bytes, sequence: int, value: bytes, properties: bytes = b"") -> Frames:
    return [key, seq(sequence), b"", properties, value]


def kvpub(key: bytes, sequence: int, value: bytes, prev: str = "", uuid: bytes = b"") -> Frames:
    """With `prev` as a server of ours has it: ``"6,0"``."""
    return [key, seq(sequence), uuid, f"prev={prev}\n".encode() if prev else b"", value]


def status(last: int, instance: str = "one") -> bytes:
    return f"zp=1\ninstance={instance}\nseq={last}\n".encode()


def hugz(last: int = -1, instance: str = "one", sequence: int = 0) -> Frames:
    """Of a server of ours, or of a foreign one where `last` is not given."""
    return [b"HUGZ", seq(sequence), b"", status(last, instance) if last >= 0 else b"", b""]


def kthxbai(sequence: int, *, ours: bool = True, instance: str = "one", subtree: bytes = b"") -> Frames:
    return [b"KTHXBAI", seq(sequence), b"", status(sequence, instance) if ours else b"", subtree]


def zpack(uuid: bytes, code: bytes, sequence: int = 0) -> Frames:
    return [b"ZPACK", uuid, code, seq(sequence)]


class CloneHarness(Harness[ClientCore]):
    """A client with heartbeats of 1 s and a lease of 5 s, started and watched unless told otherwise.

    `out` are pairs of a role (``snapshot``, ``updates``, ``sets0``) and frames. Each turn asserts that it has one
    socket of each role at the most.
    """

    def __init__(
        self,
        *servers: Endpoints,
        subtree: str = "",
        share: float = 0.5,
        start: bool = True,
        sets: SetOptions | None = None,
        **options: Any,
    ) -> None:
        core = ClientCore(
            servers or (A,),
            ClientOptions(liveness=Liveness(1.0, 5), subtree=subtree, sets=sets or SetOptions(), **options),
            UuidRng(share),
        )
        super().__init__(core, "")
        core.replica.watched = True
        self.sockets: dict[PortId, Open] = {}
        self.subscriptions: dict[PortId, list[bytes]] = {}
        self.out: list[tuple[str, Frames]] = []
        self.changes: list[Change] = []
        self.outcomes: list[Deliver | Fail] = []
        if start:
            self.step(core.start, self.now)

    def socket(self, kind: SocketKind) -> PortId:
        """The open socket of a kind."""
        ports = [port for port, opened in self.sockets.items() if opened.kind is kind]
        assert len(ports) == 1, f"{len(ports)} sockets of kind {kind}"
        return ports[0]

    def publish(self, *messages: Frames) -> list[tuple[str, Frames]]:
        """Messages of the publisher in one batch; what is sent then."""
        self.give(*messages, port=self.socket(SocketKind.SUB))
        return self.take()

    def answer(self, *messages: Frames) -> list[tuple[str, Frames]]:
        """Messages of the snapshot port in one batch; what is sent then."""
        self.give(*messages, port=self.socket(SocketKind.DEALER))
        return self.take()

    def set(self, number: int, key: bytes = b"/k", value: bytes = b"v", **options: Any) -> list[tuple[str, Frames]]:
        self.step(self.core.start_set, number, key, value, self.now, **options)
        return self.take()

    def take(self) -> list[tuple[str, Frames]]:
        self._sent.clear()
        out, self.out = self.out, []
        return out

    def later(self, seconds: float) -> list[tuple[str, Frames]]:
        """Let time pass with every timer on the way; what is sent."""
        self.advance(seconds)
        return self.take()

    def changed(self) -> list[tuple[str, bytes | None, bytes | None, int]]:
        """What watchers were told since the last call."""
        changes, self.changes = self.changes, []
        return [(change.key, change.old, change.new, change.sequence) for change in changes]

    def ended(self) -> list[Deliver | Fail]:
        """Outcomes of sets since the last call."""
        outcomes, self.outcomes = self.outcomes, []
        return outcomes

    def results(self) -> dict[int, object]:
        """The same by number: a sequence, or an error."""
        return {
            each.call: int.from_bytes(each.frames[0], "big") if isinstance(each, Deliver) else each.error
            for each in self.ended()
        }

    @property
    def map(self) -> dict[str, bytes]:
        return {key: value for key, (value, _) in self.core.replica.entries.items()}

    @property
    def state(self) -> str:
        return self.core.state.value

    def states(self) -> list[str]:
        """What the listener was told since the last call."""
        return [event.state.name for event in self.events(StateChanged)]

    def follow(self, *pairs: Frames, last: int = 10, ours: bool = True) -> CloneHarness:
        """Join with a whole snapshot of these pairs."""
        first = hugz(last) if ours else hugz()
        assert self.publish(first) == [("snapshot", [b"ICANHAZ?", self.core.subtree.encode()])]
        self.answer(*pairs, kthxbai(last, ours=ours))
        assert self.state == "following"
        self.take()
        self.changed()
        self.core.events()
        return self

    def _collect(self) -> None:
        core = self.core
        for command in core.commands():
            self._asked.append(command)
            if isinstance(command, Open):
                self.sockets[command.port] = command
            elif isinstance(command, Close):
                if command.linger > 0:
                    self.out += [(self._role(command.port), frames) for frames in core.messages_to_send(command.port)]
                del self.sockets[command.port]
            elif isinstance(command, Subscribe):
                self.subscriptions.setdefault(command.port, []).append(command.prefix)
            elif isinstance(command, Changed):
                self.changes += command.changes
            elif isinstance(command, Deliver | Fail):
                self.outcomes.append(command)
        roles = [self._role(port) for port in self.sockets]
        assert len(roles) == len(set(roles)), f"a second socket: {roles}"
        for port in tuple(core.ports_to_send()):
            assert port in self.sockets, "for a socket that is not there"
            messages = core.messages_to_send(port)
            self._sent += messages
            self.out += [(self._role(port), frames) for frames in messages]

    def _role(self, port: PortId) -> str:
        role = str(port)
        return role if role.startswith("sets") else role.rstrip("0123456789")
