"""Counting what an object holds on to, whatever it says itself."""

from __future__ import annotations

import functools
from collections import deque
from typing import Final

_PLAIN: Final = frozenset((str, int, float, bool, type(None)))
_GROUPS: Final = (list, tuple, set, frozenset, deque)


def reachable_frames(root: object, prefix: bytes) -> int:
    """How many different frames that begin with `prefix` can be reached from an object of ours, whatever keeps them."""
    seen: set[int] = set()
    found = 0
    stack: list[object] = [root]
    while stack:
        item = stack.pop()
        kind: type = type(item)
        if kind in _PLAIN or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, bytes):
            found += item.startswith(prefix)
        elif isinstance(item, dict):
            stack += item.keys()
            stack += item.values()
        elif isinstance(item, _GROUPS):
            stack += item
        elif _is_ours(kind):
            stack += vars(item).values() if hasattr(item, "__dict__") else ()
            stack += [getattr(item, name, None) for name in _slots(kind)]
    return found


@functools.cache
def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("zpatterns.") and not issubclass(kind, str | int | float)


@functools.cache
def _slots(kind: type) -> tuple[str, ...]:
    """The names of all slots of a class and those it is derived from."""
    found: list[str] = []
    for base in kind.__mro__:
        names = getattr(base, "__slots__", ())
        found += (names,) if isinstance(names, str) else names
    return tuple(found)
