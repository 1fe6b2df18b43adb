"""ClientCore: pooled connections, bounds, and every end a call can have.

Its attempts are in test_client_core_attempts.py, streams in test_client_core_streams.py.
"""

from __future__ import annotations

import pytest

from tests.harness import START, ClientHarness, FixedRng
from zpatterns.core import Close, Deliver, Discard, Fail, MessagesDropped, Open, SendFailure, SocketKind
from zpatterns.errors import ClosedError, QueueFull, RequestTimeout
from zpatterns.mdp.client_core import ClientCore, ClientOptions

ERROR = b"\x00ZPATTERNS-ERROR\x00"
ENDPOINT = "tcp://127.0.0.1:5555"


def answered(*body: bytes, service: bytes = b"echo") -> list[bytes]:
    """A REPLY as the client's DEALER receives it."""
    return [b"", b"MDPC01", service, *(body or (b"world",))]


def failed(client: ClientHarness) -> list[tuple[int, type[Exception]]]:
    return [(command.call, type(command.error)) for command in client.asked(Fail)]


# Connections.


def test_a_connection_is_used_again_the_latest_first():
    client = ClientHarness()
    ports = [client.call(number) for number in (1, 2, 3)]
    for port in (ports[0], ports[2]):
        client.give(answered(), port=port)
    assert client.call(4) == ports[2]
    assert client.call(5) == ports[0]
    assert client.call(6) == ports[2] + 1
    assert client.statistics.connections == 4


def test_a_connection_is_only_used_again_for_its_own_broker():
    client = ClientHarness("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")
    client.give(answered(), port=client.call(1))
    client.call(2)
    client.until(START + 2.5)
    client.asked()
    client.call(3)
    assert client.asked(Open) == [Open(client.out[-1][0], SocketKind.DEALER, "tcp://127.0.0.1:2")]


def test_idle_connections_are_closed_after_idle_max():
    client = ClientHarness(idle_max=10)
    ports = [client.call(number) for number in (1, 2)]
    client.give(answered(), port=ports[0])
    client.until(START + 1)
    client.give(answered(), port=ports[1])
    client.asked()
    client.until(START + 9.99)
    assert client.asked(Close) == []
    client.until(START + 40)
    assert {command.port for command in client.asked(Close)} == set(ports)
    assert client.statistics.connections == 0
    assert client.core.next_timer() is None


def test_connections_in_use_are_not_closed_as_idle():
    client = ClientHarness(idle_max=1, timeout=100, retries=0)
    client.give(answered(), port=client.call(1))
    busy = client.call(2)
    client.advance(50)
    client.asked()
    client.give(answered(b"slow"), port=busy)
    assert client.asked(Deliver) == [Deliver(2, [b"slow"], True)]


def test_what_comes_over_an_idle_connection_closes_it():
    """Who knows what else it would bring the next call."""
    client = ClientHarness()
    port = client.call(1)
    client.give(answered(), port=port)
    client.asked()
    client.give(answered(b"again"), port=port)
    assert client.asked() == [Close(port)]
    assert client.events(MessagesDropped) == [MessagesDropped("unsolicited", 1)]
    assert client.call(2) != port


def test_a_second_reply_in_the_same_batch_does_not_answer_the_call_that_waits():
    """R1: the waiting call takes the connection over at once, but its own request has not left yet."""
    client = ClientHarness(max_in_flight=1)
    port = client.call(1)
    client.call(2)
    client.give(answered(b"for the first"), answered(b"for nobody"), port=port)
    assert client.asked(Deliver) == [Deliver(1, [b"for the first"], True)]
    client.give(answered(b"for the second"), port=client.out[-1][0])
    assert client.asked(Deliver) == [Deliver(2, [b"for the second"], True)]


def test_what_comes_over_a_closed_connection_is_dropped():
    client = ClientHarness()
    port = client.call(1)
    client.step(client.core.cancel_call, 1, client.now)
    client.asked()
    client.give(answered(), port=port)
    client.give(answered(), port=999)
    assert client.asked() == []
    assert client.statistics.dropped == {"late": 2}


# What did not leave.


def test_what_has_not_left_when_its_window_ends_is_not_to_leave_later():
    client = ClientHarness()
    port = client.call(1)
    client.asked()
    client.until(START + 2)
    assert client.asked(Discard) == [Discard(port)]


