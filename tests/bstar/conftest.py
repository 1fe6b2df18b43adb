from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.bstar.live import Other, Started
from zpatterns.testing import BackgroundReactor


@pytest.fixture
def reactor(peer) -> Iterator[BackgroundReactor]:
    # Behind the other half's sockets, so that it ends before them: to end without them it would wait for them.
    with BackgroundReactor() as reactor:
        yield reactor


@pytest.fixture
def other(peer) -> Other:
    return Other(peer)


@pytest.fixture
def start(reactor, peer, other) -> Callable[..., Started]:
    """Starts a node: ``start(on_active=...)``."""
    return lambda **options: Started(reactor, peer, **({"remote": other.remote} | options))
