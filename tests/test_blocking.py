"""The blocking driver: threads that wait take turns at the sockets, and nobody waits for longer than he must."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import pytest
import zmq

from tests.example import CallerCore, EchoCore, OnReactor, Told, endpoint_of
from tests.waiting import DEADLINE, until
from zpatterns.blocking import BlockingDriver, Waiter
from zpatterns.clone.watches import Watch
from zpatterns.errors import ClosedError
from zpatterns.telemetry import Telemetry


class Caller:
    """What a front end does with a :class:`BlockingDriver`: each call waits for the echo of its own body."""

    def __init__(self) -> None:
        self.core = CallerCore()
        self.driver = BlockingDriver(self.core, telemetry=Telemetry("example"), on_command=lambda command: None)

    def do(self, method: Callable[..., Any], *args: Any) -> None:
        self.driver.submit(lambda: self.driver.call(method, *args))

    def wait(self, ready: Callable[[], bool], seconds: float = DEADLINE) -> bool:
        return self.driver.wait(Waiter(ready), time.monotonic() + seconds)

    def ask(self, body: bytes, seconds: float = DEADLINE) -> bool:
        self.do(self.core.send, "back", [body])
        return self.wait(lambda: [body] in self.core.received, seconds)


class InThread(threading.Thread):
    """A call that may take as long as it likes; :meth:`result` may not."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        self.join(DEADLINE)
        assert not self.is_alive(), "it never returned"
        if self._error is not None:
            raise self._error
        return self._result


@pytest.fixture
def caller() -> Iterator[Caller]:
    made = Caller()
    yield made
    made.driver.close()


@pytest.fixture
def echo() -> Iterator[str]:
    """The endpoint of a server that answers at once."""
    server = OnReactor(EchoCore())
    yield server.bind()
    server.close()


@pytest.fixture
def silent(peer) -> Any:
    """A plain ROUTER, which answers when the test says so."""
    return peer(zmq.ROUTER, bind="tcp://127.0.0.1:*")


def waiters(caller: Caller) -> int:
    return len(caller.driver._waiters)


class TestOneThread:
    def test_a_call_needs_no_other_thread(self, caller, echo):
        before = threading.active_count()
        caller.do(caller.core.connect, echo)
        for number in range(100):
            assert caller.ask(b"%d" % number)
        assert threading.active_count() == before

    def test_nothing_happens_while_nobody_calls(self, caller, silent):
        caller.do(caller.core.connect, endpoint_of(silent))
        assert not caller.ask(b"question", 0.05)
        # On a slow machine the connection is there only later, and while nobody calls nothing is sent on it either.
        until(lambda: silent.poll(0) or caller.wait(lambda: False, 0.01), "the question")
        silent.send_multipart(silent.recv_multipart())
        until(lambda: caller.driver.links["back"].events(), "the answer, in the socket")
        assert caller.core.received == []
        assert caller.wait(lambda: bool(caller.core.received))

    def test_a_wait_ends_at_its_deadline(self, caller, silent):
        caller.do(caller.core.connect, endpoint_of(silent))
        began = time.monotonic()
        assert not caller.ask(b"question", 0.1)
        assert time.monotonic() - began >= 0.1

    def test_what_is_ready_is_not_waited_for(self, caller):
        assert caller.wait(lambda: True, 0.0)

    def test_a_timer_runs_while_one_waits(self, caller):
        caller.core.on_timer = lambda now: caller.core.tell("timer")
        caller.do(caller.core.set_timer, time.monotonic() + 0.02)
        began = time.monotonic()
        assert caller.wait(lambda: caller.core.timers == 1, 60.0)
        assert time.monotonic() - began < DEADLINE

    def test_an_exception_in_work_is_reported(self, caller, caplog):
        caplog.set_level(logging.ERROR, logger="zpatterns")

        def work() -> None:
            raise RuntimeError("the work broke")

        caller.driver.submit(work)
        assert [record.getMessage().split()[0] for record in caplog.records] == ["work_failed"]


