"""``zpatterns mdp bench``."""

from __future__ import annotations

import json
import math

import pytest

from tests.cli.processes import Server, failing_after, invoke, is_alive, output, zpatterns
from tests.waiting import until
from zpatterns.cli.bench import percentile
from zpatterns.mdp import AsyncClient


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.9, 90), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_percentiles_are_nearest_ranks(share, value):
    assert percentile(range(1, 101), share) == value


def test_percentiles_of_little():
    assert percentile([7], 0.5) == 7
    assert math.isnan(percentile([], 0.5))


def test_bench_brings_its_own_worker_and_counts_every_request(endpoint):
    result = zpatterns(
        "mdp", "bench", "--connect", endpoint, "--count", "500", "--clients", "2", "--in-flight", "8", "--json"
    )
    figures = json.loads(output(result))
    assert (figures["count"], figures["failed"], figures["size"]) == (500, 0, 64)
    assert figures["requests_per_second"] == pytest.approx(500 / figures["elapsed"])
    assert 0 < figures["latency_p50"] <= figures["latency_p90"] <= figures["latency_p99"] <= figures["latency_max"]
    assert result.stderr == b""  # no progress bar but on a terminal


def test_bench_measures_a_service_that_is_there(endpoint, echo):
    printed = output(invoke("mdp", "bench", "--connect", endpoint, "--count", "50", "--service", "echo"))
    assert b"50 of 64 bytes, 0 failed" in printed
    assert b"requests/s" in printed
    assert b"p99" in printed


def test_requests_that_fail_are_counted_and_exit_code_1(endpoint, echo, monkeypatch):
    monkeypatch.setattr(AsyncClient, "request", failing_after(1 + 4 + 6, AsyncClient.request))
    # Whether it is there is asked before, and there is a round of four.
    options = ("--count", "10", "--clients", "1", "--in-flight", "4")
    result = invoke("mdp", "bench", "--connect", endpoint, "--service", "echo", *options)
    assert result.returncode == 1
    assert b"10 of 64 bytes, 4 failed" in result.stdout
    assert b"4 of 10 requests failed; the first: " in result.stderr
    assert b"not my day" in result.stderr


def test_a_service_that_is_not_there_is_exit_code_3(endpoint):
    result = invoke("mdp", "bench", "--connect", endpoint, "--service", "nobody")
    assert result.returncode == 3


def test_no_broker_is_exit_code_4(free_port):
    result = invoke("mdp", "bench", "--connect", f"tcp://127.0.0.1:{free_port}", "--timeout", "0.5")
    assert result.returncode == 4
    assert result.stdout == b""


def test_killed_or_not_bench_leaves_no_worker_behind(endpoint):
    with Server("mdp", "bench", "--connect", endpoint, "--count", "10000000", json_log=False) as bench:
        pid = until(lambda: children_of(bench.process.pid), "the worker of bench")[0]
        bench.process.kill()
        until(lambda: not is_alive(pid), "the worker of a killed bench ends")


def children_of(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        return []
