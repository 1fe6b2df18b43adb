"""Majordomo: reliable service calls through a broker (7/MDP, 18/MDP, 8/MMI; Guide chapter 4)."""

from typing import TYPE_CHECKING

from zpatterns.exports import lazily

if TYPE_CHECKING:
    from zpatterns.handlers import Request
    from zpatterns.mdp.broker import Broker
    from zpatterns.mdp.client import AsyncClient, Client
    from zpatterns.mdp.worker import Worker
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "zpatterns.handlers": ["Request"],
            "zpatterns.mdp.broker": ["Broker"],
            "zpatterns.mdp.client": ["AsyncClient", "Client"],
            "zpatterns.mdp.worker": ["Worker"],
        },
    )

__all__ = ["AsyncClient", "Broker", "Client", "Request", "Worker"]
