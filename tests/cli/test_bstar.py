"""``zpatterns bstar`` as a user has it: a pair in processes, what is asked of it, and what makes no sense."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.processes import Server, invoke, output, ready
from tests.waiting import until
from zpatterns.pirate import LazyPirateServer
from zpatterns.testing import BackgroundReactor, ReservedPort

HANDLERS = """
from zpatterns.pirate import LazyPirateServer

class Greeter(LazyPirateServer):
    def handle(self, request):
        return b"hello " + request.body
"""
QUICK = ("--heartbeat-interval", "0.5")


class Pair:
    """Two servers, and the endpoints that their lines say."""

    def __init__(self, *servers: Server) -> None:
        self.servers = servers
        self.lines = [server.wait_for("ready") for server in servers]
        self.connect = [part for line in self.lines for part in ("--connect", line["endpoint"])]
        self.controls = [line["control"] for line in self.lines]

    def states(self) -> list[str]:
        return [self.status(number)["state"] for number in range(2)]

    def status(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            output(invoke("bstar", "status", "--json", "--control", self.controls[number]))
        )
        return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Iterator[Pair]:
    directory = tmp_path_factory.mktemp("handlers")
    (directory / "handlers.py").write_text(HANDLERS)
    with ReservedPort() as one, ReservedPort() as two:
        ends = [one.endpoint, two.endpoint]
        common = ("--bind", "tcp://127.0.0.1:*", "--control", "tcp://127.0.0.1:*", "--handler", "handlers:Greeter")
        first, _ = ready(
            *("bstar", "server", "--primary", "--local", ends[0], "--remote", ends[1], *common, *QUICK),
            cwd=directory,
        )
        with first:
            second, _ = ready(
                *("bstar", "server", "--backup", "--local", ends[1], "--remote", ends[0], *common, *QUICK),
                cwd=directory,
            )
            with second:
                yield Pair(first, second)


def test_a_node_says_what_it_is_when_it_is_ready(pair):
    [ready] = pair.servers[0].events("ready")
    assert (ready["source"], ready["role"]) == ("bstar", "primary")
    assert ready["local"] == pair.lines[1]["remote"]
    assert not any("*" in ready[name] for name in ("endpoint", "local", "control"))


def test_a_request_is_answered_by_the_active_node(pair):
    assert output(invoke("bstar", "request", "you", *pair.connect, *QUICK)) == b"hello you\n"
    reply = output(invoke("bstar", "request", *pair.connect, *QUICK, "--json", stdin=b"\xff"))
    assert json.loads(reply) == [{"base64": "aGVsbG8g/w=="}]


def test_status_says_what_both_are(pair):
    until(lambda: sorted(pair.states()) == ["active", "passive"], "one is active, and one passive")
    number = pair.states().index("passive")
    status = pair.status(number)
    assert (status["role"], status["serving"]) == (("primary", "backup")[number], False)
    lines = output(invoke("bstar", "status", "--control", pair.controls[number])).decode().splitlines()
    rows = {line[: len("the other node")].strip(): line[len("the other node") :].strip() for line in lines}
    assert rows["state"] == "passive"
    assert rows["serving"] == "no"
    assert rows["the other node"] == "active"


def test_promote_makes_the_passive_node_the_active_one(pair):
    until(lambda: sorted(pair.states()) == ["active", "passive"], "one is active, and one passive")
    passive = pair.states().index("passive")
    epoch = pair.status(1 - passive)["epoch"]
    said = output(invoke("bstar", "promote", "--control", pair.controls[passive]))
    assert said.startswith(b"it is active with epoch ")
    until(lambda: pair.states()[1 - passive] == "passive", "the other gives way")
    assert pair.status(passive)["epoch"] > epoch
    assert output(invoke("bstar", "promote", "--control", pair.controls[passive])) == b"it is active already\n"


def test_a_node_that_is_told_to_end_hands_over_and_exits_with_0(cold):
    with ReservedPort() as one, ReservedPort() as two:
        ends = ("--local", one.endpoint, "--remote", two.endpoint)
        server, line = ready("bstar", "server", "--primary", "--bind", "tcp://127.0.0.1:*", *ends, *QUICK)
        with server:
            assert output(invoke("bstar", "request", "x", "--connect", line["endpoint"], "--retries", "9")) == b"x\n"
            assert server.stop(signal.SIGTERM) == 0
        assert server.events("stepped_down")[0]["reason"] == "it is being stopped"


def test_nobody_there_is_exit_code_4(free_port):
    nobody = f"tcp://127.0.0.1:{free_port}"
    result = invoke("bstar", "request", "x", "--connect", nobody, "--timeout", "0.3")
    assert result.returncode == 4
    for command in ("status", "promote"):
        result = invoke("bstar", command, "--control", nobody, "--timeout", "0.2")
        assert result.returncode == 4
        assert b"is this its --control?" in result.stderr


STATES = ("--local", "tcp://127.0.0.1:*", "--remote", "tcp://127.0.0.1:5004")


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["server"], 2, b"--primary or --backup"),
        (["server", "--primary", "--echo", "--handler", "a:b"], 2, b"exclude each other"),
        (["server", "--primary", "--liveness", "1"], 2, b"'--liveness'"),
        (["server", "--primary", "--lone-backup-after", "9", *STATES], 2, b"is for the backup"),
        (["server", "--backup", "--lone-backup-after", "1", *STATES], 2, b"one_backup_after must be at least"),
        (["server", "--primary", "--control", "tcp://*:5005", *STATES], 5, b"no place for control"),
        (["server", "--primary", "--local", "nonsense"], 5, b"is not an endpoint"),
        (["server", "--primary", "--remote", "tcp://*:5003"], 5, b"tcp://*:5003"),
        (["server", "--primary", "--bind", "tcp://203.0.113.1:5001", *STATES], 5, b"cannot bind"),
        (["request", "--connect", "nonsense", "x"], 5, b"is not an endpoint"),
        (["status"], 2, b"--control"),
        (["status", "--control", "nonsense"], 5, b"is not an endpoint"),
        (["promote"], 2, b"--control"),
    ],
)
def test_what_makes_no_sense_has_its_exit_code_and_no_traceback(arguments, code, text):
    result = invoke("bstar", *arguments)
    assert result.returncode == code, result.stderr
    assert text in result.stderr


@pytest.mark.parametrize(
    ("command", "said"), [("promote", b"cannot be promoted: so it is"), ("status", b"409: so it is")]
)
def test_a_node_that_refuses_is_exit_code_1_with_its_reason(command, said):
    with BackgroundReactor() as background:
        node = background.start(LazyPirateServer("tcp://127.0.0.1:*", handler=lambda request: ["409", "so it is"]))
        result = invoke("bstar", command, "--control", node.endpoint)
    assert (result.returncode, result.stdout) == (1, b"")
    assert said in result.stderr


@pytest.mark.parametrize("option", ["--local", "--remote", "--control", "--lone-backup-after"])
def test_a_broker_that_is_no_half_of_a_pair_has_no_use_for_its_options(option):
    result = invoke("mdp", "broker", option, "9" if option.endswith("after") else "tcp://127.0.0.1:5003")
    assert result.returncode == 2
    assert option.encode() in result.stderr
