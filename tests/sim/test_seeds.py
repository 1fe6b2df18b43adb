"""Seeds that found something in the cores: they pass now, and would show it again.

Each names the mutant that takes the correction back. A seed is a story told by one version of the simulator: where that
changes, find a new one with ``python -m tests.sim.mutants NAME``. What was wrong is told, with literal frames, in
:mod:`tests.sim.test_found`; where a checker had complained of what is right, in :mod:`tests.sim.test_checkers`.
"""

from __future__ import annotations

import pytest

from tests.sim.mutants import run
from tests.sim.test_mutants import named
from zpatterns.testing.mdp import MajordomoWorld

FOUND = {
    "error-is-joined-to-held-parts": 14,
    "answered-request-is-kept": 14,
    "reply-that-overflowed-is-forgotten": 48,
}


@pytest.mark.parametrize("seed", sorted(set(FOUND.values())))
def test_it_is_well_now(seed):
    assert MajordomoWorld(seed).run() is None


@pytest.mark.parametrize("name", FOUND)
def test_the_seed_still_shows_it(name):
    [mutant] = named(name)
    seed = FOUND[name]
    caught, text = run(mutant, range(seed, seed + 1), timeout=50)
    assert caught, f"{text}; find another: python -m tests.sim.mutants {name}"
