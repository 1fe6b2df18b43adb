"""Each option of a command reaches what it is an option of: under its own name, and as it was given."""

from __future__ import annotations

import inspect
from typing import Any

import click
import pytest

from tests.cli.processes import invoke
from zpatterns import bstar, clone, freelance, mdp, pirate
from zpatterns.calls import BlockingCalls
from zpatterns.cli import main
from zpatterns.errors import ClosedError
from zpatterns.service import Service

NOT_KEYWORDS = {"bind", "connect", "frontend", "backend", "handler", "log_format", "model", "primary"}
"""These have tests of their own."""


@pytest.fixture
def told(monkeypatch):
    """The keywords that the front ends of a command were made with; the command ends where it would begin to work."""
    keywords: dict[str, Any] = {}

    def end(_front_end):
        raise ClosedError("all is made")

    def listen(kind):
        make = kind.__init__

        def made(self, *args, **kwargs):
            make(self, *args, **kwargs)
            if type(self) is kind:
                # What half of a pair has for itself and for the pair too is named pair_... for the pair.
                keywords.update({f"pair_{name}" if name in keywords else name: kwargs[name] for name in kwargs})

        monkeypatch.setattr(kind, "__init__", made)

    for package in (bstar, clone, freelance, mdp, pirate):
        for kind in (getattr(package, name) for name in package.__all__):
            if inspect.isclass(kind) and issubclass(kind, Service | BlockingCalls):
                listen(kind)
    monkeypatch.setattr(Service, "run", end)
    monkeypatch.setattr(BlockingCalls, "__enter__", end)
    monkeypatch.setattr(clone.Clone, "__enter__", end)
    return keywords


def options_of(path):
    command: Any = main
    for name in path:
        command = command.get_command(click.Context(command), name)
    return [option for option in command.params if isinstance(option, click.Option) and not option.is_flag]


def another_value(option, number):
    """One that is no default, and that no other option of the command has."""
    if isinstance(option.type, click.Choice):
        return next(choice for choice in option.type.choices if choice != option.default)
    if isinstance(option.type, click.IntRange):
        return 100 + number
    if isinstance(option.type, click.FloatRange):
        return 1e6 if option.name == "lone_backup_after" else 100.5 + number  # a backup waits for a lease at least
    return f"tcp://127.0.0.1:{7000 + number}"


@pytest.mark.parametrize(
    "words",
    [
        "mdp broker --backup",
        "mdp worker echo",
        "mdp request mmi.service x",
        "pirate queue --paranoid",
        "pirate worker --paranoid",
        "pirate server",
        "pirate request x",
        "freelance server",
        "freelance request x",
        "bstar server --backup",
        "bstar request x",
        "clone server --backup",
        "clone get k",
    ],
)
def test_every_option_arrives(told, words):
    path = words.split()[:2]
    given = {
        option: another_value(option, number)
        for number, option in enumerate(options_of(path))
        if option.name not in NOT_KEYWORDS
    }
    arguments = [word for option, value in given.items() for word in (option.opts[0], str(value))]
    result = invoke(*words.split(), *arguments)
    assert b"all is made" in result.stderr
    assert given
    for option, value in given.items():
        assert told[option.name] == value, option.name
