"""The fence for tests: what a real one must do, one holder at a time and epochs that rise."""

from __future__ import annotations

import asyncio

import pytest

from zpatterns.bstar import Grant
from zpatterns.testing import FakeClock
from zpatterns.testing.fence import FakeFence


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def fence(clock) -> FakeFence:
    return FakeFence(10.0, clock.now)


def test_nobody_holds_it_at_first(fence):
    assert fence.holder is None


def test_one_holds_it_and_the_other_gets_it_when_it_has_run_out(fence, clock):
    assert fence.acquire("a", 1) == Grant(10.0, 1)
    assert fence.acquire("b", 2) is None
    clock.advance(9.9)
    assert (fence.holder, fence.acquire("b", 2)) == ("a", None)
    clock.advance(0.1)
    assert fence.holder is None
    assert fence.acquire("b", 2) == Grant(10.0, 2)


def test_an_epoch_is_higher_than_all_before_whatever_was_asked_for(fence):
    assert fence.acquire("a", 7) == Grant(10.0, 7)
    assert fence.acquire("a", 7) == Grant(10.0, 8)
    fence.release("a", 8)
    assert fence.acquire("b", 1) == Grant(10.0, 9)


def test_it_is_renewed_while_it_lasts_and_under_its_own_epoch(fence, clock):
    fence.acquire("a", 1)
    clock.advance(6.0)
    assert fence.renew("a", 1) == 10.0
    clock.advance(6.0)
    assert fence.holder == "a"
    assert fence.renew("a", 2) is None
    assert fence.renew("b", 1) is None
    clock.advance(4.0)
    assert fence.renew("a", 1) is None


def test_it_is_given_back_by_its_holder_under_its_own_epoch(fence):
    fence.acquire("a", 1)
    fence.release("b", 1)
    fence.release("a", 2)
    assert fence.holder == "a"
    fence.release("a", 1)
    assert fence.holder is None


def test_each_node_has_its_own_way_and_none_when_it_is_out_of_reach(fence):
    async def run() -> None:
        a, b = fence.of("a"), fence.of("b")
        assert await a.acquire(1) == Grant(10.0, 1)
        assert await b.acquire(2) is None
        assert await a.renew(1) == 10.0
        fence.reachable = False
        for call in (a.acquire(3), a.renew(1), a.release(1)):
            with pytest.raises(ConnectionError):
                await call
        assert fence.holder == "a"
        fence.reachable = True
        await a.release(1)
        assert fence.holder is None

    asyncio.run(run())
