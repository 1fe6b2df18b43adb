"""Tools to test services that are built on zpatterns, and zpatterns itself.

Each name is loaded when it is first used: the pytest plugin lives in here, and must cost nothing where it is not used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zpatterns.testing.background import BackgroundBroker, BackgroundReactor
    from zpatterns.testing.clock import Chance, FakeClock
    from zpatterns.testing.driving import CallerDriver, SimDriver
    from zpatterns.testing.faults import Fault
    from zpatterns.testing.guard import Guard
    from zpatterns.testing.ledger import Ledger
    from zpatterns.testing.ports import ReservedPort
    from zpatterns.testing.processes import ManagedProcess
    from zpatterns.testing.proxy import TcpProxy
    from zpatterns.testing.world import Node, Observer, Violation, World

__all__ = [
    "BackgroundBroker",
    "BackgroundReactor",
    "CallerDriver",
    "Chance",
    "FakeClock",
    "Fault",
    "Guard",
    "Ledger",
    "ManagedProcess",
    "Node",
    "Observer",
    "ReservedPort",
    "SimDriver",
    "TcpProxy",
    "Violation",
    "World",
]

# A new public name stands here, in __all__ and in the imports for type checkers above.
_MODULES = {
    "BackgroundBroker": "background",
    "BackgroundReactor": "background",
    "CallerDriver": "driving",
    "Chance": "clock",
    "FakeClock": "clock",
    "Fault": "faults",
    "Guard": "guard",
    "Ledger": "ledger",
    "ManagedProcess": "processes",
    "Node": "world",
    "Observer": "world",
    "ReservedPort": "ports",
    "SimDriver": "driving",
    "TcpProxy": "proxy",
    "Violation": "world",
    "World": "world",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
