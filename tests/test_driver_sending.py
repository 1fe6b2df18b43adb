"""Sending, under both drivers: no signal of a socket is missed, nothing waits for a peer that is full, what cannot be
sent is told, and a message is sent whole or not at all."""

from __future__ import annotations

import random
import select
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import zmq

from tests.example import LARGE, NARROW, CallerCore, Driven, EchoCore, ExampleCore, endpoint_of, free_endpoint
from tests.waiting import DEADLINE, until
from zpatterns.core import Cancel, Frames, PortId, SendFailure, SocketKind
from zpatterns.driver import DRAIN_BUDGET
from zpatterns.sockets import SocketSettings
from zpatterns.transfer import plain_transfer


class TestNoSignalIsMissed:
    """A socket's descriptor tells of a message once; each way of sending may take that signal away."""

    @pytest.mark.parametrize("seed", range(3))
    def test_ping_pong_from_drains_timers_and_callbacks(self, bench, seed):
        """Balls that are sent on in every way there is, from both ends, never stop."""
        balls, bounces = 8, 300
        rng = random.Random(seed)
        ends = []

        def make(core: ExampleCore) -> Driven:
            driven: Driven = bench.drive(core)
            pending: list[tuple[PortId, Frames]] = []

            def send_pending(now: float = 0.0) -> None:
                taken = pending[:]
                pending.clear()
                for port, frames in taken:
                    core.send(port, frames)

            def on_message(frames: Frames, now: float, port: PortId) -> None:
                left = int(frames[-1])
                if not left:
                    over.append(frames)
                    return
                frames[-1] = b"%d" % (left - 1)
                way = rng.randrange(5)
                if way == 0:
                    core.send(port, frames)
                    return
                pending.append((port, frames))
                if way == 1:
                    core.set_timer(now)
                elif way == 2:
                    core.set_timer(now + 0.0005)
                elif way == 3:
                    core.ask(Cancel(1))
                else:
                    core.tell("send it")

            core.on_message, core.on_timer = on_message, send_pending
            driven.on_command = lambda command: driven.driver.call(send_pending)
            driven.on_event = lambda event: driven.driver.call(send_pending)
            ends.append(send_pending)
            return driven

        over: list[Frames] = []
        caller = CallerCore()
        server, client = make(EchoCore(echo=False)), make(caller)
        client.call(caller.connect, server.bind())
        for number in range(balls):
            client.send("back", [b"%d" % number, b"%d" % bounces])

        # Sends outside of any drain, at any moment, from another thread's request.
        stop = threading.Event()

        def disturb() -> None:
            while not stop.is_set():
                for end, send_pending in zip((server, client), ends, strict=True):
                    end.call(send_pending)

        thread = threading.Thread(target=disturb)
        thread.start()
        try:
            until(lambda: len(over) == balls, "the end of every ball", 2 * DEADLINE)
        finally:
            stop.set()
            thread.join(DEADLINE)
        assert sorted(int(frames[-2]) for frames in over) == list(range(balls))

    def test_what_arrived_before_the_socket_was_bound(self, bench):
        """Over inproc a peer may come before the endpoint, and its message gives no signal."""
        core = EchoCore()
        server = bench.drive(core)
        with server.context.socket(zmq.DEALER) as socket:
            socket.connect("inproc://front")
            socket.send(b"early")
            server.bind("inproc://front")
            assert socket.poll(DEADLINE * 1000)
            assert socket.recv() == b"early"

    def test_what_arrives_while_another_endpoint_is_bound(self, bench, peer):
        core = EchoCore()
        server = bench.drive(core)
        socket = peer(zmq.DEALER, connect=server.bind())
        for number in range(20):

            def send_and_bind(number: int = number) -> None:
                socket.send(b"%d" % number)
                assert select.select([server.driver.links["front"].fileno()], [], [], DEADLINE)[0]
                server.driver.bind("front", SocketKind.ROUTER, f"inproc://{number}")

            server.do(send_and_bind)
            assert socket.recv() == b"%d" % number

    def test_that_a_full_connection_has_room_again(self, bench):
        """The signal may come while reading is paused, and be taken away by a send."""
        core = CallerCore()
        driven = bench.drive(core, SocketSettings(send_hwm=1, receive_hwm=1))
        with driven.context.socket(zmq.ROUTER) as router:
            router.setsockopt(zmq.RCVHWM, 1)
            router.bind("inproc://back")
            driven.call(core.connect, "inproc://back")
            core.read(False)
            driven.send("back", *([b"%d" % number] for number in range(10)))
            assert driven.waiting("back") == 8
            first = router.recv_multipart()
            router.send_multipart([first[0], b"waits unread"])
            until(lambda: driven.driver.links["back"].paused, "the pause")
            until(lambda: driven.waits("back", 7), "a message in the place of the first")

            def make_room_and_send() -> None:
                assert router.recv_multipart()[1:] == [b"1"]
                assert select.select([driven.driver.links["back"].fileno()], [], [], DEADLINE)[0]
                driven.driver.call(core.send, "back", [b"10"])

            driven.do(make_room_and_send)
            until(lambda: driven.waits("back", 7), "a message in the place of the second")
            for number in range(2, 11):
                assert router.poll(DEADLINE * 1000)
                assert router.recv_multipart()[1:] == [b"%d" % number]
            assert core.received == []

    def test_a_reply_that_comes_while_something_is_sent(self, bench, peer):
        """The server answers at once; the caller sends outside of a drain, again and again."""
        server_core, core = EchoCore(), CallerCore()
        server, client = bench.drive(server_core), bench.drive(core)
        client.call(core.connect, server.bind())
        for number in range(300):
            client.send("back", [b"%d" % number])
            client.expect([b"%d" % number])
        assert [int(frames[0]) for frames in core.received] == list(range(300))


