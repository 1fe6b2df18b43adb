"""Handlers of the worker processes that the live tests start; imported by them, never by the tests."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from zpatterns.handlers import Request

HELD = "held"
"""The file, in the worker's directory, that says which process holds the request that is not to be answered."""


def answer(request: Request) -> list[bytes]:
    """This process's id and the body; the first that is asked to ``hold`` writes its id to a file and hangs."""
    if request.frames[0] == b"hold":
        mine = Path(f"{HELD}.{os.getpid()}")
        mine.write_text(str(os.getpid()))
        try:
            os.link(mine, HELD)  # fails if it exists, and is never seen half-written
        except FileExistsError:
            pass
        else:
            threading.Event().wait(300)
    return [b"%d" % os.getpid(), *request.frames]


async def count(request: Request):
    """A stream of so many numbers."""
    for number in range(int(request.body)):
        yield b"%d" % number
