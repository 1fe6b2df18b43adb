"""``zpatterns demo``: what the README's first command does."""

from __future__ import annotations

import json
import re
import signal

import pytest

from tests.cli.processes import Server, invoke, is_alive, output, zpatterns
from tests.cli.test_bench import children_of
from tests.waiting import until
from zpatterns.cli import demonstration
from zpatterns.cli.demonstration import DemoResult


def test_the_demo_loses_nothing_and_says_whom_it_killed(cold):
    result = zpatterns("demo", timeout=40)
    text = result.stdout.decode()
    assert result.returncode == 0, text + result.stderr.decode()
    assert re.search(r"^ +sent +1000$", text, re.MULTILINE)
    assert re.search(r"^ +answered +1000$", text, re.MULTILINE)
    assert re.search(r"^ +lost +0$", text, re.MULTILINE)
    workers = re.search(r"^ +workers +([\d ]+)$", text, re.MULTILINE)
    killed = re.search(r"^ +killed +worker (\d+), by SIGKILL, while it held request 500$", text, re.MULTILINE)
    recovery = re.search(r"^ +recovery +(\d+\.\d+) s.* worker (\d+) ", text, re.MULTILINE)
    assert workers
    assert killed
    assert recovery
    assert killed[1] in workers[1].split()
    assert recovery[2] in workers[1].split()
    assert recovery[2] != killed[1]
    assert float(recovery[1]) < 10
    assert result.stderr == b""


def test_the_demo_in_json():
    figures = json.loads(output(invoke("demo", "--requests", "1", "--workers", "2", "--json")))
    assert (figures["sent"], figures["answered"], figures["lost"]) == (1, 1, 0)
    assert len(figures["workers"]) == 2
    assert {figures["killed"], figures["answered_by"]} == set(figures["workers"])
    assert figures["killed_while_holding"] == 0
    assert figures["recovery"] > 0
    assert not any(map(is_alive, figures["workers"]))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_no_worker_is_left_behind(number):
    with Server("demo", "--requests", "10000000", json_log=False) as demo:
        workers = until(lambda: len(found := children_of(demo.process.pid)) == 3 and found, "three workers")
        code = demo.stop(number)
        until(lambda: not any(map(is_alive, workers)), "the workers have ended")
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert not any("Traceback" in line for line in demo.lines)


@pytest.mark.parametrize("options", [[], ["--json"]])
@pytest.mark.parametrize(
    ("result", "said"),
    [
        (DemoResult(sent=2, answered=1, lost=1, killed=7, recovery=0.1, losses=["request 1: so it is"]), "so it is"),
        (DemoResult(sent=2, answered=2), "killed"),
    ],
    ids=["lost", "nobody killed"],
)
def test_a_demo_that_shows_it_otherwise_is_exit_code_1(monkeypatch, options, result, said):
    monkeypatch.setattr(demonstration, "demonstrate", lambda *_: result)
    ended = invoke("demo", *options)
    assert ended.returncode == 1
    assert said in ended.stdout.decode()


def test_one_worker_cannot_be_replaced():
    result = invoke("demo", "--workers", "1")
    assert result.returncode == 2
