"""200,000 random, truncated and mutated messages from a fixed seed: no exception, and the invariants kept.

What the cores send in answer is held against the RFCs' tables. The shapes are in test_fuzz_shapes.py, the same over
a real socket in test_fuzz_live.py.
"""

from __future__ import annotations

import pytest

from tests.harness import START, FixedRng, heartbeat, ready, request, work
from tests.mdp.mutate import Mutator
from zpatterns.core import Close, Command, Deliver, Fail, Frames, Open, Run, SendFailure
from zpatterns.errors import QueueFull
from zpatterns.mdp.broker_core import BrokerCore
from zpatterns.mdp.broker_state import BrokerOptions, OnWorkerLoss
from zpatterns.mdp.client_core import ClientCore, ClientOptions
from zpatterns.mdp.worker_core import WorkerCore
from zpatterns.timing import Liveness

SEED = 20_110_307
CHECK_EVERY = 5
"""Turns of the broker between two looks at the invariants, which cost more than those turns."""

BROKER_MESSAGES = 100_000
WORKER_MESSAGES = 50_000
CLIENT_MESSAGES = 50_000


def is_to_worker(frames: Frames) -> bool:
    """Whether `frames`, behind the routing id, are one of the broker's commands to a worker."""
    if frames[0] == b"":
        head, request, bare = frames[1] == b"MDPW01", b"\x02", (b"\x04", b"\x05")
        rest = frames[2:]
    else:
        head, request, bare = frames[0] == b"MDPW02", b"\x02", (b"\x05", b"\x06")
        rest = frames[1:]
    if not head:
        return False
    if len(rest) == 1:
        return rest[0] in bare
    return rest[0] == request and len(rest) >= 4 and rest[2] == b""


def is_to_client(frames: Frames) -> bool:
    """Whether `frames`, behind the routing id, are one of the broker's replies to a client."""
    if frames[0] == b"":
        return len(frames) >= 4 and frames[1] == b"MDPC01"
    return len(frames) >= 4 and frames[0] == b"MDPC02" and frames[1] in (b"\x02", b"\x03")


def is_of_worker(frames: Frames, version: str) -> bool:
    """Whether `frames` are one of a worker's commands."""
    rest = frames[2:] if version == "0.1" else frames[1:]
    if frames[: -len(rest)] != ([b"", b"MDPW01"] if version == "0.1" else [b"MDPW02"]):
        return False
    replies, beats = ((b"\x03",), (b"\x04", b"\x05")) if version == "0.1" else ((b"\x03", b"\x04"), (b"\x05", b"\x06"))
    if rest[0] == b"\x01":
        return rest[1:] == [b"echo"]
    if len(rest) == 1:
        return rest[0] in beats
    return rest[0] in replies and len(rest) >= 4 and rest[2] == b""


OPTIONS = [
    BrokerOptions(liveness=Liveness(1, 3), request_ttl=20, queue_max=50, services_max=20),
    BrokerOptions(liveness=Liveness(1, 2), request_ttl=3, queue_max=5, queue_bytes_max=20_000, deliveries_max=1),
    BrokerOptions(liveness=Liveness(2, 3), on_worker_loss=OnWorkerLoss.FAIL, held_bytes_max=300, services_max=4),
    BrokerOptions(),
]


