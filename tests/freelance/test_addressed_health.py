"""AddressedCore: pings, servers that fall silent and come back, and a client that stood still itself."""

from __future__ import annotations

import pytest

from tests.freelance.harness import A, B, C, Client
from tests.harness import START
from zpatterns.core import Close, Open, SendFailure, SocketKind
from zpatterns.errors import RequestTimeout
from zpatterns.freelance.events import ServerDown, ServerUp


def test_a_server_is_pinged_after_each_interval_of_silence():
    client = Client(A)
    client.pings()
    client.pong(A)
    client.until(START + 0.999)
    assert client.pings() == []
    client.until(START + 1)
    assert client.pings() == [A]
    client.hear(A, b"PONG", at=START + 1.4)
    client.until(START + 2.399)
    assert client.pings() == []
    client.until(START + 2.4)
    assert client.pings() == [A]


def test_whatever_it_says_is_a_sign_of_life():
    client = Client(A)
    client.pong(A)
    for second in (0.9, 1.8, 2.7):
        client.until(START + second)
        client.call(int(second * 10))
        client.hear(A, client.statistics.attempts.__str__().encode(), b"reply")
    client.pings()
    client.until(START + 3.699)
    assert client.pings() == []


def test_a_server_that_is_silent_for_a_lease_gets_a_new_connection():
    """10/FLP, "Server Reliability": disconnected after some multiple of the interval; here 3 x 1 s."""
    client = Client(A)
    client.pong(A)
    client.asked()
    client.events()
    client.until(START + 2.999)
    assert client.asked() == []
    assert client.health == {A: "up"}
    client.until(START + 3)
    assert client.asked() == [Close(1), Open(2, SocketKind.ROUTER, A, b"server")]
    assert client.events(ServerDown) == [ServerDown(A, "silent for a lease")]
    assert client.health == {A: "down"}
    client.pings()
    client.until(START + 6)
    assert [command for command in client.asked() if isinstance(command, Open)] == [
        Open(3, SocketKind.ROUTER, A, b"server")
    ], "and again, a lease later"
    assert client.events(ServerDown) == [], "it was down before"
    client.pong(A)
    assert client.health == {A: "up"}
    assert client.events(ServerUp) == [ServerUp(A)]


def test_what_comes_over_the_old_connection_counts_for_nothing():
    client = Client(A)
    client.call(1)
    client.until(START + 3)
    client.give([b"server", b"PONG"], [b"server", b"1", b"late"], port=1)
    assert client.delivered() == []
    assert client.health == {A: "down"}
    assert client.statistics.dropped["late"] == 2


def test_half_of_an_attempts_window_passes_before_a_server_is_asked_whether_it_is_there():
    client = Client(A, interval=10)
    client.pong(A)
    client.until(START + 5)
    client.call(1)
    client.pings()
    client.until(START + 5.999)
    assert client.pings() == []
    client.until(START + 6)
    assert client.pings() == [A]


def test_that_is_not_asked_of_one_that_was_heard_in_the_meantime():
    client = Client(A, interval=10)
    client.call(1)
    client.call(2)
    client.hear(A, b"1", b"x", at=START + 0.5)
    client.pings()
    client.until(START + 1.999)
    assert client.pings() == []


def test_many_calls_do_not_make_many_pings():
    client = Client(A, interval=10)
    client.pong(A)
    for number in range(50):
        client.until(START + number / 100)
        client.call(number)
    client.pings()
    client.until(START + 1.99)
    assert client.pings() == [A]


def test_a_dead_server_costs_its_calls_one_attempt_and_all_of_them_turn_at_once():
    """What was not sent does not outlive the attempt: the socket is closed without lingering, and a new one opened."""
    client = Client()
    client.pong(A, B)
    client.asked()
    client.call(1)
    client.until(START + 0.5)
    client.call(2)
    client.pong(B)
    client.until(START + 1.4)
    client.pong(B)
    assert client.call(3)[0][0] == A
    client.until(START + 1.999)
    assert client.take() == []
    client.asked()
    client.until(START + 2)
    assert client.take() == [(B, [b"4", b"hello"]), (B, [b"5", b"hello"]), (B, [b"6", b"hello"])]
    assert client.asked() == [Close(1), Open(3, SocketKind.ROUTER, A, b"server")]
    assert client.health == {A: "down", B: "up"}
    assert client.call(4) == [(B, [b"7", b"hello"])]


