"""Two nodes in one process: every service that can be one half of a pair, and the fence between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.waiting import DEADLINE, until
from zpatterns.bstar import BinaryStar, BinaryStarClient
from zpatterns.mdp import Broker, Client, Worker
from zpatterns.pirate import (
    LazyPirateClient,
    LazyPirateServer,
    ParanoidPirateQueue,
    ParanoidPirateWorker,
    SimplePirateQueue,
    SimplePirateWorker,
)
from zpatterns.testing import BackgroundReactor, ReservedPort
from zpatterns.testing.fence import FakeFence

FREE = "tcp://127.0.0.1:*"
TIMES: dict[str, Any] = {"heartbeat_interval": 0.1, "liveness": 5}
BEATS: dict[str, Any] = {"heartbeat_interval": 0.2, "liveness": 3}
CALLS: dict[str, Any] = {"timeout": DEADLINE, "retries": 30, "attempt_timeout": 0.5}


class Pair:
    """A primary and a backup, and what their two services are."""

    def __init__(self, reactor: BackgroundReactor, states: list[str]) -> None:
        self.reactor = reactor
        self._states = states
        self.nodes: list[BinaryStar] = []

    def start(self, make: Callable[[], Any] = lambda: LazyPirateServer(FREE), **options: Any) -> Pair:
        for number in range(2):
            own = {name: value[number] for name, value in options.items()}
            node = BinaryStar(
                make(),
                primary=not number,
                local=self._states[number],
                remote=self._states[1 - number],
                **TIMES,
                **own,
            )
            self.nodes.append(self.reactor.start(node))
        return self

    @property
    def endpoints(self) -> list[str]:
        return [node.endpoint for node in self.nodes]

    @property
    def backends(self) -> list[str]:
        return [node.service.backend for node in self.nodes]

    @property
    def states(self) -> list[str]:
        return [node.statistics().state for node in self.nodes]

    def settled(self) -> tuple[BinaryStar, BinaryStar]:
        """The active and the passive one, once there are both."""
        until(lambda: sorted(self.states) == ["active", "passive"], "one is active, and one passive")
        first, second = self.nodes
        return (first, second) if self.states[0] == "active" else (second, first)

    def client(self) -> BinaryStarClient:
        return BinaryStarClient(self.endpoints, timeout=DEADLINE, retries=30, **TIMES)

    def lose_the_active(self) -> BinaryStar:
        """End it without a word; the other one."""
        active, passive = self.settled()
        self.reactor.call(active._drivers[0].close)
        return passive


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ReservedPort() as one, ReservedPort() as two, BackgroundReactor() as reactor:
        yield Pair(reactor, [one.endpoint, two.endpoint])


def handlers(pair: Pair) -> BinaryStarClient:
    pair.start()
    return pair.client()


class _Echo(Client):
    def request(self, *frames: Any, **options: Any) -> list[bytes]:
        return super().request("echo", *frames, **options)


def brokers(pair: Pair) -> _Echo:
    pair.start(lambda: Broker(FREE, **BEATS))
    pair.reactor.start(Worker(pair.endpoints, service="echo", **BEATS))
    return _Echo(pair.endpoints, **CALLS)


def paranoid_queues(pair: Pair) -> LazyPirateClient:
    pair.start(lambda: ParanoidPirateQueue(FREE, FREE, **BEATS))
    pair.reactor.start(ParanoidPirateWorker(pair.backends, **BEATS))
    return LazyPirateClient(pair.endpoints, **CALLS)


def simple_queues(pair: Pair) -> LazyPirateClient:
    pair.start(lambda: SimplePirateQueue(FREE, FREE))
    for backend in pair.backends:
        pair.reactor.start(SimplePirateWorker(backend))
    return LazyPirateClient(pair.endpoints, **CALLS)


@pytest.mark.parametrize("start", [handlers, brokers, paranoid_queues, simple_queues])
def test_calls_are_answered_before_and_after_the_active_is_lost(pair, start):
    with start(pair) as client:
        assert client.request(b"before") == [b"before"]
        survivor = pair.lose_the_active()
        assert client.request(b"after") == [b"after"]
        until(lambda: survivor.statistics().state == "active", "the survivor serves")
        assert survivor.statistics().epoch >= 2


def test_promoted_by_hand_the_other_gives_way(pair):
    pair.start()
    active, passive = pair.settled()
    with pair.client() as client:
        client.request(b"one")
        pair.reactor.call(passive.promote)
        assert pair.settled() == (passive, active)
        assert client.request(b"two") == [b"two"]


# With a fence.


def test_with_a_fence_the_holder_serves_and_renews_and_the_other_takes_over_when_it_is_lost(pair):
    fence = FakeFence(1.0)
    pair.start(fence=[fence.of("primary"), fence.of("backup")])
    active, _ = pair.settled()
    assert fence.holder == ("primary" if active is pair.nodes[0] else "backup")
    with pair.client() as client:
        assert client.request(b"before") == [b"before"]
        survivor = pair.lose_the_active()
        assert client.request(b"after") == [b"after"]
        assert fence.holder == ("primary" if survivor is pair.nodes[0] else "backup")


def test_a_node_that_steps_down_gives_the_lease_back_and_the_other_need_not_wait_for_its_end(pair):
    fence = FakeFence(3600.0)
    pair.start(fence=[fence.of("primary"), fence.of("backup")])
    active, passive = pair.settled()
    pair.reactor.call(active.step_down)
    until(lambda: passive.statistics().serving, "the other has the lease")


def test_while_the_fence_is_out_of_reach_nobody_serves_and_then_one_does(pair, caplog):
    fence = FakeFence(3600.0)
    fence.reachable = False
    pair.start(fence=[fence.of("primary"), fence.of("backup")])
    with pair.client() as client:
        until(lambda: any("fence_raised" in record.message for record in caplog.records), "it was asked in vain")
        assert "active" not in pair.states
        fence.reachable = True
        assert client.request(b"now") == [b"now"]
