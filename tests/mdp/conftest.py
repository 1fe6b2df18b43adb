"""Fixtures of the tests of Majordomo's front ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.mdp.callers import Async, Blocking, Caller, Services
from tests.waiting import DEADLINE, until
from zpatterns.testing import BackgroundBroker, BackgroundReactor


@pytest.fixture(scope="module")
def shared() -> Iterator[Services]:
    with BackgroundBroker() as broker, BackgroundReactor() as reactor:
        yield Services(reactor, broker)


@pytest.fixture
def services(shared: Services) -> Iterator[Services]:
    shared.release.clear()
    shared.begun.clear()
    yield shared
    shared.release.set()
    until(lambda: not shared.broker.statistics().in_flight, "nothing is left of the test")


@pytest.fixture(params=[Blocking, Async], ids=["Client", "AsyncClient"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Caller]]:
    """Makes clients: ``make(endpoint, retries=0)``."""
    with ExitStack() as stack:

        def caller(endpoints: Any, **options: Any) -> Caller:
            made: Caller = request.param(endpoints, **({"timeout": DEADLINE} | options))
            stack.callback(made.close)
            return made

        yield caller
