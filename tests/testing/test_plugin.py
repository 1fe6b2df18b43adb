"""The pytest plugin in a project of somebody else's: a fresh directory, no conftest, pytest as a process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.processes import clean_environment

pytestmark = pytest.mark.usefixtures("warm")

ROOT = Path(__file__).parent.parent.parent

SERVICE = """
from zpatterns.mdp import Worker

class Greeter(Worker):
    service = "greet"

    def handle(self, request):
        return b"hello " + request.body
"""

FIXTURES = """
import asyncio, sys

import pytest
from greeter import Greeter
from zpatterns import RequestTimeout
from zpatterns.mdp import AsyncClient, Client


def test_a_blocking_test(zp_broker, zp_reactor):
    zp_reactor.start(Greeter(zp_broker.endpoint))
    with Client(zp_broker.endpoint, timeout=10) as client:
        assert client.request("greet", "you") == [b"hello you"]
    assert zp_broker.statistics().requests == 1


def test_an_async_test(zp_broker, zp_reactor):
    async def main():
        async with Greeter(zp_broker.endpoint), AsyncClient(zp_broker.endpoint, timeout=10) as client:
            return await client.request("greet", "all")

    zp_reactor.start(Greeter(zp_broker.endpoint))
    assert asyncio.run(main()) == [b"hello all"]


@pytest.mark.zp_broker(heartbeat_interval=0.2)
def test_a_broker_that_comes_back(zp_reactor, zp_broker):
    zp_reactor.start(Greeter(zp_broker.endpoint, heartbeat_interval=0.2))
    with Client(zp_broker.endpoint, timeout=20, attempt_timeout=0.5, retries=40) as client:
        assert client.request("greet", "1") == [b"hello 1"]
        zp_broker.restart()
        assert client.request("greet", "2") == [b"hello 2"]


def test_a_network_that_fails(zp_faults, zp_reactor, zp_broker):
    zp_reactor.start(Greeter(zp_broker.endpoint))
    with Client(zp_faults.endpoint, timeout=20, attempt_timeout=0.5, retries=40) as client:
        assert client.request("greet", "1") == [b"hello 1"]
        zp_faults.cut()
        assert client.request("greet", "2") == [b"hello 2"]
        zp_faults.stall()
        with pytest.raises(RequestTimeout):
            client.request("greet", "3", timeout=0.1)
    assert zp_faults.statistics().accepted >= 2


@pytest.mark.zp_broker(queue_max=1, heartbeat_interval=0.5)
def test_a_broker_with_options(zp_broker):
    assert zp_broker._broker._core.options.queue_max == 1


def test_a_clock(zp_clock):
    rung = []
    zp_clock.call_later(3600, rung.append, "alarm")
    zp_clock.advance(3599)
    assert not rung
    zp_clock.advance(1)
    assert rung == ["alarm"]


class TestClass:
    def test_a_method(self, zp_broker):
        assert zp_broker.running
"""

LEAKS = """
import socket, subprocess, sys, threading

import pytest

LEFT = []


def leave_a_thread():
    leaving = threading.Event()
    thread = threading.Thread(target=leaving.wait, name="the thread")
    thread.start()
    LEFT.append(lambda: (leaving.set(), thread.join()))


def leave_a_socket():
    LEFT.append(socket.create_server(("127.0.0.1", 0)).close)


def leave_a_process():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    LEFT.append(lambda: process.communicate(b""))


@pytest.fixture(scope="module", autouse=True)
def clean():
    yield
    for clear in LEFT:
        clear()


@pytest.fixture(scope="module")
def lasting():
    # Meant to outlive a test: none of the guard's business.
    leave_a_thread()
    leave_a_socket()
    leave_a_process()


@pytest.fixture
def late():
    # Clears up after the test, and after the zp_ fixtures.
    yield
    LEFT.pop()()


def test_everything(zp_clock):
    leave_a_thread()
    leave_a_socket()
    leave_a_process()


def test_clean(zp_clock):
    pass


def test_clean_in_the_end(late, zp_clock):
    leave_a_socket()


def test_lasting(lasting, zp_clock):
    pass


def test_lasting_and_asked_for_late(zp_clock, request):
    request.getfixturevalue("lasting")