@pytest.mark.parametrize("reason", list(SendFailure))
def test_a_request_that_did_not_leave_gives_its_connection_up_and_the_window_goes_on(reason):
    client = ClientHarness()
    port = client.call(1)
    client.asked()
    client.fail([b"", b"MDPC01", b"echo", b"hello"], reason, port)
    assert client.asked() == [Close(port)]
    assert failed(client) == []
    assert client.until(START + 2.24) == []
    assert len(client.until(START + 2.26)) == 1
    assert client.out[-1][0] != port


def test_a_request_that_failed_on_a_connection_that_is_gone_concerns_nobody():
    client = ClientHarness()
    port = client.call(1)
    client.step(client.core.cancel_call, 1, client.now)
    client.asked()
    client.fail([b"", b"MDPC01", b"echo", b"hello"], SendFailure.UNREACHABLE, port)
    assert client.asked() == []


# Bounds.


def test_calls_beyond_max_in_flight_wait_in_order():
    client = ClientHarness(max_in_flight=2)
    ports = [client.call(number) for number in range(1, 5)]
    assert ports[2:] == [0, 0]
    assert (client.statistics.in_flight, client.statistics.waiting) == (2, 2)
    client.give(answered(), port=ports[1])
    client.give(answered(), port=ports[0])
    assert [command.call for command in client.asked(Deliver)] == [2, 1]
    assert [port for port, _ in client.out[-2:]] == [ports[1], ports[0]], "their connections are used again"
    assert client.statistics.waiting == 0


def test_a_call_that_waits_ends_at_its_deadline_and_says_what_it_waited_for():
    client = ClientHarness(max_in_flight=1, timeout=100, retries=0)
    client.call(1)
    client.call(2, timeout=3.0)
    client.until(START + 2.99)
    assert failed(client) == []
    client.until(START + 3)
    (failure,) = [command.error for command in client.asked(Fail)]
    assert isinstance(failure, RequestTimeout)
    assert "max_in_flight" in str(failure)
    assert failure.attempts == 0
    assert (client.statistics.in_flight, client.statistics.waiting) == (1, 0)


def test_calls_that_expire_while_they_wait_open_no_connections():
    """A thousand of them at one deadline would open, and close, a thousand sockets for nothing."""
    client = ClientHarness(max_in_flight=2, timeout=8, retries=0)

    def start() -> None:
        for number in range(1000):
            client.core.start_call(number, b"echo", [b"x"], START)

    client.step(start)
    assert client.until(START + 8)[2:] == []
    asked = client.asked()
    assert len([command for command in asked if isinstance(command, Open)]) == 2
    assert len([command for command in asked if isinstance(command, Fail)]) == 1000


def test_a_call_that_waited_has_the_rest_of_its_time():
    client = ClientHarness(max_in_flight=1, timeout=4, retries=1)
    port = client.call(1)
    client.now += 1.5
    client.call(2)
    client.now += 1
    client.give(answered(), port=port)
    client.until(START + 5.49)
    assert failed(client) == []
    client.until(START + 5.5)
    assert failed(client) == [(2, RequestTimeout)]


@pytest.mark.parametrize("queue_max", [0, 1, 3])
def test_more_waiting_calls_than_queue_max_are_refused_to_the_caller(queue_max):
    client = ClientHarness(max_in_flight=1, queue_max=queue_max)
    for number in range(1 + queue_max):
        client.call(number)
    with pytest.raises(QueueFull) as refusal:
        client.call(99)
    assert refusal.value.service == "echo"
    assert client.statistics.calls == 1 + queue_max
    client.give(answered(), port=1)
    client.call(99)


def test_cancelled_waiting_calls_leave_nothing_behind():
    client = ClientHarness(max_in_flight=1)
    client.call(0)
    for number in range(1, 1000):
        client.call(number)
        client.step(client.core.cancel_call, number, client.now)
    assert client.statistics.waiting == 0
    assert len(client.core._waiting) < 200
    client.sent()
    client.give(answered(), port=1)
    assert client.advance(100) == []


# Every end of a call.


