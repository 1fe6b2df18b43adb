"""ClientCore and its attempts: windows, back-off, the next broker, and what a refusal leads to."""

from __future__ import annotations

import random

import pytest

from tests.harness import START, ClientHarness
from zpatterns.core import Close, Deliver, Fail, Open
from zpatterns.errors import RemoteError, RequestTimeout
from zpatterns.mdp.client_core import ClientCore, ClientOptions
from zpatterns.mdp.events import AttemptFailed

ERROR = b"\x00ZPATTERNS-ERROR\x00"
ENDPOINT = "tcp://127.0.0.1:5555"


def answered(*body: bytes, service: bytes = b"echo") -> list[bytes]:
    """A REPLY as the client's DEALER receives it."""
    return [b"", b"MDPC01", service, *(body or (b"world",))]


def failed(client: ClientHarness) -> list[tuple[int, type[Exception]]]:
    return [(command.call, type(command.error)) for command in client.asked(Fail)]


# Attempts.


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_attempts_begin_in_their_windows_after_a_back_off(share):
    """Windows of timeout / (retries + 1); the back-off is taken out of the next attempt's window."""
    client = ClientHarness(share=share, timeout=8, retries=3)
    client.call(1)
    client.sent()
    for window, limit in ((2, 0.5), (4, 1.0), (6, 1.0)):
        begins = START + window + limit * share
        assert client.until(begins - 0.0001) == []
        assert client.until(begins) == [[b"", b"MDPC01", b"echo", b"hello"]]
    client.until(START + 7.999)
    assert failed(client) == []
    client.until(START + 8)
    assert failed(client) == [(1, RequestTimeout)]


@pytest.mark.parametrize("retries", [0, 1, 5])
def test_a_call_makes_one_attempt_more_than_retries(retries):
    client = ClientHarness(timeout=6, retries=retries)
    client.call(1)
    assert len(client.until(START + 6)) == retries + 1
    asked = client.asked()
    (failure,) = [command.error for command in asked if isinstance(command, Fail)]
    assert isinstance(failure, RequestTimeout)
    assert isinstance(failure, TimeoutError)
    assert failure.attempts == retries + 1
    assert failure.elapsed == pytest.approx(6)
    assert (failure.service, failure.endpoint) == ("echo", ENDPOINT)
    assert client.statistics.timeouts == 1


def test_attempt_timeout_of_its_own():
    client = ClientHarness(timeout=10, retries=3, attempt_timeout=0.5)
    client.call(1)
    client.until(START + 1.99)
    assert client.statistics.attempts == 4
    client.until(START + 2)
    assert failed(client) == [(1, RequestTimeout)]


def test_the_deadline_ends_a_call_in_the_middle_of_an_attempt():
    client = ClientHarness(timeout=3, retries=3, attempt_timeout=2)
    client.call(1)
    client.until(START + 2.999)
    assert failed(client) == []
    client.until(START + 3)
    assert failed(client) == [(1, RequestTimeout)]


@pytest.mark.parametrize("refused", [False, True])
def test_the_deadline_ends_a_call_in_the_middle_of_a_back_off(refused):
    """R2: at its deadline at the latest; the back-off before another attempt may reach beyond it."""
    client = ClientHarness(timeout=8, retries=3, attempt_timeout=3.9, share=0.999)
    port = client.call(1)
    if refused:
        client.until(START + 7.5)
        client.give(answered(ERROR, b"429", b"full"), port=client.out[-1][0])
        client.give(answered(ERROR, b"429", b"full"), port=port)
    client.until(START + 7.999)
    assert failed(client) == []
    client.until(START + 8)
    assert failed(client) == [(1, RequestTimeout)]


def test_a_call_may_have_a_timeout_of_its_own():
    client = ClientHarness(timeout=8, retries=1)
    client.call(1, timeout=2.0)
    client.until(START + 1)
    assert client.events(AttemptFailed) == [AttemptFailed(b"echo", ENDPOINT, 1, "no answer")]
    client.until(START + 2)
    assert failed(client) == [(1, RequestTimeout)]


def test_a_late_reply_to_an_earlier_attempt_still_counts():
    client = ClientHarness()
    first = client.call(1)
    client.until(START + 5)
    client.asked()
    client.give(answered(b"late"), port=first)
    asked = client.asked()
    assert [command for command in asked if isinstance(command, Deliver)] == [Deliver(1, [b"late"], True)]
    assert {command.port for command in asked if isinstance(command, Close)} == {first + 1, first + 2}
    assert client.statistics.connections == 1
    assert client.until(START + 20) == []


def test_an_attempt_turns_to_the_next_broker_and_later_calls_begin_there():
    client = ClientHarness("tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp://127.0.0.1:3")
    client.call(1)
    client.until(START + 3)
    client.call(2)
    opened = [command.endpoint for command in client.asked(Open)]
    assert opened == ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp://127.0.0.1:2"]


def test_without_retries_the_next_call_turns_to_the_next_broker():
    """A call that ends at its deadline has found its broker wanting as much as one that goes on."""
    client = ClientHarness("tcp://127.0.0.1:1", "tcp://127.0.0.1:2", timeout=2, retries=0)
    client.call(1)
    client.until(START + 2)
    assert failed(client) == [(1, RequestTimeout)]
    assert client.events(AttemptFailed) == [AttemptFailed(b"echo", "tcp://127.0.0.1:1", 1, "no answer")]
    client.call(2)
    assert [command.endpoint for command in client.asked(Open)] == ["tcp://127.0.0.1:2"]


