"""Kills and stops by the dozen, of real processes under load: no wrong reply, no call without an outcome."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from pathlib import Path

import pytest

from tests.live.load import Load
from zpatterns.testing import ManagedProcess

ROOT = str(Path(__file__).parents[2])

HEARTBEATS = ("--heartbeat-interval", "0.25", "--liveness", "3")
LEASE = 0.75
RATE_MIN = 300.0
"""Requests a second, answered, before each fault and on the average of the whole run."""
TIMEOUT = 8.0
RECOVERY_MAX = 15.0
"""Seconds after a fault until the rate is back: the leases and back-offs, and a process that has to start."""

WORKERS = ("0.1", "0.1", "0.2", "0.2")
"""The protocol of each."""

FAULTS = ["kill worker"] * 20 + ["kill broker"] * 20 + ["stop worker"] * 3 + ["stop broker"] * 2


def start_broker(stack: contextlib.ExitStack) -> ManagedProcess:
    return stack.enter_context(
        ManagedProcess.command("mdp", "broker", "--bind", "tcp://127.0.0.1:*", *HEARTBEATS, "--log-format", "json")
    )


def start_worker(stack: contextlib.ExitStack, endpoint: str, protocol: str, directory: Path) -> ManagedProcess:
    return stack.enter_context(
        ManagedProcess.command(
            *("mdp", "worker", "answer", "--handler", "tests.live.handlers:answer", "--protocol", protocol),
            *("--connect", endpoint, *HEARTBEATS, "--log-format", "json"),
            cwd=directory,
            env={"PYTHONPATH": ROOT},
        )
    )


async def strike(fault: str, broker: ManagedProcess, worker: ManagedProcess) -> None:
    verb, _, whom = fault.partition(" ")
    victim = broker if whom == "broker" else worker
    if verb == "kill":
        await asyncio.to_thread(victim.restart)
    else:
        victim.pause()
        await asyncio.sleep(3 * LEASE)  # how long it stands still: well beyond every lease
        victim.resume()


async def soak(broker: ManagedProcess, workers: list[ManagedProcess], chance: random.Random) -> tuple[Load, str]:
    """Every fault once, in an order by `chance`, each as soon as the load has got over the one before."""
    load = Load(TIMEOUT, RATE_MIN, RECOVERY_MAX)
    longest = dict.fromkeys(FAULTS, 0.0)
    async with load.running(broker.endpoint):
        await load.at_full_rate("at the start")
        begin, before = time.monotonic(), load.answered
        for number, fault in enumerate(chance.sample(FAULTS, len(FAULTS))):
            struck = time.monotonic()
            await strike(fault, broker, chance.choice(workers))
            await load.at_full_rate(f"fault {number}, {fault}")
            longest[fault] = max(longest[fault], round(time.monotonic() - struck, 2))
        elapsed = time.monotonic() - begin
        rate = (load.answered - before) / elapsed
    assert rate >= RATE_MIN
    return load, (
        f"{len(FAULTS)} faults in {elapsed:.0f} s at {rate:.0f} answers a second; {load}; "
        f"back at full rate after at most {longest} s"
    )


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_forty_kills_and_five_stops_under_load(tmp_path, capsys):
    seed = random.randrange(10**6)
    with capsys.disabled():
        sys.stdout.write(f"\nseed {seed}: ")
        sys.stdout.flush()
        with contextlib.ExitStack() as stack:
            broker = start_broker(stack)
            workers = [start_worker(stack, broker.endpoint, protocol, tmp_path) for protocol in WORKERS]
            load, report = asyncio.run(soak(broker, workers, random.Random(seed)))
        sys.stdout.write(report + "\n")
    load.check("RequestTimeout", "502")
