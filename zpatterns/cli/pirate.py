"""``zpatterns pirate``: Lazy Pirate's server and requests, and the queues and workers of the other Pirates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from zpatterns.cli.base import (
    DEFAULT_ENDPOINT,
    Command,
    Group,
    arguments_checked,
    check_endpoints,
    json_option,
    log_errors_only,
    retries_option,
    timeout_option,
    version_option,
)
from zpatterns.cli.output import body_frames, print_reply
from zpatterns.cli.pirate_queue import queue, worker
from zpatterns.cli.serving import serve, server_options


@click.group(cls=Group, help="Pirates: plain requests that are tried again (RFC 6).")
def pirate() -> None:
    pass


pirate.add_command(queue)
pirate.add_command(worker)


@pirate.command(cls=Command, context_settings={"auto_envvar_prefix": "ZPATTERNS_PIRATE_SERVER"})
@server_options("zpatterns.pirate.LazyPirateServer")
def server(bind: Sequence[str], **options: Any) -> None:
    """Answer requests, of REQ clients too, until SIGINT or SIGTERM."""
    from zpatterns.pirate import LazyPirateServer

    serve(LazyPirateServer, bind, **options)


server.params.append(version_option())


@pirate.command(cls=Command)
@click.argument("body", nargs=-1)
@click.option(
    "--connect",
    metavar="E",
    multiple=True,
    default=[DEFAULT_ENDPOINT],
    show_default=True,
    help="Endpoint of a server or queue; repeat it for others that do the same.",
)
@timeout_option
@retries_option(3)
@json_option
def request(body: tuple[str, ...], connect: Sequence[str], as_json: bool, **options: Any) -> None:
    """Send one request to a server or queue and print the reply.

    Each BODY is one frame; without any, standard input is the one frame. Each frame of the reply is printed as it is
    and ended with a newline. With --json the reply is one list: a frame is a string, or, where it is not UTF-8,
    {"base64": "..."}.
    """
    from zpatterns.pirate import LazyPirateClient

    log_errors_only()
    endpoints = check_endpoints(connect)
    frames = body_frames(body)
    with arguments_checked():
        client = LazyPirateClient(endpoints, **options)
    with client, arguments_checked():
        reply = client.request(*frames)
    print_reply(reply, as_json)
