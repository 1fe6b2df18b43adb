"""AddressedCore: calls, attempts and whom they turn to. Pings and the health of servers are in the next file."""

from __future__ import annotations

import pytest

from tests.freelance.harness import ERROR, A, B, C, Client
from tests.harness import START
from zpatterns.calls_core import AttemptFailed
from zpatterns.core import Close, Deliver, Fail, MessagesDropped, Open, SendFailure, SocketKind
from zpatterns.errors import ClosedError, QueueFull, RemoteError, RequestTimeout

# Calls and replies.


def test_each_server_has_a_router_that_knows_it_by_a_name_of_ours():
    client = Client()
    assert client.asked() == [Open(1, SocketKind.ROUTER, A, b"server"), Open(2, SocketKind.ROUTER, B, b"server")]
    assert client.pings() == [A, B], "and is pinged at once"


def test_a_call_is_one_send_to_the_first_server():
    client = Client()
    client.pong(A, B)
    assert client.call(7, b"a", b"b") == [(A, [b"1", b"a", b"b"])]
    assert client.hear(A, b"1", b"x", b"", b"y") == []
    assert client.delivered() == [(7, [b"x", b"", b"y"])]
    assert client.statistics.replies == 1
    assert client.statistics.in_flight == 0


def test_every_send_has_a_control_frame_of_its_own():
    client = Client()
    controls = [client.call(number)[0][1][0] for number in range(50)]
    client.advance(2)
    controls += [frames[0] for _, frames in client.take()]
    assert len(set(controls)) == len(controls) == 100
    assert b"PING" not in controls


def test_replies_in_any_order_find_their_calls():
    client = Client()
    client.pong(A)
    sent = {number: client.call(number)[0][1][0] for number in (1, 2, 3)}
    for number in (3, 1, 2):
        client.hear(A, sent[number], b"for %d" % number)
    assert client.delivered() == [(3, [b"for 3"]), (1, [b"for 1"]), (2, [b"for 2"])]


def test_an_error_of_the_handler_ends_the_call():
    client = Client()
    client.call(1)
    client.hear(A, b"1", ERROR, b"KeyError", b"no such", at=START + 0.5)
    [fail] = client.asked(Fail)
    assert isinstance(fail.error, RemoteError)
    assert (fail.error.code, fail.error.message, fail.error.endpoint) == ("KeyError", "no such", A)
    assert (fail.error.attempts, fail.error.elapsed) == (1, 0.5)


@pytest.mark.parametrize(
    "frames",
    [
        [b"1"],
        [b""],
        [b"PING"],
        [b"2", b"x"],
        [b"", b"1", b"x"],
        [b"PONG", b"x"],
        [b"PING", b"x"],
        [b"01", b"x"],
    ],
)
def test_what_answers_nothing_ends_no_call(frames):
    client = Client()
    client.call(1)
    assert client.hear(A, *frames) == []
    assert client.delivered() == []
    assert [type(event) for event in client.events(MessagesDropped)] == [MessagesDropped]
    client.hear(A, b"1", b"right")
    assert client.delivered() == [(1, [b"right"])]


def test_another_server_cannot_answer_for_the_one_that_was_asked():
    client = Client()
    client.call(1)
    client.hear(B, b"1", b"wrong")
    assert client.delivered() == []
    assert client.statistics.dropped == {"unmatched": 1}


# Attempts.


def test_an_attempt_without_an_answer_turns_to_the_next_server():
    client = Client(A, B, C)
    client.pong(A, B, C)
    client.call(1)
    client.until(START + 1.999)
    assert client.take() == []
    client.until(START + 2)
    assert client.take() == [(B, [b"2", b"hello"])]
    client.until(START + 4)
    assert client.take() == [(C, [b"3", b"hello"])]
    assert [event.endpoint for event in client.events(AttemptFailed)] == [A, B]


def test_a_server_that_still_answers_is_never_sent_a_call_again_and_its_answer_counts():
    """ "never sends twice to one that still answers PING, but waits until the deadline"."""
    client = Client(A)
    client.pong(A)
    client.call(1)
    for tenth in range(1, 75):
        client.until(START + tenth / 10)
        client.pong(A)
        assert client.take() == []
    client.hear(A, b"1", b"at last", at=START + 7.9)
    assert client.delivered() == [(1, [b"at last"])]
    assert client.statistics.attempts == 1


def test_such_a_call_ends_at_its_deadline():
    client = Client(A, B)
    client.pong(A, B)
    client.call(1)
    for tenth in range(1, 80):
        client.until(START + tenth / 10)
        client.pong(A, B)
        assert client.failed() == []
    assert client.statistics.attempts == 2, "one for each server"
    client.until(START + 8)
    [fail] = client.asked(Fail)
    assert isinstance(fail.error, RequestTimeout)
    assert "2 attempts" in str(fail.error)
    assert (fail.error.attempts, fail.error.elapsed, fail.error.endpoint) == (2, 8.0, A)


