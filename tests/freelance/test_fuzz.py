"""200,000 random, truncated and mutated messages from a fixed seed: no exception, and the invariants kept.

What the cores send in answer is held against 10/FLP and the Guide's models; and no call is answered but by its own
reply.
"""

from __future__ import annotations

import pytest

from tests.draws import WordMutator
from tests.freelance.harness import CORES, ERROR, A, B, C
from tests.harness import START, FixedRng
from zpatterns.core import Close, Deliver, Fail, Frames, Open, Run, SendFailure
from zpatterns.errors import QueueFull
from zpatterns.freelance.server_core import FreelanceServerCore
from zpatterns.freelance.servers_core import ClientOptions
from zpatterns.server_core import ServerOptions
from zpatterns.timing import Liveness

SEED = 20_110_410
MODELS = ["addressed", "shotgun", "failover"]
SERVER_MESSAGES = 30_000
CLIENT_MESSAGES = 37_000
CHECK_EVERY = 5

WORDS = [b"PING", b"PONG", b"", b"1", b"2", b"7", b"00", b"-1", b"\x00", b"\xff\xfe", ERROR, b"429", b"503", b"x" * 300]
NOISE_MAX = 5


@pytest.mark.parametrize("model", MODELS)
def test_server_core(model):
    mutator = WordMutator(SEED, WORDS, NOISE_MAX)
    rng = mutator.rng
    core = FreelanceServerCore(model, ServerOptions(concurrency=2, queue_max=5, queue_bytes_max=20_000, request_ttl=3))
    running: list[int] = []
    now, given, pongs, replies = START, 0, 0, 0
    right = {"addressed": [b"7", b"body"], "shotgun": [b"", b"7", b"body"], "failover": [b"", b"body"]}[model]
    for turn in range(SERVER_MESSAGES):
        if given >= SERVER_MESSAGES:
            break
        batch = []
        for _ in range(rng.randrange(1, 8)):
            frames = rng.choice((right, [b"PING"], mutator.noise(), mutator.damaged(right), mutator.noise()))
            batch.append([b"peer-%d" % rng.randrange(5), *frames] if rng.random() < 0.98 else [])
        given += len(batch)
        core.receive_many(batch, now, "server")
        if running and rng.random() < 0.7:
            run = running.pop(rng.randrange(len(running)))
            if rng.random() < 0.2:
                core.handler_failed(run, "Boom", "text", now)
            else:
                core.handler_done(run, [b"reply"] * rng.randrange(3), now)
        if rng.random() < 0.05:
            core.handler_done(rng.randrange(10_000, 20_000), [b"nobody's"], now)
        for command in core.commands():
            assert isinstance(command, Run)
            assert command.frames, "a body without a frame"
            running.append(command.run)
        for frames in core.messages_to_send("server"):
            assert frames[0].startswith(b"peer-")
            if frames[1:] == [b"PONG"]:
                assert model == "addressed"
                pongs += 1
            elif model == "addressed":
                assert len(frames) >= 3
                replies += 1
            else:
                rest = frames[frames.index(b"", 1) + 1 :]
                assert len(rest) == 2 if model == "shotgun" else len(rest) >= 1
                replies += 1
            if rng.random() < 0.05:
                core.send_failed("server", frames, rng.choice(list(SendFailure)), now)
        now += rng.random() * rng.choice((0.01, 0.5))
        core.handle_timer(now)
        core.events()
        if turn % CHECK_EVERY == 0:
            core.check_invariants()
    assert replies > 1000
    assert (pongs > 1000) == (model == "addressed")
    statistics = core.statistics()
    assert statistics.refused > 100
    assert statistics.errors > 100
    assert statistics.dropped["invalid"] > 1000


