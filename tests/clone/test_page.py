"""What docs/clone.md says of the code is so."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from tests.diagrams import state_diagram
from tests.pages import blocks_of
from tests.tables import DOCS, code, events_of, levels_of, options_of, options_of_both, table_after
from zpatterns.clone import (
    AsyncClone,
    Clone,
    CloneServer,
    CloneState,
    client_core,
    events,
    server_state,
    snapshots_core,
)
from zpatterns.clone.client_state import ClientOptions, ClientState, ClientStatistics
from zpatterns.clone.store import PAIR_OVERHEAD, SUBTREE_OVERHEAD

PAGE = "clone.md"
SERVER = "`CloneServer(endpoint, ...)`:"
CLIENTS = "`Clone(endpoints, ...)` and `AsyncClone(endpoints, ...)`:"


@pytest.mark.parametrize(
    ("mark", "made", "command"),
    [
        (SERVER, CloneServer, "zpatterns clone server"),
        (CLIENTS, Clone, "zpatterns clone get"),
        (CLIENTS, AsyncClone, "zpatterns clone get"),
    ],
)
def test_the_limits_are_those_of_the_code(mark: str, made: type, command: str):
    rows = table_after(PAGE, mark)
    assert {code(name): eval(code(default)) for name, default, _ in rows} == options_of(made)
    both = options_of_both(made, command)
    assert {row[2].partition("[--")[2].rstrip("]") for row in rows if "[--" in row[2]} == {name[2:] for name in both}


@pytest.mark.parametrize(
    ("mark", "statistics"),
    [
        ("What `statistics()` of a client counts:", ClientStatistics),
        ("What `statistics()` of a\nserver counts:", server_state.ServerStatistics),
    ],
)
def test_every_figure_is_listed(mark: str, statistics: Any):
    assert [code(name) for name, _ in table_after(PAGE, mark)] == [field.name for field in fields(statistics)]


def test_every_event_is_listed_with_its_level():
    rows = table_after(PAGE, "Beside those\n[of every part]")
    assert {code(name): level for name, level, _, _ in rows} == levels_of(events_of(events, server_state))


def test_every_state_is_listed():
    rows = table_after(PAGE, "`on_state=` is called with each new one:")
    assert [code(name) for name, _ in rows] == [str(state) for state in CloneState]


def test_the_diagram_of_a_clients_states_is_that_of_its_table():
    diagrams = [block.text for block in blocks_of(DOCS / PAGE) if block.language == "mermaid"]
    assert diagrams == [state_diagram(client_core.TRANSITIONS, ClientState.CLOSED, ClientState.CLOSED)]


@pytest.mark.parametrize(
    "text",
    [
        f"`heartbeat_interval` x `liveness` ({ClientOptions().liveness.lease:g} s)",
        f"a heartbeat's time at the most ({ClientOptions().liveness.interval:g} s)",
        f"{PAIR_OVERHEAD} added for each, and of subtrees, {SUBTREE_OVERHEAD} added for each",
        "A client keeps a million updates, or 1 GiB of them,",
        "one connection may have eight asked for",
        "left after three heartbeat intervals",
    ],
)
def test_a_figure_in_the_text_is_that_of_the_code(text: str):
    assert text in " ".join((DOCS / PAGE).read_text().split())


def test_figures_that_the_text_has_in_words():
    assert (ClientOptions().kept_max, ClientOptions().kept_bytes_max) == (1_000_000, 2**30)
    assert snapshots_core.ASKED_MAX == 8
    assert 2 * client_core.PATIENCE == 3, "once until it is asked, once until it is left"
