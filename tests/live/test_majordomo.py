"""Majordomo among real processes that are killed, stopped and started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.live.handlers import HELD
from tests.waiting import eventually, until
from zpatterns.errors import RequestTimeout, ZPatternsError
from zpatterns.mdp import AsyncClient, Client
from zpatterns.testing import ManagedProcess

ROOT = str(Path(__file__).parents[2])


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


def in_thread(function, *arguments) -> Future:
    future: Future = Future()

    def run():
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class Load:
    """Callers of one AsyncClient who ask without a pause, and check that each gets its own reply or a typed error."""

    def __init__(self, endpoints: list[str], callers: int, timeout: float) -> None:
        self.client = AsyncClient(endpoints, timeout=timeout, max_in_flight=callers)
        self.answered = 0
        self.failed: list[ZPatternsError] = []
        self.longest = 0.0
        self._stopping = False
        self._timeout = timeout
        self._callers = callers

    async def __aenter__(self) -> Load:
        await self.client.__aenter__()
        self._tasks = [asyncio.create_task(self._call(number)) for number in range(self._callers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        try:
            # Every call has an outcome by its deadline, so this takes no longer than one call may.
            async with asyncio.timeout(self._timeout + 5.0):
                await asyncio.gather(*self._tasks)
        finally:
            await self.client.close()

    async def _call(self, caller: int) -> None:
        number = 0
        while not self._stopping:
            number += 1
            body = b"%d of %d" % (number, caller)
            began = time.monotonic()
            try:
                reply = await self.client.request("answer", body)
            except ZPatternsError as error:
                self.failed.append(error)
            else:
                assert reply[1:] == [body], "the reply of another call"
                self.answered += 1
            self.longest = max(self.longest, time.monotonic() - began)


def test_the_request_of_a_busy_worker_that_is_killed_is_answered_by_another_within_lease_and_heartbeat(tmp_path):
    interval = 0.5
    lease = 3 * interval
    with cluster(2, interval, tmp_path) as (broker, workers), Client(broker.endpoint, timeout=20, retries=0) as client:
        reply = in_thread(client.request, "answer", b"hold", b"my own")
        until((tmp_path / HELD).exists, "a worker holds the request")
        holder = int((tmp_path / HELD).read_text())
        victim = next(worker for worker in workers if worker.events("ready_sent") and holder in processes(worker))
        victim.kill()
        killed_at = time.monotonic()
        frames = reply.result(20)
        took = time.monotonic() - killed_at
        assert frames[1:] == [b"hold", b"my own"]
        assert int(frames[0]) != holder
        assert took <= lease + interval


def processes(worker: ManagedProcess) -> set[int]:
    """The ids of a managed process, which may run its program in a child."""
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    return {worker.pid, *map(int, children)}


def test_every_call_ends_when_the_broker_is_killed_and_started_again_under_load(tmp_path):
    interval = 1.0
    back_off_max = 3 * interval

    async def main(broker: ManagedProcess) -> None:
        recovered = threading.Event()
        async with Load([broker.endpoint], callers=16, timeout=8.0) as load:
            await eventually(lambda: load.answered > 200, "the load runs")
            blocking = in_thread(ask_on_and_on, broker.endpoint, recovered)
            try:
                await asyncio.to_thread(broker.restart)
                restarted_at = time.monotonic()
                with Client(broker.endpoint) as client:
                    while await asyncio.to_thread(registered, client) < 3:
                        assert time.monotonic() < restarted_at + 20
                back_after = time.monotonic() - restarted_at
                before = load.answered
                await eventually(lambda: load.answered > before + 200, "the load runs again")
            finally:
                recovered.set()
        assert back_after <= interval + back_off_max
        assert all(isinstance(error, RequestTimeout) for error in load.failed)
        assert load.longest <= 8.0 + 1.0, "no call outlives its deadline"
        assert await asyncio.to_thread(blocking.result, 20) > 0

    with cluster(3, interval, tmp_path) as (broker, _):
        asyncio.run(main(broker))


def ask_on_and_on(endpoint: str, enough: threading.Event) -> int:
    """What a program with the blocking client sees of it: each call its own reply, or a typed error."""
    answered = 0
    with Client(endpoint, timeout=4.0) as client:
        while not enough.is_set():
            body = b"blocking %d" % answered
            with contextlib.suppress(RequestTimeout):
                assert client.request("answer", body)[1:] == [body]
                answered += 1
    return answered


@pytest.mark.timeout(120)
def test_workers_that_are_stopped_for_ten_seconds_harm_nobody(tmp_path):
    """One in the midst of a request, and an idle one of another broker."""
    interval = 0.5

    async def main(broker: ManagedProcess, workers: list[ManagedProcess]) -> None:
        with Client(broker.endpoint, timeout=30, retries=0) as client, contextlib.ExitStack() as stack:
            async with Load([broker.endpoint], callers=8, timeout=10.0) as load:
                await eventually(lambda: load.answered > 100, "the load runs")
                held = in_thread(client.request, "answer", b"hold", b"my own")
                await eventually((tmp_path / HELD).exists, "a worker holds the request")
                holder = int((tmp_path / HELD).read_text())
                stopped = next(worker for worker in workers if holder in processes(worker))
                stopped.pause()
                idle.pause()
                stopped_at = time.monotonic()
                # It was in the middle of a request: another worker answers that.
                frames = await asyncio.to_thread(held.result, 20)
                assert int(frames[0]) != holder
                assert frames[1:] == [b"hold", b"my own"]
                await asyncio.to_thread(
                    until, lambda: registered(other_client) == 0, "the broker gives the idle one up"
                )
                await eventually(lambda: time.monotonic() - stopped_at >= 10.0, "ten seconds have passed")
                idle.resume()
                before = load.answered
                stopped.resume()
                other = next(worker for worker in workers if worker is not stopped)
                await asyncio.to_thread(other.terminate)
                # Its lane still hangs in the request it was stopped in, so a fresh worker takes the other's place.
                stack.enter_context(worker_process([broker.endpoint], interval, tmp_path))
                await asyncio.to_thread(other.terminate)
                await eventually(lambda: load.answered > before + 100, "the load goes on")
                await eventually(lambda: stopped.events("broker_lost"), "the stopped one knows that it was given up")
            assert stopped.is_running
        assert not load.failed, "a stopped worker costs time, not calls"

    with (
        cluster(2, interval, tmp_path) as (broker, workers),
        cluster(1, interval, tmp_path) as (other_broker, (idle,)),
        Client(other_broker.endpoint, timeout=5) as other_client,
    ):
        asyncio.run(main(broker, workers))
        until(lambda: registered(other_client) == 1, "the idle one is back")
        assert other_client.request("answer", b"again")[1:] == [b"again"]
        assert len(idle.events("broker_lost")) >= 1, "it knows that it was given up"


def test_a_broker_that_is_stopped_for_more_than_a_lease_loses_no_worker(tmp_path):
    interval = 0.5
    with cluster(2, interval, tmp_path) as (broker, _), Client(broker.endpoint, timeout=20, retries=0) as client:
        call = in_thread(client.request, "answer", b"before")
        assert call.result(10)[1:] == [b"before"]
        broker.pause()
        paused_at = time.monotonic()
        waiting = in_thread(client.request, "answer", b"meanwhile")
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
