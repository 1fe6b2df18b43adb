"""Clone clients between threads, in callbacks, and where there is no server; and what is said of arguments."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from tests.waiting import DEADLINE, until
from zpatterns.clone import AsyncClone, Clone, CloneServer, CloneState
from zpatterns.clone.replica_core import Change
from zpatterns.clone.watches import Watch
from zpatterns.errors import ClosedError, RequestTimeout
from zpatterns.testing import BackgroundReactor

NOBODY = "tcp://127.0.0.1:1"


def test_a_watch_made_while_the_last_one_is_found_to_be_gone_is_told(monkeypatch):
    """Watches are made by any thread, and told by the client's own."""
    client = Clone(NOBODY)
    watch = Watch("", 10)
    feed = client._watches.feed

    def another_thread_comes_between(changes):
        found = feed(changes)
        client._add(watch)
        return found

    monkeypatch.setattr(client._watches, "feed", another_thread_comes_between)
    client._on_changed([Change("k", None, b"v", 1)])
    assert client._core.replica.watched
    client.close()


def test_a_watch_made_while_another_thread_closes_its_client_ends():
    client = Clone(NOBODY)
    client.close()
    watch = Watch("", 10)
    client._add(watch)  # where the other thread came between the check and this
    assert watch.get(timeout=DEADLINE) is None


def test_what_waits_in_the_clients_own_thread_is_told_at_once_that_it_cannot():
    """It would wait for itself, and nothing that is published would be applied meanwhile."""
    told: list[RuntimeError] = []

    def on_state(state: CloneState) -> None:
        if state is CloneState.CONNECTED:
            try:
                client.set("/mine", b"1")
            except RuntimeError as error:
                told.append(error)

    with BackgroundReactor("clone-server") as background:
        server = background.start(CloneServer("tcp://127.0.0.1:*"))
        client = Clone(server.endpoint, timeout=DEADLINE, on_state=on_state)
        with client:
            client.set("/a", b"1")
            until(lambda: bool(told), "the callback was refused")
            assert "another thread" in str(told[0])
            assert "/mine" not in client


def test_a_client_may_be_closed_by_its_callback():
    """It waited five seconds for itself, and left its context open."""
    took: list[float] = []

    def on_state(state: CloneState) -> None:
        began = time.monotonic()
        client.close()
        took.append(time.monotonic() - began)

    with BackgroundReactor("clone-server") as background:
        server = background.start(CloneServer("tcp://127.0.0.1:*", heartbeat_interval=0.05))
        client = Clone(server.endpoint, timeout=DEADLINE, on_state=on_state, heartbeat_interval=0.05)
        with contextlib.suppress(ClosedError):  # it is told so, but where it looked in the moment before the callback
            client.wait()
        until(lambda: bool(took) and client._driver is not None and client._driver._own_context.closed, "it is closed")
    assert took[0] < 4


def test_waiting_again_and_again_for_a_server_that_is_not_there_leaves_nothing_behind():
    async def wait() -> int:
        client = AsyncClone(NOBODY)
        for _ in range(20):
            with pytest.raises(RequestTimeout):
                await client.wait(0.001)
        left = len(client._waiting)
        await client.close()
        return left

    assert asyncio.run(wait()) == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("\ud800", b"v", None, None, None), "cannot be a key"),
        (("k", b"v", 1e12, None, None), "2147483647 seconds"),
        (("k", b"v", None, None, 2**63), str(2**63 - 1)),
    ],
)
def test_what_is_refused_is_told_the_limit(arguments, text):
    client = Clone(NOBODY)
    with pytest.raises(ValueError, match=text):
        client._set(*arguments)
    client.close()


@pytest.mark.parametrize("sequence", [None, 1.0, "1"])
def test_a_comparison_with_no_sequence_is_refused(sequence):
    """None, of a key that was not found, set it without comparing anything."""
    client = Clone(NOBODY)
    with pytest.raises(TypeError, match="a sequence is an int"):
        client.compare_and_set("k", b"v", sequence)
    client.close()


def test_a_time_out_of_any_length_is_one():
    """Locks and polls take none of 300 years and more."""
    with BackgroundReactor("clone-server") as background:
        server = background.start(CloneServer("tcp://127.0.0.1:*"))
        with Clone(server.endpoint, timeout=1e300) as client, client.watch() as watch:
            client.set("k", b"v", timeout=1e10)
            assert watch.get(timeout=1e300) is not None
