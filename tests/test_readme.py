"""The README's example, run as it stands: each program in the order of its console block."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

from tests.cli.processes import DEADLINE, Server, clean_environment, until

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_example_greets_the_world(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = probe.getsockname()[1]

    def elsewhere(text: str) -> str:
        return text.replace("tcp://127.0.0.1:5555", f"tcp://127.0.0.1:{free_port}")

    for block in blocks("python"):
        name = re.match(r"# (\w+\.py)\n", block)
        assert name, f"a program without a name:\n{block}"
        (tmp_path / name[1]).write_text(elsewhere(block))
    (console,) = blocks("console")
    steps = [step.rstrip("\n").split("\n", 1) for step in elsewhere(console).split("$ ")[1:]]
    (broker, worker), *calls = [[shlex.split(step[0].removesuffix("&")) for step in steps[:2]], *steps[2:]]

    env = clean_environment(
        PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        # The one command that leaves out its endpoint means the usual port.
        ZPATTERNS_MDP_REQUEST_CONNECT=f"tcp://127.0.0.1:{free_port}",
    )

    def run(command: list[str]) -> str:
        assert command[0] in ("python", "zpatterns")
        real = [sys.executable, *(["-m", "zpatterns"] if command[0] == "zpatterns" else []), *command[1:]]
        result = subprocess.run(
            real, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert broker[0] == "zpatterns"
    with Server(*broker[1:]) as server:
        server.wait_for("ready")
        process = subprocess.Popen([sys.executable, *worker[1:]], cwd=tmp_path, env=env)
        try:
            until(lambda: server.events("worker_registered"), "the worker has registered")
            for command, shown in calls:
                assert run(shlex.split(command)) == shown + "\n"
        finally:
            process.kill()
            process.wait(DEADLINE)


def test_the_first_commands_are_those_that_need_nothing():
    assert re.search(r"^    make demo .*\n    make test ", README, re.MULTILINE)