class TestHearing:
    """Before something is sent over a connection with one peer, what came over it is heard: it is no answer to that."""

    @pytest.fixture
    def pair(self, bench):
        """A driven core, and the plain ROUTER it is connected to, which it has said hello to."""
        core = CallerCore()
        driven = bench.drive(core, SocketSettings(receive_hwm=0))
        with driven.context.socket(zmq.ROUTER) as router:
            router.setsockopt(zmq.RCVTIMEO, int(DEADLINE * 1000))
            router.bind("inproc://back")
            driven.call(core.connect, "inproc://back")
            driven.send("back", [b"hello"])
            yield core, driven, router, router.recv_multipart()[0]

    def test_what_came_before(self, pair):
        core, driven, router, caller = pair
        order: list[bytes] = []
        core.on_message = lambda frames, now, port: order.append(frames[0])

        def hear_and_send() -> None:
            router.send_multipart([caller, b"came before"])
            driven.driver.call(core.send, "back", [b"question"])
            order.append(b"sent")

        driven.do(hear_and_send)
        assert order == [b"came before", b"sent"]
        assert router.recv_multipart()[1] == b"question"

    def test_what_the_core_then_asks_for_comes_first(self, pair):
        """It may want another connection, or not to send at all."""
        core, driven, router, caller = pair
        core.on_message = lambda frames, now, port: (core.messages_to_send("back"), core.send("back", [b"better"]))

        def hear_and_send() -> None:
            router.send_multipart([caller, b"came before"])
            driven.driver.call(core.send, "back", [b"question"])

        driven.do(hear_and_send)
        assert router.recv_multipart()[1] == b"better"

    def test_a_peer_that_floods_keeps_nobody_from_sending(self, pair):
        core, driven, router, caller = pair

        def hear_and_send() -> int:
            for _ in range(500):
                router.send_multipart([caller, b"flood"])
            driven.driver.call(core.send, "back", [b"question"])
            return len(core.received)

        assert 0 < driven.do(hear_and_send) <= DRAIN_BUDGET
        assert router.recv_multipart()[1] == b"question"
        until(lambda: len(core.received) == 500, "the whole flood")

    def test_nothing_is_heard_while_reading_is_paused(self, pair):
        core, driven, router, caller = pair
        core.read(False)

        def hear_and_send() -> None:
            router.send_multipart([caller, b"waits"])
            driven.driver.call(core.send, "back", [b"question"])

        driven.do(hear_and_send)
        assert router.recv_multipart()[1] == b"question"
        assert core.received == []
        driven.call(core.read, True)
        driven.expect([b"waits"])


