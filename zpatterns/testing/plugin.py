"""The pytest plugin: fixtures for tests of what is built on zpatterns, and a guard that finds what a test left behind.

pytest loads it by itself where zpatterns is installed. Nothing of ZeroMQ is imported before a fixture is used.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from zpatterns.testing.background import BackgroundBroker, BackgroundReactor
    from zpatterns.testing.clock import FakeClock
    from zpatterns.testing.guard import Guard
    from zpatterns.testing.proxy import TcpProxy

_GUARD: pytest.StashKey[Guard | None] = pytest.StashKey()
"""In the config: that of the test that runs now."""

_FAILED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("zpatterns")
    group.addoption(
        "--zp-guard",
        action="store_true",
        help="Fail every test that leaves a socket, thread or child process behind, not only those with a zp_ fixture.",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "zp_broker(**options): what the broker of the fixture zp_broker is given, such as queue_max=10"
    )


# Fixtures.


@pytest.fixture
def zp_broker(request: pytest.FixtureRequest) -> Iterator[BackgroundBroker]:
    """A Majordomo broker in this process, on a free port; ``@pytest.mark.zp_broker(...)`` gives it options."""
    from zpatterns.testing.background import BackgroundBroker

    marker = request.node.get_closest_marker("zp_broker")
    with BackgroundBroker(**({} if marker is None else marker.kwargs)) as broker:
        yield broker


@pytest.fixture
def zp_reactor(request: pytest.FixtureRequest) -> Iterator[BackgroundReactor]:
    """A reactor in a thread of its own: ``zp_reactor.start(service)`` serves beside the test until it ends."""
    from zpatterns.testing.background import BackgroundReactor

    if "zp_broker" in request.fixturenames:
        # Whatever the order of the test's arguments: workers say goodbye to a broker that is still there.
        request.getfixturevalue("zp_broker")
    with BackgroundReactor() as reactor:
        yield reactor


@pytest.fixture
def zp_faults(zp_broker: BackgroundBroker) -> Iterator[TcpProxy]:
    """A proxy in front of ``zp_broker``: connect to its endpoint, and let the network between fail."""
    from zpatterns.testing.proxy import TcpProxy

    with TcpProxy(zp_broker.endpoint) as proxy:
        yield proxy


@pytest.fixture
def zp_clock() -> FakeClock:
    """A clock that stands still until it is told to go on."""
    from zpatterns.testing.clock import FakeClock

    return FakeClock()


# The guard: its round begins before the test's first fixture is made, and ends after the last one is gone.


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    guard = None
    names: list[str] = getattr(item, "fixturenames", [])
    if item.config.getoption("--zp-guard") or any(name.startswith("zp_") for name in names):
        from zpatterns.testing.guard import Guard

        guard = Guard()
    item.config.stash[_GUARD] = guard
    item.stash[_FAILED] = False
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    value = yield
    guard = request.config.stash.get(_GUARD, None)
    if guard is not None and fixturedef.scope != "function":
        # It is meant to outlive the test.
        guard.allow()
    return value


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    guard = item.config.stash.get(_GUARD, None)
    item.config.stash[_GUARD] = None
    # What failed has a cause already, and its traceback holds on to whatever the test had.
    if guard is not None and not item.stash.get(_FAILED, False) and (text := guard.report("the test")):
        pytest.fail(text, pytrace=False)
    return result
