"""Frames that several patterns share."""

from __future__ import annotations

import tracemalloc

import pytest

from zpatterns.wire import memory_of, req_body, req_message


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


@pytest.mark.parametrize("count", [1, 8, 100, 4096])
def test_what_waits_counts_for_no_less_than_its_memory(count):
    """Or a peer that sends many small frames has twenty times of what it may."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        frames = [number.to_bytes(2) for number in range(count)]
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert memory_of(frames) >= taken
