"""The guard finds what was left behind, names it, and keeps still about all else."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import zmq

from tests.waiting import until
from zpatterns.mdp import Broker, Client, Worker
from zpatterns.testing import BackgroundReactor, Guard

NOW = 0.0
"""What is there on purpose need not be waited for."""


@contextlib.contextmanager
def a_thread() -> Iterator[str]:
    leaving = threading.Event()
    thread = threading.Thread(target=leaving.wait, name="left alone")
    thread.start()
    try:
        yield "thread: 'left alone', now in wait ("
    finally:
        leaving.set()
        thread.join()


@contextlib.contextmanager
def a_process() -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        yield f"process: {process.pid}: {sys.executable} -c import sys; sys.stdin.read()"


@contextlib.contextmanager
def a_stopped_process() -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        try:
            yield f"process: {process.pid} (stopped): "
        finally:
            process.kill()


@contextlib.contextmanager
def a_listener() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"socket: TCP listener at 127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def a_connection() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address), listener.accept()[0]:
            yield f" to 127.0.0.1:{address[1]}"


@contextlib.contextmanager
def an_event_loop() -> Iterator[str]:
    loop = asyncio.new_event_loop()
    try:
        yield "socket: Unix socket without a name (an event loop"
    finally:
        loop.close()


@contextlib.contextmanager
def a_zmq_socket() -> Iterator[str]:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        port = router.bind_to_random_port("tcp://127.0.0.1")
        yield f"socket: ZeroMQ ROUTER last bound or connected to tcp://127.0.0.1:{port}"


@contextlib.contextmanager
def a_zmq_socket_without_a_connection() -> Iterator[str]:
    with zmq.Context() as context, context.socket(zmq.DEALER):
        yield "socket: ZeroMQ DEALER without an endpoint"


KINDS = [
    a_thread,
    a_process,
    a_stopped_process,
    a_listener,
    a_connection,
    an_event_loop,
    a_zmq_socket,
    a_zmq_socket_without_a_connection,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_is_left_is_found_and_named_until_it_is_gone(kind):
    guard = Guard()
    with kind() as description:
        until(lambda: description in guard.report("the test", NOW), f"{description!r} is reported")
    assert not guard.leftovers()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_was_there_before_is_none_of_its_business(kind):
    with kind():
        guard = Guard()
        assert not guard.leftovers(NOW)
        with a_thread():
            assert [each.kind for each in guard.leftovers(NOW)] == ["thread"]
            guard.allow()
            assert not guard.leftovers(NOW)


def test_it_waits_for_what_is_about_to_end():
    leaving = threading.Event()
    thread = threading.Thread(target=leaving.wait)
    guard = Guard()
    thread.start()
    threading.Timer(0.2, leaving.set).start()
    assert not guard.leftovers()
    thread.join()


def test_a_block_that_raises_keeps_its_own_error():
    def block() -> None:
        with Guard():
            stack.enter_context(a_thread())
            raise KeyError("what really happened")

    with contextlib.ExitStack() as stack, pytest.raises(KeyError):
        block()


def test_a_block_that_leaves_something_fails(monkeypatch):
    monkeypatch.setattr(Guard.report, "__defaults__", (NOW,))
    with (
        contextlib.ExitStack() as stack,
        pytest.raises(AssertionError, match=r"^this block left behind:\n  thread: 'left"),
        Guard(),
    ):
        stack.enter_context(a_thread())


def test_what_has_ended_without_being_waited_for_is_not_left():
    guard = Guard()
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not guard.leftovers(NOW)
    assert process.wait() == 0


def test_helpers_of_the_standard_library_and_of_pyzmq_are_not_left():
    guard = Guard()
    context = multiprocessing.get_context("spawn")
    context.Semaphore()  # starts the process that tracks such things
    with zmq.Context() as own, own.socket(zmq.PUSH) as push, own.socket(zmq.PULL) as pull:
        pull.connect(f"tcp://127.0.0.1:{push.bind_to_random_port('tcp://127.0.0.1')}")
        push.send(bytes(2**20), copy=False)  # starts the thread that frees such frames
        assert len(pull.recv()) == 2**20
    assert any("zmq.utils.garbage" in type(thread).__module__ for thread in threading.enumerate())
    assert not guard.leftovers()


def test_our_own_services_and_clients_leave_nothing():
    def handle(request):
        return request.frames

    with Guard(), BackgroundReactor() as reactor:
        broker = reactor.start(Broker("tcp://127.0.0.1:*"))
        reactor.start(Worker(broker.endpoint, service="echo", handler=handle, concurrency=2))
        with Client(broker.endpoint) as client:
            assert client.request("echo", "x") == [b"x"]


def test_without_proc_it_asks_ps(monkeypatch):
    is_directory = os.path.isdir
    monkeypatch.setattr(os.path, "isdir", lambda path: path != "/proc/self/task" and is_directory(path))
    guard = Guard()
    with a_process() as description:
        until(lambda: description in guard.report("the test", NOW), "found")
    until(lambda: not guard.leftovers(NOW), "gone")
