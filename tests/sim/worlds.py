"""Runs worlds of one kind, and adds up what was counted in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

from zpatterns.testing import World

W = TypeVar("W", bound=World)

FIRST = range(100)
"""The seeds in whose worlds everything must have happened that they are made for."""
OTHERS = [range(first, first + 100) for first in range(100, 1000, 100)]
"""Those that make it a thousand."""


def run_worlds(kind: type[W], seeds: range, also: Callable[[W], Iterable[str]] = lambda world: ()) -> Counter[str]:
    """Run the worlds of `seeds`, each of which must keep every promise. Returns what they counted; `also`: and what
    else is to be counted of a world."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        world = kind(seed)
        violation = world.run()
        assert violation is None, f"{kind.name} seed {seed}: {violation}"
        counts.update(world.counts)
        counts.update(also(world))
    return counts


def all_faults(kind: type[World]) -> set[str]:
    """Under what names the faults of its worlds are counted."""
    return {f"fault.{name}" for name in kind.fault_classes}
