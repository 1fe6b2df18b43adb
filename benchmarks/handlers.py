"""The handlers of our workers while they are measured."""

from __future__ import annotations

from typing import Any


async def coroutine(request: Any) -> Any:
    """Echo on the worker's loop: no thread is involved."""
    return request.frames


def function(request: Any) -> Any:
    """Echo in a thread, as every plain function runs."""
    return request.frames
