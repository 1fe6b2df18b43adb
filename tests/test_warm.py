"""A program that is forked from the warm interpreter cannot be told from one that has an interpreter of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.processes import is_alive
from tests.waiting import DEADLINE, until
from tests.warm.starting import WarmInterpreter, starting_as_usual
from zpatterns.testing import Guard

SEEN = """
import json, os, signal, stat, sys, threading, warnings
print(json.dumps({
    "arguments": sys.argv, "path": sys.path, "directory": os.getcwd(), "colour": os.environ.get("COLOUR"),
    "name": __name__, "main": sys.modules["__main__"].__dict__ is globals(), "file": globals().get("__file__"),
    "streams": [(each.encoding, each.errors, each.line_buffering, each.write_through, type(each.buffer).__name__)
                for each in (sys.stdin, sys.stdout, sys.stderr)],
    "handlers": [str(signal.getsignal(number)) for number in range(1, 32)],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "descriptors": [d for d in range(3, 100) if os.path.exists(f"/proc/self/fd/{d}")][:-1],
    "threads": threading.active_count(), "filters": warnings.filters[:2] if sys.warnoptions else [],
    "leads": [os.getpid() == os.getsid(0), os.getpid() == os.getpgid(0)],
    "child": os.getppid(), "bytecode": sys.dont_write_bytecode, "tests": [m for m in sys.modules if m[:5] == "tests"],
}, default=str))
"""


@pytest.fixture
def interpreter(warm_interpreter) -> WarmInterpreter:
    if not isinstance(warm_interpreter, WarmInterpreter):
        pytest.skip("not here")
    return warm_interpreter


def both(interpreter: WarmInterpreter, *arguments: str, **options: Any) -> list[subprocess.CompletedProcess[bytes]]:
    """What comes of a command, forked and started as usual."""

    def run() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([sys.executable, *arguments], timeout=DEADLINE, check=False, **options)

    with interpreter.forking():
        forked = run()
    with starting_as_usual():
        return [forked, run()]


@pytest.mark.parametrize("kind", ["-c", "-m", "file"])
@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ([], {}),
        (["-u", "-W", "error"], {"start_new_session": True}),
        ([], {"process_group": 0, "env": {**os.environ, "PYTHONPATH": "a:/b", "COLOUR": "blue"}}),
        ([], {"env": {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}}),
    ],
)
def test_a_program_sees_what_it_would_see(interpreter, tmp_path, kind, options, settings):
    (tmp_path / "program.py").write_text(SEEN)
    program = {"-c": ["-c", SEEN], "-m": ["-m", "program"], "file": ["program.py"]}[kind]
    results = both(
        interpreter,
        *options,
        *program,
        "one",
        "-two",
        cwd=tmp_path,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        **settings,
    )
    assert results[0].stderr == results[1].stderr == b""
    forked, usual = (json.loads(each.stdout) for each in results)
    assert forked == usual


@pytest.mark.parametrize(
    "code",
    [
        "raise SystemExit(3)",
        "raise SystemExit('so it is')",
        "raise SystemExit",
        "raise KeyboardInterrupt",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import os; os._exit(5)",
        "import atexit; atexit.register(print, 'in the end')",
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.05), print('later'))).start()",
        "import sys; sys.stdout.write('no end of line')",
        "import sys; print(sys.stdin.read())",
        "import os; os.close(1); print('nobody reads this')",
        "import no_such_module",
        "not a program",
    ],
)
def test_a_program_ends_as_it_would_end(interpreter, code):
    forked, usual = both(interpreter, "-c", code, input=b"what it reads", capture_output=True)
    assert (forked.returncode, forked.stdout) == (usual.returncode, usual.stdout)
    assert forked.stderr.splitlines()[-1:] == usual.stderr.splitlines()[-1:]
    assert b"warm" not in forked.stderr


@pytest.mark.parametrize("command", [["-P", "-c", "print(1)"], ["-c"], ["no-such-file"], ["-V"]])
def test_what_takes_an_interpreter_of_its_own_gets_one(interpreter, command):
    forked, usual = both(interpreter, *command, capture_output=True)
    assert (forked.returncode, forked.stdout, forked.stderr) == (usual.returncode, usual.stdout, usual.stderr)
    settings = {**os.environ, "PYTHONUTF8": "1"}
    forked, usual = both(interpreter, "-c", "import sys; print(sys.flags.utf8_mode)", env=settings, capture_output=True)
    assert forked.stdout == usual.stdout == b"1\n"


def test_a_program_ignores_what_it_is_started_to_ignore(interpreter):
    """As under nohup, and in the background of a script."""
    code = "import signal; print(signal.getsignal(signal.SIGHUP).name, signal.getsignal(signal.SIGTERM).name)"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        forked, usual = both(interpreter, "-c", code, capture_output=True)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert forked.stdout == usual.stdout == b"SIG_IGN SIG_DFL\n"


def test_a_program_is_a_child_like_any_other(interpreter):
    guard = Guard()
    with interpreter.forking():
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with process:
        assert [each.kind for each in guard.leftovers(0.0)] == ["process"]
        process.send_signal(signal.SIGSTOP)
        stopped = os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert stopped is not None and stopped.si_status == signal.SIGSTOP
        process.kill()
        assert process.wait(DEADLINE) == -signal.SIGKILL
    assert not guard.leftovers()


# For shells.


@contextlib.contextmanager
def through_the_shim(interpreter: WarmInterpreter, code: str) -> Iterator[subprocess.Popen[str]]:
    command = [*interpreter.command, "-u", "-c", f"import os; print(os.getpid()); {code}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize(
    ("code", "status"),
    [("raise SystemExit(7)", 7), ("os.kill(os.getpid(), 15)", -15), ("os.kill(os.getpid(), 9)", -9)],
)
def test_the_shim_ends_as_the_program_does(interpreter, code, status):
    with through_the_shim(interpreter, code) as process:
        assert process.wait(DEADLINE) == status


def test_the_shim_passes_a_signal_on(interpreter):
    code = "import signal; signal.signal(15, lambda *_: (print('told'), os._exit(4))); print('ready'); signal.pause()"
    with through_the_shim(interpreter, code) as process:
        said(process)
        assert said(process) == "ready"
        process.terminate()
        assert said(process) == "told"
        assert process.wait(DEADLINE) == 4


def test_a_shim_that_is_killed_takes_the_program_along(interpreter):
    with through_the_shim(interpreter, "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()") as process:
        pid = int(said(process))
        assert is_alive(pid)
        process.kill()
        until(lambda: not is_alive(pid), "the program has gone")


def test_a_shim_takes_an_interpreter_of_its_own_where_that_is_needed(interpreter):
    result = subprocess.run(
        [*interpreter.command, "-P", "-c", "import sys; print(sys.flags.safe_path)"],
        capture_output=True,
        timeout=DEADLINE,
    )
    assert (result.returncode, result.stdout) == (0, b"True\n")


# An interpreter that is not well.


def test_a_warm_interpreter_that_has_ended_is_an_error(tmp_path):
    with starting_as_usual(), WarmInterpreter() as interpreter, interpreter.forking():
        interpreter._process.kill()
        interpreter._process.wait(DEADLINE)
        with pytest.raises(RuntimeError, match=r"the warm interpreter \(ended with -9\)"):
            subprocess.run([sys.executable, "-c", ""], timeout=DEADLINE)


def test_it_takes_along_whom_it_looks_after(tmp_path):
    with starting_as_usual(), WarmInterpreter() as interpreter:
        with through_the_shim(interpreter, "import time; time.sleep(3600)") as process:
            pid = int(said(process))
            interpreter.close()
            assert process.wait(DEADLINE) == 1
        until(lambda: not is_alive(pid), "the program has gone")
