"""The state frame: the Guide's digit, which its peers read with atoi, and our fields behind a space."""

from __future__ import annotations

import pytest

from zpatterns.bstar import wire
from zpatterns.bstar.wire import PeerState


def atoi(text: bytes) -> int:
    """C's: the number at the beginning, 0 if there is none."""
    number = b""
    for at in range(len(text)):
        if not text[at : at + 1].isdigit():
            break
        number += text[at : at + 1]
    return int(number or b"0")


@pytest.mark.parametrize("state", [1, 2, 3, 4])
def test_a_frame_of_ours_is_one_and_its_digit_is_what_atoi_reads(state):
    frames = wire.build(state, 7, 1.0, 2)
    assert frames == [b"%d epoch=7 interval=1 liveness=2" % state]
    assert atoi(frames[0]) == state


def test_what_we_build_we_understand():
    assert wire.parse(wire.build(3, 12345678901, 0.25, 3)) == PeerState(3, 12345678901, 0.25, 3)


@pytest.mark.parametrize("digit", [b"1", b"2", b"3", b"4"])
def test_a_frame_of_the_guides_is_the_digit_alone(digit):
    assert wire.parse([digit]) == PeerState(int(digit), None, None, None)


@pytest.mark.parametrize(
    "frames",
    [[], [b""], [b"0"], [b"5"], [b"33"], [b"-3"], [b" 3"], [b"3epoch=7"], [b"three"], [b"3", b"epoch=7"], [b"3\x00"]],
)
def test_what_is_no_state_is_none(frames):
    assert wire.parse(frames) is None


def test_a_frame_beyond_every_measure_is_none():
    assert wire.parse([b"3 " + b"x" * 1023]) is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (b"epoch=7 pork=5556 unknown", PeerState(3, 7, None, None)),
        (b"epoch=7 epoch=9", PeerState(3, 7, None, None)),
        (b"epoch=-1 interval=-1 liveness=-2", PeerState(3)),
        (b"epoch= interval= liveness=", PeerState(3)),
        (b"epoch=1e3 interval=nan liveness=2.5", PeerState(3)),
        (b"epoch=99999999999999999999 interval=inf", PeerState(3)),
        (b"epoch=\xb2 interval=0 liveness=\xff", PeerState(3)),
        (b"  epoch=1   interval=1e-1 ", PeerState(3, 1, 0.1, None)),
    ],
)
def test_fields_without_sense_are_passed_over(fields, expected):
    assert wire.parse([b"3 " + fields]) == expected
