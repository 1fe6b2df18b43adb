"""Whole Majordomo clusters under faults: a thousand seeds each time the tests run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.worlds import FIRST, OTHERS, run_worlds
from zpatterns.testing.mdp import MajordomoWorld

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seeds", [FIRST, *OTHERS], ids=str)
def test_every_promise_is_kept(seeds):
    run_worlds(MajordomoWorld, seeds)


def test_a_seed_tells_the_same_story_whatever_the_hashes():
    def trace(hash_seed: str) -> bytes:
        return subprocess.run(
            [sys.executable, "-m", "zpatterns.testing.simulate", "--pattern", "mdp", "--seed", "7", "--trace"],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            timeout=50,
            check=True,
        ).stdout

    story = trace("1")
    assert story.count(b"\n") > 100
    assert trace("2") == story
