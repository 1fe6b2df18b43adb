"""Reliability patterns for ZeroMQ: one package a pattern, such as :mod:`zpatterns.mdp` for Majordomo.

Importing this module loads neither zmq nor tornado; the first use of :class:`Reactor` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zpatterns.errors import (
    ClosedError,
    CompareFailed,
    EndpointError,
    ForkedError,
    PromotionRefused,
    QueueFull,
    RemoteError,
    RequestTimeout,
    ServiceNotFound,
    StoreError,
    WatchOverflow,
    ZPatternsError,
)

if TYPE_CHECKING:
    from zpatterns.reactor import Reactor

__all__ = [
    "ClosedError",
    "CompareFailed",
    "EndpointError",
    "ForkedError",
    "PromotionRefused",
    "QueueFull",
    "Reactor",
    "RemoteError",
    "RequestTimeout",
    "ServiceNotFound",
    "StoreError",
    "WatchOverflow",
    "ZPatternsError",
    "__version__",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "Reactor":
        from zpatterns.reactor import Reactor

        globals()["Reactor"] = Reactor
        return Reactor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
