"""The simulated network does what libzmq and TCP do: each rule of :mod:`zpatterns.testing.network`."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from zpatterns.core import Frames, SocketKind
from zpatterns.sockets import SocketSettings
from zpatterns.testing import Node, World
from zpatterns.testing.simsocket import End, SimSocket

ROUTER, DEALER, PUB, SUB = SocketKind.ROUTER, SocketKind.DEALER, SocketKind.PUB, SocketKind.SUB


class Bare(Node):
    """A process without cores."""

    def boot(self) -> None:
        """Nothing to make."""


class Bench:
    """A world of two processes, ``near`` and ``far``, and sockets on them."""

    def __init__(self, seed: int = 1, **settings: Any) -> None:
        self.world = World(seed, faults=frozenset())
        self.network = self.world.network
        self.network.window = 1000
        self.settings = SocketSettings(**settings)
        self.near, self.far = Bare(self.world, "near"), Bare(self.world, "far")
        self.near.start()
        self.far.start()

    def pass_time(self, seconds: float = 1.0) -> None:
        self.world.clock.advance(seconds)

    def socket(self, node: Node, kind: SocketKind) -> SimSocket:
        return SimSocket(self.network, node, kind, self.settings, f"{node.name}:{kind.value}")

    def router(self) -> SimSocket:
        router = self.socket(self.far, ROUTER)
        router.bind("sim://far")
        return router

    def dealer(self) -> SimSocket:
        dealer = self.socket(self.near, DEALER)
        dealer.connect("sim://far")
        return dealer

    def pair(self) -> tuple[SimSocket, SimSocket, bytes]:
        """A DEALER and a ROUTER that know each other, and the DEALER's id."""
        router, dealer = self.router(), self.dealer()
        self.pass_time()
        send(dealer, [b"hello"])
        self.pass_time()
        [[peer, _]] = take(router)
        return dealer, router, peer


def refused(socket: SimSocket, frames: Frames) -> int:
    """Send a message, after a look at the commands. The errno with which it is refused, 0 if it was taken."""
    socket.process()
    end = socket.choose(frames[0])
    if isinstance(end, int):
        return end
    socket.network.write(end, frames[1:] if socket.kind is ROUTER else list(frames))
    return 0


def send(socket: SimSocket, frames: Frames) -> None:
    """Send a message that is taken."""
    assert refused(socket, frames) == 0


def take(socket: SimSocket) -> list[Frames]:
    socket.process()
    messages = []
    while (frames := socket.receive()) is not None:
        messages.append(frames)
    return messages


def numbered(count: int) -> list[Frames]:
    return [[b"%d" % number] for number in range(count)]


def test_a_connection_is_first_in_first_out_and_repeats_nothing():
    bench = Bench()
    dealer, router, peer = bench.pair()
    for frames in numbered(50):
        send(dealer, frames)
        bench.pass_time(0.0001)
    bench.pass_time()
    assert take(router) == [[peer, *frames] for frames in numbered(50)]
    assert take(router) == []


def test_a_dealer_has_nowhere_to_send_to_until_it_is_connected():
    bench = Bench()
    dealer = bench.dealer()
    assert refused(dealer, [b"early"]) == errno.EAGAIN
    bench.pass_time(5.0)
    assert refused(dealer, [b"nobody listens"]) == errno.EAGAIN
    bench.router()
    bench.pass_time(5.0)
    send(dealer, [b"now"])


def test_a_router_refuses_whom_it_does_not_know():
    assert refused(Bench().router(), [b"stranger", b"hello"]) == errno.EHOSTUNREACH


def test_a_router_refuses_who_is_gone_once_it_has_looked():
    bench = Bench()
    _dealer, router, peer = bench.pair()
    router.process()
    bench.near.kill()
    bench.pass_time()
    assert refused(router, [peer, b"hello"]) == errno.EHOSTUNREACH


def test_what_a_router_sends_before_it_has_looked_is_lost_without_a_word():
    bench = Bench()
    _dealer, router, peer = bench.pair()
    bench.near.kill()
    bench.pass_time(bench.network.latency(bench.near, bench.far) - 0.0002)
    router.process()
    bench.pass_time(0.0004)
    assert isinstance(router.choose(peer), End), "within a millisecond it does not look again"
    bench.pass_time(0.01)
    assert refused(router, [peer, b"hello"]) == errno.EHOSTUNREACH


def fill(bench: Bench, socket: SimSocket) -> int:
    """Send until it is refused. How many were taken."""
    for count in range(100):
        if why := refused(socket, [b"x"]):
            assert why == errno.EAGAIN
            return count
        bench.pass_time()
    raise AssertionError("it is never full")


def test_a_full_peer_has_room_again_once_half_was_taken():
    bench = Bench(send_hwm=4, receive_hwm=4)
    bench.network.window = 2
    dealer, router, _peer = bench.pair()
    assert 4 + 4 <= fill(bench, dealer) <= 4 + 2 + 4 + 2, "both ends, and what is on the way"

    def reads_until_room() -> int:
        for reads in range(1, 20):
            router.process()
            assert router.receive() is not None
            bench.pass_time()
            dealer.process()
            if dealer.writable():
                return reads
        raise AssertionError("there is never room again")

    reads_until_room()
    for _ in range(3):
        assert fill(bench, dealer) == 2
        assert reads_until_room() == 2


