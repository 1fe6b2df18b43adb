"""The pages of the documentation as programs: what a reader would type is run, and what is shown is compared.

How a page is written, by the language of its blocks:

``python``
    Runs in one interpreter for the whole page, in order. A comment behind ``print(...)`` is what that prints.
    A block that begins with ``# name.py`` is a file: it is saved, for the commands and blocks below it.
``console``
    Each line ``$ command`` is typed into one shell for the whole page, and must succeed; the lines under it are
    what it prints. One that ends in ``&`` goes on in the background until the page ends: what is shown under it
    is how its output begins. Before the next line a broker or server is ready, and a worker registered.
``sh``
    Commands that set up, test or install something. They are not run, and nothing else may stand there.
``text``, ``json``, ``mermaid``
    To be read only.

In what is shown ``...`` stands for anything. Ports of 127.0.0.1 are replaced by free ones, those that commands take
by default too.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import threading
import tokenize
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from tests.cli.processes import clean_environment
from tests.waiting import until
from zpatterns.cli import main as zpatterns_command
from zpatterns.cli.base import DEFAULT_ENDPOINT
from zpatterns.cli.clone_server import DEFAULT_CLONE_ENDPOINT
from zpatterns.errors import ZPatternsError
from zpatterns.mdp import Client
from zpatterns.testing import ReservedPort

ROOT = Path(__file__).parent.parent
DEADLINE = 40.0
"""Seconds that one block or command may take: some are whole runs of pytest."""
FAREWELL = 6.0
"""Seconds that all that a page has started may take to end in good order, before it is killed."""

_FENCE = re.compile(r"^(?P<fence>```+)(?P<language>\S*)\n(?P<text>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL)
_ENDPOINT = re.compile(r"tcp://127\.0\.0\.1:\d+")
_PORT = re.compile(r"(?<=127\.0\.0\.1:)\d+")
_NOTICE = re.compile(r"^bash: line \d+: +\d+ (Killed|Terminated) .*\n", re.MULTILINE)
"""What a shell that is not a terminal's says, at a moment of its own, of a job that was killed."""


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is that of its fence."""

    language: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    text = page.read_text()
    return [
        Block(found["language"], found["text"], text.count("\n", 0, found.start()) + 1)
        for found in _FENCE.finditer(text)
    ]


def prose_of(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text())


def commands_below(group: click.Group, path: str, prefix: str) -> Iterator[tuple[str, click.Command, str]]:
    """Each command of `group` and of the groups in it: how it is called, itself, its environment's prefix."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        called, variables = f"{path} {name}", f"{prefix}_{name.upper()}"
        if isinstance(command, click.Group):
            yield from commands_below(command, called, variables)
        else:
            yield called, command, variables


def all_commands() -> list[tuple[str, click.Command, str]]:
    return list(commands_below(zpatterns_command, "zpatterns", "ZPATTERNS"))


def run_page(page: Path, directory: Path, python: Sequence[str] = (sys.executable,)) -> None:
    """Run every block of `page` in an empty `directory`. Raises AssertionError with the page's line.

    `python`: the command that does what an interpreter would, in the shell of the page.
    """
    with Session(page, directory, python) as session:
        for block in blocks_of(page):
            if block.language == "python":
                session.python(block)
            elif block.language == "console":
                session.console(block)


