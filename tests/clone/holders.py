"""Both Clone clients behind one blocking face, so that one test can be told to either."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from zpatterns.clone import AsyncClone, Change, Clone
from zpatterns.testing import BackgroundReactor


class Holder:
    """A client with a map; `reader` is the client itself, for all that never waits."""

    reader: Any

    def wait(self, timeout: float | None = None) -> None:
        raise NotImplementedError

    def do(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call ``set``, ``delete`` or ``compare_and_set``, and wait."""
        raise NotImplementedError

    def now(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call what does not wait: ``post``, ``watch``."""
        raise NotImplementedError

    def next(self, watch: Any) -> Change | None:
        """The next change, or None at the end."""
        raise NotImplementedError

    def start(self, method: str, *args: Any, **kwargs: Any) -> Future[Any]:
        """:meth:`do`, in the background."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


class Blocking(Holder):
    def __init__(self, *args: Any, **options: Any) -> None:
        self.reader = Clone(*args, **options)
        self._pool = ThreadPoolExecutor(4)

    def wait(self, timeout: float | None = None) -> None:
        self.reader.wait(timeout)

    def do(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.reader, method)(*args, **kwargs)

    now = do

    def next(self, watch: Any) -> Change | None:
        return next(watch, None)

    def start(self, method: str, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._pool.submit(self.do, method, *args, **kwargs)

    def close(self) -> None:
        self.reader.close()
        self._pool.shutdown()


class Async(Holder):
    def __init__(self, *args: Any, **options: Any) -> None:
        self._background = BackgroundReactor("async-clone")
        try:
            self.reader = AsyncClone(*args, **options)
        except BaseException:
            self._background.close()
            raise
        self._pool = ThreadPoolExecutor(4)

    def wait(self, timeout: float | None = None) -> None:
        self._background.run(self.reader.wait(timeout))

    def do(self, method: str, *args: Any, **kwargs: Any) -> Any:
        async def work() -> Any:
            work: Callable[..., Awaitable[Any]] = getattr(self.reader, method)
            return await work(*args, **kwargs)

        return self._background.run(work())

    def now(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._background.call(getattr(self.reader, method), *args, **kwargs)

    def next(self, watch: Any) -> Change | None:
        async def work() -> Change | None:
            return await anext(watch, None)

        return self._background.run(work())

    def start(self, method: str, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._pool.submit(self.do, method, *args, **kwargs)

    def close(self) -> None:
        self._background.run(self.reader.close())
        self._background.close()
        self._pool.shutdown()
