"""What every benchmark's command line shares: options, rounds, tables, JSON, and an end that leaves nothing behind."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, TypeVar

from benchmarks.common import Row, machine, print_row, write_json
from benchmarks.processes import ENDING, BenchmarkError
from benchmarks.rows import QUICK, Sizes
from zpatterns.errors import EndpointError
from zpatterns.sockets import check_endpoint

B = TypeVar("B")

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


def make_parser(
    about: str,
    rows: Mapping[str, Callable[..., Row]],
    peer: str | None = None,
    endpoints: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> argparse.ArgumentParser:
    """Options of all. `peer`: what ``--peer`` starts, where there can be one; `endpoints`: options that say where that
    listens, with default and help."""
    parser = argparse.ArgumentParser(
        description=f"{about}\nFigures of one run are comparable with each other only; so look at the ratios.",
        epilog="rows:\n" + "\n".join(f"  {name:14}{function.__doc__}" for name, function in rows.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", nargs="+", choices=rows, default=list(rows), metavar="ROW", help="measure only these")
    parser.add_argument("--rounds", type=_rounds, default=_ROUNDS, metavar="N", help="samples a side (default: 5)")
    parser.add_argument("--quick", action="store_true", help="one small round: shows that it runs, and nothing else")
    parser.add_argument("--json", type=_file, metavar="FILE", help="write every sample to FILE, too")
    if peer is not None:
        parser.add_argument("--peer", metavar="CMD", help=f"a third side: {peer} that this command starts")
    for option, (default, text) in endpoints.items():
        parser.add_argument(option, type=_endpoint, default=default, metavar="E", help=f"{text} (default: %(default)s)")
    return parser


def run_rows(
    options: argparse.Namespace, rows: Mapping[str, Callable[[B], Row]], make: Callable[[Sizes], B], **chosen: Any
) -> int:
    """Measure, print, and return the exit code: 1 if something could not be measured. `chosen` goes to the JSON."""
    end_on_signals()
    sizes = QUICK if options.quick else Sizes(rounds=options.rounds)
    bench = make(sizes)
    about = machine()
    print(
        f"{about['processor']}, {about['cores']} cores, {about['system']}, Python {about['python']}, "
        f"pyzmq {about['pyzmq']}, libzmq {about['libzmq']}"
    )
    done: list[Row] = []
    try:
        for name in dict.fromkeys(options.rows):
            done.append(rows[name](bench))
            print_row(done[-1], judge=not options.quick)
            sys.stdout.flush()
            if options.json is not None:
                write_json(options.json, done, {"sizes": dataclasses.asdict(sizes), **chosen})
    except BenchmarkError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def end_on_signals() -> None:
    """Have SIGINT and SIGTERM end this process as an exception, so that everything that it started is ended too."""
    for number in ENDING:
        signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
