"""Python programs that a test starts are forked from an interpreter that has imported all already.

A start takes a hundredth of a second then, and not two tenths; but for that nobody can tell: what is started is a child
process of its own, with its own command line, environment and streams, which is signalled, stopped, killed and waited
for as ever. Where that cannot be had, and for command lines that need an interpreter of their own, all is as usual.
"""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import marshal
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, AnyStr, Self
from unittest import mock

from tests.waiting import DEADLINE
from tests.warm.programs import ignored_signals

HERE = Path(__file__).parent
_SUBREAPER = 36
_STARTED = b"s"
_UsualPopen = subprocess.Popen
_USUAL_START = inspect.signature(subprocess.Popen._execute_child)  # type: ignore[attr-defined]
_USUAL_OPTIONS = {"executable": None, "shell": False, "gid": None, "gids": None, "uid": None, "umask": -1}


class WarmInterpreter:
    """The process of ``server.py``, which is asked for others."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="zpatterns-warm-")
        self.path = f"{self._directory.name}/socket"
        self._lock = threading.Lock()
        self._libc = ctypes.CDLL(None)
        env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONUNBUFFERED")}
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.path)
            listener.listen(100)
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "server.py"), str(listener.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=(listener.fileno(),),
                env=env,
            )

    @property
    def command(self) -> list[str]:
        """What shells start in the place of ``python``."""
        return [sys.executable, "-I", "-S", str(HERE / "shim.py"), self.path]

    def start(self, request: dict[str, Any], descriptors: list[int]) -> int | None:
        """Have a child of this process forked; its id, or None for what takes an interpreter of its own."""
        body = marshal.dumps(request)
        with self._lock, socket.socket(socket.AF_UNIX) as asking, self._taking_in_orphans():
            asking.settimeout(2 * DEADLINE)
            try:
                asking.connect(self.path)
                socket.send_fds(asking, [len(body).to_bytes(4, "big")], descriptors)
                asking.sendall(body)
                if _received(asking, 1) != _STARTED:
                    return None
                return int.from_bytes(_received(asking, 4), "big")
            except OSError as error:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(1.0)
                raise RuntimeError(f"the warm interpreter (ended with {self._process.poll()}): {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, and what it looks after for shells. Twice is once."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(DEADLINE)
        self._directory.cleanup()

    @contextlib.contextmanager
    def forking(self) -> Iterator[None]:
        """What is started with `subprocess` meanwhile, if it is Python, is forked."""

        class Popen(_Popen[AnyStr]):
            interpreter = self

        with mock.patch.object(subprocess, "Popen", Popen):
            yield

    @contextlib.contextmanager
    def _taking_in_orphans(self) -> Iterator[None]:
        self._libc.prctl(_SUBREAPER, 1, 0, 0, 0)
        try:
            yield
        finally:
            self._libc.prctl(_SUBREAPER, 0, 0, 0, 0)


@contextlib.contextmanager
def starting_as_usual() -> Iterator[None]:
    """What is started meanwhile is never forked."""
    with mock.patch.object(subprocess, "Popen", _UsualPopen):
        yield


def _received(asking: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        if not (more := asking.recv(count - len(received))):
            raise ConnectionError("it has hung up")
        received += more
    return received


class _Popen(subprocess.Popen[AnyStr]):
    """Popen that has the new process forked."""

    interpreter: WarmInterpreter

    def _execute_child(self, *arguments: Any) -> None:
        given: dict[str, Any] = _USUAL_START.bind(self, *arguments).arguments
        request = _request(given)
        ends = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        descriptors: list[int] = [number if end == -1 else end for number, end in enumerate(ends)]
        pid = None if request is None else self.interpreter.start(request, [*descriptors, *given["pass_fds"]])
        if pid is None:
            super()._execute_child(*arguments)  # type: ignore[misc]
            return
        self.pid = pid
        self._child_created = True
        names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[name] for name in names))  # type: ignore[attr-defined]


def _request(given: Mapping[str, Any]) -> dict[str, Any] | None:
    """What ``server.py`` is asked, or None if it cannot do that."""
    command = given["args"]
    is_python = isinstance(command, list) and len(command) > 1 and command[0] == sys.executable
    cwd = os.fsencode(os.getcwd() if given["cwd"] is None else given["cwd"])
    is_usual = all(given[name] == value for name, value in _USUAL_OPTIONS.items())
    if not is_python or not is_usual or not given["close_fds"] or not os.path.isdir(cwd):
        return None
    env = os.environ if given["env"] is None else given["env"]
    return {
        "arguments": list(map(os.fsencode, command[1:])),
        "env": {os.fsencode(name): os.fsencode(value) for name, value in env.items()},
        "cwd": cwd,
        "numbers": [0, 1, 2, *given["pass_fds"]],
        "ignored": ignored_signals(),
        "session": bool(given["start_new_session"]),
        "group": given["process_group"],
        "before": pickle.dumps(given["preexec_fn"]),
        "watched": False,
    }
