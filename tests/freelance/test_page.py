"""What docs/freelance.md says of the code is so."""

from __future__ import annotations

from dataclasses import fields

import pytest

from tests.tables import DOCS, code, events_of, levels_of, options_of, options_of_both, table_after
from zpatterns import calls_core, server_core, wire
from zpatterns.freelance import AsyncFreelanceClient, FreelanceClient, FreelanceServer, events
from zpatterns.freelance.servers_core import ClientOptions, FreelanceStatistics

PAGE = "freelance.md"
SERVER = "`FreelanceServer(*endpoints, ...)`:"
CLIENTS = "`FreelanceClient(endpoints, ...)` and `AsyncFreelanceClient(endpoints, ...)`:"


@pytest.mark.parametrize(
    ("mark", "made", "command"),
    [
        (SERVER, FreelanceServer, "zpatterns freelance server"),
        (CLIENTS, FreelanceClient, "zpatterns freelance request"),
        (CLIENTS, AsyncFreelanceClient, "zpatterns freelance request"),
    ],
)
def test_the_limits_are_those_of_the_code(mark: str, made: type, command: str):
    rows = table_after(PAGE, mark)
    assert {code(name): eval(code(default)) for name, default, _ in rows} == options_of(made)
    both = options_of_both(made, command)
    assert {row[2].partition("[")[2].rstrip("]") for row in rows if "[--" in row[2]} == both


def test_every_figure_is_listed():
    rows = table_after(PAGE, "What `statistics()` of a client counts:")
    assert [code(name) for name, _ in rows] == [field.name for field in fields(FreelanceStatistics)]


def test_every_event_is_listed_with_its_level():
    rows = table_after(PAGE, "Beside those [of every part]")
    assert {code(name): level for name, level, _, _ in rows} == levels_of(events_of(calls_core, server_core, events))


@pytest.mark.parametrize(
    "text",
    [
        f"silent for `heartbeat_interval` ({ClientOptions().liveness.interval:g} s)",
        f"x `liveness` of silence ({ClientOptions().liveness.lease:g} s)",
        f"that is {ClientOptions().retries} retries",
        f"{wire.MESSAGE_OVERHEAD} added for each",
    ],
)
def test_a_figure_in_the_text_is_that_of_the_code(text: str):
    assert text in " ".join((DOCS / PAGE).read_text().split())