def test_one_full_peer_does_not_keep_a_router_from_another():
    bench = Bench(send_hwm=2, receive_hwm=2)
    bench.network.window = 2
    _dealer, router, peer = bench.pair()
    other = bench.dealer()
    bench.pass_time()
    send(other, [b"other"])
    bench.pass_time()
    [[other_peer, _]] = take(router)
    while not (why := refused(router, [peer, b"x"])):
        bench.pass_time()
    assert why == errno.EAGAIN
    send(router, [other_peer, b"y"])
    bench.pass_time()
    assert take(other) == [[b"y"]]


def test_a_peer_that_comes_back_has_a_new_id():
    bench = Bench()
    dealer, router, peer = bench.pair()
    bench.network.reset(dealer.ends[0])
    bench.pass_time(5.0)
    send(dealer, [b"again"])
    bench.pass_time()
    [[new, body]] = take(router)
    assert body == b"again"
    assert new != peer
    assert refused(router, [peer, b"old"]) == errno.EHOSTUNREACH


def test_a_dealer_loses_what_it_has_not_asked_for_when_its_connection_breaks():
    bench = Bench()
    dealer, router, peer = bench.pair()
    send(router, [peer, b"reply"])
    bench.pass_time()
    bench.network.reset(dealer.ends[0])
    bench.pass_time(5.0)
    assert take(dealer) == []


def test_a_router_reads_a_connection_to_its_end():
    bench = Bench()
    dealer, router, peer = bench.pair()
    send(dealer, [b"last words"])
    bench.pass_time()
    bench.near.kill()
    bench.pass_time()
    assert take(router) == [[peer, b"last words"]]
    assert not router.by_id


@pytest.mark.parametrize(("linger", "always"), [(0.0, False), (1.0, True)])
def test_closing_with_linger_sends_what_was_handed_over_and_without_may_not(linger, always):
    arrived = set()
    for seed in range(30):
        bench = Bench(seed)
        dealer, router, _peer = bench.pair()
        for frames in numbered(3):
            send(dealer, frames)
        dealer.close(linger)
        bench.pass_time(5.0)
        messages = [frames[1:] for frames in take(router)]
        assert messages == numbered(3)[: len(messages)], "what arrives is a beginning"
        arrived.add(len(messages))
    assert arrived == ({3} if always else {0, 1, 2, 3})


def test_lingering_has_an_end():
    bench = Bench(send_hwm=100, receive_hwm=1)
    bench.network.window = 1
    dealer, router, _peer = bench.pair()
    for frames in numbered(20):
        send(dealer, frames)
    dealer.close(1.0)
    bench.pass_time(2.0)
    received = [frames[1:] for frames in take(router)]
    bench.pass_time()
    received += [frames[1:] for frames in take(router)]
    assert len(received) < 5
    assert not router.by_id


def test_a_short_stop_of_the_network_loses_nothing():
    bench = Bench(probe_interval=1.0, probe_timeout=3.0)
    dealer, router, peer = bench.pair()
    bench.network.cut("near", "far")
    for frames in numbered(5):
        send(dealer, frames)
    bench.pass_time(2.0)
    assert take(router) == []
    bench.network.heal("near", "far", 0.5)
    bench.pass_time()
    assert take(router) == [[peer, *frames] for frames in numbered(5)]


def test_a_long_one_is_noticed_by_tcps_probes():
    bench = Bench(probe_interval=1.0, probe_timeout=3.0)
    dealer, router, peer = bench.pair()
    bench.network.cut("near", "far")
    bench.pass_time(5.0)
    dealer.process()
    assert not dealer.ends, "nothing was acknowledged"
    assert peer in router.by_id, "a ROUTER waits longer"
    bench.network.heal("near", "far", 0.0)
    bench.pass_time(8.0)
    router.process()
    assert peer not in router.by_id
    send(dealer, [b"again"])


def test_a_router_finds_a_dead_machine_by_tcps_keepalive():
    bench = Bench(keepalive_idle=2.0, keepalive_interval=1.0, keepalive_count=3)
    _dealer, router, peer = bench.pair()
    bench.near.kill(silently=True)
    bench.pass_time(4.0)
    send(router, [peer, b"into the void"])
    bench.pass_time(2.0)
    assert refused(router, [peer, b"hello"]) == errno.EHOSTUNREACH


def test_a_machine_that_is_back_knows_nothing_of_the_old_connection():
    bench = Bench()
    dealer, router, _peer = bench.pair()
    bench.far.kill(silently=True)
    bench.pass_time()
    send(dealer, [b"into the void"])
    bench.pass_time()
    assert dealer.writable(), "nobody told it"
    bench.far.start()
    router = bench.router()
    bench.pass_time(5.0)
    send(dealer, [b"again"])
    bench.pass_time()
    assert [frames[1:] for frames in take(router)] == [[b"again"]]


