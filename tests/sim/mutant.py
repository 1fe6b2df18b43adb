"""What a seeded defect is; each pattern lists its own, and :mod:`tests.sim.mutants` hunts them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """In `module`, the one place that reads `old` reads `new`. The worlds of `pattern` must notice."""

    name: str
    module: str
    old: str
    new: str
    pattern: str = "mdp"

    def apply(self, source: str) -> str:
        """The changed text. Errors: ValueError unless `old` is there exactly once."""
        if source.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.old!r} is in {self.module} {source.count(self.old)} times, not once")
        return source.replace(self.old, self.new)
