"""FreelanceServerCore: what its models add to the servers of all patterns, which are tested in tests/pirate."""

from __future__ import annotations

import pytest

from tests.freelance.harness import ERROR, Server
from tests.harness import START
from zpatterns.core import MessagesDropped, SendFailure
from zpatterns.server_core import HandlerFailed, RequestRefused

# Addressed.


def test_a_request_is_handled_and_its_reply_has_the_control_frame():
    server = Server()
    assert server.give([b"client", b"ccf", b"a", b"", b"b"]) == []
    assert server.begun() == [(b"client", [b"a", b"", b"b"])]
    assert server.done(1, b"x", b"y") == [[b"client", b"ccf", b"x", b"y"]]


@pytest.mark.parametrize("control", [b"", b"1", b"PING", b"PONG", b"\x00\xff", b"x" * 1000])
def test_any_frame_may_be_the_control_frame(control):
    server = Server()
    server.give([b"client", control, b"body"])
    assert server.done(1, b"reply") == [[b"client", control, b"reply"]]


def test_ping_is_answered_at_once_though_all_places_are_taken():
    server = Server(queue_max=1)
    server.give([b"a", b"1", b"x"], [b"a", b"2", b"x"], [b"a", b"3", b"x"])
    assert server.give([b"b", b"PING"]) == [[b"b", b"PONG"]]
    server.step(server.core.drain, server.now)
    server.sent()
    assert server.give([b"b", b"PING"]) == [[b"b", b"PONG"]], "until it is gone"


@pytest.mark.parametrize("frames", [[b"c"], [b"c", b"PONG"], [b"c", b"ping"], [b"c", b""], [b"c", b"PING "], []])
def test_what_is_neither_is_dropped_and_counted(frames):
    server = Server()
    assert server.give(frames) == []
    assert server.asked() == []
    assert server.events(MessagesDropped) == [MessagesDropped("invalid", 1)]


def test_a_handler_that_raises_is_told_of():
    server = Server()
    server.give([b"client", b"7", b"x"])
    assert server.raised(1, "KeyError", "größe") == [[b"client", b"7", ERROR, b"KeyError", "größe".encode()]]
    assert server.events(HandlerFailed) == [HandlerFailed("KeyError", "größe")]


def test_the_newest_is_refused_when_the_queue_is_full():
    server = Server(queue_max=1)
    sent = server.give([b"c", b"1", b"a"], [b"c", b"2", b"b"], [b"d", b"3", b"c"])
    assert sent == [[b"d", b"3", ERROR, b"429", b"the server's queue is full"]]
    assert [event.client for event in server.events(RequestRefused)] == [b"d"]
    server.done(1, b"")
    assert server.begun() == [(b"c", [b"a"]), (b"c", [b"b"])]


def test_draining_refuses_what_waits_and_comes_and_finishes_what_was_begun():
    server = Server()
    server.give([b"c", b"1", b"a"], [b"c", b"2", b"b"])
    server.step(server.core.drain, server.now)
    assert [frames[:4] for frames in server.sent()] == [[b"c", b"2", ERROR, b"503"]]
    assert [frames[:4] for frames in server.give([b"c", b"3", b"c"])] == [[b"c", b"3", ERROR, b"503"]]
    assert not server.core.drained
    assert server.done(1, b"done") == [[b"c", b"1", b"done"]]
    assert server.core.drained


def test_what_has_waited_for_its_time_to_live_is_dropped():
    server = Server(request_ttl=5)
    server.give([b"c", b"1", b"a"], [b"c", b"2", b"b"])
    assert server.until(START + 5) == []
    assert server.statistics.expired == 1
    server.done(1, b"")
    assert server.begun() == [(b"c", [b"a"])]


@pytest.mark.parametrize("reason", list(SendFailure))
def test_a_reply_whose_client_is_gone_is_counted(reason):
    server = Server()
    server.fail([b"c", b"1", b"x"], reason)
    assert server.statistics.undelivered == 1


# Failover: what a REP does.


def test_failover_answers_with_the_envelope_it_got():
    server = Server("failover")
    server.give([b"proxy", b"client", b"", b"a", b"", b"b"])
    assert server.begun() == [(b"proxy", [b"a", b"", b"b"])]
    assert server.done(1, b"x") == [[b"proxy", b"client", b"", b"x"]]


def test_failover_has_no_ping():
    server = Server("failover")
    assert server.give([b"c", b"PING"]) == []
    assert server.statistics.dropped == {"invalid": 1}
    server.give([b"c", b"", b"PING"])
    assert server.begun() == [(b"c", [b"PING"])]


def test_failover_tells_errors():
    server = Server("failover")
    server.give([b"c", b"", b"x"])
    assert server.raised(1) == [[b"c", b"", ERROR, b"ValueError", b"no"]]


# Shotgun: exactly one frame each way, and no errors.


def test_shotgun_answers_with_the_sequence():
    server = Server("shotgun")
    server.give([b"c", b"", b"41", b"body"])
    assert server.begun() == [(b"c", [b"body"])]
    assert server.done(1, b"x") == [[b"c", b"", b"41", b"x"]]


def test_shotgun_answers_nothing_as_one_empty_frame():
    server = Server("shotgun")
    server.give([b"c", b"", b"41", b"body"])
    assert server.done(1) == [[b"c", b"", b"41", b""]]


@pytest.mark.parametrize("frames", [[b"c", b"", b"1"], [b"c", b"", b"1", b"a", b"b"], [b"c", b"1", b"a"]])
def test_shotgun_takes_exactly_one_body_frame(frames):
    server = Server("shotgun")
    assert server.give(frames) == []
    assert server.statistics.dropped == {"invalid": 1}


def test_shotgun_is_silent_where_another_server_may_answer():
    """A foreign client aborts on anything but three frames: no error, no refusal, no reply of two frames."""
    server = Server("shotgun", queue_max=1)
    requests = [[b"c", b"", b"%d" % number, b"x"] for number in range(5)]
    assert server.give(*requests) == []
    assert server.statistics.refused == 3
    assert server.raised(1) == []
    assert server.done(2, b"a", b"b") == []
    assert [event.code for event in server.events(HandlerFailed)] == ["ValueError", "ValueError"]
    server.give([b"c", b"", b"9", b"x"])
    assert server.done(3, b"fine") == [[b"c", b"", b"9", b"fine"]], "and it goes on"
    server.step(server.core.drain, server.now)
    assert server.give([b"c", b"", b"10", b"x"]) == []
