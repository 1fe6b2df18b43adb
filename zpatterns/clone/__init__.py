"""Clone: a map that a server shares with its clients and that converges (12/CHP; Guide chapter 5)."""

from zpatterns.clone.client import AsyncClone, Clone
from zpatterns.clone.events import CloneState
from zpatterns.clone.replica_core import Change
from zpatterns.clone.server import CloneServer

__all__ = ["AsyncClone", "Change", "Clone", "CloneServer", "CloneState"]
