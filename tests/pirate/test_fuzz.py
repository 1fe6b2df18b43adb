"""Random, truncated and mutated frames at the Pirate cores: nothing raises, and every invariant holds after each."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.draws import Draws
from tests.harness import FixedRng
from zpatterns.core import Cancel, Frames, Run, SendFailure
from zpatterns.pirate.paranoid_queue_core import ParanoidQueueCore
from zpatterns.pirate.queue_core import QueueCore
from zpatterns.pirate.queue_state import QueueOptions
from zpatterns.pirate.simple_queue_core import SimpleQueueCore
from zpatterns.pirate.wire import PARANOID, SIMPLE
from zpatterns.pirate.worker_core import WorkerCore
from zpatterns.timing import Liveness

MESSAGES = 12_500
"""For each of the four cores and two seeds: a hundred thousand in all."""

PIECES = (b"", b"\x01", b"\x02", b"\x01\x01", b"c0", b"c1", b"w0", b"w1", b"body", b"\xff" * 300)


def frames_of(rng: Draws, kind: str, is_front: bool, real: list[Frames]) -> Frames:
    """One message: garbage, well-formed, or one that was seen before and changed."""
    peer = b"%s%d" % (b"c" if is_front else b"w", rng.randrange(6))
    head = [b""] if kind == "simple" and not is_front else []
    way = rng.randrange(8)
    if way == 0:
        return [rng.choice(PIECES) for _ in range(rng.randrange(7))]
    if way == 1 and real:
        frames = list(rng.choice(real))
        for _ in range(rng.randrange(3)):
            at = rng.randrange(len(frames) + 1)
            if rng.random() < 0.5:
                frames.insert(at, rng.choice(PIECES))
            elif at < len(frames):
                del frames[at]
        return frames
    if is_front:
        return [peer, *[b"hop"] * rng.randrange(2), b"", *rng.choices(PIECES, k=1 + rng.randrange(3))]
    if way < 4:
        return [peer, *head, b"\x01"]
    if way == 4:
        return [peer, *head, b"\x02"]
    if real:
        worker, *rest = rng.choice(real[-8:])
        return [worker, *rest]  # its own request, sent back: an echo
    return [peer, *head, b"c0", b"", b"reply"]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", ["simple", "paranoid"])
def test_a_queue_survives_anything(kind, seed):
    rng = Draws(seed)
    options = QueueOptions(
        liveness=Liveness(1.0, 3), queue_max=5, queue_bytes_max=5000, request_ttl=4.0, worker_timeout=2.0, workers_max=8
    )
    core: QueueCore = ParanoidQueueCore(options) if kind == "paranoid" else SimpleQueueCore(options)
    now, real = 1000.0, [[b"w0", b"\x01"]]
    answered = 0
    for _ in range(MESSAGES):
        now += rng.choice((0.0, 0.0, 0.01, 0.2, 2.0 if rng.random() < 0.05 else 0.0))
        is_front = rng.random() < 0.4
        batch = [frames_of(rng, kind, is_front, real) for _ in range(rng.randrange(1, 3))]
        core.receive_many(batch, now, "front" if is_front else "back")
        core.check_invariants()
        if rng.random() < 0.3:
            core.handle_timer(now)
            core.check_invariants()
        for port in tuple(core.ports_to_send()):
            for frames in core.messages_to_send(port):
                assert all(type(frame) is bytes for frame in frames)
                assert len(frames) >= (2 if port == "back" else 3)
                if port == "back":
                    real = [*real[-20:], frames]
                else:
                    answered += 1
                if rng.random() < 0.1:
                    core.send_failed(port, frames, rng.choice(list(SendFailure)), now)
                    core.check_invariants()
        core.events()
    statistics = core.statistics()
    assert answered > 500, "it answered those who made sense"
    assert statistics.requests >= statistics.replies > 100
    assert statistics.queued <= 5 + 8 and statistics.workers <= 8 + 6
    assert statistics.dropped["invalid"] > 100


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", ["simple", "paranoid"])
def test_a_worker_survives_anything(kind, seed):
    rng = Draws(seed)
    dialect = PARANOID if kind == "paranoid" else SIMPLE
    core = WorkerCore(
        ["tcp://127.0.0.1:1"], dialect=dialect, liveness=Liveness(1.0, 3), rng=FixedRng(), handler_timeout=5.0
    )
    core.start(1000.0)
    now = 1000.0
    running: list[int] = []
    replies = 0
    for _ in range(MESSAGES):
        now += rng.choice((0.0, 0.01, 0.2, 4.0 if rng.random() < 0.02 else 0.0))
        frames = [rng.choice(PIECES) for _ in range(rng.randrange(6))]
        core.receive_many([list(dialect.head) * (rng.random() < 0.9) + frames], now, "queue")
        core.check_invariants()
        if rng.random() < 0.3:
            core.handle_timer(now)
            core.check_invariants()
        for command in core.commands():
            if isinstance(command, Run):
                assert not running, "one request at a time"
                running.append(command.run)
                assert command.frames
            assert not isinstance(command, Cancel) or command.run in running
        if running and rng.random() < 0.5:
            run = running.pop()
            if rng.random() < 0.8:
                core.handler_done(run, [b"reply"], now)
            else:
                core.handler_failed(run, "Error", "text", now)
            core.check_invariants()
        for frames in core.messages_to_send("queue"):
            assert tuple(frames[: len(dialect.head)]) == dialect.head
            replies += len(frames) > len(dialect.head) + 1
            if rng.random() < 0.02:
                core.send_failed("queue", frames, SendFailure.UNREACHABLE, now)
                core.check_invariants()
        core.events()
    assert replies > 500
    core.shut_down(now)
    assert core.drained


def test_time_never_runs_backwards_in_what_a_queue_wants():
    """Whatever happened, the timer it asks for is met by calling it: no spinning."""
    rng = Draws(3)
    core = ParanoidQueueCore(QueueOptions(liveness=Liveness(1.0, 3), worker_timeout=1.3, request_ttl=2.0))
    now, timers = 1000.0, []
    for _ in range(3000):
        if rng.random() < 0.3:
            is_front = rng.random() < 0.4
            port = "front" if is_front else "back"
            core.receive_many([frames_of(rng, "paranoid", is_front, [])], now, port)
        timer = core.next_timer()
        if timer is not None:
            now = max(now, timer)
            core.handle_timer(now)
            timers.append(now)
        core.messages_to_send("back")
        core.messages_to_send("front")
    assert sum(later == earlier for earlier, later in pairwise(timers)) < len(timers) * 0.7
    assert timers[-1] > 1100.0
