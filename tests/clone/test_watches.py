"""Watches by themselves: what ends them, and who is told."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.waiting import DEADLINE
from zpatterns.clone import Clone, CloneState
from zpatterns.clone.events import StateChanged
from zpatterns.clone.replica_core import Change
from zpatterns.clone.watches import AsyncWatch, Watch, Watches, call_back
from zpatterns.core import Event
from zpatterns.errors import WatchOverflow


def changes(count: int) -> list[Change]:
    return [Change(f"/{number}", None, b"v", number) for number in range(count)]


def test_a_callback_that_is_too_slow_is_told_of_nothing_after_the_changes_that_were_dropped():
    watch, called, went_on = Watch("", 2), threading.Event(), threading.Event()
    watches: Watches[Watch] = Watches(lambda _event: None)
    watches.add(watch)
    told: list[str] = []
    failures: list[BaseException] = []

    def callback(key, old, new, sequence):
        told.append(key)
        called.set()
        assert went_on.wait(DEADLINE)

    watches.feed(changes(1))
    thread = call_back(watch, callback, failures.append)
    assert called.wait(DEADLINE)
    watches.feed(changes(3))
    went_on.set()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert told == ["/0"]
    assert [type(failure) for failure in failures] == [WatchOverflow]


def test_a_callback_that_raises_is_called_again():
    watch = Watch("", 10)
    watches: Watches[Watch] = Watches(lambda _event: None)
    watches.add(watch)
    told: list[tuple[object, ...]] = []
    failures: list[BaseException] = []

    def callback(*change):
        told.append(change)
        if len(told) == 2:
            watch.close()
        raise ZeroDivisionError

    watches.feed(changes(2))
    call_back(watch, callback, failures.append).join(DEADLINE)
    assert len(told) == 2
    assert [type(failure) for failure in failures] == [ZeroDivisionError] * 2


def test_an_async_watch_gives_what_comes_and_ends_with_its_block():
    async def main():
        watches: Watches[AsyncWatch] = Watches(lambda _event: None)
        async with AsyncWatch("", 10) as watch:
            watches.add(watch)
            asyncio.get_running_loop().call_soon(watches.feed, changes(2))
            got = []
            async for change in watch:
                got.append(change.key)
                if len(got) == 2:
                    break
        assert got == ["/0", "/1"]
        with pytest.raises(StopAsyncIteration):
            await anext(watch)
        assert watch.closed

    asyncio.run(asyncio.wait_for(main(), DEADLINE))


def test_an_async_watch_that_is_not_read_says_so_and_ends():
    async def main():
        watches: Watches[AsyncWatch] = Watches(lambda _event: None)
        watch = AsyncWatch("/a/", 2)
        watches.add(watch)
        watches.feed([Change(f"/a/{number}", None, b"v", number) for number in range(3)])
        with pytest.raises(WatchOverflow, match="3 changes waited, and it holds 2"):
            await anext(watch)

    asyncio.run(asyncio.wait_for(main(), DEADLINE))


def test_an_on_state_that_raises_is_logged_and_keeps_nothing_from_on_event(caplog):
    events: list[Event] = []

    def on_state(state: CloneState) -> None:
        raise ZeroDivisionError("not my day")

    client = Clone("tcp://127.0.0.1:1", on_state=on_state, on_event=events.append)
    event = StateChanged(CloneState.SUSPENDED, "for a test")
    client._on_event(event)
    client.close()
    assert events == [event]
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "on_state_failed" in caplog.text
