"""Worker processes of a demonstration or a measurement, which never outlive it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

import zpatterns

_TIED = "ZPATTERNS_TIED_TO_PARENT"
_DIRECTORY = "ZPATTERNS_CHILDREN_DIRECTORY"

_END_TIMEOUT = 3.0

PLAIN = b"plain"
HOLD = b"hold"
"""First frame of a request of the demonstration; the first worker to be given HOLD never answers."""

HELD_FILE = "held"
"""Appears in the shared directory, with a process id, when that worker has the request in hand."""


class Children:
    """``zpatterns mdp worker`` processes with a directory that they share; all gone when the block is left."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="zpatterns-")
        self.directory = Path(self._temporary.name)
        self._processes: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if kind is None:
            # A worker that is told to stop says goodbye to its broker; one that is killed is missed there.
            self._end(subprocess.Popen.terminate)
        self.close()

    def start_worker(self, service: str, endpoint: str, *options: str) -> int:
        """Start one worker of `service` and return its process id."""
        # What the user has set for commands of their own is not meant for these.
        env = {name: value for name, value in os.environ.items() if not name.startswith("ZPATTERNS_")}
        # The child runs the very package that runs here, whatever lies in the current directory.
        package_root = str(Path(zpatterns.__file__).parent.parent)
        path = [package_root, *filter(None, [env.get("PYTHONPATH")])]
        env |= {"PYTHONPATH": os.pathsep.join(path), _TIED: "1", _DIRECTORY: str(self.directory)}
        command = [sys.executable, "-P", "-m", "zpatterns", "mdp", "worker", service, "--connect", endpoint, *options]
        errors = (self.directory / f"worker-{len(self._processes)}.log").open("w+b")
        # A session of its own: Ctrl-C is for this process, which then ends them.
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        self._processes.append((process, errors))
        return process.pid

    def check(self) -> None:
        """Raise RuntimeError, with the last line it logged, if a worker has ended by itself."""
        for process, errors in self._processes:
            if process.poll() is not None:
                errors.seek(0)
                lines = errors.read().decode("utf-8", "replace").strip().splitlines()
                said = lines[-1] if lines else "it said nothing"
                raise RuntimeError(f"worker {process.pid} ended with code {process.returncode}: {said}")

    def kill(self, pid: int) -> None:
        """SIGKILL the worker `pid`."""
        next(process for process, _ in self._processes if process.pid == pid).kill()

    def close(self) -> None:
        """Kill what still runs and remove the directory."""
        self._end(subprocess.Popen.kill)
        for process, errors in self._processes:
            if process.stdin is not None:
                process.stdin.close()
            errors.close()
        self._processes.clear()
        self._temporary.cleanup()

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        for process, _ in self._processes:
            how(process)
        deadline = time.monotonic() + _END_TIMEOUT
        for process, _ in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))


def shared_directory() -> Path:
    """In a worker process: :attr:`Children.directory`."""
    return Path(os.environ[_DIRECTORY])


def tie_to_parent() -> None:
    """In a worker process: end when the parent does, even if that was killed and could end nobody."""
    if os.environ.get(_TIED):
        threading.Thread(target=_end_with_parent, name="zpatterns-tie", daemon=True).start()


def _end_with_parent() -> None:
    # The parent holds the other end of standard input and never writes to it.
    try:
        os.read(0, 1)
    finally:
        os._exit(1)
