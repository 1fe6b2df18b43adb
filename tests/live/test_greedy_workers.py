"""Workers, as processes of their own, whose handlers take more than their share of the processor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.mdp.callers import in_thread
from tests.waiting import DEADLINE, until
from zpatterns.errors import RemoteError
from zpatterns.mdp import Client
from zpatterns.testing import BackgroundBroker, ManagedProcess

ROOT = str(Path(__file__).parents[2])
INTERVAL, LIVENESS = 0.25, 4
LEASE = INTERVAL * LIVENESS


@pytest.fixture
def broker() -> Iterator[BackgroundBroker]:
    with BackgroundBroker(heartbeat_interval=INTERVAL, liveness=LIVENESS, deliveries_max=1) as broker:
        yield broker


@pytest.fixture
def client(broker: BackgroundBroker) -> Iterator[Client]:
    with Client(broker.endpoint, timeout=2 * DEADLINE, retries=0) as client:
        yield client


@pytest.fixture
def start(broker: BackgroundBroker) -> Iterator[Any]:
    """Starts a worker process of one of the handlers, named like its service."""
    with ExitStack() as stack:

        def worker(handler: str) -> ManagedProcess:
            return stack.enter_context(
                ManagedProcess.command(
                    *("mdp", "worker", handler, "--handler", f"tests.live.greedy_handlers:{handler}"),
                    *("--connect", broker.endpoint, "--log-format", "json"),
                    *("--heartbeat-interval", str(INTERVAL), "--liveness", str(LIVENESS)),
                    ready="ready_sent",
                    cwd=ROOT,
                )
            )

        yield worker


def test_one_that_computes_for_several_leases_keeps_its_registration(broker, client, start):
    worker = start("compute")
    until(lambda: broker.statistics().workers == 1, "it is registered")
    call: Future[list[bytes]] = in_thread(lambda: client.request("compute", str(2.5 * LEASE)))
    until(lambda: broker.statistics().in_flight == 1, "it computes")
    heard = broker.statistics().heartbeats
    assert call.result(2 * DEADLINE) == [b"computed"]
    statistics = broker.statistics()
    # One request, given to one worker, once; and heartbeats went both ways.
    assert (statistics.workers, statistics.workers_lost, statistics.requeued) == (1, 0, 0)
    assert statistics.heartbeats > heard
    assert len(worker.events("ready_sent")) == 1
    assert not worker.events("broker_lost")


def test_one_that_blocks_its_loop_is_told_of_and_comes_back(broker, client, start):
    worker = start("block")
    until(lambda: broker.statistics().workers == 1, "it is registered")
    call: Future[list[bytes]] = in_thread(lambda: client.request("block", str(2 * LEASE)))
    stall = worker.wait_for("loop_stalled")
    assert stall["seconds"] > INTERVAL
    assert stall["level"] == "warning"
    # The broker gave it up, as it should: from there, nobody can tell it from a dead one.
    with pytest.raises(RemoteError, match="its worker was lost"):
        call.result(2 * DEADLINE)
    until(lambda: broker.statistics().workers == 1, "it is back")
    assert client.request("block", "0") == [b"blocked"]
    code, listed = client.request("mmi.services", b"")
    assert code == b"200"
    assert [entry["workers"] for entry in json.loads(listed)] == [1]
