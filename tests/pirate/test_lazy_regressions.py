"""What the reference code's clients get wrong, for Lazy Pirate. Each name says what must not happen again."""

from __future__ import annotations

import random

import pytest

from tests.harness import START
from tests.pirate.lazy_harness import LazyClient
from zpatterns.calls_state import CallOptions
from zpatterns.core import Close, Deliver, Fail
from zpatterns.errors import RequestTimeout
from zpatterns.pirate.lazy_client_core import LazyClientCore


@pytest.mark.parametrize("wait", [0.0, 0.1, 1.9])
def test_clients_a_late_reply_does_not_answer_the_next_call(wait):
    """The call has ended at its deadline; its reply comes `wait` seconds into the next call."""
    client = LazyClient(timeout=2, retries=0)
    late = client.call(1)
    client.until(START + 2)
    assert client.outcomes() == [(1, RequestTimeout)]
    present = client.call(2)
    assert present != late
    client.advance(wait)
    client.give([b"", b"for the first"], port=late)
    assert client.asked(Deliver) == []
    client.give([b"", b"for the second"], port=present)
    assert client.asked(Deliver) == [Deliver(2, [b"for the second"], True)]


def test_clients_a_late_reply_does_not_answer_the_next_attempt():
    client = LazyClient()
    first = client.call(1)
    client.until(START + 2.5)
    client.asked()
    client.give([b"", b"of the first attempt"], port=first)
    assert client.asked(Deliver) == []


@pytest.mark.parametrize("seed", range(20))
def test_clients_concurrent_replies_are_matched_in_whatever_order_they_come(seed):
    rng = random.Random(seed)
    client = LazyClient(max_in_flight=10)
    ports = {number: client.call(number, b"%d" % number) for number in range(10)}
    order = list(ports)
    rng.shuffle(order)
    for number in order:
        client.give([b"", b"%d" % number], port=ports[number])
    delivered = client.asked(Deliver)
    assert [command.call for command in delivered] == order
    assert all(command.frames == [b"%d" % command.call] for command in delivered)


def test_clients_a_request_the_caller_gave_up_on_is_not_kept_for_later():
    """While nobody listens it is unsent; the end of its attempt, or of the call, takes it back with the socket."""
    client = LazyClient(timeout=2, retries=0)
    port = client.call(1)
    client.until(START + 2)
    assert Close(port, 0.0) in client.asked()
    port = client.call(2)
    client.step(client.core.cancel_call, 2, client.now)
    assert client.asked(Close) == [Close(port, 0.0)]
    assert not client.core.ports_to_send()


def test_clients_there_is_no_retry_storm():
    """A server that is down for a while is not met by all retries at once, nor by more than were promised."""
    sends: list[float] = []
    for seed in range(100):
        core = LazyClientCore(["tcp://127.0.0.1:1"], CallOptions(timeout=10, retries=3), random.Random(seed))
        core.start_call(1, [b"x"], 0.0)
        while (timer := core.next_timer()) is not None:
            for port in tuple(core.ports_to_send()):
                core.messages_to_send(port)
            core.handle_timer(timer)
            core.commands()
            sends += [timer] * len(core.ports_to_send())
    assert len(sends) == 100 * 3
    for tenth in range(100):
        assert sum(tenth / 10 <= when < (tenth + 1) / 10 for when in sends) < 50


def test_clients_attempts_are_jittered_and_fit_into_the_call():
    """Reconnects without jitter meet a server that comes back all in one moment."""
    begins = set()
    for seed in range(50):
        core = LazyClientCore(["tcp://127.0.0.1:1"], CallOptions(timeout=8, retries=1), random.Random(seed))
        core.start_call(1, [b"x"], 0.0)
        core.messages_to_send(1)
        core.handle_timer(4.0)
        begin = core.next_timer()
        assert begin is not None
        assert 4.0 <= begin <= 5.0
        begins.add(begin)
        core.handle_timer(begin)
        assert core.next_timer() == 8.0, "the pause is taken out of the attempt's own time"
        core.handle_timer(8.0)
        assert [type(command) for command in core.commands() if isinstance(command, Fail)] == [Fail]
    assert len(begins) == 50