def test_a_cancelled_call_gets_nothing_and_its_connection_serves_no_other():
    client = ClientHarness()
    port = client.call(1)
    client.asked()
    client.step(client.core.cancel_call, 1, client.now)
    assert client.asked() == [Close(port)]
    client.give(answered(), port=port)
    client.advance(100)
    assert client.asked() == []
    assert client.statistics.cancelled == 1
    client.step(client.core.cancel_call, 1, client.now)
    assert client.statistics.cancelled == 1


def test_a_cancelled_call_makes_room_for_one_that_waits():
    client = ClientHarness(max_in_flight=1)
    client.call(1)
    client.call(2)
    client.step(client.core.cancel_call, 1, client.now)
    assert client.statistics.in_flight == 1
    client.give(answered(b"two"), port=client.out[-1][0])
    assert client.asked(Deliver) == [Deliver(2, [b"two"], True)]


def test_after_the_deadline_nothing_is_owed_to_anybody():
    client = ClientHarness()
    port = client.call(1)
    client.until(START + 8)
    assert client.statistics.connections == 0
    client.asked()
    client.give(answered(b"late"), port=port)
    assert client.asked() == []
    assert client.core.next_timer() is None


def test_close_ends_every_call_and_every_connection():
    client = ClientHarness(max_in_flight=2)
    idle, busy = client.call(1), client.call(2)
    client.give(answered(), port=idle)
    client.call(3)
    client.call(4)
    client.call(5)
    client.give(answered(), port=busy)
    client.asked()
    client.step(client.core.close, client.now)
    asked = client.asked()
    ended = [(command.call, type(command.error)) for command in asked if isinstance(command, Fail)]
    assert sorted(ended) == [(3, ClosedError), (4, ClosedError), (5, ClosedError)]
    assert {command.port for command in asked if isinstance(command, Close)} == {idle, busy}
    assert client.statistics.connections == 0
    assert client.sent() == []


def test_close_with_idle_connections_only():
    client = ClientHarness()
    port = client.call(1)
    client.give(answered(), port=port)
    client.asked()
    client.step(client.core.close, client.now)
    assert client.asked() == [Close(port)]
    assert client.advance(100) == []
    assert client.core.next_timer() is None


def test_a_reply_and_the_deadline_in_one_turn_end_the_call_once():
    client = ClientHarness()
    port = client.call(1)
    client.give(answered(), port=port, at=START + 8)
    client.stall(0)
    assert [type(command) for command in client.asked() if isinstance(command, Deliver | Fail)] == [Deliver]


def test_a_client_that_stood_still_beyond_a_deadline_ends_the_call_at_once():
    """R2: with one outcome, at its deadline at the latest, plus one turn of the loop."""
    client = ClientHarness(max_in_flight=1)
    client.call(1)
    client.call(2)
    client.sent()
    assert client.stall(60) == [], "and what has expired while it waited is not sent"
    assert failed(client) == [(1, RequestTimeout), (2, RequestTimeout)]
    assert client.core.next_timer() is None


# Options and statistics.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", float("inf")),
        ("timeout", float("nan")),
        ("retries", -1),
        ("attempt_timeout", 0),
        ("attempt_timeout", -1),
        ("max_in_flight", 0),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        ClientOptions(**{name: value})


def test_options_have_the_documented_defaults():
    options = ClientOptions()
    assert (options.timeout, options.retries, options.attempt_timeout, options.max_in_flight) == (10.0, 3, None, 64)


def test_statistics_count_each_call_once():
    client = ClientHarness(max_in_flight=2, timeout=4, retries=1)
    first, second = client.call(1), client.call(2)
    client.call(3)
    client.give(answered(), port=first)
    client.give(answered(ERROR, b"502", b"lost"), port=second)
    client.call(4)
    client.step(client.core.cancel_call, 4, client.now)
    client.advance(4)
    statistics = client.statistics
    assert (statistics.calls, statistics.replies, statistics.errors) == (4, 1, 1)
    assert (statistics.timeouts, statistics.cancelled) == (1, 1)
    assert statistics.attempts == 5
    assert (statistics.waiting, statistics.in_flight) == (0, 0)


def test_draws_randomness_only_for_a_retry():
    class NoRng(FixedRng):
        def random(self) -> float:
            raise AssertionError("drawn without a need")

    core = ClientCore([ENDPOINT], ClientOptions(), NoRng())
    core.start_call(1, b"echo", [b"x"], START)
    core.messages_to_send(1)
    core.receive_many([answered()], START, 1)
    assert core.statistics().replies == 1
