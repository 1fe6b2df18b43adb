"""Diagrams of the cores' tables of states, as the documentation shows them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

State = TypeVar("State", bound=enum.Enum)
Input = TypeVar("Input", bound=enum.Enum)


def state_diagram(
    transitions: Mapping[tuple[State, Input], tuple[enum.Enum | Callable[..., Any] | None, State]],
    first: State,
    last: State | None = None,
) -> str:
    """The text of a Mermaid diagram: `input / action` on each arrow, and what leads the same way on one."""
    arrows: dict[tuple[State, State, str], list[str]] = {}
    for (before, what), (action, after) in transitions.items():
        done = "" if action is None else f" / {_done(action)}"
        arrows.setdefault((before, after, done), []).append(str(what.value))
    lines = ["stateDiagram-v2", f"    [*] --> {_name(first)}"]
    lines += [
        f"    {_name(before)} --> {_name(after)}: {', '.join(inputs)}{done}"
        for (before, after, done), inputs in arrows.items()
    ]
    if last is not None:
        lines.append(f"    {_name(last)} --> [*]")
    return "\n".join(lines) + "\n"


def _done(action: enum.Enum | Callable[..., Any]) -> str:
    return str(action.value) if isinstance(action, enum.Enum) else action.__name__.strip("_").replace("_", " ")


def _name(state: enum.Enum) -> str:
    return str(state.value).replace(" ", "_")
