"""The benchmarks run, with every kind of side, and leave nothing behind. What they measure does not matter here."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import clone, failover, freelance, mdp, pirate
from benchmarks.common import Measure, Row, Wanted, print_row
from benchmarks.peers import percentile
from benchmarks.processes import BenchmarkError
from benchmarks.rows import OURS, PEER, RAW, ROWS
from tests.cli.processes import clean_environment, is_alive
from tests.example import free_endpoint
from tests.waiting import DEADLINE, until
from zpatterns.testing import ReservedPort

pytestmark = pytest.mark.usefixtures("warm")

ROOT = Path(__file__).parent.parent
BASELINE = f"{sys.executable} -m benchmarks.peers broker"
ECHO = f"{sys.executable} -m benchmarks.peers echo {{endpoint}} {{service}} {{workers}} 2.5"

LOAD = """
import sys
import zmq

endpoint, service, clients, in_flight, count, size = sys.argv[1:]
with zmq.Context() as context, context.socket(zmq.REQ) as client:
    client.setsockopt(zmq.RCVTIMEO, 20_000)
    client.connect(endpoint)
    for _ in range(int(count) // 100):
        client.send_multipart([b"MDPC01", service.encode(), bytes(int(size))])
        assert client.recv_multipart()[2:] == [bytes(int(size))]
print("of", clients, "clients with", in_flight, "open: 1234.5")
"""

LISTENERS = """
import sys
from benchmarks.processes import BenchmarkError, Children

for command in sys.argv[2:]:
    try:
        with Children() as children:
            children.listener(command, sys.argv[1])
    except BenchmarkError as error:
        print(error)
"""


FORKING = """
import os
import signal
from benchmarks.processes import Children
from benchmarks.program import end_on_signals

end_on_signals()
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM))
with Children() as children:
    try:
        children.start("cat")
    finally:
        print([child.command for child in children.all])
print("it went on")
"""

WAITING = """
import signal
import threading
from benchmarks.processes import Children
from benchmarks.program import end_on_signals

end_on_signals()
with Children() as children:
    child = children.start("cat", read=True)
    # To another thread than the one that waits: that is not woken.
    threading.Timer(0.1, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM)).start()
    child.line()
print("it went on")
"""

ENDING = """
import os
import signal
from benchmarks.processes import Child, Children
from benchmarks.program import end_on_signals

class Ended(Child):
    def kill(self):
        os.kill(os.getpid(), signal.SIGTERM)
        super().kill()
        print(self.process.returncode)

end_on_signals()
with Children() as children:
    for _ in range(2):
        children.start("cat").__class__ = Ended
print("it went on")
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd="/",
        env=clean_environment(PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])),
        timeout=55.0,
        check=False,
    )


def script(name: str) -> str:
    return str(ROOT / "benchmarks" / f"{name}.py")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Runs a script in this process; its exit code, and what it has printed."""

    def here(program: ModuleType, *arguments: str) -> tuple[int, str, str]:
        code = program.main(["--quick", *arguments])
        return code, *capsys.readouterr()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield here
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def measured(run: Callable[..., tuple[int, str, str]], tmp_path: Path) -> Callable[..., tuple[dict[str, Any], str]]:
    """Has a script measure; what it has written and what it has printed."""

    def figures(program: ModuleType, *arguments: str) -> tuple[dict[str, Any], str]:
        path = tmp_path / "figures.json"
        code, printed, errors = run(program, *arguments, "--json", str(path))
        assert code == 0, errors
        return json.loads(path.read_text()), printed

    return figures


def ours(*arguments: str) -> str:
    """A command of ours in the place of a stranger's: as good as any, and it has all that a row may ask of one."""
    return shlex.join([sys.executable, "-m", "zpatterns", *arguments])


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_measured_on_every_side(row, measured):
    endpoint = free_endpoint()
    peer = ours("mdp", "broker", "--bind", endpoint)
    document, printed = measured(mdp, "--rows", row, "--peer", peer, "--peer-endpoint", endpoint)
    assert {"processor", "cores", "python", "pyzmq", "libzmq"} <= document["machine"].keys()
    (written,) = document["rows"]
    assert written["row"] == row
    assert f"\n{row}: {written['title']}\n" in printed
    for taken in written["measures"]:
        what = taken["measure"]
        assert len(taken["values"]) > 1, f"{what}: nothing to compare with"
        assert taken["ratios"], f"{what}: not compared"
        assert taken["medians"].keys() == taken["values"].keys()
        assert row in ("idle", "startup") or taken["values"].keys() == {OURS, RAW, PEER}, what
        # The memory of so few requests may come out of what the broker has already.
        floor = -math.inf if row == "memory" else 0.0
        for side, values in taken["values"].items():
            assert all(value is not None and value > floor for value in values), f"{what}, {side}: {values}"
    assert ": met" not in printed and "NOT MET" not in printed, "one small round is no reason to judge"


