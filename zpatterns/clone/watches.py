"""Watches of a Clone: what changes under a prefix, in order, for whoever reads it; bounded for whoever does not."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar

from zpatterns.blocking import wait_for
from zpatterns.clone.events import WatchOverflowed
from zpatterns.clone.replica_core import Change
from zpatterns.core import Event
from zpatterns.errors import RequestTimeout, WatchOverflow
from zpatterns.sockets import ProcessGuard

Callback: TypeAlias = Callable[[str, "bytes | None", "bytes | None", int], object]
"""Called with key, old value, new value (None where there is none) and the server's sequence."""


class _Watched:
    """Changes between the core and one reader, `max_changes` of them at the most."""

    def __init__(self, subtree: str, max_changes: int) -> None:
        self.subtree = subtree
        self.lost = 0
        """Changes that nobody took when there were too many; the watch is then over."""
        self._max = max_changes
        self._process = ProcessGuard("watch")
        self._items: deque[Change] = deque()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether nothing more will come, because it was closed, or its client was, or it overflowed."""
        return self._closed

    def _put(self, changes: Sequence[Change]) -> bool:
        """Take in what concerns it. Returns False when that was too much."""
        prefix = self.subtree
        mine = [change for change in changes if change.key.startswith(prefix)] if prefix else changes
        if mine and not self._closed:
            if len(self._items) + len(mine) > self._max:
                self.lost = len(self._items) + len(mine)
                self._items.clear()
                self._closed = True
                self._wake()
                return False
            self._items.extend(mine)
            self._wake()
        return True

    def _close(self) -> None:
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        raise NotImplementedError

    def _overflow(self) -> WatchOverflow:
        return WatchOverflow(
            f"the watch of {self.subtree or 'everything'!r} was not read: {self.lost} changes waited, and it holds "
            f"{self._max}; begin another, and read the map for what was missed"
        )


W = TypeVar("W", bound=_Watched)


class Watches(Generic[W]):
    """All watches of one client. One that nobody holds any more is forgotten."""

    def __init__(self, tell: Callable[[Event], None]) -> None:
        self._tell = tell
        self._watches: weakref.WeakSet[W] = weakref.WeakSet()
        self._lock = threading.Lock()
        self.overflows = 0

    def add(self, watch: W) -> None:
        with self._lock:
            self._watches.add(watch)

    def __bool__(self) -> bool:
        with self._lock:
            return bool(self._watches)

    def feed(self, changes: Sequence[Change]) -> bool:
        """Hand changes to all whom they concern. Returns whether there is anybody."""
        with self._lock:
            watches = list(self._watches)
        for watch in watches:
            if not watch._put(changes):
                self.overflows += 1
                self._tell(WatchOverflowed(watch.subtree, watch.lost))
        if any(watch.closed for watch in watches):
            with self._lock:
                self._watches = weakref.WeakSet(watch for watch in self._watches if not watch.closed)
        return bool(watches)

    def close(self) -> None:
        """The client is closed: every watch ends."""
        with self._lock:
            watches = list(self._watches)
        for watch in watches:
            watch._close()


class AsyncWatch(_Watched):
    """Changes as they come: ``async for key, old, new, sequence in watch``, for one task at a time.

    It ends when it or its client is closed. Errors: WatchOverflow when it was not read fast enough.
    """

    def __init__(self, subtree: str, max_changes: int) -> None:
        super().__init__(subtree, max_changes)
        self._waiting: asyncio.Future[None] | None = None

    def close(self) -> None:
        """Watch no longer; what has not been read is dropped."""
        self._items.clear()
        self._close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        self._process.check()
        while not self._items:
            if self.lost:
                raise self._overflow()
            if self._closed:
                raise StopAsyncIteration
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._items.popleft()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Watch(_Watched):
    """Changes as they come: ``for key, old, new, sequence in watch``, or :meth:`get`; from any thread.

    It ends when it or its client is closed. Errors: WatchOverflow when it was not read fast enough.
    """

    def __init__(self, subtree: str, max_changes: int) -> None:
        super().__init__(subtree, max_changes)
        self._changed = threading.Condition()

    def close(self) -> None:
        """Watch no longer; what has not been read is dropped. Safe from any thread."""
        with self._changed:
            self._items.clear()
        self._close()

    def get(self, timeout: float | None = None) -> Change | None:
        """The next change, or None when there will be none.

        Errors: RequestTimeout when none comes within `timeout` seconds; WatchOverflow; ForkedError in a child, where
        none would ever come.
        """
        self._process.check()
        with self._changed:
            if not wait_for(self._changed, lambda: self._items or self._closed, timeout):
                raise RequestTimeout(f"nothing changed within {timeout:g} s", elapsed=timeout)
            if self._items:
                return self._items.popleft()
            if self.lost:
                raise self._overflow()
            return None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change:
        change = self.get()
        if change is None:
            raise StopIteration
        return change

    def _put(self, changes: Sequence[Change]) -> bool:
        with self._changed:
            return super()._put(changes)

    def _wake(self) -> None:
        with self._changed:  # an RLock: _put holds it already
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CallbackWatch(_Watched):
    """Calls back in the reactor's own turn, so that nothing can pile up."""

    def __init__(self, subtree: str, callback: Callback, failed: Callable[[BaseException], None]) -> None:
        super().__init__(subtree, 1)
        self._callback = callback
        self._failed = failed

    def close(self) -> None:
        """Call back no more."""
        self._close()

    def _put(self, changes: Sequence[Change]) -> bool:
        for change in changes:
            if change.key.startswith(self.subtree) and not self._closed:
                try:
                    self._callback(*change)
                except Exception as error:
                    self._failed(error)
        return True

    def _wake(self) -> None:
        """Nobody waits."""


def call_back(watch: Watch, callback: Callback, failed: Callable[[BaseException], None]) -> threading.Thread:
    """Have `callback` called for each change, in a thread of its own, until the watch ends."""

    def work() -> None:
        while True:
            try:
                change = watch.get()
            except WatchOverflow as error:
                failed(error)
                return
            if change is None:
                return
            try:
                callback(*change)
            except Exception as error:
                failed(error)

    thread = threading.Thread(target=work, name="zpatterns-clone-watch", daemon=True)
    thread.start()
    return thread


def checked_callback(callback: Any) -> Callback:
    """Errors: TypeError for what cannot be called, or whose calls would have to be awaited."""
    if not callable(callback):
        raise TypeError(f"a watch calls a function back, not {type(callback).__name__}: {callback!r}")
    if asyncio.iscoroutinefunction(callback):
        raise TypeError("a watch cannot await its callback; use 'async for' instead")
    return callback  # type: ignore[no-any-return]
