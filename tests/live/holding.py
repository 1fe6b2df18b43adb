"""The worker process that holds a request which :func:`tests.live.handlers.answer` was told to hold."""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path

from tests.live.handlers import HELD
from tests.waiting import DEADLINE, until
from zpatterns.testing import ManagedProcess

ROOT = str(Path(__file__).parents[2])


def holder(workers: list[ManagedProcess], directory: Path) -> tuple[int, ManagedProcess]:
    """The id that it answers with, and itself, once it has the request."""
    until((directory / HELD).exists, "a worker holds the request")
    pid = int((directory / HELD).read_text())
    return pid, next(worker for worker in workers if pid in _processes(worker))


def seconds_until_taken_over(reply: Future[list[bytes]], workers: list[ManagedProcess], directory: Path) -> float:
    """Kill the holder of the request with the body ``hold``, ``my own``, which another worker then answers."""
    pid, victim = holder(workers, directory)
    victim.kill()
    killed_at = time.monotonic()
    frames = reply.result(DEADLINE)
    took = time.monotonic() - killed_at
    assert frames[1:] == [b"hold", b"my own"]
    assert int(frames[0]) != pid
    return took


def _processes(worker: ManagedProcess) -> set[int]:
    """The ids of a managed process, which may run its program in a child."""
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    return {worker.pid, *map(int, children)}
