"""Tables of the documentation, and what they are held against: options, commands and events as the code has them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from tests.pages import ROOT, all_commands
from zpatterns.core import Event

DOCS = ROOT / "docs"


def table_after(page: str, mark: str) -> list[list[str]]:
    """The rows of the first table behind `mark`, without its head; code is freed of its backquotes."""
    text = (DOCS / page).read_text()
    assert text.count(mark) == 1, f"{page}: {mark!r} is there {text.count(mark)} times"
    found = re.search(r"^\|.*\|\n\|[-| ]+\|\n((?:\|.*\|\n)+)", text[text.index(mark) :], re.MULTILINE)
    assert found, f"{page}: no table behind {mark!r}"
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in found[1].splitlines()]


def code(cell: str) -> str:
    """What stands in a cell's first pair of backquotes; nothing, if there is none."""
    found = re.match(r"`([^`]+)`", cell)
    return found[1] if found else ""


def options_of(made: type) -> dict[str, Any]:
    """What a class takes by keyword, with its defaults."""
    return {
        name: parameter.default
        for name, parameter in inspect.signature(made).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def options_of_both(made: type, command: str) -> set[str]:
    """The options of that command which the class has too."""
    (on_command_line,) = [each for called, each, _ in all_commands() if called == command]
    names = {f"--{name.replace('_', '-')}" for name in options_of(made)}
    return names & {param.opts[0] for param in on_command_line.params}


def events_of(*modules: ModuleType) -> list[type[Event]]:
    """The events that these modules define."""
    return [
        event
        for module in modules
        for event in vars(module).values()
        if inspect.isclass(event) and event.__module__ == module.__name__ and issubclass(event, Event)
    ]


def levels_of(events: Iterable[type[Event]]) -> dict[str, str]:
    """Each event's name, and at which level it is logged."""
    return {event.__name__: getattr(event, "level", "info") for event in events}
