"""Hostile frames from a seed, on every port, in every state: nothing raises, and the node stays sound."""

from __future__ import annotations

import pytest

from tests.bstar.star_harness import Pair, broker_pair, paranoid_queue_pair, server_pair, simple_queue_pair
from tests.draws import Draws
from tests.mdp.mutate import Mutator
from zpatterns.bstar import wire
from zpatterns.bstar.bstar_state import Grant
from zpatterns.core import Errand, SendFailure

PIECES = [b"1", b"2", b"3", b"4", b"0", b"5", b" ", b"=", b"epoch=", b"interval=", b"liveness=", b"\x00", b"\xff"]
PIECES += [b"99999999999999999999", b"-1", b"nan", b"inf", b"1e9", b"0.1", b"4611686018427387904", b"port=5556"]
STEPS = 4000


def state_frame(rng: Draws) -> list[bytes]:
    frames = [b"".join(rng.choice(PIECES) for _ in range(rng.randrange(8))) for _ in range(rng.choice((1, 1, 1, 0, 2)))]
    if rng.random() < 0.5:
        frames = wire.build(rng.randrange(1, 5), rng.randrange(20), rng.choice((1.0, 0.1)), 2)
    if rng.random() < 0.2 and frames:
        at = rng.randrange(len(frames[0]) + 1)
        frames[0] = frames[0][:at] + rng.randbytes(rng.randrange(3)) + frames[0][at + rng.randrange(3) :]
    return frames


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("role", ["primary", "backup"])
def test_no_sequence_of_frames_times_and_outcomes_unsettles_a_node(seed, role):
    rng = Draws(f"{seed}{role}")
    make = (broker_pair, server_pair, simple_queue_pair, paranoid_queue_pair)[seed % 4]
    pair: Pair = make(role, has_hooks=seed % 3 == 0, has_fence=seed % 3 == 1)
    mutator = Mutator(seed, [b"a", b"b", b"c"])
    star = pair.core.star
    errands: list[Errand] = []
    epochs = [0]
    for _ in range(STEPS):
        draw = rng.random()
        if draw < 0.3:
            pair.give(*(state_frame(rng) for _ in range(rng.randrange(1, 4))), port="peer")
        elif draw < 0.6:
            messages = [[mutator.rng.choice((b"a", b"b")), *mutator.message()] for _ in range(rng.randrange(1, 6))]
            pair.give(*messages, port=mutator.rng.choice(pair.hosted.PORTS))
        elif draw < 0.65:
            pair.give(
                *(rng.choice(([b"o", b"status"], [b"o", b"", b"promote"], [], [b"o"])) for _ in range(2)),
                port="control",
            )
        elif draw < 0.7:
            pair.stall(rng.choice((0.5, 1.5, 10.0)))
        elif draw < 0.75:
            pair.fail([b"a", b"", b"x"], rng.choice(list(SendFailure)), port="control")
        elif draw < 0.8 and errands:
            errand = errands.pop(rng.choice((0, -1)))  # an answer may come late
            outcome = rng.choice((None, 0.5, 20.0))
            if errand.what == "on-active":
                pair.step(star.activated, errand.number, outcome is not None, pair.now)
            elif errand.what == "acquire":
                grant = None if outcome is None else Grant(outcome, errand.number + rng.choice((0, 0, 3)))
                pair.step(star.lease_acquired, errand.number, grant, pair.now)
            elif errand.what == "renew":
                pair.step(star.lease_renewed, errand.number, outcome, pair.now)
        elif draw < 0.83:
            pair.step(star.step_down, pair.now, "fuzz")
        else:
            pair.advance(rng.choice((0.01, 0.3, 1.0, 3.0)))
        errands += pair.asked(Errand)
        epochs.append(star.epoch)
        pair.sent()
        pair.events()
    assert epochs == sorted(epochs), "an epoch never falls"
    statistics = pair.statistics
    assert statistics.activations >= 2
    assert statistics.step_downs >= 1


@pytest.mark.parametrize("seed", range(4))
def test_no_bytes_make_the_parser_raise_or_say_nonsense(seed):
    rng = Draws(seed)
    for _ in range(25_000):
        peer = wire.parse(state_frame(rng))
        if peer is not None:
            assert peer.state in (1, 2, 3, 4)
            assert peer.epoch is None or 0 <= peer.epoch <= 2**62
            assert peer.interval is None or 0 < peer.interval < float("inf")
