"""A Freelance server as a state machine: one ROUTER, a bounded queue, and handlers. Pure.

All three models: 10/FLP, and what the REP servers of the Guide's models one and two speak.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from zpatterns.core import Cancel, Command, Drops, Event, Frames, PortId, Run, SendFailure
from zpatterns.freelance import wire
from zpatterns.freelance.events import HandlerFailed, HandlerTimedOut, RequestExpired, RequestRefused
from zpatterns.timing import Deadlines
from zpatterns.wire import CODE_DRAINING, CODE_HANDLER_TIMEOUT, CODE_OVERLOADED, CODE_TOO_LARGE, error_body

PORT = "server"

REQUEST_OVERHEAD = 512
"""What a queued request costs beside its frames, in bytes, as `queue_bytes_max` counts it."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Limits and times of a server, in seconds and bytes; :class:`~zpatterns.freelance.FreelanceServer` tells more."""

    model: str = wire.ADDRESSED
    concurrency: int = 1
    queue_max: int = 10_000
    queue_bytes_max: int = 256 * 2**20
    request_ttl: float = 60.0
    handler_timeout: float | None = None
    held_bytes_max: int = 16 * 2**20

    def __post_init__(self) -> None:
        wire.check_model(self.model)
        for name in ("concurrency", "queue_max", "queue_bytes_max", "held_bytes_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")
        if not 0 < self.request_ttl < float("inf"):
            raise ValueError(f"request_ttl must be a positive number of seconds, not {self.request_ttl!r}")
        if self.handler_timeout is not None and not self.handler_timeout > 0:
            raise ValueError(f"handler_timeout must be a positive number of seconds, not {self.handler_timeout!r}")


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """Counters since the start; then what is `queued` (and its bytes) and `running` now.

    `discarded`: results that came too late for anybody; `undelivered`: replies whose client was gone or took nothing;
    `dropped`: messages by reason.
    """

    requests: int
    replies: int
    errors: int
    timeouts: int
    expired: int
    refused: int
    discarded: int
    undelivered: int
    pings: int
    queued: int
    queued_bytes: int
    running: int
    dropped: dict[str, int]


class _Request:
    """One request, waiting or in a handler's hands."""

    __slots__ = ("body", "deadline", "expiry", "head", "held", "held_bytes", "is_answered", "run", "size")

    def __init__(self, head: Frames, body: Frames, expiry: float) -> None:
        self.head = head
        self.body = body
        self.expiry = expiry
        self.size = REQUEST_OVERHEAD + sum(map(len, head)) + sum(map(len, body))
        self.run = 0
        self.held: Frames = []
        self.held_bytes = 0
        self.is_answered = False
        self.deadline: float | None = None  # of the handler, for Deadlines


