"""Our own management services beside 8/MMI's: ``mmi.services``, ``mmi.workers``, ``mmi.statistics``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.harness import START, BrokerHarness, heartbeat, request


def ask(broker: BrokerHarness, name: bytes) -> Any:
    code, text = broker.mmi(name, b"")
    assert code == b"200"
    return json.loads(text)


@pytest.fixture
def broker() -> BrokerHarness:
    """Two workers of ``echo``, one of them busy, one of ``größe``, and a request that waits for ``absent``."""
    broker = BrokerHarness()
    broker.ready(b"\x00w1")
    broker.ready(b"w2", version="0.2")
    broker.ready(b"w3", "größe".encode())
    broker.give(request(b"c1"), request(b"c2", b"absent"))
    return broker


def test_services_lists_each_with_what_it_has(broker):
    assert ask(broker, b"mmi.services") == [
        {"service": "absent", "workers": 0, "idle": 0, "queued": 1},
        {"service": "echo", "workers": 2, "idle": 1, "queued": 0},
        {"service": "größe", "workers": 1, "idle": 1, "queued": 0},
    ], "by name"


def test_services_counts_the_idle_without_those_that_left():
    broker = BrokerHarness()
    for number in range(5):
        broker.ready(b"w%d" % number)
    broker.advance(2)
    broker.give(heartbeat(b"w4"))
    broker.advance(1)
    assert ask(broker, b"mmi.services") == [{"service": "echo", "workers": 1, "idle": 1, "queued": 0}]


def test_workers_lists_each_with_its_lease(broker):
    broker.until(START + 0.5)
    workers = {one.pop("worker"): one for one in ask(broker, b"mmi.workers")}
    assert workers == {
        "007731": {"service": "echo", "protocol": "0.1", "busy": True, "expires_in": 2.5},
        "7732": {"service": "echo", "protocol": "0.2", "busy": False, "expires_in": 2.5},
        "7733": {"service": "größe", "protocol": "0.1", "busy": False, "expires_in": 2.5},
    }


def test_a_lease_that_has_run_out_is_never_below_nothing():
    broker = BrokerHarness()
    broker.ready(b"w")
    broker.now += 10
    assert ask(broker, b"mmi.workers")[0]["expires_in"] == 0


def test_statistics_are_the_brokers_own(broker):
    told = ask(broker, b"mmi.statistics")
    statistics = broker.statistics
    assert {name: told[name] for name in ("requests", "workers", "services", "queued", "in_flight")} == {
        "requests": 3,
        "workers": 3,
        "services": 3,
        "queued": 1,
        "in_flight": 1,
    }
    assert statistics.requests == 3
    assert set(told) == set(statistics.__dataclass_fields__)


def test_an_empty_broker_has_empty_lists():
    broker = BrokerHarness()
    assert ask(broker, b"mmi.services") == []
    assert ask(broker, b"mmi.workers") == []
    assert ask(broker, b"mmi.statistics")["dropped"] == {}


@pytest.mark.parametrize("name", [b"mmi.services", b"mmi.workers", b"mmi.statistics", b"mmi.service", b"mmi.nothing"])
def test_asking_leaves_nothing_behind(name):
    broker = BrokerHarness()
    for _ in range(10):
        broker.mmi(name, b"x")
    assert (broker.statistics.services, broker.statistics.queued) == (0, 0)
    assert broker.core.next_timer() is None
