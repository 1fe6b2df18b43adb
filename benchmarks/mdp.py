"""Majordomo, measured: ``python benchmarks/mdp.py``. What each row means stands in docs/benchmarks.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# As a script it lies beside its modules, and its package above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.program import make_parser, run_rows
from benchmarks.rows import DEFAULT_ENDPOINT, ROWS, Bench


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code: 1 if something could not be measured."""
    parser = make_parser(
        "Measure the Majordomo broker, client and worker side by side with the least that pyzmq can do.",
        ROWS,
        "a 7/MDP broker",
        {"--peer-endpoint": (DEFAULT_ENDPOINT, "where it listens")},
    )
    parser.add_argument(
        "--load",
        metavar="CMD",
        help="a load generator for the rows of throughput; {endpoint} {service} {clients} {in_flight} {count} {size} "
        "are filled in, and the last number that it prints is the requests a second",
    )
    parser.add_argument(
        "--echo", metavar="CMD", help="echo workers for these rows; {endpoint} {service} {workers} are filled in"
    )
    options = parser.parse_args(arguments)
    peer, load, echo = options.peer, options.load, options.echo
    return run_rows(
        options,
        ROWS,
        lambda sizes: Bench(sizes, peer, options.peer_endpoint, load, echo),
        peer=peer,
        load=load,
        echo=echo,
    )


if __name__ == "__main__":
    sys.exit(main())
