"""LazyServerCore, and with it ServerCore: what a REP would do, for many clients at a time, and bounded."""

from __future__ import annotations

import pytest

from tests.harness import START
from tests.pirate.lazy_harness import ERROR, LazyClient, LazyServer, refusal, request
from zpatterns.calls import CallCore
from zpatterns.core import Cancel, MessagesDropped, Run, SendFailure, ServiceCore
from zpatterns.server_core import HandlerFailed, RequestExpired, RequestRefused, ServerOptions
from zpatterns.testing.weight import reachable_frames

BUSY = b"the server's queue is full"
STOPPING = b"the server is shutting down; ask another one"


# The frames, as a REP has them.


@pytest.mark.parametrize("body", [[b"hello"], [b""], [b"one", b"", b"three"]])
def test_a_request_is_run_and_answered_to_the_one_who_asked(body):
    server = LazyServer()
    assert server.give([b"client", b"", *body]) == []
    assert server.asked() == [Run(0, b"client", body)]
    assert server.done(0, b"world", b"") == [[b"client", b"", b"world", b""]]
    assert server.statistics.replies == 1


def test_an_envelope_of_several_hops_is_given_back_as_it_came():
    """REP keeps everything up to the first empty frame; behind it, empty frames are body."""
    server = LazyServer()
    server.give([b"queue", b"hop", b"client", b"", b"hello", b"", b"x"])
    assert server.asked() == [Run(0, b"queue", [b"hello", b"", b"x"])]
    assert server.done(0, b"world") == [[b"queue", b"hop", b"client", b"", b"world"]]


@pytest.mark.parametrize(
    "frames",
    [[b"client", b"hello"], [b"client", b""], [b"client", b"x", b"y"], [b"client", b"x", b""], [b"client"], []],
)
def test_what_no_rep_would_take_is_dropped_and_counted_and_stops_nothing(frames):
    server = LazyServer()
    assert server.give(frames) == []
    assert server.asked() == []
    assert server.events() == [MessagesDropped("invalid", 1)]
    assert server.statistics.requests == 0
    server.give(frames, request(b"another"))
    assert server.asked() == [Run(0, b"another", [b"hello"])]


def test_a_handler_that_returns_nothing_sends_one_empty_frame():
    server = LazyServer()
    server.give(request(b"client"))
    assert server.done(0) == [[b"client", b"", b""]]


# Lanes and the queue.


def test_requests_are_begun_in_the_order_they_came_one_at_a_time():
    server = LazyServer()
    server.give(request(b"one", b"1"), request(b"two", b"2"), request(b"three", b"3"))
    assert server.asked() == [Run(0, b"one", [b"1"])]
    assert server.statistics.queued == 2
    assert server.done(0, b"a") == [[b"one", b"", b"a"]]
    assert server.asked() == [Run(1, b"two", [b"2"])]
    server.done(1, b"b")
    assert server.asked() == [Run(2, b"three", [b"3"])]
    assert server.done(2, b"c") == [[b"three", b"", b"c"]]
    assert server.statistics.running == 0


def test_concurrency_is_how_many_run_at_a_time_each_in_a_lane_of_its_own():
    server = LazyServer(concurrency=3)
    server.give(*[request(b"client", b"%d" % number) for number in range(5)])
    runs = server.asked(Run)
    assert [run.run % 3 for run in runs] == [0, 1, 2]
    assert server.done(runs[1].run, b"b") == [[b"client", b"", b"b"]]
    (fourth,) = server.asked(Run)
    assert fourth.run % 3 == 1
    assert fourth.frames == [b"3"]
    assert fourth.run not in [run.run for run in runs]


def test_a_pipelining_client_gets_each_answer_with_the_envelope_of_its_own_request():
    server = LazyServer(concurrency=2)
    server.give([b"client", b"first", b"", b"1"], [b"client", b"second", b"", b"2"])
    assert server.done(1, b"b") == [[b"client", b"second", b"", b"b"]]
    assert server.done(0, b"a") == [[b"client", b"first", b"", b"a"]]


def test_a_full_queue_refuses_the_newest():
    server = LazyServer(queue_max=2)
    sent = server.give(*[request(b"client%d" % number) for number in range(5)])
    assert sent == [refusal(b"client3", b"429", BUSY), refusal(b"client4", b"429", BUSY)]
    assert server.events(RequestRefused) == [
        RequestRefused(b"client3", BUSY.decode()),
        RequestRefused(b"client4", BUSY.decode()),
    ]
    assert server.statistics.refused == 2
    server.done(0)
    assert server.give(request(b"client5")) == []


def test_the_queue_is_bounded_in_bytes_too_the_envelope_included():
    server = LazyServer(queue_bytes_max=3000)
    assert server.give(request(b"running")) == []
    assert server.give(request(b"a", b"x" * 1000)) == []
    assert server.statistics.queued_bytes == 1513
    sent = server.give([b"b", b"y" * 1000, b"", b"x"])
    assert [frames[-2] for frames in sent] == [b"429"]
    assert server.give(request(b"c", b"x" * 900)) == []


def test_a_request_that_waited_for_its_whole_ttl_is_dropped():
    server = LazyServer(request_ttl=5)
    server.give(request(b"running"))
    server.give(request(b"early"), at=START + 1)
    server.give(request(b"late"), at=START + 2)
    assert server.until(START + 5.999) == []
    assert server.statistics.queued == 2
    server.until(START + 6)
    assert server.events(RequestExpired) == [RequestExpired(b"early")]
    server.asked()
    server.done(0)
    assert server.asked(Run) == [Run(1, b"late", [b"hello"])]
    assert server.statistics.expired == 1


