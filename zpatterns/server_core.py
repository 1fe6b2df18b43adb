"""Requests to one handler, straight from their clients over a ROUTER: what every server without a broker needs. Pure.

A pattern says where in a message the body begins. What stands before it, the envelope, leads the answer back to the
client, untouched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from zpatterns.core import Cancel, Command, Drops, Event, Frames, PortId, Run, SendFailure
from zpatterns.wire import CODE_DRAINING, CODE_OVERLOADED, error_body, memory_of

PORT = "server"

_STOPPING = "the server is shutting down; ask another one"
_CONCURRENCY_MAX = 1000


def check_concurrency(concurrency: int) -> None:
    """Raises ValueError: each request that is handled at a time costs a lane, and maybe a thread and a socket."""
    if not 1 <= concurrency <= _CONCURRENCY_MAX:
        raise ValueError(
            f"concurrency must be at least 1 and at most {_CONCURRENCY_MAX}, not {concurrency!r}; "
            "for more at a time run several processes"
        )


@dataclass(frozen=True, slots=True)
class RequestRefused(Event):
    """A request was answered with an error at once, for the `reason` given."""

    level: ClassVar[str] = "warning"
    client: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class RequestExpired(Event):
    """A request waited in the queue for its whole `request_ttl`, and was dropped."""

    level: ClassVar[str] = "warning"
    client: bytes


@dataclass(frozen=True, slots=True)
class HandlerFailed(Event):
    """The handler raised; its caller got the error. (Its traceback is logged beside this.)"""

    level: ClassVar[str] = "debug"
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Limits and times of a server, in seconds and bytes.

    `concurrency`: requests that are handled at a time, at most 1000. `queue_max`, `queue_bytes_max`: requests that may
    wait for that; the newest beyond it is refused. `request_ttl`: how long one may wait before it is dropped.
    """

    concurrency: int = 1
    queue_max: int = 1000
    queue_bytes_max: int = 512 * 2**20
    request_ttl: float = 60.0

    def __post_init__(self) -> None:
        check_concurrency(self.concurrency)
        for name in ("queue_max", "queue_bytes_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")
        if not 0 < self.request_ttl < float("inf"):
            raise ValueError(f"request_ttl must be a positive number of seconds, not {self.request_ttl!r}")


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """Counters since the start, then what is held now: `queued`, `queued_bytes` and `running`.

    `errors`: replies that say that the handler raised; `undelivered`: replies whose client was gone or took nothing;
    `dropped`: messages by reason.
    """

    requests: int
    replies: int
    errors: int
    refused: int
    expired: int
    undelivered: int
    queued: int
    queued_bytes: int
    running: int
    dropped: dict[str, int]


class _Request:
    __slots__ = ("answered", "depth", "expiry", "frames", "size")

    def __init__(self, frames: Frames, depth: int, expiry: float) -> None:
        self.frames = frames
        self.depth = depth
        self.expiry = expiry
        self.size = memory_of(frames)
        self.answered = False


