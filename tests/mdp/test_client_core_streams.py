"""ClientCore and streams: parts as they come, bounded by what the consumer takes, and never tried again."""

from __future__ import annotations

from tests.harness import START, ClientHarness
from zpatterns.core import Close, Deliver, Fail
from zpatterns.errors import RemoteError, RequestTimeout
from zpatterns.mdp.client_core import PARTS_MAX

ERROR = b"\x00ZPATTERNS-ERROR\x00"


def partial(*body: bytes) -> list[bytes]:
    """A PARTIAL as the client's DEALER receives it."""
    return [b"MDPC02", b"\x02", b"echo", *body]


def final(*body: bytes) -> list[bytes]:
    """A FINAL as the client's DEALER receives it."""
    return [b"MDPC02", b"\x03", b"echo", *body]


def stream(client: ClientHarness, number: int = 1, **options) -> int:
    return client.call(number, version="0.2", is_stream=True, **options)


def test_parts_are_delivered_as_they_come():
    client = ClientHarness()
    port = stream(client)
    client.give(partial(b"1", b"one"), port=port)
    assert client.asked(Deliver) == [Deliver(1, [b"1", b"one"], False)]
    client.give(partial(b"2"), partial(b"3"), final(b""), port=port)
    assert client.asked(Deliver) == [Deliver(1, [b"2"], False), Deliver(1, [b"3"], False), Deliver(1, [b""], True)]
    assert client.statistics.replies == 1


def test_a_stream_of_which_a_part_came_is_never_tried_again():
    client = ClientHarness(timeout=8, retries=3)
    port = stream(client)
    client.give(partial(b"1"), port=port, at=START + 1)
    client.sent()
    assert client.until(START + 7.99) == []
    client.give(partial(b"2"), port=port)
    client.asked()
    client.until(START + 8)
    asked = client.asked()
    assert [type(command.error) for command in asked if isinstance(command, Fail)] == [RequestTimeout]
    assert [command.port for command in asked if isinstance(command, Close)] == [port]


def test_a_stream_of_which_nothing_came_is():
    client = ClientHarness(timeout=8, retries=3)
    stream(client)
    assert len(client.until(START + 2.5)) == 2


def test_the_first_part_ends_the_other_attempts():
    """Two workers may run by now: only one of them is listened to."""
    client = ClientHarness(timeout=8, retries=3)
    first = stream(client)
    client.until(START + 2.5)
    second = client.out[-1][0]
    client.asked()
    client.give(partial(b"1"), port=first)
    assert client.asked() == [Close(second), Deliver(1, [b"1"], False)]
    client.give(partial(b"other"), final(b"other"), port=second)
    assert client.asked(Deliver) == []
    client.give(final(b"end"), port=first)
    assert client.asked(Deliver) == [Deliver(1, [b"end"], True)]


def test_the_first_part_ends_a_retry_that_was_about_to_begin():
    client = ClientHarness(share=0.999, timeout=8, retries=3)
    port = stream(client)
    client.until(START + 2.1)
    client.give(partial(b"1"), port=port)
    assert client.until(START + 7.99) == []
    assert client.statistics.attempts == 1


def test_an_error_in_the_middle_of_a_stream_ends_it_whatever_its_code():
    for code in (b"502", b"503", b"429", b"KeyError"):
        client = ClientHarness()
        port = stream(client)
        client.give(partial(b"1"), final(ERROR, code, b"text"), port=port)
        ((failure),) = client.asked(Fail)
        assert isinstance(failure.error, RemoteError)
        assert failure.error.code == code.decode()
        assert client.advance(100) == []


def test_reading_pauses_while_the_consumer_is_behind():
    client = ClientHarness()
    port = stream(client)
    other = stream(client, 2)
    client.give(*[partial(b"x") for _ in range(PARTS_MAX - 1)], port=port)
    assert client.core.wants_to_read(port)
    client.give(partial(b"x"), port=port)
    assert not client.core.wants_to_read(port)
    assert client.core.wants_to_read(other), "nobody else waits for it"
    client.step(client.core.part_taken, 1, client.now)
    assert client.core.wants_to_read(port)


def test_reading_is_not_paused_once_the_stream_is_over():
    client = ClientHarness()
    port = stream(client)
    client.give(*[partial(b"x") for _ in range(PARTS_MAX)], port=port)
    client.give(final(b""), port=port)
    assert client.core.wants_to_read(port)
    client.step(client.core.part_taken, 1, client.now)
    assert stream(client, 2) == port
    assert client.core.wants_to_read(port)


def test_a_consumer_that_never_takes_anything_times_out():
    client = ClientHarness(timeout=8)
    port = stream(client)
    client.give(*[partial(b"x") for _ in range(PARTS_MAX)], port=port)
    client.asked()
    client.until(START + 8)
    assert [type(command.error) for command in client.asked(Fail)] == [RequestTimeout]
    assert client.core.wants_to_read(port)


def test_leaving_a_stream_early_closes_its_connection():
    client = ClientHarness()
    port = stream(client)
    client.give(partial(b"1"), port=port)
    client.asked()
    client.step(client.core.cancel_call, 1, client.now)
    assert client.asked() == [Close(port)]
    client.give(partial(b"2"), final(b""), port=port)
    assert client.asked() == []


def test_the_parts_of_a_plain_call_are_bounded():
    client = ClientHarness(held_bytes_max=1000)
    port = client.call(1, version="0.2")
    client.give(partial(b"x" * 900), port=port)
    assert client.asked(Fail) == []
    client.give(partial(b"x" * 100), port=port)
    ((failure),) = client.asked(Fail)
    assert isinstance(failure.error, RemoteError)
    assert failure.error.code == "too-large"
    assert client.statistics.connections == 0


def test_parts_of_many_small_frames_are_bounded_by_what_they_cost():
    """64 MiB of frames of two bytes took almost 2 GB: a part was counted, and not each of its frames."""
    client = ClientHarness(held_bytes_max=10_000)
    port = client.call(1, version="0.2")
    client.give(partial(*[b"xx"] * 150), port=port)
    assert client.asked(Fail) == []
    client.give(partial(*[b"xx"] * 10), port=port)
    ((failure),) = client.asked(Fail)
    assert failure.error.code == "too-large"
