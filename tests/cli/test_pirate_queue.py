"""``zpatterns pirate queue`` and ``worker`` as a user has them: processes, real sockets, exit codes."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
import zmq

from tests.cli.processes import Server, clean_environment, invoke, output, ready
from tests.waiting import DEADLINE, until

HANDLERS = """
import time

def reverse(request):
    return request.body[::-1]

async def shout(request):
    return [frame.upper() for frame in request.frames]

def numbers(request):
    yield from (b"%d" % number for number in range(int(request.body)))

def fail(request):
    raise ValueError("no such customer: 42")

def slow(request):
    print("begun", flush=True)
    time.sleep(1.0)
    return b"finished"

from zpatterns.pirate import ParanoidPirateWorker, SimplePirateWorker

class Greeter(ParanoidPirateWorker):
    def handle(self, request):
        return b"hello " + request.body

class SimpleGreeter(SimplePirateWorker):
    def handle(self, request):
        return b"hi " + request.body
"""
FREE = "tcp://127.0.0.1:*"


def queue(*arguments, **kwargs):
    """A queue on free ports, and its two endpoints."""
    started, line = ready("pirate", "queue", "--frontend", FREE, "--backend", FREE, *arguments, **kwargs)
    return started, str(line["endpoint"]), str(line["backend"])


def worker(backend, *arguments, **kwargs):
    return Server("pirate", "worker", "--connect", backend, *arguments, **kwargs)


def request(endpoint, *arguments):
    return invoke("pirate", "request", "--connect", endpoint, *arguments)


@pytest.fixture(scope="module", params=["--simple", "--paranoid"])
def cluster(request):
    """One queue of each kind."""
    started, frontend, backend = queue(request.param)
    with started:
        yield request.param, frontend, backend


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "handlers.py").write_text(HANDLERS)
    return tmp_path


def test_a_request_through_the_queue_to_a_worker_that_echoes(cluster):
    kind, frontend, backend = cluster
    with worker(backend, kind, "--echo") as started:
        assert output(request(frontend, "one", "", "three")) == b"one\n\nthree\n"
        assert started.stop() == 0


@pytest.mark.parametrize(
    ("kind", "handler", "body", "reply"),
    [
        ("--simple", "reverse", "abc", b"cba\n"),
        ("--paranoid", "shout", "abc", b"ABC\n"),
        ("--paranoid", "numbers", "3", b"0\n1\n2\n\n"),
    ],
)
def test_any_callable_of_the_current_directory_can_serve(directory, kind, handler, body, reply):
    started, frontend, backend = queue(kind)
    with started, worker(backend, kind, "--handler", f"handlers:{handler}", cwd=directory):
        assert output(request(frontend, body)) == reply


def test_so_can_a_subclass(cluster, directory):
    kind, frontend, backend = cluster
    name = "SimpleGreeter" if kind == "--simple" else "Greeter"
    with worker(backend, kind, "--handler", f"handlers:{name}", "--concurrency", "2", cwd=directory) as started:
        assert output(request(frontend, "you")) == (b"hi you\n" if kind == "--simple" else b"hello you\n")
        assert started.stop() == 0


def test_a_handler_that_raises_is_exit_code_1_with_its_message(directory):
    started, frontend, backend = queue()
    with started, worker(backend, "--handler", "handlers:fail", cwd=directory) as serving:
        result = request(frontend, "x")
        assert serving.wait_for("handler_raised")
    assert result.returncode == 1
    assert b"no such customer: 42" in result.stderr


def test_no_worker_is_exit_code_4(cluster):
    _, frontend, _ = cluster
    assert request(frontend, "x", "--timeout", "0.5", "--retries", "0").returncode == 4


def test_sigterm_lets_both_finish_what_they_hold(directory, cold, peer):
    started, frontend, backend = queue()
    # A plain REQ: clients of ours lose what they have not read a tenth of a second after the queue's last word.
    client = peer(zmq.REQ, connect=frontend)
    with started, worker(backend, "--handler", "handlers:slow", cwd=directory) as serving:
        client.send(b"x")
        assert serving.process.stdout is not None
        assert serving.process.stdout.readline() == b"begun\n"
        started.process.terminate()
        serving.process.terminate()
        assert client.recv() == b"finished"
        assert started.process.wait(DEADLINE) == serving.process.wait(DEADLINE) == 0


def test_a_worker_is_found_out_when_it_is_killed():
    started, frontend, backend = queue("--heartbeat-interval", "0.2", "--liveness", "2")
    with started, worker(backend, "--heartbeat-interval", "0.2") as victim:
        assert output(request(frontend, "x")) == b"x\n"
        victim.process.kill()
        until(lambda: started.events("worker_lost") or started.events("worker_expired"), "the queue has noticed")


@pytest.mark.parametrize("option", ["--frontend", "--backend"])
def test_an_address_that_is_taken_is_exit_code_5(option):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        other = "--backend" if option == "--frontend" else "--frontend"
        result = invoke("pirate", "queue", option, endpoint, other, FREE)
    assert result.returncode == 5
    assert endpoint.encode() in result.stderr


@pytest.mark.parametrize("arguments", [["queue", "--frontend", "nonsense"], ["worker", "--connect", "tcp://a..b:1"]])
def test_an_address_that_is_none_is_exit_code_5(arguments):
    result = invoke("pirate", *arguments)
    assert result.returncode == 5
    assert arguments[-1].encode() in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["queue", "--queue-max", "0"], "--queue-max"),
        (["queue", "--worker-timeout", "0"], "--worker-timeout"),
        (["queue", "--simple", "--heartbeat-interval", "1"], "--heartbeat-interval is for --paranoid"),
        (["worker", "--simple", "--liveness", "3"], "--liveness is for --paranoid"),
        (["worker", "--simple", "--connect", "tcp://127.0.0.1:1", "--connect", "tcp://127.0.0.1:2"], "one --connect"),
        (["worker", "--echo", "--handler", "a:b"], "exclude each other"),
        (["worker", "--handler", "nothing"], "module:name"),
        (["worker", "--concurrency", "0"], "--concurrency"),
    ],
)
def test_wrong_use_is_exit_code_2(arguments, complaint):
    result = invoke("pirate", *arguments)
    assert result.returncode == 2
    assert complaint in result.stderr.decode()


def test_the_console_script_is_the_same_command(cold):
    code = "from zpatterns.cli.pirate_queue import queue; queue()"
    result = subprocess.run(
        [sys.executable, "-c", code, "--version"], capture_output=True, timeout=DEADLINE, env=clean_environment()
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(b"zpatterns ")
    variables = clean_environment(ZPATTERNS_PIRATE_QUEUE_FRONTEND="nonsense")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=DEADLINE, env=variables)
    assert result.returncode == 5
