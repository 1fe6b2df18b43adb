"""Freelance's addressed model, measured: ``python benchmarks/freelance.py``. docs/benchmarks.md says how to read it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

# As a script it lies beside its modules, and its package above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import Row, Sample, interleave, measure
from benchmarks.processes import Child, Children
from benchmarks.program import make_parser, run_rows
from benchmarks.rows import OURS, PEER, RAW, ServerBench

_RATIOS = ((OURS, RAW), (OURS, PEER))
_SIZE = 64
_IN_FLIGHT = 64
ENDPOINT = "tcp://127.0.0.1:5555"
"""Where the Guide's server listens."""


class FreelanceBench(ServerBench):
    """What the command line asks for."""

    def server(self, children: Children, side: str) -> tuple[Child, str]:
        """Start the server of a side; its endpoint too."""
        if side == PEER:
            return self.listening_peer(children)
        if side == OURS:
            ends = ("--bind", "tcp://127.0.0.1:*", "--identity", "server")
            return children.zpatterns("freelance", "server", "--concurrency", str(_IN_FLIGHT), *ends)
        server = peer(children, "server", "tcp://127.0.0.1:*")
        return server, server.line()["endpoint"]


def peer(children: Children, role: str, *arguments: object) -> Child:
    """Start a role of :mod:`benchmarks.freelance_peers`."""
    return children.python("-m", "benchmarks.freelance_peers", role, *map(str, arguments))


def server(bench: FreelanceBench) -> Row:
    """The server alone: a bare client with 64 requests in flight."""

    def run(side: str) -> Sample:
        with Children() as children:
            process, endpoint = bench.server(children, side)
            count = bench.sizes.requests
            before = process.cpu_seconds()
            result = peer(children, "load", endpoint, _IN_FLIGHT, count, _SIZE, max(64, count // 20)).line()
            cpu = (process.cpu_seconds() - before) / result["requests"] * 1e6
            return {"rate": result["rate"], "cpu": cpu}

    samples = interleave("server", bench.sizes.rounds, {side: partial(run, side) for side in bench.sides})
    return Row(
        "server",
        f"a bare client with {_IN_FLIGHT} requests in flight, an echo server, bodies of {_SIZE} bytes",
        [
            measure(samples, "rate", "throughput", "requests/s", _RATIOS),
            measure(samples, "cpu", "server's processor time", "us/request", _RATIOS),
        ],
    )


def async_client(bench: FreelanceBench) -> Row:
    """AsyncFreelanceClient and server of ours, 64 calls at a time."""

    def run(side: str) -> Sample:
        with Children() as children:
            _, endpoint = bench.server(children, side)
            count = bench.sizes.async_requests
            role = "load" if side == RAW else "async_client"
            result = peer(children, role, endpoint, _IN_FLIGHT, count, _SIZE, max(64, count // 10)).line()
            return {"rate": result["rate"]}

    samples = interleave("async-client", bench.sizes.rounds, {side: partial(run, side) for side in bench.sides})
    return Row(
        "async-client",
        f"AsyncFreelanceClient with {_IN_FLIGHT} calls at a time; the raw loop has a bare client",
        [measure(samples, "rate", "throughput", "requests/s", _RATIOS)],
    )


def latency(bench: FreelanceBench) -> Row:
    """One request at a time: a bare client, then FreelanceClient."""

    def run(side: str) -> Sample:
        sample: dict[str, float] = {}
        for name, role in (("", "ping"), ("client ", "ping" if side == RAW else "client")):
            with Children() as children:
                _, endpoint = bench.server(children, side)
                taken = peer(children, role, endpoint, bench.sizes.pings, _SIZE).line()
                sample |= {f"{name}{key}": taken[key] for key in ("p50", "p99")}
        return sample

    samples = interleave("latency", bench.sizes.rounds, {side: partial(run, side) for side in bench.sides})
    ends = {"": "a bare client", "client ": "FreelanceClient"}
    return Row(
        "latency",
        f"one request of {_SIZE} bytes at a time, client - server and back",
        [
            measure(samples, prefix + key, f"{name}, {key}", "us", _RATIOS)
            for prefix, name in ends.items()
            for key in ("p50", "p99")
        ],
    )


ROWS: dict[str, Callable[[FreelanceBench], Row]] = {
    "server": server,
    "async-client": async_client,
    "latency": latency,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code: 1 if something could not be measured."""
    options = make_parser(
        "Measure Freelance's addressed model side by side with the least that pyzmq can do.",
        ROWS,
        "a 10/FLP server that echoes",
        {"--peer-endpoint": (ENDPOINT, "where it listens")},
    ).parse_args(arguments)
    return run_rows(
        options, ROWS, lambda sizes: FreelanceBench(sizes, options.peer, options.peer_endpoint), peer=options.peer
    )


if __name__ == "__main__":
    sys.exit(main())
