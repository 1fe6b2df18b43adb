"""README and docs/: what can be run runs, and what is said of names, defaults and bytes is so.

How a page is written is told by :mod:`tests.pages`.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest

from tests import pages
from tests.cli.processes import is_alive
from tests.diagrams import state_diagram
from tests.pages import ROOT, all_commands, blocks_of, prose_of, run_page
from tests.tables import DOCS, code, levels_of, options_of, options_of_both, table_after
from tests.warm.starting import WarmInterpreter
from zpatterns import core, driver, errors
from zpatterns.bstar.bstar_state import CHANGES, State
from zpatterns.cli import base
from zpatterns.core import Event
from zpatterns.mdp import AsyncClient, Broker, Client, Worker, events, wire
from zpatterns.mdp.broker_state import BrokerOptions, BrokerStatistics
from zpatterns.mdp.client_core import PARTS_MAX, ClientOptions, ClientStatistics
from zpatterns.mdp.worker_core import WorkerCore, WorkerStatistics
from zpatterns.sockets import SocketSettings
from zpatterns.worker_state import WorkerState

README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]

SETTING_UP = re.compile(
    r"(git clone|cd|make|python3? -m venv|\. \S+/activate|(python3? -m )?pip3? install|pytest|python3? -m pytest"
    r"|python3? -m zpatterns\.testing|python3? benchmarks/)\b"
)
"""How a line of a ``sh`` block may begin: it sets up, tests, measures or installs."""


def each_page(test: Any) -> Any:
    return pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)(test)


# What can be run.


@pytest.mark.timeout(200)  # many steps, each with a deadline of its own
@each_page
def test_what_a_page_shows_is_what_happens(page: Path, tmp_path: Path, warm_interpreter: WarmInterpreter | None):
    # The first page is what a reader has, to the last import; the others are forked.
    if warm_interpreter is None or page is README:
        run_page(page, tmp_path)
    else:
        with warm_interpreter.forking():
            run_page(page, tmp_path, warm_interpreter.command)


@each_page
def test_no_command_hides_where_it_is_not_run(page: Path):
    for block in blocks_of(page):
        where = f"{page.name}, line {block.line}"
        assert block.language in ("python", "console", "sh", "text", "json", "mermaid"), f"{where}: {block.language!r}"
        if block.language == "sh":
            for line in re.sub(r"\\\n", "", block.text).splitlines():
                assert SETTING_UP.match(line), f"{where}: in `sh`, and so not run, but not for setting up: {line}"
        elif block.language == "text":
            found = re.search(r"^\s*(\$|>>>|zpatterns|python3?|import|from) .*", block.text, re.MULTILINE)
            assert not found, f"{where}: not to be read only, so `console`, `python` or `sh`: {found and found[0]}"
        elif block.language == "json":
            json.loads(block.text)
    indented = re.findall(r"(?<=\n\n)(?: {4}.*\n)+", prose_of(page))
    for line in "".join(indented).splitlines():
        assert SETTING_UP.match(line.strip()), f"{page.name}: indented, and so not run: {line}"
    fences = len(re.findall(r"^ *(?:```|~~~)", page.read_text(), re.MULTILINE))
    assert fences == 2 * len(blocks_of(page)), f"{page.name}: a fence that is not at the margin, or not closed"


def test_the_first_commands_are_those_that_need_nothing():
    assert re.search(r"^    make demo .*\n    make test ", README.read_text(), re.MULTILINE)


def test_the_diagram_of_a_workers_states_is_that_of_its_table():
    diagrams = [block.text for block in blocks_of(DOCS / "majordomo.md") if block.language == "mermaid"]
    assert diagrams == [state_diagram(WorkerCore.transitions, WorkerState.AWAY, WorkerState.STOPPED)]


def test_the_diagram_of_a_pairs_states_is_that_of_its_table():
    diagrams = [block.text for block in blocks_of(DOCS / "binary-star.md") if block.language == "mermaid"]
    assert diagrams == [state_diagram(CHANGES, State.PRIMARY)]


# How the pages hang together.


def anchors(page: Path) -> set[str]:
    """The fragments that a reader's browser can jump to, as GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_every_link_leads_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"https?://", target):
            continue
        file, _, fragment = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.is_file(), f"{page.name}: {target}"
        assert not fragment or fragment in anchors(there), f"{page.name}: {target}"


