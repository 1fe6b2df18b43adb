"""``zpatterns bstar``: a pair of echo servers, requests to it, and what an operator does with a node."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from zpatterns.cli.base import (
    SECONDS,
    Command,
    Failure,
    Group,
    arguments_checked,
    check_endpoints,
    json_option,
    log_errors_only,
    log_format_option,
    retries_option,
    timeout_option,
    version_option,
)
from zpatterns.cli.output import body_frames, print_reply, print_table
from zpatterns.cli.pair import pair_options, take_pair_options
from zpatterns.cli.serving import handler_options
from zpatterns.errors import RequestTimeout

FRONT_ENDPOINTS = ("tcp://127.0.0.1:5001", "tcp://127.0.0.1:5002")
"""Where clients find the Guide's primary and backup."""


@click.group(cls=Group, help="Binary Star: a pair of servers, of which one serves.")
def bstar() -> None:
    pass


@bstar.command(cls=Command, context_settings={"auto_envvar_prefix": "ZPATTERNS_BSTAR_SERVER"})
@click.option(
    "--bind",
    metavar="E",
    multiple=True,
    help="Endpoint to listen on; repeat it for more than one.  "
    f"[default: {FRONT_ENDPOINTS[0]} and {FRONT_ENDPOINTS[1]}, by role]",
)
@pair_options()
@handler_options("zpatterns.pirate.LazyPirateServer")
@log_format_option
def server(
    bind: Sequence[str], echo: bool, handler: str | None, concurrency: int, log_format: Any, **options: Any
) -> None:
    """Run one node of a pair until SIGINT or SIGTERM. Then the other takes over."""
    pair = take_pair_options(options)
    if pair is None:
        raise click.UsageError("Say which half this is: --primary or --backup.")
    if echo and handler is not None:
        raise click.UsageError("--echo and --handler exclude each other.")
    from zpatterns.bstar import BinaryStar
    from zpatterns.cli.handlers import load_handler
    from zpatterns.pirate import LazyPirateServer
    from zpatterns.telemetry import configure_logging

    target: Any = None if handler is None else load_handler(handler)
    front = bind or (FRONT_ENDPOINTS[0 if pair["primary"] else 1],)
    with arguments_checked():
        if isinstance(target, type) and issubclass(target, LazyPirateServer):
            service = target(*front, concurrency=concurrency)
        else:
            service = LazyPirateServer(*front, handler=target, concurrency=concurrency)
        node = BinaryStar(service, **pair)
    configure_logging(log_format)
    node.run()


server.params.append(version_option())


@bstar.command(cls=Command)
@click.argument("body", nargs=-1)
@click.option(
    "--connect",
    metavar="E",
    multiple=True,
    default=list(FRONT_ENDPOINTS),
    show_default=True,
    help="Endpoint of a node, the primary's first; repeat it for the other.",
)
@timeout_option
@retries_option(3)
@click.option(
    "--attempt-timeout",
    metavar="S",
    type=SECONDS,
    help="Seconds after which the other node is asked.  [default: the heartbeat interval]",
)
@click.option(
    "--heartbeat-interval",
    metavar="S",
    type=SECONDS,
    default=1.0,
    show_default=True,
    help="That of the pair: two of them are waited before the other node is asked.",
)
@json_option
def request(body: tuple[str, ...], connect: Sequence[str], as_json: bool, **options: Any) -> None:
    """Send one request to the pair and print the reply.

    Each BODY is one frame; without any, standard input is the one frame. Each frame of the reply is printed as it is
    and ended with a newline. With --json the reply is one list: a frame is a string, or, where it is not UTF-8,
    {"base64": "..."}.
    """
    from zpatterns.bstar import BinaryStarClient

    log_errors_only()
    endpoints = check_endpoints(connect)
    frames = body_frames(body)
    with arguments_checked():
        client = BinaryStarClient(endpoints, **options)
    with client:
        reply = client.request(*frames)
    print_reply(reply, as_json)


control_option = click.option("--control", metavar="E", required=True, help="The endpoint that its --control says.")


@bstar.command(cls=Command)
@control_option
@timeout_option
@json_option
def status(control: str, timeout: float, as_json: bool) -> None:
    """Say what a node of a pair is, and what it knows of the other."""
    code, text = _ask(control, "status", timeout)
    if code != "200":
        raise Failure(f"the node at {control} answers {code}: {text}")
    if as_json:
        click.echo(text)
        return
    found = json.loads(text)
    peer = found["peer"]
    rows = [
        ["role", found["role"]],
        ["state", found["state"]],
        ["epoch", found["epoch"]],
        ["serving", "yes" if found["serving"] else "no"],
        ["the other node", (peer["state"] or "never heard") + (", silent" if peer["silent"] else "")],
        ["its epoch", "unknown" if peer["epoch"] is None else peer["epoch"]],
    ]
    print_table(("what", "is"), rows)


@bstar.command(cls=Command)
@control_option
@timeout_option
def promote(control: str, timeout: float) -> None:
    """Make a node the active one; the other gives way."""
    code, text = _ask(control, "promote", timeout)
    if code not in ("200", "202"):
        raise Failure(f"the node at {control} cannot be promoted: {text}")
    click.echo(text)


def _ask(control: str, what: str, timeout: float) -> tuple[str, str]:
    from zpatterns.bstar import BinaryStarClient

    log_errors_only()
    endpoints = check_endpoints([control])
    with BinaryStarClient(endpoints, timeout=timeout, retries=0) as client:
        try:
            answer = client.request(what)
        except RequestTimeout as error:
            raise RequestTimeout(
                f"no node answered at {control} within {error.elapsed or 0:.3g} s: is this its --control?",
                endpoint=control,
                attempts=error.attempts,
                elapsed=error.elapsed,
            ) from error
    code, text = [*answer, b"", b""][:2]
    return code.decode("ascii", "replace"), text.decode("utf-8", "replace")
