"""``zpatterns freelance`` as a user has it: servers in processes, real sockets, exit codes."""

from __future__ import annotations

import json
import signal

import pytest

from tests.cli.processes import invoke, output, ready, zpatterns

HANDLERS = """
def reverse(request):
    return request.body[::-1]

def fail(request):
    raise ValueError("no such customer: 42")

from zpatterns.freelance import FreelanceServer

class Greeter(FreelanceServer):
    def handle(self, request):
        return b"hello " + request.body
"""


def server(*arguments, **kwargs):
    """A server on a free port, and its endpoint."""
    if "--model" not in arguments:
        arguments = (*arguments, "--identity", "tcp://localhost:5555")
    started, line = ready("freelance", "server", "--bind", "tcp://127.0.0.1:*", *arguments, **kwargs)
    return started, str(line["endpoint"])


def request(endpoint, *arguments, run=invoke, **kwargs):
    return run("freelance", "request", "--connect", endpoint, *arguments, **kwargs)


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


def test_the_body_comes_from_standard_input_and_json_shows_it(echo):
    assert json.loads(output(request(echo, "--json", stdin=b"a\xff", run=zpatterns))) == [{"base64": "Yf8="}]


def test_a_dead_server_costs_one_attempt(echo, free_port):
    dead = f"tcp://127.0.0.1:{free_port}"
    assert output(request(dead, "--connect", echo, "--timeout", "4", "hello")) == b"hello\n"


@pytest.mark.parametrize("model", ["failover", "shotgun"])
def test_the_other_models(model):
    started, endpoint = server("--model", model)
    with started:
        assert started.wait_for("ready")["model"] == model
        assert output(request(endpoint, "--model", model, "hello")) == b"hello\n"


@pytest.mark.parametrize(("handler", "reply"), [("reverse", b"cba\n"), ("Greeter", b"hello abc\n")])
def test_any_callable_of_the_current_directory_can_serve(directory, handler, reply):
    started, endpoint = server("--handler", f"handlers:{handler}", cwd=directory)
    with started:
        assert output(request(endpoint, "abc")) == reply


def test_a_handler_that_raises_is_exit_code_1_with_its_message(directory):
    started, endpoint = server("--handler", "handlers:fail", cwd=directory)
    with started:
        result = request(endpoint, "x")
    assert result.returncode == 1
    assert result.stderr == b"Error: the server answered with error ValueError: no such customer: 42\n"


def test_nobody_listening_is_exit_code_4_at_the_timeout(free_port):
    result = request(f"tcp://127.0.0.1:{free_port}", "--timeout", "0.4", "x")
    assert result.returncode == 4
    assert b"is any of the servers there?" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["request", "--connect", "nonsense", "x"], 5, b"is not an endpoint"),
        (["server", "--bind", "tcp://127.0.0.1:*"], 5, b"say it with identity"),
        (["server", "--bind", "tcp://203.0.113.1:5555"], 5, b"cannot bind"),
        (["server", "--model", "shotgun", "--identity", "x"], 2, b"nly the addressed model has an identity"),
        (["server", "--model", "lucky"], 2, b"Invalid value for '--model'"),
        (["server", "--echo", "--handler", "a:b"], 2, b"exclude each other"),
        (["request", "--model", "shotgun", "one", "two"], 2, b"exactly one frame"),
    ],
)
def test_what_makes_no_sense_has_its_exit_code_and_no_traceback(arguments, code, text):
    result = invoke("freelance", *arguments)
    assert result.returncode == code
    assert text in result.stderr


def test_a_server_logs_one_line_when_it_is_ready_and_ends_with_exit_code_0_when_told_to(cold):
    started, endpoint = server()
    with started:
        [ready] = started.events("ready")
        assert (ready["source"], ready["model"], ready["identity"]) == (
            "freelance.server",
            "addressed",
            "tcp://localhost:5555",
        )
        assert ready["endpoint"] == endpoint
        assert started.stop(signal.SIGTERM) == 0