def test_a_server_that_is_down_may_be_sent_the_call_again_over_the_new_connection():
    client = Client(A)
    client.call(1)
    for window in (2, 4, 6):
        client.until(START + window)
        assert client.take() == [(A, [b"%d" % (window // 2 + 1), b"hello"])]
    client.hear(A, b"4", b"back", at=START + 7)
    assert client.delivered() == [(1, [b"back"])]


def test_no_server_at_all_is_a_time_out():
    client = Client()
    client.call(1)
    client.until(START + 7.999)
    assert client.failed() == []
    client.until(START + 8)
    assert client.failed() == [(1, RequestTimeout)]


def test_the_order_is_well_then_unknown_then_down():
    client = Client(A, B, C)
    assert client.call(1)[0][0] == A, "nothing is known yet: the first"
    client.pong(C)
    assert client.call(2)[0][0] == C, "C is well"
    client.until(START + 2)
    client.pong(C)
    assert client.health == {A: "down", B: "unknown", C: "up"}
    client.step(client.core.remove_server, C, client.now)
    assert client.call(3)[0][0] == B, "unknown is better than down"


def test_a_server_with_a_ping_out_for_long_is_not_the_first_choice():
    client = Client(A, B)
    client.pong(A, B)
    client.hear(B, b"PONG", at=START + 1)
    client.until(START + 1)
    client.hear(B, b"PONG", at=START + 1.6)
    assert client.call(1)[0][0] == B
    client.pong(A)
    assert client.call(2)[0][0] == A


def test_several_that_die_together_cost_a_call_one_attempt_in_all():
    """A call is not sent from one to the next while all of them are given up."""
    client = Client(A, B, C, attempt_timeout=2.5, timeout=10)
    client.pong(A, B)
    client.until(START + 0.9)
    client.call(1)
    client.until(START + 2.9)
    client.pong(C)
    client.until(START + 3)
    assert client.health == {A: "down", B: "down", C: "up"}
    assert client.take() == [(C, [b"2", b"hello"])]
    assert client.statistics.attempts == 2


def test_a_call_that_is_given_up_takes_its_unsent_request_with_it():
    """Cancelled before the server was heard: the socket that may still hold the request is replaced in time."""
    client = Client(A, interval=1, timeout=40)
    client.pong(A)
    client.until(START + 0.5)
    client.call(1)
    client.step(client.core.cancel_call, 1, client.now)
    client.asked()
    client.until(START + 2.001)
    assert client.asked() == [Close(1), Open(2, SocketKind.ROUTER, A, b"server")]


def test_one_that_was_heard_since_keeps_its_connection():
    client = Client(A, interval=1, timeout=40)
    client.pong(A)
    client.call(1)
    client.step(client.core.cancel_call, 1, client.now)
    client.asked()
    for tenth in range(1, 100):
        client.until(START + tenth / 10)
        if tenth % 5 == 0:
            client.pong(A)
    assert client.asked() == []


# A client that stood still.


@pytest.mark.parametrize("seconds", [4.0, 30.0])
def test_a_client_that_stood_still_does_not_take_its_servers_for_dead(seconds):
    client = Client()
    client.pong(A, B)
    client.asked()
    client.pings()
    client.stall(seconds)
    assert client.asked(Close) == []
    assert client.pings() == [A, B], "it asks them"
    client.pong(A, B)
    assert client.health == {A: "up", B: "up"}


def test_nor_does_a_call_that_slept_with_it():
    client = Client()
    client.pong(A, B)
    client.call(1, timeout=40)
    client.asked()
    client.stall(15)
    assert client.take() == [(B, [b"2", b"hello"])]
    assert client.asked(Close) == []
    client.hear(A, b"1", b"it had come long ago")
    assert client.delivered() == [(1, [b"it had come long ago"])]


def test_servers_that_are_dead_all_the_same_are_found_out_soon():
    client = Client(A)
    client.pong(A)
    client.stall(30)
    client.asked()
    client.advance(2.001)
    assert client.asked() == [Close(1), Open(2, SocketKind.ROUTER, A, b"server")]


def test_no_call_turns_to_a_server_that_is_given_up_in_the_same_turn():
    """Seed 24960: a call turned to a server that another call of the same turn gave up, and had an attempt less."""
    client = Client(A, B, C, retries=1, timeout=4)
    client.pong(A)
    client.call(1)
    client.call(2)
    client.fail([b"server", b"2", b"hello"], SendFailure.OVERFLOW, port=client.ports[A])
    assert client.take() == [(B, [b"3", b"hello"])]
    client.until(START + 1.5)
    client.pong(A)
    client.until(START + 2)
    assert client.take() == [(C, [b"4", b"hello"])], "the first call, and not to B"
    assert client.health[B] == "down"
