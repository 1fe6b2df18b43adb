"""The handlers of ``zpatterns demo`` and ``zpatterns mdp bench``, imported in their worker processes only."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from zpatterns.cli.children import HELD_FILE, HOLD, shared_directory, tie_to_parent

_HOLD_SECONDS = 60.0


def demo(request: Any) -> list[bytes]:
    """Answer with this process's id and the body."""
    kind, body = request.frames
    if kind == HOLD and _first():
        # Long enough to be killed in.
        time.sleep(_HOLD_SECONDS)
    return [b"%d" % os.getpid(), body]


async def echo(request: Any) -> Any:
    """Answer with the same frames. A coroutine, so that no time is spent on changing threads."""
    return request.frames


def _first() -> bool:
    """Whether this process is the first to be given the marked request; the file says which that was."""
    held: Path = shared_directory() / HELD_FILE
    mine = held.with_suffix(f".{os.getpid()}")
    mine.write_text(str(os.getpid()))
    try:
        os.link(mine, held)  # fails if it exists, and is never seen half-written
    except FileExistsError:
        return False
    return True


tie_to_parent()
