"""What the Simple and the Paranoid Pirate queue share: clients, requests that wait, workers in turn. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import ClassVar

from zpatterns.core import Command, Drops, Event, Frames, PortId, SendFailure
from zpatterns.pirate.events import RequestExpired, RequestLost, RequestRefused, RequestRequeued, WorkerLost
from zpatterns.pirate.queue_state import QueueOptions, QueueStatistics, Request, Waiting, Worker
from zpatterns.pirate.wire import EMPTY, Dialect, envelope_depth
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
        self._head = self.DIALECT.head
        self._ttl = options.request_ttl
        self._timeout = options.worker_timeout
        self._front: list[Frames] = []
        self._back: list[Frames] = []
        self._events: list[Event] = []
        # Every worker is in one of the two; the longest idle, and the longest busy, come first.
        self._idle: OrderedDict[bytes, Worker] = OrderedDict()
        self._busy: OrderedDict[bytes, Worker] = OrderedDict()
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
        idle = self._idle
        for frames in batch:
            # A REQ sends an empty frame before its body; behind more ROUTERs there is more before that.
            depth = 2 if len(frames) > 2 and not frames[1] else envelope_depth(frames, 1)
            if not depth:
                self._drops.add("invalid")
                continue
            self._requests += 1
            request = Request(frames, depth, now + self._ttl, self._requests)
            if self._draining:
                self._refuse(request, CODE_DRAINING, _STOPPING)
            elif idle:
                self._assign(idle.popitem(last=False)[1], request, now)
            elif (
                len(self._waiting) >= self.options.queue_max
                or self._waiting.bytes + memory_of(frames) > self.options.queue_bytes_max
            ):
                self._refuse(request, CODE_OVERLOADED, "the queue is full")
            else:
                self._waiting.add(request)

    def _receive_workers(self, batch: Iterable[Frames], now: float) -> None:
        raise NotImplementedError

    # Workers and their work.

    def _assign(self, worker: Worker, request: Request, now: float) -> None:
        worker.request = request
        worker.given_at = now
        self._busy[worker.id] = worker
        request.deliveries += 1
        self._back.append([worker.id, *self._head, *request.frames])

    def _ready(self, worker: Worker, now: float) -> None:
        """A worker that is neither idle nor busy can take a request: the first that waits, or it waits itself."""
        waiting = self._waiting
        while waiting.bytes:  # as `while waiting`, without a call for each reply
            request = waiting.take()
            if request.expiry > now:
                self._assign(worker, request, now)
                return
            self._expire(request)
        self._idle[worker.id] = worker

    def _lose(self, worker: Worker, event: Event, now: float) -> None:
        """Forget a worker; its request goes to another one."""
        self._workers_lost += 1
        self._events.append(event)
        worker.deadline = None
        if self._busy.pop(worker.id, None) is None:
            self._idle.pop(worker.id, None)
        request, worker.request = worker.request, None
        if request is not None:
            self._requeue(request, now)

    def _requeue(self, request: Request, now: float) -> None:
        if request.deliveries >= self.options.deliveries_max or len(request.frames) == request.depth:
            self._give_up(request)
        elif self._draining:
            # Another queue may have it: this answer invites the client to try again.
            self._refuse(request, CODE_DRAINING, _STOPPING)
        elif request.expiry <= now:
            self._expire(request)
        else:
            self._requeued += 1
            self._events.append(RequestRequeued(request.client, request.deliveries))
            if self._idle:
                self._assign(self._idle.popitem(last=False)[1], request, now)
            else:
                # It was accepted once, so the limits of the queue do not apply to it again.
                self._waiting.add(request)

    def _give_up(self, request: Request) -> None:
        self._lost += 1
        self._events.append(RequestLost(request.client, request.deliveries))
        count = "1 delivery" if request.deliveries == 1 else f"{request.deliveries} deliveries"
        text = f"its worker was lost after {count}; see the workers' logs"
        self._front.append([*request.envelope, *error_body(CODE_LOST, text)])

    def _expire(self, request: Request) -> None:
        self._expired += 1
        self._events.append(RequestExpired(request.client))

    def _refuse(self, request: Request, code: bytes, text: str) -> None:
        self._refused += 1
        self._events.append(RequestRefused(request.client, text))
        self._front.append([*request.envelope, *error_body(code, text)])

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
        worker = self._busy.get(frames[0]) or self._idle.get(frames[0])
        if worker is None:
            return
        request = worker.request
        if request is not None:
            head = 1 + len(self._head)
            if frames[head : head + request.depth] == request.envelope:
                request.frames = frames[head:]
            # What fails is this request, or another before it; or a heartbeat, and then a request of the same turn will
            # fail too, when the worker is forgotten already.
            if len(frames) > head + 1 or worker.given_at == now:
                request.deliveries -= 1
        self._lose(worker, WorkerLost(worker.id, reason.value), now)

    # Time.

    def next_timer(self) -> float | None:
        when = self._waiting.next_expiry()
        if self._timeout is not None and self._busy:
            overdue = next(iter(self._busy.values())).given_at + self._timeout
            if when is None or overdue < when:
                when = overdue
        return when

    def handle_timer(self, now: float) -> None:
        if self._timeout is not None:
            while self._busy and (worker := next(iter(self._busy.values()))).given_at + self._timeout <= now:
                self._lose(worker, WorkerLost(worker.id, _OVERDUE), now)
        while (expiry := self._waiting.next_expiry()) is not None and expiry <= now:
            self._expire(self._waiting.take())

    # The end.

    def drain(self, now: float) -> None:
        """Give out no more work: what waits is refused, what is in a worker's hands may come back."""
        self._draining = True
        while self._waiting:
            self._refuse(self._waiting.take(), CODE_DRAINING, _STOPPING)

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
            self._refuse(worker.request, CODE_DRAINING, _STOPPING)
            worker.request = worker.deadline = None
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
            workers=len(self._idle) + len(self._busy),
            queued=len(self._waiting),
            queued_bytes=self._waiting.bytes,
            in_flight=len(self._busy),
            dropped=dict(self._drops.totals),
        )

    def check_invariants(self) -> None:
        self._waiting.check_invariants()
        assert not self._idle.keys() & self._busy.keys(), "a worker is idle and busy"
        assert not (self._idle and self._waiting), "work and a worker wait for each other"
        assert not (self._draining and self._waiting), "what waits is never answered"
        for peer, worker in self._idle.items():
            assert worker.id == peer and worker.request is None
        before = float("-inf")
        for peer, worker in self._busy.items():
            request = worker.request
            assert worker.id == peer and request is not None
            assert 0 < request.deliveries <= self.options.deliveries_max
            assert request.frames[request.depth - 1] == EMPTY and EMPTY not in request.frames[1 : request.depth - 1]
            assert before <= worker.given_at, "an overdue worker hides behind another"
            before = worker.given_at