def test_the_answer_to_an_earlier_attempt_counts_while_a_later_one_runs():
    client = Client()
    client.pong(A, B)
    client.call(1)
    client.until(START + 1.5)
    client.pong(A, B)
    client.until(START + 2)
    assert client.take() == [(B, [b"2", b"hello"])]
    client.hear(A, b"1", b"slow")
    assert client.delivered() == [(1, [b"slow"])]
    client.hear(B, b"2", b"late")
    assert client.delivered() == []
    assert client.statistics.dropped == {"unmatched": 1}


def test_there_are_no_more_attempts_than_allowed():
    client = Client(A, B, C, retries=1, timeout=4)
    client.pong(A, B, C)
    client.call(1)
    client.until(START + 2)
    assert client.take() == [(B, [b"2", b"hello"])]
    client.until(START + 3.999)
    assert client.take() == []
    client.until(START + 4)
    assert client.failed() == [(1, RequestTimeout)]


def test_a_call_can_have_a_time_out_of_its_own():
    client = Client()
    client.call(1, timeout=0.4)
    client.until(START + 0.0999)
    assert client.take() == []
    client.until(START + 0.1)
    assert client.take() == [(B, [b"2", b"hello"])]
    client.until(START + 0.4)
    assert client.failed() == [(1, RequestTimeout)]
    assert client.asked(Close) == [], "its haste is not the other calls'"


def test_the_window_of_an_attempt_can_be_set():
    client = Client(attempt_timeout=0.5)
    client.call(1)
    client.until(START + 0.5)
    assert client.take() == [(B, [b"2", b"hello"])]


@pytest.mark.parametrize("code", [b"429", b"503"])
def test_a_server_that_refuses_is_passed_over_at_once(code):
    client = Client()
    client.pong(A, B)
    client.call(1)
    assert client.hear(A, b"1", ERROR, code, b"full") == [(B, [b"2", b"hello"])]
    client.hear(B, b"2", b"done")
    assert client.delivered() == [(1, [b"done"])]
    assert client.call(2) == [(B, [b"3", b"hello"])], "nor is it asked first in the next second"
    client.until(START + 1.5)
    client.pong(A, B)
    assert client.call(3) == [(A, [b"4", b"hello"])]


def test_where_all_refuse_the_last_refusal_is_the_outcome():
    client = Client()
    client.pong(A, B)
    client.call(1)
    client.hear(A, b"1", ERROR, b"429", b"a")
    client.hear(B, b"2", ERROR, b"503", b"b")
    [fail] = client.asked(Fail)
    assert (fail.error.code, fail.error.endpoint, fail.error.attempts) == ("503", B, 2)


def test_a_refusal_waits_for_an_attempt_that_is_still_open():
    client = Client()
    client.pong(A, B)
    client.call(1)
    client.until(START + 1.5)
    client.pong(A, B)
    client.until(START + 2)
    client.hear(B, b"2", ERROR, b"429", b"full")
    assert client.asked(Fail) == []
    client.hear(A, b"1", b"done")
    assert client.delivered() == [(1, [b"done"])]


@pytest.mark.parametrize("reason", list(SendFailure))
def test_what_was_not_sent_goes_to_another_server(reason):
    client = Client()
    client.pong(A, B)
    client.call(1)
    client.fail([b"server", b"1", b"hello"], reason, port=client.ports[A])
    assert client.take() == [(B, [b"2", b"hello"])]


def test_a_ping_that_was_not_sent_changes_nothing():
    client = Client()
    client.call(1)
    client.fail([b"server", b"PING"], SendFailure.OVERFLOW, port=client.ports[A])
    client.fail([b"server", b"PING"], SendFailure.UNREACHABLE, port=99)
    assert client.take() == []


def test_a_request_that_did_not_leave_goes_to_another_server_at_once():
    client = Client()
    client.call(1)
    client.fail([b"server", b"1", b"hello"], SendFailure.UNREACHABLE, port=client.ports[A])
    assert client.take() == [(B, [b"2", b"hello"])]


def test_where_nobody_else_can_be_asked_it_waits_for_a_new_connection():
    """A socket that could not be opened, say, for there were no descriptors left."""
    client = Client(A)
    client.call(1)
    client.fail([b"server", b"1", b"hello"], SendFailure.UNREACHABLE, port=client.ports[A])
    assert client.failed() == [] and client.take() == []
    client.asked()
    client.until(START + 2)
    assert client.asked() == [Close(1), Open(2, SocketKind.ROUTER, A, b"server")]
    assert client.take() == [(A, [b"2", b"hello"])]
    client.hear(A, b"2", b"world")
    assert client.delivered() == [(1, [b"world"])]


