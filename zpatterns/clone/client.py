"""Clone clients: :class:`Clone` for threads and scripts, :class:`AsyncClone` for asyncio. One core."""

from __future__ import annotations

import asyncio
import threading
from typing import Self, overload

from zpatterns.blocking import BlockingDriver, Waiter, wait_for
from zpatterns.calls import PATIENCE, AsyncCalls, BlockingCalls, Start, check_timeout
from zpatterns.clone.events import CloneState
from zpatterns.clone.shared_map import SharedMap, checked_value, sequence_of, whole_ttl
from zpatterns.clone.watches import AsyncWatch, Callback, CallbackWatch, Watch, call_back, checked_callback
from zpatterns.reactor import ReactorDriver

_HOUR = 3600.0


class AsyncClone(SharedMap, AsyncCalls):
    """A copy of a Clone server's map, or of one `subtree` of it, kept in step, for asyncio (12/CHP).

    `endpoints`: one server or several, each as ``tcp://host:P`` of its first port; when one falls silent, the next is
    followed. `subtree`: empty, or like ``"/a/b/"``. `timeout` (seconds): from call to outcome of a set.
    `heartbeat_interval` x `liveness` (1 s x 5): after so much silence a server is dead; give servers the same interval.
    `in_flight_max`: sets on the wire; `sets_max`: sets that may be open in all, before :class:`QueueFull`.
    `watch_max`: changes that a watch may leave unread. `on_state`: called with each new :class:`CloneState`.

    ``async with`` returns when the map is there; :meth:`wait` does so too. Reading is from memory, at once. It belongs
    to the event loop in which it was opened.
    """

    def _prepare(self) -> None:
        self._callbacks: set[CallbackWatch] = set()
        self._waiting: set[asyncio.Future[None]] = set()

    async def wait(self, timeout: float | None = None) -> None:
        """Open it if it is not open, and wait until it follows a server.

        `timeout`: seconds, by default the client's. Errors: RequestTimeout, ClosedError.
        """
        check_timeout(timeout)
        self._open()
        seconds = self._core.options.sets.timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(seconds):
                while self.state is not CloneState.CONNECTED:
                    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._waiting.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiting.discard(waiter)
                    self._check()
        except TimeoutError:
            raise self._no_server(seconds) from None

    async def set(self, key: str, value: bytes, ttl: float | None = None, *, timeout: float | None = None) -> int:
        """Set `key`; returns its sequence once the server has acknowledged it and this copy has it.

        `ttl`: seconds after which the server deletes it, rounded up to whole ones. `timeout`: seconds, in the place of
        the client's. Errors: RequestTimeout (it may still be carried out), RemoteError (code 413: over a limit of the
        server), QueueFull, ClosedError; ValueError for an empty value, or a key outside the subtree.
        """
        self._open()
        return sequence_of(await self._answer(self._set(key, value, ttl, timeout, None)))

    async def delete(self, key: str, *, timeout: float | None = None) -> int:
        """Delete `key`, whether or not it is there. See :meth:`set`."""
        self._open()
        return sequence_of(await self._answer(self._delete(key, timeout)))

    async def compare_and_set(
        self, key: str, value: bytes, sequence: int, ttl: float | None = None, *, timeout: float | None = None
    ) -> int:
        """Set `key` if it was last changed under `sequence`, or, with 0, is not there. See :meth:`set`.

        Errors: also CompareFailed; RemoteError with code 501 at a server that is not ours.
        """
        self._open()
        return sequence_of(await self._answer(self._compare_and_set(key, value, ttl, timeout, sequence)))

    def post(self, key: str, value: bytes | None, ttl: float | None = None) -> None:
        """Set `key`, or with None delete it, and do not wait: for speed. It may be lost, and nobody will know."""
        name, body, seconds = self._key(key), b"" if value is None else checked_value(value), whole_ttl(ttl)
        self._open().call(self._core.post, name, body, seconds)

    @overload
    def watch(self, subtree: str | None = None) -> AsyncWatch: ...

    @overload
    def watch(self, subtree: str | None, callback: Callback) -> CallbackWatch: ...

    def watch(self, subtree: str | None = None, callback: Callback | None = None) -> AsyncWatch | CallbackWatch:
        """What changes from now on under the prefix `subtree`, as ``async for key, old, new, sequence in ...``.

        With a `callback`, it is called with these four, on the loop. One that is not read holds `watch_max` changes,
        and then ends with WatchOverflow. Close it when it is no longer needed.
        """
        prefix = self._prefix(subtree)
        if callback is None:
            watch = AsyncWatch(prefix, self._watch_max)
            self._open()
            self._add(watch)
            return watch
        called = CallbackWatch(prefix, checked_callback(callback), self._callback_failed)
        self._open()
        self._callbacks = {each for each in self._callbacks if not each.closed} | {called}
        self._add(called)
        return called

    async def close(self) -> None:
        """End every open set with ClosedError and every watch, and close the connections. Twice is once."""
        await super().close()
        self._watches.close()
        self._callbacks.clear()
        self._wake()

    async def __aenter__(self) -> Self:
        try:
            await self.wait()
        except BaseException:
            await self.close()
            raise
        return self

    def _open(self) -> ReactorDriver:
        is_new = self._driver is None
        driver = super()._open()
        if is_new:
            driver.call(self._core.start, driver.now())
        return driver

    def _is_open(self) -> bool:
        return self._driver is not None

    def _state_changed(self, state: CloneState) -> None:
        if state is CloneState.CONNECTED:
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)


