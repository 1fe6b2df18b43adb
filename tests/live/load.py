"""Callers that ask without end, on an event loop and in threads, and the account of what they were told."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Self

from tests.waiting import DEADLINE, until
from zpatterns.errors import RemoteError, ZPatternsError
from zpatterns.mdp import AsyncClient, Client

LATE_MAX = 3.0
"""Seconds by which a loaded machine may let a call miss its deadline."""

PAUSE = 0.01
"""Seconds between two calls of one caller: there are other programs on the machine."""


class Account:
    """Of calls that are told apart by their bodies, with which each reply has to end."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.began = 0
        self.answered = 0
        self.errors: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.longest = 0.0
        self.gap = 0.0
        """The longest time between two answers."""
        self._answered_at = time.monotonic()
        self._stopping = False
        self._lock = threading.Lock()

    @property
    def ended(self) -> int:
        """Calls with an outcome, whatever it was."""
        return self.answered + sum(self.errors.values()) + len(self.wrong)

    def check(self, *errors: str) -> None:
        """No reply was wrong, each call had one outcome, in time, and errors were none but these names or codes."""
        assert not self.wrong, self.wrong[:10]
        assert self.ended == self.began, "a call without an outcome"
        assert self.longest <= self.timeout + LATE_MAX, "a call outlived its deadline"
        assert set(self.errors) <= set(errors), self.errors

    def __str__(self) -> str:
        return (
            f"of {self.began} calls {self.ended} ended, {self.answered} answered, {len(self.wrong)} wrongly, "
            f"errors {dict(self.errors)}; longest call {self.longest:.2f} s"
        )

    def _begin(self) -> float:
        with self._lock:
            self.began += 1
        return time.monotonic()

    def _end(self, since: float, body: bytes, outcome: list[bytes] | ZPatternsError) -> None:
        now = time.monotonic()
        with self._lock:
            self.longest = max(self.longest, now - since)
            if isinstance(outcome, ZPatternsError):
                self.errors[outcome.code if isinstance(outcome, RemoteError) else type(outcome).__name__] += 1
            elif outcome[-1:] == [body]:
                self.answered += 1
                self.gap = max(self.gap, now - self._answered_at)
                self._answered_at = now
            else:
                self.wrong.append(f"{body!r} was answered with {outcome!r}")

    def _ask_on_and_on(self, name: str, ask: Callable[[bytes], list[bytes]]) -> None:
        """What a thread does until it is told to stop."""
        number = 0
        while not self._stopping:
            number += 1
            body = f"{name}, call {number}".encode()
            since = self._begin()
            try:
                self._end(since, body, ask(body))
            except ZPatternsError as error:
                self._end(since, body, error)
            time.sleep(PAUSE)


class Callers(Account):
    """A thread for each of `asks`, that calls it on and on from when the block is entered until it is left.

    `timeout`: what every call has. `errors`: those that a call may end with.
    """

    def __init__(self, *asks: Callable[[bytes], list[bytes]], timeout: float, errors: tuple[str, ...] = ()) -> None:
        super().__init__(timeout)
        self._errors = errors
        self._threads = [
            threading.Thread(target=self._ask_on_and_on, args=(f"thread {number}", ask))
            for number, ask in enumerate(asks)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stopping = True
        for thread in self._threads:
            thread.join(self.timeout + DEADLINE)
        assert not any(thread.is_alive() for thread in self._threads), "a call without an outcome"
        if kind is None:
            self.check(*self._errors)

    def more(self, answers: int) -> None:
        """Wait for so many more answers."""
        wanted = self.answered + answers
        until(
            lambda: self.answered >= wanted or self.wrong or set(self.errors) - set(self._errors),
            f"{answers} more answers; {self}",
        )
        assert self.answered >= wanted, self

    def outage_of(self, fault: Callable[[], None]) -> float:
        """Have it happen, and return the longest time without an answer, in seconds."""
        with self._lock:
            self.gap = 0.0
        fault()
        self.more(4 * len(self._threads))
        return self.gap


class Load(Account):
    """Callers of Majordomo's service ``answer``; :meth:`running` has them ask. `recovery_max`: seconds that may pass
    until `rate_min` requests a second are answered, and a quarter of what this machine answered at first."""

    def __init__(self, timeout: float, rate_min: float, recovery_max: float) -> None:
        super().__init__(timeout)
        self.rate_min = rate_min
        self._first_rate: float | None = None
        self.recovery_max = recovery_max

    async def at_full_rate(self, when: str, seconds: float = 0.5) -> None:
        """Wait until, for so many `seconds`, enough calls a second are answered; fail after `recovery_max`."""
        wanted = max(self.rate_min, (self._first_rate or 0.0) / 4)
        deadline = time.monotonic() + self.recovery_max
        while True:
            before, since = self.answered, time.monotonic()
            await asyncio.sleep(seconds)
            rate = (self.answered - before) / (time.monotonic() - since)
            if rate >= wanted:
                self._first_rate = self._first_rate or rate
                return
            assert time.monotonic() < deadline, f"{when}: not {wanted:g} requests a second; {self}"

    @contextlib.asynccontextmanager
    async def running(
        self,
        endpoint: str | list[str],
        *,
        tasks: int = 32,
        threads: int = 4,
        attempt_timeout: float = 1.0,
        pause: float = PAUSE,
    ) -> AsyncIterator[None]:
        """Have so many callers on this loop, and in threads, until the block is left; then wait for their outcomes.

        `pause`: seconds between two calls of one that is on the loop.
        """
        retries = round(self.timeout / attempt_timeout) - 1
        with Client(endpoint, retries=retries, timeout=self.timeout, attempt_timeout=attempt_timeout) as client:
            asking = [
                threading.Thread(
                    target=self._ask_on_and_on, args=(f"thread {number}", lambda body: client.request("answer", body))
                )
                for number in range(threads)
            ]
            async with AsyncClient(
                endpoint, retries=retries, timeout=self.timeout, attempt_timeout=attempt_timeout
            ) as async_client:
                for thread in asking:
                    thread.start()
                callers = [asyncio.create_task(self._on_loop(async_client, number, pause)) for number in range(tasks)]
                try:
                    yield
                finally:
                    self._stopping = True
                    # What has no outcome after its deadline never gets one.
                    _, pending = await asyncio.wait(callers, timeout=self.timeout + LATE_MAX)
                    for task in pending:
                        task.cancel()
                    for thread in asking:
                        await asyncio.to_thread(thread.join, self.timeout + LATE_MAX)
                    assert not pending and not any(thread.is_alive() for thread in asking), "a call without an outcome"

    async def _on_loop(self, client: AsyncClient, caller: int, pause: float) -> None:
        number = 0
        while not self._stopping:
            number += 1
            body = b"loop %d, call %d" % (caller, number)
            since = self._begin()
            try:
                self._end(since, body, await client.request("answer", body))
            except ZPatternsError as error:
                self._end(since, body, error)
            await asyncio.sleep(pause)
