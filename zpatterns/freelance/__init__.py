"""Freelance: reliable requests without a broker (10/FLP; Guide chapter 4, "Brokerless Reliability")."""

from typing import TYPE_CHECKING

from zpatterns.exports import lazily

if TYPE_CHECKING:
    from zpatterns.freelance.client import AsyncFreelanceClient, FreelanceClient
    from zpatterns.freelance.server import FreelanceServer
    from zpatterns.handlers import Request
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "zpatterns.freelance.client": ["AsyncFreelanceClient", "FreelanceClient"],
            "zpatterns.freelance.server": ["FreelanceServer"],
            "zpatterns.handlers": ["Request"],
        },
    )

__all__ = ["AsyncFreelanceClient", "FreelanceClient", "FreelanceServer", "Request"]
