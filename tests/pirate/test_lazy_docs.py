"""What docs/lazy-pirate.md says of the code is so."""

from __future__ import annotations

from dataclasses import fields

import pytest

from tests.tables import DOCS, code, events_of, levels_of, options_of, table_after
from zpatterns import calls_core, server_core, wire
from zpatterns.calls_state import CallOptions, ClientStatistics
from zpatterns.mdp import client_core
from zpatterns.pirate import AsyncLazyPirateClient, LazyPirateClient, LazyPirateServer
from zpatterns.server_core import ServerStatistics

PAGE = "lazy-pirate.md"
CLIENTS = "`LazyPirateClient(endpoints, ...)` and `AsyncLazyPirateClient(endpoints, ...)`:"


@pytest.mark.parametrize(
    ("mark", "made"),
    [
        ("`LazyPirateServer(*endpoints, ...)`:", LazyPirateServer),
        (CLIENTS, LazyPirateClient),
        (CLIENTS, AsyncLazyPirateClient),
    ],
)
def test_the_limits_are_those_of_the_code(mark: str, made: type):
    assert {code(name): eval(code(default)) for name, default, _ in table_after(PAGE, mark)} == options_of(made)


def test_every_figure_is_listed():
    rows = table_after(PAGE, "What `statistics()` counts. Server:")
    assert [code(name) for name, _ in rows] == [field.name for field in fields(ServerStatistics)]
    assert client_core.ClientStatistics is ClientStatistics, "the page sends its reader to Majordomo's"


def test_every_event_is_listed_with_its_level():
    rows = table_after(PAGE, "Beside those [of every part]")
    assert {code(name): level for name, level, _, _ in rows} == levels_of(events_of(calls_core, server_core))


@pytest.mark.parametrize(
    "text",
    [
        f"nobody has used for {CallOptions().idle_max:g} s are closed",
        f"a dead first server costs {CallOptions().timeout / (CallOptions().retries + 1):g} s, once",
        f"{wire.MESSAGE_OVERHEAD} added for each",
    ],
)
def test_a_figure_in_the_text_is_that_of_the_code(text: str):
    assert text in " ".join((DOCS / PAGE).read_text().split())
