"""FailoverCore: one server after another, as a REQ asks them. What calls share is tested in tests/mdp."""

from __future__ import annotations

import pytest

from tests.freelance.harness import ERROR, A, B, C, Client
from tests.harness import START
from zpatterns.calls_core import AttemptFailed
from zpatterns.core import Close, Discard, Open, SocketKind
from zpatterns.errors import RequestTimeout


def failover(*endpoints: str, **options: object) -> Client:
    return Client(*endpoints, model="failover", **options)  # type: ignore[arg-type]


def test_a_request_is_what_a_req_sends_and_nothing_is_opened_before():
    client = failover()
    assert client.asked() == []
    assert client.call(1, b"a", b"", b"b") == [(A, [b"", b"a", b"", b"b"])]
    assert client.asked() == [Open(1, SocketKind.DEALER, A)]


@pytest.mark.parametrize("body", [[b"x"], [b""], [b"a", b"", b"b"]])
def test_a_reply_is_delivered_without_its_delimiter(body):
    client = failover()
    client.call(1)
    client.hear(A, b"", *body)
    assert client.delivered() == [(1, body)]


@pytest.mark.parametrize("frames", [[b"x"], [b""], [b"x", b"", b"y"]])
def test_what_a_req_would_not_see_ends_no_call(frames):
    client = failover()
    client.call(1)
    client.hear(A, *frames)
    assert client.delivered() == []
    assert client.statistics.dropped == {"invalid": 1}


def test_a_server_that_does_not_answer_is_followed_by_the_next_without_a_pause():
    client = failover(A, B, C)
    client.call(1)
    for window, where in ((2, B), (4, C)):
        client.until(START + window - 0.001)
        assert client.take() == []
        client.until(START + window)
        assert client.take() == [(where, [b"", b"hello"])]
    assert [event.endpoint for event in client.events(AttemptFailed)] == [A, B]
    assert client.asked(Discard) == [Discard(1), Discard(2)], "what has not left is not to leave later"


def test_a_new_round_begins_after_a_pause():
    """A retry storm is kept off the servers; with one server that is after every attempt."""
    client = failover(A)
    client.call(1)
    client.until(START + 2.2)
    assert client.take() == []
    client.until(START + 2.25)  # half of a quarter of the window
    assert client.take() == [(A, [b"", b"hello"])]


def test_the_server_that_answered_last_is_asked_first():
    client = failover()
    client.call(1)
    client.until(START + 2)
    client.hear(B, b"", b"x")
    assert client.call(2) == [(B, [b"", b"hello"])]


def test_an_error_that_invites_another_attempt():
    client = failover()
    client.call(1)
    client.hear(A, b"", ERROR, b"503", b"stopping")
    client.advance(0)
    assert client.take() == [(B, [b"", b"hello"])]


def test_no_server_at_all_is_a_time_out():
    client = failover()
    client.call(1)
    client.until(START + 8)
    assert client.failed() == [(1, RequestTimeout)]


def test_a_server_that_is_added_is_the_last_in_order():
    client = failover(A)
    client.step(client.core.add_server, B, client.now)
    client.step(client.core.add_server, B, client.now)
    assert client.core.endpoints == (A, B)
    client.call(1)
    client.until(START + 2)
    assert client.take() == [(B, [b"", b"hello"])]


def test_calls_turn_away_from_a_server_that_is_removed():
    client = failover(A, B)
    client.call(1)
    client.hear(A, b"", b"x")  # an idle connection is left
    client.call(2)
    client.call(3)
    client.asked()
    client.step(client.core.remove_server, A, client.now)
    assert {command.port for command in client.asked(Close)} == {1, 2}
    client.advance(0.0)
    assert client.take() == [(B, [b"", b"hello"])] * 2
    assert client.core.endpoints == (B,)
    assert client.call(4) == [(B, [b"", b"hello"])]
    client.advance(8)
    assert A not in [where for where, _ in client.take()]


def test_one_that_is_added_again_is_asked_again():
    client = failover(A, B)
    client.step(client.core.remove_server, A, client.now)
    assert client.call(1)[0][0] == B
    client.step(client.core.add_server, A, client.now)
    assert client.core.endpoints == (B, A), "the last in order, as any other that is added"
    client.until(START + 2)
    assert client.take() == [(A, [b"", b"hello"])]


def test_a_server_that_was_removed_is_not_counted():
    """A new round begins after a pause, and one server that is left is a round."""
    client = failover(A, B, C)
    client.step(client.core.remove_server, A, client.now)
    client.step(client.core.remove_server, C, client.now)
    client.call(1)
    client.hear(B, b"", ERROR, b"429", b"no room")
    client.advance(0.249)
    assert client.take() == []
    client.advance(0.002)
    assert client.take() == [(B, [b"", b"hello"])]


@pytest.mark.parametrize("gone", [A, C])
def test_the_others_keep_their_connections_when_one_is_removed(gone):
    client = failover(A, B, C)
    client.call(1)
    client.until(START + 2)
    client.step(client.core.remove_server, gone, client.now)
    client.asked()
    client.hear(B, b"", b"x")
    assert client.delivered() == [(1, [b"x"])]
    assert client.call(2) == [(B, [b"", b"hello"])]
    assert client.asked(Open) == [], "it goes over the same one"


def test_a_call_that_pauses_before_a_server_that_is_removed_asks_another():
    client = failover(A, B)
    client.call(1)
    for where in (A, B):
        client.hear(where, b"", ERROR, b"429", b"no room")
        client.advance(0.0)
    client.step(client.core.remove_server, A, client.now)
    client.take()
    client.advance(1.0)
    assert client.take() == [(B, [b"", b"hello"])]


def test_servers_come_and_go_and_leave_nothing_behind():
    client = failover(A, B)
    for number in range(200):
        client.step(client.core.add_server, f"tcp://127.0.0.1:{number + 10}", client.now)
        client.call(number)
        client.step(client.core.remove_server, client.core.endpoints[0], client.now)
        client.advance(0.0)
    assert len(client.core.endpoints) == 2
    assert len(client.core._endpoints) == len(client.core._idle) == 2


def test_a_server_that_is_unknown_and_the_last_one_cannot_be_removed():
    client = failover(A)
    with pytest.raises(ValueError, match=f"'{B}' is none of this client's servers"):
        client.core.remove_server(B, client.now)
    with pytest.raises(ValueError, match="the last server"):
        client.core.remove_server(A, client.now)
