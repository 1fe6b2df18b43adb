"""What a Majordomo broker remembers: its services, workers and requests, and its options. Pure."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from zpatterns.core import Frames
from zpatterns.mdp.wire import WorkerDialect
from zpatterns.timing import Deadlines, Liveness
from zpatterns.wire import memory_of


class OnWorkerLoss(enum.Enum):
    """What becomes of a request whose worker was lost."""

    RETRY = "retry"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class BrokerOptions:
    """Limits and times of a broker, in seconds and bytes; :class:`zpatterns.mdp.Broker` explains them."""

    liveness: Liveness = field(default_factory=lambda: Liveness(2.5, 3))
    queue_max: int = 200_000
    queue_bytes_max: int = 512 * 2**20
    services_max: int = 100_000
    request_ttl: float = 60.0
    deliveries_max: int = 3
    held_bytes_max: int = 16 * 2**20
    on_worker_loss: OnWorkerLoss = OnWorkerLoss.RETRY

    def __post_init__(self) -> None:
        for name in ("queue_max", "queue_bytes_max", "services_max", "deliveries_max", "held_bytes_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")
        if not 0 < self.request_ttl < float("inf"):
            raise ValueError(f"request_ttl must be a positive number of seconds, not {self.request_ttl!r}")


@dataclass(frozen=True, slots=True)
class BrokerStatistics:
    """Counters since the start, then what is held now: `workers` to `in_flight`.

    `lost`: requests given up with their workers; `undelivered`: replies whose client was gone or took nothing;
    `dropped`: messages by reason.
    """

    requests: int
    replies: int
    partials: int
    requeued: int
    expired: int
    refused: int
    lost: int
    undelivered: int
    workers_lost: int
    heartbeats: int
    workers: int
    services: int
    queued: int
    queued_bytes: int
    in_flight: int
    dropped: dict[str, int]


class Request:
    """One request of a client, from its arrival to its last reply."""

    __slots__ = (
        "body",
        "client",
        "deadline",
        "deliveries",
        "expiry",
        "held",
        "held_bytes",
        "is_queued",
        "over",
        "service",
        "streaming",
        "version",
    )

    def __init__(self, client: bytes, version: int, service: Service, body: Frames, expiry: float) -> None:
        self.client = client
        self.version = version
        self.service = service
        self.body = body
        self.expiry = expiry
        self.deadline: float | None = None  # the expiry while it is queued, for Deadlines
        self.deliveries = 0
        self.is_queued = False
        self.over = False  # the client is to get nothing more
        self.streaming = False  # a PARTIAL has been forwarded
        self.held: Frames | None = None  # parts for a client that can take only one reply
        self.held_bytes = 0


class Worker:
    """One registered worker, idle or with one request in hand."""

    __slots__ = ("assigned_at", "deadline", "dialect", "expiry", "id", "idle", "request", "sent_at", "service")

    def __init__(self, id: bytes, dialect: WorkerDialect, service: Service, now: float) -> None:
        self.id = id
        self.dialect = dialect
        self.service = service
        self.request: Request | None = None
        self.idle = False
        self.expiry = now
        self.sent_at = now
        self.assigned_at: float | None = None
        self.deadline: float | None = None  # when to look at it next, for Deadlines


class Service:
    """The requests that wait for a service and the workers that wait for requests; never both."""

    __slots__ = ("idle", "name", "queued", "requests", "stale", "workers")

    def __init__(self, name: bytes) -> None:
        self.name = name
        # The oldest first; with expired ones until they come to the front. The Backlog does the counting.
        self.requests: deque[Request] = deque()
        self.queued = 0
        # The least recently used worker first. One that is gone stays until it is popped or most are such:
        # taking it from the middle would cost a scan.
        self.idle: deque[Worker] = deque()
        self.stale = 0
        self.workers = 0

    def next_idle(self) -> Worker | None:
        """Take the worker that has been idle for longest."""
        idle = self.idle
        while idle:
            worker = idle.popleft()
            if worker.idle:
                worker.idle = False
                return worker
            self.stale -= 1
        return None

    def discard_idle(self, worker: Worker) -> None:
        """A worker that waits here is gone."""
        worker.idle = False
        self.stale += 1
        if self.stale > 16 and self.stale * 2 > len(self.idle):
            self.idle = deque(other for other in self.idle if other.idle)
            self.stale = 0


class Backlog:
    """All the requests that wait, whatever their service: how many, how large, and until when."""

    __slots__ = ("_expiries", "bytes", "count")

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self._expiries: Deadlines[Request] = Deadlines()

    def append(self, request: Request) -> None:
        """The request waits behind all others of its service."""
        request.service.requests.append(request)
        self._add(request)

    def append_first(self, request: Request) -> None:
        """The request, which had its turn before, waits in front of all others of its service."""
        request.service.requests.appendleft(request)
        self._add(request)

    def take(self, service: Service) -> Request:
        """Take the request that is first in the queue of `service`, which must not be empty."""
        while not (request := service.requests.popleft()).is_queued:
            pass
        self._remove(request)
        return request

    def take_expired(self, now: float) -> list[Request]:
        """Take the requests whose time has run out."""
        expired = self._expiries.due(now)
        for request in expired:
            self._remove(request)
            requests = request.service.requests
            while requests and not requests[0].is_queued:
                requests.popleft()
        return expired

    def next_expiry(self) -> float | None:
        """When to call :meth:`take_expired`."""
        return self._expiries.next()

    def check_invariants(self, services: Mapping[bytes, Service]) -> None:
        """Assert that the counts are those of `services`, all that there are."""
        waiting = [request for service in services.values() for request in service.requests if request.is_queued]
        assert self.count == len(waiting), "queued requests are miscounted"
        assert self.bytes == sum(memory_of(request.body) for request in waiting), "queued bytes are miscounted"
        for service in services.values():
            assert service.queued == sum(request.is_queued for request in service.requests)
        assert all(request.deadline is not None for request in waiting), "a queued request would wait for ever"

    def _add(self, request: Request) -> None:
        request.is_queued = True
        request.deadline = request.expiry
        request.service.queued += 1
        self.count += 1
        self.bytes += memory_of(request.body)
        self._expiries.add(request)

    def _remove(self, request: Request) -> None:
        request.is_queued = False
        request.deadline = None
        request.service.queued -= 1
        self.count -= 1
        self.bytes -= memory_of(request.body)


class Streams:
    """The requests of which a PARTIAL has been forwarded, by client."""

    __slots__ = ("_by_client",)

    def __init__(self) -> None:
        self._by_client: dict[bytes, list[Request]] = {}

    def begin(self, request: Request) -> None:
        """Its first PARTIAL goes out."""
        request.streaming = True
        self._by_client.setdefault(request.client, []).append(request)

    def end(self, request: Request) -> None:
        """Its FINAL went out, or it was given up."""
        requests = self._by_client.get(request.client, [])
        if request in requests:
            requests.remove(request)
            if not requests:
                del self._by_client[request.client]

    def break_off(self, client: bytes) -> None:
        """A PARTIAL did not reach `client`: a stream with a hole is worse than one that ends, and which of them
        it was cannot be told, so nothing more of any is sent."""
        for request in self._by_client.pop(client, ()):
            request.over = True
