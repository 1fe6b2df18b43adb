"""LazyClientCore: an attempt is given up with its socket. What it shares with every client is tested in tests/mdp."""

from __future__ import annotations

import pytest

from tests.harness import START
from tests.pirate.lazy_harness import ENDPOINT, ERROR, LazyClient
from zpatterns.calls_core import AttemptFailed
from zpatterns.core import Close, Deliver, Discard, Fail, MessagesDropped, Open, SendFailure, SocketKind
from zpatterns.errors import ClosedError, QueueFull, RemoteError, RequestTimeout

A, B, C = "tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp://127.0.0.1:3"


# The frames, as a REQ has them.


@pytest.mark.parametrize("body", [(b"hello",), (b"",), (b"one", b"", b"three"), (b"x",) * 100])
def test_a_request_is_what_a_req_sends(body):
    client = LazyClient()
    client.call(1, *body)
    assert client.out == [(1, [b"", *body])]
    assert client.asked() == [Open(1, SocketKind.DEALER, ENDPOINT)]


@pytest.mark.parametrize("body", [[b"world"], [b""], [b"one", b"", b"three"]])
def test_a_reply_is_delivered_without_its_delimiter(body):
    client = LazyClient()
    client.give([b"", *body], port=client.call(1))
    assert client.asked(Deliver) == [Deliver(1, body, True)]


@pytest.mark.parametrize("frames", [[b"world"], [b""], [b"x", b""], [b"x", b"", b"world"], []])
def test_what_a_req_would_not_see_does_not_end_the_call(frames):
    client = LazyClient()
    port = client.call(1)
    client.asked()
    client.give(frames, port=port)
    assert client.asked() == []
    assert client.events(MessagesDropped) == [MessagesDropped("invalid", 1)]
    client.give([b"", b"world"], port=port)
    assert client.asked(Deliver) == [Deliver(1, [b"world"], True)]


# Attempts.


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_each_attempt_closes_its_socket_and_the_next_opens_a_new_one(share):
    """Guide, "Client-Side Reliability": close, open, resend; and our random pause, out of the attempt's own window."""
    client = LazyClient(share=share)
    port = client.call(1)
    client.asked()
    for window, limit in ((2, 0.5), (4, 1.0), (6, 1.0)):
        client.until(START + window - 0.0001)
        assert client.asked() == []
        if share:
            client.until(START + window)
            assert client.asked() == [Close(port)], "it is closed when its time is up, not when the next begins"
            assert client.until(START + window + limit * share - 0.0001) == []
        client.out.clear()
        client.until(START + window + limit * share)
        assert client.out == [(port + 1, [b"", b"hello"])]
        opening = [Open(port + 1, SocketKind.DEALER, ENDPOINT)]
        assert client.asked() == (opening if share else [Close(port), *opening])
        port += 1
    client.until(START + 7.999)
    assert client.asked() == []
    client.until(START + 8)
    close, fail = client.asked()
    assert close == Close(port)
    assert (fail.call, type(fail.error)) == (1, RequestTimeout)
    assert client.core.next_timer() is None
    assert client.statistics.connections == 0


def test_nothing_that_was_not_sent_stays_to_be_sent_later():
    client = LazyClient()
    client.call(1)
    client.until(START + 2)
    assert client.asked(Close) == [Close(1)]
    assert client.asked(Discard) == []
    assert not client.core.ports_to_send()


def test_a_late_reply_to_an_earlier_attempt_goes_to_nobody():
    client = LazyClient()
    first = client.call(1)
    client.until(START + 3)
    second = client.out[-1][0]
    assert second != first
    client.asked()
    client.give([b"", b"late"], port=first)
    assert client.asked() == []
    assert client.statistics.dropped == {"late": 1}
    client.give([b"", b"right"], port=second)
    assert client.asked(Deliver) == [Deliver(1, [b"right"], True)]


def test_a_late_reply_during_the_pause_goes_to_nobody():
    client = LazyClient(share=0.999)
    port = client.call(1)
    client.until(START + 2.1)
    client.asked()
    client.give([b"", b"late"], port=port)
    assert client.asked() == []


@pytest.mark.parametrize("retries", [0, 1, 5])
def test_a_call_makes_one_attempt_more_than_retries(retries):
    client = LazyClient(timeout=6, retries=retries)
    client.call(1)
    client.until(START + 60)
    assert len(client.out) == retries + 1
    (failure,) = [command.error for command in client.asked(Fail)]
    assert isinstance(failure, RequestTimeout)
    assert (failure.attempts, failure.endpoint, failure.service) == (retries + 1, ENDPOINT, None)
    assert failure.elapsed == pytest.approx(6)
    assert client.statistics.timeouts == 1
    assert client.statistics.attempts == retries + 1


def test_attempt_timeout_of_its_own():
    client = LazyClient(timeout=10, retries=3, attempt_timeout=0.5)
    client.call(1)
    client.until(START + 1.99)
    assert client.statistics.attempts == 4
    client.until(START + 2)
    assert client.outcomes() == [(1, RequestTimeout)]


def test_the_deadline_ends_a_call_in_the_middle_of_an_attempt():
    client = LazyClient(timeout=3, retries=3, attempt_timeout=2)
    client.call(1)
    client.until(START + 2.999)
    assert client.outcomes() == []
    client.until(START + 3)
    assert client.outcomes() == [(1, RequestTimeout)]


def test_a_call_may_have_a_timeout_of_its_own():
    client = LazyClient(timeout=8, retries=1)
    client.call(1, timeout=2.0)
    client.until(START + 1)
    assert client.events(AttemptFailed) == [AttemptFailed(ENDPOINT, 1, "no answer")]
    client.until(START + 2)
    assert client.outcomes() == [(1, RequestTimeout)]


