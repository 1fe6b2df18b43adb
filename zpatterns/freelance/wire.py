"""Frames of the three Freelance models: 10/FLP, and models one and two of the Guide's chapter 4. Pure.

Frames are given as the peer's own socket sends them; a ROUTER sees the routing id before them.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from zpatterns.core import Frames

Model: TypeAlias = Literal["failover", "shotgun", "addressed"]

FAILOVER = "failover"
SHOTGUN = "shotgun"
ADDRESSED = "addressed"
MODELS = (FAILOVER, SHOTGUN, ADDRESSED)

EMPTY = b""

# 10/FLP, "Overall Operation": each is the only frame of its message.
PING = b"PING"
PONG = b"PONG"


def check_model(model: str) -> None:
    """Errors: ValueError for a model that is none."""
    if model not in MODELS:
        raise ValueError(f"model must be 'failover', 'shotgun' or 'addressed', not {model!r}")


def sequence(number: int) -> bytes:
    """A control frame or sequence number: decimal digits, so that it is never :data:`PING`."""
    return b"%d" % number


def addressed_request(control: bytes, body: Frames) -> Frames:
    """A request of 10/FLP: control frame, then the body."""
    return [control, *body]


def parse_addressed_reply(frames: Frames) -> tuple[bytes, Frames] | None:
    """Control frame and body of an answer; None for a PONG and all else that is none."""
    return (frames[0], frames[1:]) if len(frames) > 1 else None


def shotgun_request(number: bytes, body: Frames) -> Frames:
    """A request of the second model, as a DEALER sends it: the REP behind it sees sequence and body."""
    return [EMPTY, number, *body]


def parse_shotgun_reply(frames: Frames) -> tuple[bytes, Frames] | None:
    """Sequence and the one body frame of an answer, or None for what is none."""
    if len(frames) != 3 or frames[0]:
        return None
    return frames[1], frames[2:]


def rep_depth(model: str, frames: Frames) -> int:
    """How many frames of what a ROUTER has received are envelope, where clients expect a REP; 0 for no request.

    It ends with the first empty frame behind the routing id. Shotgun: and the sequence after it; then comes exactly one
    frame.
    """
    try:
        depth = frames.index(EMPTY, 1) + 1
    except ValueError:
        return 0
    if model == SHOTGUN:
        return depth + 1 if len(frames) == depth + 2 else 0
    return depth if len(frames) > depth else 0