@pytest.mark.parametrize("number", range(len(OPTIONS)))
def test_broker_core(number):
    """Half of the peers are hostile, the others know the protocol: so that what hostility could harm is there."""
    hostile = [b"peer-%d" % peer for peer in range(12)] + [b"", b"\x00\x01"]
    workers = [b"worker-%d" % worker for worker in range(8)]
    mutator = Mutator(SEED + number, [*hostile, *workers])
    rng = mutator.rng
    options = OPTIONS[number]
    core = BrokerCore(options)
    now = START
    given = turns = replies = partials = 0
    given_work: list[Frames] = []
    while given < BROKER_MESSAGES // len(OPTIONS):
        batch = [[rng.choice(hostile), *mutator.message()] for _ in range(rng.randrange(1, 12))]
        given += len(batch)
        batch += [right_reply(frames, mutator) for frames in given_work if rng.random() < 0.7]
        batch += [request(rng.choice(hostile), b"a", b"x", version=rng.choice(("0.1", "0.2"))) for _ in range(2)]
        for worker in workers:
            draw = rng.random()
            version = "0.1" if worker < b"worker-4" else "0.2"
            if draw < 0.1:
                batch.append(ready(worker, b"a", version))
            elif draw < 0.5:
                batch.append(heartbeat(worker, version=version))
            elif draw < 0.51:
                batch.append([worker, *mutator.message()])
        if rng.random() < 0.02:
            batch.append([])
        rng.shuffle(batch)
        core.receive_many(batch, now, "broker")
        sent = take(core)
        for frames in sent:
            if rng.random() < 0.02:
                core.send_failed("broker", frames, rng.choice(list(SendFailure)), now)
        sent += take(core)
        now += rng.random() * rng.choice((0.01, 0.1, 1.5))
        timer = core.next_timer()
        if timer is not None and timer <= now:
            core.handle_timer(now)
        sent += take(core)
        given_work = [frames for frames in sent if frames[0] in workers and len(frames) > 4]
        core.events()
        turns += 1
        if turns % CHECK_EVERY == 0:
            core.check_invariants()
            statistics = core.statistics()
            # A service has a worker, or requests wait for it; the latter are bounded but for those that lost theirs.
            assert statistics.services <= statistics.workers + min(
                statistics.queued, options.services_max + len(hostile) + len(workers)
            )
            assert statistics.workers <= len(hostile) + len(workers)
            assert statistics.in_flight <= statistics.workers
            # What was accepted once may come back, but never more than there are workers to lose it.
            assert statistics.queued <= statistics.services * options.queue_max + len(hostile) + len(workers)
        if turns % 500 == 0:
            replies += core.statistics().replies
            partials += core.statistics().partials
            if rng.random() < 0.5:
                core.drain(now)
                core.check_invariants()
            core.shut_down(now)
            take(core)
            core.check_invariants()
            assert core.statistics().workers == 0
            assert core.drained
            core = BrokerCore(options)
            given_work = []
    core.check_invariants()
    assert replies > 500, "the hostile leave nothing that works"
    assert partials > 200
    # At the end of all: silence, and nothing is left.
    for _ in range(1000):
        timer = core.next_timer()
        if timer is None:
            break
        core.handle_timer(max(now, timer))
    core.check_invariants()
    statistics = core.statistics()
    assert (statistics.workers, statistics.queued, statistics.in_flight, statistics.services) == (0, 0, 0, 0)


def right_reply(frames: Frames, mutator: Mutator) -> Frames:
    """What a worker answers to the REQUEST in `frames`; now and then a PARTIAL, or something damaged."""
    rng = mutator.rng
    if frames[1] == b"":
        result = [*frames[:3], b"\x03", frames[4], b"", *mutator.body()]
    else:
        result = [*frames[:2], rng.choice((b"\x03", b"\x04")), frames[3], b"", *mutator.body()]
    if rng.random() < 0.03:
        mutator.damage(result)
        result[:0] = [frames[0]] if not result or result[0] != frames[0] else []
    return result


def take(core: BrokerCore) -> list[Frames]:
    sent = core.messages_to_send("broker")
    for frames in sent:
        assert is_to_worker(frames[1:]) or is_to_client(frames[1:]), frames
    assert not core.ports_to_send()
    assert core.commands() == []
    return sent


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_worker_core(version):
    mutator = Mutator(SEED, [b"client-%d" % client for client in range(5)])
    rng = mutator.rng
    given = turns = runs = registrations = 0
    core, now = new_worker(version, START)
    is_open = True
    while given < WORKER_MESSAGES // 2:
        # A DISCONNECT that is whole ends the conversation, so there are not to be too many.
        batch = [mutator.message() for _ in range(rng.randrange(1, 6))]
        batch = [frames for frames in batch if frames[-1:] not in ([b"\x05"], [b"\x06"]) or rng.random() < 0.2]
        given += len(batch)
        if rng.random() < 0.7:
            batch.append(heartbeat(version=version))
        if rng.random() < 0.5:
            batch.insert(rng.randrange(len(batch) + 1), work(b"", b"client-1", *mutator.body(), version=version)[1:])
        core.receive_many(batch, now, "broker")
        commands = core.commands()
        if rng.random() < 0.4:
            run = core.statistics().requests - rng.choice((0, 0, 0, 1))
            how = rng.randrange(3)
            if how == 0:
                core.handler_partial(run, mutator.body(), now)
            elif how == 1:
                core.handler_done(run, mutator.body(), now)
            else:
                core.handler_failed(run, "Größe", "text\ud800", now)
        now += rng.random() * rng.choice((0.01, 0.1, 0.5, 0.5, 4.0))
        timer = core.next_timer()
        if timer is not None and timer <= now:
            core.handle_timer(now)
        commands += core.commands()
        for command in commands:
            if isinstance(command, Open):
                assert not is_open
                is_open = True
            elif isinstance(command, Close):
                is_open = False
            runs += isinstance(command, Run)
        for frames in core.messages_to_send("broker"):
            assert is_of_worker(frames, version), frames
            if rng.random() < 0.01:
                core.send_failed("broker", frames, SendFailure.UNREACHABLE, now)
        core.events()
        core.check_invariants()
        turns += 1
        if turns % 500 == 0:
            registrations += core.statistics().ready_sent
            core.drain(now)
            core.handler_done(core.statistics().requests, [b"end"], now)
            core.check_invariants()
            assert core.drained
            core, now = new_worker(version, now)
            is_open = True
    assert runs > 1000
    assert registrations > 300


