"""Counting what an object holds on to, whatever it says itself."""

from __future__ import annotations

from collections import deque


def reachable_frames(root: object, prefix: bytes) -> int:
    """How many different frames that begin with `prefix` can be reached from an object of ours, whatever keeps them."""
    seen: set[int] = set()
    found = 0
    stack: list[object] = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, str | int | float | type(None)) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, bytes):
            found += item.startswith(prefix)
        elif isinstance(item, dict):
            stack += item.keys()
            stack += item.values()
        elif isinstance(item, list | tuple | set | frozenset | deque):
            stack += item
        elif type(item).__module__.startswith("zpatterns."):
            stack += vars(item).values() if hasattr(item, "__dict__") else ()
            for kind in type(item).__mro__:
                names = getattr(kind, "__slots__", ())
                stack += [getattr(item, name, None) for name in ((names,) if isinstance(names, str) else names)]
    return found
