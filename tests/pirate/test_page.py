"""docs/pirates.md: what it says of options, events, figures, states and bytes is so."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields
from typing import Any

import pytest

from tests.diagrams import state_diagram
from tests.pages import blocks_of
from tests.tables import DOCS, code, levels_of, table_after
from zpatterns.cli.pirate_queue import queue, worker
from zpatterns.core import Event
from zpatterns.pirate import ParanoidPirateQueue, ParanoidPirateWorker, SimplePirateQueue, SimplePirateWorker, events
from zpatterns.pirate.queue_state import QueueStatistics
from zpatterns.pirate.wire import HEARTBEAT, READY, SIMPLE
from zpatterns.pirate.worker_core import KEPT_MAX, WorkerCore
from zpatterns.worker_state import WorkerState, WorkerStatistics

PAGE = "pirates.md"


def options_of(made: type) -> dict[str, Any]:
    parameters = inspect.signature(made).parameters.items()
    return {name: each.default for name, each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("mark", "made", "command"),
    [
        ("\n`ParanoidPirateQueue(frontend, backend, ...)`:", ParanoidPirateQueue, queue),
        ("\n`SimplePirateQueue(frontend, backend, ...)`:", SimplePirateQueue, queue),
        ("\n`ParanoidPirateWorker(endpoints, ...)`;", ParanoidPirateWorker, worker),
    ],
)
def test_the_limits_are_those_of_the_code(mark, made, command):
    rows = table_after(PAGE, mark)
    options = options_of(made)
    assert {code(name): eval(code(default)) for name, default, _ in rows} == options
    both = {f"--{name.replace('_', '-')}" for name in options} & {param.opts[0] for param in command.params}
    assert {option for _, _, text in rows for option in re.findall(r"\[`(--[\w-]+)`\]", text)} == both


def test_a_simple_worker_has_the_options_of_the_other_but_for_heartbeats():
    beats = {"heartbeat_interval", "liveness"}
    paranoid = options_of(ParanoidPirateWorker)
    assert options_of(SimplePirateWorker) == {name: paranoid[name] for name in paranoid.keys() - beats}


def test_every_event_is_listed_with_its_level():
    rows = table_after(PAGE, "## Events and figures")
    ours = [
        event
        for event in vars(events).values()
        if inspect.isclass(event) and issubclass(event, Event) and event != Event
    ]
    assert {code(name): level for name, level, _, _ in rows} == levels_of(ours)
    assert events.__all__ == sorted(event.__name__ for event in ours)


@pytest.mark.parametrize(
    ("mark", "statistics"),
    [("counts. Queue:", QueueStatistics), ("\nWorker, over all lanes:", WorkerStatistics)],
)
def test_every_figure_is_listed(mark, statistics):
    assert [code(name) for name, _ in table_after(PAGE, mark)] == [field.name for field in fields(statistics)]


def test_the_diagram_is_that_of_the_table():
    diagrams = [block.text for block in blocks_of(DOCS / PAGE) if block.language == "mermaid"]
    assert diagrams == [state_diagram(WorkerCore.transitions, WorkerState.AWAY, WorkerState.STOPPED)]


def test_a_figure_in_the_text_is_that_of_the_code():
    text = " ".join((DOCS / PAGE).read_text().split())
    assert f"keeps up to {KEPT_MAX} requests" in text
    lease = options_of(ParanoidPirateQueue)["heartbeat_interval"] * options_of(ParanoidPirateQueue)["liveness"]
    # Three leases, and the longest back-off, which is a fourth.
    assert f"({4 * lease:g} s by default)" in text


def test_the_bytes_are_those_of_the_code():
    rows = {name: cells for name, *cells in table_after("wire.md", "## Simple and Paranoid Pirate")}

    def frames(cell: str) -> list[bytes]:
        return [ast.literal_eval(frame) for frame in re.findall(r"`([^`]+)`", cell)]

    assert frames(rows["READY"][0]) == [*SIMPLE.head, READY]
    assert frames(rows["READY"][1]) == [READY]
    assert frames(rows["HEARTBEAT, both ways"][1]) == [HEARTBEAT]
