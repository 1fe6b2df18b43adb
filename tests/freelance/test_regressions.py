"""Faults of the Guide's Freelance clients, each a test that ours does not have it, on the pure cores.

What only real sockets show is in test_client.py and tests/live.
"""

from __future__ import annotations

import pytest

from tests.freelance.harness import A, B, C, Client
from tests.harness import START
from zpatterns.core import Close
from zpatterns.errors import RequestTimeout


def test_one_slow_request_is_sent_once_to_each_server_at_most():
    """flcliapi sends its request again at each message that comes meanwhile, a PONG included: five to nine times."""
    client = Client(A, B)
    client.pong(A, B)
    client.call(1)
    sent = [A]
    for tenth in range(1, 80):
        client.until(START + tenth / 10)
        client.pong(A, B)
        sent += [where for where, _ in client.take()]
    assert sent == [A, B], "the second when the attempt at the first has had no answer, and none after that"


def test_a_pong_is_no_reply():
    """flcliapi reads the number of a reply with atoi; a PONG is 0 there."""
    client = Client(A)
    client.call(1)
    client.pong(A)
    client.hear(A, b"PONG")
    assert client.delivered() == []
    assert client.statistics.in_flight == 1


def test_a_dead_first_server_fails_no_call():
    """flcliapi gives a call 3 s and a server 6: a call to one that has just died is lost."""
    client = Client(A, B, C, timeout=10)
    client.pong(A, B, C)
    client.until(START + 0.4)
    client.call(1)
    for tenth in range(5, 30):
        client.until(START + tenth / 10)
        client.pong(B, C)
    assert client.take() == [(B, [b"2", b"hello"])], "within one attempt's window"
    client.hear(B, b"2", b"alive")
    assert client.delivered() == [(1, [b"alive"])]
    assert client.failed() == []


@pytest.mark.parametrize("delay", [0.0, 0.5, 1.9])
def test_a_reply_that_comes_twice_does_not_answer_the_next_call(delay):
    """flcliapi hands every reply of the current number to its caller: the second is taken for the next call's."""
    client = Client(A)
    client.call(1)
    client.hear(A, b"1", b"one")
    client.until(START + delay)
    client.call(2)
    client.hear(A, b"1", b"one")
    client.hear(A, b"1", b"one")
    assert client.delivered() == [(1, [b"one"])]
    client.hear(A, b"2", b"two")
    client.hear(A, b"2", b"two")
    assert client.delivered() == [(2, [b"two"])]


def test_a_shotgun_reply_that_comes_twice_does_not_answer_the_next_call():
    client = Client(A, model="shotgun")
    client.call(1)
    client.hear(A, b"", b"1", b"one")
    client.call(2)
    client.hear(A, b"", b"1", b"one")
    assert client.delivered() == [(1, [b"one"])]


def test_a_failover_reply_that_comes_twice_does_not_answer_the_next_call():
    """There are no numbers in this model: what comes over an idle connection ends that connection."""
    client = Client(A, model="failover")
    client.call(1)
    first = client.ports[A]
    client.hear(A, b"", b"one")
    client.hear(A, b"", b"one")
    assert Close(first) in client.asked()
    client.call(2)
    assert client.ports[A] != first
    assert client.delivered() == []


def test_a_failover_reply_that_comes_twice_is_heard_before_the_next_request_leaves():
    client = Client(A, model="failover")
    client.call(1)
    first = client.ports[A]
    client.hear(A, b"", b"one")
    client.asked()
    # A driver gives the core what has come before it takes what is to be sent.
    client.core.start_call(2, [b"two"], client.now)
    client.hear(A, b"", b"one")
    assert client.delivered() == []
    assert client.ports[A] != first
    client.hear(A, b"", b"right")
    assert client.delivered() == [(2, [b"right"])]


# Clients in general.


@pytest.mark.parametrize("model", ["addressed", "shotgun", "failover"])
def test_a_late_reply_does_not_answer_the_next_call(model):
    reply = {"addressed": [b"1", b"one"], "shotgun": [b"", b"1", b"one"], "failover": [b"", b"one"]}[model]
    client = Client(A, model=model, timeout=1, retries=0)
    client.call(1)
    port = client.ports[A]
    client.until(START + 1)
    assert client.failed() == [(1, RequestTimeout)]
    client.call(2)
    client.give([b"server", *reply] if model == "addressed" else reply, port=port)
    assert client.delivered() == []


@pytest.mark.parametrize("model", ["addressed", "shotgun"])
def test_concurrent_replies_in_any_order_are_matched(model):
    client = Client(A, model=model)
    for number in (1, 2, 3):
        client.call(number)
    for number in (3, 1, 2):
        head = [b"%d" % number] if model == "addressed" else [b"", b"%d" % number]
        client.hear(A, *head, b"reply %d" % number)
    assert client.delivered() == [(number, [b"reply %d" % number]) for number in (3, 1, 2)]


def test_requests_the_caller_gave_up_on_are_not_delivered_when_the_server_returns():
    """A socket that may hold them is closed without lingering before the server can come back to it."""
    client = Client(A, timeout=2, retries=0)
    client.call(1)
    client.call(2)
    client.asked()
    client.until(START + 2)
    assert [type(command) for command in client.asked()][:1] == [Close]
    assert client.take() == [], "the new one has nothing in it but a PING"


def test_there_is_no_retry_storm():
    """A hundred calls whose server dies turn to the next one once, and to a third only after another window."""
    client = Client(A, B, C, max_in_flight=100)
    client.pong(A, B, C)
    for number in range(100):
        client.call(number)
    client.until(START + 1.5)
    client.pong(B, C)
    client.until(START + 2)
    assert [where for where, _ in client.take()] == [B] * 100
    client.until(START + 3.999)
    assert client.take() == []
