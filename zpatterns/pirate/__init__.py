"""The Pirates: reliable request-reply with retrying clients and queues (6/PPP; Guide chapter 4)."""

from typing import TYPE_CHECKING

from zpatterns.exports import lazily

if TYPE_CHECKING:
    from zpatterns.handlers import Request
    from zpatterns.pirate.lazy_client import AsyncLazyPirateClient, LazyPirateClient
    from zpatterns.pirate.lazy_server import LazyPirateServer
    from zpatterns.pirate.queue import ParanoidPirateQueue, SimplePirateQueue
    from zpatterns.pirate.worker import ParanoidPirateWorker, SimplePirateWorker
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "zpatterns.handlers": ["Request"],
            "zpatterns.pirate.lazy_client": ["AsyncLazyPirateClient", "LazyPirateClient"],
            "zpatterns.pirate.lazy_server": ["LazyPirateServer"],
            "zpatterns.pirate.queue": ["ParanoidPirateQueue", "SimplePirateQueue"],
            "zpatterns.pirate.worker": ["ParanoidPirateWorker", "SimplePirateWorker"],
        },
    )

__all__ = [
    "AsyncLazyPirateClient",
    "LazyPirateClient",
    "LazyPirateServer",
    "ParanoidPirateQueue",
    "ParanoidPirateWorker",
    "Request",
    "SimplePirateQueue",
    "SimplePirateWorker",
]
