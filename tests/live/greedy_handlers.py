"""Handlers that keep the processor, or the loop, for longer than a lease; imported by worker processes only."""

from __future__ import annotations

from tests.waiting import busy
from zpatterns.handlers import Request


def compute(request: Request) -> list[bytes]:
    """A plain function that computes for as many seconds as it is told, in Python, without a pause."""
    busy(float(request.body))
    return [b"computed"]


async def block(request: Request) -> list[bytes]:
    """A coroutine that does the same, and so stops the loop it runs on."""
    busy(float(request.body))
    return [b"blocked"]
