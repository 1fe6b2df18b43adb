"""Programs in processes of their own that are started, killed, stopped and started again: :class:`ManagedProcess`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import zpatterns
from zpatterns.testing.ports import ReservedPort

PATIENCE = 20.0
"""Seconds that a process may take to be ready, or to end, unless it is told otherwise."""

_FREE_PORT = "tcp://127.0.0.1:*"
_LINES_MAX = 10_000


class ManagedProcess:
    """A Python program in a process of its own, at the mercy of a test.

    `arguments`: what one would give to ``python``: ``"-m", "zpatterns", "mdp", "broker", ...``, or a file and its
    arguments. Each ``tcp://127.0.0.1:*`` among them stands for a free port, which stays the same, and reserved, through
    every restart.
    `ready`: the ``event`` of the JSON log line that tells that it is ready; None for a program that does not tell.
    The servers and workers of the ``zpatterns`` command write ``ready``. That a worker has found its broker is told
    by the broker: ``worker_registered``.
    `env`: variables added to this process's own, of which those named ``ZPATTERNS_*`` are left out.
    `patience`: seconds for each of the waits.

    It is started with ``with``, or by :meth:`start`, and ends with the block or by :meth:`close`; or, if nobody comes
    to that, together with this process, even if that is killed. Its standard input is empty; its standard output and
    error are read here, line by line.
    """

    def __init__(
        self,
        *arguments: str,
        ready: str | None = "ready",
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        if not arguments:
            raise ValueError("a process needs a program: '-m' and a module, or a file")
        self.patience = patience
        self._ready = ready
        self._cwd = cwd
        self._env = _environment(env or {})
        self._ports: list[ReservedPort] = []
        self._arguments = [self._with_port(argument) for argument in arguments]
        self._process: subprocess.Popen[bytes] | None = None
        self._tie: int | None = None
        self._reader: threading.Thread | None = None
        self._lines: deque[str] = deque(maxlen=_LINES_MAX)
        self._news = threading.Condition()
        self._at_end = True

    @classmethod
    def command(cls, *arguments: str, **options: Any) -> Self:
        """One of ``zpatterns``'s own commands, such as ``"mdp", "broker", "--bind", "tcp://127.0.0.1:*"``."""
        return cls("-m", "zpatterns", *arguments, **options)

    @property
    def endpoint(self) -> str:
        """The first endpoint that was given as ``tcp://127.0.0.1:*``: known before the start, the same ever after."""
        if not self._ports:
            raise ValueError(f"no argument is {_FREE_PORT!r}")
        return self._ports[0].endpoint

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended. One that is paused runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def lines(self) -> list[str]:
        """What it has printed since it was last started: the last 10,000 lines."""
        with self._news:
            return list(self._lines)

    def start(self) -> Self:
        """Start it and wait until it is ready. Errors: RuntimeError if it ends instead, TimeoutError."""
        if self.is_running:
            raise RuntimeError(f"{self} runs already")
        self._forget()
        reading, self._tie = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "zpatterns.testing.tied", str(reading), *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self._cwd,
                env=self._env,
                pass_fds=(reading,),
                # Ctrl-C is for us, who then end it. Not a session of its own: the system kills a stopped process that
                # has lost its parent only if it was of the same session.
                process_group=0,
            )
        finally:
            os.close(reading)
        assert self._process.stdout is not None
        self._at_end = False
        self._lines.clear()
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stdout,), name=f"zpatterns-process {self._process.pid}", daemon=True
        )
        self._reader.start()
        if self._ready is not None:
            self.wait_for(self._ready)
        return self

    def kill(self) -> None:
        """SIGKILL, and wait for its end. One that has ended stays so."""
        if self.is_running:
            process = self._running()
            process.kill()
            process.wait(self.patience)

    def pause(self) -> None:
        """SIGSTOP, and wait until it stands still."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """SIGCONT: go on after :meth:`pause`."""
        self._running().send_signal(signal.SIGCONT)

    def terminate(self) -> int:
        """SIGTERM, upon which a server finishes what it has begun, and wait for its end; the exit code."""
        self._running().send_signal(signal.SIGTERM)
        self._running().send_signal(signal.SIGCONT)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; the exit code, or -N if signal N ended it. Errors: TimeoutError."""
        try:
            return self._running().wait(self.patience)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self} has not ended within {self.patience:g} s: {self._tail()}") from None

    def restart(self) -> None:
        """Kill it, if it runs, and start it again on the same ports; returns once it is ready."""
        self.kill()
        self.start()

    def events(self, name: str) -> list[dict[str, Any]]:
        """The JSON log lines since the last start whose ``event`` is `name`."""
        return [entry for line in self.lines if (entry := _entry(line)).get("event") == name]

    def wait_for(self, name: str, count: int = 1) -> dict[str, Any]:
        """Wait for the `count`-th log line of that name since the last start, and return it.

        Errors: RuntimeError if the program ends first, TimeoutError.
        """
        deadline = time.monotonic() + self.patience
        with self._news:
            while len(found := self.events(name)) < count:
                if self._at_end:
                    raise RuntimeError(f"{self} ended before it logged {name!r}: {self._tail()}")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{self} did not log {name!r} within {self.patience:g} s: {self._tail()}")
                self._news.wait(left)
        return found[count - 1]

    def close(self) -> None:
        """Kill it and let go of its ports. Twice is once."""
        self.kill()
        self._forget()
        for port in self._ports:
            port.close()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __str__(self) -> str:
        return f"process {' '.join(self._arguments)!r}"

    def _with_port(self, argument: str) -> str:
        if argument != _FREE_PORT:
            return argument
        self._ports.append(ReservedPort())
        return self._ports[-1].endpoint

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"{self} was not started")
        return self._process

    def _read(self, stream: IO[bytes]) -> None:
        for line in stream:
            with self._news:
                self._lines.append(line.decode("utf-8", "replace").rstrip("\r\n"))
                self._news.notify_all()
        with self._news:
            self._at_end = True
            self._news.notify_all()

    def _forget(self) -> None:
        """What is left of a process that has ended."""
        if self._tie is not None:
            os.close(self._tie)
            self._tie = None
        if self._process is not None and self._reader is not None:
            assert self._process.stdout is not None
            self._reader.join(1.0)
            if self._reader.is_alive():
                # Children of its own have kept the other end of the pipe: they go too.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._reader.join(self.patience)
            if not self._reader.is_alive():
                self._process.stdout.close()
            self._reader = None

    def _tail(self) -> str:
        return "\n  ".join(["its last lines:", *self.lines[-10:]]) if self.lines else "it printed nothing"


def _environment(added: Mapping[str, str]) -> dict[str, str]:
    """This process's variables without what somebody has set for commands of their own."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("ZPATTERNS_")}
    # The child runs the very package that runs here.
    root = str(Path(zpatterns.__file__).parent.parent)
    env["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [env.get("PYTHONPATH")])])
    env["PYTHONUNBUFFERED"] = "1"
    return env | dict(added)


def _entry(line: str) -> dict[str, Any]:
    if line.startswith("{"):
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict):
                return entry
    return {}
