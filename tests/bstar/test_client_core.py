"""StarClientCore: one side, a time-out, a settle delay, the other side, and one deadline for all of it."""

from __future__ import annotations

import pytest

from tests.bstar.star_harness import StarClient
from tests.harness import START
from tests.pirate.lazy_harness import ERROR
from zpatterns.bstar.client_core import ClientOptions
from zpatterns.core import Deliver, Fail
from zpatterns.errors import RemoteError, RequestTimeout

A, B = "tcp://a:1", "tcp://b:1"


def asked(client: StarClient) -> list[tuple[float, str]]:
    return [(at - START, endpoint) for at, endpoint, _ in client.out]


def test_the_primary_is_asked_first_with_the_frames_of_a_req():
    client = StarClient()
    client.call(1, b"hello", b"there")
    assert client.out == [(START, A, [b"", b"hello", b"there"])]
    client.give([b"", b"world"], port=client.ports[0])
    assert client.asked(Deliver) == [Deliver(1, [b"world"], True)]


def test_no_answer_waits_for_the_settle_delay_and_asks_the_other_side():
    client = StarClient()
    client.call(1)
    client.advance(9.99)
    assert asked(client) == [(0.0, A), (3.0, B), (6.0, A), (9.0, B)]


def test_the_last_attempt_waits_until_the_deadline():
    client = StarClient(retries=1)
    client.call(1)
    client.advance(9.9)
    assert asked(client) == [(0.0, A), (3.0, B)]
    assert client.asked(Fail) == []
    client.advance(0.1)
    [fail] = client.asked(Fail)
    assert isinstance(fail.error, RequestTimeout)
    assert fail.error.attempts == 2
    assert fail.error.elapsed == pytest.approx(10.0)


def test_one_deadline_for_the_whole_call_settle_delays_included():
    client = StarClient()
    client.call(1, timeout=2.0)
    client.advance(2.0)
    assert asked(client) == [(0.0, A)]
    assert len(client.asked(Fail)) == 1
    client.advance(10.0)
    assert asked(client) == [(0.0, A)], "and nothing is sent for a call that is over"


def test_the_active_is_remembered():
    client = StarClient()
    client.call(1)
    client.advance(3.0)
    client.give([b"", b"world"], port=client.ports[1])
    client.call(2)
    assert asked(client)[-1] == (3.0, B)


def test_calls_made_meanwhile_wait_for_the_settle_delay_too():
    client = StarClient()
    client.call(1)
    client.advance(1.5)
    client.call(2)
    client.advance(1.4)
    assert asked(client) == [(0.0, A)]
    client.advance(0.1)
    assert asked(client)[1:] == [(3.0, B), (3.0, B)]
    client.advance(0.99)
    assert len(client.out) == 3, "a whole attempt begins with the sending"


def test_calls_that_fail_together_turn_once():
    client = StarClient()
    for number in (1, 2, 3):
        client.call(number)
    client.advance(3.5)
    assert asked(client) == [(0.0, A)] * 3 + [(3.0, B)] * 3


def test_a_late_answer_counts_and_brings_back_who_waits():
    client = StarClient()
    client.call(1)
    client.call(2)
    client.advance(1.5)
    client.give([b"", b"late"], port=client.ports[0])
    assert client.asked(Deliver) == [Deliver(1, [b"late"], True)]
    client.advance(0.01)
    assert asked(client)[2:] == [(1.5, A)], "the other call, at once, and where the answer came from"


def test_a_refusal_is_an_attempt_that_failed():
    client = StarClient()
    client.call(1)
    client.give([b"", ERROR, b"503", b"the server is shutting down"], port=client.ports[0])
    client.advance(1.9)
    assert asked(client) == [(0.0, A)]
    client.advance(0.2)
    assert asked(client)[1:] == [(2.0, B)]


def test_a_side_that_has_no_room_is_asked_again_for_it_is_the_one_that_serves():
    client = StarClient()
    client.call(1)
    client.give([b"", ERROR, b"429", b"the queue is full"], port=client.ports[0])
    client.advance(0.9)
    assert asked(client) == [(0.0, A), (0.125, A)]


def test_a_side_that_has_no_room_is_asked_again_though_the_other_was_asked_before():
    client = StarClient()
    client.call(1)
    client.advance(3.0)
    client.give([b"", ERROR, b"429", b"the queue is full"], port=client.ports[1])
    client.advance(0.9)
    assert asked(client) == [(0.0, A), (3.0, B), (3.125, B)]


def test_an_error_of_the_handler_is_the_outcome():
    client = StarClient()
    client.call(1)
    client.give([b"", ERROR, b"ValueError", b"no"], port=client.ports[0])
    [fail] = client.asked(Fail)
    assert isinstance(fail.error, RemoteError)
    assert fail.error.code == "ValueError"


def test_a_cancelled_call_that_waits_is_not_sent():
    client = StarClient()
    client.call(1)
    client.advance(1.5)
    client.step(client.core.cancel_call, 1, client.now)
    client.advance(5.0)
    assert asked(client) == [(0.0, A)]


def test_a_closed_client_sends_nothing_that_waited():
    client = StarClient()
    client.call(1)
    client.advance(1.5)
    client.step(client.core.close, client.now)
    client.advance(5.0)
    assert asked(client) == [(0.0, A)]
    assert len(client.asked(Fail)) == 1


def test_one_endpoint_needs_no_settling():
    client = StarClient(A)
    client.call(1)
    client.advance(3.5)
    assert asked(client) == [(0.0, A), (1.0, A), (2.0, A), (3.0, A)]


def test_what_is_no_answer_is_dropped():
    client = StarClient()
    client.call(1)
    client.give([b"world"], [b""], port=client.ports[0])
    assert client.asked(Deliver) == []
    assert client.statistics.dropped == {"invalid": 2}


@pytest.mark.parametrize("options", [{"settle_delay": -1.0}, {"settle_delay": float("inf")}, {"timeout": 0.0}])
def test_options_without_sense_are_refused(options):
    with pytest.raises(ValueError, match=r"settle_delay|timeout"):
        ClientOptions(**options)
