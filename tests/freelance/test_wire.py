"""The frames of the three models, literally."""

from __future__ import annotations

import pytest

from zpatterns.freelance import wire


def test_the_words_of_10_flp():
    assert (wire.PING, wire.PONG) == (b"PING", b"PONG")
    assert wire.MODELS == ("failover", "shotgun", "addressed")


@pytest.mark.parametrize("number", [0, 1, 9, 10, 2**32, 2**70])
def test_a_number_is_ascii_decimal_and_never_ping(number):
    assert wire.sequence(number) == str(number).encode()
    assert wire.sequence(number) != b"PING"


def test_requests():
    assert wire.addressed_request(b"7", [b"a", b"b"]) == [b"7", b"a", b"b"]
    assert wire.shotgun_request(b"7", [b"a"]) == [b"", b"7", b"a"]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([b"7", b"a"], (b"7", [b"a"])),
        ([b"7", b""], (b"7", [b""])),
        ([b"", b"a", b"b"], (b"", [b"a", b"b"])),
        ([b"PONG"], None),
        ([b"7"], None),
        ([b""], None),
        ([], None),
    ],
)
def test_an_addressed_reply(frames, expected):
    assert wire.parse_addressed_reply(frames) == expected


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([b"", b"7", b"a"], (b"7", [b"a"])),
        ([b"", b"", b""], (b"", [b""])),
        ([b"", b"7"], None),
        ([b"", b"7", b"a", b"b"], None),
        ([b"7", b"a"], None),
        ([b"x", b"7", b"a"], None),
        ([], None),
    ],
)
def test_a_shotgun_reply_has_exactly_one_frame(frames, expected):
    assert wire.parse_shotgun_reply(frames) == expected


@pytest.mark.parametrize(
    ("model", "frames", "depth"),
    [
        ("failover", [b"id", b"", b"a"], 2),
        ("failover", [b"id", b"", b"a", b"", b"b"], 2),
        ("failover", [b"id", b"hop", b"hop", b"", b"a"], 4),
        ("failover", [b"id", b""], 0),
        ("failover", [b"id", b"a"], 0),
        ("failover", [b"", b"a"], 0),
        ("failover", [b"id"], 0),
        ("failover", [], 0),
        ("shotgun", [b"id", b"", b"7", b"a"], 3),
        ("shotgun", [b"id", b"hop", b"", b"7", b"a"], 4),
        ("shotgun", [b"id", b"", b"7"], 0),
        ("shotgun", [b"id", b"", b"7", b"a", b"b"], 0),
        ("shotgun", [b"id", b"7", b"a"], 0),
        ("shotgun", [b"id"], 0),
    ],
)
def test_the_envelope_of_a_request_to_a_rep(model, frames, depth):
    assert wire.rep_depth(model, frames) == depth


def test_a_model_that_is_none():
    for model in wire.MODELS:
        wire.check_model(model)
    with pytest.raises(ValueError, match="'failover', 'shotgun' or 'addressed', not 'round robin'"):
        wire.check_model("round robin")
