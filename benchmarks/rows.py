"""What is measured: one function a row. Each starts all its processes anew for every sample."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.common import Row, Sample, Wanted, interleave, measure
from benchmarks.processes import BenchmarkError, Child, Children, raise_descriptor_limit

RAW, OURS, PEER = "raw loop", "ours", "peer"
_RATIOS = ((OURS, RAW), (OURS, PEER))

_SERVICE = "echo"
_SIZE = 64
"""Bytes of every body."""
_WORKERS = 32
_INTERVAL = 2.5
"""Seconds between the heartbeats of a worker, as brokers expect by default."""
_SLOW_INTERVAL = 30.0
DEFAULT_ENDPOINT = "tcp://127.0.0.1:5555"
_SPARE_DESCRIPTORS = 500


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything one sample is."""

    rounds: int
    requests: int = 100_000
    async_requests: int = 20_000
    pings: int = 5_000
    queued: int = 100_000
    idle: int = 10_000
    watch: float = 10.0
    starts: int = 3
    keys: int = 1_000_000
    joins: int = 30


@dataclass(frozen=True, slots=True)
class ServerBench:
    """What the command line of a benchmark of servers asks for."""

    sizes: Sizes
    peer: str | None
    peer_endpoint: str

    @property
    def sides(self) -> tuple[str, ...]:
        return (OURS, RAW, PEER) if self.peer else (OURS, RAW)

    def listening_peer(self, children: Children) -> tuple[Child, str]:
        """Start the peer; its endpoint too."""
        assert self.peer is not None
        return children.listener(self.peer, self.peer_endpoint), self.peer_endpoint


QUICK = Sizes(
    rounds=1,
    requests=500,
    async_requests=200,
    pings=50,
    queued=500,
    idle=200,
    watch=0.5,
    starts=1,
    keys=5_000,
    joins=2,
)


