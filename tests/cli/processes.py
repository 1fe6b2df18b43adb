"""Commands for the tests of the command line, as real processes or in this one. Nothing waits without a deadline."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from unittest import mock

from click.testing import CliRunner

from tests.waiting import DEADLINE, until
from zpatterns.cli import main
from zpatterns.errors import RemoteError

Result = subprocess.CompletedProcess[bytes]


def clean_environment(**extra: str) -> dict[str, str]:
    """The environment without what a developer may have set for their own commands."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ZPATTERNS_")} | extra


def zpatterns(*arguments: str | bytes, stdin: bytes = b"", timeout: float = DEADLINE, cwd: Any = None) -> Result:
    """Run one command to its end, in a process."""
    return subprocess.run(
        [sys.executable, "-m", "zpatterns", *arguments],
        input=stdin,
        capture_output=True,
        timeout=timeout,
        cwd=cwd,
        env=clean_environment(),
        check=False,
    )


def invoke(*arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Result:
    """Run one command to its end in this process: what it reads, prints and returns is what a process would.

    What would be a traceback there is raised here. The settings of logging are left as they are.
    """
    variables: dict[str, str | None] = {name: None for name in os.environ if name.startswith("ZPATTERNS_")}
    logger = logging.getLogger("zpatterns")
    level = logger.level
    try:
        with mock.patch("zpatterns.telemetry.configure_logging"):
            result = CliRunner().invoke(
                main, arguments, input=stdin, env=variables | dict(env or {}), catch_exceptions=False
            )
    finally:
        logger.setLevel(level)
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout_bytes, result.stderr_bytes)


def failing_after(successes: int, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """`method`, which after so many calls raises what a handler that fails does."""
    calls = itertools.count()

    async def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) >= successes:
            raise RemoteError("ValueError", "not my day")
        return await method(*args, **kwargs)

    return call


def output(result: Result) -> bytes:
    """What a command has printed that must have succeeded."""
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout


def is_alive(pid: int) -> bool:
    """Whether `pid` runs; a zombie that nobody has collected does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Server:
    """A command that serves until it is told to stop. Its log lines are read as they come."""

    def __init__(self, *arguments: str, cwd: Any = None, json_log: bool = True):
        command = [sys.executable, "-m", "zpatterns", *arguments]
        self.process = subprocess.Popen(
            [*command, "--log-format", "json"] if json_log else command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=clean_environment(),
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


def ready(*arguments: str, cwd: Any = None) -> tuple[Server, dict[str, Any]]:
    """A server that is ready, and the log line that says so."""
    server = Server(*arguments, cwd=cwd)
    try:
        return server, server.wait_for("ready")
    except BaseException:
        server.__exit__()
        raise


def broker(*arguments: str) -> tuple[Server, str]:
    """A broker on a free port of this machine, and its endpoint."""
    server, line = ready("mdp", "broker", "--bind", "tcp://127.0.0.1:*", *arguments)
    return server, str(line["endpoint"])
