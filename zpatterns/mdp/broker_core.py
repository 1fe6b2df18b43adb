"""The Majordomo broker as a state machine: 7/MDP, 18/MDP and 8/MMI on one ROUTER. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from zpatterns.core import Command, Drops, Event, Frames, PortId, SendFailure
from zpatterns.mdp import mmi, wire
from zpatterns.mdp.broker_state import (
    Backlog,
    BrokerOptions,
    BrokerStatistics,
    OnWorkerLoss,
    Request,
    Service,
    Streams,
    Worker,
)
from zpatterns.mdp.events import (
    RequestExpired,
    RequestLost,
    RequestRefused,
    RequestRequeued,
    WorkerExpired,
    WorkerLeft,
    WorkerLost,
    WorkerRegistered,
)
from zpatterns.mdp.wire import CLIENT_1, CLIENT_2, EMPTY, REPLY_1, WORKER_1, WORKER_2
from zpatterns.timing import Deadlines
from zpatterns.wire import memory_of

PORT = "broker"

_DIALECT_1, _DIALECT_2 = wire.WORKER_DIALECTS["0.1"], wire.WORKER_DIALECTS["0.2"]

# Why a worker was removed.
_DISCONNECTED = "disconnected"
_EXPIRED = "expired"
_STOPPED = "broker stopped"
_GOODBYES = (_DISCONNECTED, _STOPPED)
_STOPPING = "the broker is shutting down; ask another one"


class BrokerCore:
    """Routes requests of clients to workers by service, the least recently used worker first."""

    PORTS: ClassVar[tuple[str, ...]] = (PORT,)

    def __init__(self, options: BrokerOptions | None = None) -> None:
        self.options = options or BrokerOptions()
        self._interval = self.options.liveness.interval
        self._lease = self.options.liveness.lease
        self._ttl = self.options.request_ttl
        self._deliveries_max = self.options.deliveries_max if self.options.on_worker_loss is OnWorkerLoss.RETRY else 1
        self._out: list[Frames] = []
        self._events: list[Event] = []
        self._workers: dict[bytes, Worker] = {}
        self._services: dict[bytes, Service] = {}
        self._workerless = 0  # services with requests that wait and no worker
        self._streams = Streams()
        self._checks: Deadlines[Worker] = Deadlines()
        self._backlog = Backlog()
        self._in_flight = 0
        self._last_now = float("inf")
        self._grace_until = 0.0
        self._draining = self._stopped = False
        self._drops = Drops()
        self._requests = self._replies = self._partials = self._requeued = self._expired = 0
        self._refused = self._lost = self._undelivered = self._workers_lost = self._heartbeats = 0

    # Messages in.

    def receive_many(self, batch: Iterable[Frames], now: float, port: PortId = PORT) -> None:
        self._notice_stall(now)
        workers = self._workers
        for frames in batch:
            count = len(frames)
            # The two messages that come most are told apart here; all else takes the longer way.
            if count > 3 and not frames[1]:
                header = frames[2]
                if header == WORKER_1:
                    worker = workers.get(frames[0])
                    if worker is None:
                        self._stranger(frames[0], _DIALECT_1, frames[3], frames[4:], now)
                    elif frames[3] == REPLY_1 and worker.dialect is _DIALECT_1 and count > 6 and not frames[5]:
                        self._reply(worker, frames[4], frames[6:], now)
                    else:
                        self._worker_message(worker, _DIALECT_1, frames[3], frames[4:], now)
                    continue
                if header == CLIENT_1 and count > 4:
                    self._request(frames[0], 1, frames[3], frames[4:], now)
                    continue
            elif count > 2 and frames[1] == WORKER_2:
                worker = workers.get(frames[0])
                if worker is None:
                    self._stranger(frames[0], _DIALECT_2, frames[2], frames[3:], now)
                else:
                    self._worker_message(worker, _DIALECT_2, frames[2], frames[3:], now)
                continue
            elif count > 4 and frames[1] == CLIENT_2 and frames[2] == wire.CLIENT_REQUEST_2:
                self._request(frames[0], 2, frames[3], frames[4:], now)
                continue
            self._invalid(workers.get(frames[0]) if frames else None, now)

    def _request(self, client: bytes, version: int, name: bytes, body: Frames, now: float) -> None:
        service = self._services.get(name)
        if service is None:
            if name.startswith(wire.MMI_PREFIX):
                self._requests += 1
                self._answer_mmi(client, version, name, body, now)
                return
            if not wire.is_service_name(name):
                self._drops.add("bad-service-name")
                return
        self._requests += 1
        if self._draining:
            self._refuse(client, version, name, wire.CODE_DRAINING, _STOPPING)
            return
        if service is None:
            if self._workerless >= self.options.services_max:
                self._refuse(client, version, name, wire.CODE_OVERLOADED, "too many services without a worker wait")
                return
            service = self._services[name] = Service(name)
            self._workerless += 1
        request = Request(client, version, service, body, now + self._ttl)
        if not service.queued:
            worker = service.next_idle()
            if worker is not None:
                self._assign(worker, request, now)
                return
        if (
            service.queued >= self.options.queue_max
            or self._backlog.bytes + memory_of(body) > self.options.queue_bytes_max
        ):
            self._refuse(client, version, name, wire.CODE_OVERLOADED, f"the queue of service {name.decode()!r} is full")
            self._forget_if_unused(service)
            return
        self._backlog.append(request)

    def _reply(self, worker: Worker, client: bytes, body: Frames, now: float) -> None:
        """REPLY or FINAL: the worker is done with its request."""
        request = worker.request
        if request is None or request.client != client:
            self._dismiss(worker, "unexpected", now)
            return
        worker.expiry = now + self._lease
        worker.request = None
        self._in_flight -= 1
        request.body = []  # the heap of expiries lets go of it only later
        if not request.over:
            self._replies += 1
            if request.held is not None and wire.parse_error(body) is None:
                body = request.held + body  # but an error stands alone, or nobody would know it for one
            if request.version == 1:
                self._out.append([client, EMPTY, CLIENT_1, request.service.name, *body])
            else:
                self._out.append([client, CLIENT_2, wire.CLIENT_FINAL_2, request.service.name, *body])
        if request.streaming:
            self._streams.end(request)
        self._ready(worker, now)

    def _partial(self, worker: Worker, client: bytes, body: Frames, now: float) -> None:
        request = worker.request
        if request is None or request.client != client:
            self._dismiss(worker, "unexpected", now)
            return
        worker.expiry = now + self._lease
        if request.over:
            return
        self._partials += 1
        if request.version == 2:
            if not request.streaming:
                self._streams.begin(request)
            self._out.append([client, CLIENT_2, wire.CLIENT_PARTIAL_2, request.service.name, *body])
            return
        # A 0.1 client gets one REPLY: all the parts, then the last (18/MDP leaves this open).
        if request.held is None:
            request.held = []
        request.held += body
        request.held_bytes += sum(map(len, body)) + 64 * len(body)
        if request.held_bytes > self.options.held_bytes_max:
            request.held, request.over = None, True
            text = f"the parts of the reply exceed {self.options.held_bytes_max} bytes; use protocol 0.2"
            self._send_client(client, 1, request.service.name, wire.error_body(wire.CODE_TOO_LARGE, text))

    def _worker_message(
        self, worker: Worker, dialect: wire.WorkerDialect, command: bytes, rest: Frames, now: float
    ) -> None:
        """A message of a registered worker, other than a plain 0.1 REPLY."""
        if worker.dialect is not dialect:
            self._dismiss(worker, "unexpected", now)
        elif command == dialect.heartbeat and not rest:
            worker.expiry = now + self._lease
        elif command == dialect.disconnect and not rest:
            self._remove(worker, _DISCONNECTED, now)
        elif command == dialect.final and len(rest) > 2 and not rest[1]:
            self._reply(worker, rest[0], rest[2:], now)
        elif command == dialect.partial and len(rest) > 2 and not rest[1]:
            self._partial(worker, rest[0], rest[2:], now)
        elif command == dialect.ready and len(rest) == 1:
            self._dismiss(worker, "unexpected", now)  # 7/MDP: "The worker MUST NOT send a further READY."
        else:
            self._invalid(worker, now)

    def _stranger(self, peer: bytes, dialect: wire.WorkerDialect, command: bytes, rest: Frames, now: float) -> None:
        """A worker's message from a peer that is not registered."""
        if command == dialect.ready and len(rest) == 1 and not self._stopped:
            name = rest[0]
            if name.startswith(wire.MMI_PREFIX):
                self._drops.add("reserved-service-name")
                self._say(peer, dialect, dialect.disconnect)
            elif not wire.is_service_name(name):
                self._drops.add("bad-service-name")
            else:
                self._register(peer, dialect, name, now)
        elif command == dialect.disconnect and not rest:
            pass  # 7/MDP: "The worker MAY send DISCONNECT at any time, including before READY."
        elif (
            self._stopped
            or (command == dialect.heartbeat and not rest)
            or (command in (dialect.final, dialect.partial) and len(rest) > 2 and not rest[1])
        ):
            # Valid but unexpected: it was registered once, its READY was lost with an earlier broker, or we leave.
            self._drops.add("not-registered")
            self._say(peer, dialect, dialect.disconnect)
        else:
            self._drops.add("invalid")

    def _register(self, peer: bytes, dialect: wire.WorkerDialect, name: bytes, now: float) -> None:
        service = self._services.get(name)
        if service is None:
            # No limit here: those who ask for names that do not exist must not keep new services' workers out.
            service = self._services[name] = Service(name)
        elif not service.workers:
            self._workerless -= 1
        worker = self._workers[peer] = Worker(peer, dialect, service, now)
        service.workers += 1
        worker.expiry = now + self._lease
        worker.deadline = now + self._interval
        self._checks.add(worker)
        self._events.append(WorkerRegistered(peer, name, dialect.version))
        self._ready(worker, now)

    def _invalid(self, worker: Worker | None, now: float) -> None:
        """7/MDP: "SHOULD respond to invalid messages by dropping them and treating that peer as invalid"."""
        if worker is None:
            self._drops.add("invalid")
        else:
            self._dismiss(worker, "invalid", now)

    def _dismiss(self, worker: Worker, reason: str, now: float) -> None:
        """7/MDP: "MUST respond to any valid but unexpected command by sending DISCONNECT"."""
        self._drops.add(reason)
        self._say(worker.id, worker.dialect, worker.dialect.disconnect)
        self._remove(worker, reason, now)

    # Queues.

    def _assign(self, worker: Worker, request: Request, now: float) -> None:
        worker.request = request
        worker.sent_at = worker.assigned_at = now
        request.deliveries += 1
        self._in_flight += 1
        if worker.dialect.partial is None:
            self._out.append([worker.id, EMPTY, WORKER_1, wire.REQUEST_1, request.client, EMPTY, *request.body])
        else:
            self._out.append([worker.id, WORKER_2, wire.REQUEST_2, request.client, EMPTY, *request.body])

    def _ready(self, worker: Worker, now: float) -> None:
        """The worker can take a request: the oldest that waits, or it waits itself."""
        service = worker.service
        while service.queued and not self._draining:
            request = self._backlog.take(service)
            if request.expiry > now:
                self._assign(worker, request, now)
                return
            self._expire(request)
        worker.idle = True
        service.idle.append(worker)

    def _expire(self, request: Request) -> None:
        request.body = []  # it may be some time before the queue lets go of it
        self._expired += 1
        self._events.append(RequestExpired(request.service.name, request.client))

    def _remove(self, worker: Worker, reason: str, now: float) -> None:
        """Forget a worker; its request goes to another one."""
        service = worker.service
        del self._workers[worker.id]
        service.workers -= 1
        self._workerless += not service.workers
        worker.deadline = None
        if worker.idle:
            service.discard_idle(worker)
        request, worker.request = worker.request, None
        if request is None and reason in _GOODBYES:
            self._events.append(WorkerLeft(worker.id, service.name, reason))
        else:
            self._workers_lost += 1
            if reason == _EXPIRED:
                self._events.append(WorkerExpired(worker.id, service.name))
            else:
                self._events.append(WorkerLost(worker.id, service.name, reason))
        if request is not None:
            self._in_flight -= 1
            self._requeue(request, now)
        self._forget_if_unused(service)

    def _requeue(self, request: Request, now: float) -> None:
        if request.streaming:
            self._streams.end(request)
        if request.over:
            request.body = []
            return
        name = request.service.name
        if request.streaming or request.deliveries >= self._deliveries_max:
            request.body = []
            self._lost += 1
            self._events.append(RequestLost(name, request.client, request.deliveries))
            count = f"at delivery {request.deliveries} of {self._deliveries_max}"
            text = f"its worker was lost {'in the middle of its stream' if request.streaming else count}; see its log"
            self._send_client(request.client, request.version, name, wire.error_body(wire.CODE_LOST, text))
        elif self._draining:
            # Another broker may have it: this answer invites the client to try again.
            self._refuse(request.client, request.version, name, wire.CODE_DRAINING, _STOPPING)
        elif request.expiry <= now:
            self._expire(request)
        else:
            request.held, request.held_bytes = None, 0
            self._requeued += 1
            self._events.append(RequestRequeued(name, request.client, request.deliveries))
            worker = request.service.next_idle()
            if worker is not None:
                self._assign(worker, request, now)
                return
            # It was accepted once, so the limits of the queue do not apply to it again.
            self._backlog.append_first(request)

    def _forget_if_unused(self, service: Service) -> None:
        if not service.workers and not service.queued and self._services.pop(service.name, None) is not None:
            self._workerless -= 1

    # Messages out.

    def _say(self, peer: bytes, dialect: wire.WorkerDialect, command: bytes) -> None:
        self._out.append([peer, *dialect.build(command)])

    def _send_client(self, client: bytes, version: int, service: bytes, body: Frames) -> None:
        if version == 1:
            self._out.append([client, EMPTY, CLIENT_1, service, *body])
        else:
            self._out.append([client, CLIENT_2, wire.CLIENT_FINAL_2, service, *body])

    def _answer_mmi(self, client: bytes, version: int, name: bytes, body: Frames, now: float) -> None:
        reply = mmi.answer(
            name, body, services=self._services, workers=self._workers, statistics=self.statistics, now=now
        )
        self._send_client(client, version, name, reply)

    def _refuse(self, client: bytes, version: int, service: bytes, code: bytes, text: str) -> None:
        self._refused += 1
        self._events.append(RequestRefused(service, client, text))
        self._send_client(client, version, service, wire.error_body(code, text))

    def ports_to_send(self) -> tuple[str, ...]:
        return self.PORTS if self._out else ()

    def messages_to_send(self, port: PortId = PORT) -> list[Frames]:
        out, self._out = self._out, []
        return out

    def wants_to_read(self, port: PortId = PORT) -> bool:
        return True

    def commands(self) -> list[Command]:
        return []

    def send_failed(self, port: PortId, frames: Frames, reason: SendFailure, now: float) -> None:
        peer = frames[0]
        if frames[1] == WORKER_2 or (not frames[1] and frames[2] == WORKER_1):
            worker = self._workers.get(peer)
            if worker is None:
                return
            command = frames[2] if frames[1] else frames[3]
            request = worker.request
            # Where a heartbeat fails, a request of the same turn will too, and then the worker is forgotten already.
            is_it = command == worker.dialect.request and request and frames[5 if frames[1] else 6 :] == request.body
            if request is not None and (is_it or worker.assigned_at == now):
                request.deliveries -= 1
            self._remove(worker, reason.value, now)
            return
        self._undelivered += 1
        self._drops.add(f"client-{reason.value}")
        if frames[1] == CLIENT_2 and frames[2] == wire.CLIENT_PARTIAL_2:
            self._streams.break_off(peer)

    # Time.

    def _notice_stall(self, now: float) -> None:
        """If we ourselves stood still, the workers' heartbeats wait unread: hear them out before judging."""
        if now - self._last_now > self._interval * 1.5:
            self._grace_until = now + self._interval
        self._last_now = now

    def next_timer(self) -> float | None:
        check, expiry = self._checks.next(), self._backlog.next_expiry()
        if check is None or expiry is None:
            return expiry if check is None else check
        return min(check, expiry)

    def handle_timer(self, now: float) -> None:
        self._notice_stall(now)
        # Heartbeats may go a little early, so that many workers share one wake-up.
        soon = now + self._interval / 20
        # The idle first, or one that is expired would be given the request of another that is.
        for worker in sorted(self._checks.due(soon), key=lambda worker: not worker.idle):
            if worker.expiry <= now and now >= self._grace_until:
                self._remove(worker, _EXPIRED, now)
                continue
            if worker.sent_at + self._interval <= soon:
                self._say(worker.id, worker.dialect, worker.dialect.heartbeat)
                self._heartbeats += 1
                worker.sent_at = now
            worker.deadline = min(worker.sent_at + self._interval, max(worker.expiry, self._grace_until))
            self._checks.add(worker)
        for request in self._backlog.take_expired(now):
            self._expire(request)
            self._forget_if_unused(request.service)

    # The end.

    def drain(self, now: float) -> None:
        """Give out no more work: what is queued is refused, what is in a worker's hands may come back."""
        self._draining = True
        for service in list(self._services.values()):
            while service.queued:
                request = self._backlog.take(service)
                self._refuse(request.client, request.version, service.name, wire.CODE_DRAINING, _STOPPING)
            self._forget_if_unused(service)

    @property
    def drained(self) -> bool:
        """Whether no request is in a worker's hands."""
        return not self._in_flight

    def shut_down(self, now: float) -> None:
        """Say DISCONNECT to every worker, those who come back too: they turn to another broker at once."""
        self._draining = self._stopped = True
        for worker in list(self._workers.values()):
            self._say(worker.id, worker.dialect, worker.dialect.disconnect)
            self._remove(worker, _STOPPED, now)

    def check_invariants(self) -> None:
        self._backlog.check_invariants(self._services)
        assert self._workerless == sum(not service.workers for service in self._services.values())
        assert self._in_flight == sum(worker.request is not None for worker in self._workers.values())
        for name, service in self._services.items():
            assert service.name == name
            idle = [worker for worker in service.idle if worker.idle]
            assert len(service.idle) - len(idle) == service.stale, "stale entries are miscounted"
            assert len(set(map(id, idle))) == len(idle), "a worker waits twice"
            assert service.workers == sum(worker.service is service for worker in self._workers.values())
            assert service.workers or service.queued, "an unused service is remembered"
            assert self._draining or not (idle and service.queued), "work and a worker wait for each other"
        for peer, worker in self._workers.items():
            assert worker.id == peer
            assert self._services.get(worker.service.name) is worker.service
            assert worker.idle == (worker.request is None), "a worker is neither idle nor busy"
            assert worker.deadline is not None, "nobody watches a worker"
            request = worker.request
            assert request is None or (not request.is_queued and 0 < request.deliveries <= self._deliveries_max)

    # Telling.

    def events(self) -> list[Event]:
        self._drops.tell(self._events)
        events, self._events = self._events, []
        return events

    def statistics(self) -> BrokerStatistics:
        return BrokerStatistics(
            requests=self._requests,
            replies=self._replies,
            partials=self._partials,
            requeued=self._requeued,
            expired=self._expired,
            refused=self._refused,
            lost=self._lost,
            undelivered=self._undelivered,
            workers_lost=self._workers_lost,
            heartbeats=self._heartbeats,
            workers=len(self._workers),
            services=len(self._services),
            queued=self._backlog.count,
            queued_bytes=self._backlog.bytes,
            in_flight=self._in_flight,
            dropped=dict(self._drops.totals),
        )
