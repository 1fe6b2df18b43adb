"""Binary Star among real processes: the active one is killed, and stopped, under load."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator

import pytest

from tests.live.load import Callers, Load
from tests.live.pair import LivePair, live_pair
from tests.waiting import DEADLINE, until
from zpatterns.bstar import BinaryStarClient
from zpatterns.testing import ManagedProcess

CALLERS = 4


@contextlib.contextmanager
def asking(pair: LivePair, interval: float) -> Iterator[Callers]:
    """Callers that ask the pair without end, and have begun to be answered."""
    with (
        BinaryStarClient(pair.fronts, heartbeat_interval=interval, timeout=DEADLINE, retries=60) as client,
        Callers(*[client.request] * CALLERS, timeout=DEADLINE) as load,
    ):
        load.more(20)
        yield load


def kill_again_and_again(times: int, interval: float) -> list[float]:
    outages = []
    with live_pair("bstar", "server", interval=interval) as pair, asking(pair, interval) as load:
        for _ in range(times):
            active, passive = pair.settled()
            load.more(20)
            outages.append(load.outage_of(active.process.kill))
            active.process.restart()
            # One that a machine with other work did not let run for long gives way, as it should.
            assert pair.settled() == (passive, active) or passive.process.events("stood_still"), (
                "what was killed is back, and not passive"
            )
    return outages


def test_the_active_is_killed_and_comes_back_as_passive():
    (outage,) = kill_again_and_again(1, 0.25)
    assert outage < 10.0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_twenty_kills_with_heartbeats_of_a_tenth_of_a_second():
    outages = sorted(kill_again_and_again(20, 0.1))
    assert outages[-1] <= 3 * 0.1 * 2, outages


@pytest.mark.slow
def test_an_active_that_is_stopped_for_three_seconds_goes_on_as_passive():
    with live_pair("bstar", "server", interval=0.5) as pair, asking(pair, 0.5) as load:
        active, passive = pair.settled()
        epoch = active.status()["epoch"]
        active.process.pause()
        since = time.monotonic()
        load.more(20)
        until(lambda: time.monotonic() > since + 3.0, "three seconds have passed")
        active.process.resume()
        until(lambda: active.state == "passive", "it heard of the other")
        assert passive.state == "active"
        assert passive.status()["epoch"] > epoch
        load.more(20)
        assert pair.states.count("active") == 1
        [event] = active.process.events("stepped_down")
        assert event["reason"].startswith("stood still")


def failover_of_a_broker(rate: float) -> Load:
    load = Load(timeout=DEADLINE, rate_min=rate, recovery_max=20.0)
    interval = 0.5
    with live_pair("mdp", "broker", "--heartbeat-interval", str(interval), interval=interval, prefix="pair-") as pair:
        active, passive = pair.settled()
        connect = [argument for front in pair.fronts for argument in ("--connect", front)]
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                worker = ManagedProcess.command(
                    *("mdp", "worker", "answer", "--echo", "--heartbeat-interval", str(interval)),
                    *(*connect, "--log-format", "json"),
                )
                stack.enter_context(worker)

            async def run() -> None:
                async with load.running(pair.fronts):
                    await load.at_full_rate("at first")
                    active.process.kill()
                    await load.at_full_rate("after the kill")

            asyncio.run(run())
            assert passive.state == "active"
    return load


@pytest.mark.slow
def test_a_broker_pair_loses_its_active_at_three_hundred_requests_a_second():
    load = failover_of_a_broker(300.0)
    load.check()