class TestManyThreads:
    def test_each_gets_what_it_waits_for(self, caller, echo):
        caller.do(caller.core.connect, echo)

        def ask(thread: int) -> bool:
            return all(caller.ask(b"%d of %d" % (number, thread)) for number in range(60))

        threads = [InThread(partial(ask, thread)) for thread in range(12)]
        assert all(thread.result() for thread in threads)
        assert sorted(caller.core.received) == sorted([b"%d of %d" % (n, t)] for n in range(60) for t in range(12))

    def test_the_work_of_others_is_done_by_who_leads(self, caller, silent):
        caller.do(caller.core.connect, endpoint_of(silent))
        leader = InThread(lambda: caller.ask(b"first"))
        silent_id = silent.recv_multipart()[0]
        done_by: list[threading.Thread] = []
        caller.driver.submit(lambda: done_by.append(threading.current_thread()))
        until(lambda: done_by, "the work")
        assert done_by == [leader]
        silent.send_multipart([silent_id, b"first"])
        assert leader.result()
        caller.driver.submit(lambda: done_by.append(threading.current_thread()))
        assert done_by == [leader, threading.current_thread()]

    def test_the_lead_is_handed_on(self, caller, silent):
        """Whoever leads may leave first: those who still wait go on."""
        caller.do(caller.core.connect, endpoint_of(silent))
        asked = {}
        threads = {}
        for name in (b"one", b"two", b"three"):
            threads[name] = InThread(partial(caller.ask, name))
            asked[name] = silent.recv_multipart()
        for name, thread in threads.items():
            silent.send_multipart(asked.pop(name))
            assert thread.result()

    def test_a_follower_is_told_at_once(self, caller, silent):
        """It need not wait for the leader to leave."""
        caller.do(caller.core.connect, endpoint_of(silent))
        leader = InThread(partial(caller.ask, b"first", 60.0))
        first = silent.recv_multipart()
        follower = InThread(partial(caller.ask, b"second", 60.0))
        silent.send_multipart(silent.recv_multipart())
        assert follower.result()
        silent.send_multipart(first)
        assert leader.result()

    def test_a_follower_leaves_at_its_deadline(self, caller, silent):
        caller.do(caller.core.connect, endpoint_of(silent))
        leader = InThread(lambda: caller.ask(b"first"))
        first = silent.recv_multipart()
        assert not caller.ask(b"second", 0.05)
        silent.send_multipart(first)
        assert leader.result()

    def test_a_leader_that_gives_up_takes_nobody_with_it(self, caller, silent):
        caller.do(caller.core.connect, endpoint_of(silent))
        leader = InThread(lambda: caller.ask(b"first", 0.2))
        silent.recv_multipart()
        follower = InThread(lambda: caller.ask(b"second"))
        second = silent.recv_multipart()
        assert not leader.result()
        silent.send_multipart(second)
        assert follower.result()

    def test_one_whose_call_ends_with_the_last_work_of_the_leader_is_woken(self, caller):
        """The leader does the work that came while it was leaving; who had waited for just that slept on."""
        over: list[bool] = []
        held = threading.Event()

        def leave() -> bool:
            if not held.is_set():
                return False
            caller.driver.submit(lambda: over.append(True))  # what another thread would bring in this moment
            return True

        leader = InThread(lambda: caller.wait(leave))
        until(lambda: waiters(caller) == 1, "the leader")
        began = time.monotonic()
        follower = InThread(lambda: caller.wait(lambda: bool(over), 60.0))
        until(lambda: waiters(caller) == 2, "the follower")
        held.set()
        caller.driver.submit(lambda: None)  # a reason to look
        assert leader.result()
        assert follower.result()
        assert time.monotonic() - began < DEADLINE

    def test_work_that_ends_a_wait_ends_it_at_once(self, caller, silent):
        """The leader did the work of another thread and went back to its poll, with nobody told."""
        caller.do(caller.core.connect, endpoint_of(silent))
        leader = InThread(partial(caller.ask, b"first", 60.0))
        first = silent.recv_multipart()
        over = threading.Event()
        follower = InThread(partial(caller.wait, over.is_set, 60.0))
        until(lambda: waiters(caller) == 2, "both wait")
        caller.driver.submit(over.set)
        assert follower.result()
        assert leader.is_alive()
        silent.send_multipart(first)
        assert leader.result()

    def test_an_exception_in_the_work_of_one_does_not_end_the_wait_of_another(self, caller, silent):
        caller.do(caller.core.connect, endpoint_of(silent))
        leader = InThread(lambda: caller.ask(b"first"))
        first = silent.recv_multipart()

        def work() -> None:
            raise RuntimeError("the work broke")

        caller.driver.submit(work)
        silent.send_multipart(first)
        assert leader.result()

    def test_threads_come_and_go(self, caller, echo):
        """Short waits and long ones, in any order: nobody is forgotten, and at the end nobody leads."""
        caller.do(caller.core.connect, echo)

        def ask(thread: int) -> None:
            for number in range(40):
                body = b"%d of %d" % (number, thread)
                if number % 3 == thread % 3:
                    caller.ask(body, 0.0)
                else:
                    assert caller.ask(body)

        for thread in [InThread(partial(ask, thread)) for thread in range(8)]:
            thread.result()
        assert not caller.driver._leading
        assert not waiters(caller)


