"""Binary Star: any service of ours as one half of a pair, of which one serves (Guide chapter 4)."""

from typing import TYPE_CHECKING

from zpatterns.exports import lazily

if TYPE_CHECKING:
    from zpatterns.bstar.bstar_state import Grant
    from zpatterns.bstar.client import AsyncBinaryStarClient, BinaryStarClient
    from zpatterns.bstar.fence import Fence
    from zpatterns.bstar.node import BinaryStar
    from zpatterns.handlers import Request
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "zpatterns.bstar.bstar_state": ["Grant"],
            "zpatterns.bstar.client": ["AsyncBinaryStarClient", "BinaryStarClient"],
            "zpatterns.bstar.fence": ["Fence"],
            "zpatterns.bstar.node": ["BinaryStar"],
            "zpatterns.handlers": ["Request"],
        },
    )

__all__ = ["AsyncBinaryStarClient", "BinaryStar", "BinaryStarClient", "Fence", "Grant", "Request"]
