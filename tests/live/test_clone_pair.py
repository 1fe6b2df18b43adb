"""A pair of Clone servers among real processes: the active one is killed under load, over and over."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from tests.live.pair import LivePair, live_pair
from tests.waiting import DEADLINE, until
from zpatterns.clone import Clone, CloneState
from zpatterns.errors import RequestTimeout

INTERVAL = 0.2
KEYS = 40


class Setter(threading.Thread):
    """Sets and deletes keys of its own, one after another, and remembers what was acknowledged last of each."""

    def __init__(self, clone: Clone, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.clone = clone
        self.acknowledged: dict[str, bytes | None] = {}
        self.count = 0
        self.timeouts = 0
        self.stopping = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.stopping.is_set():
            number += 1
            key = f"/{self.name}/{number * 7 % KEYS}"
            value = None if number % 3 == 0 else b"%d" % number
            try:
                if value is None:
                    self.clone.delete(key)
                else:
                    self.clone.set(key, value)
            except RequestTimeout:
                self.timeouts += 1
                self.acknowledged.pop(key, None)  # it may have been carried out
            else:
                self.acknowledged[key] = value
                self.count += 1

    def more(self, count: int) -> None:
        """Wait until so many more were acknowledged."""
        wanted = self.count + count
        until(lambda: self.count >= wanted, f"{count} more sets are acknowledged")


@contextlib.contextmanager
def setting(pair: LivePair, setters: int) -> Iterator[list[Setter]]:
    with contextlib.ExitStack() as stack:
        threads = []
        for number in range(setters):
            clone = Clone(pair.fronts, heartbeat_interval=INTERVAL, liveness=4, timeout=DEADLINE)
            threads.append(Setter(stack.enter_context(clone), f"setter{number}"))
        for thread in threads:
            thread.start()
        try:
            yield threads
        finally:
            for thread in threads:
                thread.stopping.set()
            for thread in threads:
                thread.join(2 * DEADLINE)


def kill_again_and_again(times: int) -> None:
    command = ("clone", "server", "--heartbeat-interval", str(INTERVAL), "--liveness", "4")
    with live_pair(*command, interval=INTERVAL, prefix="pair-", fronts=3) as pair:
        with setting(pair, 2) as setters:
            for _ in range(times):
                active, passive = pair.settled()
                until(partial(passive.process.events, "copy_taken"), "the passive has a whole copy")
                for setter in setters:
                    setter.more(20)
                active.process.kill()
                for setter in setters:
                    setter.more(5)
                active.process.restart()
                assert pair.settled() == (passive, active) or passive.process.events("stood_still")
        assert not any(setter.timeouts for setter in setters)
        with Clone(pair.fronts, heartbeat_interval=INTERVAL, liveness=4, timeout=DEADLINE) as clone:
            until(lambda: clone.state is CloneState.CONNECTED, "a new client has the map")
            for setter in setters:
                for key, value in setter.acknowledged.items():
                    assert clone.get(key) == value, f"{key} was acknowledged as {value!r}"


def test_what_was_acknowledged_survives_the_kill_of_the_active():
    kill_again_and_again(1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_was_acknowledged_survives_twenty_kills_of_the_active():
    """20 SIGKILLs under load: no acknowledged set is lost, and no deleted key comes back."""
    kill_again_and_again(20)
