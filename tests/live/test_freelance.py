"""Freelance among real server processes that are killed, stopped and started again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.plain_callers import Caller, behind_one_face
from tests.waiting import DEADLINE, until
from zpatterns.errors import ZPatternsError
from zpatterns.freelance import AsyncFreelanceClient, FreelanceClient
from zpatterns.testing import ManagedProcess

CALLERS = 16
ATTEMPT = 2.5
"""Seconds; ten for the call, of four attempts."""


@contextlib.contextmanager
def servers(count: int) -> Iterator[list[ManagedProcess]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                ManagedProcess.command(
                    *("freelance", "server", "--bind", "tcp://127.0.0.1:*", "--concurrency", "4"),
                    *("--log-format", "json"),
                )
            )
            for _ in range(count)
        ]


class Load:
    """So many callers of one client, who ask without a pause and keep account of what they are told."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.answered = 0
        self.wrong: list[object] = []
        self.errors: list[ZPatternsError] = []
        self.durations: list[float] = []
        self._stopping = False
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CALLERS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join(DEADLINE)
            assert not thread.is_alive()

    def more(self, answers: int) -> None:
        """Wait for so many more answers."""
        wanted = self.answered + answers
        until(lambda: self.answered >= wanted or self.errors or self.wrong, "calls are answered")

    def _ask(self, lane: int) -> None:
        number = 0
        while not self._stopping:
            number += 1
            body = b"%d of %d" % (number, lane)
            began = time.monotonic()
            try:
                reply = self.caller.ask(body)
            except ZPatternsError as error:
                self.errors.append(error)
            else:
                if reply != [body]:
                    self.wrong.append((body, reply))
                self.answered += 1
            self.durations.append(time.monotonic() - began)


def _is(caller: Caller, server: ManagedProcess, health: str) -> bool:
    return bool(caller.statistics().servers[server.endpoint] == health)


@pytest.fixture(params=[FreelanceClient, AsyncFreelanceClient])
def kind(request):
    return request.param


def test_one_of_three_servers_is_killed_under_load_and_no_call_fails(kind):
    """The slowest call takes less than two attempts: the one at the dead server, and a short one."""
    with servers(3) as running:
        caller = behind_one_face(kind([server.endpoint for server in running], timeout=4 * ATTEMPT))
        with contextlib.closing(caller), Load(caller) as load:
            load.more(300)
            running[0].kill()
            load.more(300)
        assert not load.errors
        assert not load.wrong
        assert max(load.durations) < 2 * ATTEMPT
        assert caller.statistics().servers[running[0].endpoint] == "down"


def test_servers_are_killed_and_restarted_in_turn_under_load(kind):
    with servers(2) as running:
        endpoints = [server.endpoint for server in running]
        caller = behind_one_face(kind(endpoints, timeout=DEADLINE, attempt_timeout=1.0, heartbeat_interval=0.5))
        with contextlib.closing(caller), Load(caller) as load:
            for server in running:
                load.more(100)
                server.kill()
                until(partial(_is, caller, server, "down"), "it is missed")
                load.more(100)
                server.start()
                until(partial(_is, caller, server, "up"), "it is back")
        assert not load.errors
        assert not load.wrong


def test_a_server_that_is_stopped_is_given_up_and_found_again_when_it_goes_on(kind):
    with servers(2) as running:
        endpoints = [server.endpoint for server in running]
        caller = behind_one_face(kind(endpoints, timeout=DEADLINE, attempt_timeout=1.0, heartbeat_interval=0.3))
        with contextlib.closing(caller):
            assert caller.ask(b"before") == [b"before"]
            running[0].pause()
            until(lambda: caller.statistics().servers[endpoints[0]] == "down", "though nobody calls, it is missed")
            assert caller.ask(b"meanwhile") == [b"meanwhile"]
            running[0].resume()
            until(lambda: caller.statistics().servers[endpoints[0]] == "up", "and found again")
            attempts = caller.statistics().attempts
            assert caller.ask(b"after") == [b"after"]
            assert caller.statistics().attempts == attempts + 1
