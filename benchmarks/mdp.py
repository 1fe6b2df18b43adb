"""Majordomo, measured: ``python benchmarks/mdp.py``. What each row means stands in docs/benchmarks.md."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

# As a script it lies beside its modules, and its package above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import machine, print_row, write_json
from benchmarks.processes import BenchmarkError
from benchmarks.rows import DEFAULT_ENDPOINT, QUICK, ROWS, Bench, Sizes
from zpatterns.errors import EndpointError
from zpatterns.sockets import check_endpoint

_ROUNDS = 5


def _rounds(text: str) -> int:
    rounds = int(text)
    if rounds < _ROUNDS:
        raise argparse.ArgumentTypeError(f"a median of fewer than {_ROUNDS} rounds says little")
    return rounds


def _endpoint(text: str) -> str:
    try:
        return check_endpoint(text)
    except EndpointError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _file(text: str) -> Path:
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is not a directory")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure the Majordomo broker, client and worker side by side with the least that pyzmq can do.\n"
        "Figures of one run are comparable with each other only; so look at the ratios.",
        epilog="rows:\n" + "\n".join(f"  {name:14}{function.__doc__}" for name, function in ROWS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help="measure only these")
    parser.add_argument("--rounds", type=_rounds, default=_ROUNDS, metavar="N", help="samples a side (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one small round: shows that it runs, and nothing else")
    parser.add_argument("--json", type=_file, metavar="FILE", help="write every sample to FILE, too")
    parser.add_argument("--peer", metavar="CMD", help="a third side: a 7/MDP broker that this command starts")
    parser.add_argument(
        "--peer-endpoint",
        type=_endpoint,
        default=DEFAULT_ENDPOINT,
        metavar="E",
        help="where it listens (default: %(default)s)",
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
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and return the exit code: 1 if something could not be measured."""
    options = _parser().parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    sizes = QUICK if options.quick else Sizes(rounds=options.rounds)
    bench = Bench(sizes, options.peer, options.peer_endpoint, options.load, options.echo)
    about = machine()
    print(
        f"{about['processor']}, {about['cores']} cores, {about['system']}, Python {about['python']}, "
        f"pyzmq {about['pyzmq']}, libzmq {about['libzmq']}"
    )
    rows = []
    try:
        for name in dict.fromkeys(options.rows):
            rows.append(ROWS[name](bench))
            print_row(rows[-1], judge=not options.quick)
            sys.stdout.flush()
            if options.json is not None:
                chosen = {
                    "sizes": dataclasses.asdict(sizes),
                    "peer": bench.peer,
                    "load": bench.load,
                    "echo": bench.echo,
                }
                write_json(options.json, rows, chosen)
    except BenchmarkError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def _end(number: int, _frame: FrameType | None) -> None:
    # As an exception, so that everything that was started is ended on the way out.
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