def test_the_index_knows_every_page():
    index = (DOCS / "index.md").read_text()
    for page in DOCS.glob("*.md"):
        assert page.name == "index.md" or f"]({page.name})" in index, page.name
    assert "](docs/index.md)" in README.read_text()


@each_page
def test_a_page_opens_with_what_it_is_for(page: Path):
    title, blank, opening, *_ = page.read_text().splitlines()
    assert re.match(r"# \S", title)
    assert not blank
    assert re.match(r"\w", opening), opening


# What is said of the code.


def shown_option(option: click.Option) -> tuple[str, str]:
    """How a table names an option, and its default."""
    name = option.opts[0]
    if isinstance(option.type, click.Choice):
        name += f" {'/'.join(option.type.choices)}"
    elif not option.is_flag:
        name += f" {option.metavar or option.type.name.upper()}"
    default: Any = option.default
    if option.is_flag or default is None or getattr(default, "name", "") == "UNSET":
        return name, ""
    return name, " ".join(default) if isinstance(default, list) else str(default)


def shown_command(called: str, command: click.Command) -> str:
    arguments = [param for param in command.params if isinstance(param, click.Argument)]
    return " ".join([called, *(argument.make_metavar(click.Context(command)) for argument in arguments)])


@pytest.mark.parametrize(("called", "command", "prefix"), all_commands(), ids=[each[0] for each in all_commands()])
def test_the_command_line_page_knows_a_command_as_it_is(called: str, command: click.Command, prefix: str):
    rows = table_after("command-line.md", f"## `{shown_command(called, command)}`\n")
    options = [param for param in command.params if isinstance(param, click.Option)]
    assert [(code(name), code(default)) for name, default, _ in rows] == [shown_option(option) for option in options]
    assert [called, f"{prefix}_"] in [
        [code(name), code(variables)]
        for name, variables in table_after("command-line.md", "**Environment variables.**")
    ]


def test_the_command_line_page_knows_no_other_command():
    known = {f"`{shown_command(called, command)}`" for called, command, _ in all_commands()}
    text = (DOCS / "command-line.md").read_text()
    assert set(re.findall(r"^## (`.+`)$", text, re.MULTILINE)) == known
    for found in re.findall(r"`(zpatterns(?:-[\w-]+)|zpatterns \w+(?: [a-z]+)?)", text):
        script = found in (ROOT / "pyproject.toml").read_text()
        assert script or any(command.startswith(f"`{found}") for command in known), found


def test_the_command_line_page_knows_the_exit_codes():
    codes = {value for name, value in vars(base).items() if name.startswith("EXIT_")} | {0}
    assert {int(number) for number, _ in table_after("command-line.md", "## Exit codes")} == codes


def test_an_environment_variable_is_named_as_the_page_says():
    for called, command, _ in all_commands():
        for option in command.params:
            if isinstance(option, click.Option):
                assert f"--{str(option.name).replace('_', '-')}" in option.opts, f"{called}: {option.opts}"


@pytest.mark.parametrize(
    ("mark", "made", "command"),
    [
        ("`Broker(*endpoints, ...)`:", Broker, "zpatterns mdp broker"),
        ("`Worker(endpoints, ...)`:", Worker, "zpatterns mdp worker"),
        ("`Client(endpoints, ...)` and `AsyncClient(endpoints, ...)`:", Client, "zpatterns mdp request"),
        ("`Client(endpoints, ...)` and `AsyncClient(endpoints, ...)`:", AsyncClient, "zpatterns mdp request"),
    ],
)
def test_the_limits_are_those_of_the_code(mark: str, made: type, command: str):
    rows = table_after("majordomo.md", mark)
    assert {code(name): eval(code(default)) for name, default, _ in rows} == options_of(made)
    both = options_of_both(made, command)
    assert {option for _, _, text in rows for option in re.findall(r"\[(--[\w-]+)\]", text)} == both


def test_the_sockets_settings_are_those_of_the_code():
    rows = table_after("majordomo.md", "`settings` is a `SocketSettings`")
    assert {code(name): eval(code(default)) for name, default, _ in rows} == {
        field.name: field.default for field in fields(SocketSettings)
    }


def test_every_event_is_listed_with_its_level():
    rows = table_after("majordomo.md", "asyncio.run(main())\n```\n\n| event")
    ours = [
        event
        for module in (events, core, driver)
        for event in vars(module).values()
        if inspect.isclass(event) and issubclass(event, Event) and event is not Event
    ]
    assert {code(name): level for name, level, _, _ in rows} == levels_of(ours)


