"""The processes of a measurement: started with deadlines, looked at from outside, and never left behind."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent

START_TIMEOUT = 30.0
"""Seconds that any process may take until it is ready."""
MEASURE_TIMEOUT = 300.0
"""Seconds that one sample may take."""

ENDING = (signal.SIGINT, signal.SIGTERM)
"""The signals that end a measurement, as an exception that their handler raises."""

_WAIT = 0.5
"""Seconds that are waited at once. A signal that comes just before a wait is heard of only when that is over."""

_LIBC = ctypes.CDLL(None)
_PDEATHSIG = 1


class BenchmarkError(Exception):
    """Something that was to be measured did not work."""

    def tell_of(self, other: BenchmarkError) -> None:
        """Add another process's failure: what one reports is often another's fault."""
        if str(other) not in str(self):
            self.args = (f"{self}\n{other}",)


@contextlib.contextmanager
def _ending_waits() -> Iterator[Iterable[int]]:
    """Have :data:`ENDING` wait until the block is left; the signals that were blocked before it.

    What is not noted yet would be left behind, and so would the rest while one of them is ended. And Python forks in
    the block: it only prints what a handler raises while a hook of the fork runs (``os.register_at_fork``; logging has
    one), and goes on.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(parent: int, blocked: Iterable[int]) -> None:
    """In a child, before its program: block no more than `blocked`, and die with process `parent`, where that works."""
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if sys.platform == "linux":
        _die_with(parent)


def _die_with(parent: int) -> None:
    """In a child: have it killed when process `parent` ends without having done so."""
    _LIBC.prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already, and nothing would kill this one any more
        os.kill(os.getpid(), signal.SIGKILL)