def test_the_text_of_a_time_out_says_whom_it_asked_and_how_often():
    client = LazyClient(A, B)
    client.call(1)
    client.until(START + 8)
    (fail,) = client.asked(Fail)
    assert str(fail.error) == f"no answer from {A} or {B} within 8 s (4 attempts); is the server there?"


# Several servers.


def test_an_attempt_that_fails_turns_to_the_next_server_and_later_calls_begin_there():
    client = LazyClient(A, B, C)
    client.call(1)
    client.until(START + 8)
    assert [client.endpoints[port] for port, _ in client.out] == [A, B, C, A]
    client.give([b"", b"world"], port=client.call(2))
    assert client.endpoints[client.out[0][0]] == B
    assert client.endpoints[client.call(3)] == B


def test_calls_that_fail_together_turn_away_once():
    client = LazyClient(A, B, C)
    client.call(1)
    client.step(client.core.start_call, 2, [b"hello"], client.now)
    client.until(START + 3)
    assert [client.endpoints[port] for port, _ in client.out] == [A, A, B, B]


# Connections.


def test_a_connection_that_has_answered_serves_the_next_call():
    client = LazyClient()
    port = client.call(1)
    client.give([b"", b"world"], port=port)
    client.asked()
    assert client.call(2) == port
    assert client.asked(Open) == []


def test_calls_at_the_same_time_have_a_connection_each():
    client = LazyClient()
    ports = [client.call(number, b"%d" % number) for number in (1, 2, 3)]
    assert len(set(ports)) == 3
    for number in (2, 3, 1):
        client.give([b"", b"%d" % number], port=ports[number - 1])
    assert client.asked(Deliver) == [Deliver(number, [b"%d" % number], True) for number in (2, 3, 1)]


def test_a_second_answer_closes_the_connection_and_answers_nobody():
    """R1: a server that repeats itself must not answer the next call."""
    client = LazyClient()
    port = client.call(1)
    client.give([b"", b"one"], [b"", b"one again"], port=port)
    asked = client.asked()
    assert [command for command in asked if isinstance(command, Deliver)] == [Deliver(1, [b"one"], True)]
    assert Close(port) in asked
    assert client.call(2) != port
    assert client.statistics.dropped == {"unsolicited": 1}


def test_a_cancelled_call_takes_its_connection_with_it():
    client = LazyClient()
    port = client.call(1)
    client.asked()
    client.step(client.core.cancel_call, 1, client.now)
    assert client.asked() == [Close(port)]
    client.give([b"", b"late"], port=port)
    assert client.asked() == []
    assert client.until(START + 20) == []
    assert client.statistics.cancelled == 1


@pytest.mark.parametrize("reason", list(SendFailure))
def test_a_request_that_did_not_leave_gives_its_socket_up_and_the_window_goes_on(reason):
    client = LazyClient()
    port = client.call(1)
    client.asked()
    client.fail([b"", b"hello"], reason, port)
    assert client.asked() == [Close(port)]
    assert client.until(START + 2.24) == []
    assert client.until(START + 2.26) == [[b"", b"hello"]]


# Errors, bounds, and the end.


def test_an_error_of_the_handler_ends_the_call():
    client = LazyClient()
    client.give([b"", ERROR, b"ValueError", "nö".encode()], port=client.call(1))
    (fail,) = client.asked(Fail)
    assert isinstance(fail.error, RemoteError)
    assert (fail.error.code, fail.error.message) == ("ValueError", "nö")
    assert (fail.error.attempts, fail.error.endpoint) == (1, ENDPOINT)
    assert client.statistics.errors == 1


@pytest.mark.parametrize("code", [b"429", b"503"])
def test_a_refusal_is_tried_again_at_the_next_server_after_a_pause(code):
    client = LazyClient(A, B)
    client.give([b"", ERROR, code, b"not now"], port=client.call(1))
    assert client.asked(Fail) == []
    assert client.until(START + 0.24) == []
    client.out.clear()
    assert client.until(START + 0.25) == [[b"", b"hello"]]
    assert client.endpoints[client.out[0][0]] == B
    assert client.events(AttemptFailed) == [AttemptFailed(A, 1, f"refused with {code.decode()}")]


def test_refusals_are_retried_no_more_often_than_retries_say():
    client = LazyClient(retries=2)
    client.call(1)
    for _ in range(10):
        for port, _ in list(client.out):
            client.give([b"", ERROR, b"429", b"full"], port=port)
        client.advance(0.5)
    assert client.statistics.attempts == 3
    (fail,) = client.asked(Fail)
    assert isinstance(fail.error, RemoteError)
    assert fail.error.code == "429"


def test_calls_beyond_max_in_flight_wait_and_beyond_queue_max_are_refused():
    client = LazyClient(max_in_flight=1, queue_max=1)
    port = client.call(1)
    assert client.call(2) == 0
    with pytest.raises(QueueFull):
        client.call(3)
    client.out.clear()
    client.give([b"", b"world"], port=port)
    assert client.out == [(port, [b"", b"hello"])], "over the connection that is free now"
    assert client.statistics.waiting == 0


def test_closing_ends_every_call_and_closes_every_socket():
    client = LazyClient(max_in_flight=2)
    for number in (1, 2, 3):
        client.call(number)
    client.asked()
    client.step(client.core.close, client.now)
    asked = client.asked()
    assert [(command.call, type(command.error)) for command in asked if isinstance(command, Fail)] == [
        (1, ClosedError),
        (2, ClosedError),
        (3, ClosedError),
    ]
    assert {command.port for command in asked if isinstance(command, Close)} == {1, 2}
    assert client.core.next_timer() is None
