"""What a test left behind: :class:`Guard` finds the sockets, threads and child processes that were not there before."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import stat
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

PATIENCE = 3.0
"""Seconds that something may take to end by itself. libzmq closes its sockets in threads of its own, and goodbyes
linger for a second."""

_PAUSE = 0.01

_HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Processes that the standard library starts once and keeps until the interpreter ends."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that should have been gone; `description` tells a person which one it is."""

    kind: Literal["socket", "thread", "process"]
    description: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.description}"


class Guard:
    """Remembers which sockets, threads and child processes there are, and later finds those that are new.

    ``with Guard():`` raises AssertionError at its end if any are left; where an exception leaves the block, it is that
    which counts, and nothing is looked for. Seen are sockets of the operating system, ZeroMQ sockets, Python threads
    and children of this process that run; not what has ended without having been waited for, and not what the
    standard library and pyzmq keep for the whole life of a process.
    """

    def __init__(self) -> None:
        self._sockets: set[Hashable] = set()
        self._zmq_sockets: weakref.WeakSet[Any] = weakref.WeakSet()
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._processes: set[Hashable] = set()
        self.allow()

    def allow(self) -> None:
        """Take what there is now as known."""
        self._sockets.update(key for key, _ in _system_sockets())
        self._zmq_sockets.update(_zmq_sockets())
        self._threads.update(threading.enumerate())
        self._processes.update(child.key for child in _children())

    def leftovers(self, patience: float = PATIENCE) -> list[Leftover]:
        """What is new and still there after `patience` seconds; returns as soon as there is nothing."""
        deadline = time.monotonic() + patience
        found = self._look()
        while found and time.monotonic() < deadline:
            time.sleep(_PAUSE)
            found = self._look()
        return found

    def report(self, who: str, patience: float = PATIENCE) -> str:
        """The :meth:`leftovers` as a text that says that `who` left them; empty if there are none."""
        found = self.leftovers(patience)
        return "\n  ".join([f"{who} left behind:", *map(str, found)]) if found else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and (text := self.report("this block")):
            raise AssertionError(text)

    def _look(self) -> list[Leftover]:
        found = [Leftover("process", child.description) for child in _children() if child.key not in self._processes]
        found += [
            Leftover("thread", _described_thread(thread))
            for thread in threading.enumerate()
            if thread not in self._threads and not _lives_for_ever(thread)
        ]
        found += [
            Leftover("socket", _described_zmq_socket(each)) for each in _zmq_sockets() if each not in self._zmq_sockets
        ]
        found += [
            Leftover("socket", _described_descriptor(descriptor))
            for key, descriptor in _system_sockets()
            if key not in self._sockets
        ]
        return found


# Sockets of the operating system.


def _system_sockets() -> Iterator[tuple[Hashable, int]]:
    """A key and a descriptor for each socket of this process; none where the system cannot tell."""
    try:
        names = os.listdir("/dev/fd")
    except OSError:
        return
    for descriptor in map(int, names):
        with contextlib.suppress(OSError):  # closed meanwhile; one of them is that of the directory
            status = os.fstat(descriptor)
            if stat.S_ISSOCK(status.st_mode):
                # A number is given again to the next socket, an inode hardly ever.
                yield (status.st_ino or descriptor), descriptor


def _described_descriptor(descriptor: int) -> str:
    number = f"descriptor {descriptor}"
    try:
        with socket.socket(fileno=os.dup(descriptor)) as double:
            if double.family == socket.AF_UNIX:
                name = double.getsockname() or "without a name (an event loop has a pair of them)"
                return f"Unix socket {name}, {number}"
            kind = "TCP" if double.type == socket.SOCK_STREAM else double.type.name
            own = _address(double.getsockname())
            if kind == "TCP" and double.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                return f"TCP listener at {own}, {number}"
            try:
                return f"{kind} from {own} to {_address(double.getpeername())}, {number}"
            except OSError:
                return f"{kind} at {own}, not connected, {number}"
    except OSError:
        return f"{number}, closed just now"


def _address(address: Any) -> str:
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else str(address)


# ZeroMQ sockets. One without a connection has no socket of the system at all.


def _zmq_sockets() -> list[Any]:
    zmq = sys.modules.get("zmq")
    if zmq is None:
        return []
    # By type() and not isinstance(): asking a lazy proxy for its class may wake it.
    found = [each for each in gc.get_objects() if issubclass(type(each), zmq.Socket)]
    return [each for each in found if not each.closed and each.context is not _garbage_context()]


def _garbage_context() -> Any:
    """The context of the thread that frees what pyzmq sends without a copy; both stay, once they are needed."""
    garbage = sys.modules.get("zmq.utils.garbage")
    return None if garbage is None else getattr(garbage.gc, "_context", None)


def _described_zmq_socket(each: Any) -> str:
    try:
        kind = getattr(each.type, "name", str(each.type))
        endpoint = each.LAST_ENDPOINT.decode().rstrip("\0")
    except Exception:
        return f"ZeroMQ socket {each!r}, closed just now"
    return f"ZeroMQ {kind} {f'last bound or connected to {endpoint}' if endpoint else 'without an endpoint'}"


# Threads.


def _lives_for_ever(thread: threading.Thread) -> bool:
    # A dummy stands for a thread that Python did not start; nobody can know when that ends.
    return isinstance(thread, threading._DummyThread) or type(thread).__module__ == "zmq.utils.garbage"


def _described_thread(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    where = ""
    if frame is not None:
        where = f", now in {frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"
    return f"{thread.name!r}{' (daemon)' if thread.daemon else ''}{where}"


# Processes.


@dataclass(frozen=True, slots=True)
class _Child:
    key: Hashable
    description: str


def _children() -> list[_Child]:
    found = _children_by_proc() if os.path.isdir("/proc/self/task") else _children_by_ps()
    return [child for child in found if not any(helper in child.description for helper in _HELPERS)]


def _children_by_proc() -> list[_Child]:
    found = []
    for pid in _child_pids():
        with contextlib.suppress(OSError):  # gone meanwhile
            with open(f"/proc/{pid}/stat", "rb") as file:
                # The name, in parentheses, may hold anything.
                name, _, rest = file.read().partition(b"(")[2].rpartition(b")")
            fields = rest.split()
            state, parent, started = fields[0], int(fields[1]), fields[19]
            if parent == os.getpid() and state != b"Z":
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    # A process that is just being started has no command line yet.
                    command = (file.read().replace(b"\0", b" ").strip() or name).decode("utf-8", "replace")
                stopped = " (stopped)" if state == b"T" else ""
                found.append(_Child((pid, started), f"{pid}{stopped}: {command}"))
    return found


def _child_pids() -> list[int]:
    pids: list[int] = []
    try:
        for task in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{task}/children", "rb") as file:
                pids += map(int, file.read().split())
    except FileNotFoundError:
        # A thread has just ended, or the kernel keeps no such list.
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return pids


def _children_by_ps() -> list[_Child]:
    """For systems without ``/proc``."""
    command = ["ps", "-ww", "-A", "-o", "pid=,ppid=,stat=,lstart=,command="]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        lines = process.communicate()[0].splitlines()
    found = []
    for line in lines:
        pid, parent, state, *rest = line.split()
        if int(parent) == os.getpid() and int(pid) != process.pid and not state.startswith("Z"):
            started, text = " ".join(rest[:5]), " ".join(rest[5:])
            found.append(_Child((pid, started), f"{pid}: {text}"))
    return found