class TestAFullPeer:
    @pytest.fixture
    def stuck(self, bench):
        """A server, and a peer of it that reads nothing unless told: ``server, core, make_peer``."""
        core = EchoCore(echo=False)
        server = bench.drive(core, NARROW)
        server.bind("inproc://front")
        with ExitStack() as stack:

            def make_peer(name: bytes) -> zmq.Socket[bytes]:
                socket: zmq.Socket[bytes] = stack.enter_context(server.context.socket(zmq.DEALER))
                socket.setsockopt(zmq.RCVHWM, 1)
                socket.setsockopt(zmq.RCVTIMEO, int(DEADLINE * 1000))
                socket.setsockopt(zmq.ROUTING_ID, name)
                socket.connect("inproc://front")
                socket.send(b"here I am")
                server.expect([name, b"here I am"])
                return socket

            yield server, core, make_peer

    # Over inproc a pipe holds the sum of both ends' marks.
    PIPE = NARROW.send_hwm + 1

    def test_the_outbox_is_bounded_and_overflow_told(self, stuck):
        server, core, make_peer = stuck
        make_peer(b"stuck")
        room = self.PIPE + NARROW.outbox_max
        for number in range(room + 3):
            server.send("front", [b"stuck", b"%d" % number])
        assert core.failed == [([b"stuck", b"%d" % (room + n)], SendFailure.OVERFLOW) for n in range(3)]
        assert server.waiting("front") == NARROW.outbox_max

    def test_it_gets_all_in_order_once_it_reads(self, stuck):
        server, core, make_peer = stuck
        peer = make_peer(b"stuck")
        room = self.PIPE + NARROW.outbox_max
        for number in range(room + 3):
            server.send("front", [b"stuck", b"%d" % number])
        assert [int(peer.recv()) for _ in range(room)] == list(range(room))
        until(lambda: server.waits("front", 0), "an empty outbox")
        # And the outbox is out of the way again.
        server.send("front", [b"stuck", b"next"])
        assert peer.recv() == b"next"
        assert len(core.failed) == 3

    def test_one_that_goes_away_is_told_of_for_each_message(self, stuck):
        server, core, make_peer = stuck
        peer = make_peer(b"stuck")
        room = self.PIPE + NARROW.outbox_max
        for number in range(room):
            server.send("front", [b"stuck", b"%d" % number])
        peer.close(linger=0)
        expected = [([b"stuck", b"%d" % number], SendFailure.UNREACHABLE) for number in range(self.PIPE, room)]
        until(lambda: len(core.failed) == len(expected), "the failures")
        assert core.failed == expected
        assert not server.waiting("front")

    def test_nothing_overtakes_what_waits_for_it(self, stuck):
        server, core, make_peer = stuck
        peer = make_peer(b"stuck")
        room = self.PIPE + NARROW.outbox_max - 1
        for number in range(room):
            server.send("front", [b"stuck", b"%d" % number])

        def make_room_and_send() -> list[int]:
            early = [int(peer.recv()) for _ in range(self.PIPE)]
            server.driver.call(core.send, "front", [b"stuck", b"%d" % room])
            return early

        early = server.do(make_room_and_send)
        assert early + [int(peer.recv()) for _ in range(room + 1 - self.PIPE)] == list(range(room + 1))

    def test_each_peer_has_an_outbox_of_its_own(self, stuck):
        server, core, make_peer = stuck
        peers = {name: make_peer(name) for name in (b"one", b"two")}
        room = self.PIPE + NARROW.outbox_max
        for number in range(room):
            server.send("front", [b"one", b"%d" % number], [b"two", b"%d" % number])
        assert core.failed == []
        assert server.waiting("front") == 2 * NARROW.outbox_max
        assert [int(peers[b"two"].recv()) for _ in range(room)] == list(range(room))
        until(lambda: server.waits("front", NARROW.outbox_max), "the other outbox alone")
        assert [int(peers[b"one"].recv()) for _ in range(room)] == list(range(room))

    @pytest.mark.parametrize(
        ("limits", "held"),
        [({"outbox_bytes_max": 6000}, 9 + 9), ({"outbox_bytes_max": 6000, "outbox_total_bytes_max": 9000}, 9 + 5)],
    )
    def test_bytes_are_bounded_for_one_peer_and_for_all(self, bench, limits, held):
        """A message of 100 bytes and its id counts for 615: nine of them fit into 6000 bytes."""
        core = EchoCore(echo=False)
        server = bench.drive(core, SocketSettings(send_hwm=1, receive_hwm=1, **limits))
        server.bind("inproc://front")
        with ExitStack() as stack:
            for name in (b"one", b"two"):
                socket = stack.enter_context(server.context.socket(zmq.DEALER))
                socket.setsockopt(zmq.RCVHWM, 1)
                socket.setsockopt(zmq.ROUTING_ID, name)
                socket.connect("inproc://front")
                socket.send(b"here I am")
                server.expect([name, b"here I am"])
                server.send("front", *([name, b"x" * 100] for _ in range(20)))
            assert server.waiting("front") == held
            assert len(core.failed) == 2 * 20 - 2 * 2 - held

    def test_over_tcp_it_delays_nobody(self, bench, peer):
        core = EchoCore()
        server = bench.drive(core, NARROW)
        endpoint = server.bind()
        full = peer(zmq.DEALER, connect=endpoint, RCVHWM=1, RCVBUF=4096, ROUTING_ID=b"full")
        full.send(b"here I am")
        until(lambda: core.received, "the peer")
        sent = 0
        while not core.failed:
            server.send("front", [b"full", b"%d" % sent, LARGE])
            sent += 1
            assert sent < 2000, "a peer that never reads was never full"
        others = [peer(zmq.DEALER, connect=endpoint) for _ in range(3)]
        for number in range(100):
            server.send("front", [b"full", b"%d" % (sent + number), LARGE])
            for other in others:
                other.send(b"%d" % number)
            assert [other.recv() for other in others] == [b"%d" % number] * 3
        assert server.waiting("front") > 0
        # What was not reported as failed arrives in order, after the echo of its own message.
        sent += 100
        assert full.recv() == b"here I am"
        lost = {int(frames[1]) for frames, _ in core.failed}
        expected = [number for number in range(sent) if number not in lost]
        assert [int(full.recv_multipart()[0]) for _ in expected] == expected

    def test_a_peer_that_is_not_there_is_unreachable(self, bench):
        core = EchoCore(echo=False)
        server = bench.drive(core)
        server.bind()
        server.send("front", [b"nobody", b"lost"], [b"", b"no id at all"])
        assert core.failed == [
            ([b"nobody", b"lost"], SendFailure.UNREACHABLE),
            ([b"", b"no id at all"], SendFailure.UNREACHABLE),
        ]

    def test_one_that_has_just_gone_is_unreachable(self, bench):
        """libzmq looks for who has gone once in a millisecond while it sends, and takes what is for him until then."""
        core = EchoCore(echo=False)
        server = bench.drive(core)
        endpoint = server.bind("inproc://front")
        with server.context.socket(zmq.DEALER) as stays, server.context.socket(zmq.DEALER) as leaves:
            for dealer, name in ((stays, b"stays"), (leaves, b"leaves")):
                dealer.setsockopt(zmq.ROUTING_ID, name)
                dealer.setsockopt(zmq.RCVTIMEO, int(DEADLINE * 1000))
                dealer.connect(endpoint)
                dealer.send(b"hello")
            until(lambda: len(core.received) == 2, "both are known")

            def send_as_it_leaves() -> None:
                server.driver.call(core.send, "front", [b"stays", b"taken"])
                leaves.disconnect(endpoint)
                server.driver.call(core.send, "front", [b"leaves", b"lost"], [b"stays", b"the next"])

            server.do(send_as_it_leaves)
            assert core.failed == [([b"leaves", b"lost"], SendFailure.UNREACHABLE)]
            assert [stays.recv(), stays.recv()] == [b"taken", b"the next"]