class ServerCore:
    """Gives requests to handlers in the order they come, `concurrency` at a time, and their answers to the clients.

    A run's number modulo `concurrency` is the lane that it is for: each lane has one run at a time.
    """

    PORTS: ClassVar[tuple[str, ...]] = (PORT,)

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self._queue: deque[_Request] = deque()
        self._queued_bytes = 0
        self._free = list(range(options.concurrency - 1, -1, -1))  # the number of each lane's next run
        self._running: dict[int, _Request] = {}
        self._draining = False
        self._out: list[Frames] = []
        self._commands: list[Command] = []
        self._events: list[Event] = []
        self._drops = Drops()
        self._requests = self._replies = self._errors = self._refused = self._expired = self._undelivered = 0

    # What a pattern provides.

    def _depth(self, frames: Frames, now: float) -> int:
        """How many frames of a message, the routing id among them, are envelope.

        0 for what is no request and counts as invalid; less than that for what was dealt with here.
        """
        raise NotImplementedError

    def _error(self, envelope: Frames, code: bytes, text: str) -> Frames | None:
        """The message that tells a client of an error, or None where the pattern has no way to."""
        return [*envelope, *error_body(code, text)]

    # Messages in.

    def receive_many(self, batch: Iterable[Frames], now: float, port: PortId = PORT) -> None:
        for frames in batch:
            depth = self._depth(frames, now)
            if depth > 0:
                self._request(_Request(frames, depth, now + self.options.request_ttl))
            elif not depth:
                self._drops.add("invalid")

    def _request(self, request: _Request) -> None:
        self._requests += 1
        if self._draining:
            self._refuse(request, CODE_DRAINING, _STOPPING)
        elif self._free:
            self._run(request)
        elif (
            len(self._queue) >= self.options.queue_max
            or self._queued_bytes + request.size > self.options.queue_bytes_max
        ):
            self._refuse(request, CODE_OVERLOADED, "the server's queue is full")
        else:
            self._queue.append(request)
            self._queued_bytes += request.size

    def _run(self, request: _Request) -> None:
        run = self._free.pop()
        self._running[run] = request
        self._commands.append(Run(run, request.frames[0], request.frames[request.depth :]))

    def _take(self) -> _Request:
        request = self._queue.popleft()
        self._queued_bytes -= request.size
        return request

    def _refuse(self, request: _Request, code: bytes, text: str) -> None:
        self._refused += 1
        self._events.append(RequestRefused(request.frames[0], text))
        self._tell_error(request, code, text)

    def _tell_error(self, request: _Request, code: bytes, text: str) -> None:
        message = self._error(request.frames[: request.depth], code, text)
        if message is not None:
            self._out.append(message)

    # What the handlers do.

    def handler_partial(self, run: int, frames: Frames, now: float) -> None:
        """A handler of `run` that was no generator by its looks has yielded: nobody can be told in parts."""
        request = self._running.get(run)
        if request is not None and not request.answered:
            self._failed(request, "TypeError", "the handler is a generator, and this server's clients get one answer")
            self._commands.append(Cancel(run))

    def handler_done(self, run: int, frames: Frames, now: float) -> None:
        """The handler of `run` has returned the answer's `frames`."""
        request = self._running.pop(run, None)
        if request is None:
            return
        if not request.answered:
            self._replies += 1
            self._out.append([*request.frames[: request.depth], *(frames or [b""])])
        self._next(run, now)

    def handler_failed(self, run: int, code: str, message: str, now: float) -> None:
        """The handler of `run` has raised; its caller gets our error in the place of an answer."""
        request = self._running.pop(run, None)
        if request is None:
            return
        if not request.answered:
            self._failed(request, code, message)
        self._next(run, now)

    def _failed(self, request: _Request, code: str, message: str) -> None:
        request.answered = True
        self._errors += 1
        self._events.append(HandlerFailed(code, message))
        self._tell_error(request, code.encode("ascii", "replace"), message)

    def _next(self, run: int, now: float) -> None:
        """The lane of `run` can have another request."""
        self._free.append(run + self.options.concurrency)
        self._expire(now)
        if self._queue:
            self._run(self._take())

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
        """The client is gone, or reads nothing: its answer is lost, as it is with any REP."""
        self._undelivered += 1
        self._drops.add(f"client-{reason.value}")

    # Time.

    def next_timer(self) -> float | None:
        return self._queue[0].expiry if self._queue else None

    def handle_timer(self, now: float) -> None:
        self._expire(now)

    def _expire(self, now: float) -> None:
        while self._queue and self._queue[0].expiry <= now:
            request = self._take()
            self._expired += 1
            self._events.append(RequestExpired(request.frames[0]))

    # The end.

    def drain(self, now: float) -> None:
        """Begin nothing more: what is queued, and what still comes, is refused; what runs is answered."""
        self._draining = True
        while self._queue:
            self._refuse(self._take(), CODE_DRAINING, _STOPPING)

    @property
    def drained(self) -> bool:
        """Whether no handler runs."""
        return not self._running

    def shut_down(self, now: float) -> None:
        """Refuse what is queued and stop the handlers that run; their callers hear nothing, as if we had died."""
        self.drain(now)
        self._commands += [Cancel(run) for run in self._running]
        self._running.clear()

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
            refused=self._refused,
            expired=self._expired,
            undelivered=self._undelivered,
            queued=len(self._queue),
            queued_bytes=self._queued_bytes,
            running=len(self._running),
            dropped=dict(self._drops.totals),
        )

    def check_invariants(self) -> None:
        options = self.options
        assert len(self._queue) <= options.queue_max and self._queued_bytes <= options.queue_bytes_max
        assert self._queued_bytes == sum(request.size for request in self._queue)
        assert not (self._free and self._queue), "work and a lane wait for each other"
        assert not (self._draining and self._queue), "a request waits for a server that stops"
        expiries = [request.expiry for request in self._queue]
        assert expiries == sorted(expiries)
        lanes = [run % options.concurrency for run in (*self._free, *self._running)]
        assert len(set(lanes)) == len(lanes), "a lane was given two requests"
