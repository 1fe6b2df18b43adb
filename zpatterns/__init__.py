"""Reliability patterns for ZeroMQ: one package a pattern, such as :mod:`zpatterns.mdp` for Majordomo.

Importing this module loads neither zmq nor tornado; the first use of :class:`Reactor` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
from zpatterns.exports import lazily

if TYPE_CHECKING:
    from zpatterns.reactor import Reactor
else:
    __getattr__, __dir__ = lazily(__name__, {"zpatterns.reactor": ["Reactor"]})

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