class TestADealer:
    def test_what_nobody_takes_waits_and_goes_out_in_order(self, bench, peer):
        endpoint = free_endpoint()
        core = CallerCore()
        driven = bench.drive(core)
        driven.call(core.connect, endpoint)
        driven.send("back", *([b"%d" % number, b"body"] for number in range(10)))
        assert driven.waiting("back") == 10
        router = peer(zmq.ROUTER, bind=endpoint)
        assert [router.recv_multipart()[1:] for _ in range(10)] == [[b"%d" % n, b"body"] for n in range(10)]
        until(lambda: driven.waits("back", 0), "an empty outbox")
        assert core.failed == []

    def test_nothing_overtakes_what_waits(self, bench):
        core = CallerCore()
        driven = bench.drive(core, SocketSettings(send_hwm=1, receive_hwm=1))
        with driven.context.socket(zmq.ROUTER) as router:
            router.setsockopt(zmq.RCVHWM, 1)
            router.bind("inproc://back")
            driven.call(core.connect, "inproc://back")
            driven.send("back", *([b"%d" % number] for number in range(10)))
            assert driven.waiting("back") == 8

            def make_room_and_send() -> list[bytes]:
                early = [router.recv_multipart()[1] for _ in range(2)]
                driven.driver.call(core.send, "back", [b"10"])
                return early

            got = driven.do(make_room_and_send)
            while len(got) < 11:
                assert router.poll(DEADLINE * 1000)
                got.append(router.recv_multipart()[1])
            assert got == [b"%d" % number for number in range(11)]

    def test_its_outbox_is_bounded(self, bench):
        core = CallerCore()
        driven = bench.drive(core, SocketSettings(outbox_max=3))
        driven.call(core.connect, free_endpoint())
        driven.send("back", *([b"%d" % number] for number in range(5)))
        assert core.failed == [([b"3"], SendFailure.OVERFLOW), ([b"4"], SendFailure.OVERFLOW)]

    def test_what_is_discarded_is_told_and_never_sent(self, bench, peer):
        endpoint = free_endpoint()
        core = CallerCore()
        driven = bench.drive(core)
        driven.call(core.connect, endpoint)
        driven.send("back", [b"unwanted"], [b"this too"])
        driven.call(core.discard)
        assert core.failed == [([b"unwanted"], SendFailure.UNREACHABLE), ([b"this too"], SendFailure.UNREACHABLE)]
        driven.send("back", [b"wanted"])
        router = peer(zmq.ROUTER, bind=endpoint)
        assert router.recv_multipart()[1:] == [b"wanted"]

    def test_what_waits_is_gone_with_its_port(self, bench, peer):
        """A port that is opened anew begins with nothing to send."""
        endpoint = free_endpoint()
        core = CallerCore()
        driven = bench.drive(core)
        driven.call(core.connect, endpoint)
        driven.send("back", [b"old"])
        driven.call(core.connect, endpoint)
        driven.send("back", [b"new"])
        router = peer(zmq.ROUTER, bind=endpoint)
        assert router.recv_multipart()[1:] == [b"new"]

    def test_a_connection_that_breaks_in_mid_message_leaves_the_next_whole(self, bench, peer):
        """libzmq swallows the rest of the broken message, and must not take the next one for it."""
        router = peer(zmq.ROUTER, bind="tcp://127.0.0.1:*")
        endpoint = endpoint_of(router)
        core = CallerCore()
        driven = bench.drive(core)
        driven.call(core.connect, endpoint)
        driven.send("back", [b"hello"])
        router.recv_multipart()
        # The compiled way leaves no moment between two frames; test_transfer.py shows that it does the same.
        link = driven.driver.links["back"]
        link._transfer = plain_transfer(link.poll_item(), False, 10)

        class Breaking(list[bytes]):
            """Its connection is cut between its first frame and the rest."""

            def __getitem__(self, key: Any) -> Any:
                if not isinstance(key, slice):
                    return super().__getitem__(key)
                return self._cut(super().__getitem__(key))

            def _cut(self, frames: list[bytes]) -> Iterator[bytes]:
                yield frames[0]
                dealer = driven.driver.links["back"].poll_item()
                with dealer.get_monitor_socket(zmq.EVENT_CONNECT_DELAYED) as monitor:
                    router.close()
                    # The next try to connect comes after the end of the old connection.
                    retried = monitor.poll(DEADLINE * 1000)
                    dealer.disable_monitor()
                assert retried
                yield from frames[1:]

        driven.send("back", Breaking([b"broken", b"in", b"the", b"middle"]))
        driven.send("back", [b"next", b"message"], [b"last"])
        again = peer(zmq.ROUTER, bind=endpoint)
        assert again.recv_multipart()[1:] == [b"next", b"message"]
        assert again.recv_multipart()[1:] == [b"last"]
