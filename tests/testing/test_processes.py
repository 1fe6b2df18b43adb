"""Processes that are started, killed, stopped and started again, and that never outlive who started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.processes import is_alive
from tests.waiting import until
from zpatterns.errors import RequestTimeout
from zpatterns.mdp import Client
from zpatterns.testing import Guard, ManagedProcess

pytestmark = pytest.mark.usefixtures("warm")

ROOT = Path(__file__).parent.parent.parent
BROKER = ("mdp", "broker", "--bind", "tcp://127.0.0.1:*")
TALKER = """
import json, sys, time
print("starting", *sys.argv[1:])
print(json.dumps({"event": "ready", "argv": sys.argv, "name": __name__}), file=sys.stderr)
while True:
    time.sleep(3600)
"""


@pytest.fixture
def talker(tmp_path):
    """A program that says that it is ready, and then sleeps."""
    path = tmp_path / "talker.py"
    path.write_text(TALKER)
    return str(path)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_program_runs_as_python_would_run_it(talker):
    with Guard(), ManagedProcess(talker, "one", "two") as process:
        ready = process.wait_for("ready")
        assert ready["argv"] == [talker, "one", "two"]
        assert ready["name"] == "__main__"
        assert process.lines[0] == "starting one two"
        assert process.is_running
    assert not process.is_running


def test_a_program_finds_the_modules_beside_it(tmp_path):
    (tmp_path / "beside.py").write_text("WHAT = 'found'")
    (tmp_path / "program.py").write_text("import beside; print('{\"event\": \"' + beside.WHAT + '\"}')")
    with ManagedProcess(str(tmp_path / "program.py"), ready="found") as process:
        assert process.wait() == 0


def test_a_module_runs_with_its_arguments_and_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("ZPATTERNS_MDP_BROKER_LIVENESS", "nonsense that a developer has set")
    (tmp_path / "module.py").write_text("import os, sys; print(sys.argv[1:], os.environ['COLOUR'])")
    process = ManagedProcess("-m", "module", "a", ready=None, cwd=tmp_path, env={"COLOUR": "blue"})
    with process:
        assert process.wait() == 0
        until(lambda: process.lines == ["['a'] blue"], "printed")
    with ManagedProcess.command("mdp", "broker", "--bind", "tcp://127.0.0.1:*"):
        pass


def test_kill_is_sudden_and_terminate_is_orderly(cold):
    with ManagedProcess.command(*BROKER) as process:
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.kill()
    with ManagedProcess.command(*BROKER) as process:
        assert process.terminate() == 0


def test_a_paused_process_stands_still_until_it_is_resumed_or_ended():
    with ManagedProcess.command(*BROKER) as process, Client(process.endpoint, retries=0) as client:
        for _ in range(3):
            process.pause()
            assert state(process.pid) == "T"
            assert process.is_running
            with pytest.raises(RequestTimeout):
                client.request("mmi.service", "x", timeout=0.1)
            process.resume()
            assert client.request("mmi.service", "x") == [b"404"]
        process.pause()
        assert process.terminate() == 0
    with ManagedProcess.command(*BROKER) as process:
        process.pause()
    assert not process.is_running


def test_a_restart_comes_back_at_the_same_place():
    with ManagedProcess.command(*BROKER) as broker, Client(broker.endpoint) as client:
        endpoint, pid = broker.endpoint, broker.pid
        for _ in range(3):
            assert client.request("mmi.service", "x") == [b"404"]
            broker.restart()
            assert broker.endpoint == endpoint == broker.wait_for("ready")["endpoint"]
            assert broker.pid != pid
            assert len(broker.events("ready")) == 1


def test_a_broker_tells_when_a_worker_has_found_it():
    with (
        ManagedProcess.command(*BROKER) as broker,
        ManagedProcess.command("mdp", "worker", "echo", "--echo", "--connect", broker.endpoint) as worker,
        Client(broker.endpoint) as client,
    ):
        assert broker.wait_for("worker_registered")["service"] == "echo"
        assert client.has_service("echo")
        worker.kill()
        assert broker.is_running


def test_a_program_that_ends_too_soon_is_an_error_with_its_last_words(tmp_path):
    (tmp_path / "short.py").write_text("raise SystemExit('no such thing')")
    with Guard(), pytest.raises(RuntimeError, match=r"(?s)ended before it logged 'ready'.*no such thing") as caught:
        ManagedProcess(str(tmp_path / "short.py")).__enter__()
    assert "short.py" in str(caught.value)


def test_a_program_that_never_tells_is_given_up(talker):
    with Guard(), pytest.raises(TimeoutError, match="did not log 'steady' within 1 s"):
        ManagedProcess(talker, ready="steady", patience=1.0).__enter__()


def test_a_program_that_does_not_end_is_given_up(talker):
    with ManagedProcess(talker) as process:
        process.patience = 0.1
        with pytest.raises(TimeoutError, match="has not ended within"):
            process.wait()
        process.patience = 20.0


def test_waiting_for_a_line_that_has_to_come_again(tmp_path):
    (tmp_path / "ticks.py").write_text(
        "import itertools, time\n"
        "for number in itertools.count():\n"
        '    print(\'{"event": "tick", "number": %d}\' % number)\n'
        "    print('{no json', '[1]', '{}', sep='\\n')\n"
        "    time.sleep(0.01)\n"
    )
    with ManagedProcess(str(tmp_path / "ticks.py"), ready="tick") as process:
        assert process.wait_for("tick", count=5)["number"] == 4


def test_misuse_is_told(talker):
    with pytest.raises(ValueError):
        ManagedProcess()
    process = ManagedProcess(talker)
    with pytest.raises(RuntimeError, match="was not started"):
        process.pause()
    with pytest.raises(ValueError, match=r"no argument is 'tcp://127\.0\.0\.1:\*'"):
        _ = process.endpoint
    with process, pytest.raises(RuntimeError, match="runs already"):
        process.start()


def test_its_own_children_go_with_it(tmp_path):
    (tmp_path / "parent.py").write_text(
        "import json, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
        "print(json.dumps({'event': 'ready', 'child': child.pid}))\n"
        "time.sleep(3600)\n"
    )
    with ManagedProcess(str(tmp_path / "parent.py")) as process:
        child = process.wait_for("ready")["child"]
        assert is_alive(child)
    until(lambda: not is_alive(child), "the grandchild has gone")


@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
@pytest.mark.parametrize("end", ["kill", "exit"])
def test_it_ends_with_its_parent_however_that_ends(tmp_path, talker, end, paused):
    (tmp_path / "parent.py").write_text(
        "import os, sys\n"
        "from zpatterns.testing import ManagedProcess\n"
        f"process = ManagedProcess({talker!r}).start()\n"
        f"if {paused}: process.pause()\n"
        "print(process.pid, flush=True)\n"
        "input()\n"
        "os._exit(0)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with parent:
        assert parent.stdout is not None and parent.stdin is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        if end == "kill":
            parent.kill()
        else:
            parent.stdin.write(b"\n")
            parent.stdin.flush()
        parent.wait(20)
        try:
            until(lambda: not is_alive(pid), "the process has gone")
        except AssertionError:
            os.kill(pid, signal.SIGKILL)
            raise