def test_nothing_past_its_time_is_begun_when_the_timer_is_late():
    """R4: a server that stood still finds its handler done before its timer has come."""
    server = LazyServer(request_ttl=5)
    server.give(request(b"running"), request(b"stale"))
    server.asked()
    server.now = START + 5
    assert server.done(0, b"a") == [[b"running", b"", b"a"]]
    assert server.asked() == []
    assert server.events(RequestExpired) == [RequestExpired(b"stale")]


def test_one_that_runs_is_not_dropped_however_long_it_takes():
    server = LazyServer(request_ttl=5)
    server.give(request(b"client"))
    server.until(START + 100)
    assert server.done(0, b"late") == [[b"client", b"", b"late"]]


def test_an_answered_request_is_not_kept():
    server = LazyServer(queue_max=1)
    server.give(request(b"a", b"q:1"), request(b"b", b"q:2"), request(b"c", b"q:3"))
    server.asked()
    assert reachable_frames(server.core, b"q:") == 2
    server.done(0)
    server.done(1)
    server.asked()
    server.sent()
    assert reachable_frames(server.core, b"q:") == 0


# Handlers that fail.


def test_a_handler_that_raises_costs_one_request():
    server = LazyServer()
    server.give(request(b"one"), request(b"two"))
    assert server.raised(0, "LookupError", "no such thing") == [refusal(b"one", b"LookupError", b"no such thing")]
    assert server.events(HandlerFailed) == [HandlerFailed("LookupError", "no such thing")]
    assert server.done(1, b"fine") == [[b"two", b"", b"fine"]]
    assert (server.statistics.errors, server.statistics.replies) == (1, 1)


def test_a_code_that_is_not_ascii_is_told_as_well_as_it_can_be():
    server = LazyServer()
    server.give(request(b"client"))
    assert server.raised(0, "Größe", "\ud800") == [refusal(b"client", b"Gr??e", b"?")]


def test_a_function_that_turns_out_to_be_a_generator_is_an_error_once():
    server = LazyServer()
    server.give(request(b"one"), request(b"two"))
    server.asked()
    server.step(server.core.handler_partial, 0, [b"part"], server.now)
    (sent,) = server.sent()
    assert sent[:4] == [b"one", b"", ERROR, b"TypeError"]
    assert server.asked() == [Cancel(0)]
    server.step(server.core.handler_partial, 0, [b"part"], server.now)
    assert server.sent() == []
    assert server.asked() == []
    assert server.done(0, b"the end") == []
    assert server.asked() == [Run(1, b"two", [b"hello"])]


def test_what_a_handler_says_of_a_run_that_is_over_concerns_nobody():
    server = LazyServer()
    server.give(request(b"client"))
    server.done(0, b"a")
    server.asked()
    assert server.done(0, b"again") == []
    assert server.raised(0) == []
    server.step(server.core.handler_partial, 0, [b"part"], server.now)
    assert server.sent() == server.asked() == []


@pytest.mark.parametrize("reason", list(SendFailure))
def test_a_client_that_is_gone_or_reads_nothing_costs_its_own_answer(reason):
    server = LazyServer()
    server.give(request(b"gone"), request(b"there"))
    (answer,) = server.done(0, b"a")
    assert server.fail(answer, reason) == []
    assert server.done(1, b"b") == [[b"there", b"", b"b"]]
    assert server.statistics.undelivered == 1
    assert server.statistics.dropped == {f"client-{reason.value}": 1}


# The end.


def test_draining_finishes_what_runs_and_refuses_the_rest():
    server = LazyServer()
    server.give(request(b"running"), request(b"queued"))
    assert not server.core.drained
    server.step(server.core.drain, server.now)
    assert server.sent() == [refusal(b"queued", b"503", STOPPING)]
    assert server.give(request(b"new")) == [refusal(b"new", b"503", STOPPING)]
    assert not server.core.drained
    server.asked()
    assert server.done(0, b"done") == [[b"running", b"", b"done"]]
    assert server.core.drained
    assert server.asked() == []
    assert server.core.next_timer() is None


def test_a_server_that_has_nothing_to_do_is_drained_at_once():
    server = LazyServer()
    server.step(server.core.drain, server.now)
    assert server.core.drained


def test_shutting_down_stops_the_handlers_and_their_callers_hear_nothing():
    server = LazyServer(concurrency=2)
    server.give(*[request(b"client%d" % number) for number in range(3)])
    server.asked()
    server.step(server.core.shut_down, server.now)
    assert server.sent() == [refusal(b"client2", b"503", STOPPING)]
    assert server.asked() == [Cancel(0), Cancel(1)]
    assert server.done(0, b"a") == []
    assert server.raised(1, "cancelled") == []


@pytest.mark.parametrize("name", ["concurrency", "queue_max", "queue_bytes_max"])
def test_limits_are_at_least_one(name):
    with pytest.raises(ValueError, match=rf"{name} must be at least 1\b.*, not 0"):
        ServerOptions(**{name: 0})


@pytest.mark.parametrize("ttl", [0, -1, float("inf"), float("nan")])
def test_request_ttl_is_a_time(ttl):
    with pytest.raises(ValueError, match="request_ttl must be a positive number"):
        ServerOptions(request_ttl=ttl)


def test_the_cores_keep_the_contract():
    """mypy checks the signatures here; this, that each can be asked for everything before anything has happened."""
    server: ServiceCore = LazyServer().core
    client: CallCore = LazyClient().core
    for core in (server, client):
        assert not core.ports_to_send()
        assert core.commands() == []
        assert core.events() == []
        assert core.next_timer() is None
        core.handle_timer(1000.0)
        core.check_invariants()
        assert core.statistics() == core.statistics()
    assert server.drained
    assert (server.PORTS, client.PORTS) == (("server",), ())
