"""The Paranoid Pirate queue, measured: ``python benchmarks/pirate.py``. docs/benchmarks.md says what rows mean."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

# As a script it lies beside its modules, and its package above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import Row, Sample, Wanted, interleave, measure
from benchmarks.processes import Child, Children
from benchmarks.program import make_parser, run_rows
from benchmarks.rows import OURS, PEER, RAW, Sizes

_RATIOS = ((OURS, RAW), (OURS, PEER))
_SIZE = 64
_WORKERS = 32
_INTERVAL = 1.0
FRONTEND, BACKEND = "tcp://127.0.0.1:5555", "tcp://127.0.0.1:5556"
"""Where the Guide's queue listens."""


@dataclass(frozen=True, slots=True)
class PirateBench:
    """What the command line asks for."""

    sizes: Sizes
    peer: str | None = None
    frontend: str = FRONTEND
    backend: str = BACKEND

    @property
    def sides(self) -> tuple[str, ...]:
        return (OURS, RAW, PEER) if self.peer else (OURS, RAW)

    def queue(self, children: Children, side: str) -> tuple[Child, str, str]:
        """Start the queue of a side; its frontend and backend too."""
        if side == PEER:
            assert self.peer is not None
            return children.listener(self.peer, self.frontend), self.frontend, self.backend
        if side == OURS:
            ends = ("--frontend", "tcp://127.0.0.1:*", "--backend", "tcp://127.0.0.1:*")
            queue, endpoint = children.zpatterns("pirate", "queue", "--paranoid", *ends)
            ready = queue.ready()
            assert ready is not None
            return queue, endpoint, ready["backend"]
        queue = peer(children, "queue", "tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
        said = queue.line()
        return queue, said["endpoint"], said["backend"]


def peer(children: Children, role: str, *arguments: object) -> Child:
    """Start a role of :mod:`benchmarks.pirate_peers`."""
    return children.python("-m", "benchmarks.pirate_peers", role, *map(str, arguments))


def _throughput(bench: PirateBench, name: str, clients: int, in_flight: int) -> Row:
    def run(side: str) -> Sample:
        with Children() as children:
            queue, frontend, backend = bench.queue(children, side)
            peer(children, "echo", backend, _WORKERS, _INTERVAL).line()
            count = bench.sizes.requests
            before = queue.cpu_seconds()
            load = peer(children, "load", frontend, clients, in_flight, count, _SIZE, max(64, count // 20))
            result = load.line()
            cpu = (queue.cpu_seconds() - before) / result["requests"] * 1e6
            return {"rate": result["rate"], "cpu": cpu}

    samples = interleave(name, bench.sizes.rounds, {side: partial(run, side) for side in bench.sides})
    who = "1 client" if clients == 1 else f"{clients} clients"
    return Row(
        name,
        f"{who} with {in_flight} requests in flight, {_WORKERS} echo workers, bodies of {_SIZE} bytes",
        [
            measure(samples, "rate", "throughput", "requests/s", _RATIOS, [Wanted(1.0, True, OURS, PEER)]),
            measure(samples, "cpu", "queue's processor time", "us/request", _RATIOS),
        ],
    )


def one_client(bench: PirateBench) -> Row:
    """1 client with 64 requests in flight, 32 echo workers."""
    return _throughput(bench, "one-client", 1, 64)


def many_clients(bench: PirateBench) -> Row:
    """8 clients with 16 requests in flight each, 32 echo workers."""
    return _throughput(bench, "many-clients", 8, 16)


def latency(bench: PirateBench) -> Row:
    """One request at a time of a REQ."""

    def run(side: str) -> Sample:
        with Children() as children:
            _, frontend, backend = bench.queue(children, side)
            peer(children, "echo", backend, 1, _INTERVAL).line()
            sample: Sample = peer(children, "ping", frontend, bench.sizes.pings, _SIZE).line()
            return sample

    samples = interleave("latency", bench.sizes.rounds, {side: partial(run, side) for side in bench.sides})
    return Row(
        "latency",
        f"one request of {_SIZE} bytes at a time, client - queue - worker and back",
        [measure(samples, key, key, "us", _RATIOS) for key in ("p50", "p99")],
    )


ROWS: dict[str, Callable[[PirateBench], Row]] = {
    "one-client": one_client,
    "many-clients": many_clients,
    "latency": latency,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code: 1 if something could not be measured."""
    options = make_parser(
        "Measure the Paranoid Pirate queue side by side with the least that pyzmq can do.",
        ROWS,
        "a 6/PPP queue",
        {
            "--peer-endpoint": (FRONTEND, "where it listens for clients"),
            "--peer-backend": (BACKEND, "where it listens for workers"),
        },
    ).parse_args(arguments)
    return run_rows(
        options,
        ROWS,
        lambda sizes: PirateBench(sizes, options.peer, options.peer_endpoint, options.peer_backend),
        peer=options.peer,
    )


if __name__ == "__main__":
    sys.exit(main())
