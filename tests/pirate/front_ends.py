"""The Pirate queues and workers that are tested over real sockets, and where they listen."""

from __future__ import annotations

from typing import Any

from zpatterns.pirate import ParanoidPirateQueue, ParanoidPirateWorker, SimplePirateQueue, SimplePirateWorker

FREE = "tcp://127.0.0.1:*"
KINDS: dict[str, Any] = {
    "simple": (SimplePirateQueue, SimplePirateWorker),
    "paranoid": (ParanoidPirateQueue, ParanoidPirateWorker),
}
