"""``zpatterns clone server``."""

from __future__ import annotations

from typing import Any

import click

from zpatterns.cli.base import (
    COUNT,
    SECONDS,
    Command,
    arguments_checked,
    log_format_option,
    version_option,
)
from zpatterns.cli.pair import pair_options, take_pair_options

DEFAULT_CLONE_ENDPOINT = "tcp://127.0.0.1:5556"
"""The Guide's port, on this machine only: who wants to be heard from outside has to say so."""


@click.command(cls=Command, context_settings={"auto_envvar_prefix": "ZPATTERNS_CLONE_SERVER"})
@click.option(
    "--bind",
    metavar="E",
    default=DEFAULT_CLONE_ENDPOINT,
    show_default=True,
    help="Where snapshots are asked for; the two ports above it publish and collect.",
)
@click.option(
    "--heartbeat-interval",
    metavar="S",
    type=SECONDS,
    default=1.0,
    show_default=True,
    help="Seconds between heartbeats (HUGZ).",
)
@click.option(
    "--liveness",
    metavar="N",
    type=COUNT,
    default=5,
    show_default=True,
    help="Heartbeat intervals after which a client that reads nothing of its snapshot is given up.",
)
@click.option(
    "--store",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Keep the map in this file: what was answered survives a restart.",
)
@click.option("--keys-max", metavar="N", type=COUNT, help="Keys that the map may have; sets beyond are refused.")
@click.option("--bytes-max", metavar="BYTES", type=COUNT, help="Memory of all keys and values together.")
@click.option("--value-max", metavar="BYTES", type=COUNT, help="The largest value.")
@click.option(
    "--peer",
    metavar="E",
    help="Where the other half of a pair sends snapshots, tcp://host:port; one of this library says so itself.",
)
@pair_options("pair-")
@log_format_option
def server(bind: str, log_format: Any, **options: Any) -> None:
    """Share a map with clients (RFC 12) until SIGINT or SIGTERM.

    With --primary or --backup it is one half of a Binary Star pair; clients are given the endpoints of both.
    """
    from zpatterns.clone import CloneServer
    from zpatterns.service import Service
    from zpatterns.telemetry import configure_logging

    pair = take_pair_options(options, "pair_")
    if pair is None and options["peer"] is not None:
        raise click.UsageError("--peer is for half of a pair: say which, --primary or --backup.")
    with arguments_checked():
        service: Service = CloneServer(bind, **{name: value for name, value in options.items() if value is not None})
        if pair is not None:
            from zpatterns.bstar import BinaryStar

            service = BinaryStar(service, **pair)
    configure_logging(log_format)
    service.run()


server.params.append(version_option())