def pirate_peer() -> tuple[str, ...]:
    front, back = free_endpoint(), free_endpoint()
    peer = ours("pirate", "queue", "--frontend", front, "--backend", back)
    return "--peer", peer, "--peer-endpoint", front, "--peer-backend", back


def freelance_peer() -> tuple[str, ...]:
    endpoint = free_endpoint()
    return "--peer", ours("freelance", "server", "--bind", endpoint), "--peer-endpoint", endpoint


@pytest.mark.parametrize(
    ("program", "peer"), [(pirate, pirate_peer), (freelance, freelance_peer)], ids=["pirate", "freelance"]
)
def test_the_other_patterns_are_measured_on_every_side(program, peer, measured):
    document, _ = measured(program, *peer())
    assert [row["row"] for row in document["rows"]] == list(program.ROWS)
    for row in document["rows"]:
        for taken in row["measures"]:
            assert taken["values"].keys() == {OURS, RAW, PEER}, taken["measure"]
            assert all(value > 0.0 for values in taken["values"].values() for value in values)


@pytest.mark.parametrize(
    "rows", [["updates"], pytest.param(list(clone.ROWS), marks=pytest.mark.slow)], ids=["updates", "all"]
)
def test_clone_is_measured_on_every_side_that_a_row_has(rows, measured):
    with ReservedPort(3) as ports:
        peer = ("--peer", ours("clone", "server", "--bind", ports.endpoint), "--peer-endpoint", ports.endpoint)
        document, _ = measured(clone, "--rows", *rows, *peer)
    assert [row["row"] for row in document["rows"]] == rows
    sides = {"sets": {OURS, PEER}, "big-snapshot": {OURS, RAW}}
    for row in document["rows"]:
        for taken in row["measures"]:
            assert taken["values"].keys() == sides.get(row["row"], {OURS, RAW, PEER}), taken["measure"]
            assert all(value > 0.0 for values in taken["values"].values() for value in values), taken["measure"]


def test_a_pair_of_brokers_loses_its_active_and_no_call_is_lost_with_it(measured):
    document, printed = measured(failover)
    (row,) = document["rows"]
    values = {taken["measure"]: taken["values"]["pair"][0] for taken in row["measures"]}
    assert values["without an outcome"] == values["retried and not answered"] == 0
    assert values["begun"] > 30
    assert 0 < values["first answer to a call begun after the kill"] <= values["longest call"] + 1.0
    assert "\nmdp: 300 calls a second" in printed


def test_calls_that_fail_make_the_measurement_of_a_failover_fail(monkeypatch):
    monkeypatch.setattr(failover, "_TIMEOUT", 0.2)

    async def without_brokers() -> None:
        load = failover.Load([free_endpoint()])
        async with load.client:
            await load.begin(0.05)
            await load.end()

    with pytest.raises(
        BenchmarkError, match=r"of 15 calls 0 have no outcome .* 15 failed \(\{'RequestTimeout': 15\}\)"
    ):
        asyncio.run(without_brokers())


@pytest.mark.parametrize("name", ["clone", "failover", "freelance", "mdp", "pirate"])
def test_a_script_runs_as_its_page_says_from_any_directory(name):
    result = python(script(name), "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: {name}.py ")


def test_external_load_takes_the_place_of_ours(tmp_path):
    """The script itself, as a process."""
    (tmp_path / "load.py").write_text(LOAD)
    load = f"{sys.executable} {tmp_path}/load.py {{endpoint}} {{service}} {{clients}} {{in_flight}} {{count}} {{size}}"
    endpoint = free_endpoint()
    peer = ("--peer", f"{BASELINE} {endpoint}", "--peer-endpoint", endpoint)
    path = tmp_path / "figures.json"
    options = ("--rows", "many-clients", *peer, "--load", load, "--echo", ECHO, "--json", str(path))
    result = python(script("mdp"), "--quick", *options)
    assert result.returncode == 0, result.stderr
    (row,) = json.loads(path.read_text())["rows"]
    rate = row["measures"][0]
    assert rate["values"] == {OURS: [1234.5], RAW: [1234.5], PEER: [1234.5]}
    assert [(ratio["side"], ratio["reference"]) for ratio in rate["ratios"]] == [(OURS, RAW), (OURS, PEER)]
    assert rate["wanted"] == [{"side": OURS, "reference": PEER, "at_least": 1.0, "met": True}]


