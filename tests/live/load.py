"""Callers that ask without end, on an event loop and in threads, and the account of what they were told."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator

from zpatterns.errors import RemoteError, ZPatternsError
from zpatterns.mdp import AsyncClient, Client

LATE_MAX = 1.0
"""Seconds by which a loaded machine may let a call miss its deadline."""

_PAUSE = 0.01
"""Seconds between two calls of one caller: there are other programs on the machine."""


class Load:
    """Each caller asks for the service ``answer``, of which the reply ends with the request, and then asks again."""

    def __init__(self, timeout: float, rate_min: float, recovery_max: float) -> None:
        self.timeout = timeout
        self.rate_min = rate_min
        self.recovery_max = recovery_max
        self.began = 0
        self.answered = 0
        self.errors: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.longest = 0.0
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

    async def at_full_rate(self, when: str, seconds: float = 0.5) -> None:
        """Wait until, for so many `seconds`, `rate_min` calls a second are answered; fail after `recovery_max`."""
        deadline = time.monotonic() + self.recovery_max
        while True:
            before, since = self.answered, time.monotonic()
            await asyncio.sleep(seconds)
            if self.answered - before >= self.rate_min * (time.monotonic() - since):
                return
            assert time.monotonic() < deadline, f"{when}: not {self.rate_min:g} requests a second; {self}"

    @contextlib.asynccontextmanager
    async def running(
        self, endpoint: str, *, tasks: int = 32, threads: int = 4, attempt_timeout: float = 1.0
    ) -> AsyncIterator[None]:
        """Have so many callers on this loop, and in threads, until the block is left; then wait for their outcomes."""
        options = {"timeout": self.timeout, "attempt_timeout": attempt_timeout}
        retries = round(self.timeout / attempt_timeout) - 1
        with Client(endpoint, retries=retries, **options) as client:  # type: ignore[arg-type]
            async with AsyncClient(endpoint, retries=retries, **options) as async_client:  # type: ignore[arg-type]
                asking = [threading.Thread(target=self._in_thread, args=(client, number)) for number in range(threads)]
                for thread in asking:
                    thread.start()
                callers = [asyncio.create_task(self._on_loop(async_client, number)) for number in range(tasks)]
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

    async def _on_loop(self, client: AsyncClient, caller: int) -> None:
        number = 0
        while not self._stopping:
            number += 1
            body = b"loop %d, call %d" % (caller, number)
            since = self._begin()
            try:
                self._end(since, body, await client.request("answer", body))
            except ZPatternsError as error:
                self._end(since, body, error)
            await asyncio.sleep(_PAUSE)

    def _in_thread(self, client: Client, caller: int) -> None:
        number = 0
        while not self._stopping:
            number += 1
            body = b"thread %d, call %d" % (caller, number)
            since = self._begin()
            try:
                self._end(since, body, client.request("answer", body))
            except ZPatternsError as error:
                self._end(since, body, error)
            time.sleep(_PAUSE)

    def _begin(self) -> float:
        with self._lock:
            self.began += 1
        return time.monotonic()

    def _end(self, since: float, body: bytes, outcome: list[bytes] | ZPatternsError) -> None:
        with self._lock:
            self.longest = max(self.longest, time.monotonic() - since)
            if isinstance(outcome, ZPatternsError):
                self.errors[outcome.code if isinstance(outcome, RemoteError) else type(outcome).__name__] += 1
            elif outcome[-1:] == [body]:
                self.answered += 1
            else:
                self.wrong.append(f"{body!r} was answered with {outcome!r}")