@dataclass(frozen=True, slots=True)
class Bench:
    """What the command line asks for."""

    sizes: Sizes
    peer: str | None = None
    peer_endpoint: str = DEFAULT_ENDPOINT
    load: str | None = None
    echo: str | None = None

    @property
    def sides(self) -> tuple[str, ...]:
        return (OURS, RAW, PEER) if self.peer else (OURS, RAW)

    def broker(self, children: Children, side: str, *options: str) -> tuple[Child, str]:
        """Start the broker of a side; its endpoint too. `options` are for ours."""
        if side == PEER:
            assert self.peer is not None
            return children.listener(self.peer, self.peer_endpoint), self.peer_endpoint
        if side == OURS:
            return children.zpatterns("mdp", "broker", "--bind", "tcp://127.0.0.1:*", *options)
        broker = children.peer("broker", "tcp://127.0.0.1:*")
        return broker, broker.line()["endpoint"]

    def echo_workers(self, children: Children, endpoint: str, workers: int) -> None:
        """Start a process of echo workers."""
        if self.echo is not None:
            children.start(*_filled(self.echo, endpoint=endpoint, service=_SERVICE, workers=workers))
        else:
            children.peer("echo", endpoint, _SERVICE, workers, _INTERVAL).line()

    def throughput(
        self, children: Children, broker: Child, endpoint: str, clients: int, in_flight: int, count: int
    ) -> Sample:
        """Requests a second through a broker whose workers are there, and what one costs it."""
        before = broker.cpu_seconds()
        if self.load is not None:
            values = {"clients": clients, "in_flight": in_flight, "count": count, "size": _SIZE}
            command = _filled(self.load, endpoint=endpoint, service=_SERVICE, **values)
            said = children.start(*command, read=True).output()
            numbers = re.findall(r"\d+(?:\.\d+)?", said)
            if not numbers:
                raise BenchmarkError(f"{shlex.join(command)} printed no number: {said!r}")
            rate, requests = float(numbers[-1]), count
        else:
            load = children.peer("load", endpoint, _SERVICE, clients, in_flight, count, _SIZE, max(64, count // 20))
            result = load.line()
            rate, requests = result["rate"], result["requests"]
        return {"rate": rate, "cpu": (broker.cpu_seconds() - before) / requests * 1e6}


def _filled(template: str, **values: object) -> list[str]:
    try:
        return [word.format(**values) for word in shlex.split(template)]
    except (KeyError, IndexError, ValueError) as error:
        raise BenchmarkError(
            f"{template!r} cannot be filled in ({error}): it may hold {', '.join(f'{{{name}}}' for name in values)}"
        ) from None


def _throughput(bench: Bench, name: str, clients: int, in_flight: int) -> Row:
    def run(side: str) -> Sample:
        with Children() as children:
            broker, endpoint = bench.broker(children, side)
            bench.echo_workers(children, endpoint, _WORKERS)
            return bench.throughput(children, broker, endpoint, clients, in_flight, bench.sizes.requests)

    samples = interleave(name, bench.sizes.rounds, {side: partial(run, side) for side in bench.sides})
    who = "1 client" if clients == 1 else f"{clients} clients"
    return Row(
        name,
        f"{who} with {in_flight} requests in flight, {_WORKERS} echo workers, bodies of {_SIZE} bytes",
        [
            measure(samples, "rate", "throughput", "requests/s", _RATIOS, [Wanted(1.0, True, OURS, PEER)]),
            measure(samples, "cpu", "broker's processor time", "us/request", _RATIOS),
        ],
    )


def one_client(bench: Bench) -> Row:
    """1 client with 64 requests in flight, 32 echo workers."""
    return _throughput(bench, "one-client", 1, 64)


def many_clients(bench: Bench) -> Row:
    """8 clients with 16 requests in flight each, 32 echo workers."""
    return _throughput(bench, "many-clients", 8, 16)


def latency(bench: Bench) -> Row:
    """One request at a time: raw peers, then our Client and Worker at the ends."""
    handlers = {"coroutine": "benchmarks.handlers:coroutine", "function": "benchmarks.handlers:function"}

    def ping(side: str, handler: str | None) -> dict[str, float]:
        with Children() as children:
            _, endpoint = bench.broker(children, side)
            if handler is None:
                children.peer("echo", endpoint, _SERVICE, 1, _INTERVAL).line()
                role = "ping"
            else:
                children.zpatterns("mdp", "worker", _SERVICE, "--connect", endpoint, "--handler", handler)
                role = "client"
            return children.peer(role, endpoint, _SERVICE, bench.sizes.pings, _SIZE).line()

    def run(side: str) -> Sample:
        sample = ping(side, None)
        for name, handler in handlers.items():
            # The raw loop has no client and worker of its own: these are held against its raw peers.
            ours = sample if side == RAW else ping(side, handler)
            sample |= {f"{name} {key}": ours[key] for key in ("p50", "p99")}
        return sample

    samples = interleave("latency", bench.sizes.rounds, {side: partial(run, side) for side in bench.sides})
    ends = {"": "raw peers", "coroutine ": "Client, Worker", "function ": "Client, Worker with a thread"}
    return Row(
        "latency",
        f"one request of {_SIZE} bytes at a time, client - broker - worker and back",
        [
            measure(samples, prefix + key, f"{name}, {key}", "us", _RATIOS)
            for prefix, name in ends.items()
            for key in ("p50", "p99")
        ],
    )


def async_client(bench: Bench) -> Row:
    """AsyncClient, 64 at a time, with 1 and with 2 worker processes of ours."""
    in_flight, count = 64, bench.sizes.async_requests

    def run(side: str, processes: int) -> Sample:
        lanes = _WORKERS // processes
        with Children() as children:
            _, endpoint = bench.broker(children, side)
            if side == RAW:
                for _ in range(processes):
                    children.peer("echo", endpoint, _SERVICE, lanes, _INTERVAL).line()
                warm_up = max(64, count // 20)
                return {
                    f"rate{processes}": children.peer(
                        "load", endpoint, _SERVICE, 1, in_flight, count, _SIZE, warm_up
                    ).line()["rate"]
                }
            for _ in range(processes):
                options = ("--handler", "benchmarks.handlers:coroutine", "--concurrency", str(lanes))
                children.zpatterns("mdp", "worker", _SERVICE, "--connect", endpoint, *options)
            result = children.peer("async_client", endpoint, _SERVICE, in_flight, count, _SIZE).line()
            return {f"rate{processes}": result["rate"]}

    def both(side: str) -> Sample:
        return {**run(side, 1), **run(side, 2)}

    samples = interleave("async-client", bench.sizes.rounds, {side: partial(both, side) for side in bench.sides})
    return Row(
        "async-client",
        f"AsyncClient with {in_flight} calls at a time, our Worker with {_WORKERS} lanes in all, a coroutine",
        [
            measure(samples, "rate1", "1 worker process", "requests/s", _RATIOS),
            measure(samples, "rate2", "2 worker processes", "requests/s", _RATIOS),
        ],
    )


def memory(bench: Bench) -> Row:
    """100,000 queued requests of 64 bytes: what the broker grows by."""
    queued = bench.sizes.queued

    def run(side: str) -> Sample:
        with Children() as children:
            broker, endpoint = bench.broker(children, side)
            children.peer("echo", endpoint, _SERVICE, 1, _INTERVAL).line()
            queue = children.peer("queue", endpoint, "nobody", queued, _SIZE, _SERVICE)
            queue.line()
            before = broker.resident_bytes()
            queue.tell()
            queue.line()
            return {"overhead": (broker.resident_bytes() - before) / queued - _SIZE}

    samples = interleave("memory", bench.sizes.rounds, {side: partial(run, side) for side in bench.sides})
    wanted = [Wanted(1024, False, OURS)]
    return Row(
        "memory",
        f"{queued:,} requests of {_SIZE} bytes wait in the broker; what it has grown by, without the bodies",
        [measure(samples, "overhead", "memory", "bytes/request", _RATIOS, wanted)],
    )


def idle(bench: Bench) -> Row:
    """Time per request with 10,000 idle workers, and with 10,000 services known, against none; and heartbeats."""
    count = min(bench.sizes.idle, raise_descriptor_limit() - _SPARE_DESCRIPTORS)
    if count < bench.sizes.idle:
        print(f"idle: only {count:,} connections: more need a higher limit of open files (ulimit -n)", file=sys.stderr)
    few = count // 10
    none, workers, services = "none idle", f"{count:,} idle workers", f"{count:,} services"
    some, many = f"{few:,} heartbeating", f"{count:,} heartbeating"

    def requests(side: str) -> Sample:
        with Children() as children:
            # Heartbeats take their time whether there are requests or not, so here there are next to none of them.
            slow = ("--request-ttl", "600", "--heartbeat-interval", str(_SLOW_INTERVAL))
            broker, endpoint = bench.broker(children, OURS, *slow)
            bench.echo_workers(children, endpoint, _WORKERS)
            if side == workers:
                children.peer("echo", endpoint, "idle", count, _SLOW_INTERVAL).line()
            elif side == services:
                queue = children.peer("queue", endpoint, "known-", count, _SIZE, _SERVICE, "--name-each")
                queue.line()
                queue.tell()
                queue.line()
            sample = bench.throughput(children, broker, endpoint, 1, 64, bench.sizes.requests)
            return {"time": 1e6 / sample["rate"], "cpu": sample["cpu"]}

    def heartbeats(idle_workers: int) -> Sample:
        with Children() as children:
            broker, endpoint = bench.broker(children, OURS)
            children.peer("echo", endpoint, "idle", idle_workers, _INTERVAL).line()
            time.sleep(min(_INTERVAL, bench.sizes.watch))  # until registering is over
            before, begin = broker.cpu_seconds(), time.monotonic()
            time.sleep(bench.sizes.watch)
            beats = (time.monotonic() - begin) / _INTERVAL * idle_workers
            return {"heartbeat": (broker.cpu_seconds() - before) / beats * 1e6}

    runs: dict[str, Callable[[], Sample]] = {side: partial(requests, side) for side in (none, workers, services)}
    runs |= {some: partial(heartbeats, few), many: partial(heartbeats, count)}
    samples = interleave("idle", bench.sizes.rounds, runs)
    ratios = ((workers, none), (services, none))
    wanted = [Wanted(1.2, False, side, none) for side in (workers, services)]
    flat = [Wanted(1.2, False, many, some)]
    return Row(
        "idle",
        f"our broker, 1 client with 64 requests in flight, {_WORKERS} echo workers, and beside them nothing, or many",
        [
            measure(samples, "time", "time", "us/request", ratios, wanted),
            measure(samples, "cpu", "broker's processor time", "us/request", ratios, wanted),
            measure(samples, "heartbeat", "broker's processor time", "us/heartbeat", [(many, some)], flat),
        ],
    )


_IMPORT = "import time; t = time.perf_counter(); import {}; print((time.perf_counter() - t) * 1e3)"


def startup(bench: Bench) -> Row:
    """`zpatterns --help`, and the import of zpatterns.mdp."""

    def started(*arguments: str) -> float:
        def once() -> float:
            with Children() as children:
                begin = time.perf_counter()
                children.python(*arguments).output()
                return (time.perf_counter() - begin) * 1e3

        return min(once() for _ in range(bench.sizes.starts))

    def imported(modules: str) -> float:
        def once() -> float:
            with Children() as children:
                return float(children.python("-c", _IMPORT.format(modules)).output())

        return min(once() for _ in range(bench.sizes.starts))

    bare, libraries = "bare Python", "pyzmq, tornado"
    package = "zpatterns.mdp.broker, zpatterns.mdp.client, zpatterns.mdp.worker"  # which loads each when it is used
    runs: dict[str, Callable[[], Sample]] = {
        OURS: lambda: {"help": started("-m", "zpatterns", "--help"), "import": imported(package)},
        bare: lambda: {"help": started("-c", "pass")},
        libraries: lambda: {"import": imported("zmq, tornado.ioloop")},
    }
    for run in runs.values():
        run()  # the first start compiles, and fills the system's caches
    samples = interleave("startup", bench.sizes.rounds, runs)
    return Row(
        "startup",
        f"new processes, the best of {bench.sizes.starts} a round",
        [
            measure(samples, "help", "run of zpatterns --help", "ms", [(OURS, bare)], [Wanted(150, False, OURS)]),
            measure(samples, "import", "load of zpatterns.mdp", "ms", [(OURS, libraries)]),
        ],
    )


ROWS: dict[str, Callable[[Bench], Row]] = {
    "one-client": one_client,
    "many-clients": many_clients,
    "latency": latency,
    "async-client": async_client,
    "memory": memory,
    "idle": idle,
    "startup": startup,
}
