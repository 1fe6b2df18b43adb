"""The simulator is tested too: defects planted in the cores must not escape it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sim.mutant import Mutant
from tests.sim.mutants import MUTANTS, ROOT, SEEDS, run

QUICK = (
    "lost-workers-request-is-dropped",
    "one-delivery-too-many",
    "worker-that-was-used-last-goes-first",
    "mmi-knows-everything",
    "disconnect-counts-as-a-heartbeat",
    "cancelled-call-is-answered",
    "lazy-attempt-keeps-its-socket",
    "lazy-server-begins-what-is-past-its-time",
    "paranoid-heartbeat-makes-a-busy-worker-ready",
    "simple-unreachable-worker-takes-its-request-along",
)
"""One for each kind of checker, and each caught within its first few worlds."""


def source_of(mutant: Mutant) -> str:
    return Path(ROOT, *mutant.module.split(".")).with_suffix(".py").read_text()


def named(*names: str) -> list[Mutant]:
    found = [mutant for mutant in MUTANTS if mutant.name in names]
    assert len(found) == len(names)
    return found


def test_there_are_many_and_each_has_a_name():
    assert len(MUTANTS) >= 20
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_still_finds_its_place_and_is_still_a_program(mutant):
    source = source_of(mutant)
    changed = mutant.apply(source)
    assert changed != source
    compile(changed, mutant.module, "exec")


@pytest.mark.parametrize("mutant", named(*QUICK), ids=lambda mutant: mutant.name)
def test_it_is_caught_at_once(mutant):
    caught, text = run(mutant, range(40), timeout=50)
    assert caught, text


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_is_caught_in_time(mutant):
    caught, text = run(mutant, range(SEEDS), timeout=800)
    assert caught, text
