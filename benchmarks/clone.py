"""Clone, measured: ``python benchmarks/clone.py``. docs/benchmarks.md says how to read it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

# As a script it lies beside its modules, and its package above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import Row, Sample, Wanted, interleave, measure
from benchmarks.processes import Child, Children
from benchmarks.program import make_parser, run_rows
from benchmarks.rows import OURS, PEER, RAW, ServerBench
from zpatterns.testing import ReservedPort

_RATIOS = ((OURS, RAW), (OURS, PEER))
_SIZE = 64
_IN_FLIGHT = 256
"""Updates on their way: fewer than libzmq's queues hold, for what does not fit them is dropped without a word."""
_FEW_KEYS = 400
"""The Guide's server loses what does not fit a queue of a thousand messages, of which the last five hundred taken may
not be counted out yet."""
ENDPOINT = "tcp://127.0.0.1:5556"
"""Where the Guide's server listens."""


class CloneBench(ServerBench):
    """What the command line asks for."""

    def server(self, children: Children, side: str) -> tuple[Child, str]:
        """Start the server of a side; its endpoint too."""
        if side == PEER:
            return self.listening_peer(children)
        if side == OURS:
            return children.zpatterns("clone", "server", "--bind", "tcp://127.0.0.1:*")
        with ReservedPort(3) as ports:
            server = peer(children, "server", ports.endpoint)
            return server, server.line()["endpoint"]


def peer(children: Children, role: str, *arguments: object) -> Child:
    """Start a role of :mod:`benchmarks.clone_peers`."""
    return children.python("-m", "benchmarks.clone_peers", role, *map(str, arguments))


