"""One conversation of 18/MDP in raw frames, as the RFC prints them, for the tests of its clauses."""

from __future__ import annotations

from tests.harness import WorkerHarness
from zpatterns.core import Run

# As the broker's ROUTER sees and sends them, the routing id in front.
READY = [b"worker", b"MDPW02", b"\x01", b"echo"]
REQUEST = [b"client", b"MDPC02", b"\x01", b"echo", b"hello"]
GIVEN = [b"worker", b"MDPW02", b"\x02", b"client", b"", b"hello"]
PARTIAL = [b"worker", b"MDPW02", b"\x03", b"client", b"", b"part"]
FINAL = [b"worker", b"MDPW02", b"\x04", b"client", b"", b"world"]
PART = [b"client", b"MDPC02", b"\x02", b"echo", b"part"]
ANSWER = [b"client", b"MDPC02", b"\x03", b"echo", b"world"]
HEARTBEAT = [b"worker", b"MDPW02", b"\x05"]
DISCONNECT = [b"worker", b"MDPW02", b"\x06"]

# The same as a worker's own socket sends and receives them.
W_READY = READY[1:]
W_REQUEST = GIVEN[1:]
W_HEARTBEAT = HEARTBEAT[1:]
W_DISCONNECT = DISCONNECT[1:]


def busy_worker() -> WorkerHarness:
    """A worker that has just been given the request."""
    worker = WorkerHarness("0.2")
    worker.give(W_REQUEST)
    assert worker.asked(Run) == [Run(1, b"client", [b"hello"])]
    return worker
