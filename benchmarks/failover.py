"""A Majordomo pair loses its active broker under load: ``python benchmarks/failover.py``. See docs/benchmarks.md."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

# As a script it lies beside its modules, and its package above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import Row, Sample, Wanted, interleave, measure
from benchmarks.processes import START_TIMEOUT, BenchmarkError, Child, Children, wait_for
from benchmarks.program import make_parser, run_rows
from benchmarks.rows import Sizes
from zpatterns.bstar import AsyncBinaryStarClient
from zpatterns.core import Event
from zpatterns.errors import RequestTimeout, ZPatternsError
from zpatterns.mdp import AsyncClient
from zpatterns.mdp.events import AttemptFailed
from zpatterns.testing.ports import ReservedPort

PAIR = "pair"
_RATE = 300
"""Calls that are begun in a second, whatever becomes of those before them."""
_HEARTBEAT = 0.25
"""Seconds between heartbeats: of the pair, of which two may be missed, and of broker and workers, which miss three."""
_ATTEMPT = 0.5
_TIMEOUT = 10.0
"""Seconds that a call may take in all; the pair must be whole again before, or calls fail."""


@dataclass(slots=True)
class Half:
    """One broker of the pair."""

    process: Child
    front: str
    control: str

    async def state(self) -> str:
        try:
            async with AsyncBinaryStarClient(self.control, timeout=1.0, retries=0) as operator:
                _, status = await operator.request("status")
        except RequestTimeout:
            return ""
        return str(json.loads(status)["state"])


class Load:
    """Calls that are begun at a steady rate, and what became of each."""

    def __init__(self, fronts: Sequence[str]) -> None:
        self.client = AsyncClient(
            fronts, timeout=_TIMEOUT, attempt_timeout=_ATTEMPT, retries=round(_TIMEOUT / _ATTEMPT), on_event=self._tell
        )
        self.retried = 0
        self.answered = 0
        self.wrong = 0
        self.failed: Counter[str] = Counter()
        self.longest = 0.0
        self.killed_at = math.inf
        self.recovery: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._calls: list[asyncio.Task[None]] = []

    def _tell(self, event: Event) -> None:
        if isinstance(event, AttemptFailed) and event.attempt == 1:
            self.retried += 1

    async def begin(self, seconds: float) -> None:
        """Begin calls for so long."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        for number in range(round(seconds * _RATE)):
            await asyncio.sleep(since + number / _RATE - loop.time())
            self._calls.append(loop.create_task(self._call(b"%d" % len(self._calls))))

    async def _call(self, body: bytes) -> None:
        began = time.monotonic()
        try:
            reply = await self.client.request("echo", body)
        except ZPatternsError as error:
            self.failed[type(error).__name__] += 1
        else:
            self.answered += 1
            self.wrong += reply != [body]
            if began > self.killed_at and not self.recovery.done():
                self.recovery.set_result(time.monotonic() - self.killed_at)
        self.longest = max(self.longest, time.monotonic() - began)

    async def end(self) -> Sample:
        """Wait for every outcome. Errors: BenchmarkError for any that should not be."""
        _, pending = await asyncio.wait(self._calls, timeout=_TIMEOUT + 5.0)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        begun, lost, failed = len(self._calls), len(pending), sum(self.failed.values())
        if lost or failed or self.wrong:
            raise BenchmarkError(
                f"of {begun} calls {lost} have no outcome though their deadline is past, {failed} failed "
                f"({dict(self.failed)}), and {self.wrong} were answered wrongly"
            )
        return {
            "recovery": self.recovery.result(),
            "longest": self.longest,
            "calls": begun,
            "lost": lost,
            "retried": self.retried,
            "unanswered": failed,
        }


async def fail_over(halves: Sequence[Half], seconds: float) -> Sample:
    """Calls for so long, the end of the active broker, and calls until and for so long after the first answer."""
    active = await _active(halves)
    load = Load([half.front for half in halves])
    async with load.client:
        await load.begin(seconds)
        load.killed_at = time.monotonic()
        active.process.process.kill()
        while not load.recovery.done():
            await load.begin(0.1)
            if time.monotonic() > load.killed_at + _TIMEOUT:
                break
        await load.begin(seconds)
        return await load.end()


async def _active(halves: Sequence[Half]) -> Half:
    """The active one, once the other is passive."""
    deadline = time.monotonic() + START_TIMEOUT
    while sorted(states := [await half.state() for half in halves]) != ["active", "passive"]:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"the two brokers are no pair: {states}")
        await asyncio.sleep(0.02)
    return halves[states.index("active")]


def _run(seconds: float) -> Sample:
    with Children() as children, ExitStack() as stack:
        fronts, states, controls = ([stack.enter_context(ReservedPort()).endpoint for _ in range(2)] for _ in range(3))
        halves = []
        for number, role in enumerate(("--primary", "--backup")):
            broker = children.service(
                *("mdp", "broker", role, "--bind", fronts[number], "--heartbeat-interval", str(_HEARTBEAT)),
                *("--local", states[number], "--remote", states[1 - number], "--control", controls[number]),
                *("--pair-heartbeat-interval", str(_HEARTBEAT)),
            )
            halves.append(Half(broker, fronts[number], controls[number]))
        connect = [part for front in fronts for part in ("--connect", front)]
        for worker in [
            children.service("mdp", "worker", "echo", "--echo", "--heartbeat-interval", str(_HEARTBEAT), *connect)
            for _ in range(2)
        ]:
            wait_for(worker.ready, worker)
        return asyncio.run(fail_over(halves, seconds))


def majordomo(sizes: Sizes) -> Row:
    """two brokers, two workers, AsyncClient; the active broker is killed"""
    samples = interleave("mdp", sizes.rounds, {PAIR: partial(_run, sizes.watch / 10)})
    return Row(
        "mdp",
        f"{_RATE} calls a second of AsyncClient, two workers, heartbeats of {_HEARTBEAT:g} s, SIGKILL of the active",
        [
            measure(samples, "recovery", "first answer to a call begun after the kill", "s", ()),
            measure(samples, "longest", "longest call", "s", ()),
            measure(samples, "calls", "begun", "calls", ()),
            measure(samples, "lost", "without an outcome", "calls", (), [Wanted(0, False, PAIR)]),
            measure(samples, "retried", "retried", "calls", ()),
            measure(samples, "unanswered", "retried and not answered", "calls", (), [Wanted(0, False, PAIR)]),
        ],
    )


ROWS: dict[str, Callable[[Sizes], Row]] = {"mdp": majordomo}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code: 1 if a call had no outcome, failed, or was answered wrongly."""
    options = make_parser("Kill the active broker of a pair under load, and see what becomes of the calls.", ROWS)
    logging.getLogger("zpatterns").setLevel(logging.ERROR)  # that attempts fail is what this is about
    return run_rows(options.parse_args(arguments), ROWS, lambda sizes: sizes)


if __name__ == "__main__":
    sys.exit(main())