DRAIN = inspect.signature(Broker.stop).parameters["drain"].default


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("majordomo.md", f"nobody has used for {ClientOptions().idle_max:g} s"),
        ("majordomo.md", f"collects at most {ClientOptions().held_bytes_max // 2**20} MiB"),
        ("majordomo.md", f"stops its own reading at {PARTS_MAX} parts"),
        ("majordomo.md", f"for `request_ttl` seconds ({BrokerOptions().request_ttl:g})"),
        ("majordomo.md", f"`max_in_flight` calls ({ClientOptions().max_in_flight}) are on the wire"),
        # Three leases, and the longest back-off, which is a fourth.
        ("majordomo.md", f"({4 * BrokerOptions().liveness.lease:g} s by default)"),
        ("majordomo.md", f"`await service.stop(drain={DRAIN})`"),
        ("majordomo.md", f"The commands drain for {DRAIN:g} s"),
        ("command-line.md", f"finish what it holds, for {DRAIN:g} s at most"),
        ("command-line.md", f"Default: {BrokerOptions().queue_max:,} |"),
        ("wire.md", f"Up to {BrokerOptions().held_bytes_max // 2**20} MiB"),
        ("wire.md", f"forgets one that has waited for {BrokerOptions().request_ttl:g} s"),
        ("wire.md", f"1 to {wire.SERVICE_NAME_MAX} bytes of printable UTF-8"),
    ],
)
def test_a_figure_in_the_text_is_that_of_the_code(page: str, text: str):
    assert text in " ".join((DOCS / page).read_text().split()), text


@pytest.mark.parametrize(
    ("mark", "statistics"),
    [
        ("What `statistics()` counts. Broker:", BrokerStatistics),
        ("Worker, over all lanes:", WorkerStatistics),
        ("\nClient:\n", ClientStatistics),
    ],
)
def test_every_figure_is_listed(mark: str, statistics: Any):
    rows = table_after("majordomo.md", mark)
    assert [code(name) for name, _ in rows] == [field.name for field in fields(statistics)]


def test_every_error_is_listed_with_what_else_it_is():
    rows = table_after("errors.md", "## The tree")
    ours = [
        error
        for error in vars(errors).values()
        if inspect.isclass(error) and issubclass(error, errors.ZPatternsError) and error is not errors.ZPatternsError
    ]
    assert {code(name): code(builtin) for name, builtin, _, _ in rows[1:]} == {
        error.__name__: error.__bases__[1].__name__ for error in ours
    }
    assert code(rows[0][0]) == "ZPatternsError"


def test_every_code_of_an_error_is_listed():
    listed = {code(name) for name, *_ in table_after("errors.md", "## Codes of `RemoteError`")}
    ours = {value.decode() for name, value in vars(wire).items() if name.startswith("CODE_")}
    assert ours <= listed


def test_the_reactor_page_has_the_whole_contract():
    text = (DOCS / "reactor.md").read_text()
    for name in vars(core.ServiceCore).keys() | vars(core.Core).keys():
        assert name.startswith("_") or re.search(rf"`{name}\b", text) or name == "PORTS", name


# Bytes.


def frames_of(page_heading: str) -> dict[str, list[bytes]]:
    """The messages of one version in the page of wire formats."""
    rows = table_after("wire.md", f"## {page_heading}\n")
    return {name: [ast.literal_eval(frame) for frame in re.findall(r"`([^`]+)`", frames)] for name, frames in rows}


SERVICE, ADDRESS = b"echo", b"\x00k\x8bEg"


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_the_bytes_of_a_worker_are_those_of_the_code(version: str):
    shown = frames_of(f"Version {version}")
    dialect = wire.WORKER_DIALECTS[version]
    whole = {"REPLY": (dialect.final, b"HELLO")}
    parts = {"PARTIAL": (dialect.partial, b"HEL"), "FINAL": (dialect.final, b"LO")}
    replies = whole if version == "0.1" else parts
    expected = {
        "worker: READY": dialect.build(dialect.ready, SERVICE),
        "worker: REQUEST": dialect.build(dialect.request, ADDRESS, b"", b"hello"),
        "worker: HEARTBEAT": dialect.build(dialect.heartbeat),
        "worker: DISCONNECT": dialect.build(dialect.disconnect),
    } | {
        f"worker: {name}": dialect.build(number or b"", ADDRESS, b"", body) for name, (number, body) in replies.items()
    }
    assert {name: frames for name, frames in shown.items() if name.startswith("worker: ")} == expected


