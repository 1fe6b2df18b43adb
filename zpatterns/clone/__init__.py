"""Clone: a map that a server shares with its clients and that converges (12/CHP; Guide chapter 5)."""

from typing import TYPE_CHECKING

from zpatterns.exports import lazily

if TYPE_CHECKING:
    from zpatterns.clone.client import AsyncClone, Clone
    from zpatterns.clone.events import CloneState
    from zpatterns.clone.replica_core import Change
    from zpatterns.clone.server import CloneServer
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "zpatterns.clone.client": ["AsyncClone", "Clone"],
            "zpatterns.clone.events": ["CloneState"],
            "zpatterns.clone.replica_core": ["Change"],
            "zpatterns.clone.server": ["CloneServer"],
        },
    )

__all__ = ["AsyncClone", "Change", "Clone", "CloneServer", "CloneState"]