def test_a_stopped_process_takes_nothing_and_its_peer_gives_up():
    bench = Bench(probe_interval=1.0, probe_timeout=3.0)
    dealer, router, peer = bench.pair()
    bench.far.pause()
    send(dealer, [b"one"])
    bench.pass_time(2.0)
    assert take(router) == []
    bench.far.resume()
    bench.pass_time()
    assert take(router) == [[peer, b"one"]]
    bench.far.pause()
    bench.pass_time(5.0)
    dealer.process()
    assert not dealer.ends


def test_a_connection_that_cannot_be_made_is_tried_anew_after_connect_timeout():
    bench = Bench(connect_timeout=2.0, reconnect_cap=0.2)
    bench.router()
    bench.network.cut("near", "far")
    dealer = bench.dealer()
    bench.pass_time(20.0)
    bench.network.heal("near", "far", 0.0)
    bench.pass_time(2.5)
    send(dealer, [b"here"])


def test_a_throttled_line_takes_its_time_and_none_of_it_once_it_is_free():
    bench = Bench()
    dealer, router, _peer = bench.pair()
    bench.network.throttle("near", "far", 1.0)
    for frames in numbered(100):
        send(dealer, frames)
    bench.pass_time(10.5)
    assert len(take(router)) == 11
    bench.network.throttle("near", "far", 0.0)
    bench.pass_time()
    assert len(take(router)) == 89


def test_a_subscriber_gets_what_is_published_after_its_subscription_came():
    bench = Bench()
    publisher, subscriber = bench.socket(bench.far, PUB), bench.socket(bench.near, SUB)
    publisher.bind("sim://far")
    subscriber.connect("sim://far")
    subscriber.subscribe(b"a")
    publisher.publish([b"a", b"too early"])
    bench.pass_time()
    publisher.publish([b"b", b"not wanted"])
    publisher.publish([b"a", b"wanted"])
    bench.pass_time()
    assert take(subscriber) == [[b"a", b"wanted"]]
    subscriber.subscribe(b"b")
    publisher.publish([b"b", b"too early"])
    bench.pass_time()
    publisher.publish([b"b", b"wanted"])
    bench.pass_time()
    assert take(subscriber) == [[b"b", b"wanted"]]


def test_a_publisher_drops_for_a_subscriber_that_is_full():
    bench = Bench(send_hwm=3, receive_hwm=3)
    bench.network.window = 1
    publisher, subscriber = bench.socket(bench.far, PUB), bench.socket(bench.near, SUB)
    publisher.bind("sim://far")
    subscriber.connect("sim://far")
    subscriber.subscribe(b"")
    bench.pass_time()
    for frames in numbered(50):
        publisher.publish(frames)
        bench.pass_time(0.1)
    received = take(subscriber)
    bench.pass_time()
    received += take(subscriber)
    assert received == numbered(50)[: len(received)]
    assert len(received) < 12


def test_the_signal_comes_once_and_a_look_takes_it_away():
    bench = Bench()
    dealer, router, peer = bench.pair()
    told: list[float] = []
    router.notify = lambda: told.append(bench.world.clock.now())
    take(router)
    for frames in numbered(3):
        send(dealer, frames)
        bench.pass_time()
    assert len(told) == 1, "the reader is awake already"
    assert router.signalled
    router.process()
    assert not router.signalled
    assert router.receive() == [peer, b"0"]
    send(dealer, [b"more"])
    bench.pass_time()
    assert len(told) == 1, "what was left gives no signal, nor does what comes behind it"


def test_two_peers_are_read_fairly():
    bench = Bench()
    dealer, router, _peer = bench.pair()
    other = bench.dealer()
    bench.pass_time()
    for socket in (dealer, other):
        for frames in numbered(3):
            send(socket, frames)
    bench.pass_time()
    order = [frames[0] for frames in take(router)]
    assert order[0] != order[1]
    assert order[:2] == order[2:4] == order[4:]


def each(count: int, make: Callable[[int], Bench]) -> list[Bench]:
    return [make(seed) for seed in range(count)]


def test_a_connection_that_breaks_within_a_message_loses_all_of_it():
    lost = 0
    for bench in each(20, Bench):
        dealer, router, peer = bench.pair()
        bench.network.midway = 0.5
        broke = bench.network.breaks_midway(dealer.ends[0])
        bench.pass_time(5.0)
        if broke:
            lost += 1
            assert refused(router, [peer, b"old"]) == errno.EHOSTUNREACH
        else:
            send(router, [peer, b"still there"])
    assert 0 < lost < 20


def test_a_subscriber_that_is_bound_hears_publishers_that_connect():
    bench = Bench()
    subscriber, publisher = bench.socket(bench.far, SUB), bench.socket(bench.near, PUB)
    subscriber.subscribe(b"a")
    subscriber.bind("sim://far")
    publisher.connect("sim://far")
    bench.pass_time()
    publisher.publish([b"a", b"wanted"])
    publisher.publish([b"b", b"not wanted"])
    bench.pass_time()
    assert take(subscriber) == [[b"a", b"wanted"]]
