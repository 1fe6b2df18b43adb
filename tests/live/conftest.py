from __future__ import annotations

import pytest


@pytest.fixture(scope="module", autouse=True)
def programs(warm: None) -> None:
    """All that these tests start is forked."""
