"""What both drivers promise, whichever core they drive: the order of a turn, reading within a budget and only when the
core wants to, orderly ends, and that no exception wedges a socket. See test_driver_sending.py for what is sent."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import zmq

from tests.example import CallerCore, EchoCore, Told, endpoint_of
from tests.waiting import until
from zpatterns.core import Cancel, Frames, PortId, SendFailure
from zpatterns.driver import DRAIN_BUDGET
from zpatterns.sockets import Link, SocketSettings


class TestATurn:
    """The order that :mod:`zpatterns.core` gives."""

    def test_the_order_of_a_turn(self, bench, peer):
        core = EchoCore()
        server = bench.drive(core)
        socket = peer(zmq.DEALER, connect=server.bind())
        socket.send(b"warm up")
        assert socket.recv() == b"warm up"
        # One message that is answered, and one that cannot be: what fails is told, and asks for another round.
        core.on_failure = lambda frames, reason: core.tell("failed")

        def answer(frames: Frames, now: float, port: PortId) -> None:
            core.send(port, frames, [b"nobody", b"lost"])
            core.tell("answered")

        def look() -> list[str]:
            core.on_message = answer
            core.trace.clear()
            return core.trace

        trace = server.do(look)
        socket.send(b"ball")
        assert socket.recv() == b"ball"
        until(lambda: len(server.events) == 2, "both events")
        turn = [name for name in trace if name != "wants_to_read"]
        assert turn[: turn.index("events") + 1] == [
            "receive_many",
            "commands",
            "ports_to_send",
            "messages_to_send",
            "send_failed",
            "commands",
            "ports_to_send",
            "next_timer",
            "events",
        ]
        assert server.events == [Told("answered"), Told("failed")]

    def test_a_timer_makes_a_turn_as_a_message_does(self, bench):
        core = CallerCore()
        driven = bench.drive(core)
        core.on_timer = lambda now: core.tell("timer")
        driven.call(core.set_timer, driven.driver.now() + 0.01)
        until(lambda: driven.events, "the timer's event")
        assert driven.events == [Told("timer")]
        assert core.timers == 1

    def test_a_timer_never_comes_early(self, bench):
        core = CallerCore()
        driven = bench.drive(core)
        came: list[tuple[float, float]] = []

        def on_timer(now: float) -> None:
            came.append((due[-1], now))
            if len(due) < 20:
                due.append(now + 0.002 * (len(due) % 4))
                core.set_timer(due[-1])

        core.on_timer = on_timer
        due = [driven.driver.now() + 0.01]
        driven.call(core.set_timer, due[0])
        until(lambda: len(came) == 20, "20 timers")
        assert all(when <= now for when, now in came)

    def test_a_timer_that_moves_earlier_is_kept(self, bench):
        core = CallerCore()
        driven = bench.drive(core)
        driven.call(core.set_timer, driven.driver.now() + 3600)
        driven.call(core.set_timer, driven.driver.now() + 0.01)
        until(lambda: core.timers, "the earlier timer")

    def test_commands_come_before_the_messages_of_the_same_turn(self, bench, peer):
        """An Open is carried out before anything is sent on its port."""
        router = peer(zmq.ROUTER, bind="tcp://127.0.0.1:*")
        core = CallerCore()
        driven = bench.drive(core)

        def connect_and_send() -> None:
            core.send("back", [b"first"])
            core.connect(endpoint_of(router))

        driven.call(connect_and_send)
        assert router.recv_multipart()[1:] == [b"first"]
        assert core.failed == []

    def test_a_callback_may_call_the_core_in_mid_turn(self, bench, peer):
        """What the callback of a command asks for goes out in the same turn, in its order."""
        core = EchoCore()
        server = bench.drive(core)
        sender = b""

        def on_command(command: Any) -> None:
            server.driver.call(core.send, "front", [sender, b"from the callback"])

        def on_message(frames: Frames, now: float, port: PortId) -> None:
            nonlocal sender
            sender = frames[0]
            core.ask(Cancel(1))
            core.tell("over")

        core.on_message, server.on_command = on_message, on_command
        socket = peer(zmq.DEALER, connect=server.bind())
        socket.send(b"ball")
        assert socket.recv() == b"from the callback"
        assert server.do(lambda: core.trace.count("receive_many")) == 1

    def test_what_a_callback_asks_for_is_done_before_anything_is_sent(self, bench, peer):
        router = peer(zmq.ROUTER, bind="tcp://127.0.0.1:*")
        core = CallerCore()
        driven = bench.drive(core)
        driven.on_command = lambda command: driven.driver.call(core.connect, endpoint_of(router))

        def ask_and_send() -> None:
            core.ask(Cancel(1))
            core.send("back", [b"first"])

        driven.call(ask_and_send)
        assert core.failed == []
        assert router.recv_multipart()[1:] == [b"first"]

    def test_an_event_callback_may_call_the_core(self, bench, peer):
        core = EchoCore(echo=False)
        server = bench.drive(core)
        core.on_message = lambda frames, now, port: core.tell(frames[0].hex())
        server.on_event = lambda event: server.driver.call(core.send, "front", [bytes.fromhex(event.text), b"told"])
        socket = peer(zmq.DEALER, connect=server.bind())
        socket.send(b"ball")
        assert socket.recv() == b"told"

    def test_a_message_for_a_port_that_is_not_open_is_unreachable(self, bench):
        core = CallerCore()
        driven = bench.drive(core)
        driven.send("back", [b"one"], [b"two"])
        assert core.failed == [([b"one"], SendFailure.UNREACHABLE), ([b"two"], SendFailure.UNREACHABLE)]

    def test_one_core_has_any_number_of_ports(self, bench, peer):
        routers = [peer(zmq.ROUTER, bind="tcp://127.0.0.1:*") for _ in range(5)]
        core = CallerCore()
        driven = bench.drive(core)
        for number, router in enumerate(routers):
            driven.call(core.connect, endpoint_of(router), number)
            driven.send(number, [b"%d" % number])
        for number, router in enumerate(routers):
            router.send_multipart([*router.recv_multipart(), b"back"])
            driven.expect([b"%d" % number, b"back"])
        driven.call(core.close, 2)
        driven.send(2, [b"lost"])
        assert core.failed == [([b"lost"], SendFailure.UNREACHABLE)]
        driven.send(3, [b"more"])
        assert routers[3].recv_multipart()[1:] == [b"more"]


class TestReading:
    def test_a_batch_is_bounded(self, bench, peer):
        core = EchoCore(echo=False)
        server = bench.drive(core, SocketSettings(receive_hwm=0))
        core.read(False)
        socket = peer(zmq.DEALER, connect=server.bind(), SNDHWM=0)
        for number in range(3000):
            socket.send(b"%d" % number)
        server.call(core.read, True)
        until(lambda: len(core.received) == 3000, "all messages")
        assert max(core.batches) <= DRAIN_BUDGET
        assert [int(frames[1]) for frames in core.received] == list(range(3000))

    @pytest.mark.parametrize(("end_is_cheap", "budget"), [(True, DRAIN_BUDGET), (False, 1)])
    def test_a_whole_batch_is_asked_for_at_once_unless_its_end_is_an_exception(
        self, bench, peer, monkeypatch, end_is_cheap, budget
    ):
        asked: list[int] = []
        receive = Link.receive

        def counted(link: Link, budget: int) -> list[Frames]:
            asked.append(budget)
            return receive(link, budget)

        monkeypatch.setattr(Link, "end_is_cheap", end_is_cheap)
        monkeypatch.setattr(Link, "receive", counted)
        core = EchoCore(echo=False)
        server = bench.drive(core)
        peer(zmq.DEALER, connect=server.bind()).send(b"ball")
        until(lambda: core.received, "the message")
        assert asked[0] == budget

    def test_nothing_is_read_while_the_core_does_not_want_to(self, bench, peer):
        core = EchoCore()
        server = bench.drive(core)
        core.read(False)
        paused, other = (peer(zmq.DEALER, connect=server.bind()) for _ in range(2))
        for _ in range(300):
            paused.send(b"ball")
        until(lambda: "wants_to_read" in core.trace, "the question")
        # Turns go on, with messages going out; none comes in.
        for _ in range(20):
            server.send("front", [b"nobody", b"lost"])
        assert core.received == []
        server.call(core.read, True)
        other.send(b"late")
        assert [paused.recv() for _ in range(300)] == [b"ball"] * 300
        assert other.recv() == b"late"

    def test_while_reading_is_paused_the_driver_rests(self, bench, peer):
        """A message that waits unread is no reason to ask for it again and again."""
        core = EchoCore()
        server = bench.drive(core)
        core.read(False)
        socket = peer(zmq.DEALER, connect=server.bind())
        socket.send(b"waits")
        until(lambda: "wants_to_read" in core.trace, "the question")
        server.call(core.set_timer, server.driver.now() + 0.2)
        before = server.do(lambda: core.trace.count("wants_to_read"))
        until(lambda: core.timers, "the timer")
        assert server.do(lambda: core.trace.count("wants_to_read")) - before < 10
        server.call(core.read, True)
        assert socket.recv() == b"waits"

    def test_a_core_may_stop_reading_in_the_middle_of_a_flood(self, bench, peer):
        core = EchoCore(echo=False)

        def on_message(frames: Frames, now: float, port: PortId) -> None:
            core.reading = len(core.received) % 50 != 0
            if not core.reading:
                core.set_timer(now)

        core.on_message = on_message
        core.on_timer = lambda now: core.read(True)
        server = bench.drive(core)
        socket = peer(zmq.DEALER, connect=server.bind())
        for number in range(1000):
            socket.send(b"%d" % number)
        until(lambda: len(core.received) == 1000, "all messages")
        assert [int(frames[1]) for frames in core.received] == list(range(1000))

    def test_a_paused_port_does_not_stop_the_others(self, bench, peer):
        """Back-pressure is for one port: messages wait there, and what is sent there still goes out."""
        first, second = (peer(zmq.ROUTER, bind="tcp://127.0.0.1:*") for _ in range(2))
        core = CallerCore()
        wants: dict[PortId, bool] = {"first": False, "second": True}
        core.wants_to_read = lambda port: wants[port]  # type: ignore[method-assign]
        driven = bench.drive(core)
        ids = {}
        for name, router in (("first", first), ("second", second)):
            driven.call(core.connect, endpoint_of(router), name)
            driven.send(name, [b"hello"])
            ids[name] = router.recv_multipart()[0]
        for number in range(100):
            first.send_multipart([ids["first"], b"waits"])
            second.send_multipart([ids["second"], b"%d" % number])
            driven.send("first", [b"%d" % number])
            assert first.recv_multipart()[1:] == [b"%d" % number]
        until(lambda: len(core.received) == 100, "the other port's messages")
        driven.call(wants.update, {"first": True})
        until(lambda: len(core.received) == 200, "the paused port's messages")

    def test_a_message_of_too_many_frames_is_dropped_and_told(self, bench, peer):
        core = EchoCore()
        server = bench.drive(core, SocketSettings(frames_max=4))
        socket = peer(zmq.DEALER, connect=server.bind())
        socket.send_multipart([b"a"] * 4)
        socket.send_multipart([b"b"] * 3)
        assert socket.recv_multipart() == [b"b"] * 3
        until(lambda: server.events, "the event")
        assert [(event.reason, event.count) for event in server.events] == [("too-many-frames", 1)]


class TestClosing:
    def test_with_a_linger_what_was_said_before_goes_out(self, bench, peer):
        router = peer(zmq.ROUTER, bind="tcp://127.0.0.1:*")
        core = CallerCore()
        driven = bench.drive(core)
        driven.call(core.connect, endpoint_of(router))
        driven.send("back", [b"hello"])
        router.recv_multipart()

        def say_goodbye() -> None:
            core.send("back", [b"goodbye"])
            core.close(linger=5.0)

        driven.call(say_goodbye)
        assert "back" not in driven.driver.links
        assert router.recv_multipart()[1:] == [b"goodbye"]

    def test_without_a_linger_it_is_reported_as_failed(self, bench, peer):
        router = peer(zmq.ROUTER, bind="tcp://127.0.0.1:*")
        core = CallerCore()
        driven = bench.drive(core)
        driven.call(core.connect, endpoint_of(router))

        def say_goodbye() -> None:
            core.send("back", [b"goodbye"])
            core.close()

        driven.call(say_goodbye)
        assert core.failed == [([b"goodbye"], SendFailure.UNREACHABLE)]

    def test_the_context_ends_though_nobody_takes_what_was_sent(self, bench, peer):
        core = EchoCore(echo=False)
        server = bench.drive(core, SocketSettings(send_hwm=4, receive_hwm=4, outbox_max=20))
        full = peer(zmq.DEALER, connect=server.bind(), RCVHWM=1, RCVBUF=4096, ROUTING_ID=b"full")
        full.send(b"here I am")
        until(lambda: core.received, "the peer")
        while not core.failed:
            server.send("front", [b"full", b"x" * 65536])
        context = server.context
        server.close()  # which fails, by its own deadline, if it hangs
        until(lambda: context.closed, "the context was closed")


class TestExceptions:
    """Reported, and nothing else: the next message is served as if nothing had been."""

    @pytest.fixture
    def reports(self, caplog):
        caplog.set_level(logging.ERROR, logger="zpatterns")
        return lambda: [record.getMessage().split()[0] for record in caplog.records]

    def ball_goes_round(self, socket: zmq.Socket[bytes]) -> None:
        for number in range(3):
            socket.send(b"%d" % number)
            assert socket.recv() == b"%d" % number

    def test_in_the_callback_of_a_command(self, bench, peer, reports):
        core = EchoCore()
        server = bench.drive(core)
        socket = peer(zmq.DEALER, connect=server.bind())

        def on_command(command: Any) -> None:
            raise RuntimeError("the callback broke")

        server.on_command = on_command

        def ask_and_send() -> None:
            core.ask(Cancel(1), Cancel(2))
            core.tell("asked")

        server.call(ask_and_send)
        until(reports, "a report")
        assert set(reports()) == {"command_failed"}
        assert server.events == [Told("asked")]
        self.ball_goes_round(socket)

    def test_in_the_callback_of_an_event(self, bench, peer, reports):
        core = EchoCore()
        server = bench.drive(core)
        socket = peer(zmq.DEALER, connect=server.bind())

        def on_event(event: Any) -> None:
            raise RuntimeError("the callback broke")

        server.on_event = on_event
        server.call(core.tell, "something")
        until(reports, "a report")
        assert reports() == ["on_event_failed"]
        self.ball_goes_round(socket)

    def test_in_an_address_that_cannot_be_connected(self, bench, peer, reports):
        core = CallerCore()
        driven = bench.drive(core)
        driven.call(core.connect, "tcp://no port here")
        until(reports, "a report")
        assert reports() == ["command_failed"]
        router = peer(zmq.ROUTER, bind="tcp://127.0.0.1:*")
        driven.call(core.connect, endpoint_of(router))
        driven.send("back", [b"ball"])
        assert router.recv_multipart()[1:] == [b"ball"]

    @pytest.mark.parametrize(
        ("method", "report"),
        [
            ("receive_many", "drain_failed"),
            ("wants_to_read", "drain_failed"),
            ("commands", "turn_failed"),
            ("ports_to_send", "turn_failed"),
            ("messages_to_send", "turn_failed"),
            ("next_timer", "drain_failed"),
            ("events", "drain_failed"),
        ],
    )
    def test_in_a_core(self, bench, peer, reports, method, report):
        """A core never raises, says its contract. If one does for all that, its sockets live on."""
        core = EchoCore()
        server = bench.drive(core)
        socket = peer(zmq.DEALER, connect=server.bind())
        self.ball_goes_round(socket)
        server.do(lambda: core.raising.update({method: 1}))
        socket.send(b"the one that meets it")
        until(reports, "a report")
        assert reports() == [report]
        for _ in range(2):
            socket.send(b"ball")
        # The one that met it may be lost with the turn, but what comes after is not.
        while socket.recv() != b"ball":
            pass
        assert socket.recv() == b"ball"

    def test_in_a_timer(self, bench, reports, monkeypatch):
        """What was due is done a little later."""
        monkeypatch.setattr("zpatterns.driver.FAILED_TIMER_DELAY", 0.05)
        core = EchoCore()
        server = bench.drive(core)
        server.do(lambda: core.raising.update(handle_timer=1))
        server.call(core.set_timer, server.driver.now())
        until(reports, "a report")
        assert reports() == ["timer_failed"]
        until(lambda: core.timers, "the timer after all")

    def test_in_send_failed(self, bench, peer, reports):
        core = EchoCore()
        server = bench.drive(core)
        socket = peer(zmq.DEALER, connect=server.bind())
        server.do(lambda: core.raising.update(send_failed=1))
        server.send("front", [b"nobody", b"lost"])
        assert reports() == ["turn_failed"]
        self.ball_goes_round(socket)
