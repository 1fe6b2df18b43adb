"""The warm interpreter: it has imported what the tests' programs need, and forks one of them for each request.

``python server.py DESCRIPTOR``: that of a listening Unix socket. It has one thread, uses nothing of what it imports,
and ends when its standard input does. What it forks is a process like any other, with the command line, environment,
directory, streams, signals and session that it was asked for. :mod:`tests.warm.starting` asks, and the ``shim``.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import marshal
import os
import selectors
import signal
import socket
import sys
from types import ModuleType
from typing import Any

# As a script it finds what lies beside it; it needs what lies above.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from tests.warm.programs import Program, parsed, settle, take_over  # noqa: E402

PRELOADED = (
    *("asyncio.events", "concurrent.futures.thread", "json", "tempfile", "tornado.ioloop", "uuid", "zmq", "structlog"),
    *("zpatterns.cli.bench", "zpatterns.cli.bstar", "zpatterns.cli.clone", "zpatterns.cli.clone_bench"),
    *("zpatterns.cli.clone_server", "zpatterns.cli.demo", "zpatterns.cli.demonstration", "zpatterns.cli.freelance"),
    *("zpatterns.cli.handlers", "zpatterns.cli.mdp", "zpatterns.cli.output", "zpatterns.cli.pirate"),
    *("zpatterns.cli.pirate_queue", "zpatterns.bstar", "zpatterns.clone", "zpatterns.freelance", "zpatterns.mdp"),
    *("zpatterns.pirate", "zpatterns.reactor", "zpatterns.telemetry", "zpatterns.testing", "benchmarks.processes"),
)

_LATER = {"pytest": ("pytest", "execnet.multi")}
"""By the module that a program runs: what is imported when the first such program is asked for."""

COLD, STARTED = b"c", b"s"
_DESCRIPTORS_MAX = 32


class Server:
    """Forks what it is asked for: a child of who asks, or with ``watched`` one of its own, whose end it tells."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._watched: dict[int, tuple[int, socket.socket]] = {}
        """By the descriptor of a process: its id, and who waits for it."""

    def serve(self) -> Program:
        """Serve for ever. It returns in the process of a program, which is then to be run."""
        server = os.getpid()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(0, selectors.EVENT_READ, self._end)
        while True:
            for key, _ in self._selector.select():
                try:
                    program: Program | None = key.data(key.fd)
                except (ConnectionError, EOFError):
                    if os.getpid() != server:
                        raise
                    continue  # who asked has been killed meanwhile
                if program is not None:
                    return program

    def _end(self, _descriptor: int) -> None:
        for pid, _ in self._watched.values():
            os.killpg(pid, signal.SIGKILL)
        os._exit(0)

    def _accept(self, _descriptor: int) -> Program | None:
        asking, _ = self._listener.accept()
        head, descriptors, _, _ = socket.recv_fds(asking, 4, _DESCRIPTORS_MAX)
        body = b""
        while len(body) < int.from_bytes(head, "big") and (more := asking.recv(65536)):
            body += more
        request: dict[str, Any] = marshal.loads(body)
        program = parsed(request["arguments"], request["env"], request["cwd"])
        if program is None:
            asking.sendall(COLD)
        elif self._fork(program, request["watched"], asking):
            if program.what in _LATER:
                # Being a plugin of pytest, it has to be imported by it.
                _forget("zpatterns")
            settle(request)
            asking.sendall(STARTED + os.getpid().to_bytes(4, "big"))
            asking.close()
            take_over(program, dict(zip(request["numbers"], descriptors, strict=True)), sys.path[1:])
            return program
        for descriptor in descriptors:
            os.close(descriptor)
        if program is None or not request["watched"]:
            asking.close()
        return None

    def _fork(self, program: Program, watched: bool, asking: socket.socket) -> bool:
        """Whether this is the new process."""
        for module in _LATER.get(program.what, ()):
            importlib.import_module(module)
        if pid := os.fork() if watched else _fork_orphan():
            if watched:
                self._watch(pid, asking)
            return False
        # Now, and not when they are collected: their numbers will be those of others then.
        self._selector.close()
        for ours in (self._listener, *(other for _, other in self._watched.values())):
            ours.close()
        return True

    def _watch(self, pid: int, asking: socket.socket) -> None:
        os.setpgid(pid, pid)
        descriptor = os.pidfd_open(pid)
        self._watched[descriptor] = pid, asking
        self._selector.register(descriptor, selectors.EVENT_READ, self._tell)
        self._selector.register(asking, selectors.EVENT_READ, lambda _: self._kill(pid, asking))

    def _tell(self, descriptor: int) -> None:
        """One has ended."""
        pid, asking = self._watched.pop(descriptor)
        self._selector.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        if asking.fileno() >= 0:
            self._selector.unregister(asking)
            with asking, contextlib.suppress(ConnectionError):
                asking.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))

    def _kill(self, pid: int, asking: socket.socket) -> None:
        """Who waited for it has ended: it goes too, with all that it has started."""
        if asking.fileno() >= 0:
            self._selector.unregister(asking)
            asking.close()
            os.killpg(pid, signal.SIGKILL)


_forgotten: list[ModuleType] = []
"""They are kept: to take them apart would cost more."""


def _forget(package: str) -> None:
    """Have it imported anew by who wants it."""
    names = [name for name in sys.modules if name == package or name.startswith(f"{package}.")]
    _forgotten.extend(sys.modules.pop(name) for name in names)


def _fork_orphan() -> int:
    """Like fork, but the new process has lost its parent: it has become a child of who takes in orphans."""
    reading, writing = os.pipe()
    if between := os.fork():
        os.waitpid(between, 0)
        os.close(writing)
    elif os.fork():
        os._exit(0)
    else:
        os.close(writing)
        os.read(reading, 1)  # until the one between has gone
    os.close(reading)
    return between


if __name__ == "__main__":
    # Ctrl-C is for who started us, and who then ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in PRELOADED:
        module = importlib.import_module(name)
        for exported in getattr(module, "__all__", ()):
            getattr(module, exported)  # which our packages load when they are asked for it
    _forget("tests")
    gc.collect()
    gc.freeze()
    Server(socket.socket(fileno=int(sys.argv[1]))).serve().run()
