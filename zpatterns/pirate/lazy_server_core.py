"""A server for Lazy Pirate clients as a state machine (Guide chapter 4, "Client-Side Reliability"). Pure."""

from __future__ import annotations

from zpatterns.core import Frames
from zpatterns.pirate.wire import envelope_depth
from zpatterns.server_core import ServerCore


class LazyServerCore(ServerCore):
    """Answers as a REP does, envelopes of several hops included, but many clients at a time."""

    def _depth(self, frames: Frames, now: float) -> int:
        return envelope_depth(frames, 1)
