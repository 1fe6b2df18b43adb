"""The state frame of a Binary Star pair (Guide chapter 4, "Binary Star Reactor"). Pure.

Each of the two publishes one frame: its state as one ASCII digit, which the Guide's peers read with ``atoi``; behind a
space, which ends the number for them, the fields that only we have: ``3 epoch=7 interval=1 liveness=2``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from zpatterns.core import Frames
from zpatterns.paired_core import Copy, Told

PRIMARY_WAITING = 1
BACKUP_WAITING = 2
ACTIVE = 3
PASSIVE = 4

FRAME_MAX = 1024
"""Bytes of a state frame that are read."""

EPOCH_MAX = 2**62

# On the control port, a ROUTER: what is asked, and how it is answered. JSON follows a 200.
STATUS = b"status"
PROMOTE = b"promote"
OK = b"200"
ACCEPTED = b"202"
UNKNOWN = b"400"
REFUSED = b"409"


class PeerState(NamedTuple):
    """What a state frame tells: the digit, and our own fields where they are there and make sense."""

    state: int
    epoch: int | None = None
    interval: float | None = None
    liveness: int | None = None
    told: Told = Told()


def build(state: int, epoch: int, interval: float, liveness: int, told: Told | None = None) -> Frames:
    """The one frame of a state message; `interval` in seconds. `told`: what a Clone server adds to it."""
    frame = b"%d epoch=%d interval=%s liveness=%d" % (state, epoch, f"{interval:.9g}".encode(), liveness)
    if told is not None and told.port is not None:
        frame += b" port=%d copy=%d:%d life=%b" % (told.port, *told.copy, told.life)
    return [frame]


def parse(frames: Frames) -> PeerState | None:
    """What a state message says, or None where it is none. Unknown fields, and those without sense, are passed over."""
    if len(frames) != 1 or len(frames[0]) > FRAME_MAX:
        return None
    digit, _, rest = frames[0].partition(b" ")
    if digit not in (b"1", b"2", b"3", b"4"):
        return None
    found: dict[bytes, bytes] = {}
    for field in rest.split():
        name, _, value = field.partition(b"=")
        found.setdefault(name, value)
    interval = _seconds(found.get(b"interval"))
    return PeerState(int(digit), _number(found.get(b"epoch")), interval, _number(found.get(b"liveness")), _told(found))


def _told(found: dict[bytes, bytes]) -> Told:
    port = _number(found.get(b"port"))
    if port is None or not 0 < port < 65534:
        return Told()  # there are two more ports above it
    epoch, _, sequence = found.get(b"copy", b"").partition(b":")
    return Told(port, Copy(_number(epoch) or 0, _number(sequence) or 0), found.get(b"life", b""))


def _number(value: bytes | None) -> int | None:
    if value is None or not value.isdigit() or len(value) > 19:
        return None
    number = int(value)
    return number if number <= EPOCH_MAX else None


def _seconds(value: bytes | None) -> float | None:
    try:
        seconds = float(value) if value is not None else 0.0
    except ValueError:
        return None
    return seconds if seconds > 0 and math.isfinite(seconds) else None
