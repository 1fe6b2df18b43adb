"""``zpatterns freelance``: servers and requests without a broker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from zpatterns.cli.base import (
    DEFAULT_ENDPOINT,
    SECONDS,
    Command,
    Group,
    arguments_checked,
    check_endpoints,
    json_option,
    liveness_option,
    log_errors_only,
    retries_option,
    timeout_option,
    version_option,
)
from zpatterns.cli.output import body_frames, print_reply
from zpatterns.cli.serving import serve, server_options

MODELS = ("failover", "shotgun", "addressed")

model_option = click.option(
    "--model",
    type=click.Choice(MODELS),
    default="addressed",
    show_default=True,
    help="How requests find a server; both ends need the same.",
)


@click.group(cls=Group, help="Freelance: several like servers and no broker (RFC 10).")
def freelance() -> None:
    pass


@freelance.command(cls=Command, context_settings={"auto_envvar_prefix": "ZPATTERNS_FREELANCE_SERVER"})
@model_option
@click.option(
    "--identity",
    metavar="E",
    help="What foreign clients of the addressed model connect to, such as tcp://localhost:5555.  "
    "[default: the first --bind; required where that is a wildcard]",
)
@server_options("zpatterns.freelance.FreelanceServer")
def server(bind: Sequence[str], **options: Any) -> None:
    """Answer requests until SIGINT or SIGTERM."""
    from zpatterns.freelance import FreelanceServer

    serve(FreelanceServer, bind, **options)


server.params.append(version_option())


@freelance.command(cls=Command)
@click.argument("body", nargs=-1)
@click.option(
    "--connect",
    metavar="E",
    multiple=True,
    default=[DEFAULT_ENDPOINT],
    show_default=True,
    help="Endpoint of a server; repeat it for each, the one to be preferred first.",
)
@model_option
@timeout_option
@retries_option(None, "[default: 3, or as many as give every server one]")
@click.option(
    "--heartbeat-interval",
    metavar="S",
    type=SECONDS,
    default=2.0,
    show_default=True,
    help="Seconds of silence after which a server is pinged.",
)
@liveness_option
@json_option
def request(body: tuple[str, ...], connect: Sequence[str], as_json: bool, **options: Any) -> None:
    """Send one request to the servers and print the reply.

    Each BODY is one frame; without any, standard input is the one frame. Each frame of the reply is printed as it is
    and ended with a newline. With --json the reply is one list: a frame is a string, or, where it is not UTF-8,
    {"base64": "..."}.
    """
    from zpatterns.freelance import FreelanceClient

    log_errors_only()
    endpoints = check_endpoints(connect)
    frames = body_frames(body)
    with arguments_checked():
        client = FreelanceClient(endpoints, **options)
    with client, arguments_checked():
        reply = client.request(*frames)
    print_reply(reply, as_json)
