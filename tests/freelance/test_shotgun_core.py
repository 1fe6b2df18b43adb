"""ShotgunCore: every request to every server, the first answer wins."""

from __future__ import annotations

import pytest

from tests.freelance.harness import ERROR, A, B, C, Client
from tests.harness import START
from zpatterns.core import Close, Discard, Fail, Open, SendFailure, SocketKind
from zpatterns.errors import ClosedError, QueueFull, RequestTimeout
from zpatterns.testing.weight import reachable_frames


def shotgun(*endpoints: str, **options: object) -> Client:
    return Client(*endpoints, model="shotgun", **options)  # type: ignore[arg-type]


def test_each_server_has_a_dealer_and_gets_each_request_once():
    client = shotgun(A, B, C)
    assert client.asked() == [Open(port + 1, SocketKind.DEALER, where) for port, where in enumerate((A, B, C))]
    assert client.call(1, b"x") == [(where, [b"", b"1", b"x"]) for where in (A, B, C)]
    assert client.call(2, b"y") == [(where, [b"", b"2", b"y"]) for where in (A, B, C)]
    client.advance(7.9)
    assert client.take() == [], "and never again"


def test_the_first_answer_wins_and_the_others_are_dropped():
    client = shotgun()
    client.call(1)
    client.hear(B, b"", b"1", b"quick")
    client.hear(A, b"", b"1", b"slow")
    assert client.delivered() == [(1, [b"quick"])]
    assert client.statistics.dropped == {"unmatched": 1}
    assert client.health == {A: "up", B: "up"}


def test_the_slow_answer_to_one_call_does_not_answer_the_next():
    client = shotgun()
    client.call(1)
    client.hear(A, b"", b"1", b"one")
    client.call(2)
    client.hear(B, b"", b"1", b"one, again")
    client.hear(A, b"", b"1", b"one, twice")
    assert client.delivered() == [(1, [b"one"])]
    client.hear(B, b"", b"2", b"two")
    assert client.delivered() == [(2, [b"two"])]


@pytest.mark.parametrize(
    "frames",
    [
        [b"1", b"x"],
        [b"", b"1"],
        [b"", b"1", b"x", b"y"],
        [b"", b"2", b"x"],
        [b"", b"", b"x"],
        [b"", b"01", b"x"],
        [b""],
    ],
)
def test_what_is_no_answer_ends_no_call(frames):
    client = shotgun()
    client.call(1)
    client.hear(A, *frames)
    assert client.delivered() == []
    client.hear(A, b"", b"1", b"right")
    assert client.delivered() == [(1, [b"right"])]


def test_our_error_convention_means_nothing_here():
    client = shotgun()
    client.call(1)
    client.hear(A, b"", b"1", ERROR, b"ValueError", b"no")
    assert client.delivered() == []
    client.hear(A, b"", b"1", ERROR)
    assert client.delivered() == [(1, [ERROR])], "one frame is a body, whatever it says"


@pytest.mark.parametrize("body", [[], [b"a", b"b"]])
def test_a_body_is_exactly_one_frame(body):
    client = shotgun()
    with pytest.raises(ValueError, match="exactly one body frame"):
        client.core.start_call(1, body, client.now)


def test_a_call_ends_at_its_deadline():
    client = shotgun()
    client.call(1)
    client.call(2, timeout=0.5)
    client.until(START + 0.5)
    assert client.failed() == [(2, RequestTimeout)]
    client.until(START + 8)
    [fail] = client.asked(Fail)
    assert (fail.call, fail.error.attempts) == (1, 1)


def test_what_nobody_waits_for_any_more_is_swept_out_of_the_way_of_a_server_that_is_not_there():
    client = shotgun()
    client.call(1)
    client.call(2)
    client.asked()
    client.hear(A, b"", b"1", b"x", at=START + 0.1)
    client.until(START + 0.349)
    assert client.asked(Discard) == []
    client.until(START + 0.35)
    assert client.asked(Discard) == [Discard(2)], "A was heard, and has nothing in its way"
    client.fail([b"", b"1", b"hello"], SendFailure.UNREACHABLE, port=2)
    assert client.take() == [], "nobody waits for that"
    client.fail([b"", b"2", b"hello"], SendFailure.UNREACHABLE, port=2)
    assert client.take() == [(B, [b"", b"2", b"hello"])]


