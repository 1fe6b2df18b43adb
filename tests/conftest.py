"""What holds for all tests, and the fixtures of many: driven example cores, plain sockets, handlers that wait."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.example import Bench, OnBlocking, OnReactor
from tests.waiting import DEADLINE
from tests.warm.starting import WarmInterpreter, starting_as_usual
from zpatterns.handlers import Request

PLUGIN = "zpatterns.testing.plugin"


def pytest_configure() -> None:
    """Have child processes load our plugin into their pytest, installed or not, and take SIGINT as they should."""
    # What a shell starts in the background ignores SIGINT, and so would all that it starts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not any(entry.value == PLUGIN for entry in importlib.metadata.entry_points(group="pytest11")):
        os.environ["PYTEST_PLUGINS"] = PLUGIN


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Look for no garbage among what is collected, all of which stays; and begin with :func:`_share`."""
    gc.disable()
    try:
        for path in _share(session):
            # A module that cannot be imported is reported when it is collected.
            with suppress(Exception):
                assert pytest.Module.from_parent(session, path=path.absolute()).obj
        return (yield)
    finally:
        gc.enable()


def _share(session: pytest.Session) -> list[Path]:
    """The test modules that this worker of pytest-xdist imports before the others; each worker has its own.

    In a fresh clone pytest has to rewrite the assertions of each module, which takes longer than all other collecting,
    and each worker needs them all. So each writes the cache of its share, and finds there what the others wrote.
    """
    worker = getattr(session.config, "workerinput", None)
    if worker is None or not all(Path(argument).is_dir() for argument in session.config.args):
        return []
    paths = {path for argument in session.config.args for path in Path(argument).rglob("test_*.py")}
    in_order = sorted(paths, key=lambda path: (path.stat().st_size, path))
    return in_order[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]


def pytest_collection_finish() -> None:
    """Thousands of tests lie in memory, and will till the end: no collection of garbage need look through them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def warm_interpreter() -> Iterator[WarmInterpreter | None]:
    """From which the Python programs of the tests are forked; None where they cannot be, or would not be measured."""
    if sys.platform != "linux" or any(name.startswith("COVERAGE") for name in os.environ):
        yield None
    else:
        with WarmInterpreter() as interpreter:
            yield interpreter


@pytest.fixture(scope="module")
def warm(warm_interpreter: WarmInterpreter | None) -> Iterator[None]:
    """For a module that starts many Python programs: see :mod:`tests.warm.starting`."""
    with ExitStack() as stack:
        if warm_interpreter is not None:
            stack.enter_context(warm_interpreter.forking())
        yield


@pytest.fixture
def cold() -> Iterator[None]:
    """For a test in such a module that is about programs as a user starts them."""
    with starting_as_usual():
        yield


@pytest.fixture(params=[OnReactor, OnBlocking], ids=["reactor", "blocking"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Both drivers, one after the other: ``bench.drive(core)``."""
    with ExitStack() as stack:
        yield Bench(request.param, stack)


@pytest.fixture
def peer() -> Iterator[Callable[..., zmq.Socket[bytes]]]:
    """Makes plain sockets: ``peer(zmq.DEALER, connect=endpoint, RCVHWM=1)``. They wait for 20 s, and no longer."""
    with ExitStack() as stack:
        context: zmq.Context[zmq.Socket[bytes]] = stack.enter_context(zmq.Context())

        def make(kind: int, connect: str = "", bind: str = "", **options: Any) -> zmq.Socket[bytes]:
            socket: zmq.Socket[bytes] = stack.enter_context(context.socket(kind))
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVTIMEO, int(DEADLINE * 1000))
            socket.setsockopt(zmq.SNDTIMEO, int(DEADLINE * 1000))
            for name, value in options.items():
                socket.setsockopt(getattr(zmq, name), value)
            if connect:
                socket.connect(connect)
            if bind:
                socket.bind(bind)
            return socket

        yield make


class Hold:
    """A handler that answers when it is let go; at once if it is asked for ``now``."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.begun: list[bytes] = []

    def __call__(self, request: Request) -> bytes:
        self.begun.append(request.body)
        if request.body != b"now":
            self.release.wait(DEADLINE)
        return request.body


@pytest.fixture
def hold() -> Iterator[Hold]:
    handler = Hold()
    yield handler
    handler.release.set()
