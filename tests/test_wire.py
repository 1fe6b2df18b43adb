"""Frames that several patterns share."""

from __future__ import annotations

import tracemalloc

import pytest

from zpatterns.mdp.broker_state import request_size as broker_request_size
from zpatterns.pirate.queue_state import request_size as queue_request_size
from zpatterns.server_core import _Request
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


@pytest.mark.parametrize(
    "counted",
    [broker_request_size, queue_request_size, lambda frames: _Request(frames, 2, 0.0).size],
    ids=["broker", "queue", "server"],
)
@pytest.mark.parametrize("count", [1, 8, 100, 4096])
def test_what_waits_counts_for_no_less_than_its_memory(counted, count):
    """Or a peer that sends many small frames has twenty times of what it may."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        frames = [number.to_bytes(2) for number in range(count)]
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert counted(frames) >= taken
