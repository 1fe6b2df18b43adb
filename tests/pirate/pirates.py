"""Cores of Pirate queues and workers under test, and their messages as the Guide and 6/PPP print them."""

from __future__ import annotations

from typing import Any

from tests.harness import START, FixedRng, Harness
from zpatterns.core import Close, Frames, Open, SendFailure, SocketKind
from zpatterns.pirate.paranoid_queue_core import ParanoidQueueCore
from zpatterns.pirate.queue_core import QueueCore
from zpatterns.pirate.queue_state import QueueOptions
from zpatterns.pirate.simple_queue_core import SimpleQueueCore
from zpatterns.pirate.wire import PARANOID, SIMPLE
from zpatterns.pirate.worker_core import WorkerCore
from zpatterns.timing import Liveness

ERROR = b"\x00ZPATTERNS-ERROR\x00"
BEAT = b"\x02"


class QueueHarness(Harness[QueueCore]):
    """A queue with, where it is Paranoid, heartbeats of 1 s and a lease of 3 s.

    What goes to clients is in :attr:`answers`, what goes to workers is returned, heartbeats in :attr:`beats`.
    """

    def __init__(self, kind: str = "paranoid", *, interval: float = 1.0, liveness: int = 3, **options: Any) -> None:
        self.kind = kind
        self.answers: list[Frames] = []
        self.beats: list[Frames] = []
        made = QueueOptions(liveness=Liveness(interval, liveness), **options)
        core: QueueCore = ParanoidQueueCore(made) if kind == "paranoid" else SimpleQueueCore(made)
        super().__init__(core, "back")

    @property
    def head(self) -> Frames:
        return [] if self.kind == "paranoid" else [b""]

    def ready(self, *workers: bytes) -> list[Frames]:
        return self.give(*([worker, *self.head, b"\x01"] for worker in workers))

    def heartbeat(self, *workers: bytes) -> list[Frames]:
        return self.give(*([worker, b"\x02"] for worker in workers))

    def ask(self, *clients: bytes, body: bytes = b"body") -> list[Frames]:
        """A request of each client, as a REQ sends it; what goes to workers."""
        return self.give(*([client, b"", body] for client in clients), port="front")

    def reply(self, worker: bytes, client: bytes, *body: bytes) -> list[Frames]:
        return self.give([worker, *self.head, client, b"", *(body or (b"reply",))])

    def work(self, worker: bytes, client: bytes, *body: bytes) -> Frames:
        """What the queue sends for a request."""
        return [worker, *self.head, client, b"", *(body or (b"body",))]

    def unreachable(self, frames: Frames) -> list[Frames]:
        return self.fail(frames, SendFailure.UNREACHABLE)

    def answered(self) -> list[Frames]:
        """Take what went to clients."""
        answers, self.answers = self.answers, []
        return answers

    def keep_alive(self, seconds: float, *workers: bytes) -> list[Frames]:
        """Let time pass while these workers heartbeat; what else the queue sends to workers."""
        sent: list[Frames] = []
        end = self.now + seconds
        while self.now < end:
            sent += self.advance(min(0.5, end - self.now))
            sent += self.heartbeat(*workers)
        return sent

    def _collect(self) -> None:
        core = self.core
        assert core.commands() == []
        for port in tuple(core.ports_to_send()):
            messages = core.messages_to_send(port)
            if port == "front":
                self.answers += messages
            elif self.kind == "paranoid":
                self.beats += [frames for frames in messages if frames[1:] == [BEAT]]
                self._sent += [frames for frames in messages if frames[1:] != [BEAT]]
            else:
                self._sent += messages


class WorkerHarness(Harness[WorkerCore]):
    """A worker with, where it is Paranoid, heartbeats of 1 s and a lease of 3 s, started unless told otherwise."""

    def __init__(
        self,
        kind: str = "paranoid",
        *,
        endpoints: tuple[str, ...] = ("tcp://127.0.0.1:5556",),
        share: float = 0.5,
        start: bool = True,
        **options: Any,
    ) -> None:
        self.head: Frames = [] if kind == "paranoid" else [b""]
        self.opened: list[Open] = []
        self.open = False
        dialect = PARANOID if kind == "paranoid" else SIMPLE
        core = WorkerCore(endpoints, dialect=dialect, liveness=Liveness(1.0, 3), rng=FixedRng(share), **options)
        super().__init__(core, "queue")
        if start:
            self.step(core.start, self.now)

    def work(self, client: bytes, *body: bytes) -> list[Frames]:
        """The queue sends a request; what the worker sends."""
        return self.give([*self.head, client, b"", *(body or (b"body",))])

    def done(self, run: int, *body: bytes) -> list[Frames]:
        self.step(self.core.handler_done, run, list(body or (b"reply",)), self.now)
        return self.sent()

    def keep_alive(self, seconds: float) -> list[Frames]:
        """Let time pass while the queue heartbeats; what the worker sends."""
        result: list[Frames] = []
        end = self.now + seconds
        while self.now < end:
            result += self.advance(min(1.0, end - self.now))
            result += self.give([BEAT])
        return result

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


__all__ = ["BEAT", "ERROR", "START", "QueueHarness", "WorkerHarness"]
