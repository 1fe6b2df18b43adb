"""One conversation of 7/MDP in raw frames, as the RFC prints them, for the tests of its clauses."""

from __future__ import annotations

from tests.harness import WorkerHarness
from zpatterns.core import Run

# As the broker's ROUTER sees and sends them, the routing id in front.
READY = [b"worker", b"", b"MDPW01", b"\x01", b"echo"]
REQUEST = [b"client", b"", b"MDPC01", b"echo", b"hello"]
GIVEN = [b"worker", b"", b"MDPW01", b"\x02", b"client", b"", b"hello"]
REPLY = [b"worker", b"", b"MDPW01", b"\x03", b"client", b"", b"world"]
ANSWER = [b"client", b"", b"MDPC01", b"echo", b"world"]
HEARTBEAT = [b"worker", b"", b"MDPW01", b"\x04"]
DISCONNECT = [b"worker", b"", b"MDPW01", b"\x05"]

# The same as a worker's own socket sends and receives them.
W_READY = READY[1:]
W_REQUEST = GIVEN[1:]
W_HEARTBEAT = HEARTBEAT[1:]
W_DISCONNECT = DISCONNECT[1:]


def busy_worker() -> WorkerHarness:
    worker = WorkerHarness()
    worker.give(W_REQUEST)
    assert worker.asked(Run) == [Run(1, b"client", [b"hello"])]
    return worker
