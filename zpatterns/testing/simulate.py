"""``python -m zpatterns.testing.simulate``: run simulated worlds, one a seed, until one breaks a promise."""

from __future__ import annotations

import importlib
import sys
import time
import traceback
from collections.abc import Iterable
from typing import Final

import click

from zpatterns.testing.world import Violation, World

PATTERNS: Final = {
    "bstar": "zpatterns.testing.bstar:BinaryStarWorld",
    "clone": "zpatterns.testing.clone:CloneWorld",
    "freelance": "zpatterns.testing.freelance:FreelanceWorld",
    "lazy": "zpatterns.testing.lazy:LazyWorld",
    "mdp": "zpatterns.testing.mdp:MajordomoWorld",
    "paranoid": "zpatterns.testing.pirate:ParanoidPirateWorld",
    "simple": "zpatterns.testing.pirate:SimplePirateWorld",
}
"""The worlds there are, by the name that ``--pattern`` takes. A new pattern adds a line."""


def world_class(pattern: str) -> type[World]:
    """The world of a pattern, by its name or as ``module:Class``. Errors: ValueError where there is none."""
    module, _, name = PATTERNS.get(pattern, pattern).partition(":")
    try:
        result = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{pattern!r} is none of {', '.join(PATTERNS)}, and no module:Class ({error})") from error
    if not (isinstance(result, type) and issubclass(result, World)):
        raise ValueError(f"{pattern!r} is no subclass of zpatterns.testing.World")
    return result


def shrink(kind: type[World], seed: int, promise: str) -> tuple[frozenset[int], int]:
    """Leave out one fault of the seed's plan after the other, as long as the same promise is broken.

    Returns the numbers of the faults that are needed, for ``keep=``, and how many runs it took.
    """
    world = kind(seed)
    world.run()
    keep = frozenset(fault.number for fault in world.planned)
    runs = 1
    for number in sorted(keep, reverse=True):
        without = keep - {number}
        violation = kind(seed, keep=without).run()
        runs += 1
        if violation is not None and violation.promise == promise:
            keep = without
    return keep, runs


def report(pattern: str, world: World, violation: Violation) -> None:
    """Say what was broken, and how to see it again."""
    click.echo(f"seed {world.seed}: {violation}", err=True)
    if world.error is not None:
        click.echo("".join(traceback.format_exception(world.error)), err=True)
    keep, runs = shrink(type(world), int(world.seed), violation.promise)
    click.echo(f"faults that are needed for it (found in {runs} runs):", err=True)
    for fault in world.planned:
        if fault.number in keep:
            click.echo(f"  {fault}", err=True)
    numbers = ",".join(map(str, sorted(keep))) or "none"
    click.echo(
        f"see it again: python -m zpatterns.testing.simulate --pattern {pattern} --seed {world.seed} "
        f"--keep {numbers} --trace",
        err=True,
    )


def _numbers(_context: click.Context, _parameter: click.Parameter, value: str | None) -> frozenset[int] | None:
    if value is None:
        return None
    try:
        return frozenset() if value == "none" else frozenset(int(number) for number in value.split(","))
    except ValueError:
        raise click.BadParameter("it is numbers with commas between them, or 'none'") from None


@click.command(name="python -m zpatterns.testing.simulate")
@click.option(
    "--pattern",
    default="mdp",
    show_default=True,
    metavar="NAME",
    help=f"One of {', '.join(PATTERNS)}, or a world of your own: module:Class.",
)
@click.option("--seeds", type=click.IntRange(1), default=1000, show_default=True, help="How many worlds to run.")
@click.option("--first", type=click.IntRange(0), default=0, show_default=True, help="The first seed of them.")
@click.option("--seed", type=click.IntRange(0), help="Run this one only.")
@click.option("--trace", is_flag=True, help="Print all that happens in the world of --seed.")
@click.option("--keep", callback=_numbers, help="Of the faults of --seed, only these numbers; or 'none'.")
def main(pattern: str, seeds: int, first: int, seed: int | None, trace: bool, keep: frozenset[int] | None) -> None:
    """Run whole clusters in one thread under faults drawn from a seed, and check what they promise.

    Prints a summary; exit code 1 and the seed of the first run in which a promise was broken.
    """
    try:
        kind = world_class(pattern)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--pattern") from None
    if seed is not None:
        sys.exit(_run_one(pattern, kind, seed, keep, trace))
    if trace or keep is not None:
        raise click.UsageError("--trace and --keep are for one world: say which with --seed")
    sys.exit(_run_many(pattern, kind, range(first, first + seeds)))


def _run_one(pattern: str, kind: type[World], seed: int, keep: frozenset[int] | None, trace: bool) -> int:
    world = kind(seed, keep=keep, trace=trace)
    violation = world.run()
    for line in world.trace_lines():
        click.echo(line)
    if violation is None:
        click.echo(f"seed {seed}: every promise was kept", err=True)
        return 0
    if keep is None and not trace:
        report(pattern, world, violation)
    else:
        click.echo(f"seed {seed}: {violation}", err=True)
    return 1


def _run_many(pattern: str, kind: type[World], seeds: Iterable[int]) -> int:
    begin = time.perf_counter()
    counts: dict[str, int] = {}
    done = 0
    failure: tuple[World, Violation] | None = None
    with click.progressbar(seeds, label="worlds", file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        for seed in bar:
            world = kind(seed)
            violation = world.run()
            done += 1
            for what, count in world.counts.items():
                counts[what] = counts.get(what, 0) + count
            if violation is not None:
                failure = world, violation
                break
    elapsed = time.perf_counter() - begin
    click.echo(f"{done} worlds in {elapsed:.1f} s, {done / elapsed:.0f} a second")
    for what in sorted(counts):
        click.echo(f"  {what:<24}{counts[what]:>12}")
    if failure is None:
        click.echo("every promise was kept")
        return 0
    report(pattern, *failure)
    return 1


if __name__ == "__main__":
    main()
