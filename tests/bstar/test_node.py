"""BinaryStar over real sockets, one node beside a bare PUB and SUB that say what the other half would."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading

import pytest
import zmq

from tests.bstar.live import FREE, QUICK, active
from tests.waiting import DEADLINE, until
from zpatterns.bstar import BinaryStar
from zpatterns.bstar.events import BecameActive, BecamePassive, PeerHeard, SteppedDown
from zpatterns.core import Event
from zpatterns.errors import ClosedError, EndpointError, PromotionRefused
from zpatterns.freelance import FreelanceServer
from zpatterns.handlers import Request
from zpatterns.mdp import Broker
from zpatterns.pirate import LazyPirateServer
from zpatterns.server_core import RequestRefused

# Where it is, and what it is.


def test_it_is_bound_where_it_says_and_waits_for_the_other(start):
    started = start(control="tcp://127.0.0.1:*")
    node = started.node
    assert len({node.endpoint, node.local, node.control}) == 3
    assert not any("*" in endpoint for endpoint in (node.endpoint, node.local, node.control))
    statistics = node.statistics()
    assert (statistics.role, statistics.state, statistics.serving) == ("primary", "primary waiting", False)
    assert (statistics.peer_state, statistics.peer_silent) == ("", True)


def test_requests_are_read_and_dropped_until_it_is_active_and_answered_then(start, other):
    started = start(handler=lambda request: request.body.upper())
    started.ask(b"dropped")
    until(lambda: started.node.statistics().refused == 1, "it was refused")
    active(started, other)
    started.ask(b"served")
    assert started.answer() == [b"SERVED"]


def test_what_happens_is_told_and_counted(start, other):
    started = start()
    active(started, other)
    other.says(b"3 epoch=9", lambda: started.state == "passive")
    assert [type(event) for event in started.events][:2] == [PeerHeard, BecameActive]
    assert started.told(SteppedDown)[0].epoch == 1
    statistics = started.node.statistics()
    assert (statistics.epoch, statistics.peer_epoch, statistics.activations, statistics.step_downs) == (1, 9, 1, 1)


def test_events_of_the_service_are_told_by_the_service(start, other):
    told: list[Event] = []
    release = threading.Event()
    service = LazyPirateServer(FREE, handler=lambda _: release.wait(DEADLINE), on_event=told.append)
    started = start(service=service)
    active(started, other)
    started.ask()
    started.ask()
    until(lambda: service.statistics().queued == 1, "one waits")
    other.says(b"3 epoch=9", lambda: started.state == "passive")
    release.set()
    until(lambda: any(isinstance(event, RequestRefused) for event in told), "what waited was refused")
    assert not any(isinstance(event, BecameActive) for event in told)
    assert not started.told(RequestRefused)


def test_its_state_is_published_as_the_guides_peers_read_it(start, other):
    started = start(primary=False)
    heard = other.listens_to(started.node)
    assert heard.recv_multipart() == [b"2 epoch=0 interval=0.2 liveness=60"]
    other.says(b"3", lambda: started.state == "passive")
    until(lambda: heard.recv_multipart() == [b"4 epoch=0 interval=0.2 liveness=60"], "the new state is published")


def test_standing_by_is_told_with_its_reason(start, other):
    started = start(primary=False)
    other.says(b"3 epoch=4", lambda: started.state == "passive")
    [event] = started.told(BecamePassive)
    assert (event.epoch, event.reason) == (0, "the peer is active")


# Hooks.


class Hook:
    """A hook of either kind that ends when it is let go, and says when it was called."""

    def __init__(self, name: str, calls: list[str], ends: bool = True) -> None:
        self.name = name
        self.calls = calls
        self.go = threading.Event()
        if ends:
            self.go.set()

    def function(self) -> None:
        self.calls.append(self.name)

    async def coroutine(self) -> None:
        self.calls.append(f"{self.name} begins")
        while not self.go.is_set():
            await asyncio.sleep(0.001)
        self.calls.append(f"{self.name} ends")


def test_functions_are_called_when_it_becomes_active_and_passive(start, other):
    calls: list[str] = []
    started = start(on_active=Hook("active", calls).function, on_passive=Hook("passive", calls).function)
    active(started, other)
    until(lambda: started.serving, "it serves")
    assert calls == ["active"]
    other.says(b"3 epoch=9", lambda: started.state == "passive")
    until(lambda: calls == ["active", "passive"], "on_passive was called")
    started.ask()
    until(lambda: started.node.statistics().refused == 1, "it is read and dropped")


def test_it_serves_only_when_a_coroutine_is_done_and_what_came_meanwhile_is_answered_then(start, other):
    calls: list[str] = []
    hook = Hook("active", calls, ends=False)
    handled: list[bytes] = []

    def handle(request: Request) -> bytes:
        assert calls == ["active begins", "active ends"]
        handled.append(request.body)
        return request.body

    started = start(handler=handle, on_active=hook.coroutine)
    heard = other.listens_to(started.node)
    active(started, other)
    started.ask()
    until(lambda: heard.recv_multipart()[0].startswith(b"3"), "heartbeats go on")
    until(lambda: heard.recv_multipart()[0].startswith(b"3"), "and on")
    assert calls == ["active begins"]
    assert not started.serving and not handled
    hook.go.set()
    assert started.answer() == [b"hello"]
    assert started.serving


class _Cancelled(asyncio.CancelledError):
    """What a hook raises that awaited something which was cancelled."""


@pytest.mark.parametrize("error", [ValueError("no"), _Cancelled()])
@pytest.mark.parametrize("is_coroutine", [False, True])
def test_an_on_active_that_raises_makes_it_step_down_and_the_next_may_succeed(
    start, other, caplog, error, is_coroutine
):
    fails = [error]

    def function() -> None:
        if fails:
            raise fails.pop()

    async def coroutine() -> None:
        function()

    started = start(on_active=coroutine if is_coroutine else function)
    other.says(b"2", lambda: bool(started.told(SteppedDown)))
    assert started.told(SteppedDown)[0].reason == "on_active raised"
    assert [record for record in caplog.records if "hook_raised" in record.message]
    other.says(b"2", lambda: started.serving)
    started.ask()
    assert started.answer() == [b"hello"]


def test_an_on_passive_that_raises_is_logged_and_the_next_on_active_follows(start, other, caplog):
    def fail() -> None:
        raise ValueError("no")

    started = start(on_passive=fail)
    active(started, other)
    other.says(b"3 epoch=9", lambda: started.state == "passive")
    other.says(b"2 epoch=9", lambda: started.serving)
    assert [record for record in caplog.records if "hook_raised" in record.message]


def test_an_on_active_never_begins_before_the_on_passive_has_ended(start, other):
    calls: list[str] = []
    passive = Hook("passive", calls, ends=False)
    started = start(on_active=Hook("active", calls).function, on_passive=passive.coroutine)
    other.says(b"2", lambda: started.serving)
    other.says(b"3 epoch=9", lambda: started.state == "passive")
    active(started, other)
    started.ask()
    until(lambda: "passive begins" in calls, "on_passive was begun")
    assert calls == ["active", "passive begins"]
    passive.go.set()
    assert started.answer() == [b"hello"]
    assert calls == ["active", "passive begins", "passive ends", "active"]


# What its program may ask of it.


def test_promote_and_step_down(start, other):
    started = start(primary=False)
    heard = other.listens_to(started.node)
    started.call(started.node.promote)
    started.ask()
    assert started.answer() == [b"hello"]
    started.call(started.node.step_down)
    assert started.state == "backup waiting"
    assert started.told(SteppedDown)[0].reason == "told to by its program"
    until(lambda: heard.recv_multipart()[0].startswith(b"2 epoch=1"), "the other is told that it may")
    started.ask()
    until(lambda: started.node.statistics().refused == 1, "it is read and dropped")


def test_promote_is_refused_beside_an_active_one_of_the_guides(start, other):
    started = start()
    other.says(b"3", lambda: started.state == "passive")
    with pytest.raises(PromotionRefused, match="stop it first"):
        started.call(started.node.promote)


def test_a_node_that_does_not_run_cannot_be_promoted(start, reactor):
    node = BinaryStar(primary=True, bind=FREE, local=FREE, remote="tcp://127.0.0.1:1")
    assert node.statistics().state == "primary waiting"
    with pytest.raises(ClosedError, match="does not run"):
        node.promote()
    started = start()
    reactor.stop(started.node)
    for method in (started.node.promote, started.node.step_down):
        with pytest.raises(ClosedError, match="does not run"):
            started.call(method)


def test_a_lone_backup_serves_once_it_may(start):
    started = start(primary=False, heartbeat_interval=0.1, liveness=5, lone_backup_after=0.6)
    started.ask(b"too early")
    until(lambda: started.node.statistics().refused == 1, "the first is dropped")

    def is_served() -> bool:
        started.ask()
        served: bool = started.serving
        return served

    until(is_served, "it was asked after its patience")
    assert started.answer() == [b"hello"]


# Control.


def asked(operator: zmq.Socket[bytes], *frames: bytes) -> list[bytes]:
    operator.send_multipart([b"", *frames])
    return operator.recv_multipart()[1:]


def test_operators_ask_for_its_state_and_promote_it(start, peer):
    started = start(primary=False, control="tcp://127.0.0.1:*")
    operator = peer(zmq.DEALER, connect=started.node.control)
    code, text = asked(operator, b"status")
    assert (code, json.loads(text)["state"]) == (b"200", "backup waiting")
    assert asked(operator, b"promote")[0] == b"200"
    assert json.loads(asked(operator, b"status")[1]) == {
        "role": "backup",
        "state": "active",
        "epoch": 1,
        "serving": True,
        "peer": {"state": "", "epoch": None, "silent": True},
        "refused": 0,
    }
    assert asked(operator, b"halt") == [b"400", b"ask for 'status' or 'promote'"]


def test_noise_from_the_other_half_and_at_control_leaves_it_as_it_was(start, other, peer):
    started = start(control="tcp://127.0.0.1:*")
    noise = peer(zmq.DEALER, connect=started.node.control)
    for frames in ([b""], [b"status", b"now"], [b"", b"x" * 100_000], [b"\x00"] * 40, [b"", b"", b"", b""]):
        noise.send_multipart(frames)
    for state in (b"", b"5", b"3 epoch=9" * 1000, b"\xff" * 2000, b"33", b"-3", b"3epoch=4"):
        other.says(state, lambda: True)
    other.says(b"nothing", lambda: started.node.statistics().dropped.get("invalid", 0) >= 3)
    assert started.state == "primary waiting"
    operator = peer(zmq.DEALER, connect=started.node.control)
    assert asked(operator, b"status")[0] == b"200"


@pytest.mark.parametrize("place", ["tcp://*:5005", "tcp://0.0.0.0:5005", "tcp://10.1.2.3:5005", "tcp://[::]:5005"])
def test_control_is_for_this_machine_only(place):
    with pytest.raises(EndpointError, match="no place for control"):
        BinaryStar(primary=True, bind=FREE, local=FREE, remote="tcp://127.0.0.1:1", control=place)


@pytest.mark.parametrize("place", ["tcp://127.0.0.1:5005", "tcp://localhost:*", "tcp://[::1]:5005", "ipc:///tmp/x"])
def test_control_may_be_on_loopback_and_ipc(place):
    node = BinaryStar(primary=True, bind=FREE, local=FREE, remote="tcp://127.0.0.1:1", control=place)
    assert node.control == place


# The end.


def is_free(endpoint: str) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what was closed a moment ago is no hindrance
        probe.bind(("127.0.0.1", int(endpoint.rpartition(":")[2])))
        return True
    return False


def test_stopped_it_answers_what_it_has_begun_and_hands_over(start, other, reactor):
    release = threading.Event()

    def handle(request: Request) -> bytes:
        release.wait(DEADLINE)
        return request.body

    calls: list[str] = []
    started = start(handler=handle, on_passive=Hook("passive", calls).coroutine)
    heard = other.listens_to(started.node)
    active(started, other)
    started.ask()
    until(lambda: started.node.service.statistics().running == 1, "the handler runs")
    stopping = threading.Thread(target=reactor.stop, args=(started.node, DEADLINE))
    stopping.start()
    until(lambda: started.node.service._core._draining, "it drains")
    assert started.state == "active"
    release.set()
    assert started.answer() == [b"hello"]
    stopping.join(DEADLINE)
    until(lambda: heard.recv_multipart()[0].startswith(b"1"), "the other is told that it may")
    assert calls == ["passive begins", "passive ends"]


def test_a_service_is_started_and_stopped_with_its_node_and_only_so(start, other, reactor):
    broker = Broker(FREE)
    started = start(service=broker)
    assert started.node.endpoint == broker.endpoint != FREE
    with pytest.raises(ClosedError, match="started before"):
        reactor.start(broker)
    late = Broker(FREE)
    node = BinaryStar(late, primary=True, local=FREE, remote=other.remote)
    reactor.start(late)
    with pytest.raises(ClosedError, match="give BinaryStar one that was not"):
        reactor.start(node)
    reactor.stop(started.node)
    until(lambda: is_free(broker.endpoint), "its port is free")


def test_a_service_that_runs_goes_on_when_it_cannot_be_hosted(reactor, peer):
    broker = reactor.start(Broker(FREE))
    with pytest.raises(ClosedError, match="give BinaryStar one that was not"):
        BinaryStar(broker, primary=True, local=FREE, remote="tcp://127.0.0.1:1")
    client = peer(zmq.DEALER, connect=broker.endpoint)
    client.send_multipart([b"", b"MDPC01", b"mmi.service", b"echo"])
    assert client.recv_multipart()[-1] == b"404"
    assert broker.statistics().requests == 1


def test_however_short_its_lease_a_connection_has_time_to_be_made(start):
    """On a long line that takes a while, and the heartbeats that follow come none the less often."""
    started = start(**QUICK)
    (driver,) = started.node._drivers
    assert driver._settings.connect_timeout == 1.0
    assert driver._settings.reconnect_cap <= 0.1


def test_an_endpoint_that_is_taken_leaves_nothing_open(start, reactor, other):
    first = start()
    taken = BinaryStar(primary=True, bind=FREE, local=first.node.local, remote=other.remote)
    with pytest.raises(EndpointError, match="cannot bind"):
        reactor.start(taken)
    until(lambda: is_free(taken.endpoint), "its port is free")


@pytest.mark.parametrize(
    ("service", "options", "error"),
    [
        (FreelanceServer(FREE, identity="x"), {}, "a FreelanceServer cannot be one half of a pair"),
        (Broker(FREE), {"bind": FREE}, "this one brings its own"),
        (Broker(FREE), {"handler": print}, "this one brings its own"),
        (None, {"bind": FREE, "handler": "no function"}, "handler"),
    ],
)
def test_what_cannot_be_half_of_a_pair_is_told_so(service, options, error):
    with pytest.raises(TypeError, match=error):
        BinaryStar(service, primary=True, local=FREE, remote="tcp://127.0.0.1:1", **options)