def test_many_calls_to_a_dead_broker_turn_to_the_next_but_once():
    client = ClientHarness("tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp://127.0.0.1:3")
    for number in range(10):
        client.call(number)
    client.until(START + 3)
    endpoints = [command.endpoint for command in client.asked(Open)]
    assert endpoints == ["tcp://127.0.0.1:1"] * 10 + ["tcp://127.0.0.1:2"] * 10


def test_a_call_that_fails_elsewhere_does_not_turn_later_calls_back():
    client = ClientHarness("tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp://127.0.0.1:3", retries=0)
    client.call(1, timeout=3.0)
    client.call(2, timeout=1.0)
    client.until(START + 1)
    client.call(3, timeout=1.0)
    client.until(START + 3)  # the third fails at 2, the first at 1 only now
    client.asked()
    client.call(4)
    assert [command.endpoint for command in client.asked(Open)] == ["tcp://127.0.0.1:3"]


def test_retries_of_many_clients_spread_over_their_windows():
    """No retry storm: clients that failed together do not come again together."""
    moments = []
    for seed in range(200):
        core = ClientCore([ENDPOINT], ClientOptions(timeout=8, retries=3), random.Random(seed))
        core.start_call(1, b"echo", [b"x"], 0.0)
        core.handle_timer(2.0)
        core.commands()
        timer = core.next_timer()
        assert timer is not None
        moments.append(timer)
    assert min(moments) < 2.05
    assert 2.45 < max(moments) <= 2.5
    buckets = [sum(2 + tenth / 10 <= moment < 2.1 + tenth / 10 for moment in moments) for tenth in range(5)]
    assert min(buckets) > 20


# What a broker or worker refuses.


def test_an_error_reply_of_a_handler_is_a_remote_error():
    client = ClientHarness()
    port = client.call(1)
    client.now += 0.5
    client.give(answered(ERROR, b"ValueError", "größer".encode()), port=port)
    (failure,) = [command.error for command in client.asked(Fail)]
    assert isinstance(failure, RemoteError)
    assert (failure.code, failure.message, failure.service) == ("ValueError", "größer", "echo")
    assert (failure.attempts, failure.elapsed, failure.endpoint) == (1, 0.5, ENDPOINT)
    assert client.statistics.connections == 1, "the connection is as good as ever"


@pytest.mark.parametrize("body", [[ERROR], [ERROR, b"404"], [ERROR, b"404", b"x", b"y"], [b"x", b"404", b"text"]])
def test_what_only_looks_like_an_error_is_a_reply(body):
    client = ClientHarness()
    client.give(answered(*body), port=client.call(1))
    assert client.asked(Deliver) == [Deliver(1, body, True)]


@pytest.mark.parametrize("code", [b"429", b"503"])
def test_a_refusal_by_the_broker_is_tried_again_after_a_back_off(code):
    client = ClientHarness()
    port = client.call(1)
    client.give(answered(ERROR, code, b"busy"), port=port, at=START + 0.1)
    assert client.events(AttemptFailed) == [AttemptFailed(b"echo", ENDPOINT, 1, f"refused with {code.decode()}")]
    assert client.until(START + 0.34) == []
    assert len(client.until(START + 0.36)) == 1
    client.give(answered(b"fine"), port=port)
    assert client.asked(Deliver) == [Deliver(1, [b"fine"], True)]


@pytest.mark.parametrize("code", [b"502", b"too-large", b"handler-timeout", b"KeyError"])
def test_an_error_of_a_request_that_was_begun_is_not_tried_again(code):
    client = ClientHarness()
    client.give(answered(ERROR, code, b"text"), port=client.call(1))
    assert failed(client) == [(1, RemoteError)]
    assert client.advance(100) == []


def test_refused_every_time_the_call_ends_with_the_refusal():
    client = ClientHarness(timeout=8, retries=2)
    port = client.call(1)
    for _ in range(2):
        client.give(answered(ERROR, b"429", b"full"), port=port)
        client.advance(1.5)
        assert client.out[-1][0] == port
    client.give(answered(ERROR, b"429", b"full"), port=port)
    (failure,) = [command.error for command in client.asked(Fail)]
    assert isinstance(failure, RemoteError)
    assert (failure.code, failure.attempts) == ("429", 3)


def test_a_refusal_does_not_end_an_earlier_attempt_that_may_still_be_answered():
    client = ClientHarness()
    first = client.call(1)
    client.until(START + 2.5)
    second = client.out[-1][0]
    client.give(answered(ERROR, b"429", b"full"), port=second)
    assert failed(client) == []
    client.give(answered(b"from the first"), port=first)
    assert client.asked(Deliver) == [Deliver(1, [b"from the first"], True)]


def test_a_refusal_of_the_last_attempt_does_not_end_an_earlier_one():
    client = ClientHarness(timeout=8, retries=1)
    first = client.call(1)
    client.until(START + 6)
    client.give(answered(ERROR, b"429", b"full"), port=client.out[-1][0])
    client.until(START + 7.9)
    assert failed(client) == []
    client.give(answered(b"at last"), port=first)
    assert client.asked(Deliver) == [Deliver(1, [b"at last"], True)]
