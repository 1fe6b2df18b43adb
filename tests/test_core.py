"""The contract of the cores, and that what is to be pure is."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import zpatterns
from tests.harness import FixedRng
from zpatterns.core import Close, Core, Drops, Event, MessagesDropped, ServiceCore, SocketKind
from zpatterns.mdp.broker_core import BrokerCore
from zpatterns.mdp.client_core import ClientCore, ClientOptions
from zpatterns.mdp.worker_core import WorkerCore
from zpatterns.timing import Liveness

PACKAGE = Path(zpatterns.__file__).parent
FORBIDDEN = {
    "zmq",
    "tornado",
    "asyncio",
    "time",
    "random",
    "logging",
    "structlog",
    "threading",
    "socket",
}


def pure_modules() -> list[Path]:
    """Every file that is to be pure, those of patterns to come included."""
    names = {"core.py", "timing.py", "errors.py", "wire.py", "mmi.py", "events.py"}
    names |= {"broker_state.py", "client_state.py", "queue_state.py", "bstar_state.py"}
    names |= {"calls_state.py", "worker_state.py"}
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name in names or path.name.endswith("_core.py"))


def imports_of(path: Path) -> Iterator[str]:
    """The full names of the modules that a file imports, wherever it does so, for typing included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, "relative imports are banned"
            yield node.module
            # "from zpatterns.mdp import wire" imports a module too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names if file_of(f"{node.module}.{alias.name}"))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "__import__", f"{path} imports behind our back"


def file_of(module: str) -> Path | None:
    """The file of one of our own modules; None for a package, whose modules are asked for one by one."""
    if not module.startswith("zpatterns."):
        return None
    path = PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")
    return path if path.exists() else None


def test_the_pure_modules_are_found():
    found = {str(path.relative_to(PACKAGE)) for path in pure_modules()}
    assert found >= {
        "core.py",
        "calls_core.py",
        "calls_state.py",
        "worker_core.py",
        "worker_state.py",
        "wire.py",
        "timing.py",
        "errors.py",
        "mdp/wire.py",
        "mdp/mmi.py",
        "mdp/broker_state.py",
    }
    assert found >= {"mdp/events.py", "mdp/broker_core.py", "mdp/worker_core.py", "mdp/client_core.py"}


@pytest.mark.parametrize("path", pure_modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_pure_modules_import_nothing_impure_however_far(path):
    """Rule of architecture: no socket, clock, randomness, thread or log in a core, through whatever it imports."""
    seen: set[Path] = set()
    todo = [path]
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        for module in imports_of(current):
            assert module.split(".")[0] not in FORBIDDEN, f"{current} imports {module}"
            ours = file_of(module)
            if ours is not None:
                todo.append(ours)
            elif module.startswith("zpatterns"):
                # "from zpatterns.mdp import wire" names the package beside the module.
                pattern = PACKAGE.joinpath(*module.split(".")[1:])
                assert pattern == current.parent != PACKAGE, f"{current} imports the package {module}, and all of it"


def test_pure_modules_can_be_imported_where_nothing_impure_can():
    """The same by trying: with packages whose ``__init__`` does nothing, nothing forbidden is loaded."""
    modules = [".".join(("zpatterns", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in pure_modules()]
    packages = {
        ".".join(("zpatterns", *path.parent.relative_to(PACKAGE).parts)): str(path.parent) for path in pure_modules()
    }
    program = f"""
import sys, types
for name, path in {packages!r}.items():
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
before = set(sys.modules)
for module in {modules!r}:
    __import__(module)
impure = {{name for name in set(sys.modules) - before if name.split(".")[0] in {FORBIDDEN!r}}}
assert not impure, impure
"""
    result = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr


def test_the_cores_of_majordomo_keep_the_contract():
    """mypy checks the signatures here; this, that each can be asked for everything before anything has happened."""
    broker: ServiceCore = BrokerCore()
    worker: ServiceCore = WorkerCore(
        ["tcp://127.0.0.1:1"], b"echo", version="0.1", liveness=Liveness(1, 3), rng=FixedRng()
    )
    client: Core = ClientCore(["tcp://127.0.0.1:1"], ClientOptions(), FixedRng())
    for core in (broker, client):
        assert not core.ports_to_send()
        assert core.commands() == []
        assert core.events() == []
        assert core.next_timer() is None
        core.handle_timer(1000.0)
        core.check_invariants()
        assert core.statistics() == core.statistics()
    assert not worker.drained
    assert broker.drained
    assert worker.PORTS == broker.PORTS == ("broker",)
    assert client.PORTS == ()


def test_drops_are_counted_by_reason_and_told_once():
    drops = Drops()
    events: list[Event] = []
    drops.tell(events)
    assert events == []
    for reason in ("invalid", "late", "invalid"):
        drops.add(reason)
    drops.tell(events)
    drops.tell(events)
    assert events == [MessagesDropped("invalid", 2), MessagesDropped("late", 1)]
    drops.add("late")
    assert drops.totals == {"invalid": 2, "late": 2}


def test_commands_are_plain_tuples_and_a_close_does_not_linger_unless_told():
    assert Close("broker") == ("broker", 0.0)
    assert {kind.value for kind in SocketKind} == {"ROUTER", "DEALER", "REQ", "REP", "PUB", "SUB"}
