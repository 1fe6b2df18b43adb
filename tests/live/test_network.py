"""A network that fails under load, on either side of the broker: no wrong reply, no call without an outcome."""

from __future__ import annotations

import asyncio

import pytest

from tests.live.load import Load
from zpatterns.mdp import Worker
from zpatterns.testing import BackgroundBroker, BackgroundReactor, TcpProxy

INTERVAL = 0.1
LEASE = 3 * INTERVAL


async def through_every_fault(load: Load, proxy: TcpProxy, endpoint: str) -> None:
    """Each fault while the load runs, longer than a lease, and then time to get over it."""

    def refuse() -> None:
        proxy.refuse()
        proxy.cut()

    faults = {
        "cut": proxy.cut,
        "half open, near end lost": lambda: proxy.half_open("client"),
        "half open, broker's end lost": lambda: proxy.half_open("target"),
        "nothing to the broker": lambda: proxy.stall("to_target"),
        "nothing from the broker": lambda: proxy.stall("to_client"),
        "nothing at all": proxy.stall,
        "refused": refuse,
        "slow": lambda: proxy.delay(0.05),
        "narrow": lambda: proxy.throttle(3000),
    }
    async with load.running(endpoint, tasks=16, threads=2, attempt_timeout=0.5, pause=0.04):
        await load.at_full_rate("at the start")
        for name, begin in faults.items():
            begin()
            await asyncio.sleep(1.5 * LEASE)  # how long it lasts
            proxy.heal()
            await load.at_full_rate(name, 0.25)


@pytest.mark.parametrize("side", ["clients", "workers"])
def test_every_call_has_its_own_reply_through_a_network_that_fails_on_the_side_of_the(side):
    load = Load(timeout=10.0, rate_min=25.0, recovery_max=15.0)
    with (
        BackgroundBroker(heartbeat_interval=INTERVAL) as broker,
        BackgroundReactor() as reactor,
        TcpProxy(broker.endpoint) as proxy,
    ):
        near, far = proxy.endpoint, broker.endpoint
        for protocol in ("0.1", "0.2"):
            reactor.start(
                Worker(
                    near if side == "workers" else far,
                    service="answer",
                    protocol=protocol,
                    concurrency=2,
                    heartbeat_interval=INTERVAL,
                )
            )
        asyncio.run(through_every_fault(load, proxy, near if side == "clients" else far))
        assert proxy.statistics().accepted > 10, "connections were lost, and made anew"
    load.check("RequestTimeout", "502")
