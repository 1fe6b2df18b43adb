"""Both clients of a pair over real sockets, against bare ROUTERs: who is asked when, and what a call ends with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import pytest
import zmq

from tests.plain_callers import Caller, behind_one_face
from tests.waiting import DEADLINE, until
from zpatterns.bstar import AsyncBinaryStarClient, BinaryStarClient
from zpatterns.errors import ClosedError, EndpointError, QueueFull, RemoteError, RequestTimeout

FREE = "tcp://127.0.0.1:*"
NOBODY = "tcp://127.0.0.1:1"
ERROR = b"\x00ZPATTERNS-ERROR\x00"
QUICK: dict[str, Any] = {"heartbeat_interval": 0.1, "liveness": 2}
"""Attempts of 0.1 s and a settle delay of 0.2 s."""


@pytest.fixture(params=[BinaryStarClient, AsyncBinaryStarClient])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Caller]]:
    """Makes clients: ``make(endpoints, retries=0)``."""
    with ExitStack() as stack:

        def caller(*endpoints: str, **options: Any) -> Caller:
            # On a busy machine an attempt may be over before its request has left.
            given = {"timeout": DEADLINE, "retries": 30} | QUICK | options
            made = behind_one_face(request.param(endpoints, **given))
            stack.callback(made.close)
            return made

        yield caller


class Side:
    """A node that does what the test says."""

    def __init__(self, peer: Callable[..., zmq.Socket[bytes]]) -> None:
        self._router = peer(zmq.ROUTER, bind=FREE)
        self.endpoint = self._router.getsockopt(zmq.LAST_ENDPOINT).decode().rstrip("\0")  # type: ignore[union-attr]

    def asked(self) -> tuple[list[bytes], list[bytes]]:
        """The next request: its envelope and its body."""
        frames = self._router.recv_multipart()
        assert frames[1] == b""
        return frames[:2], frames[2:]

    def answers(self, envelope: list[bytes], *body: bytes) -> None:
        self._router.send_multipart([*envelope, *body])

    def serves_once(self, *body: bytes) -> list[bytes]:
        envelope, asked = self.asked()
        self.answers(envelope, *(body or asked))
        return asked

    def serves(self, call: Future[list[bytes]], *body: bytes) -> None:
        """Answer until the call is over: on a slow machine an answer may come after the next attempt."""
        while not call.done():
            if self.was_asked(20):
                self.serves_once(*body)

    def was_asked(self, milliseconds: int = 0) -> bool:
        return bool(self._router.poll(milliseconds))


@pytest.fixture
def primary(peer) -> Side:
    return Side(peer)


@pytest.fixture
def backup(peer) -> Side:
    return Side(peer)


def test_the_primary_is_asked_first_and_all_frames_come_and_go(make, primary, backup):
    call = make(primary.endpoint, backup.endpoint, attempt_timeout=DEADLINE).start(b"a", "ä", b"")
    assert primary.serves_once(b"one", b"", b"three") == [b"a", "ä".encode(), b""]
    assert call.result(DEADLINE) == [b"one", b"", b"three"]
    assert not backup.was_asked()


def test_the_other_side_is_asked_after_the_settle_delay_and_remembered(make, primary, backup):
    caller = make(primary.endpoint, backup.endpoint)
    began = time.monotonic()
    call = caller.start(b"first")
    primary.asked()
    assert backup.serves_once() == [b"first"]
    assert time.monotonic() - began >= 0.1 + 0.2, "an attempt, and the settle delay"
    backup.serves(call)
    assert call.result(DEADLINE) == [b"first"]

    def leaves_the_primary_alone() -> bool:
        while primary.was_asked():
            primary.asked()
        call = caller.start(b"second")
        backup.serves(call)
        assert call.result(DEADLINE) == [b"second"]
        return not primary.was_asked()

    # Where the machine stood still for an attempt and a settle delay it turned to the primary once more.
    until(leaves_the_primary_alone, "it remembers who answered")


def test_it_goes_back_and_forth_until_one_answers(make, primary, backup):
    call = make(primary.endpoint, backup.endpoint).start(b"x")
    primary.asked()
    backup.asked()
    primary.serves(call)
    assert call.result(DEADLINE) == [b"x"]


def test_a_node_that_is_not_there_is_like_one_that_is_silent(make, backup):
    call = make(NOBODY, backup.endpoint).start(b"x")
    backup.serves(call)
    assert call.result(DEADLINE) == [b"x"]


def test_one_deadline_for_attempts_and_settle_delays_together(make, primary, backup):
    caller = make(primary.endpoint, backup.endpoint, timeout=0.5, retries=10)

    def attempts() -> int:
        began = time.monotonic()
        with pytest.raises(RequestTimeout) as caught:
            caller.ask(b"x")
        assert 0.5 <= time.monotonic() - began < DEADLINE / 2
        return caught.value.attempts or 0

    # Where the machine stood still when the second was due there was one.
    until(lambda: attempts() >= 2, "a call of several attempts")
    with pytest.raises(RequestTimeout):
        caller.ask(b"x", timeout=0.05)


def test_the_last_attempt_waits_until_the_deadline(make, primary):
    call = make(primary.endpoint, retries=0).start(b"x")
    envelope, _ = primary.asked()
    with pytest.raises(TimeoutError):
        call.result(0.3)
    primary.answers(envelope, b"late")
    assert call.result(DEADLINE) == [b"late"]


def test_an_answer_of_the_side_that_was_given_up_still_counts(make, primary, backup):
    call = make(primary.endpoint, backup.endpoint).start(b"x")
    first, _ = primary.asked()
    backup.asked()
    primary.answers(first, b"late")
    primary.serves(call, b"late")
    assert call.result(DEADLINE) == [b"late"]


def test_a_node_that_hands_over_says_503_and_the_other_is_asked(make, primary, backup):
    call = make(primary.endpoint, backup.endpoint, attempt_timeout=DEADLINE).start(b"x")
    primary.serves_once(ERROR, b"503", b"the server is shutting down")
    backup.serves_once()
    assert call.result(DEADLINE) == [b"x"]


def test_what_the_handler_raised_is_raised_here(make, primary, backup):
    call = make(primary.endpoint, backup.endpoint, attempt_timeout=DEADLINE).start(b"x")
    primary.serves_once(ERROR, b"ValueError", b"no")
    with pytest.raises(RemoteError) as caught:
        call.result(DEADLINE)
    assert (caught.value.code, caught.value.message) == ("ValueError", "no")


def test_a_call_too_many_and_a_closed_client_are_told_at_once(make, primary):
    caller = make(primary.endpoint, max_in_flight=1, queue_max=1, attempt_timeout=DEADLINE)
    calls = [caller.start(b"0")]
    primary.asked()
    calls.append(caller.start(b"1"))
    statistics = caller.statistics()
    while statistics.waiting < 1:
        statistics = caller.statistics()
    with pytest.raises(QueueFull):
        caller.ask(b"2")
    caller.close()
    for call in calls:
        with pytest.raises(ClosedError):
            call.result(DEADLINE)


@pytest.mark.parametrize("kind", [BinaryStarClient, AsyncBinaryStarClient])
@pytest.mark.parametrize(
    ("endpoints", "options", "error"),
    [
        ([], {}, EndpointError),
        (["nonsense"], {}, EndpointError),
        ([NOBODY], {"timeout": 0}, ValueError),
        ([NOBODY], {"heartbeat_interval": 0.0}, ValueError),
        ([NOBODY], {"liveness": 0}, ValueError),
        ([NOBODY], {"retries": -1}, ValueError),
    ],
)
def test_options_that_make_no_sense(kind, endpoints, options, error):
    with pytest.raises(error):
        kind(endpoints, **options)