class TestClosing:
    def test_closed_is_closed(self, caller, echo):
        caller.do(caller.core.connect, echo)
        assert caller.ask(b"question")
        context = caller.driver._own_context
        caller.driver.close()
        caller.driver.close()
        until(lambda: context.closed, "the context was closed")
        with pytest.raises(ClosedError, match="example is closed"):
            caller.driver.submit(lambda: None)

    def test_those_who_wait_are_woken(self, caller, silent):
        caller.do(caller.core.connect, endpoint_of(silent))
        threads = [InThread(partial(caller.ask, b"%d" % number, 60.0)) for number in range(5)]
        until(lambda: waiters(caller) == 5, "all wait")
        caller.driver.close()
        assert [thread.result() for thread in threads] == [False] * 5
        until(lambda: caller.driver._own_context.closed, "the context was closed")

    def test_it_does_not_wait_for_those_who_have_left(self, caller):
        """The last to leave did not say so, and closing took all of its patience, five seconds."""
        over = threading.Event()
        threads = [InThread(partial(caller.wait, over.is_set, 60.0)) for _ in range(5)]
        until(lambda: waiters(caller) == 5, "all wait")
        began = time.monotonic()
        caller.driver.submit(over.set)
        caller.driver.close()
        assert time.monotonic() - began < 5.0
        assert all(thread.result() for thread in threads)

    def test_a_callback_that_closes_does_not_wait_for_the_turn_that_called_it(self, caller):
        began = time.monotonic()
        caller.driver.submit(caller.driver.close)
        assert time.monotonic() - began < 4  # else it waits five seconds, and then leaves the context open
        until(lambda: caller.driver._own_context.closed, "the context was closed")

    def test_two_threads_may_close_at_once(self, caller, silent):
        caller.do(caller.core.connect, endpoint_of(silent))
        waiting = InThread(lambda: caller.ask(b"question", 60.0))
        until(lambda: waiters(caller) == 1, "it waits")
        closing = [InThread(caller.driver.close) for _ in range(4)]
        for thread in closing:
            thread.result()
        assert not waiting.result()
        until(lambda: caller.driver._own_context.closed, "the context was closed")

    def test_events_are_told_to_the_end(self, echo):
        told: list[Any] = []
        core = CallerCore()
        driver = BlockingDriver(core, telemetry=Telemetry("example", told.append), on_command=lambda command: None)
        driver.submit(lambda: driver.call(core.tell, "the last"))
        driver.close()
        assert told == [Told("the last")]


INTERRUPTED = """
import sys, threading, time
sys.path[:0] = {path!r}
from tests.example import CallerCore
from tests.test_blocking import Caller

caller = Caller()
caller.do(caller.core.connect, {endpoint!r})
other = []
def ask():
    other.append(caller.ask(b"other", 30.0))
thread = threading.Thread(target=ask)
begun = []
def look():
    if not begun:
        begun.append(True)
        if {leads!r}:
            thread.start()
        print("waiting", flush=True)
    return False
if not {leads!r}:
    thread.start()
    while not caller.driver._waiters:
        time.sleep(0.001)
try:
    caller.wait(look, 60.0)
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert caller.ask(b"after")
thread.join(30.0)
assert other == [True], other
caller.driver.close()
print("closed", flush=True)
"""


