"""A Clone server's core under test, its three sockets apart, and a client that follows it as 12/CHP says.

Frames are literal bytes, as the RFC prints them: a wrong constant of :mod:`zpatterns.clone.wire` must fail.
"""

from __future__ import annotations

import random
from typing import Any

from tests.harness import Harness
from zpatterns.clone.server_core import CloneServerCore
from zpatterns.clone.server_state import ServerOptions
from zpatterns.core import Frames, PortId, Save, SendFailure, Subscribe
from zpatterns.timing import Liveness

FIRST = 5000
"""The sequence at which every server begins; its first update has the next."""

NO_TTL = b"ttl=0\n"


def seq(number: int) -> bytes:
    """A sequence as it goes over the wire."""
    return number.to_bytes(8, "big")


def uuid(number: int) -> bytes:
    return number.to_bytes(16, "big")


def kvset(key: bytes, body: bytes = b"v", number: int = 1, properties: bytes = b"") -> Frames:
    """What a client publishes; the sequence is of no significance."""
    return [key, bytes(8), uuid(number), properties, body]


def zpset(key: bytes, body: bytes = b"v", number: int = 1, properties: bytes = b"", client: bytes = b"C") -> Frames:
    return [client, b"ZPSET", uuid(number), key, properties, body]


def zpack(number: int, code: bytes, sequence: int, client: bytes = b"C") -> Frames:
    return [client, b"ZPACK", uuid(number), code, seq(sequence)]


class ServerHarness(Harness[CloneServerCore]):
    """A server with heartbeats of 1 s x 5. What it published and what it sent on the snapshot port come apart.

    ``takes[client]``: messages of a snapshot that client's connection has room for; endless where not given.
    """

    def __init__(self, *, interval: float = 1.0, liveness: int = 5, seed: int = 1, **options: Any) -> None:
        self.published: list[Frames] = []
        self.saves: list[Save] = []
        self.takes: dict[bytes, int] = {}
        self.gone: set[bytes] = set()
        settings = ServerOptions(liveness=Liveness(interval, liveness), **options)
        super().__init__(CloneServerCore(FIRST, random.Random(seed), settings), "snapshot")
        self._check_once_for_each_map()
        self.step(self.core.start, self.now)
        assert self.asked() == [Subscribe("collector", b"")]
        self.step(self.core.handle_timer, self.now)
        self.publications()  # the first HUGZ

    @property
    def status(self) -> bytes:
        """What this server says of itself in HUGZ and KTHXBAI."""
        return b"zp=1\ninstance=%b\nseq=%d\n" % (self.core.instance, self.core.store.sequence)

    def collect(self, *messages: Frames) -> list[Frames]:
        """KVSETs arrive; what is published."""
        self.give(*messages, port="collector")
        return self.publications()

    def fill(self, count: int, form: bytes = b"/k/%d") -> None:
        """So many keys, from ``/k/0`` on."""
        self.collect(*(kvset(form % number, b"%d" % number, number) for number in range(count)))

    def ask(self, subtree: bytes = b"", client: bytes = b"C") -> list[Frames]:
        """One whole snapshot, without the routing id: the pairs and KTHXBAI."""
        self.give([client, b"ICANHAZ?", subtree])
        return self.snapshot(client)

    def snapshot(self, client: bytes = b"C", turns: int = 10_000) -> list[Frames]:
        """Work, without time passing, until `client` has a KTHXBAI; what it was sent, without the routing id."""
        result: list[Frames] = []
        for _ in range(turns):
            result += [frames[1:] for frames in self.sent() if frames[0] == client]
            if result and result[-1][0] == b"KTHXBAI":
                self.work()
                return result
            self.step(self.core.handle_timer, self.now)
        raise AssertionError("the snapshot does not end")

    def work(self, turns: int = 1) -> list[Frames]:
        """So many turns of the timer at once; what is sent on the snapshot port."""
        result = []
        for _ in range(turns):
            self.step(self.core.handle_timer, self.now)
            result += self.sent()
        return result

    def publications(self) -> list[Frames]:
        """Take what was published."""
        published, self.published = self.published, []
        return published

    def saved(self) -> list[Frames]:
        """The disk has done what it was asked first; what is published then."""
        self.saves.pop(0)
        self.step(self.core.saved, self.now)
        return self.publications()

    def map(self) -> dict[bytes, bytes]:
        return {pair[0]: pair[4] for page in self.core.store.view().pages for pair in page}

    def _check_once_for_each_map(self) -> None:
        """To look through the whole map after each turn of a snapshot, which changes nothing, would take minutes."""
        store = self.core.store
        check = store.check_invariants
        checked = [0]

        def check_what_changed() -> None:
            if checked[0] != store.sequence:
                check()
                checked[0] = store.sequence

        setattr(store, "check_invariants", check_what_changed)  # noqa: B010

    def _collect(self) -> None:
        core = self.core
        for command in core.commands():
            if isinstance(command, Save):
                self.saves.append(command)
            else:
                self._asked.append(command)
        for port in tuple(core.ports_to_send()):
            messages = core.messages_to_send(port)
            if port == "publisher":
                self.published += messages
            else:
                self._hand_over(port, messages)

    def _hand_over(self, port: PortId, messages: list[Frames]) -> None:
        for frames in messages:
            client = frames[0]
            room = self.takes.get(client)
            if client in self.gone:
                self.core.send_failed(port, frames, SendFailure.UNREACHABLE, self.now)
            elif room == 0:
                self.core.send_failed(port, frames, SendFailure.OVERFLOW, self.now)
            else:
                if room is not None:
                    self.takes[client] = room - 1
                self._sent.append(frames)
