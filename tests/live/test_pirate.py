"""Paranoid Pirate among real processes that are killed and started again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.live.handlers import HELD
from tests.live.test_majordomo import ROOT, in_thread, processes
from tests.waiting import until
from zpatterns.errors import RequestTimeout
from zpatterns.pirate import LazyPirateClient
from zpatterns.testing import ManagedProcess, ReservedPort

INTERVAL = 0.5
LEASE = 3 * INTERVAL


@contextlib.contextmanager
def cluster(workers: int, directory: Path) -> Iterator[tuple[ManagedProcess, list[ManagedProcess]]]:
    """A queue, its frontend being its endpoint, and its workers, each a process; they are all registered."""
    with contextlib.ExitStack() as stack:
        back = stack.enter_context(ReservedPort())
        beats = ("--heartbeat-interval", str(INTERVAL), "--log-format", "json")
        queue = stack.enter_context(
            ManagedProcess.command(
                *("pirate", "queue", "--frontend", "tcp://127.0.0.1:*", "--backend", back.endpoint), *beats
            )
        )
        started = [
            stack.enter_context(
                ManagedProcess.command(
                    *("pirate", "worker", "--handler", "tests.live.handlers:answer", "--connect", back.endpoint),
                    *beats,
                    ready="ready_sent",
                    cwd=directory,
                    env={"PYTHONPATH": ROOT},
                )
            )
            for _ in range(workers)
        ]
        with LazyPirateClient(queue.endpoint, timeout=20, retries=4) as client:
            answered_by(client, workers)
        yield queue, started


def answered_by(client: LazyPirateClient, workers: int) -> None:
    """Ask until so many workers have answered: the least recently used is first, so each is asked in turn."""
    seen: set[bytes] = set()

    def ask() -> bool:
        seen.add(client.request(b"who")[0])
        return len(seen) >= workers

    until(ask, f"{workers} workers answer")


def test_the_request_of_a_worker_that_is_killed_is_answered_by_another_within_lease_and_heartbeat(tmp_path):
    with cluster(2, tmp_path) as (queue, workers), LazyPirateClient(queue.endpoint, timeout=20, retries=0) as client:
        reply = in_thread(client.request, b"hold", b"my own")
        until((tmp_path / HELD).exists, "a worker holds the request")
        holder = int((tmp_path / HELD).read_text())
        victim = next(worker for worker in workers if holder in processes(worker))
        victim.kill()
        killed_at = time.monotonic()
        frames = reply.result(20)
        took = time.monotonic() - killed_at
        assert frames[1:] == [b"hold", b"my own"]
        assert int(frames[0]) != holder
        assert took <= LEASE + INTERVAL


def test_every_call_ends_when_the_queue_is_killed_and_started_again_under_load(tmp_path):
    """With its own reply or a typed error, and the workers return by themselves."""
    timeout = 8.0
    stopping = threading.Event()
    answered: list[int] = []
    longest = [0.0]

    def ask_on_and_on(caller: int) -> None:
        number = 0
        with LazyPirateClient(queue.endpoint, timeout=timeout, attempt_timeout=1.0, retries=7) as client:
            while not stopping.is_set():
                number += 1
                body = b"%d of %d" % (number, caller)
                began = time.monotonic()
                try:
                    assert client.request(body)[1:] == [body], "the reply of another call"
                    answered.append(caller)
                except RequestTimeout:
                    pass
                longest[0] = max(longest[0], time.monotonic() - began)

    with cluster(3, tmp_path) as (queue, _):
        callers = [in_thread(ask_on_and_on, number) for number in range(4)]
        try:
            until(lambda: len(answered) > 100, "the load runs")
            for _ in range(2):
                queue.restart()
                with LazyPirateClient(queue.endpoint, timeout=20, retries=9) as client:
                    answered_by(client, 3)
                before = len(answered)
                until(lambda before=before: len(answered) > before + 100, "the load runs again")  # type: ignore[misc]
        finally:
            stopping.set()
        for caller in callers:
            caller.result(timeout + 5.0)
    assert longest[0] <= timeout + 1.0, "no call outlives its deadline"