def test_failed(zp_clock):
    leave_a_thread()
    raise RuntimeError("the cause")


@pytest.fixture
def broken(zp_clock):
    leave_a_thread()
    raise RuntimeError("the cause")


def test_broken(broken):
    pass


def test_without_a_fixture():
    leave_a_thread()


def test_last():
    pass
"""

STRICT = ("-W", "error", "-ra")


def run(directory: Path, *arguments: str, **files: str) -> subprocess.CompletedProcess[str]:
    """pytest in `directory`, on those files, with nothing of this project's own settings."""
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)
    environment = {
        name: value
        for name, value in clean_environment().items()
        if not name.startswith("PYTEST_") or name == "PYTEST_PLUGINS"
    }
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    return subprocess.run(
        # Hypothesis, which we have for tests of our own, takes half a second to load.
        [sys.executable, "-m", "pytest", *("-p", "no:cacheprovider", "-p", "no:hypothesispytest"), *STRICT, *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def outcomes(result: subprocess.CompletedProcess[str]) -> tuple[set[str], set[str]]:
    """The names of the tests that failed, and of those with an error before or after."""
    failed = set(re.findall(r"^FAILED \S+::(\w+)", result.stdout, re.MULTILINE))
    return failed, set(re.findall(r"^ERROR \S+::(\w+)", result.stdout, re.MULTILINE))


@pytest.mark.parametrize("extra", [[], ["-n", "1", "--zp-guard", "--strict-markers"]], ids=["plain", "with-more"])
def test_a_fresh_project_has_the_fixtures_without_a_conftest(tmp_path, extra):
    result = run(tmp_path, *extra, greeter=SERVICE, test_greeter=FIXTURES)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "7 passed" in result.stdout


def test_the_guard_fails_what_leaves_something_behind_and_nothing_else(tmp_path):
    result = run(tmp_path, test_leaks=LEAKS)
    assert outcomes(result) == ({"test_failed"}, {"test_everything", "test_broken"}), result.stdout
    assert len(re.findall("^the test left behind:$", result.stdout, re.MULTILINE)) == 1
    assert "thread: 'the thread', now in wait (" in result.stdout
    assert "socket: TCP listener at 127.0.0.1:" in result.stdout
    assert re.search(r"process: \d+: .*python\S* -c input\(\)", result.stdout)


def test_the_guard_can_be_had_for_every_test(tmp_path):
    result = run(tmp_path, "--zp-guard", "-k", "without or last or in_the_end", test_leaks=LEAKS)
    assert outcomes(result) == (set(), {"test_without_a_fixture"}), result.stdout


def test_without_a_fixture_nothing_of_the_network_is_loaded(tmp_path, cold):
    code = """
import sys

def test_nothing():
    names = {"zmq", "tornado", "structlog", "zpatterns.mdp", "zpatterns.testing.guard"}
    assert not names & set(sys.modules)

def test_clock(zp_clock):
    assert not {"zmq", "tornado"} & set(sys.modules)
"""
    result = run(tmp_path, test_nothing=code)
    assert result.returncode == 0, result.stdout


def test_workers_leave_before_the_broker_does_whatever_the_order_of_the_arguments(tmp_path):
    code = """
import time

import pytest
from greeter import Greeter

EVENTS = []


def test_worker(zp_reactor, zp_broker):
    zp_reactor.start(Greeter(zp_broker.endpoint, on_event=EVENTS.append))
    deadline = time.monotonic() + 20
    while not zp_broker.statistics().workers and time.monotonic() < deadline:
        time.sleep(0.01)


def test_it_lost_no_broker():
    assert [type(event).__name__ for event in EVENTS] == ["ReadySent"]
"""
    result = run(tmp_path, greeter=SERVICE, test_order=code)
    assert result.returncode == 0, result.stdout


def test_the_fixtures_and_the_marker_say_what_they_are(tmp_path):
    text = run(tmp_path, "--fixtures").stdout
    for name in ("zp_broker", "zp_reactor", "zp_faults", "zp_clock"):
        assert re.search(rf"^{name} -- .*\n    \w", text, re.MULTILINE), name
    assert "@pytest.mark.zp_broker(**options):" in run(tmp_path, "--markers").stdout
