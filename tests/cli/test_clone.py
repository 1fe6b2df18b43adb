"""``zpatterns clone`` as a user has it: what is printed, and exit codes. The server is one of this process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading

import pytest

from tests.cli.processes import clean_environment, failing_after, invoke, output
from tests.waiting import DEADLINE, until
from zpatterns.cli.clone import _change_to_line
from zpatterns.clone import AsyncClone, Change, Clone, CloneServer
from zpatterns.testing import BackgroundReactor

HEARTBEAT = 0.05
"""Of the server, that a command need not wait long for the first."""


@pytest.fixture(scope="module")
def background():
    with BackgroundReactor("clone-cli") as background:
        yield background


@pytest.fixture(scope="module")
def shared(background):
    """The endpoint of a server that all the tests share; each has keys of its own."""
    return background.start(CloneServer("tcp://127.0.0.1:*", heartbeat_interval=HEARTBEAT)).endpoint


def clone(endpoint: str, command: str, *arguments: str, **options):
    return invoke("clone", command, *arguments, "--connect", endpoint, **options)


def test_what_is_set_can_be_got(shared):
    sequence = int(output(clone(shared, "set", "/a/key", "some value")))
    assert output(clone(shared, "get", "/a/key")) == b"some value\n"
    shown = json.loads(output(clone(shared, "get", "/a/key", "--json")))
    assert shown == {"key": "/a/key", "value": "some value", "sequence": sequence}


@pytest.mark.parametrize("key", ["plain", "/top", "//", "/deep/er/key", "größe"])
def test_a_key_may_lie_anywhere(shared, key):
    output(clone(shared, "set", key, "x"))
    assert output(clone(shared, "get", key)) == b"x\n"


def test_a_key_that_is_not_there_is_exit_code_1(shared):
    result = clone(shared, "get", "/a/nothing")
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr == b"Error: there is no key '/a/nothing'\n"


def test_a_value_comes_from_standard_input_and_json_shows_bytes(shared):
    output(clone(shared, "set", "/a/raw", stdin=b"a\xff"))
    assert output(clone(shared, "get", "/a/raw")) == b"a\xff\n"
    assert json.loads(output(clone(shared, "get", "/a/raw", "--json")))["value"] == {"base64": "Yf8="}


def test_deleting_is_done_whether_it_is_there_or_not(shared):
    output(clone(shared, "set", "/a/old", "x"))
    first, second = (int(output(clone(shared, "delete", "/a/old"))) for _ in range(2))
    assert first < second
    assert clone(shared, "get", "/a/old").returncode == 1


def test_a_set_may_ask_for_what_is_there_to_be_as_it_was(shared):
    sequence = output(clone(shared, "set", "/a/cas", "1")).decode().strip()
    assert clone(shared, "set", "/a/cas", "2", "--if-sequence", "0").returncode == 1
    output(clone(shared, "set", "/a/cas", "2", "--if-sequence", sequence))
    result = clone(shared, "set", "/a/cas", "3", "--if-sequence", sequence)
    assert result.returncode == 1
    assert b"has changed since" in result.stderr
    assert output(clone(shared, "get", "/a/cas")) == b"2\n"


def test_a_key_with_a_time_to_live_goes(shared):
    output(clone(shared, "set", "/a/short", "x", "--ttl", "1"))
    until(lambda: clone(shared, "get", "/a/short").returncode == 1, "the key is gone")


def test_a_dump_has_all_of_a_subtree_in_order(shared):
    for key in ("/dump/b", "/dump/a", "/dumped/c"):
        output(clone(shared, "set", key, key[-1]))
    assert output(clone(shared, "dump", "/dump/")) == b"/dump/a\ta\n/dump/b\tb\n"
    assert json.loads(output(clone(shared, "dump", "/dump/", "--json"))) == {"/dump/a": "a", "/dump/b": "b"}
    everything = json.loads(output(clone(shared, "dump", "--json")))
    assert everything["/dumped/c"] == "c"
    assert output(clone(shared, "dump", "/empty/")) == b""


def test_the_second_of_a_list_is_asked_when_the_first_is_not_there(shared, free_port):
    dead = f"tcp://127.0.0.1:{min(free_port, 65533)}"
    result = clone(dead, "set", "/a/pair", "x", "--connect", shared, "--heartbeat-interval", "0.3")
    assert int(output(result)) > 0


def test_nobody_listening_is_exit_code_4_at_the_timeout(free_port):
    result = clone(f"tcp://127.0.0.1:{min(free_port, 65533)}", "get", "/a/key", "--timeout", "0.4")
    assert result.returncode == 4
    assert b"gave its map within 0.4 s" in result.stderr


def test_a_store_that_is_none_is_exit_code_1_and_left_as_it_is(tmp_path):
    path = tmp_path / "map.db"
    path.write_bytes(b"something else")
    result = invoke("clone", "server", "--bind", "tcp://127.0.0.1:*", "--store", str(path))
    assert result.returncode == 1
    assert f"the store {str(path)!r} is damaged and was left as it is" in result.stderr.decode()
    assert path.read_bytes() == b"something else"


def test_a_set_over_a_limit_of_the_server_is_exit_code_1_with_its_code(background):
    server = background.start(CloneServer("tcp://127.0.0.1:*", heartbeat_interval=HEARTBEAT, keys_max=1))
    output(clone(server.endpoint, "set", "/a", "x"))
    refused = clone(server.endpoint, "set", "/b", "x")
    assert refused.returncode == 1
    assert b"error 413" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["get"], 2, b"Missing argument 'KEY'"),
        (["set", "/a", ""], 2, b"use delete()"),
        (["set", "HUGZ", "x"], 2, b"cannot be a key"),
        (["set", "/a", "x", "--ttl", "0"], 2, b"Invalid value for '--ttl'"),
        (["set", "/a", "x", "--if-sequence", "-1"], 2, b"Invalid value for '--if-sequence'"),
        (["dump", "a/"], 2, b"ubtree must be empty or like"),
        (["watch", "/a"], 2, b"ubtree must be empty or like"),
        (["bench", "--size", "0"], 2, b"Invalid value for '--size'"),
        (["get", "/a", "--connect", "nonsense"], 5, b"is not an endpoint"),
        (["get", "/a", "--connect", "tcp://127.0.0.1:65534"], 5, b"three ports in a row"),
    ],
)
def test_what_makes_no_sense_has_its_exit_code_and_no_traceback(shared, arguments, code, text):
    if "--connect" not in arguments:
        arguments = [*arguments, "--connect", shared]
    result = invoke("clone", *arguments)
    assert result.returncode == code
    assert text in result.stderr


def test_a_server_alone_has_no_other_half():
    result = invoke("clone", "server", "--peer", "tcp://127.0.0.1:5566")
    assert result.returncode == 2
    assert b"--peer is for half of a pair" in result.stderr


def test_watching_prints_a_line_a_change_and_ends_with_130_when_interrupted(shared, cold):
    """A process: what it prints must come out at once, into a pipe too."""
    command = [sys.executable, "-m", "zpatterns", "clone", "watch", "/w/", "--connect", shared, "--json"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()) as watching,
        Clone(shared, timeout=DEADLINE) as setter,
    ):
        end = threading.Timer(DEADLINE, watching.kill)
        end.start()
        try:
            assert watching.stderr is not None and watching.stdout is not None
            assert watching.stderr.readline() == b"connected\n"
            first = setter.set("/w/a", b"1")
            setter.set("/other", b"1")
            second = setter.delete("/w/a")
            lines = [json.loads(watching.stdout.readline()) for _ in range(2)]
            watching.send_signal(signal.SIGINT)
            assert watching.wait(DEADLINE) == 130
            assert watching.stderr.read() == b"\n", "it says no more"
        finally:
            end.cancel()
            watching.kill()
    assert lines == [
        {"key": "/w/a", "old": None, "new": "1", "sequence": first},
        {"key": "/w/a", "old": "1", "new": None, "sequence": second},
    ]


def test_a_line_for_people_says_what_was_done():
    assert _change_to_line(Change("/a", None, b"x y", 1)) == b"set\t/a\tx y\n"
    assert _change_to_line(Change("/a", b"x y", None, 2)) == b"delete\t/a\n"


def test_bench_counts_every_set_and_leaves_nothing_behind(shared):
    result = clone(shared, "bench", "--count", "200", "--clients", "2", "--in-flight", "8", "--json")
    figures = json.loads(output(result))
    assert (figures["count"], figures["failed"], figures["size"]) == (200, 0, 64)
    assert figures["sets_per_second"] == pytest.approx(200 / figures["elapsed"])
    assert 0 < figures["latency_p50"] <= figures["latency_p90"] <= figures["latency_p99"] <= figures["latency_max"]
    left = json.loads(output(clone(shared, "dump", "--json")))
    assert not [key for key in left if key.startswith("/zpatterns-bench")]


def test_bench_for_people(shared):
    printed = output(clone(shared, "bench", "--count", "50"))
    assert b"sets       50 of 64 bytes, 0 failed" in printed
    assert b"sets/s" in printed
    assert b"p99" in printed


def test_sets_that_fail_are_counted_by_bench_and_exit_code_1(shared, monkeypatch):
    monkeypatch.setattr(AsyncClone, "set", failing_after(4 + 6, AsyncClone.set))
    result = clone(shared, "bench", "--count", "10", "--in-flight", "4")  # a round of four comes before
    assert result.returncode == 1
    assert b"10 of 64 bytes, 4 failed" in result.stdout
    assert b"4 of 10 sets failed; the first: " in result.stderr
    assert b"not my day" in result.stderr


def test_bench_without_a_server_is_exit_code_4(free_port):
    result = clone(f"tcp://127.0.0.1:{min(free_port, 65533)}", "bench", "--timeout", "0.4")
    assert (result.returncode, result.stdout) == (4, b"")
