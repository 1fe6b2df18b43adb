"""Samples, side by side: taken in turn, compared round by round, printed as a table and written as JSON."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

import zpatterns

Sample = Mapping[str, float]
"""What one run of one side came to, by measure."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What must come out: the value of `side`, or its ratio to `reference`, is at most or at least `bound`."""

    bound: float
    at_least: bool
    side: str
    reference: str | None = None


@dataclass(slots=True)
class Measure:
    """One figure, sampled in rounds on each side. `ratios` names the pairs (side, reference) to compare."""

    name: str
    unit: str
    values: dict[str, list[float]]
    ratios: list[tuple[str, str]] = field(default_factory=list)
    wanted: list[Wanted] = field(default_factory=list)

    def median(self, side: str) -> float:
        return statistics.median(self.values[side])

    def ratio(self, side: str, reference: str) -> float:
        """The median of the rounds' ratios: what drifts during a run drifts on both sides."""
        pairs = zip(self.values[side], self.values[reference], strict=True)
        return statistics.median(ours / theirs if theirs else math.nan for ours, theirs in pairs)

    def is_met(self, wanted: Wanted) -> bool:
        value = self.ratio(wanted.side, wanted.reference) if wanted.reference else self.median(wanted.side)
        return value >= wanted.bound if wanted.at_least else value <= wanted.bound


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the page: what was set up, and the measures taken of it."""

    name: str
    title: str
    measures: list[Measure]


def interleave(row: str, rounds: int, runs: Mapping[str, Callable[[], Sample]]) -> dict[str, list[Sample]]:
    """Run each side once a round, in turn, so that whatever else the machine does falls on all alike."""
    samples: dict[str, list[Sample]] = {side: [] for side in runs}
    for number in range(1, rounds + 1):
        for side, run in runs.items():
            sample = run()
            samples[side].append(sample)
            said = ", ".join(f"{name} {_number(value)}" for name, value in sample.items())
            print(f"{row} {number}/{rounds} {side}: {said}", file=sys.stderr, flush=True)
    return samples


def measure(
    samples: Mapping[str, Sequence[Sample]],
    key: str,
    name: str,
    unit: str,
    ratios: Iterable[tuple[str, str]],
    wanted: Iterable[Wanted] = (),
) -> Measure:
    """The measure `key` of the samples, for the sides that have it; comparisons with absent sides are left out."""
    values = {side: [sample[key] for sample in taken] for side, taken in samples.items() if key in taken[0]}
    return Measure(
        name,
        unit,
        values,
        [pair for pair in ratios if set(pair) <= values.keys()],
        [one for one in wanted if one.side in values and (one.reference is None or one.reference in values)],
    )


def print_row(row: Row, *, judge: bool = True) -> None:
    """One table: a line for each measure and side, with the ratios of that side to others behind it.

    With `judge` also what was wanted, and whether it came out.
    """
    lines = [("measure", "side", "median", "least", "most", "ratio")]
    for taken in row.measures:
        for side, values in taken.values.items():
            remarks: dict[str | None, str] = {}
            for subject, reference in taken.ratios:
                if subject == side:
                    remarks[reference] = f"{taken.ratio(subject, reference):.2f} of {reference}"
            for one in taken.wanted:
                if judge and one.side == side:
                    verdict = _verdict(taken, one)
                    remarks[one.reference] = f"{remarks[one.reference]} ({verdict})" if one.reference else verdict
            figures = (_number(statistics.median(values)), _number(min(values)), _number(max(values)))
            lines.append((f"{taken.name}, {taken.unit}", side, *figures, ", ".join(remarks.values())))
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    print(f"\n{row.name}: {row.title}")
    before = ""
    for line in lines:
        first = line[0] if line[0] != before else ""
        before = line[0]
        cells = [first.ljust(widths[0]), line[1].ljust(widths[1])]
        cells += [line[column].rjust(widths[column]) for column in (2, 3, 4)]
        print("  ".join([*cells, line[5]]).rstrip())


def write_json(path: Path, rows: Sequence[Row], options: Mapping[str, Any]) -> None:
    """Everything that was sampled, with the machine it was sampled on."""
    document = {
        "machine": machine(),
        "options": dict(options),
        "rows": [
            {
                "row": row.name,
                "title": row.title,
                "measures": [
                    {
                        "measure": taken.name,
                        "unit": taken.unit,
                        "values": {side: [_finite(value) for value in values] for side, values in taken.values.items()},
                        "medians": {side: _finite(taken.median(side)) for side in taken.values},
                        "ratios": [
                            {"side": side, "reference": reference, "ratio": _finite(taken.ratio(side, reference))}
                            for side, reference in taken.ratios
                        ],
                        "wanted": [
                            {
                                "side": one.side,
                                "reference": one.reference,
                                "at_least" if one.at_least else "at_most": one.bound,
                                "met": taken.is_met(one),
                            }
                            for one in taken.wanted
                        ],
                    }
                    for taken in row.measures
                ],
            }
            for row in rows
        ],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    processor = platform.processor()
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "pyzmq": zmq.pyzmq_version(),
        "libzmq": zmq.zmq_version(),
        "zpatterns": zpatterns.__version__,
    }


def _verdict(taken: Measure, wanted: Wanted) -> str:
    bound = f"at {'least' if wanted.at_least else 'most'} {_number(wanted.bound)}"
    return f"{bound}: {'met' if taken.is_met(wanted) else 'NOT MET'}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "n/a"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
