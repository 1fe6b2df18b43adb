"""The one tree of errors. Each carries its data and is also the built-in that a person would catch."""

from __future__ import annotations

import copyreg


class ZPatternsError(Exception):
    """The root of all that this package raises.

    Attributes, each ``None`` where it does not apply: `endpoint`, `service`, `attempts` (sends made),
    `elapsed` (seconds since the call).
    """

    def __init__(
        self,
        message: str,
        *,
        endpoint: str | None = None,
        service: str | None = None,
        attempts: int | None = None,
        elapsed: float | None = None,
    ) -> None:
        super().__init__(message)
        self.endpoint = endpoint
        self.service = service
        self.attempts = attempts
        self.elapsed = elapsed


class RequestTimeout(ZPatternsError, TimeoutError):
    """No reply came within the call's deadline."""


class ServiceNotFound(ZPatternsError, LookupError):
    """The broker knows no worker for the service."""


class RemoteError(ZPatternsError, RuntimeError):
    """The far side answered with an error: its handler raised, or a broker of ours refused or lost it.

    `code` is short ASCII: the exception's name for a handler that raised, ``handler-timeout``,
    ``too-large``, or a broker's number (``429`` full queue, ``502`` lost with its workers,
    ``503`` draining). `message` is the far side's text.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        service: str | None = None,
        attempts: int | None = None,
        elapsed: float | None = None,
        endpoint: str | None = None,
    ) -> None:
        where = f"service {service!r}" if service else "the server"
        super().__init__(
            f"{where} answered with error {code}: {message}",
            endpoint=endpoint,
            service=service,
            attempts=attempts,
            elapsed=elapsed,
        )
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[object, ...]:
        # By default a copy is made by calling the class with `args`, which is the text and not what __init__ takes.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class CompareFailed(ZPatternsError, RuntimeError):
    """A compare-and-set of a Clone found the key changed; nothing was set.

    `sequence`: under which the key was last changed, 0 if it is not there.
    """

    def __init__(
        self,
        message: str,
        *,
        sequence: int = 0,
        endpoint: str | None = None,
        service: str | None = None,
        attempts: int | None = None,
        elapsed: float | None = None,
    ) -> None:
        super().__init__(message, endpoint=endpoint, service=service, attempts=attempts, elapsed=elapsed)
        self.sequence = sequence


class WatchOverflow(ZPatternsError, BufferError):
    """A watch of a Clone was not read fast enough: changes were dropped, and it is over. Begin another."""


class QueueFull(ZPatternsError, BlockingIOError):
    """This side already holds as many waiting calls as it may; nothing was sent."""


class ClosedError(ZPatternsError, ConnectionError):
    """The client or service was closed, so the call cannot be made or finished."""


class EndpointError(ZPatternsError, ValueError):
    """An endpoint that cannot be parsed, resolved, bound or connected."""


class StoreError(ZPatternsError, OSError):
    """A file of ours that cannot be used: damaged, of something else, or in use. It was left as it is.

    `path`: its name.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str = "",
        endpoint: str | None = None,
        service: str | None = None,
        attempts: int | None = None,
        elapsed: float | None = None,
    ) -> None:
        super().__init__(message, endpoint=endpoint, service=service, attempts=attempts, elapsed=elapsed)
        self.path = path


class ForkedError(ZPatternsError, RuntimeError):
    """An object made before ``fork`` was used in the child; sockets do not survive a fork."""


class PromotionRefused(ZPatternsError, RuntimeError):
    """A node of a pair cannot be made the active one now."""
