"""The Pirates: reliable request-reply with retrying clients and queues (6/PPP; Guide chapter 4)."""

from zpatterns.handlers import Request
from zpatterns.pirate.lazy_client import AsyncLazyPirateClient, LazyPirateClient
from zpatterns.pirate.lazy_server import LazyPirateServer
from zpatterns.pirate.queue import ParanoidPirateQueue, SimplePirateQueue
from zpatterns.pirate.worker import ParanoidPirateWorker, SimplePirateWorker

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
