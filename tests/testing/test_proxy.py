"""Each fault of the proxy, seen from both ends of plain TCP connections; and Majordomo calls through it."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from tests.testing.wires import flooding, is_reset, is_silent, received, wire
from tests.waiting import until
from zpatterns.errors import ClosedError, EndpointError, RequestTimeout
from zpatterns.mdp import AsyncClient, Client, Worker
from zpatterns.testing import BackgroundBroker, BackgroundReactor, Guard, ReservedPort, TcpProxy
from zpatterns.testing import proxy as proxy_module
from zpatterns.testing.proxy_flow import Flow, Way


def test_bytes_pass_both_ways_and_are_counted():
    with wire() as line:
        client, target = line.connect()
        client.sendall(b"question")
        assert received(target, 8) == b"question"
        target.sendall(b"no")
        assert received(client, 2) == b"no"
        seen = line.proxy.statistics()
        assert (seen.accepted, seen.open, seen.to_target, seen.to_client, seen.held) == (1, 1, 8, 2, 0)


def test_a_megabyte_arrives_whole():
    body = bytes(range(256)) * 4096
    with wire(held_bytes_max=1000) as line:
        client, target = line.connect()
        with flooding(client):
            assert len(received(target, len(body))) == len(body)
        client, target = line.connect()
        target.sendall(body[:200_000])
        assert received(client, 200_000) == body[:200_000]


def test_an_orderly_end_passes_after_the_bytes_before_it_and_leaves_the_way_back_open():
    with wire() as line:
        client, target = line.connect()
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        assert received(target, 100) == b"last words"
        target.sendall(b"answer")
        target.close()
        assert received(client, 100) == b"answer"
        until(lambda: line.proxy.statistics().open == 0, "the connection is over")


def test_a_reset_passes():
    with wire() as line:
        client, target = line.connect()
        line.proxy.cut()
        assert is_reset(client)
        assert is_reset(target)


def test_delay_is_for_one_direction_and_keeps_the_order():
    with wire() as line:
        client, target = line.connect()
        line.proxy.delay(3600, "to_target")
        begin = time.monotonic()
        client.sendall(b"1")
        target.sendall(b"back")
        assert received(client, 4) == b"back"
        line.proxy.delay(0.2, "to_target")
        client.sendall(b"2")
        assert received(target, 2) == b"12"
        assert time.monotonic() - begin >= 0.2


def test_an_end_is_delayed_too():
    with wire() as line:
        client, target = line.connect()
        line.proxy.delay(0.2)
        begin = time.monotonic()
        client.shutdown(socket.SHUT_WR)
        assert received(target, 1) == b""
        assert time.monotonic() - begin >= 0.2


def test_healing_lets_go_of_what_was_delayed():
    with wire() as line:
        client, target = line.connect()
        line.proxy.delay(3600)
        client.sendall(b"late")
        until(lambda: line.proxy.statistics().held == 4, "held")
        line.proxy.heal()
        assert received(target, 4) == b"late"


def test_throttle_is_a_rate_for_each_connection():
    with wire() as line:
        pairs = [line.connect() for _ in range(3)]
        line.proxy.throttle(10_000, "to_target")
        begin = time.monotonic()
        for client, _ in pairs:
            client.sendall(bytes(3000))
        for _, target in pairs:
            assert len(received(target, 3000)) == 3000
        took = time.monotonic() - begin
        # The first slice of a fiftieth of a second goes at once.
        assert 0.27 <= took < 15
        line.proxy.throttle(0.1)
        pairs[0][0].sendall(b"12")
        assert received(pairs[0][1], 1) == b"1"
        line.proxy.throttle(None)
        assert received(pairs[0][1], 1) == b"2"


def test_a_stall_in_one_direction_leaves_the_other_alone_and_loses_nothing():
    with wire() as line:
        client, target = line.connect()
        line.proxy.stall("to_client")
        target.sendall(b"unheard")
        client.sendall(b"heard")
        assert received(target, 5) == b"heard"
        assert is_silent(client)
        line.proxy.heal()
        assert received(client, 7) == b"unheard"


def test_a_stall_holds_what_was_under_way_already():
    with wire() as line:
        client, target = line.connect()
        line.proxy.delay(3600)
        client.sendall(b"under way")
        until(lambda: line.proxy.statistics().held == 9, "held")
        line.proxy.stall()
        line.proxy.delay(0)
        assert is_silent(target)
        line.proxy.heal()
        assert received(target, 9) == b"under way"


def test_nobody_is_told_of_an_end_across_a_stall():
    with wire() as line:
        client, target = line.connect()
        line.proxy.stall()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        assert is_silent(target)
        line.proxy.heal()
        assert is_reset(target)


@pytest.mark.parametrize("fault", ["stall", "delay", "throttle"])
def test_what_is_held_is_bounded_and_the_sender_has_to_wait(fault):
    with wire(held_bytes_max=10_000) as line:
        client, target = line.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
        {
            "stall": line.proxy.stall,
            "delay": lambda: line.proxy.delay(3600),
            "throttle": lambda: line.proxy.throttle(1),
        }[fault]()
        with flooding(client) as sent:
            # Once the kernel's buffers are full nothing more is taken.
            until(lambda: _stands_still(sent), "back-pressure")
            assert line.proxy.statistics().held <= 10_000
            so_far = sent[0]
            line.proxy.heal()
            assert len(received(target, so_far)) == so_far, "nothing of it is lost"


def _stands_still(sent: list[int]) -> bool:
    before = sent[0]
    time.sleep(0.2)  # what is looked for is that nothing happens in it
    return 0 < sent[0] == before


def test_many_small_pieces_are_bounded_by_their_number():
    near, far = socket.socketpair()
    with near, far:
        flow = Flow(far, near, Way(), 2**20)
        flow.way.delay = 3600.0
        for _ in range(5000):
            if flow.wants_to_read:
                near.send(b"x")
                flow.receive(0.0)
        assert len(flow.held) == 4096


@pytest.mark.parametrize("lost", ["client", "target"])
def test_half_open_one_end_is_reset_and_the_other_hears_nothing(lost):
    with wire() as line:
        client, target = line.connect()
        gone, stays = (client, target) if lost == "client" else (target, client)
        line.proxy.half_open(lost)
        assert is_reset(gone)
        stays.sendall(bytes(1_000_000))  # all of it is taken, and thrown away
        assert is_silent(stays)
        new_client, new_target = line.connect()
        new_client.sendall(b"anew")
        assert received(new_target, 4) == b"anew"
        line.proxy.heal()
        assert is_reset(stays)
        new_client.sendall(b"still")
        assert received(new_target, 5) == b"still"


def test_a_half_open_connection_ends_when_its_last_end_does():
    with wire() as line:
        _, target = line.connect()
        line.proxy.half_open("client")
        assert line.proxy.statistics().open == 1
        target.close()
        until(lambda: line.proxy.statistics().open == 0, "forgotten")


def test_cut_loses_what_was_on_its_way_and_takes_new_connections():
    with wire() as line:
        client, target = line.connect()
        line.proxy.delay(3600, "to_target")
        client.sendall(b"lost")
        until(lambda: line.proxy.statistics().held == 4, "held")
        line.proxy.cut()
        line.proxy.heal()
        assert is_reset(client)
        with pytest.raises(ConnectionResetError):
            target.recv(4)
        client, target = line.connect()
        client.sendall(b"new")
        assert received(target, 3) == b"new"


def test_refuse_leaves_open_connections_alone_and_heal_listens_at_the_same_place():
    with wire() as line:
        client, target = line.connect()
        line.proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            line.dial()
        client.sendall(b"on")
        assert received(target, 2) == b"on"
        line.proxy.cut()
        with pytest.raises(ConnectionRefusedError):
            line.dial()
        line.proxy.heal()
        client, target = line.connect()
        client.sendall(b"in")
        assert received(target, 2) == b"in"


def test_beyond_the_limit_connections_wait_until_there_is_room(monkeypatch):
    monkeypatch.setattr(proxy_module, "_CONNECTIONS_MAX", 2)
    with wire() as line:
        line.connect()
        line.connect()
        line.dial().sendall(b"third")
        assert line.proxy.statistics().accepted == 2
        line.proxy.cut()
        assert received(line.accept(), 5) == b"third"


def test_faults_hold_for_connections_to_come():
    with wire() as line:
        line.proxy.stall("to_target")
        client, target = line.connect()
        client.sendall(b"x")
        assert is_silent(target)
        line.proxy.heal()
        assert received(target, 1) == b"x"


def test_while_the_target_does_not_listen_a_connection_is_reset():
    with ReservedPort() as port, TcpProxy(port.endpoint) as proxy:
        address = ("127.0.0.1", int(proxy.endpoint.rpartition(":")[2]))
        try:
            with socket.create_connection(address, 20) as client:
                assert is_reset(client)
        except ConnectionResetError:
            pass  # before the connection was handed to us
        with (
            socket.create_server(("127.0.0.1", port.port)) as listener,
            socket.create_connection(address, 20) as client,
        ):
            target, _ = listener.accept()
            with target:
                client.sendall(b"there now")
                assert received(target, 9) == b"there now"


def test_close_ends_everything_it_had_begun():
    with Guard(), wire() as line:
        client, target = line.connect()
        line.proxy.stall()
        line.proxy.close()
        line.proxy.close()
        assert is_reset(client)
        assert is_reset(target)
        with pytest.raises(ConnectionRefusedError):
            line.dial()
        with pytest.raises(ClosedError):
            line.proxy.heal()


@pytest.mark.parametrize(
    "misuse",
    [
        lambda proxy: proxy.delay(-1),
        lambda proxy: proxy.delay(float("inf")),
        lambda proxy: proxy.throttle(0),
        lambda proxy: proxy.stall("sideways"),
        lambda proxy: proxy.half_open("both"),
    ],
)
def test_misuse_is_refused_and_changes_nothing(misuse):
    with wire() as line:
        client, target = line.connect()
        with pytest.raises(ValueError):
            misuse(line.proxy)
        client.sendall(b"x")
        assert received(target, 1) == b"x"


@pytest.mark.parametrize("target", ["tcp://127.0.0.1", "ipc://x", "127.0.0.1:5555", "tcp://127.0.0.1:99999", ""])
def test_a_target_that_is_none_is_an_endpoint_error(target):
    with Guard(), pytest.raises(EndpointError):
        TcpProxy(target)


def test_a_call_through_every_fault_has_its_own_reply_or_a_typed_error():
    with BackgroundBroker() as broker, BackgroundReactor() as reactor, TcpProxy(broker.endpoint) as proxy:
        reactor.start(Worker(broker.endpoint, service="echo"))
        with Client(proxy.endpoint, timeout=15.0, attempt_timeout=0.5, retries=20) as client:
            assert client.request("echo", "warm") == [b"warm"]
            for number, fault in enumerate([proxy.cut, proxy.half_open, lambda: proxy.half_open("target")]):
                fault()
                assert client.request("echo", str(number)) == [str(number).encode()]
            proxy.refuse()
            proxy.cut()
            with pytest.raises(RequestTimeout):
                client.request("echo", "refused", timeout=0.3)
            proxy.heal()
            proxy.stall("to_client")
            with pytest.raises(RequestTimeout):
                client.request("echo", "stalled", timeout=0.3)
            proxy.heal()
            assert client.request("echo", "healed") == [b"healed"]


async def _calls_from_a_loop() -> list[list[bytes]]:
    with BackgroundBroker() as broker, BackgroundReactor() as reactor, TcpProxy(broker.endpoint) as proxy:
        reactor.start(Worker(broker.endpoint, service="echo"))
        async with AsyncClient(proxy.endpoint, timeout=15.0, attempt_timeout=0.5, retries=20) as client:
            proxy.stall()
            calls = [asyncio.create_task(client.request("echo", str(number))) for number in range(20)]
            await asyncio.sleep(0)
            proxy.heal()
            return await asyncio.gather(*calls)


def test_an_async_program_uses_it_from_its_own_loop():
    assert asyncio.run(_calls_from_a_loop()) == [[str(number).encode()] for number in range(20)]
