"""Command lines of ``python``, and how a forked process becomes the program that one names."""

from __future__ import annotations

import atexit
import gc
import io
import itertools
import os
import pickle
import runpy
import signal
import sys
import threading
import types
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NoReturn

_SETTINGS = (b"PYTHON", b"LC_", b"LANG")
_TAKEN_OVER = (b"PYTHONPATH", b"PYTHONUNBUFFERED", b"PYTHONDONTWRITEBYTECODE")
_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
_CANNOT_FLUSH = 120


@dataclass
class Program:
    """What stands on a command line of ``python``."""

    kind: str = ""
    """``-c``, ``-m``, or empty for a file."""
    what: str = ""
    arguments: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    unbuffered: bool = False

    def run(self) -> NoReturn:
        """Run it as ``__main__``, and end this process as its end would end an interpreter."""
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        status = 0
        try:
            self._execute(vars(main))
        except SystemExit as end:
            status = _status_of(end)
        except BaseException as error:
            error.__traceback__ = _theirs(error.__traceback__)
            sys.excepthook(type(error), error, error.__traceback__)
            status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        # What was left open is closed, but what the interpreter has imported need not be taken apart.
        vars(main).clear()
        gc.collect()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError as error:
                sys.stderr.write(f"Exception ignored in: {stream}\n{type(error).__name__}: {error}\n")
                status = _CANNOT_FLUSH
            except ValueError:
                pass  # it is closed
        if status < 0:
            signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        os._exit(status & 0xFF)

    def _execute(self, namespace: dict[str, Any]) -> None:
        namespace.update(__builtins__=__builtins__, __annotations__={})
        if self.kind == "-m":
            runpy._run_module_as_main(self.what)  # type: ignore[attr-defined]
        elif self.kind == "-c":
            exec(compile(self.what, "<string>", "exec"), namespace)
        else:
            path = namespace["__file__"] = os.path.abspath(self.what)
            with io.open_code(path) as file:
                source = file.read()
            exec(compile(source, path, "exec"), namespace)

    @property
    def place(self) -> str:
        """Where it looks for modules first."""
        if self.kind == "":
            return os.path.dirname(os.path.realpath(self.what))
        return os.getcwd() if self.kind == "-m" else ""


def parsed(arguments: list[bytes], env: Mapping[bytes, bytes], cwd: bytes) -> Program | None:
    """The program of a command line; None if it takes an interpreter of its own, with other settings or options."""
    if _settings(env) != _settings(os.environb):
        return None
    program = Program(unbuffered=bool(env.get(b"PYTHONUNBUFFERED")))
    words = iter(map(os.fsdecode, arguments))
    for word in words:
        if word == "-u":
            program.unbuffered = True
        elif word == "-W":
            program.warnings.append(next(words, ""))
        elif word in ("-c", "-m"):
            program.kind, program.what = word, next(words, "")
            break
        elif word.startswith("-"):
            return None
        else:
            program.what = word
            break
    program.arguments = list(words)
    is_there = program.what if program.kind else os.path.isfile(os.path.join(os.fsdecode(cwd), program.what))
    return program if is_there else None


def _settings(env: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: value for name, value in env.items() if name.startswith(_SETTINGS) and name not in _TAKEN_OVER}


def ignored_signals() -> list[int]:
    """Those that a program started from here has to ignore too."""
    return [int(number) for number in _ENDING if signal.getsignal(number) is signal.SIG_IGN]


def settle(request: Mapping[str, Any]) -> None:
    """Give this process all that it would have, but for its streams, when a new interpreter begins."""
    os.environb.clear()
    os.environb.update(request["env"])
    os.chdir(request["cwd"])
    for number in _ENDING:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else usual)
    if request["session"]:
        os.setsid()
    elif request["group"] >= 0:
        os.setpgid(0, request["group"])
    if (before := pickle.loads(request["before"])) is not None:
        before()


def take_over(program: Program, descriptors: Mapping[int, int], path: list[str]) -> None:
    """Give this process the streams, arguments and settings of `program`; `path` is that of its libraries.

    `descriptors`: by the numbers that they are to have. All others are closed.
    """
    _place_descriptors(descriptors)
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    added = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [program.place, *map(os.path.abspath, added), *path]
    sys.argv[:] = [program.kind or program.what, *program.arguments]
    sys.warnoptions += program.warnings
    warnings._processoptions(program.warnings)  # type: ignore[attr-defined]
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        setattr(sys, name, _stream(name, mode, program.unbuffered))
        setattr(sys, f"__{name}__", getattr(sys, name))


def _place_descriptors(wanted: Mapping[int, int]) -> None:
    above = max(*wanted, *wanted.values()) + 1
    moved = {number: os.dup2(descriptor, above + i) for i, (number, descriptor) in enumerate(wanted.items())}
    for number, descriptor in moved.items():
        os.dup2(descriptor, number)
    bounds = [-1, *sorted(wanted), os.sysconf("SC_OPEN_MAX")]
    for low, high in itertools.pairwise(bounds):
        if high - low > 1:  # for an empty range from 0 it would close all
            os.closerange(low + 1, high)


def _stream(name: str, mode: str, unbuffered: bool) -> io.TextIOWrapper:
    """A standard stream, as a new interpreter makes it."""
    old = getattr(sys, f"__{name}__")
    descriptor = ("stdin", "stdout", "stderr").index(name)
    return io.TextIOWrapper(
        open(descriptor, f"{mode}b", 0 if unbuffered and mode == "w" else -1, closefd=False),
        encoding=old.encoding,
        errors=old.errors,
        newline="\n",
        line_buffering=not unbuffered and (name == "stderr" or os.isatty(descriptor)),
        write_through=unbuffered,
    )


def _status_of(end: SystemExit) -> int:
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    sys.stderr.write(f"{end.code}\n")
    return 1


def _theirs(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without our own part of it."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace
