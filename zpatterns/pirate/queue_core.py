"""What the Simple and the Paranoid Pirate queue share: clients, requests that wait, workers in turn. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import ClassVar

from zpatterns.core import Command, Drops, Event, Frames, PortId, SendFailure
from zpatterns.pirate.events import RequestExpired, RequestLost, RequestRefused, RequestRequeued, WorkerLost
from zpatterns.pirate.queue_state import (
    FRAMES,
    IdleLine,
    QueueOptions,
    QueueStatistics,
    Request,
    Waiting,
    Worker,
    without_body,
)
from zpatterns.pirate.wire import Dialect, envelope, envelope_depth, shares_envelope
from zpatterns.wire import CODE_DRAINING, CODE_LOST, CODE_OVERLOADED, error_body, memory_of

FRONT = "front"
"""The ROUTER that clients connect to."""

BACK = "back"
"""The ROUTER that workers connect to."""

_STOPPING = "the queue is shutting down; ask another one"
_OVERDUE = "took too long"


class QueueCore:
    """Gives each request of a client to the worker that has been idle for longest, and its reply to the client.

    A subclass reads what workers say. Clients are read only while a worker is idle; what had been read in the same
    batch waits here.
    """

    PORTS: ClassVar[tuple[str, ...]] = (FRONT, BACK)
    DIALECT: ClassVar[Dialect]

    def __init__(self, options: QueueOptions) -> None:
        self.options = options
        self._ttl = options.request_ttl
        self._timeout = options.worker_timeout
        self._sends_again = True
        self._front: list[Frames] = []
        self._back: list[Frames] = []
        self._events: list[Event] = []
        self._workers: dict[bytes, Worker] = {}
        # Every worker is in one of the two; the longest idle, and the longest busy, come first.
        self._idle = IdleLine()
        self._busy: dict[bytes, Worker] = {}
        self._overdue_at: float | None = None
        self._waiting = Waiting()
        self._draining = False
        self._drops = Drops()
        self._requests = self._replies = self._requeued = self._expired = self._refused = 0
        self._lost = self._undelivered = self._workers_lost = self._heartbeats = 0

    # Messages in.

    def receive_many(self, batch: Iterable[Frames], now: float, port: PortId) -> None:
        if port == FRONT:
            self._receive_clients(batch, now)
        else:
            self._receive_workers(batch, now)

    def _receive_clients(self, batch: Iterable[Frames], now: float) -> None:
        idle, busy, back = self._idle, self._busy, self._back
        is_draining, sends_again = self._draining, self._sends_again
        expiry, order = now + self._ttl, self._requests
        for frames in batch:
            # A REQ sends an empty frame before its body; behind more ROUTERs there is more before that.
            if len(frames) < 3 or (frames[1] and not envelope_depth(frames, 1)):
                self._drops.add("invalid")
                continue
            order += 1
            request = (order, expiry, 0, frames)
            if is_draining:
                self._refuse(frames, CODE_DRAINING, _STOPPING)
            elif idle:
                worker = idle.popleft()
                if idle.lost:
                    idle.tidy()
                # As `_assign`, without a call for each request.
                worker.request = request if sends_again else without_body(request)
                worker.given_at = now
                busy[worker.id] = worker
                back.append(worker.head + frames)
            else:
                self._wait(request)
        self._requests = order

    def _wait(self, request: Request) -> None:
        """A new request waits, unless too many do."""
        waiting, options = self._waiting, self.options
        size = memory_of(request[FRAMES])
        if len(waiting) >= options.queue_max or waiting.bytes + size > options.queue_bytes_max:
            self._refuse(request[FRAMES], CODE_OVERLOADED, "the queue is full")
        else:
            waiting.add(request, size)

    def _receive_workers(self, batch: Iterable[Frames], now: float) -> None:
        raise NotImplementedError

    # Workers and their work.

    def _assign(self, worker: Worker, request: Request, now: float) -> None:
        worker.request = request if self._sends_again else without_body(request)
        worker.given_at = now
        self._busy[worker.id] = worker
        self._back.append(worker.head + request[FRAMES])

    def _ready(self, worker: Worker, now: float) -> None:
        """A worker that is neither idle nor busy can take a request: the first that waits, or it waits itself."""
        waiting = self._waiting
        while waiting.bytes:  # as `while waiting`, without a call for each reply
            request = waiting.take()
            if request[1] > now:
                self._assign(worker, request, now)
                return
            self._expire(request)
        self._idle.append(worker)

    def _lose(self, worker: Worker, event: Event, now: float, *, has_it: bool = True) -> None:
        """Forget a worker; its request goes to another one. `has_it`: whether that may have reached this one."""
        self._workers_lost += 1
        self._events.append(event)
        worker.deadline = None
        del self._workers[worker.id]
        if self._busy.pop(worker.id, None) is None:
            self._idle.discard(worker)
        request, worker.request = worker.request, None
        if request is not None:
            self._requeue(request, request[2] + has_it, now)

    def _requeue(self, request: Request, deliveries: int, now: float) -> None:
        order, expiry, _, frames = request
        if deliveries >= self.options.deliveries_max or not envelope_depth(frames, 1):
            self._give_up(frames, deliveries)
        elif self._draining:
            # Another queue may have it: this answer invites the client to try again.
            self._refuse(frames, CODE_DRAINING, _STOPPING)
        elif expiry <= now:
            self._expire(request)
        else:
            self._requeued += 1
            self._events.append(RequestRequeued(frames[0], deliveries))
            again = (order, expiry, deliveries, frames)
            if self._idle:
                self._assign(self._idle.take(), again, now)
            else:
                # It was accepted once, so the limits of the queue do not apply to it again.
                self._waiting.add(again, memory_of(frames))

    def _give_up(self, frames: Frames, deliveries: int) -> None:
        self._lost += 1
        self._events.append(RequestLost(frames[0], deliveries))
        count = "1 delivery" if deliveries == 1 else f"{deliveries} deliveries"
        text = f"its worker was lost after {count}; see the workers' logs"
        self._front.append([*envelope(frames), *error_body(CODE_LOST, text)])

    def _expire(self, request: Request) -> None:
        self._expired += 1
        self._events.append(RequestExpired(request[FRAMES][0]))

    def _refuse(self, frames: Frames, code: bytes, text: str) -> None:
        self._refused += 1
        self._events.append(RequestRefused(frames[0], text))
        self._front.append([*envelope(frames), *error_body(code, text)])

    # Messages out.

    def ports_to_send(self) -> tuple[str, ...]:
        if self._back:
            return self.PORTS if self._front else (BACK,)
        return (FRONT,) if self._front else ()

    def messages_to_send(self, port: PortId) -> list[Frames]:
        if port == FRONT:
            out, self._front = self._front, []
        else:
            out, self._back = self._back, []
        return out

    def wants_to_read(self, port: PortId) -> bool:
        """Clients wait in ZeroMQ while no worker could take what they ask; a queue that drains tells them so."""
        return port != FRONT or bool(self._idle) or self._draining

    def commands(self) -> list[Command]:
        return []

    def send_failed(self, port: PortId, frames: Frames, reason: SendFailure, now: float) -> None:
        if port == FRONT:
            self._undelivered += 1
            self._drops.add(f"client-{reason.value}")
            return
        worker = self._workers.get(frames[0])
        if worker is None:
            return
        has_it, request, head = True, worker.request, len(worker.head)
        if request is not None:
            if shares_envelope(frames, head, request[FRAMES]):
                worker.request = (*request[:FRAMES], frames[head:])
            # What fails is this request, or another before it; or a heartbeat, and then a request of the same turn will
            # fail too, when the worker is forgotten already.
            has_it = len(frames) == head + 1 and worker.given_at != now
        self._lose(worker, WorkerLost(worker.id, reason.value), now, has_it=has_it)

    # Time.

    def next_timer(self) -> float | None:
        when, overdue_at = self._waiting.next_expiry(), self._overdue_at
        if overdue_at is None and self._timeout is not None and self._busy:
            # It stays so when this worker has replied: to come too early, once in a while, is cheaper than to look for
            # the next one at each turn.
            overdue_at = self._overdue_at = next(iter(self._busy.values())).given_at + self._timeout
        if when is None or overdue_at is None:
            return overdue_at if when is None else when
        return min(when, overdue_at)

    def handle_timer(self, now: float) -> None:
        timeout = self._timeout
        if timeout is not None and (self._overdue_at is None or self._overdue_at <= now):
            self._overdue_at = None
            for worker in list(takewhile(lambda worker: worker.given_at + timeout <= now, self._busy.values())):
                self._lose(worker, WorkerLost(worker.id, _OVERDUE), now)
        while (expiry := self._waiting.next_expiry()) is not None and expiry <= now:
            self._expire(self._waiting.take())

    # The end.

    def drain(self, now: float) -> None:
        """Give out no more work: what waits is refused, what is in a worker's hands may come back."""
        self._draining = True
        while self._waiting:
            self._refuse(self._waiting.take()[FRAMES], CODE_DRAINING, _STOPPING)

    @property
    def drained(self) -> bool:
        """Whether no request is in a worker's hands."""
        return not self._busy

    def shut_down(self, now: float) -> None:
        """Tell the clients whose requests are still with workers. Workers find out by themselves: neither protocol
        has a goodbye."""
        self.drain(now)
        for worker in self._busy.values():
            assert worker.request is not None
            self._refuse(worker.request[FRAMES], CODE_DRAINING, _STOPPING)
            worker.request = worker.deadline = None
            del self._workers[worker.id]
        self._busy.clear()

    # Telling.

    def events(self) -> list[Event]:
        self._drops.tell(self._events)
        events, self._events = self._events, []
        return events

    def statistics(self) -> QueueStatistics:
        return QueueStatistics(
            requests=self._requests,
            replies=self._replies,
            requeued=self._requeued,
            expired=self._expired,
            refused=self._refused,
            lost=self._lost,
            undelivered=self._undelivered,
            workers_lost=self._workers_lost,
            heartbeats=self._heartbeats,
            workers=len(self._workers),
            queued=len(self._waiting),
            queued_bytes=self._waiting.bytes,
            in_flight=len(self._busy),
            dropped=dict(self._drops.totals),
        )

    def check_invariants(self) -> None:
        self._waiting.check_invariants()
        idle = {worker.id: worker for worker in self._idle.living()}
        assert not idle.keys() & self._busy.keys(), "a worker is idle and busy"
        assert idle | self._busy == self._workers, "a worker is neither"
        assert len(self._idle) == len(idle) + self._idle.lost, "a worker is in line twice"
        assert not self._idle or not self._idle[0].lost, "nobody is idle, but it seems so"
        assert not (self._idle and self._waiting), "work and a worker wait for each other"
        assert not (self._draining and self._waiting), "what waits is never answered"
        for peer, worker in self._workers.items():
            assert worker.id == peer and not worker.lost and (worker.request is None) == (peer in idle)
        before = float("-inf")
        for worker in self._busy.values():
            assert worker.request is not None
            _, _, deliveries, frames = worker.request
            assert 0 <= deliveries < self.options.deliveries_max
            assert envelope(frames)
            assert before <= worker.given_at, "an overdue worker hides behind another"
            before = worker.given_at