def test_a_socket_that_could_not_be_opened_is_opened_a_little_later():
    """There were no descriptors left, say. To send at once again would be to do nothing else for ever."""
    client = shotgun(A)
    client.call(1)
    client.call(2)
    client.asked()
    client.fail([b"", b"1", b"hello"], SendFailure.UNREACHABLE, port=1)
    client.fail([b"", b"2", b"hello"], SendFailure.UNREACHABLE, port=1)
    client.step(client.core.cancel_call, 2, client.now)
    assert client.take() == []
    client.until(START + 0.249)
    assert client.asked() == []
    client.until(START + 0.25)
    assert client.asked() == [Discard(1), Open(1, SocketKind.DEALER, A)]
    assert client.take() == [(A, [b"", b"1", b"hello"])]
    client.hear(A, b"", b"1", b"world")
    assert client.delivered() == [(1, [b"world"])]


@pytest.mark.parametrize("ended_first", [False, True])
def test_what_could_not_be_sent_is_let_go_with_its_call_and_the_socket_opened_all_the_same(ended_first):
    """No sweep comes for a blocking client before its next call, which may be never (seeds 2861, 10195 and 20679)."""
    client = shotgun()
    client.call(1, b"q:1")
    client.asked()
    if ended_first:
        client.hear(A, b"", b"1", b"x")
    client.fail([b"", b"1", b"q:1"], SendFailure.UNREACHABLE, port=2)
    if not ended_first:
        client.hear(A, b"", b"1", b"x")
    client.take()
    assert client.delivered() == [(1, [b"x"])]
    assert reachable_frames(client.core, b"q:") == 0
    client.until(START + 0.25)
    assert client.asked() == [Discard(2), Open(2, SocketKind.DEALER, B)]


def test_a_connection_that_libzmq_has_ended_for_good_is_made_anew():
    """What nobody waits for is found in our socket: there is no server, or libzmq makes no connection to it any more,
    for something else was there for a moment and spoke of ZMTP what it may not."""
    client = shotgun(A)
    client.call(1, timeout=2.0)
    client.call(2)
    client.until(START + 2.25)
    client.asked()
    client.fail([b"", b"1", b"hello"], SendFailure.UNREACHABLE, port=1)
    client.fail([b"", b"2", b"hello"], SendFailure.UNREACHABLE, port=1)
    assert client.asked() == [Open(1, SocketKind.DEALER, A)], "once, though both were held"
    assert client.take() == [(A, [b"", b"2", b"hello"])]


def test_what_did_not_fit_is_not_tried_again():
    client = shotgun()
    client.call(1)
    client.fail([b"", b"1", b"hello"], SendFailure.OVERFLOW, port=2)
    assert client.take() == []
    client.hear(B, b"", b"1", b"?")
    assert client.delivered() == []
    client.hear(A, b"", b"1", b"x")
    assert client.delivered() == [(1, [b"x"])]


def test_calls_wait_for_room():
    client = shotgun(max_in_flight=1, queue_max=1)
    client.call(1)
    assert client.call(2) == []
    with pytest.raises(QueueFull):
        client.call(3)
    assert client.hear(A, b"", b"1", b"x") == [(A, [b"", b"2", b"hello"]), (B, [b"", b"2", b"hello"])]


def test_a_server_that_is_added_gets_the_open_calls_and_one_that_is_removed_no_more():
    client = shotgun(A)
    client.call(1)
    client.step(client.core.add_server, B, client.now)
    assert client.take() == [(B, [b"", b"1", b"hello"])]
    client.asked()
    client.step(client.core.remove_server, A, client.now)
    assert client.asked() == [Close(1)]
    client.give([b"", b"1", b"from A"], port=1)
    assert client.delivered() == []
    client.hear(B, b"", b"1", b"from B")
    assert client.delivered() == [(1, [b"from B"])]
    assert client.call(2) == [(B, [b"", b"2", b"hello"])]


def test_cancelling_and_closing():
    client = shotgun()
    client.call(1)
    client.call(2)
    client.step(client.core.cancel_call, 1, client.now)
    client.hear(A, b"", b"1", b"x")
    assert client.delivered() == []
    client.asked()
    client.step(client.core.close, client.now)
    asked = client.asked()
    assert [type(one.error) for one in asked if isinstance(one, Fail)] == [ClosedError]
    assert [one for one in asked if isinstance(one, Close)] == [Close(1), Close(2)]
