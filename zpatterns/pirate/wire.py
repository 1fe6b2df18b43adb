"""Frames of Simple and Paranoid Pirate (6/PPP; Guide chapter 4). Pure.

Frames are given as the peer's own socket sends them; a ROUTER sees the routing id before them.

A request or reply is an envelope and a body. The envelope is the address stack that the ROUTERs on the way have built,
and the empty frame that ends it: ``[client, ""]`` for a REQ client, more where there are more hops. The body is at
least one frame.
"""

from __future__ import annotations

from dataclasses import dataclass

from zpatterns.core import Frames

EMPTY = b""
READY = b"\x01"
HEARTBEAT = b"\x02"


@dataclass(frozen=True, slots=True)
class Dialect:
    """What tells the two patterns apart on the wire of a worker: the `head` before everything, and heartbeats."""

    head: tuple[bytes, ...]
    has_heartbeats: bool


SIMPLE = Dialect((EMPTY,), False)
"""A worker is a REQ, or a DEALER that sends as one does."""

PARANOID = Dialect((), True)
"""A worker is a DEALER."""


def envelope_depth(frames: Frames, start: int = 0) -> int:
    """Where the body begins: behind the first empty frame from `start` on. 0 if there is no such frame, or no body."""
    try:
        depth = frames.index(EMPTY, start) + 1
    except ValueError:
        return 0
    return depth if depth < len(frames) else 0


def envelope(frames: Frames) -> Frames:
    """The envelope of a request as a ROUTER sees it, which has one."""
    return frames[: frames.index(EMPTY, 1) + 1]


def shares_envelope(frames: Frames, start: int, request: Frames) -> bool:
    """Whether `frames` has the envelope of `request` from `start` on, and a body behind it."""
    expected = envelope(request)
    stop = start + len(expected)
    return len(frames) > stop and frames[start:stop] == expected
