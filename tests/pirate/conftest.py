"""Fixtures of the tests of the Pirates' front ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pirate.front_ends import KINDS
from zpatterns.testing import BackgroundReactor


@pytest.fixture
def reactor() -> Iterator[BackgroundReactor]:
    with BackgroundReactor() as reactor:
        yield reactor


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)
