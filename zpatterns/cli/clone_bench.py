"""``zpatterns clone bench``: acknowledged sets a second, and latency, at a running server."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import click

from zpatterns.cli.bench import Latencies, latencies_of, print_figures
from zpatterns.clone import AsyncClone
from zpatterns.errors import ZPatternsError

_TTL = 600.0
"""Seconds after which the server forgets the keys of a measurement that was killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloneBenchResult(Latencies):
    """One measurement. Latencies in seconds, from call to acknowledgement."""

    clients: int
    in_flight: int
    count: int
    size: int
    failed: int
    first_failure: str | None
    elapsed: float
    sets_per_second: float


def measure(
    endpoints: Sequence[str], *, clients: int, in_flight: int, count: int, size: int, progress: bool, **options: Any
) -> CloneBenchResult:
    """Time `count` sets. `options`: of the clients. Errors: RequestTimeout before anything is measured."""
    show_progress = progress and sys.stderr.isatty()
    with click.progressbar(
        length=count, label="sets", file=sys.stderr, hidden=not show_progress, update_min_steps=max(1, count // 200)
    ) as bar:
        return asyncio.run(_measure(endpoints, clients, in_flight, count, size, bar.update, options))


async def _measure(
    endpoints: Sequence[str],
    clients: int,
    in_flight: int,
    count: int,
    size: int,
    advance: Callable[[int], None],
    options: dict[str, Any],
) -> CloneBenchResult:
    body = bytes(size)
    latencies: list[float] = []
    failures: list[str] = []
    subtree = f"/zpatterns-bench-{secrets.token_hex(4)}/"

    async def lane(client: AsyncClone, key: str, turns: Iterator[int]) -> None:
        for _ in turns:
            begin = time.perf_counter()
            try:
                await client.set(key, body, _TTL)
            except ZPatternsError as error:
                failures.append(str(error))
            else:
                latencies.append(time.perf_counter() - begin)
            advance(1)

    async with AsyncExitStack() as stack:
        lanes = []
        for number in range(clients):
            client = await stack.enter_async_context(AsyncClone(list(endpoints), subtree=subtree, **options))
            lanes += [(client, f"{subtree}{number}-{at}") for at in range(min(in_flight, count))]
        # One round unmeasured, whose keys are deleted at the end: every one has been used.
        await asyncio.gather(*(client.set(key, body, _TTL) for client, key in lanes))
        turns = iter(range(count))
        begin = time.perf_counter()
        await asyncio.gather(*(lane(client, key, turns) for client, key in lanes))
        elapsed = time.perf_counter() - begin
        await asyncio.gather(*(client.delete(key) for client, key in lanes))
    return CloneBenchResult(
        clients=clients,
        in_flight=in_flight,
        count=count,
        size=size,
        failed=len(failures),
        first_failure=failures[0] if failures else None,
        elapsed=elapsed,
        sets_per_second=len(latencies) / elapsed,
        **latencies_of(latencies),
    )


def print_result(result: CloneBenchResult, as_json: bool) -> None:
    """Print one measurement: an object with durations in seconds, or a few lines in milliseconds."""
    print_figures(
        result,
        as_json,
        {
            "sets": f"{result.count} of {result.size} bytes, {result.failed} failed, in {result.elapsed:.2f} s",
            "open": f"{result.clients} x {result.in_flight}",
            "rate": f"{result.sets_per_second:,.0f} sets/s",
        },
    )