def raise_descriptor_limit() -> int:
    """Allow this process and its children as many open files as the system does; how many that is."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # "unlimited" may be more than the kernel takes
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if soft == resource.RLIM_INFINITY else soft


class Child:
    """One process, in a group of its own, in which `begin` is called before its program.

    What it says goes to the file `log`; with `read`, standard output to us.
    """

    def __init__(
        self, command: Sequence[str], log: Path, env: dict[str, str], read: bool, begin: Callable[[], None]
    ) -> None:
        self.command = list(command)
        self._log = log
        self._buffer = b""
        try:
            with log.open("wb") as output:
                self.process = subprocess.Popen(
                    self.command,
                    cwd=ROOT,
                    env=env,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE if read else output,
                    stderr=output,
                    start_new_session=True,
                    preexec_fn=begin,
                )
        except OSError as error:
            raise BenchmarkError(f"cannot start {self.command[0]!r}: {error.strerror}") from error

    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace")

    def fail(self, what: str) -> BenchmarkError:
        """An error about this process, with the last that it said."""
        said = "\n".join(self.log().strip().splitlines()[-8:])
        return BenchmarkError(f"{shlex.join(self.command)}: {what}" + (f"; it said:\n{said}" if said else ""))

    def line(self, timeout: float = MEASURE_TIMEOUT) -> dict[str, Any]:
        """The next line of standard output, which is a JSON object."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            if not self._read(deadline):
                raise self.fail(f"ended with code {self.process.wait(START_TIMEOUT)}")
        line, _, self._buffer = self._buffer.partition(b"\n")
        value: dict[str, Any] = json.loads(line)
        return value

    def ready(self) -> dict[str, Any] | None:
        """The line with which one of our servers or workers tells that it is ready; None before that."""
        for line in self.log().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                entry: dict[str, Any] = json.loads(line)
                if entry.get("event") == "ready":
                    return entry
        return None

    def output(self, timeout: float = MEASURE_TIMEOUT) -> str:
        """All of standard output, once it has ended, which it must with code 0."""
        deadline = time.monotonic() + timeout
        while self._read(deadline):
            pass
        if self.process.wait(START_TIMEOUT) != 0:
            raise self.fail(f"ended with code {self.process.returncode}")
        return self._buffer.decode(errors="replace")

    def tell(self) -> None:
        """Let it go on: it waits for a line on standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def _read(self, deadline: float) -> bool:
        """Wait for more of standard output; False at its end."""
        assert self.process.stdout is not None, "its output goes to the log"
        descriptor = self.process.stdout.fileno()
        while not select.select([descriptor], [], [], _WAIT)[0]:
            if time.monotonic() > deadline:
                raise self.fail("not done in time")
        chunk = os.read(descriptor, 65536)
        self._buffer += chunk
        return bool(chunk)

    def cpu_seconds(self) -> float:
        """Processor time used so far, all threads together; NaN where it cannot be asked for."""
        if sys.platform != "linux":
            return float("nan")
        # The id of another process's clock, as the C library's clock_getcpuclockid makes it.
        return time.clock_gettime((~self.process.pid << 3) | 2)

    def resident_bytes(self) -> float:
        """Memory in use now; NaN where there is no /proc."""
        try:
            fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        except FileNotFoundError:
            return float("nan")
        return int(fields[1]) * float(resource.getpagesize())

    def kill(self) -> None:
        """End it, and what it has started in its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(START_TIMEOUT)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class Children:
    """The processes of one sample; all are gone when the block is left."""

    def __init__(self) -> None:
        with _ending_waits():
            self._directory = tempfile.TemporaryDirectory(prefix="zpatterns-benchmark-")
        self.all: list[Child] = []
        """In the order of their start."""
        # What a user has set for commands of their own is not meant for these.
        env = {name: value for name, value in os.environ.items() if not name.startswith("ZPATTERNS_")}
        path = [str(ROOT), *filter(None, [env.get("PYTHONPATH")])]
        self._env = env | {"PYTHONPATH": os.pathsep.join(path)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, BenchmarkError):
            for child in self.all:
                if child.process.poll():
                    error.tell_of(child.fail(f"ended with code {child.process.returncode}"))
        with _ending_waits():
            for child in reversed(self.all):
                child.kill()
            self._directory.cleanup()

    def start(self, *command: str, read: bool = False) -> Child:
        """Start a command; see :class:`Child`."""
        log = Path(self._directory.name) / str(len(self.all))
        with _ending_waits() as blocked:
            child = Child(command, log, self._env, read, partial(_begin, os.getpid(), blocked))
            self.all.append(child)
        return child

    def python(self, *arguments: str) -> Child:
        """Start this interpreter, and read its output."""
        return self.start(sys.executable, *arguments, read=True)

    def peer(self, role: str, *arguments: object) -> Child:
        """Start a role of :mod:`benchmarks.peers`."""
        return self.python("-m", "benchmarks.peers", role, *map(str, arguments))

    def service(self, *arguments: str) -> Child:
        """Start one of our servers or workers."""
        return self.start(sys.executable, "-m", "zpatterns", *arguments, "--log-format", "json")

    def zpatterns(self, *arguments: str) -> tuple[Child, str]:
        """Start one of our servers or workers, wait until it is ready, and return its endpoint too."""
        child = self.service(*arguments)
        return child, str(wait_for(child.ready, child)["endpoint"])

    def listener(self, command: str, endpoint: str) -> Child:
        """Start a foreign `command` and wait until it listens at `endpoint`."""
        if _listens(endpoint):
            raise BenchmarkError(f"something listens at {endpoint} already: stop it, or choose another endpoint")
        child = self.start(*shlex.split(command))
        wait_for(lambda: _listens(endpoint), child)
        return child


def wait_for(condition: Callable[[], Any], child: Child, timeout: float = START_TIMEOUT) -> Any:
    """The first true value of `condition`, which `child` is to bring about."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if child.process.poll() is not None:
            raise child.fail(f"ended with code {child.process.returncode}")
        if time.monotonic() > deadline:
            raise child.fail(f"not ready within {timeout:g} s")
        time.sleep(0.01)
    return value


def _listens(endpoint: str) -> bool:
    address = urlsplit(endpoint)
    try:
        socket.create_connection((address.hostname or "", address.port or 0), timeout=1.0).close()
    except OSError:
        return False
    return True
