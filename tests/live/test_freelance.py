"""Freelance among real server processes that are killed, stopped and started again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import pytest

from tests.live.load import Callers
from tests.plain_callers import Caller, behind_one_face
from tests.waiting import DEADLINE, until
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


def _is(caller: Caller, server: ManagedProcess, health: str) -> bool:
    return bool(caller.statistics().servers[server.endpoint] == health)


@pytest.fixture(params=[FreelanceClient, AsyncFreelanceClient])
def kind(request):
    return request.param


def test_one_of_three_servers_is_killed_under_load_and_no_call_fails(kind):
    """The slowest call takes less than two attempts: the one at the dead server, and a short one."""
    with servers(3) as running:
        caller = behind_one_face(kind([server.endpoint for server in running], timeout=4 * ATTEMPT))
        with contextlib.closing(caller), Callers(*[caller.ask] * CALLERS, timeout=4 * ATTEMPT) as load:
            load.more(300)
            running[0].kill()
            load.more(300)
        assert load.longest < 2 * ATTEMPT
        assert caller.statistics().servers[running[0].endpoint] == "down"


def test_servers_are_killed_and_restarted_in_turn_under_load(kind):
    with servers(2) as running:
        endpoints = [server.endpoint for server in running]
        caller = behind_one_face(kind(endpoints, timeout=DEADLINE, attempt_timeout=1.0, heartbeat_interval=0.5))
        with contextlib.closing(caller), Callers(*[caller.ask] * CALLERS, timeout=DEADLINE) as load:
            for server in running:
                load.more(100)
                server.kill()
                until(partial(_is, caller, server, "down"), "it is missed")
                load.more(100)
                server.start()
                until(partial(_is, caller, server, "up"), "it is back")


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