class Session:
    """A reader at work on one page: a shell, an interpreter, and free ports in the place of the page's."""

    def __init__(self, page: Path, directory: Path, python: Sequence[str]) -> None:
        self.page = page
        self._python = python
        self._work = directory / "work"
        self._outputs = directory / "outputs"
        self._programs = directory / "programs"
        for folder in (self._work, self._outputs, self._programs):
            folder.mkdir()
        self._ports: dict[str, str] = {}
        self._reserved = contextlib.ExitStack()
        self._written = 0
        self._install_programs()
        self._env = self._environment()
        self._shell: _Talker | None = None
        self._interpreter: _Talker | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        with self._reserved:
            if self._interpreter is not None:
                self._interpreter.end()
            if self._shell is not None:
                # The servers drain, as they would for a reader who is done.
                self._shell.end("kill $(jobs -p); wait\n")

    # Blocks.

    def python(self, block: Block) -> None:
        """Save a block that names its file; run any other."""
        code = self._to_here(block.text)
        name = re.match(r"# (\w+\.py)\n", code)
        if name is not None:
            (self._work / name[1]).write_text(code)
            return
        if self._interpreter is None:
            command = [sys.executable, "-W", "error", "-u", str(Path(__file__).with_name("page_interpreter.py"))]
            self._interpreter = _Talker(command, self._work, self._env)
        task = {"code": code, "file": str(self.page), "line": block.line, "patience": DEADLINE * 0.9}
        answer = json.loads(self._interpreter.ask(json.dumps(task), self._where(block.line)))
        assert answer["failure"] is None, f"{self._where(block.line)}: {self._to_page(answer['failure'])}"
        shown = "".join(f"{comment}\n" for comment in print_comments(block.text))
        self._compare(shown, self._to_page(answer["printed"]), block.line, "the block")

    def console(self, block: Block) -> None:
        """Type the commands of a block, and compare what they print."""
        assert block.text.startswith("$ "), f"{self._where(block.line)}: a console block begins with '$ '"
        offset = block.line + 1
        for part in re.split(r"^(?=\$ )", block.text, flags=re.MULTILINE)[1:]:
            command, _, shown = part.removeprefix("$ ").partition("\n")
            if command.endswith(" &"):
                self._start(self._to_here(command.removesuffix(" &")), shown, offset)
            else:
                self._finish(self._to_here(command), shown, offset)
            offset += part.count("\n")

    def _finish(self, command: str, shown: str, line: int) -> None:
        output = self._output_file()
        status = self._type(f"{{ {command}\n}} >{output} 2>&1 </dev/null; printf '%s\\n' $?", line)
        printed = _NOTICE.sub("", self._to_page(output.read_text()))
        assert status == "0", f"{self._where(line)}: {command!r} ended with {status}:\n{printed}"
        self._compare(shown, printed, line, repr(command))

    def _start(self, command: str, shown: str, line: int) -> None:
        output = self._output_file()
        words = shlex.split(command)
        is_server = words[0] == "zpatterns" and words[2:3] in (["broker"], ["queue"], ["server"])
        is_server = is_server or words[0].startswith("zpatterns-")
        endpoints = [] if is_server else self._worker_at(words, command)
        before = {endpoint: _workers_at(endpoint) for endpoint in endpoints}
        self._type(f"{command} >{output} 2>&1 </dev/null & printf '0\\n'", line)

        def printed() -> str:
            return self._to_page(output.read_text())

        try:
            if is_server:
                until(lambda: re.search(r"\bready\b", printed()), f"{command!r} is ready", DEADLINE)
            elif endpoints:
                # At the second if the first, on a machine that stood still, was silent for a lease.
                until(
                    lambda: any(_workers_at(endpoint) > count for endpoint, count in before.items()),
                    f"{command!r} has registered",
                    DEADLINE,
                )
            if shown:
                until(
                    lambda: _matches(shown.rstrip() + "...", printed()), f"{command!r} prints what is shown", DEADLINE
                )
        except AssertionError as error:
            raise AssertionError(f"{self._where(line)}: {error}; it printed:\n{printed()}") from None

    def _worker_at(self, words: list[str], command: str) -> list[str]:
        """The brokers with one of which a command that starts a worker will register; none for any other command."""
        text = command
        if words[0] == "python":
            text = (self._work / words[1]).read_text()
            if "Worker" not in text:
                return []
        elif words[:3] != ["zpatterns", "mdp", "worker"]:
            return []
        return _ENDPOINT.findall(text) or [self._to_here(DEFAULT_ENDPOINT)]

    # Their surroundings.

    def _install_programs(self) -> None:
        """What a reader who has installed the package finds on the path."""
        # A reader need not have Hypothesis, which takes half a second to load.
        programs = {"python": "", "pytest": "-m pytest -p no:hypothesispytest"}
        for name, target in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].items():
            module, _, attribute = target.partition(":")
            programs[name] = f"-c 'import sys; sys.argv[0] = {name!r}; from {module} import {attribute} as f; f()'"
            programs[name] = programs[name].replace(f"{name!r}", f'"{name}"')
        for name, arguments in programs.items():
            path = self._programs / name
            path.write_text(f'#!/bin/sh\nexec {shlex.join(self._python)} {arguments} "$@"\n')
            path.chmod(0o755)

    def _environment(self) -> dict[str, str]:
        variables = {
            "PATH": os.pathsep.join([str(self._programs), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "PYTHONUNBUFFERED": "1",
        }
        for _, command, prefix in all_commands():
            for option in command.params:
                if isinstance(option, click.Option) and option.name is not None:
                    variable = f"{prefix}_{option.name.upper()}"
                    default = option.default[0] if isinstance(option.default, list) else option.default
                    if default in (DEFAULT_ENDPOINT, DEFAULT_CLONE_ENDPOINT):
                        variables[variable] = self._to_here(default)
                    elif option.name == "log_format":
                        variables[variable] = "console"  # as on a reader's terminal
        return clean_environment(**variables)

    def _to_here(self, text: str) -> str:
        def free(found: re.Match[str]) -> str:
            if found[0] not in self._ports:
                # With the two above it, which a Clone server takes too.
                self._ports[found[0]] = str(self._reserved.enter_context(ReservedPort(3)).port)
            return self._ports[found[0]]

        return _PORT.sub(free, text)

    def _to_page(self, text: str) -> str:
        back = {here: there for there, here in self._ports.items()}
        return _PORT.sub(lambda found: back.get(found[0], found[0]), text)

    def _output_file(self) -> Path:
        self._written += 1
        path = self._outputs / str(self._written)
        path.touch()
        return path

    def _type(self, line: str, at: int) -> str:
        if self._shell is None:
            self._shell = _Talker(["bash", "--norc", "--noprofile"], self._work, self._env)
        return self._shell.ask(line, self._where(at))

    def _compare(self, shown: str, printed: str, line: int, what: str) -> None:
        assert _matches(shown, printed), (
            f"{self._where(line)}: {what} should print\n{shown or '(nothing)'}\nand prints\n{printed or '(nothing)'}"
        )

    def _where(self, line: int) -> str:
        return f"{self.page.name}, line {line}"


class _Talker:
    """A program that answers each line with a line, and is ended with all that it has started."""

    def __init__(self, command: list[str], directory: Path, env: dict[str, str]) -> None:
        self._errors = directory.parent / f"errors-of-{Path(command[0]).name}"
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env=env,
                text=True,
                bufsize=1,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line.rstrip("\n"))
        self._answers.put("")

    def ask(self, line: str, where: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        try:
            answer = self._answers.get(timeout=DEADLINE)
        except queue.Empty:
            raise AssertionError(f"{where}: not done within {DEADLINE:g} s\n{self._errors.read_text()}") from None
        assert answer, f"{where}: the program that ran it has ended\n{self._errors.read_text()}"
        return answer

    def end(self, farewell: str = "") -> None:
        """Let it end by itself after a last line, if it does so soon; then end all that is left."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(farewell)
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(FAREWELL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        assert self._process.stdout is not None
        self._process.stdout.close()


def _matches(shown: str, printed: str) -> bool:
    """Whether they are the same but for white space, and for what stands where `shown` has ``...``."""
    pieces = (r"\s+".join(map(re.escape, piece.split())) for piece in shown.split("..."))
    return re.fullmatch(rf"\s*{'.*?'.join(pieces)}\s*", printed, re.DOTALL) is not None


def print_comments(code: str) -> list[str]:
    """The comments that stand behind calls of print, in order."""
    ends = {
        node.end_lineno
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return [token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT and token.start[0] in ends]


def _workers_at(endpoint: str) -> int:
    """How many workers the broker at `endpoint` knows; none, if there is no broker."""
    with Client(endpoint, timeout=1.0, retries=0) as client:
        try:
            listed: list[Any] = json.loads(client.request("mmi.workers", b"")[1])
        except ZPatternsError:
            return 0
    return len(listed)
