"""``zpatterns pirate server`` and ``request`` as a user has them: servers in processes, real sockets, exit codes."""

from __future__ import annotations

import json
import re
import time

import pytest
import zmq

from tests.cli.processes import invoke, output, ready, zpatterns
from tests.waiting import DEADLINE, until

HANDLERS = """
def reverse(request):
    return request.body[::-1]

async def shout(request):
    return [frame.upper() for frame in request.frames]

def fail(request):
    raise ValueError("no such customer: 42")

def binary(request):
    return [b"text", b"\\xff\\x00", b""]

def stream(request):
    yield b"part"

def slow(request):
    import pathlib, time
    pathlib.Path("begun").touch()
    time.sleep(0.5)
    return b"finished"

from zpatterns.pirate import LazyPirateServer

class Greeter(LazyPirateServer):
    def handle(self, request):
        return b"hello " + request.body
"""


def server(*arguments, **kwargs):
    """A server on a free port, and its endpoint."""
    started, line = ready("pirate", "server", "--bind", "tcp://127.0.0.1:*", *arguments, **kwargs)
    return started, str(line["endpoint"])


def request(endpoint, *arguments, run=invoke, **kwargs):
    return run("pirate", "request", "--connect", endpoint, *arguments, **kwargs)


@pytest.fixture(scope="module")
def echo():
    started, endpoint = server("--echo")
    with started:
        yield endpoint


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "handlers.py").write_text(HANDLERS)
    return tmp_path


def test_each_argument_is_a_frame_and_each_frame_of_the_reply_a_line(echo):
    assert output(request(echo, "one", "two words", "")) == b"one\ntwo words\n\n"


def test_the_body_comes_from_standard_input_byte_for_byte(echo):
    body = bytes(range(256)) * 10
    assert output(request(echo, stdin=body, run=zpatterns)) == body + b"\n"


def test_json_shows_what_is_not_utf8_in_base64(directory):
    started, endpoint = server("--handler", "handlers:binary", cwd=directory)
    with started:
        assert json.loads(output(request(endpoint, "x", "--json"))) == ["text", {"base64": "/wA="}, ""]


@pytest.mark.parametrize(
    ("handler", "reply"),
    [("handlers:reverse", b"cba\n"), ("handlers:shout", b"ABC\n"), ("handlers:Greeter", b"hello abc\n")],
)
def test_any_callable_of_the_current_directory_can_serve(directory, handler, reply):
    started, endpoint = server("--handler", handler, "--concurrency", "2", cwd=directory)
    with started:
        assert output(request(endpoint, "abc")) == reply
        assert started.stop() == 0


def test_a_handler_that_raises_is_exit_code_1_with_its_message(directory):
    started, endpoint = server("--handler", "handlers:fail", cwd=directory)
    with started:
        result = request(endpoint, "x")
        assert started.wait_for("handler_raised")
    assert result.returncode == 1
    assert b"no such customer: 42" in result.stderr


def test_nobody_listening_is_exit_code_4_at_the_timeout(free_port):
    begin = time.monotonic()
    result = request(f"tcp://127.0.0.1:{free_port}", "x", "--timeout", "0.5", "--retries", "1")
    assert result.returncode == 4
    assert 0.5 <= time.monotonic() - begin < 15
    # On a machine that stood still there was no time left for the second.
    assert re.search(rb"\((1 attempt|2 attempts)\); is the server there\?", result.stderr)
    assert result.stderr.count(b"\n") == 1, result.stderr


def test_a_list_of_servers_survives_one_that_is_not_there(echo, free_port):
    dead = f"tcp://127.0.0.1:{free_port}"
    assert output(request(dead, "x", "--connect", echo, "--timeout", "15", "--retries", "30")) == b"x\n"


def test_sigterm_lets_a_request_be_finished(directory, cold):
    started, endpoint = server("--handler", "handlers:slow", cwd=directory)
    with started, zmq.Context() as context, context.socket(zmq.REQ) as asking:
        asking.setsockopt(zmq.LINGER, 0)
        asking.setsockopt(zmq.RCVTIMEO, int(DEADLINE * 1000))
        asking.connect(endpoint)
        asking.send(b"x")
        until((directory / "begun").exists, "the handler has begun")
        assert started.stop() == 0
        assert asking.recv() == b"finished"


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://no-such-host.invalid:1"])
def test_an_address_that_is_none_is_exit_code_5(endpoint):
    result = request(endpoint, "x")
    assert result.returncode == 5
    assert endpoint.encode() in result.stderr


def test_an_address_that_is_taken_is_exit_code_5(echo):
    result = invoke("pirate", "server", "--bind", echo)
    assert result.returncode == 5
    assert echo.encode() in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["server", "--echo", "--handler", "a:b"], b"exclude each other"),
        (["server", "--handler", "nothing"], b"module:name"),
        (["server", "--concurrency", "0"], b"--concurrency"),
        (["server", "--request-ttl", "0"], b"--request-ttl"),
        (["request", "x", "--timeout", "nan"], b"--timeout"),
        (["request", "x", "--retries", "-1"], b"--retries"),
    ],
)
def test_wrong_use_is_exit_code_2(arguments, complaint):
    result = invoke("pirate", *arguments)
    assert result.returncode == 2
    assert complaint in result.stderr


def test_a_generator_cannot_serve(directory):
    result = zpatterns("pirate", "server", "--bind", "tcp://127.0.0.1:*", "--handler", "handlers:stream", cwd=directory)
    assert result.returncode == 2, result.stderr
    assert b"cannot be a generator" in result.stderr
    assert b"Traceback" not in result.stderr


def test_options_can_be_set_in_the_environment(echo):
    result = invoke("pirate", "request", "x", env={"ZPATTERNS_PIRATE_REQUEST_CONNECT": echo})
    assert output(result) == b"x\n"
