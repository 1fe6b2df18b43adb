"""Seeds that found something in the cores: they pass now, and would show it again.

Each names the mutant that takes the correction back. A seed is a story told by one version of the simulator: where that
changes, find a new one with ``python -m tests.sim.mutants NAME``. What was wrong is told, with literal frames, in
:mod:`tests.sim.test_found`.
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

DOUBTED = {
    24755: "a worker's lease ended at the very moment of a check, but for a rounding",
    39302: "callers who had given up left so much work behind that the last calls had to wait for too long",
}
"""Seeds in which a checker complained though the cores were right."""


@pytest.mark.parametrize("seed", [*sorted(set(FOUND.values())), *DOUBTED])
def test_it_is_well_now(seed):
    assert MajordomoWorld(seed).run() is None


@pytest.mark.parametrize("name", FOUND)
def test_the_seed_still_shows_it(name):
    [mutant] = named(name)
    seed = FOUND[name]
    caught, text = run(mutant, range(seed, seed + 1), timeout=50)
    assert caught, f"{text}; find another: python -m tests.sim.mutants {name}"
