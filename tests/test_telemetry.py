"""Events become log lines, floods become one line a second, and nothing here configures a program's logging."""

from __future__ import annotations

import enum
import json
import logging
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import structlog

from zpatterns.core import Event, MessagesDropped
from zpatterns.telemetry import QUIET_PERIOD, TEXT_MAX, Telemetry


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class WorkerExpired(Event):
    level: ClassVar[str] = "warning"
    worker: bytes
    service: bytes


@dataclass(frozen=True, slots=True)
class MDPThing(Event):
    value: Any


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lines():
    """structlog configured by "the application" to keep what it is given."""
    kept: list[dict[str, Any]] = []

    def keep(_logger, method, line):
        kept.append({"level": method, **line})
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    yield kept
    structlog.reset_defaults()


@pytest.fixture
def unconfigured():
    structlog.reset_defaults()


@pytest.fixture
def telemetry():
    result = Telemetry("mdp.broker", endpoint="tcp://127.0.0.1:5555")
    result.clock = Clock()
    return result


def test_an_event_becomes_a_line_with_its_name_level_and_fields(lines, telemetry):
    telemetry.emit(WorkerExpired(b"\x00\x80\x01", b"echo"))
    (line,) = lines
    assert line == {
        "level": "warning",
        "event": "worker_expired",
        "source": "mdp.broker",
        "endpoint": "tcp://127.0.0.1:5555",
        "worker": "0x008001",
        "service": "echo",
        "exc_info": None,
    }


def test_the_level_is_info_unless_the_event_says_otherwise(lines, telemetry):
    telemetry.emit(MDPThing(1))
    assert lines[0]["level"] == "info"
    assert lines[0]["event"] == "mdp_thing"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"plain text", "plain text"),
        (b"\xff\x00", "0xff00"),
        (Colour.RED, "red"),
        ([b"a", b"\x01"], ["a", "0x01"]),
        ({b"k": b"v"}, {"b'k'": "v"}),
        (None, None),
        (True, True),
        (1.5, 1.5),
        ("line one\nline two \x1b[31m", "line one\\nline two \\x1b[31m"),
        (ValueError("bad"), "ValueError: bad"),
    ],
)
def test_values_are_shown_readably(lines, telemetry, value, shown):
    telemetry.emit(MDPThing(value))
    assert lines[0]["value"] == shown


@pytest.mark.parametrize("value", [b"x" * 10_000, b"\x00" * 10_000, "x" * 10_000, [b"\x00"] * 10_000, range(10**9)])
def test_values_are_bounded(lines, telemetry, value):
    telemetry.emit(MDPThing(value))
    shown = lines[0]["value"]
    assert len(shown) <= TEXT_MAX


def test_a_value_whose_repr_raises_does_no_harm(lines, telemetry):
    class Nasty:
        def __repr__(self) -> str:
            raise RuntimeError

    telemetry.emit(MDPThing(Nasty()))
    assert lines[0]["value"] == "<Nasty>"


def test_of_a_flood_the_first_is_logged_and_then_one_a_second_with_a_count(lines, telemetry):
    for _ in range(1000):
        telemetry.emit(MessagesDropped("bad-header", 1))
    assert len(lines) == 1
    assert "suppressed" not in lines[0]

    telemetry.clock.now += QUIET_PERIOD
    for _ in range(10):
        telemetry.emit(MessagesDropped("bad-header", 1))
    assert len(lines) == 2
    assert lines[1]["suppressed"] == 999

    telemetry.clock.now += QUIET_PERIOD
    telemetry.emit(MessagesDropped("bad-header", 1))
    assert lines[2]["suppressed"] == 9


def test_each_reason_and_each_class_has_a_line_of_its_own(lines, telemetry):
    telemetry.emit(MessagesDropped("bad-header", 1))
    telemetry.emit(MessagesDropped("short", 1))
    telemetry.emit(MDPThing(1))
    assert [(line["event"], line.get("reason")) for line in lines] == [
        ("messages_dropped", "bad-header"),
        ("messages_dropped", "short"),
        ("mdp_thing", None),
    ]


def test_reasons_without_number_do_not_make_lines_without_number(lines, telemetry):
    for number in range(10_000):
        telemetry.emit(MessagesDropped(f"reason {number}", 1))
    assert len(lines) < 300


def test_two_sources_do_not_silence_each_other(lines):
    for source in ("a", "b"):
        Telemetry(source).emit(MDPThing(1))
    assert [line["source"] for line in lines] == ["a", "b"]


def test_every_event_of_a_flood_reaches_the_callback(lines):
    seen: list[Any] = []
    telemetry = Telemetry("x", seen.append)
    for number in range(100):
        telemetry.emit(MDPThing(number))
    assert [event.value for event in seen] == list(range(100))


def test_an_exception_of_the_callback_is_reported_and_goes_no_further(lines):
    def callback(_event):
        raise ZeroDivisionError("division by zero")

    telemetry = Telemetry("x", callback)
    telemetry.emit(MDPThing(1))
    telemetry.emit(MDPThing(2))
    failed = [line for line in lines if line["event"] == "on_event_failed"]
    assert len(failed) == 1
    assert failed[0]["level"] == "error"
    assert failed[0]["error"] == "ZeroDivisionError: division by zero"
    assert failed[0]["event_type"] == "mdp_thing"
    assert isinstance(failed[0]["exc_info"], ZeroDivisionError)