@pytest.mark.parametrize(
    ("version", "replies"),
    [("0.1", {"REPLY": (b"HELLO", True)}), ("0.2", {"PARTIAL": (b"HEL", False), "FINAL": (b"LO", True)})],
)
def test_the_bytes_of_a_client_are_those_of_the_code(version: str, replies: dict[str, tuple[bytes, bool]]):
    shown = frames_of(f"Version {version}")
    assert shown["client: REQUEST"] == wire.client_request(version, SERVICE, [b"hello"])
    for name, (body, last) in replies.items():
        assert wire.parse_client_reply(version, SERVICE, shown[f"client: {name}"]) == ([body], last)
    assert {name for name in shown if name.startswith("client: ")} == {
        "client: REQUEST",
        *(f"client: {name}" for name in replies),
    }


def test_the_bytes_of_an_error_are_those_of_the_code():
    (_, marker), *_ = table_after("wire.md", "## Errors\n")
    assert ast.literal_eval(code(marker)) == wire.ERROR_MARKER
    assert wire.parse_error([wire.ERROR_MARKER, b"no-voice", b"text"]) == ("no-voice", "text")


def test_the_names_that_a_broker_answers_itself_are_listed():
    listed = {code(name).encode() for name, *_ in table_after("wire.md", "## MMI\n")}
    ours = {value for name, value in vars(wire).items() if name.startswith("MMI_") and value != wire.MMI_PREFIX}
    assert listed == ours | {b""}


# The reader in the machine: what it must notice.


def page_of(tmp_path: Path, text: str) -> tuple[Path, Path]:
    page = tmp_path / "page.md"
    page.write_text(text)
    return page, tmp_path


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```python\nprint(1 + 1)  # 3\n```\n", r"line 1: the block should print\n3"),
        ("```python\nprint('unannounced')\n```\n", r"should print\n\(nothing\)"),
        ("\n```python\n\n1 / 0\n```\n", r'page\.md", line 4(.|\n)*ZeroDivisionError'),
        ("```console\n$ echo one\ntwo\n```\n", r"line 2: 'echo one' should print\ntwo"),
        ("```console\n$ echo one\none\n$ false\n```\n", r"line 4: 'false' ended with 1"),
        ("```console\n$ exit 3\n```\n", r"the program that ran it has ended"),
    ],
)
def test_a_page_that_is_wrong_is_noticed(tmp_path: Path, text: str, complaint: str):
    with pytest.raises(AssertionError, match=complaint):
        run_page(*page_of(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```console\n$ sleep 30\n```\n", r"not done within 2 s"),
        ("```python\nimport time; time.sleep(30)\n```\n", r"not done within 2 s"),
        ("```console\n$ echo one &\ntwo\n```\n", r"prints what is shown: not within 2 s; it printed:\none"),
    ],
)
def test_a_page_that_hangs_is_noticed(monkeypatch, tmp_path: Path, text: str, complaint: str):
    monkeypatch.setattr(pages, "DEADLINE", 2.0)
    monkeypatch.setattr(pages, "FAREWELL", 0.5)
    begin = time.monotonic()
    with pytest.raises(AssertionError, match=complaint):
        run_page(*page_of(tmp_path, text))
    assert time.monotonic() - begin < 25  # which is less than what hangs would take


def test_a_page_keeps_its_names_its_files_and_its_ports(tmp_path: Path):
    text = """
```python
# there.py
PLACE = "tcp://127.0.0.1:5555"
```

```python
from there import PLACE
```

```console
$ NAME=zpatterns
$ echo $NAME tcp://127.0.0.1:5555 tcp://127.0.0.1:5556
zpatterns tcp://127.0.0.1:5555 tcp://127.0.0.1:5556
$ python -c "from there import PLACE; assert not PLACE.endswith(':' + '5555')"
```

```python
print(PLACE)  # tcp://127.0.0.1:5555
assert not PLACE.endswith("55" + "55")
```
"""
    run_page(*page_of(tmp_path, text))


def test_nothing_outlives_a_page(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(pages, "FAREWELL", 0.5)
    text = """
```console
$ sh -c 'trap : TERM; echo $$ >pid; while :; do sleep 0.1; done' &
$ until [ -s pid ]; do sleep 0.02; done
```
"""
    run_page(*page_of(tmp_path, text))
    assert not is_alive(int((tmp_path / "work" / "pid").read_text()))
