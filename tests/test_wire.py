"""Frames that several patterns share."""

from __future__ import annotations

import pytest

from zpatterns.wire import req_body, req_message


def test_a_request_as_a_req_sends_it():
    assert req_message([b"a", b"b"]) == [b"", b"a", b"b"]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([b"", b"a"], [b"a"]),
        ([b"", b"", b"a"], [b"", b"a"]),
        ([b""], None),
        ([b"a"], None),
        ([b"a", b"", b"b"], None),
        ([], None),
    ],
)
def test_a_reply_as_a_req_receives_it(frames, expected):
    assert req_body(frames) == expected