def test_errors_of_different_kinds_are_all_logged(lines, telemetry):
    telemetry.error("handler_failed", ValueError("one"), service=b"echo")
    telemetry.error("handler_failed", KeyError("two"))
    telemetry.error("drain_failed", ValueError("three"))
    telemetry.error("drain_failed", ValueError("four"))
    assert [line["error"] for line in lines] == ["ValueError: one", "KeyError: 'two'", "ValueError: three"]
    assert lines[0]["service"] == "echo"


def test_an_exception_whose_text_cannot_be_had_is_logged_all_the_same(lines, telemetry):
    class Nasty(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    telemetry.error("handler_failed", Nasty())
    assert lines[0]["error"].startswith("Nasty")


def test_info_is_never_held_back(lines, telemetry):
    for number in range(3):
        telemetry.info("ready", number=number)
    assert [line["number"] for line in lines] == [0, 1, 2]


def test_a_field_cannot_take_the_place_of_the_name_or_the_source(lines, telemetry):
    telemetry.info("ready", source="liar", level="liar", suppressed="liar")
    assert lines[0]["event"] == "ready"
    assert lines[0]["source"] == "mdp.broker"
    assert lines[0]["source_"] == "liar"


def test_a_logger_that_raises_stops_nobody(telemetry):
    def broken(*_args):
        raise OSError("disk full")

    structlog.configure(processors=[broken])
    seen: list[Event] = []
    try:
        telemetry.info("ready")
        telemetry.error("failed", ValueError())
        Telemetry("x", seen.append).emit(MDPThing(1))
    finally:
        structlog.reset_defaults()
    assert len(seen) == 1


def test_without_structlog_configured_lines_go_to_the_standard_logger(unconfigured, telemetry, caplog):
    caplog.set_level(logging.INFO, "zpatterns")
    telemetry.emit(WorkerExpired(b"\x00\x80", b"two words"))
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("zpatterns", logging.WARNING)
    assert record.getMessage() == (
        "worker_expired source=mdp.broker endpoint=tcp://127.0.0.1:5555 worker=0x0080 service='two words'"
    )


def test_a_percent_sign_in_a_value_is_only_a_percent_sign(unconfigured, telemetry, caplog):
    caplog.set_level(logging.INFO, "zpatterns")
    telemetry.info("ready", text="100%s")
    assert "text=100%s" in caplog.records[0].getMessage()


def test_the_standard_logger_is_given_the_traceback(unconfigured, telemetry, caplog):
    telemetry.error("handler_failed", ZeroDivisionError("x"))
    assert caplog.records[0].exc_info[0] is ZeroDivisionError


def test_what_the_standard_logger_does_not_want_is_not_counted(unconfigured, telemetry, caplog):
    caplog.set_level(logging.WARNING, "zpatterns")
    for _ in range(5):
        telemetry.emit(MDPThing(1))
    caplog.set_level(logging.INFO, "zpatterns")
    telemetry.emit(MDPThing(1))
    assert "suppressed" not in caplog.records[0].getMessage()


def test_an_application_may_configure_structlog_late(unconfigured, telemetry, caplog):
    caplog.set_level(logging.INFO, "zpatterns")
    telemetry.info("early")
    kept = []

    def keep(_logger, _method, line):
        kept.append(line["event"])
        raise structlog.DropEvent

    structlog.configure(processors=[keep])
    try:
        telemetry.info("late")
    finally:
        structlog.reset_defaults()
    assert [record.message.split()[0] for record in caplog.records] == ["early"]
    assert kept == ["late"]


PROGRAM = """
import sys
from zpatterns.core import MessagesDropped
from zpatterns.telemetry import Telemetry, configure_logging
{configure}
telemetry = Telemetry("mdp.broker")
telemetry.info("ready", endpoint="tcp://127.0.0.1:5555")
telemetry.emit(MessagesDropped("short", 3))
try:
    1 / 0
except ZeroDivisionError as error:
    telemetry.error("handler_failed", error)
import logging
logging.getLogger("asyncio").warning("something %s", "else")
print("structlog" in sys.modules)
"""


def run(configure: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM.format(configure=configure)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )


def test_a_program_that_configures_nothing_sees_only_errors_and_nothing_on_stdout():
    result = run("")
    assert result.stdout == "False\n"  # not even imported
    assert result.stderr.splitlines()[0].startswith("handler_failed source=mdp.broker")
    assert "ready" not in result.stderr


def test_the_command_lines_json_is_one_object_a_line_and_nothing_on_stdout():
    result = run("configure_logging('json')")
    assert result.stdout == "True\n"
    ready, dropped, failed, foreign = map(json.loads, result.stderr.splitlines())
    assert list(ready)[:3] == ["timestamp", "level", "event"]
    assert (ready["event"], ready["endpoint"]) == ("ready", "tcp://127.0.0.1:5555")
    assert (dropped["reason"], dropped["count"]) == ("short", 3)
    assert "ZeroDivisionError" in failed["exception"]
    assert (foreign["event"], foreign["level"]) == ("something else", "warning")


def test_the_command_lines_console_is_one_line_each_but_for_tracebacks():
    result = run("configure_logging('console')")
    lines = result.stderr.splitlines()
    assert "ready" in lines[0]
    assert "endpoint=tcp://127.0.0.1:5555" in lines[0]
    assert "reason=short" in lines[1]
    assert "Traceback" in result.stderr
    assert "something else" in lines[-1]


def test_without_a_terminal_the_command_line_logs_json():
    json.loads(run("configure_logging()").stderr.splitlines()[0])


def test_a_level_keeps_what_is_below_it_quiet():
    result = run("configure_logging('json', 'error')")
    assert json.loads(result.stderr.splitlines()[0])["event"] == "handler_failed"
