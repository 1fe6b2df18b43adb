"""Kills and stops by the dozen, of real processes under load: no wrong reply, no call without an outcome."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from zpatterns.errors import RemoteError, RequestTimeout, ZPatternsError
from zpatterns.mdp import AsyncClient, Client
from zpatterns.testing import ManagedProcess

ROOT = str(Path(__file__).parents[2])

HEARTBEATS = ("--heartbeat-interval", "0.25", "--liveness", "3")
LEASE = 0.75
RATE_MIN = 300.0
"""Requests a second, answered, at the moment of each fault and on the average of the whole run."""
TIMEOUT = 8.0
LATE_MAX = 1.0
"""Seconds by which a loaded machine may let a call miss its deadline."""
RECOVERY_MAX = 15.0
"""Seconds after a fault until the rate is back: the leases and back-offs, and a process that has to start."""

WORKERS = ("0.1", "0.1", "0.2", "0.2")
"""The protocol of each."""

FAULTS = ["kill worker"] * 20 + ["kill broker"] * 20 + ["stop worker"] * 3 + ["stop broker"] * 2


@dataclass
class Load:
    """Callers on an event loop and in threads, each of whom asks, looks at the reply, and asks again."""

    endpoint: str
    began: int = 0
    answered: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    longest: float = 0.0
    stopping: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def ended(self) -> int:
        return self.answered + sum(self.errors.values()) + len(self.wrong)

    def begin(self) -> float:
        with self.lock:
            self.began += 1
        return time.monotonic()

    def end(self, body: bytes, reply: list[bytes] | None, error: BaseException | None, since: float) -> None:
        with self.lock:
            self.longest = max(self.longest, time.monotonic() - since)
            if error is not None:
                self.errors[error.code if isinstance(error, RemoteError) else type(error).__name__] += 1
            elif reply is None or reply[1:] != [body]:
                self.wrong.append(f"{body!r} was answered with {reply!r}")
            else:
                self.answered += 1

    async def on_loop(self, client: AsyncClient, caller: int) -> None:
        number = 0
        while not self.stopping:
            number += 1
            body = b"loop %d, call %d" % (caller, number)
            since = self.begin()
            try:
                self.end(body, await client.request("answer", body), None, since)
            except ZPatternsError as error:
                self.end(body, None, error, since)
            await asyncio.sleep(0.01)  # there are other programs on the machine

    def in_thread(self, client: Client, caller: int) -> None:
        number = 0
        while not self.stopping:
            number += 1
            body = b"thread %d, call %d" % (caller, number)
            since = self.begin()
            try:
                self.end(body, client.request("answer", body), None, since)
            except ZPatternsError as error:
                self.end(body, None, error, since)
            time.sleep(0.01)

    async def at_full_rate(self, what: str) -> None:
        """Wait until as many calls are answered as there have to be, over half a second."""
        deadline = time.monotonic() + RECOVERY_MAX
        while True:
            before, since = self.answered, time.monotonic()
            await asyncio.sleep(0.5)
            if (self.answered - before) / (time.monotonic() - since) >= RATE_MIN:
                return
            assert time.monotonic() < deadline, f"{what}: not {RATE_MIN:g} requests a second again"


@contextlib.asynccontextmanager
async def under_load(endpoint: str):
    load = Load(endpoint)
    async with AsyncClient(endpoint, timeout=TIMEOUT, retries=7) as async_client:
        with Client(endpoint, timeout=TIMEOUT, retries=7) as client:
            threads = [threading.Thread(target=load.in_thread, args=(client, number)) for number in range(4)]
            for thread in threads:
                thread.start()
            tasks = [asyncio.create_task(load.on_loop(async_client, number)) for number in range(32)]
            try:
                yield load
            finally:
                load.stopping = True
                # What has no outcome by now and its deadline never gets one.
                _, pending = await asyncio.wait(tasks, timeout=TIMEOUT + LATE_MAX)
                for task in pending:
                    task.cancel()
                for thread in threads:
                    await asyncio.to_thread(thread.join, TIMEOUT + LATE_MAX)
                assert not pending and not any(thread.is_alive() for thread in threads), "a call without an outcome"


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
    longest: dict[str, float] = dict.fromkeys(FAULTS, 0.0)
    async with under_load(broker.endpoint) as load:
        await load.at_full_rate("at the start")
        begin, before = time.monotonic(), load.answered
        for number, fault in enumerate(chance.sample(FAULTS, len(FAULTS))):
            struck = time.monotonic()
            await strike(fault, broker, chance.choice(workers))
            await load.at_full_rate(f"fault {number}, {fault}")
            longest[fault] = max(longest[fault], round(time.monotonic() - struck, 2))
        elapsed, answered = time.monotonic() - begin, load.answered - before
    rate = answered / elapsed
    assert rate >= RATE_MIN
    return load, (
        f"{len(FAULTS)} faults in {elapsed:.0f} s; {answered} answered, {rate:.0f}/s; of {load.began} calls "
        f"{load.ended} ended, {len(load.wrong)} wrongly, errors {dict(load.errors)}; "
        f"longest call {load.longest:.2f} s; back at full rate after at most {longest} s"
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
    assert not load.wrong, load.wrong[:10]
    assert load.ended == load.began, "a call without an outcome"
    assert load.longest <= TIMEOUT + LATE_MAX
    assert set(load.errors) <= {RequestTimeout.__name__, "502"}, "an error that none of these faults explains"
