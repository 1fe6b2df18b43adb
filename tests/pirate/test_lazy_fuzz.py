"""Any frames, in any order, at any time: the cores of Lazy Pirate never raise, and keep their bounds."""

from __future__ import annotations

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.draws import Draws
from tests.harness import START
from tests.pirate.lazy_harness import LazyClient, LazyServer
from zpatterns.calls_state import CallOptions
from zpatterns.core import Cancel, Close, Command, Deliver, Fail, Frames, Open, Run, SendFailure
from zpatterns.errors import QueueFull
from zpatterns.pirate.lazy_client_core import LazyClientCore
from zpatterns.pirate.lazy_server_core import LazyServerCore
from zpatterns.server_core import ServerOptions

MESSAGES = 30_000
FRAMES = [b"", b"", b"x", b"\x00", b"\x01", b"\x02", b"\x00ZPATTERNS-ERROR\x00", b"429", b"503", b"\xff" * 9]

# No shrinking: that could outlast the time a test is given, and the steps are told anyhow.
same_each_time = settings(derandomize=True, deadline=None, database=None, max_examples=100, phases=[Phase.generate])
SEEDS = st.integers(0, 2**32)
PAUSES = [0.0, 0.5, 3.0]


def message(rng: Draws) -> Frames:
    return [rng.choice(FRAMES) for _ in range(rng.randrange(7))]


def test_server_core():
    rng = Draws("lazy server")
    options = ServerOptions(concurrency=3, queue_max=10, queue_bytes_max=8_000, request_ttl=5)
    core = LazyServerCore(options)
    now = START
    running: set[int] = set()
    requests = answers = 0
    for _ in range(MESSAGES // 3):
        batch = [[b"client%d" % rng.randrange(5), *message(rng)] for _ in range(rng.randrange(1, 6))]
        if rng.random() < 0.1:
            batch.append(message(rng))
        core.receive_many([list(frames) for frames in batch], now, "server")
        while True:
            for command in core.commands():
                if isinstance(command, Run):
                    assert len(running) < 3
                    assert len(command.frames) >= 1
                    running.add(command.run)
                    requests += 1
                else:
                    assert isinstance(command, Cancel)
            sent = core.messages_to_send("server")
            answers += len(sent)
            for frames in sent:
                assert b"" in frames[1:-1], "an answer has an envelope and a body"
                if rng.random() < 0.05:
                    core.send_failed("server", frames, rng.choice(list(SendFailure)), now)
            if not running or rng.random() < 0.4:
                break
            run = rng.choice(sorted(running))
            draw = rng.random()
            if draw < 0.1:
                core.handler_partial(run, [b"part"], now)
                continue
            running.discard(run)
            if draw < 0.3:
                core.handler_failed(run, "Boom", "text", now)
            else:
                core.handler_done(run, message(rng), now)
            if rng.random() < 0.1:
                core.handler_done(rng.randrange(10_000_000), [b"x"], now)
        now += rng.random() * rng.choice((0.01, 0.1, 3.0))
        timer = core.next_timer()
        if timer is not None and timer <= now:
            core.handle_timer(now)
            assert (core.next_timer() or now + 1) > now, "it spins"
        core.events()
        core.check_invariants()
    statistics = core.statistics()
    assert requests > 3000
    assert answers > 3000
    assert min(statistics.replies, statistics.errors, statistics.refused, statistics.expired) > 50
    core.shut_down(now)
    core.check_invariants()
    assert core.drained


def test_client_core():
    rng = Draws("lazy client")
    options = CallOptions(timeout=8, retries=3, max_in_flight=8, queue_max=20, idle_max=3)
    core = LazyClientCore(["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"], options, rng)
    now = START
    given = number = delivered = 0
    open_calls: dict[int, float] = {}
    ports: set[int] = set()
    asked: dict[int, Frames] = {}

    def note(command: Command) -> None:
        nonlocal delivered
        if isinstance(command, Open):
            assert isinstance(command.port, int)
            assert command.port not in ports
            ports.add(command.port)
        elif isinstance(command, Close):
            assert isinstance(command.port, int)
            ports.remove(command.port)
        elif isinstance(command, Fail | Deliver):
            deadline = open_calls.pop(command.call)
            assert now <= deadline + 1.5, "a call outlived its deadline and one turn"
            delivered += isinstance(command, Deliver)

    def collect() -> None:
        for command in core.commands():
            note(command)
        for port in list(core.ports_to_send()):
            assert isinstance(port, int)
            (frames,) = core.messages_to_send(port)
            assert port in ports, "sent to a connection that is not open"
            assert not frames[0]
            assert len(frames) > 1
            asked[port] = frames
            if rng.random() < 0.01:
                core.send_failed(port, frames, rng.choice(list(SendFailure)), now)

    while given < MESSAGES:
        if rng.random() < 0.6:
            number += 1
            try:
                core.start_call(number, [rng.choice(FRAMES) for _ in range(rng.randrange(1, 4))], now)
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
            batch = [message(rng) for _ in range(rng.randrange(1, 3))]
            given += len(batch)
            core.receive_many(batch, now, port)
            collect()
        now += rng.random() * rng.choice((0.01, 0.1, 1.5))
        core.handle_timer(now)
        collect()
        collect()
        core.events()
        core.check_invariants()
        assert len(ports) <= 8 * 3
    assert delivered > 500
    core.close(now)
    collect()
    core.check_invariants()
    assert not open_calls
    assert not ports


def any_frames(draws: Draws) -> Frames:
    return draws.frames(FRAMES, frames_max=7, bytes_max=4)


@same_each_time
@given(SEEDS)
def test_server_core_takes_any_shape(seed):
    draws = Draws(seed)
    server = LazyServer(concurrency=2, queue_max=2, request_ttl=2)
    for _ in draws.times(30):
        frames, pause = any_frames(draws), draws.choice(PAUSES)
        server.give([b"client", *frames])
        server.give(frames)
        server.advance(pause)
        for command in server.asked(Run):
            if pause:
                server.done(command.run, b"x")
    server.step(server.core.shut_down, server.now)
    server.advance(10)
    assert server.core.drained


@same_each_time
@given(SEEDS)
def test_client_core_takes_any_shape(seed):
    draws = Draws(seed)
    client = LazyClient(max_in_flight=2)
    calls = draws.times(30)
    for number in calls:
        client.step(client.core.start_call, number, [b"x"], client.now)
        client.give(any_frames(draws), port=draws.randrange(1, 7))
        client.advance(draws.choice(PAUSES))
    client.step(client.core.close, client.now)
    ended = [command.call for command in client.asked() if isinstance(command, Fail | Deliver)]
    assert sorted(ended) == list(calls), "each call ends exactly once"
