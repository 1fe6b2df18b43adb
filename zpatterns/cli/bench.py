"""``zpatterns mdp bench``: requests a second and latency through a running broker."""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from zpatterns.cli.base import broker_expected
from zpatterns.cli.children import Children
from zpatterns.errors import RemoteError, RequestTimeout, ServiceNotFound, ZPatternsError

if TYPE_CHECKING:
    from zpatterns.mdp import AsyncClient

_LANES_MAX = 64
_WORKER_START_TIMEOUT = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """What each call of a measurement took, in seconds; NaN where none succeeded."""

    latency_p50: float
    latency_p90: float
    latency_p99: float
    latency_max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult(Latencies):
    """One measurement. Latencies in seconds, from call to reply, waiting for a free slot not included."""

    service: str
    clients: int
    in_flight: int
    count: int
    size: int
    failed: int
    first_failure: str | None
    elapsed: float
    requests_per_second: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of `ordered` that at least `share` (0 to 1) of them do not exceed; NaN of nothing."""
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def latencies_of(taken: list[float]) -> dict[str, float]:
    """The fields of :class:`Latencies`."""
    ordered = sorted(taken)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {f"latency_{name}": percentile(ordered, share) for name, share in shares.items()}


def measure(
    endpoints: Sequence[str],
    *,
    clients: int,
    in_flight: int,
    count: int,
    size: int,
    service: str | None,
    timeout: float,
    retries: int,
    progress: bool,
) -> BenchResult:
    """Send `count` requests and time each. Errors: RequestTimeout, ServiceNotFound before anything is measured."""
    show_progress = progress and sys.stderr.isatty()
    with click.progressbar(
        length=count, label="requests", file=sys.stderr, hidden=not show_progress, update_min_steps=max(1, count // 200)
    ) as bar:
        return asyncio.run(_measure(endpoints, clients, in_flight, count, size, service, timeout, retries, bar.update))


async def _measure(
    endpoints: Sequence[str],
    clients: int,
    in_flight: int,
    count: int,
    size: int,
    service: str | None,
    timeout: float,
    retries: int,
    advance: Callable[[int], None],
) -> BenchResult:
    from zpatterns.mdp import AsyncClient

    body = bytes(size)
    latencies: list[float] = []
    failures: list[str] = []

    async def lane(client: AsyncClient, name: str, turns: Iterator[int]) -> None:
        for _ in turns:
            begin = time.perf_counter()
            try:
                await client.request(name, body)
            except ZPatternsError as error:
                failures.append(str(error))
            else:
                latencies.append(time.perf_counter() - begin)
            advance(1)

    async with AsyncExitStack() as stack:
        children = stack.enter_context(Children())
        open_clients = [
            await stack.enter_async_context(
                AsyncClient(list(endpoints), timeout=timeout, retries=retries, max_in_flight=in_flight)
            )
            for _ in range(clients)
        ]
        first = open_clients[0]
        own = service is None
        service = service or f"zpatterns-bench-{secrets.token_hex(4)}"
        is_served = True
        with broker_expected(endpoints), suppress(RemoteError):  # who cannot say has not said no
            is_served = await first.has_service(service)
        if own:
            lanes = str(min(_LANES_MAX, clients * in_flight))
            handler = ("--handler", "zpatterns.cli.child_handlers:echo", "--concurrency", lanes)
            children.start_worker(service, endpoints[0], *handler)
            await _until_served(first, service, children)
        elif not is_served:
            raise ServiceNotFound(
                f"no worker serves {service!r} at {', '.join(endpoints)}: start one, or leave out --service",
                service=service,
            )
        # One round unmeasured: every connection is made, every lane of the worker has been used.
        for client in open_clients:
            await asyncio.gather(*(client.request(service, body) for _ in range(min(in_flight, count))))
        turns = iter(range(count))
        begin = time.perf_counter()
        await asyncio.gather(*(lane(client, service, turns) for client in open_clients for _ in range(in_flight)))
        elapsed = time.perf_counter() - begin

    return BenchResult(
        service=service,
        clients=clients,
        in_flight=in_flight,
        count=count,
        size=size,
        failed=len(failures),
        first_failure=failures[0] if failures else None,
        elapsed=elapsed,
        requests_per_second=len(latencies) / elapsed,
        **latencies_of(latencies),
    )


async def _until_served(client: AsyncClient, service: str, children: Children) -> None:
    deadline = time.monotonic() + _WORKER_START_TIMEOUT
    while not await client.has_service(service):
        children.check()
        if time.monotonic() > deadline:
            raise RequestTimeout(
                f"the echo worker of this measurement did not register within {_WORKER_START_TIMEOUT:g} s: "
                "is the machine overloaded?",
                service=service,
                elapsed=_WORKER_START_TIMEOUT,
            )
        await asyncio.sleep(0.02)


def print_result(result: BenchResult, as_json: bool) -> None:
    """Print one measurement: an object with durations in seconds, or a few lines in milliseconds."""
    print_figures(
        result,
        as_json,
        {
            "requests": f"{result.count} of {result.size} bytes, {result.failed} failed, in {result.elapsed:.2f} s",
            "open": f"{result.clients} x {result.in_flight}",
            "rate": f"{result.requests_per_second:,.0f} requests/s",
        },
    )


def print_figures(result: Latencies, as_json: bool, lines: Mapping[str, str]) -> None:
    """What every measurement ends with: all of `result` as JSON, or `lines` and the latencies under their names."""
    if as_json:
        values = {name: None if value != value else value for name, value in asdict(result).items()}
        click.echo(json.dumps(values))
        return
    latencies = asdict(result)
    shown = {name: f"{latencies[f'latency_{name}'] * 1000:.2f} ms" for name in ("p50", "p90", "p99", "max")}
    for label, text in {**lines, **shown}.items():
        click.echo(f"{label:<10} {text}")
