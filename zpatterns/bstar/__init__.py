"""Binary Star: any service of ours as one half of a pair, of which one serves (Guide chapter 4)."""

from zpatterns.bstar.bstar_state import Grant
from zpatterns.bstar.client import AsyncBinaryStarClient, BinaryStarClient
from zpatterns.bstar.fence import Fence
from zpatterns.bstar.node import BinaryStar
from zpatterns.handlers import Request

__all__ = ["AsyncBinaryStarClient", "BinaryStar", "BinaryStarClient", "Fence", "Grant", "Request"]