class Clone(SharedMap, BlockingCalls):
    """A copy of a Clone server's map, or of one `subtree` of it, kept in step, blocking; safe to share between threads.

    The options are those of :class:`AsyncClone`. A thread of its own applies updates, from when it is opened. It calls
    `on_state` and `on_event` too, which must be quick, and may read the map but not wait, as :meth:`set` does.
    ``with`` returns when the map is there; :meth:`wait` does so too. Reading is from memory and never blocks.
    """

    def _prepare(self) -> None:
        self._changed_state = threading.Condition()
        self._thread: threading.Thread | None = None

    def wait(self, timeout: float | None = None) -> None:
        """Open it if it is not open, and wait until it follows a server. See :meth:`AsyncClone.wait`."""
        check_timeout(timeout)
        self._open()
        seconds = self._core.options.sets.timeout if timeout is None else timeout
        with self._changed_state:
            wait_for(self._changed_state, lambda: self.state is CloneState.CONNECTED or self._closed, seconds)
        self._check()
        if self.state is not CloneState.CONNECTED:
            raise self._no_server(seconds)

    def set(self, key: str, value: bytes, ttl: float | None = None, *, timeout: float | None = None) -> int:
        """Set `key`; returns its sequence once the server has acknowledged it and this copy has it.

        See :meth:`AsyncClone.set`.
        """
        return self._outcome(self._set(key, value, ttl, timeout, None), timeout)

    def delete(self, key: str, *, timeout: float | None = None) -> int:
        """Delete `key`, whether or not it is there. See :meth:`AsyncClone.set`."""
        return self._outcome(self._delete(key, timeout), timeout)

    def compare_and_set(
        self, key: str, value: bytes, sequence: int, ttl: float | None = None, *, timeout: float | None = None
    ) -> int:
        """Set `key` if it was last changed under `sequence`. See :meth:`AsyncClone.compare_and_set`."""
        return self._outcome(self._compare_and_set(key, value, ttl, timeout, sequence), timeout)

    def post(self, key: str, value: bytes | None, ttl: float | None = None) -> None:
        """Set `key`, or with None delete it, and do not wait. See :meth:`AsyncClone.post`."""
        name, body, seconds = self._key(key), b"" if value is None else checked_value(value), whole_ttl(ttl)
        driver = self._open()
        driver.submit(lambda: driver.call(self._core.post, name, body, seconds))

    def watch(self, subtree: str | None = None, callback: Callback | None = None) -> Watch:
        """What changes from now on under the prefix `subtree`, as ``for key, old, new, sequence in ...``.

        With a `callback`, it is called with these four, in a thread of the watch's own: it may block, and use this
        client. One that is not read, or whose callback is too slow, holds `watch_max` changes, and then ends with
        WatchOverflow (with a callback, that is logged). Close it when it is no longer needed.
        """
        prefix = self._prefix(subtree)
        called = None if callback is None else checked_callback(callback)
        self._open()
        watch = Watch(prefix, self._watch_max)
        self._add(watch)
        if called is not None:
            call_back(watch, called, self._callback_failed)
        return watch

    def close(self) -> None:
        """End every open set with ClosedError and every watch, and close the connections. Twice is once."""
        super().close()
        self._watches.close()
        with self._changed_state:
            self._changed_state.notify_all()
        if self._thread is not None and self._driver is not None and not self._driver.in_callback:
            self._thread.join(PATIENCE)

    def __enter__(self) -> Self:
        try:
            self.wait()
        except BaseException:
            self.close()
            raise
        return self

    def _outcome(self, start: Start, timeout: float | None) -> int:
        seconds = self._core.options.sets.timeout if timeout is None else timeout
        return sequence_of(self._answer(start, seconds))

    def _open(self) -> BlockingDriver:
        with self._lock:
            self._check()
            if self._driver is not None:
                return self._driver
            driver = self._driver = BlockingDriver(
                self._core, settings=self._settings, telemetry=self._telemetry, on_command=self._on_command
            )
            driver.submit(lambda: driver.call(self._core.start, driver.now()))
            self._thread = threading.Thread(target=_lead, args=(driver,), name="zpatterns-clone", daemon=True)
            self._thread.start()
            return driver

    def _is_open(self) -> bool:
        return self._driver is not None

    def _state_changed(self, state: CloneState) -> None:
        with self._changed_state:
            self._changed_state.notify_all()


def _lead(driver: BlockingDriver) -> None:
    """The thread of a Clone: it waits for nothing, and so does the work whenever no caller does."""
    while not driver.closed:
        driver.wait(Waiter(lambda: driver.closed), driver.now() + _HOUR)