@pytest.mark.parametrize("leads", [True, False])
def test_ctrl_c_ends_a_wait_and_nothing_else(silent, leads):
    """The thread that is interrupted leaves, leader or not; the other's call and the next one are answered."""
    script = INTERRUPTED.format(path=sys.path, endpoint=endpoint_of(silent), leads=leads)
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )
        stack.callback(process.kill)
        other = silent.recv_multipart()
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"interrupted\n"
        after = silent.recv_multipart()
        assert after[1] == b"after"
        silent.send_multipart(after)
        silent.send_multipart(other)
        output, _ = process.communicate(timeout=DEADLINE)
        assert output == b"closed\n"
        assert process.returncode == 0


def interrupted_elsewhere(wait: Callable[[], Any]) -> None:
    """SIGINT while this thread waits, of which another one is given notice: nothing wakes this one."""
    over = threading.Event()

    def interrupt() -> None:
        over.wait(0.1)  # until this one waits, if the machine has time for it
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)

    def begin_and_wait() -> None:
        thread.start()
        wait()

    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        begin_and_wait()
    assert time.monotonic() - begun < DEADLINE / 2, "it was heard of when the wait was over"
    thread.join(DEADLINE)


class TestInterrupts:
    """Python may raise KeyboardInterrupt anywhere in the main thread, as the tests are: nothing is left halfway."""

    @pytest.fixture(autouse=True)
    def interrupts(self) -> Iterator[None]:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        assert signal.signal(signal.SIGINT, before) is signal.default_int_handler, "and the handler is the program's"

    def test_a_turn_is_carried_out_to_its_end(self, caller, echo):
        caller.do(caller.core.connect, echo)

        def interrupted() -> None:
            signal.raise_signal(signal.SIGINT)
            caller.core.send("back", [b"of another thread"])

        with pytest.raises(KeyboardInterrupt):
            caller.do(interrupted)
        assert caller.wait(lambda: [b"of another thread"] in caller.core.received)

    def test_the_lead_is_given_up(self, caller, echo):
        caller.do(caller.core.connect, echo)
        asked: list[bool] = []

        def ready() -> bool:
            if not asked:
                signal.raise_signal(signal.SIGINT)
            asked.append(True)
            return False

        with pytest.raises(KeyboardInterrupt):
            caller.wait(ready)
        assert InThread(lambda: caller.ask(b"in a thread")).result()
        assert caller.ask(b"here")

    def test_one_wait_within_another_puts_it_off_too(self, caller, echo):
        """A callback of a turn may call another client."""
        caller.do(caller.core.connect, echo)
        other = Caller()
        done: list[bool] = []

        def work() -> None:
            signal.raise_signal(signal.SIGINT)
            done.append(other.wait(lambda: False, 0.01))

        with pytest.raises(KeyboardInterrupt):
            caller.do(work)
        assert done == [False]
        other.driver.close()

    def test_what_no_wait_was_woken_by_is_heard_soon(self, caller, echo):
        """It came just before the wait, or another thread was given it."""
        interrupted_elsewhere(lambda: caller.wait(lambda: False, DEADLINE))
        leader = InThread(lambda: caller.wait(lambda: False, DEADLINE))
        until(lambda: caller.driver._leading, "another one leads")
        interrupted_elsewhere(lambda: caller.wait(lambda: False, DEADLINE))
        interrupted_elsewhere(lambda: Watch("", 10).get(DEADLINE))
        caller.driver.close()
        assert leader.result() is False

    def test_a_program_that_ignores_it_still_does(self, caller, echo):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        caller.do(caller.core.connect, echo)
        caller.do(lambda: signal.raise_signal(signal.SIGINT))
        assert caller.ask(b"after")
        assert signal.signal(signal.SIGINT, signal.default_int_handler) is signal.SIG_IGN
