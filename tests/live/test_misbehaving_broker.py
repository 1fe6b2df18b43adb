"""Both clients against a broker that is a plain ROUTER in the hands of the test: it answers late, in any order, twice,
with rubbish, or not at all. Whatever it does, each call gets the reply to its own request, or one typed error.

One thing no client of 7/MDP can tell, for there are no ids: an answer that is repeated after the next request went out
over the same connection. What was repeated before that is told."""

from __future__ import annotations

import asyncio
import random
import select
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import pytest
import zmq

from tests.example import endpoint_of
from tests.mdp.callers import Async, Blocking, Caller
from tests.waiting import DEADLINE, until
from zpatterns.core import Frames
from zpatterns.errors import RemoteError, RequestTimeout
from zpatterns.mdp import AsyncClient, Client
from zpatterns.sockets import Link
from zpatterns.testing import ReservedPort


@pytest.fixture
def broker(peer) -> Any:
    return peer(zmq.ROUTER, bind="tcp://127.0.0.1:*")


@pytest.fixture(params=[Blocking, Async], ids=["Client", "AsyncClient"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def make(kind) -> Iterator[Callable[..., Caller]]:
    """Makes clients: ``make(endpoint, retries=0)``."""
    with ExitStack() as stack:

        def caller(endpoints: Any, **options: Any) -> Caller:
            made: Caller = kind(endpoints, **options)
            stack.callback(made.close)
            return made

        yield caller


@pytest.fixture
def caller(make, broker) -> Caller:
    made: Caller = make(endpoint_of(broker), timeout=DEADLINE, retries=0)
    return made


def take(broker: zmq.Socket[bytes]) -> tuple[bytes, Frames]:
    """The next request: who asks, and its body."""
    frames: Frames = broker.recv_multipart()
    assert frames[1:4] == [b"", b"MDPC01", b"echo"]
    return frames[0], frames[4:]


def bound(broker: zmq.Socket[bytes], endpoint: str) -> bool:
    """Try to bind it: a socket before it may still be about to close."""
    try:
        broker.bind(endpoint)
    except zmq.ZMQError:
        return False
    return True


def answer(broker: zmq.Socket[bytes], client: bytes, *body: bytes) -> None:
    broker.send_multipart([client, b"", b"MDPC01", b"echo", *body])


def test_replies_in_any_order_find_their_calls(caller, broker):
    calls = {b"%d" % number: caller.start("echo", b"%d" % number) for number in range(40)}
    requests = [take(broker) for _ in calls]
    random.Random(1).shuffle(requests)
    for client, body in requests:
        answer(broker, client, *body)
    for asked, call in calls.items():
        assert call.result(DEADLINE) == [asked]


@pytest.mark.parametrize("code", [b"501", b"", b"\xff"])
def test_one_that_cannot_say_whether_a_service_is_there_has_not_said_no(caller, broker, code):
    asking = caller.has_service("echo")
    client, *head, body = broker.recv_multipart()
    assert (head, body) == ([b"", b"MDPC01", b"mmi.service"], b"echo")
    broker.send_multipart([client, *head, code])
    with pytest.raises(RemoteError, match=r"service 'mmi\.service' answered with error") as caught:
        asking.result(DEADLINE)
    assert (caught.value.code, caught.value.service) == (code.decode("ascii", "replace"), "mmi.service")


def test_a_reply_that_is_late_reaches_nobody(make, broker):
    caller = make(endpoint_of(broker), timeout=DEADLINE, retries=0)
    with pytest.raises(RequestTimeout):
        caller.ask("echo", b"given up", timeout=0.1)
    given_up, body = take(broker)
    assert body == [b"given up"]
    call = caller.start("echo", b"next")
    asking, body = take(broker)
    assert body == [b"next"]
    for _ in range(3):
        answer(broker, given_up, b"late")
    answer(broker, asking, b"mine")
    assert call.result(DEADLINE) == [b"mine"]


def test_a_reply_to_an_earlier_attempt_counts_for_its_call(make, broker):
    caller = make(endpoint_of(broker), timeout=DEADLINE, retries=3, attempt_timeout=0.1)
    call = caller.start("echo", b"question")
    first, _ = take(broker)
    second, _ = take(broker)
    assert first != second, "each attempt has a connection of its own"
    answer(broker, first, b"the first")
    assert call.result(DEADLINE) == [b"the first"]
    # The answer to the other attempt comes later still, and is for nobody.
    answer(broker, second, b"the second")
    call = caller.start("echo", b"another")
    for asking, body in iter(lambda: take(broker), None):
        if body == [b"another"]:
            answer(broker, asking, b"mine")
            break
    assert call.result(DEADLINE) == [b"mine"]


def links(caller: Any) -> list[Link]:
    """The sockets a client has open."""
    return list(caller.client._driver.links.values())


def test_a_reply_that_comes_again_is_for_nobody(caller, broker):
    """It comes after the call has ended, over a connection that the next call would take."""
    for number in range(20):
        call = caller.start("echo", b"%d" % number)
        client, body = take(broker)
        answer(broker, client, *body)
        assert call.result(DEADLINE) == [b"%d" % number]
        answer(broker, client, *body)
        if isinstance(caller, Async):
            until(lambda: caller.statistics().dropped.get("unsolicited", 0) > number, "it is noticed")  # noqa: B023
        else:
            # Nobody reads while nobody calls: the next call must find out by itself.
            until(lambda: any(link.events() for link in links(caller)), "it is in the socket")


def test_a_repeated_reply_that_waits_in_the_socket_does_not_answer_the_next_call(broker):
    """The same with asyncio, where the next call begins in the very turn of the loop in which the repetition came."""

    async def main() -> None:
        async with AsyncClient(endpoint_of(broker), timeout=DEADLINE, retries=0) as client:
            call = asyncio.create_task(client.request("echo", b"first"))
            asking, _ = await asyncio.to_thread(take, broker)
            answer(broker, asking, b"first")
            assert await call == [b"first"]
            assert client._driver is not None
            (link,) = client._driver.links.values()
            answer(broker, asking, b"first, again")
            assert select.select([link.fileno()], [], [], DEADLINE)[0]
            call = asyncio.create_task(client.request("echo", b"second"))
            asking, body = await asyncio.to_thread(take, broker)
            assert body == [b"second"]
            answer(broker, asking, b"second")
            assert await call == [b"second"]

    asyncio.run(main())


RUBBISH: list[Frames] = [
    [b""],
    [b"", b""],
    [b"rubbish"],
    [b"", b"MDPC01"],
    [b"", b"MDPC01", b"echo"],
    [b"", b"MDPC01", b"other", b"not for this service"],
    [b"", b"MDPC02", b"echo", b"wrong version"],
    [b"", b"MDPW01", b"echo", b"a worker's"],
    [b"MDPC01", b"echo", b"no empty frame"],
    [b"MDPC02", b"\x03", b"echo", b"the other version"],
    [b"", b"MDPC01", b"ECHO", b"case matters"],
    [b"", b"MDPC01", b"", b"no service"],
    [b"x" * 100_000],
    [b""] * 100,
]


def test_rubbish_is_dropped_and_counted(caller, broker):
    call = caller.start("echo", b"question")
    client, _ = take(broker)
    for frames in RUBBISH:
        broker.send_multipart([client, *frames])
    answer(broker, client, b"answer")
    assert call.result(DEADLINE) == [b"answer"]
    assert caller.statistics().dropped == {"invalid": len(RUBBISH)}


def test_rubbish_alone_is_no_answer(make, broker):
    # Long enough for the second attempt to come, though the machine stand still for a while.
    caller = make(endpoint_of(broker), timeout=1.2, retries=1)
    call = caller.start("echo", b"question")
    for _ in range(2):
        client, _ = take(broker)
        for frames in RUBBISH:
            broker.send_multipart([client, *frames])
    with pytest.raises(RequestTimeout) as caught:
        call.result(DEADLINE)
    assert caught.value.attempts == 2
    assert caught.value.service == "echo"
    assert caught.value.endpoint == endpoint_of(broker)
    assert caught.value.elapsed is not None
    assert caught.value.elapsed >= 1.2


def test_hundreds_of_calls_through_a_broker_of_bad_manners(caller, broker):
    """Late, out of order, between rubbish, or never: each call has one outcome, and no reply but its own.

    Of three calls one has time and is always answered, one never is, and one may or may not live to see it.
    """
    count, at_once = 300, 20
    rng = random.Random(7)
    calls: list[Future[list[bytes]]] = []
    held: list[tuple[bytes, bytes]] = []
    end = time.monotonic() + 2 * DEADLINE
    while len(calls) < count or not all(call.done() for call in calls):
        assert time.monotonic() < end, "calls without an outcome"
        while len(calls) < count and sum(not call.done() for call in calls) < at_once:
            timeout = 2 * DEADLINE if len(calls) % 3 == 0 else 0.05
            calls.append(caller.start("echo", b"%d" % len(calls), timeout=timeout))
        if broker.poll(5):
            client, (body,) = take(broker)
            if int(body) % 3 != 1:
                held.append((client, body))
        if held and (len(held) > 5 or rng.random() < 0.3):
            rng.shuffle(held)
            client, body = held.pop()
            for _ in range(rng.randrange(2)):
                broker.send_multipart([client, *rng.choice(RUBBISH)])
            answer(broker, client, body)
    outcomes = {0: 0, 1: 0, 2: 0}
    for number, call in enumerate(calls):
        if call.exception() is None:
            assert call.result() == [b"%d" % number]
            outcomes[number % 3] += 1
        else:
            assert isinstance(call.exception(), RequestTimeout)
    assert outcomes[0] == count // 3
    assert outcomes[1] == 0
    statistics = caller.statistics()
    assert statistics.in_flight == statistics.waiting == 0


def test_a_call_that_was_given_up_before_it_left_is_never_sent(make, peer):
    """The broker comes up afterwards; what it gets are the calls that are still open."""
    with ReservedPort() as port:
        caller = make(port.endpoint, timeout=DEADLINE, retries=5, attempt_timeout=0.1)
        with pytest.raises(RequestTimeout):
            caller.ask("echo", b"given up", timeout=0.3)
        before = caller.statistics().attempts
        still_open = caller.start("echo", b"still open")
        until(lambda: caller.statistics().attempts >= before + 3, "some attempts")
        assert sum(link.waiting for link in links(caller)) <= 1, "an attempt that is over must not leave later"
        broker = peer(zmq.ROUTER, bind=port.endpoint)
        client, body = take(broker)
        answer(broker, client, *body)
        assert still_open.result(DEADLINE) == [b"still open"]
        last = caller.start("echo", b"last")
        client, other = take(broker)
        bodies = [body, other]
        while other != [b"last"]:
            client, other = take(broker)
            bodies.append(other)
        answer(broker, client, b"last")
        assert last.result(DEADLINE) == [b"last"]
        assert [b"given up"] not in bodies
        assert bodies.count([b"still open"]) == 1, "of its attempts only the one of that moment"


def test_a_call_that_was_cancelled_before_it_left_is_never_sent(peer):
    async def main() -> None:
        with ReservedPort() as port:
            async with AsyncClient(port.endpoint, timeout=DEADLINE, retries=0) as client:
                calls = [asyncio.create_task(client.request("echo", b"cancelled")) for _ in range(5)]
                await asyncio.sleep(0)
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
                assert client.statistics().cancelled == 5
                wanted = asyncio.create_task(client.request("echo", b"wanted"))
                broker = peer(zmq.ROUTER, bind=port.endpoint)
                asking, body = await asyncio.to_thread(take, broker)
                assert body == [b"wanted"]
                answer(broker, asking, *body)
                assert await wanted == [b"wanted"]

    asyncio.run(main())


def test_attempts_come_one_after_another_in_their_windows(make, broker):
    """`retries` more after the first, none before its window has come, and the error at the deadline."""
    window = 0.6
    caller = make(endpoint_of(broker), timeout=4 * window, retries=3)
    began = time.monotonic()
    call = caller.start("echo", b"question")
    came = []
    for _ in range(4):
        take(broker)
        came.append(time.monotonic() - began)
    with pytest.raises(RequestTimeout) as caught:
        call.result(DEADLINE)
    assert caught.value.attempts == 4
    assert not broker.poll(0), "one attempt too many"
    assert all(number * window <= at for number, at in enumerate(came)), "an attempt before its window"


def test_those_who_fail_together_do_not_come_back_together(make, broker):
    """Second attempts are spread over the first quarter of their window: no storm falls upon a broker that is back."""
    window = 2.0
    caller = make(endpoint_of(broker), timeout=2 * window, retries=1)

    def spread() -> float:
        calls = [caller.start("echo", b"%d" % number) for number in range(30)]
        for _ in calls:
            take(broker)
        came = []
        for _ in calls:
            client, body = take(broker)
            came.append(time.monotonic())
            answer(broker, client, *body)
        for number, call in enumerate(calls):
            assert call.result(DEADLINE) == [b"%d" % number]
        return max(came) - min(came)

    # 30 draws from 0.5 s hardly ever lie within 0.1 s of each other; but where this thread, or the caller's,
    # has stood still meanwhile, they come together.
    assert any(spread() > 0.1 for _ in range(4))


def test_a_refusal_is_tried_again_and_a_failure_is_not(make, broker):
    caller = make(endpoint_of(broker), timeout=DEADLINE, retries=3, attempt_timeout=0.2)
    call = caller.start("echo", b"question")
    client, _ = take(broker)
    answer(broker, client, b"\x00ZPATTERNS-ERROR\x00", b"503", b"draining")
    client, _ = take(broker)
    answer(broker, client, b"\x00ZPATTERNS-ERROR\x00", b"502", b"lost with its workers")
    with pytest.raises(RemoteError) as caught:
        call.result(DEADLINE)
    assert (caught.value.code, caught.value.attempts) == ("502", 2)


def test_a_broker_that_hangs_up_is_found_again(make):
    """Every connection is cut again and again, in the middle of whatever goes on."""
    with ReservedPort() as port, zmq.Context() as context:
        caller = make(port.endpoint, timeout=DEADLINE, retries=100, attempt_timeout=0.2)
        calls = [caller.start("echo", b"%d" % number) for number in range(20)]
        for round_number in range(4):
            with context.socket(zmq.ROUTER) as broker:
                broker.setsockopt(zmq.LINGER, 0)
                broker.setsockopt(zmq.RCVTIMEO, int(DEADLINE * 1000))
                until(lambda: bound(broker, port.endpoint), "the port is free again")
                for _ in range(8):
                    client, body = take(broker)
                    if round_number == 3:
                        answer(broker, client, *body)
                while round_number == 3 and not all(call.done() for call in calls):
                    if broker.poll(10):
                        client, body = take(broker)
                        answer(broker, client, *body)
        assert [call.result(DEADLINE) for call in calls] == [[b"%d" % number] for number in range(20)]


def test_the_blocking_client_is_shared_by_threads_and_a_bad_broker(broker):
    """One thread's timeout, another's answer and a third one's rubbish go over connections of their own."""
    with Client(endpoint_of(broker), timeout=DEADLINE, retries=0) as client:
        caller = Blocking.__new__(Blocking)
        caller.client = client
        timeout = caller.start("echo", b"no answer", timeout=0.2)
        rubbish = caller.start("echo", b"rubbish", timeout=0.4)
        answered = caller.start("echo", b"answer")
        for _ in range(3):
            asking, body = take(broker)
            if body == [b"answer"]:
                last = asking
            elif body == [b"rubbish"]:
                broker.send_multipart([asking, b"rubbish"])
        for call in (timeout, rubbish):
            with pytest.raises(RequestTimeout):
                call.result(DEADLINE)
        answer(broker, last, b"mine")
        assert answered.result(DEADLINE) == [b"mine"]