@pytest.mark.parametrize(
    ("load", "said"),
    [("sh -c 'exit 3'", "ended with code 3"), ("true", "printed no number"), ("{nothing}", "cannot be filled in")],
)
def test_what_does_not_work_is_told_with_its_reason(load, said, run):
    code, _, errors = run(mdp, "--rows", "one-client", "--load", load)
    assert code == 1
    assert said in errors
    assert "Traceback" not in errors


def test_a_peer_that_cannot_be_started_is_told_of_and_a_stranger_is_not_measured_in_its_place():
    broken = ["no-such-program", "sh -c 'echo it is broken >&2; exit 7'"]
    printed = python("-c", LISTENERS, free_endpoint(), *broken).stdout
    assert "cannot start 'no-such-program'" in printed
    assert "ended with code 7; it said:\nit is broken\n" in printed
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        endpoint = f"tcp://127.0.0.1:{stranger.getsockname()[1]}"
        printed = python("-c", LISTENERS, endpoint, f"{BASELINE} {endpoint}").stdout
    assert f"something listens at {endpoint} already" in printed


@pytest.mark.parametrize(
    "arguments",
    [["--rows", "no-such-row"], ["--rounds", "2"], ["--json", "/no/such/folder/file"], ["--peer-endpoint", "5555"]],
)
def test_wrong_use_is_told_before_anything_is_measured(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        mdp.main(arguments)
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.err.startswith("usage: ")
    assert not said.out


@contextmanager
def measuring(temporary: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """A measurement on its way, and the processes that it has started so far: broker, workers and load."""
    process = subprocess.Popen(
        [sys.executable, script("mdp"), "--rows", "one-client"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=clean_environment(TMPDIR=str(temporary)),
    )

    def children() -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]

    try:
        yield process, until(lambda: len(children()) == 3 and children(), "all three run")
    finally:
        process.kill()
        process.wait(DEADLINE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_it_nothing_is_left_behind(number, tmp_path):
    with measuring(tmp_path) as (process, children):
        os.kill(process.pid, number)
        process.wait(DEADLINE)
        until(lambda: not any(map(is_alive, children)), "all that it started has ended")
        # Nobody can tidy up after SIGKILL.
        assert number == signal.SIGKILL or not list(tmp_path.iterdir())


def test_a_signal_in_the_middle_of_a_start_is_not_lost():
    """Python prints what is raised in the hooks of a fork, and goes on; a benchmark took that for the end of it."""
    ended = python("-c", FORKING)
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + signal.SIGTERM, "[['cat']]\n", "")


def test_a_signal_that_no_wait_was_woken_by_is_heard_soon():
    """One that comes just before a wait: that would last until the load is done."""
    ended = python("-c", WAITING)
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + signal.SIGTERM, "", "")


def test_a_signal_while_all_is_ended_leaves_nobody_out():
    ended = python("-c", ENDING)
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + signal.SIGTERM, "-9\n-9\n", "")


def test_a_process_that_loses_its_parent_while_it_is_started_ends():
    nobody = 2**22 + 1  # above the highest id of a process
    assert (
        python("-c", f"from benchmarks.processes import _die_with; _die_with({nobody})").returncode == -signal.SIGKILL
    )


def test_the_ratio_is_that_of_the_rounds_and_not_of_the_medians():
    """What the machine does in one round falls on both sides of it."""
    drifting = Measure("rate", "requests/s", {"a": [10.0, 40.0, 90.0], "b": [20.0, 60.0, 80.0]}, [("a", "b")])
    assert drifting.ratio("a", "b") == pytest.approx(2 / 3)
    assert drifting.median("a") == 40.0
    assert drifting.is_met(Wanted(0.66, True, "a", "b"))
    assert not drifting.is_met(Wanted(0.67, True, "a", "b"))
    assert drifting.is_met(Wanted(40.0, False, "a"))
    assert not drifting.is_met(Wanted(39.9, False, "a"))


def test_a_table_holds_medians_ratios_and_what_was_wanted(capsys):
    values = {"a": [1.0, 1100.0, 1200.0], "b": [1.0, 550.0, 600.0]}
    wanted = [Wanted(1.5, False, "a", "b"), Wanted(1000.0, True, "a")]
    row = Row("speed", "how fast it is", [Measure("rate", "requests/s", values, [("a", "b")], wanted)])
    print_row(row)
    assert capsys.readouterr().out.splitlines() == [
        "",
        "speed: how fast it is",
        "measure           side  median  least   most  ratio",
        "rate, requests/s  a      1,100      1  1,200  2.00 of b (at most 1.5: NOT MET), at least 1,000: met",
        "                  b        550      1    600",
    ]
    print_row(row, judge=False)
    assert "met" not in capsys.readouterr().out.lower()


def test_percentiles_are_values_that_were_measured():
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.99) == 4.0
    assert percentile([5.0], 0.5) == 5.0