def new_worker(version: str, now: float) -> tuple[WorkerCore, float]:
    core = WorkerCore(
        ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"],
        b"echo",
        version=version,
        liveness=Liveness(1, 3),
        rng=FixedRng(0.1),
        handler_timeout=2.0,
        held_bytes_max=500,
    )
    core.start(now)
    core.commands()
    return core, now


def test_client_core():
    mutator = Mutator(SEED, [b"x"])
    rng = mutator.rng
    options = ClientOptions(timeout=8, retries=3, max_in_flight=8, queue_max=20, held_bytes_max=300, idle_max=3)
    core = ClientCore(["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"], options, rng)
    now = START
    given = turns = number = delivered = 0
    open_calls: dict[int, float] = {}
    ports: set[int] = set()
    asked: dict[int, Frames] = {}

    def collect() -> None:
        nonlocal delivered
        for command in core.commands():
            note(command)
            delivered += isinstance(command, Deliver)
        for port in list(core.ports_to_send()):
            assert isinstance(port, int)
            (frames,) = core.messages_to_send(port)
            assert port in ports, "sent to a connection that is not open"
            asked[port] = frames
            if rng.random() < 0.01:
                core.send_failed(port, frames, rng.choice(list(SendFailure)), now)

    def note(command: Command) -> None:
        if isinstance(command, Open):
            assert isinstance(command.port, int)
            assert command.port not in ports
            ports.add(command.port)
        elif isinstance(command, Close):
            assert isinstance(command.port, int)
            ports.remove(command.port)
        elif isinstance(command, Fail) or (isinstance(command, Deliver) and command.last):
            deadline = open_calls.pop(command.call)
            assert now <= deadline + 1.5, "a call outlived its deadline and one turn"

    while given < CLIENT_MESSAGES:
        if rng.random() < 0.5:
            number += 1
            try:
                version = rng.choice(("0.1", "0.2"))
                core.start_call(
                    number,
                    b"echo",
                    mutator.body(),
                    now,
                    version=version,
                    is_stream=version == "0.2" and number % 2 == 0,
                )
                open_calls[number] = now + 8
            except QueueFull:
                pass
        if open_calls and rng.random() < 0.05:
            call = rng.choice(list(open_calls))
            core.cancel_call(call, now)
            open_calls.pop(call)
        collect()
        for _ in range(rng.randrange(1, 4)):
            port = rng.choice(sorted(ports)) if ports and rng.random() < 0.95 else rng.randrange(10_000)
            frames = asked.get(port, [])
            if frames and rng.random() < 0.4:
                batch = [answer_to(frames, mutator)]
                if rng.random() < 0.3:
                    mutator.damage(batch[0])
            else:
                batch = [mutator.message() for _ in range(rng.randrange(1, 4))]
            given += len(batch)
            core.receive_many(batch, now, port)
            collect()
        if open_calls and rng.random() < 0.3:
            core.part_taken(rng.choice(list(open_calls)), now)
        now += rng.random() * rng.choice((0.01, 0.1, 1.5))
        core.handle_timer(now)
        collect()
        collect()
        core.events()
        turns += 1
        core.check_invariants()
        assert len(ports) <= 8 * 4 + 8
    assert delivered > 1000
    core.close(now)
    collect()
    core.check_invariants()
    assert not open_calls
    assert not ports


def answer_to(frames: Frames, mutator: Mutator) -> Frames:
    """A right reply to a request."""
    if frames[0] == b"":
        return [b"", b"MDPC01", frames[2], *mutator.body()]
    return [b"MDPC02", mutator.rng.choice((b"\x02", b"\x03")), frames[2], *mutator.body()]
