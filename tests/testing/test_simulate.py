"""``python -m zpatterns.testing.simulate``: its summary, its exit codes, and what it says of a broken promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner, Result

from zpatterns.testing import Fault, Node, Observer, World, simulate

ROOT = Path(__file__).parents[2]


class Bare(Node):
    def boot(self) -> None:
        """Nothing to make."""


class Fragile(Observer):
    """A promise that nobody is ever killed twice."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.kills = 0

    def happened(self, node: Node, what: str) -> None:
        self.kills += what == "kill"
        if self.kills > 1:
            self.world.violate("F1", f"{node.name} is the second to be killed")


class FragileWorld(World):
    fault_classes: ClassVar[tuple[str, ...]] = ("crash", "slow")

    def build(self) -> None:
        self.fault_seconds, self.bound, self.quiet_seconds, self.lease = 10.0, 1.0, 1.0, 0.1
        self.observers.append(Fragile(self))
        for name in ("one", "two"):
            Bare(self, name).start()


class RaisingWorld(FragileWorld):
    def build(self) -> None:
        super().build()
        self.clock.call_later(1.0, lambda: self.violate("B2", "something was raised", ValueError("what was raised")))


class SoundWorld(FragileWorld):
    fault_classes: ClassVar[tuple[str, ...]] = ("slow",)


PATTERN = f"{__name__}:{{}}"
BROKEN = next(seed for seed in range(1000) if FragileWorld(seed).run())


def invoke(kind: str, *arguments: str) -> Result:
    return CliRunner().invoke(simulate.main, ["--pattern", PATTERN.format(kind), *arguments])


def test_the_summary_tells_what_was_run():
    result = invoke("SoundWorld", "--seeds", "30")
    assert result.exit_code == 0
    assert result.stdout.startswith("30 worlds in ")
    assert "fault.slow" in result.stdout
    assert result.stdout.endswith("every promise was kept\n")
    assert result.stderr == ""


def test_a_broken_promise_ends_it_with_1_and_the_seed_and_the_faults_that_it_takes():
    result = invoke("FragileWorld", "--seeds", "1000")
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{BROKEN + 1} worlds in ")
    assert f"seed {BROKEN}: F1 at " in result.stderr
    assert "is the second to be killed" in result.stderr
    needed = [line for line in result.stderr.splitlines() if line.startswith("  #")]
    assert len(needed) == 2
    assert all(" crash " in line for line in needed), "two kills are needed, and nothing slow"
    assert f"--pattern {PATTERN.format('FragileWorld')} --seed {BROKEN} --keep " in result.stderr


def test_what_it_says_to_type_shows_it_again():
    result = invoke("FragileWorld", "--seed", str(BROKEN))
    assert result.exit_code == 1
    arguments = result.stderr.splitlines()[-1].partition("--seed ")[2].split()
    again = invoke("FragileWorld", "--seed", *arguments)
    assert again.exit_code == 1
    lines = again.stdout.splitlines()
    assert "VIOLATION F1" in lines[-1]
    assert sum(line.split()[2] == "kill" for line in lines) == 2
    assert again.stderr.startswith(f"seed {BROKEN}: F1 at ")


def test_without_any_fault_all_is_well():
    result = invoke("FragileWorld", "--seed", str(BROKEN), "--keep", "none")
    assert result.exit_code == 0
    assert result.stderr == f"seed {BROKEN}: every promise was kept\n"


def test_first_says_where_to_begin():
    result = invoke("FragileWorld", "--first", str(BROKEN), "--seeds", "1")
    assert result.exit_code == 1
    assert result.stdout.startswith("1 worlds in ")


def test_an_exception_is_shown_with_its_traceback():
    result = invoke("RaisingWorld", "--seeds", "1")
    assert result.exit_code == 1
    assert "ValueError: what was raised" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--pattern", "no-such"], "'no-such' is none of "),
        (["--pattern", "no_such_module:World"], "No module named"),
        (["--pattern", "zpatterns.testing:NoSuchWorld"], "NoSuchWorld"),
        (["--pattern", "zpatterns.testing:FakeClock"], "no subclass"),
        (["--trace"], "--seed"),
        (["--keep", "1"], "--seed"),
        (["--seed", "1", "--keep", "one"], "numbers with commas"),
        (["--seeds", "0"], "--seeds"),
    ],
)
def test_wrong_use_is_told_with_2(arguments, complaint):
    result = CliRunner().invoke(simulate.main, arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr


def test_it_runs_from_a_plain_install_without_pytest():
    code = (
        "import runpy, sys\n"
        "for name in ('pytest', 'hypothesis'): sys.modules[name] = None\n"
        "sys.argv = ['simulate', '--seeds', '3']\n"
        "runpy.run_module('zpatterns.testing.simulate', run_name='__main__')"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert result.returncode == 0, result.stderr
    assert "every promise was kept" in result.stdout


def test_shrinking_keeps_nothing_that_is_not_needed():
    keep, runs = simulate.shrink(FragileWorld, BROKEN, "F1")
    assert len(keep) == 2
    assert runs == len(planned(BROKEN)) + 1


def planned(seed: int) -> list[Fault]:
    world = FragileWorld(seed)
    world.run()
    return world.planned