def _updates(bench: CloneBench, side: str, subscribers: int, count: int) -> Sample:
    with Children() as children:
        process, endpoint = bench.server(children, side)
        warm_up = max(_IN_FLIGHT, count // 20)
        load = peer(children, "updates", endpoint, subscribers, _IN_FLIGHT, count, _SIZE, warm_up)
        before = process.cpu_seconds()
        result = load.line()
        return {"rate": result["rate"], "cpu": (process.cpu_seconds() - before) / result["requests"] * 1e6}


def updates(bench: CloneBench) -> Row:
    """KVSET in, KVPUB out, with one bare client."""
    run = partial(_updates, bench, subscribers=1, count=bench.sizes.requests)
    samples = interleave("updates", bench.sizes.rounds, {side: partial(run, side) for side in bench.sides})
    return Row(
        "updates",
        f"a bare client sets a thousand keys of {_SIZE} bytes again and again, {_IN_FLIGHT} on their way, and sees all",
        [
            measure(samples, "rate", "throughput", "updates/s", _RATIOS, [Wanted(1.0, True, OURS, PEER)]),
            measure(samples, "cpu", "server's processor time", "us/update", _RATIOS),
        ],
    )


def sets(bench: CloneBench) -> Row:
    """AsyncClone, 64 sets at a time, each acknowledged."""
    in_flight, count = 64, bench.sizes.async_requests
    sides = [side for side in bench.sides if side != RAW]

    def run(side: str) -> Sample:
        with Children() as children:
            _, endpoint = bench.server(children, side)
            return {"rate": peer(children, "sets", endpoint, in_flight, count, _SIZE, count // 10).line()["rate"]}

    samples = interleave("sets", bench.sizes.rounds, {side: partial(run, side) for side in sides})
    return Row(
        "sets",
        f"AsyncClone with {in_flight} sets at a time: each is published, acknowledged, and applied here",
        [measure(samples, "rate", "throughput", "sets/s", _RATIOS)],
    )


def snapshots(bench: CloneBench) -> Row:
    """Snapshots of 400 keys, one after another, which any server can send."""
    count = max(3, bench.sizes.requests // _FEW_KEYS)

    def run(side: str) -> Sample:
        with Children() as children:
            process, endpoint = bench.server(children, side)
            peer(children, "fill", endpoint, _FEW_KEYS, _IN_FLIGHT, _SIZE).line()
            before = process.cpu_seconds()
            rate = peer(children, "snapshots", endpoint, count, _FEW_KEYS).line()["rate"]
            return {"rate": rate, "cpu": (process.cpu_seconds() - before) / (count * _FEW_KEYS) * 1e6}

    samples = interleave("snapshots", bench.sizes.rounds, {side: partial(run, side) for side in bench.sides})
    return Row(
        "snapshots",
        f"{count:,} snapshots of {_FEW_KEYS} keys of {_SIZE} bytes, one after another, to a bare client",
        [
            measure(samples, "rate", "throughput", "keys/s", _RATIOS),
            measure(samples, "cpu", "server's processor time", "us/key", _RATIOS),
        ],
    )


def big_snapshot(bench: CloneBench) -> Row:
    """A million keys: what they weigh, and a whole snapshot of them."""
    keys = bench.sizes.keys

    def run(side: str) -> Sample:
        with Children() as children:
            process, endpoint = bench.server(children, side)
            fill = peer(children, "fill", endpoint, keys, _IN_FLIGHT, _SIZE)
            fill.line()
            before = process.resident_bytes()
            fill.line()
            memory = (process.resident_bytes() - before) / keys - _SIZE
            return {"memory": memory, "rate": peer(children, "snapshots", endpoint, 1, keys).line()["rate"]}

    samples = interleave("big-snapshot", bench.sizes.rounds, {side: partial(run, side) for side in (OURS, RAW)})
    return Row(
        "big-snapshot",
        f"{keys:,} keys of {_SIZE} bytes: the server's memory without the values, and one snapshot to a bare client",
        [
            measure(samples, "memory", "memory", "bytes/key", _RATIOS),
            measure(samples, "rate", "throughput", "keys/s", _RATIOS, [Wanted(100_000, True, OURS)]),
        ],
    )


def fan_out(bench: CloneBench) -> Row:
    """Each update to 1, 10 and 100 bare subscribers."""
    fans = (1, 10, 100)

    def run(side: str) -> Sample:
        sample: dict[str, float] = {}
        for subscribers in fans:
            taken = _updates(bench, side, subscribers, max(100, 5 * bench.sizes.requests // (subscribers + 4)))
            sample |= {f"{key} {subscribers}": value for key, value in taken.items()}
        return sample

    samples = interleave("fan-out", bench.sizes.rounds, {side: partial(run, side) for side in bench.sides})
    return Row(
        "fan-out",
        f"one sets keys of {_SIZE} bytes, {_IN_FLIGHT} on their way, and so many subscribers, in one process, see them",
        [
            measure(samples, f"{key} {subscribers}", f"{subscribers} subscribers, {name}", unit, _RATIOS)
            for subscribers in fans
            for key, name, unit in (
                ("rate", "throughput", "updates/s"),
                ("cpu", "server's processor time", "us/update"),
            )
        ],
    )


def join(bench: CloneBench) -> Row:
    """The time from opening a client until it has a map of 400 keys."""

    def run(side: str) -> Sample:
        with Children() as children:
            _, endpoint = bench.server(children, side)
            peer(children, "fill", endpoint, _FEW_KEYS, _IN_FLIGHT, _SIZE).line()
            role = "bare_joins" if side == RAW else "joins"
            return dict(peer(children, role, endpoint, bench.sizes.joins).line())

    samples = interleave("join", bench.sizes.rounds, {side: partial(run, side) for side in bench.sides})
    return Row(
        "join",
        f"AsyncClone, opened until it has {_FEW_KEYS} keys; the raw loop has a bare client, which misses updates",
        [measure(samples, key, f"time, {key}", "ms", _RATIOS) for key in ("p50", "p99")],
    )


ROWS: dict[str, Callable[[CloneBench], Row]] = {
    "updates": updates,
    "sets": sets,
    "snapshots": snapshots,
    "big-snapshot": big_snapshot,
    "fan-out": fan_out,
    "join": join,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code: 1 if something could not be measured."""
    options = make_parser(
        "Measure our Clone server and clients side by side with the least that pyzmq can do.",
        ROWS,
        "a 12/CHP server",
        {"--peer-endpoint": (ENDPOINT, "the first of its ports")},
    ).parse_args(arguments)
    return run_rows(
        options, ROWS, lambda sizes: CloneBench(sizes, options.peer, options.peer_endpoint), peer=options.peer
    )


if __name__ == "__main__":
    sys.exit(main())