class ServerCore:
    """Gives requests to handlers, `concurrency` at a time and in their order, and their replies to the clients.

    The front end answers each :class:`Run` with :meth:`handler_partial` any number of times, then with
    :meth:`handler_done` or :meth:`handler_failed` exactly once, however late.
    """

    PORTS: ClassVar[tuple[str, ...]] = (PORT,)

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self._model = options.model
        self._has_errors = options.model != wire.SHOTGUN
        self._out: list[Frames] = []
        self._commands: list[Command] = []
        self._events: list[Event] = []
        self._queue: deque[_Request] = deque()
        self._queued_bytes = 0
        self._running: dict[int, _Request] = {}
        self._deadlines: Deadlines[_Request] = Deadlines()
        self._last_run = 0
        self._draining = False
        self._requests = self._replies = self._errors = self._timeouts = self._expired = self._refused = 0
        self._discarded = self._undelivered = self._pings = 0
        self._drops = Drops()

    # Messages in.

    def receive_many(self, batch: Iterable[Frames], now: float, port: PortId = PORT) -> None:
        is_addressed = self._model == wire.ADDRESSED
        for frames in batch:
            if is_addressed and len(frames) == 2 and frames[1] == wire.PING:
                self._pings += 1
                self._out.append([frames[0], wire.PONG])
                continue
            parts = wire.split_request(self._model, frames)
            if parts is None:
                self._drops.add("invalid")
                continue
            self._requests += 1
            self._accept(_Request(*parts, now + self.options.request_ttl), now)

    def _accept(self, request: _Request, now: float) -> None:
        options = self.options
        if self._draining:
            self._refuse(request, CODE_DRAINING, "the server is shutting down; ask another one")
        elif len(self._running) < options.concurrency:
            self._begin(request, now)
        elif len(self._queue) >= options.queue_max or self._queued_bytes + request.size > options.queue_bytes_max:
            self._refuse(request, CODE_OVERLOADED, "the server's queue is full")
        else:
            self._queue.append(request)
            self._queued_bytes += request.size

    def _refuse(self, request: _Request, code: bytes, text: str) -> None:
        self._refused += 1
        self._events.append(RequestRefused(request.head[0], text))
        self._send_error(request, code, text)

    def _begin(self, request: _Request, now: float) -> None:
        self._last_run += 1
        request.run = self._last_run
        self._running[request.run] = request
        if self.options.handler_timeout is not None:
            request.deadline = now + self.options.handler_timeout
            self._deadlines.add(request)
        body, request.body = request.body, []
        self._commands.append(Run(request.run, request.head[0], body))

    def _begin_next(self, now: float) -> None:
        while self._queue and len(self._running) < self.options.concurrency:
            request = self._queue.popleft()
            self._queued_bytes -= request.size
            if request.expiry > now:
                self._begin(request, now)
            else:
                self._expired += 1
                self._events.append(RequestExpired(request.head[0]))

    # What handlers do.

    def handler_partial(self, run: int, frames: Frames, now: float) -> None:
        """The handler of `run` has yielded one part. None of the models has streams: the reply carries them all."""
        request = self._running.get(run)
        if request is None or request.is_answered:
            return
        request.held += frames or [wire.EMPTY]
        request.held_bytes += sum(map(len, frames)) + 64
        if request.held_bytes > self.options.held_bytes_max:
            text = f"the parts of the reply exceed {self.options.held_bytes_max} bytes"
            self._give_up(request, CODE_TOO_LARGE, text)

    def handler_done(self, run: int, frames: Frames, now: float) -> None:
        """The handler of `run` has returned; `frames` is the reply, or its last part."""
        request = self._returned(run)
        if request is not None:
            body = [*request.held, *(frames or [wire.EMPTY])]
            if self._has_errors or len(body) == 1:
                self._replies += 1
                self._out.append([*request.head, *body])
            else:
                self._failed("not-one-frame", f"the shotgun model's replies have one frame, and this had {len(body)}")
        self._begin_next(now)

    def handler_failed(self, run: int, code: str, message: str, now: float) -> None:
        """The handler of `run` has raised; its caller gets our error reply."""
        if run in self._running:
            self._failed(code, message)
        request = self._returned(run)
        if request is not None:
            self._send_error(request, code.encode("ascii", "replace"), message)
        self._begin_next(now)

    def _failed(self, code: str, message: str) -> None:
        self._errors += 1
        self._events.append(HandlerFailed(code, message))

    def _returned(self, run: int) -> _Request | None:
        """The handler is done. The request, if anybody still waits for its answer."""
        request = self._running.pop(run, None)
        if request is None:
            return None
        request.deadline = None
        if request.is_answered:
            self._discarded += 1
            return None
        return request

    def _give_up(self, request: _Request, code: bytes, text: str) -> None:
        """The caller gets an error now; the handler, which may go on, keeps its place until it returns."""
        request.is_answered = True
        request.held = []
        request.deadline = None
        self._send_error(request, code, text)
        self._commands.append(Cancel(request.run))

    def _send_error(self, request: _Request, code: bytes, text: str) -> None:
        # The shotgun model has room for one frame: whoever fails there is silent, and another server answers.
        if self._has_errors:
            self._out.append([*request.head, *error_body(code, text)])

    # Messages out.

    def ports_to_send(self) -> tuple[str, ...]:
        return self.PORTS if self._out else ()

    def messages_to_send(self, port: PortId = PORT) -> list[Frames]:
        out, self._out = self._out, []
        return out

    def wants_to_read(self, port: PortId = PORT) -> bool:
        return True

    def commands(self) -> list[Command]:
        commands, self._commands = self._commands, []
        return commands

    def send_failed(self, port: PortId, frames: Frames, reason: SendFailure, now: float) -> None:
        self._undelivered += 1
        self._drops.add(f"client-{reason.value}")

    # Time.

    def next_timer(self) -> float | None:
        return self._deadlines.next()

    def handle_timer(self, now: float) -> None:
        for request in self._deadlines.due(now):
            seconds = self.options.handler_timeout
            assert seconds is not None
            self._timeouts += 1
            self._events.append(HandlerTimedOut(seconds))
            self._give_up(request, CODE_HANDLER_TIMEOUT, f"the handler did not finish within {seconds} s")

    # The end.

    def drain(self, now: float) -> None:
        """Refuse what waits and what comes, so that clients ask elsewhere; finish what handlers have begun."""
        self._draining = True
        waiting, self._queue = self._queue, deque()
        self._queued_bytes = 0
        for request in waiting:
            self._refuse(request, CODE_DRAINING, "the server is shutting down; ask another one")

    @property
    def drained(self) -> bool:
        """Whether no handler runs any more."""
        return self._draining and not self._running

    def shut_down(self, now: float) -> None:
        """Stop at once. FLP has no goodbye: clients find out by their pings."""
        self.drain(now)
        self._commands += [Cancel(run) for run in self._running]

    # Telling.

    def events(self) -> list[Event]:
        self._drops.tell(self._events)
        events, self._events = self._events, []
        return events

    def statistics(self) -> ServerStatistics:
        return ServerStatistics(
            requests=self._requests,
            replies=self._replies,
            errors=self._errors,
            timeouts=self._timeouts,
            expired=self._expired,
            refused=self._refused,
            discarded=self._discarded,
            undelivered=self._undelivered,
            pings=self._pings,
            queued=len(self._queue),
            queued_bytes=self._queued_bytes,
            running=len(self._running),
            dropped=dict(self._drops.totals),
        )

    def check_invariants(self) -> None:
        options = self.options
        assert len(self._running) <= options.concurrency
        assert len(self._queue) <= options.queue_max
        assert self._queued_bytes == sum(request.size for request in self._queue) <= options.queue_bytes_max
        assert not self._queue or len(self._running) == options.concurrency, "a request waits in vain"
        assert not (self._queue and self._draining)
        for run, request in self._running.items():
            assert request.run == run
            watched = options.handler_timeout is not None and not request.is_answered
            assert (request.deadline is not None) == watched