def test_a_connection_that_libzmq_has_ended_for_good_is_made_anew():
    """Something else than a server was there for a moment, and spoke of ZMTP what it may not."""
    client = Client(A)
    client.pong(A)
    client.advance(1.2)
    client.call(1)
    client.asked()
    client.fail([b"server", b"1", b"hello"], SendFailure.UNREACHABLE, port=client.ports[A])
    assert client.asked() == [Close(1), Open(2, SocketKind.ROUTER, A, b"server")]
    assert client.health == {A: "down"}
    assert client.take() == [(A, [b"2", b"hello"])]
    client.fail([b"server", b"PING"], SendFailure.UNREACHABLE, port=client.ports[A])
    assert client.asked() == [], "but not again at once"
    client.hear(A, b"2", b"world")
    assert client.delivered() == [(1, [b"world"])]


# How many, and the end.


def test_calls_beyond_max_in_flight_wait_and_those_beyond_the_queue_are_refused():
    client = Client(max_in_flight=1, queue_max=1)
    assert len(client.call(1)) == 1
    assert client.call(2) == []
    with pytest.raises(QueueFull):
        client.call(3)
    assert client.hear(A, b"1", b"x") == [(A, [b"2", b"hello"])]
    client.hear(A, b"2", b"y")
    assert client.delivered() == [(1, [b"x"]), (2, [b"y"])]


def test_a_call_that_waits_ends_at_its_deadline_too():
    client = Client(max_in_flight=1)
    client.call(1)
    client.call(2, timeout=1)
    client.until(START + 1)
    [fail] = client.asked(Fail)
    assert fail.call == 2
    assert "raise max_in_flight" in str(fail.error)


def test_a_cancelled_call_hears_nothing_more():
    client = Client()
    client.call(1)
    client.step(client.core.cancel_call, 1, client.now)
    client.hear(A, b"1", b"late")
    client.advance(20)
    assert client.delivered() == []
    assert client.statistics.cancelled == 1


def test_closing_ends_every_call_and_every_connection():
    client = Client(max_in_flight=2)
    for number in (1, 2, 3):
        client.call(number)
    client.asked()
    client.step(client.core.close, client.now)
    asked = client.asked()
    assert [type(command.error) for command in asked if isinstance(command, Fail)] == [ClosedError] * 3
    assert [command for command in asked if isinstance(command, Close)] == [Close(1), Close(2)]
    assert client.core.next_timer() is None
    client.step(client.core.handle_timer, client.now + 100)
    assert client.take() == []


# Servers come and go.


def test_a_server_that_is_added_is_the_last_in_order():
    client = Client(A)
    client.pong(A)
    client.pings()
    client.step(client.core.add_server, B, client.now)
    assert client.core.endpoints == (A, B)
    assert client.pings() == [B]
    client.pong(B)
    assert client.call(1) == [(A, [b"1", b"hello"])]
    client.until(START + 2)
    assert client.take() == [(B, [b"2", b"hello"])]


def test_to_add_one_twice_is_to_add_it_once():
    client = Client(A)
    client.asked()
    client.step(client.core.add_server, A, client.now)
    assert client.asked() == []
    assert client.core.endpoints == (A,)


def test_a_call_that_had_nobody_left_turns_to_a_server_that_is_added():
    client = Client(A)
    client.pong(A)
    client.call(1)
    client.until(START + 1.5)
    client.pong(A)
    client.until(START + 3)
    assert client.take() == []
    client.step(client.core.add_server, B, client.now)
    assert client.take() == [(B, [b"2", b"hello"])]


def test_calls_turn_away_from_a_server_that_is_removed():
    client = Client()
    client.pong(A, B)
    client.call(1)
    client.asked()
    client.step(client.core.remove_server, A, client.now)
    assert client.asked() == [Close(1)]
    assert client.take() == [(B, [b"2", b"hello"])]
    assert client.core.endpoints == (B,)
    assert [event.reason for event in client.events(AttemptFailed)] == ["removed"]
    client.give([b"server", b"1", b"too late"], port=1)
    assert client.delivered() == []


def test_a_server_that_is_unknown_and_the_last_one_cannot_be_removed():
    client = Client(A)
    with pytest.raises(ValueError, match=f"'{B}' is none of this client's servers"):
        client.core.remove_server(B, client.now)
    with pytest.raises(ValueError, match="the last server"):
        client.core.remove_server(A, client.now)


def test_servers_can_be_changed_before_the_start():
    client = Client()
    core = type(client.core)((A, B), client.core.options, client.core._rng)
    core.add_server(C, 0.0)
    core.remove_server(A, 0.0)
    assert core.commands() == []
    core.start(START)
    core.start(START)
    assert [command.endpoint for command in core.commands()] == [B, C]


def test_round_robin_takes_the_servers_that_are_well_in_turns():
    client = Client(A, B, C, round_robin=True)
    client.pong(A, C)
    assert [client.call(number)[0][0] for number in range(6)] == [A, C, A, C, A, C]
    client.pong(B)
    assert [client.call(10 + number)[0][0] for number in range(4)] == [B, A, C, B]


def test_a_deliver_is_the_last_word():
    client = Client()
    client.call(1)
    client.hear(A, b"1", b"x")
    assert client.asked(Deliver) == [Deliver(1, [b"x"], True)]
