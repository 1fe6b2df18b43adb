"""Majordomo among real processes that are killed, stopped and started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.holding import ROOT, holder, seconds_until_taken_over
from tests.live.load import Load
from tests.mdp.callers import in_thread
from tests.waiting import DEADLINE, eventually, until
from zpatterns.errors import RequestTimeout
from zpatterns.mdp import Client
from zpatterns.testing import ManagedProcess


def broker_process(interval: float) -> ManagedProcess:
    return ManagedProcess.command(
        "mdp", "broker", "--bind", "tcp://127.0.0.1:*", "--heartbeat-interval", str(interval), "--log-format", "json"
    )


def worker_process(endpoints: list[str], interval: float, directory: Path) -> ManagedProcess:
    connect = [word for endpoint in endpoints for word in ("--connect", endpoint)]
    return ManagedProcess.command(
        *("mdp", "worker", "answer", "--handler", "tests.live.handlers:answer", *connect),
        *("--heartbeat-interval", str(interval), "--log-format", "json"),
        ready="ready_sent",
        cwd=directory,
        env={"PYTHONPATH": ROOT},
    )


@contextlib.contextmanager
def cluster(workers: int, interval: float, directory: Path) -> Iterator[tuple[ManagedProcess, list[ManagedProcess]]]:
    """A broker and its workers, each a process; they are all registered."""
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(broker_process(interval))
        started = [stack.enter_context(worker_process([broker.endpoint], interval, directory)) for _ in range(workers)]
        with Client(broker.endpoint) as client:
            until(lambda: registered(client) == workers, "every worker is registered")
        yield broker, started


def registered(client: Client) -> int:
    """How many workers the broker counts on; 0 while there is no broker."""
    try:
        code, workers = client.request("mmi.workers", b"", timeout=5.0)
    except RequestTimeout:
        return 0
    assert code == b"200"
    return len(json.loads(workers))


def test_the_request_of_a_busy_worker_that_is_killed_is_answered_by_another_within_lease_and_heartbeat(tmp_path):
    interval = 1.0
    with cluster(2, interval, tmp_path) as (broker, workers), Client(broker.endpoint, timeout=20, retries=0) as client:
        reply = in_thread(lambda: client.request("answer", b"hold", b"my own"))
        assert seconds_until_taken_over(reply, workers, tmp_path) <= 3 * interval + interval


def test_every_call_ends_when_the_broker_is_killed_and_started_again_under_load(tmp_path):
    interval = 1.0
    back_off_max = 3 * interval
    load = Load(timeout=8.0, rate_min=25.0, recovery_max=DEADLINE)

    async def is_back_in_time(broker: ManagedProcess) -> bool:
        await asyncio.to_thread(broker.restart)
        restarted_at = time.monotonic()
        with Client(broker.endpoint) as client:
            await asyncio.to_thread(until, lambda: registered(client) == 3, "all are back")
        back_after = time.monotonic() - restarted_at
        await load.at_full_rate("after the restart")
        return back_after <= interval + back_off_max

    async def main(broker: ManagedProcess) -> None:
        async with load.running(broker.endpoint, tasks=8, threads=2):
            await load.at_full_rate("at first")
            # Where the machine stands still meanwhile it takes longer, but not each time.
            for _ in range(3):
                if await is_back_in_time(broker):
                    return
        raise AssertionError("the workers' back-off is longer than it should be")

    with cluster(3, interval, tmp_path) as (broker, _):
        asyncio.run(main(broker))
    load.check("RequestTimeout")


@pytest.mark.timeout(120)
def test_workers_that_are_stopped_for_ten_seconds_harm_nobody(tmp_path):
    """One in the midst of a request, and an idle one of another broker."""
    interval = 0.5
    load = Load(timeout=10.0, rate_min=20.0, recovery_max=DEADLINE)

    async def main(broker: ManagedProcess, workers: list[ManagedProcess]) -> None:
        with Client(broker.endpoint, timeout=30, retries=0) as client, contextlib.ExitStack() as stack:
            async with load.running(broker.endpoint, tasks=4, threads=0, pause=0.05):
                await load.at_full_rate("at first")
                held = in_thread(lambda: client.request("answer", b"hold", b"my own"))
                pid, stopped = await asyncio.to_thread(holder, workers, tmp_path)
                stopped.pause()
                idle.pause()
                stopped_at = time.monotonic()
                # It was in the middle of a request: another worker answers that.
                frames = await asyncio.to_thread(held.result, DEADLINE)
                assert int(frames[0]) != pid
                assert frames[1:] == [b"hold", b"my own"]
                await asyncio.to_thread(
                    until, lambda: registered(other_client) == 0, "the broker gives the idle one up"
                )
                await asyncio.sleep(stopped_at + 10.0 - time.monotonic())
                idle.resume()
                stopped.resume()
                other = next(worker for worker in workers if worker is not stopped)
                await asyncio.to_thread(other.terminate)
                # Its lane still hangs in the request it was stopped in, so a fresh worker takes the other's place.
                stack.enter_context(worker_process([broker.endpoint], interval, tmp_path))
                await load.at_full_rate("after the stop")
                await eventually(lambda: stopped.events("broker_lost"), "the stopped one knows that it was given up")
            assert stopped.is_running

    with (
        cluster(2, interval, tmp_path) as (broker, workers),
        cluster(1, interval, tmp_path) as (other_broker, (idle,)),
        Client(other_broker.endpoint, timeout=5) as other_client,
    ):
        asyncio.run(main(broker, workers))
        until(lambda: registered(other_client) == 1, "the idle one is back")
        assert other_client.request("answer", b"again")[1:] == [b"again"]
        assert len(idle.events("broker_lost")) >= 1, "it knows that it was given up"
    load.check()  # a stopped worker costs time, not calls


def test_a_broker_that_is_stopped_for_more_than_a_lease_loses_no_worker(tmp_path):
    interval = 1.0
    with cluster(2, interval, tmp_path) as (broker, _), Client(broker.endpoint, timeout=20, retries=0) as client:
        assert client.request("answer", b"before")[1:] == [b"before"]
        broker.pause()
        paused_at = time.monotonic()
        waiting = in_thread(lambda: client.request("answer", b"meanwhile"))
        # The workers hear nothing for two intervals, less than their lease; the broker misses four heartbeats.
        until(lambda: time.monotonic() - paused_at >= 2 * interval, "two intervals have passed")
        broker.resume()
        assert waiting.result(20)[1:] == [b"meanwhile"]
        assert registered(client) == 2
        assert not broker.events("worker_expired"), "their heartbeats lay unread: that is not silence"


def test_workers_and_clients_turn_to_the_next_broker_of_their_list(tmp_path):
    interval = 0.25
    with contextlib.ExitStack() as stack:
        brokers = [stack.enter_context(broker_process(interval)) for _ in range(2)]
        endpoints = [broker.endpoint for broker in brokers]
        for _ in range(2):
            stack.enter_context(worker_process(endpoints, interval, tmp_path))
        client = stack.enter_context(Client(endpoints, timeout=20, retries=19, attempt_timeout=0.5))
        assert client.request("answer", b"first")[1:] == [b"first"]
        brokers[0].kill()
        with Client(endpoints[1]) as second:
            until(lambda: registered(second) == 2, "both workers are at the second broker")
        assert client.request("answer", b"second")[1:] == [b"second"]
        # A broker that ends in order says so: its workers are back at the first within a back-off.
        brokers[0].start()
        assert brokers[1].terminate() == 0
        with Client(endpoints[0]) as first:
            until(lambda: registered(first) == 2, "both workers are at the first broker")
        assert client.request("answer", b"third")[1:] == [b"third"]
