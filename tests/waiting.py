"""Waiting for a condition, with a deadline: the only way in which a test waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Literal, TypeVar

T = TypeVar("T")

DEADLINE = 20.0
"""Seconds after which a condition is given up: far more than a loaded machine needs."""

_PAUSE, _PAUSE_MAX = 0.001, 0.02
"""Seconds from one asking to the next, at first and in the long run."""


def until(condition: Callable[[], T | Literal[False]], what: str, deadline: float = DEADLINE) -> T:
    """The first true value of `condition`, asked again and again from this thread."""
    end = time.monotonic() + deadline
    pause = _PAUSE
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {deadline:g} s")
        time.sleep(pause)
        pause = min(1.5 * pause, _PAUSE_MAX)
    return value


async def eventually(condition: Callable[[], T | Literal[False]], what: str, deadline: float = DEADLINE) -> T:
    """:func:`until` on a running event loop."""
    end = time.monotonic() + deadline
    pause = _PAUSE
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {deadline:g} s")
        await asyncio.sleep(pause)
        pause = min(1.5 * pause, _PAUSE_MAX)
    return value


def busy(seconds: float) -> None:
    """Keep this thread, and as far as Python allows the GIL, for so long: a handler that computes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
