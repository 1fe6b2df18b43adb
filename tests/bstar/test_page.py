"""docs/binary-star.md: what it says of options, events and figures is so."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

import pytest

from tests.tables import code, levels_of, options_of_both, table_after
from zpatterns.bstar import AsyncBinaryStarClient, BinaryStar, BinaryStarClient, events
from zpatterns.bstar.bstar_state import StarStatistics

PAGE = "binary-star.md"
CLIENTS = "`BinaryStarClient(endpoints, ...)` and `AsyncBinaryStarClient(endpoints, ...)`:"


@pytest.mark.parametrize(
    ("mark", "made", "command"),
    [
        ("\n`BinaryStar(service, ...)`:", BinaryStar, "zpatterns bstar server"),
        (CLIENTS, BinaryStarClient, "zpatterns bstar request"),
        (CLIENTS, AsyncBinaryStarClient, "zpatterns bstar request"),
    ],
)
def test_the_limits_are_those_of_the_code(mark, made, command):
    rows = table_after(PAGE, mark)
    options = {
        name: None if parameter.default is inspect.Parameter.empty else repr(parameter.default)
        for name, parameter in inspect.signature(made).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert {code(name): code(default) or None for name, default, _ in rows} == options
    both = options_of_both(made, command)
    assert {option for _, _, text in rows for option in re.findall(r"\[`(--[\w-]+)`\]", text)} == both


def test_every_event_is_listed_with_its_level():
    ours = [
        event
        for event in vars(events).values()
        if inspect.isclass(event) and issubclass(event, events.StarEvent) and event is not events.StarEvent
    ]
    rows = table_after(PAGE, "## Events and figures")
    assert {code(name): level for name, level, _ in rows} == levels_of(ours)


def test_every_figure_is_listed():
    rows = table_after(PAGE, "What `statistics()` of a node says")
    assert [code(name) for name, _ in rows] == [field.name for field in fields(StarStatistics)]
