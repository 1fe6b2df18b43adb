"""What a user gets before anything runs: names, versions, imports that cost little, and files that belong."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.resources
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import zpatterns
from zpatterns import errors

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PATTERNS = ("bstar", "clone", "freelance", "mdp", "pirate")
HEAVY = ("zmq", "tornado", "asyncio", "structlog", "click")


def modules_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `code`."""
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_heavy():
    assert not modules_after("import zpatterns; zpatterns.RequestTimeout").intersection(HEAVY)


def test_the_reactor_is_loaded_when_it_is_asked_for():
    assert {"zmq", "tornado.ioloop"} <= modules_after("from zpatterns import Reactor")


def test_the_majordomo_package_loads_neither_command_line_nor_http_nor_structlog():
    loaded = modules_after("from zpatterns.mdp import *")
    assert "tornado.ioloop" in loaded
    unwanted = {"click", "structlog", "tornado.httpserver", "tornado.web", "zpatterns.cli"}
    assert not loaded & unwanted


def test_who_only_calls_and_waits_loads_nothing_of_asyncio():
    """Half of the start of a short program would go into that."""
    code = """
from zpatterns.bstar import BinaryStarClient
from zpatterns.freelance import FreelanceClient
from zpatterns.mdp import Client
from zpatterns.pirate import LazyPirateClient
"""
    loaded = modules_after(code)
    assert "zmq" in loaded
    assert not loaded & {"asyncio", "tornado", "concurrent.futures"}


@pytest.mark.parametrize("package", ["zpatterns", *(f"zpatterns.{name}" for name in PATTERNS)])
def test_a_package_has_what_it_exports_and_no_more(package):
    module = importlib.import_module(package)
    assert all(hasattr(module, name) for name in module.__all__)
    assert set(module.__all__) <= set(dir(module))
    assert not hasattr(module, "no_such_name")


@pytest.mark.parametrize("arguments", [["--help"], ["mdp", "--help"], ["mdp", "request", "--help"], ["demo", "--help"]])
def test_help_loads_neither_zmq_nor_tornado(arguments):
    code = (
        "import sys\nfrom zpatterns.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit as end: assert not end.code"
    )
    assert not modules_after(code).intersection({"zmq", "tornado", "asyncio", "structlog"})


def test_help_comes_at_once():
    # The budget is 150 ms of a quiet machine, of which an import of everything takes 200. Processor time does not count
    # for how long a busy one keeps us waiting.
    def once() -> float:
        before = os.times()
        subprocess.run([sys.executable, "-m", "zpatterns", "--help"], check=True, timeout=30, stdout=subprocess.DEVNULL)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert any(once() < 0.15 for _ in range(7))


def test_every_public_name_is_there_and_is_documented():
    for name in zpatterns.__all__:
        assert name == "__version__" or getattr(zpatterns, name).__doc__, name
    assert set(zpatterns.__all__) <= set(dir(zpatterns))


def test_every_error_is_public():
    ours = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.ZPatternsError)
    }
    assert ours <= set(zpatterns.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = zpatterns.no_such_name  # type: ignore[attr-defined]


def test_the_package_is_typed():
    assert importlib.resources.files(zpatterns).joinpath("py.typed").is_file()


def test_the_version_has_one_source_and_the_changelog_knows_it():
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert f"## [{zpatterns.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    try:
        installed = importlib.metadata.version("zpatterns")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("runs from the source tree, not installed")
    assert installed == zpatterns.__version__


@pytest.mark.parametrize("name", PYPROJECT["project"]["scripts"])
def test_every_console_script_is_a_command_that_can_tell_its_version(name):
    module, attribute = PYPROJECT["project"]["scripts"][name].split(":")
    code = f"import sys; sys.argv = [{name!r}, '--version']; from {module} import {attribute} as main; main()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert result.stdout == f"zpatterns {zpatterns.__version__}\n"


def test_the_module_is_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "zpatterns", "--version"], capture_output=True, text=True, check=True, timeout=30
    )
    assert result.stdout == f"zpatterns {zpatterns.__version__}\n"


def test_files_stay_small_enough_to_hold_one_thing():
    """architecture.md: a file that passes 500 lines holds two things."""
    sizes = {path: len(path.read_text().splitlines()) for path in (ROOT / "zpatterns").rglob("*.py")}
    assert not {path.name: lines for path, lines in sizes.items() if lines > 500}


def test_nobody_calls_print_or_configures_logging_but_the_command_line():
    calls = re.compile(r"\b(structlog\.configure|logging\.basicConfig|logging\.config|configure_logging)\(")
    for path in (ROOT / "zpatterns").rglob("*.py"):
        if path.parent.name != "cli" and path.name != "telemetry.py":
            assert not calls.search(path.read_text()), path


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_make_knows_its_targets():
    for target in ("demo", "test", "check"):
        result = subprocess.run(
            ["make", "--dry-run", target],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, "MAKEFLAGS": ""},
        )
        assert result.returncode == 0, result.stderr
