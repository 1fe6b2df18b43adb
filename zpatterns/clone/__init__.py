"""Clone: a map that a server shares with its clients and that converges (12/CHP; Guide chapter 5)."""

from zpatterns.clone.server import CloneServer

__all__ = ["CloneServer"]
