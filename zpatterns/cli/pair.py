"""Options of whatever can be one half of a Binary Star pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from zpatterns.cli.base import SECONDS

F = TypeVar("F", bound=Callable[..., Any])

STATE_ENDPOINTS: Final = ("tcp://127.0.0.1:5003", "tcp://127.0.0.1:5004")
"""Where the Guide's primary and backup publish their states."""


def pair_options(prefix: str = "") -> Callable[[F], F]:
    """``--primary/--backup``, ``--local``, ``--remote``, ``--control`` and the times of the pair.

    `prefix` is put before the names of those options that the command has for something else.
    """
    by_role = f"[default: {STATE_ENDPOINTS[0]} and {STATE_ENDPOINTS[1]}, by role]"

    def decorate(function: F) -> F:
        for option in (
            click.option(
                "--lone-backup-after",
                metavar="S",
                type=SECONDS,
                help="Seconds of silence after which a backup serves without its primary.  [default: it never does]",
            ),
            click.option(
                f"--{prefix}liveness",
                metavar="N",
                type=click.IntRange(min=2),
                default=2,
                show_default=True,
                help="Heartbeat intervals of silence after which the other node is dead.",
            ),
            click.option(
                f"--{prefix}heartbeat-interval",
                metavar="S",
                type=SECONDS,
                default=1.0,
                show_default=True,
                help="Seconds between the states that a node publishes; give both the same.",
            ),
            click.option(
                "--control", metavar="E", help="Endpoint for 'bstar status' and 'bstar promote': loopback or ipc."
            ),
            click.option("--remote", metavar="E", help=f"Where the other node publishes.  {by_role}"),
            click.option("--local", metavar="E", help=f"Where this node publishes its state.  {by_role}"),
            click.option("--primary/--backup", default=None, help="Which half of a pair this is."),
        ):
            function = option(function)
        return function

    return decorate


def take_pair_options(options: dict[str, Any], prefix: str = "") -> dict[str, Any] | None:
    """Take what :func:`pair_options` added out of a command's `options`: the arguments of a node, or None for no pair.

    Errors: UsageError where a pair is spoken of and its half is not said.
    """
    primary = options.pop("primary")
    local, remote = options.pop("local"), options.pop("remote")
    pair = {name: options.pop(name) for name in ("control", "lone_backup_after")}
    for name in ("heartbeat_interval", "liveness"):
        pair[name] = options.pop(prefix + name)
    if primary is None:
        said = {"--local": local, "--remote": remote, "--control": pair["control"]}
        said["--lone-backup-after"] = pair["lone_backup_after"]
        for option, value in said.items():
            if value is not None:
                raise click.UsageError(f"{option} is for half of a pair: say which, --primary or --backup.")
        return None
    mine, others = STATE_ENDPOINTS if primary else STATE_ENDPOINTS[::-1]
    return {"primary": primary, "local": local or mine, "remote": remote or others, **pair}