@pytest.mark.parametrize("model", MODELS)
def test_client_core(model):
    """Each reply that is right names its call; whatever else comes, a call gets that one or none."""
    mutator = WordMutator(SEED + 1, WORDS, NOISE_MAX)
    rng = mutator.rng
    options = ClientOptions(
        timeout=3.0, retries=2, max_in_flight=6, queue_max=4, liveness=Liveness(0.5, 2), round_robin=rng.random() < 0.5
    )
    core = CORES[model]((A, B, C), options, FixedRng())
    core.start(START)
    ports: set[object] = set()
    open_calls: set[int] = set()
    asked: dict[object, list[Frames]] = {}
    now, given, calls, answered, ended = START, 0, 0, 0, 0
    turn = 0

    def settle() -> None:
        """Carry out what the core asks for."""
        nonlocal answered, ended
        for _ in range(20):
            commands, sends = core.commands(), []
            for port in tuple(core.ports_to_send()):
                sends += [(port, frames) for frames in core.messages_to_send(port)]
            for command in commands:
                if isinstance(command, Open):
                    ports.add(command.port)
                    asked[command.port] = []
                elif isinstance(command, Close):
                    ports.discard(command.port)
                elif isinstance(command, Deliver):
                    assert command.call in open_calls
                    open_calls.discard(command.call)
                    answered += 1
                    if command.frames[0].startswith(b"a:"):
                        assert command.frames[0] == b"a:%d" % command.call, "another call's reply"
                elif isinstance(command, Fail):
                    assert command.call in open_calls
                    open_calls.discard(command.call)
                    ended += 1
            if not commands and not sends:
                break
            for port, frames in sends:
                assert port in ports, "a message for a socket that is closed"
                if rng.random() < 0.03:
                    core.send_failed(port, frames, rng.choice(list(SendFailure)), now)
                else:
                    asked[port].append(frames)

    while given < CLIENT_MESSAGES:
        turn += 1
        if rng.random() < 0.4:
            calls += 1
            body = [b"q:%d" % calls, *([] if model == "shotgun" else [b"more"] * rng.randrange(2))]
            try:
                core.start_call(calls, body, now, timeout=rng.choice((None, 0.3)))
                open_calls.add(calls)
            except QueueFull:
                pass
        if open_calls and rng.random() < 0.05:
            number = rng.choice(sorted(open_calls))
            open_calls.discard(number)
            core.cancel_call(number, now)
        if rng.random() < 0.02:
            endpoint = rng.choice((A, B, C))
            if endpoint not in core.endpoints:
                core.add_server(endpoint, now)
            elif len(core.endpoints) > 1:
                core.remove_server(endpoint, now)
        settle()
        batches = []
        for port in rng.sample(sorted(ports, key=str), min(len(ports), 2)):
            batch = []
            for _ in range(rng.randrange(4)):
                draw = rng.random()
                if draw < 0.4 and asked[port]:
                    frames = asked[port].pop(0)
                    batch.append(right_reply(model, frames))
                elif draw < 0.6:
                    head = [b"server"] if model == "addressed" else []
                    batch.append([*head, *noise_of(model, mutator)])
                elif draw < 0.7:
                    batch.append([b"server", b"PONG"])
                else:
                    # A made up number might be a real one's; and where there are none, this would be an answer.
                    frames = [word for word in mutator.noise() if not word.isdigit()]
                    batch.append(frames if model != "failover" or frames[:1] != [b""] else [b"x", *frames])
            given += len(batch) + 1
            batches.append((port, [frames for frames in batch if frames or model != "addressed"]))
        for port, batch in batches:
            core.receive_many(batch, now, port)
        now += rng.random() * rng.choice((0.01, 0.1, 0.1, 0.6))
        timer = core.next_timer()
        if timer is not None and timer <= now:
            core.handle_timer(now)
        settle()
        core.events()
        if turn % CHECK_EVERY == 0:
            core.check_invariants()
    assert answered > 300
    assert ended > 100


def right_reply(model: str, frames: Frames) -> Frames:
    """What a server answers to what was sent."""
    if frames == [b"server", b"PING"]:
        return [b"server", b"PONG"]
    at = {"addressed": 2, "shotgun": 2, "failover": 1}[model]
    return [*frames[:at], b"a:" + frames[at].removeprefix(b"q:")]


def noise_of(model: str, mutator: WordMutator) -> Frames:
    """Something that is nearly an answer, but to nothing that was asked."""
    kind = mutator.rng.randrange(4)
    if model == "failover":
        # There are no numbers: any message behind an empty frame would be one's answer.
        return mutator.rng.choice(([b""], [b"x", b"", b"y"], [b"y"], [b"7"]))
    number = mutator.rng.choice((b"PING", b"PONG", b"-1", b"01", b"999999", b""))
    frames = [number, b"a:0"] if model == "addressed" else [b"", number, b"a:0"]
    return frames if kind else mutator.damaged(frames)
