"""Commands as real processes, for the tests of the command line. Nothing here waits without a deadline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

DEADLINE = 20.0


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment without what a developer may have set for their own commands."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ZPATTERNS_")} | extra


def zpatterns(
    *arguments: str | bytes,
    stdin: bytes = b"",
    timeout: float = DEADLINE,
    cwd: Any = None,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "zpatterns", *arguments],
        input=stdin,
        capture_output=True,
        timeout=timeout,
        cwd=cwd,
        env=clean_environment(**(env or {})),
        check=False,
    )


def until(condition: Callable[[], Any], what: str, deadline: float = DEADLINE) -> Any:
    """The first true value of `condition`, polled."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {deadline:g} s")
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether `pid` runs; a zombie that nobody has collected does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Server:
    """A command that serves until it is told to stop. Its log lines are read as they come."""

    def __init__(self, *arguments: str, cwd: Any = None, env: dict[str, str] | None = None, json_log: bool = True):
        command = [sys.executable, "-m", "zpatterns", *arguments]
        self.process = subprocess.Popen(
            [*command, "--log-format", "json"] if json_log else command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=clean_environment(**(env or {})),
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.decode().rstrip("\n"))

    def events(self, name: str) -> list[dict[str, Any]]:
        """The JSON log lines of one name so far."""
        return [entry for entry in map(json.loads, list(self.lines)) if entry["event"] == name]

    def wait_for(self, name: str) -> dict[str, Any]:
        """The first log line of that name, once it is there."""

        def look() -> Sequence[dict[str, Any]]:
            if self.process.poll() is not None:
                self._reader.join(DEADLINE)
                raise AssertionError(f"ended with code {self.process.returncode}: {self.lines}")
            return self.events(name)

        found: dict[str, Any] = until(look, f"a line {name!r} among {self.lines}")[0]
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal and return the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return code


def broker(*arguments: str, **kwargs: Any) -> tuple[Server, str]:
    """A broker on a free port of this machine, and its endpoint."""
    server = Server("mdp", "broker", "--bind", "tcp://127.0.0.1:*", *arguments, **kwargs)
    try:
        return server, str(server.wait_for("ready")["endpoint"])
    except BaseException:
        server.__exit__()
        raise
