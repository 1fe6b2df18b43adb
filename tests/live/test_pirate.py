"""Paranoid Pirate among real processes that are killed and started again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.live.holding import ROOT, seconds_until_taken_over
from tests.live.load import Callers
from tests.mdp.callers import in_thread
from tests.waiting import until
from zpatterns.pirate import LazyPirateClient
from zpatterns.testing import ManagedProcess, ReservedPort


@contextlib.contextmanager
def cluster(workers: int, interval: float, directory: Path) -> Iterator[tuple[ManagedProcess, list[ManagedProcess]]]:
    """A queue, its frontend being its endpoint, and its workers, each a process; they are all registered."""
    with contextlib.ExitStack() as stack:
        back = stack.enter_context(ReservedPort())
        beats = ("--heartbeat-interval", str(interval), "--log-format", "json")
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
    interval = 1.0
    with (
        cluster(2, interval, tmp_path) as (queue, workers),
        LazyPirateClient(queue.endpoint, timeout=20, retries=0) as client,
    ):
        reply = in_thread(lambda: client.request(b"hold", b"my own"))
        assert seconds_until_taken_over(reply, workers, tmp_path) <= 3 * interval + interval


def test_every_call_ends_when_the_queue_is_killed_and_started_again_under_load(tmp_path):
    """With its own reply or a typed error, and the workers return by themselves."""
    with contextlib.ExitStack() as stack:
        queue, _ = stack.enter_context(cluster(3, 0.5, tmp_path))
        clients = [
            stack.enter_context(LazyPirateClient(queue.endpoint, timeout=8.0, attempt_timeout=1.0, retries=7))
            for _ in range(4)
        ]
        load = stack.enter_context(
            Callers(*(client.request for client in clients), timeout=8.0, errors=("RequestTimeout",))
        )
        load.more(100)
        for _ in range(2):
            queue.restart()
            with LazyPirateClient(queue.endpoint, timeout=20, retries=9) as client:
                answered_by(client, 3)
            load.more(100)
