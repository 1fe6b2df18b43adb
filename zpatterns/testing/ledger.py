"""The book of a simulated world: what callers asked for, what handlers ran, what callers got. It checks R1 and R2.

It is the same for every pattern that answers calls. A call's body begins with :attr:`Call.token`; what a handler says
goes through :class:`HandlerRun`; so every reply can be traced to the run that made it and the call that it is for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zpatterns.core import Frames
from zpatterns.errors import RemoteError, ZPatternsError

if TYPE_CHECKING:
    from zpatterns.testing.world import Node, World

GRACE = 1e-6
"""Seconds that a clock may be off by rounding."""


class Call:
    """One call of one caller, from its beginning to its outcome."""

    __slots__ = (
        "body",
        "client",
        "closed",
        "deadline",
        "got",
        "is_management",
        "number",
        "outcome",
        "runs",
        "service",
        "started",
        "token",
    )

    def __init__(self, number: int, client: Node, service: str, started: float, timeout: float) -> None:
        self.number = number
        self.client = client
        self.service = service
        self.token = b"q:%d" % number
        self.body: Frames = [self.token]
        self.started = started
        self.deadline = started + timeout
        self.got: Frames = []
        self.outcome: str | None = None  # "reply" or an error's name
        self.closed = False  # the caller wants nothing any more: it has an outcome, cancelled, or died
        self.runs: list[HandlerRun] = []
        self.is_management = False  # answered by a broker itself, not by a handler

    def __str__(self) -> str:
        return f"call {self.number} of {self.client.name} to {self.service}"


class HandlerRun:
    """One run of a handler, and all that it said, as it said it."""

    __slots__ = ("call", "ended", "node", "number", "raised", "said", "started")

    def __init__(self, number: int, call: Call, node: Node, started: float) -> None:
        self.number = number
        self.call = call
        self.node = node
        self.started = started
        self.said: Frames = []
        self.raised: str | None = None
        self.ended = False

    def says(self, extra: int) -> Frames:
        """The frames of the next part or the reply: a token, and `extra` frames more."""
        part = [b"a:%d:%d:%d" % (self.call.number, self.number, len(self.said)), *[b""] * extra]
        self.said += part
        return part

    def returns(self, extra: int) -> Frames:
        """:meth:`says`, for the last time."""
        self.ended = True
        return self.says(extra)

    def raises(self) -> str:
        """The text of the exception it ends with."""
        self.ended = True
        self.raised = f"e:{self.call.number}:{self.number}"
        return self.raised


class Ledger:
    """Keeps the book. Front ends of simulated nodes write in it; it never asks a core."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.calls: list[Call] = []
        self._runs: list[HandlerRun] = []
        self._by_token: dict[bytes, Call] = {}
        self._open: dict[int, Call] = {}

    # Calls.

    def begin(self, client: Node, service: str, timeout: float) -> Call:
        """A caller begins a call."""
        now = self._world.clock.now()
        call = Call(len(self.calls) + 1, client, service, now, timeout)
        self.calls.append(call)
        self._by_token[call.token] = call
        self._open[call.number] = call
        self._world.count("calls")
        self._world.note(client.name, "call", call.number, service, f"timeout={timeout:.3f}")
        return call

    def find(self, token: bytes) -> Call | None:
        """The call whose body begins with this frame."""
        return self._by_token.get(token)

    def part(self, call: Call, frames: Frames) -> None:
        """The caller got a part of a stream."""
        self._world.note(call.client.name, "part", call.number, list(frames))
        if call.closed:
            self._world.violate("R2", f"{call} got a part after its end")
        call.got += frames

    def reply(self, call: Call, frames: Frames) -> None:
        """The caller got its reply, or the last part."""
        self._world.note(call.client.name, "reply", call.number, list(frames))
        self._world.count("replies")
        self._end(call, "reply")
        call.got += frames
        if call.is_management:
            return
        run = self._source(call)
        if run is None:
            self._world.violate("R1", f"{call} got {call.got[:4]}, which no handler said to it")
        elif not run.ended or call.got != run.said:
            self._world.violate("R1", f"{call} got {call.got[:6]}, and its handler said {run.said[:6]}")

    def error(self, call: Call, error: BaseException) -> None:
        """The caller got an error."""
        name = type(error).__name__
        self._world.note(call.client.name, "error", call.number, error)
        self._end(call, name)
        self._world.count(f"error.{name}")
        if not isinstance(error, ZPatternsError):
            self._world.violate("R2", f"{call} ended with {error!r}, which is no error of ours")
        is_handlers = isinstance(error, RemoteError) and error.code == "Boom"
        if is_handlers and all(run.raised != getattr(error, "message", None) for run in call.runs):
            self._world.violate("R1", f"{call} got the error of another: {error}")
        if call.got:
            run = self._source(call)
            if run is None or run.said[: len(call.got)] != call.got:
                self._world.violate("R1", f"{call} got parts {call.got[:6]} that no handler said to it so")

    def cancel(self, call: Call) -> None:
        """The caller wants no answer any more."""
        self._world.note(call.client.name, "cancel", call.number)
        self._world.count("cancelled")
        self._close(call)

    def abandon(self, client: Node) -> None:
        """The caller's process is dead, and its calls with it."""
        for call in [call for call in self._open.values() if call.client is client]:
            self._close(call)

    def check_open(self) -> None:
        """R2: no call is open past its deadline, unless its process has been stopped."""
        now = self._world.clock.now()
        for call in self._open.values():
            client = call.client
            if client.paused_at is None and now > max(call.deadline, client.resumed_at + 0.1) + GRACE:
                self._world.violate("R2", f"{call} is still open, its deadline was {call.deadline:.6f}")

    @property
    def open_calls(self) -> list[Call]:
        return list(self._open.values())

    # Runs.

    def run(self, node: Node, service: str, frames: Frames) -> HandlerRun | None:
        """A handler is started on a request. R4: somebody sent it, to this service, with this very body."""
        call = self._by_token.get(frames[0]) if frames else None
        if call is None:
            self._world.violate("R4", f"{node.name} was given {frames[:4]}, which nobody sent")
            return None
        if call.service != service or call.body != frames:
            self._world.violate("R4", f"{node.name} of {service} was given {frames[:4]}, but {call} is {call.body[:4]}")
        run = HandlerRun(len(self._runs) + 1, call, node, self._world.clock.now())
        self._runs.append(run)
        call.runs.append(run)
        self._world.count("runs")
        self._world.note(node.name, "run", run.number, f"call {call.number}")
        return run

    # The rest.

    def _source(self, call: Call) -> HandlerRun | None:
        """The run that said what the caller got."""
        for run in call.runs:
            if call.got and run.said[:1] == call.got[:1]:
                return run
        return None

    def _end(self, call: Call, outcome: str) -> None:
        now = self._world.clock.now()
        if call.closed:
            self._world.violate("R2", f"{call} ends with {outcome}, after it ended with {call.outcome}")
        if now > max(call.deadline, call.client.resumed_at + 0.1) + GRACE:
            self._world.violate("R2", f"{call} ends with {outcome}, but its deadline was {call.deadline:.6f}")
        call.outcome = outcome
        self._close(call)

    def _close(self, call: Call) -> None:
        call.closed = True
        self._open.pop(call.number, None)
