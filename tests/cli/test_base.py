"""What all commands share: exit codes, messages, options, and groups that load late."""

from __future__ import annotations

import errno
import importlib
import subprocess
import sys
from contextlib import suppress

import click
import pytest
from click.testing import CliRunner

from tests.waiting import DEADLINE
from zpatterns import errors
from zpatterns.cli import main
from zpatterns.cli.base import SECONDS, Command, Failure, Group, arguments_checked
from zpatterns.cli.handlers import load_handler


def outcome(action, *arguments, **kwargs):
    @click.command(cls=Command)
    def command():
        action()

    return CliRunner().invoke(command, arguments, **kwargs)


def raising(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.RemoteError("ValueError", "bad"), 1),
        (errors.QueueFull("full"), 1),
        (Failure("so it is"), 1),
        (Failure("so it is", 3), 3),
        (click.UsageError("wrong"), 2),
        (errors.ServiceNotFound("none"), 3),
        (errors.RequestTimeout("late"), 4),
        (errors.EndpointError("bad"), 5),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_failure_has_its_exit_code_and_no_traceback(error, code):
    result = outcome(raising(error))
    assert result.exit_code == code
    assert "Traceback" not in result.output
    if str(error):
        assert str(getattr(error, "strerror", None) or error) in result.stderr
        assert result.stdout == ""


def test_an_interrupt_while_a_command_is_loaded_has_its_exit_code_too(monkeypatch):
    monkeypatch.setattr(importlib, "import_module", lambda _name: raising(KeyboardInterrupt())())
    assert CliRunner().invoke(main, ["mdp", "request", "echo"]).exit_code == 130


@pytest.mark.parametrize("program", [Command("program"), Group("program")], ids=repr)
def test_an_interrupt_while_the_command_line_is_read_has_its_exit_code_too(monkeypatch, program):
    monkeypatch.setattr(program, "parse_args", lambda *_: raising(KeyboardInterrupt())())
    result = CliRunner().invoke(program, [])
    assert (result.exit_code, result.output) == (130, "\n")


@pytest.mark.parametrize("error", [ZeroDivisionError(), PermissionError(errno.EACCES, "no")], ids=repr)
def test_what_nobody_expected_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        outcome(raising(error), catch_exceptions=False)


PRINTS = "import click; from zpatterns.cli.base import Command; click.command(cls=Command)(lambda: click.echo('x'))()"


def test_a_full_disk_is_said_once(cold):
    with open("/dev/full", "wb") as full:
        result = subprocess.run([sys.executable, "-c", PRINTS], stdout=full, stderr=subprocess.PIPE, timeout=DEADLINE)
    assert result.stderr.decode() == "Error: the output cannot be written: No space left on device\n"
    assert result.returncode == 1


@pytest.mark.parametrize("program", [Command("program", callback=lambda: None), Group("program")], ids=repr)
def test_streams_that_were_closed_lead_nowhere(monkeypatch, program):
    """As a daemon may be started; Python has None in their place."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    with suppress(click.UsageError):  # a group wants to know which
        program.main([], standalone_mode=False)
    with sys.stdin, sys.stdout, sys.stderr:
        assert sys.stdin.buffer.read() == b""
        for stream in (sys.stdout, sys.stderr):
            stream.write("nobody reads this")


def test_a_bad_value_for_a_constructor_is_a_usage_error_but_a_bad_endpoint_is_not():
    def action(error):
        with arguments_checked():
            raise error

    assert outcome(lambda: action(ValueError("liveness must be at least 1"))).exit_code == 2
    assert outcome(lambda: action(errors.EndpointError("no such host"))).exit_code == 5


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "-inf", "soon", ""])
def test_a_duration_is_a_finite_number_above_zero(text):
    with pytest.raises(click.BadParameter):
        SECONDS.convert(text, None, None)


def test_a_duration_may_be_a_fraction():
    assert SECONDS.convert("0.25", None, None) == 0.25


def every_command(command=main, path=("zpatterns",)):
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from every_command(found, (*path, name))


@pytest.mark.parametrize(("path", "command"), list(every_command()), ids=str)
def test_every_command_and_every_option_has_help_that_is_whole(path, command):
    result = CliRunner().invoke(main, [*path[1:], "--help"])
    assert result.exit_code == 0
    assert "..." not in result.output.replace("[ARGS]...", "").replace("[BODY]...", "").replace('"..."', "")
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert all(name.startswith("--") for name in option.opts)


@pytest.mark.parametrize("name", main.list_commands(click.Context(main)))
def test_a_lazy_command_is_there_under_its_name(name):
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name


def test_an_unknown_command_is_a_usage_error():
    result = CliRunner().invoke(main, ["mpd"])
    assert result.exit_code == 2
    assert "No such command 'mpd'" in result.stderr


def test_every_option_can_be_set_in_the_environment():
    result = CliRunner().invoke(main, ["mdp", "broker"], env={"ZPATTERNS_MDP_BROKER_LIVENESS": "0"})
    assert result.exit_code == 2
    assert "liveness" in result.stderr.lower()


def test_the_console_script_reads_the_same_variables_as_the_command():
    broker = importlib.import_module("zpatterns.cli.mdp").broker
    result = CliRunner().invoke(broker, [], env={"ZPATTERNS_MDP_BROKER_LIVENESS": "0"})
    assert result.exit_code == 2


def test_a_variable_named_version_prints_no_version():
    result = CliRunner().invoke(main, ["mdp", "--help"], env={"ZPATTERNS_VERSION": "1"})
    assert "Usage:" in result.output


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(importlib.import_module("sys").path))
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nocolon", "not of the form module:name"),
        (":name", "not of the form module:name"),
        ("module:", "not of the form module:name"),
        ("no_such_module_here:name", "no module 'no_such_module_here'"),
        ("json:no_such_name", "Module 'json' has no 'no_such_name'"),
        ("json:decoder.no_such_name", "Module 'json' has no 'decoder.no_such_name'"),
        ("sys:maxsize", "is a int, which cannot be called"),
        ("zp_broken_import:f", "ModuleNotFoundError: No module named 'not_there_either'"),
        ("zp_broken_syntax:f", "SyntaxError"),
        ("zp_broken_run:f", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_bad_handler_is_a_usage_error_that_says_what_is_wrong(directory, spec, message):
    (directory / "zp_broken_import.py").write_text("import not_there_either\n")
    (directory / "zp_broken_syntax.py").write_text("def f(:\n")
    (directory / "zp_broken_run.py").write_text("x = 1\n1 / 0\n")
    with pytest.raises(click.BadParameter) as caught:
        load_handler(spec)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_where_a_module_broke_is_told(directory):
    (directory / "zp_broken_line.py").write_text("x = 1\n1 / 0\n")
    with pytest.raises(click.BadParameter, match=r"zp_broken_line\.py, line 2"):
        load_handler("zp_broken_line:f")


def test_a_handler_is_found_in_the_current_directory_by_a_dotted_name(directory):
    (directory / "zp_handlers.py").write_text("class A:\n    @staticmethod\n    def f(request): return b'yes'\n")
    assert load_handler("zp_handlers:A.f")(None) == b"yes"
