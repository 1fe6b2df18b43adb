"""``zpatterns pirate queue`` and ``worker``: Simple and Paranoid Pirate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import click

from zpatterns.cli.base import (
    COUNT,
    DEFAULT_ENDPOINT,
    SECONDS,
    Command,
    F,
    arguments_checked,
    check_endpoints,
    concurrency_option,
    deliveries_max_option,
    echo_option,
    handler_timeout_option,
    log_format_option,
    request_ttl_option,
    version_option,
)

DEFAULT_BACKEND: Final = "tcp://127.0.0.1:5556"
"""Where the Guide's workers look for their queue, on this machine only."""


paranoid_option = click.option(
    "--paranoid/--simple",
    "paranoid",
    default=True,
    show_default=True,
    help="With heartbeats (RFC 6), or without; both ends need the same.",
)


def _heartbeat_options(function: F) -> F:
    """Those of a pattern with heartbeats; None where they are not given, for --simple has none."""
    options: Sequence[Callable[[F], F]] = (
        click.option(
            "--heartbeat-interval",
            metavar="S",
            type=SECONDS,
            help="Seconds between heartbeats; give both ends the same.  [default: 1]",
        ),
        click.option(
            "--liveness",
            metavar="N",
            type=COUNT,
            help="Heartbeat intervals of silence after which a peer is dead.  [default: 3]",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _chosen(paranoid: bool, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given. Errors: a heartbeat where there is none."""
    chosen = {name: value for name, value in options.items() if value is not None}
    for name in () if paranoid else ("heartbeat_interval", "liveness"):
        if name in chosen:
            raise click.UsageError(f"--{name.replace('_', '-')} is for --paranoid: Simple Pirate has no heartbeats.")
    return chosen


@click.command(cls=Command, context_settings={"auto_envvar_prefix": "ZPATTERNS_PIRATE_QUEUE"})
@paranoid_option
@click.option(
    "--frontend", metavar="E", default=DEFAULT_ENDPOINT, show_default=True, help="Endpoint to listen on for clients."
)
@click.option(
    "--backend", metavar="E", default=DEFAULT_BACKEND, show_default=True, help="Endpoint to listen on for workers."
)
@_heartbeat_options
@click.option(
    "--worker-timeout",
    metavar="S",
    type=SECONDS,
    help="Seconds after which a request that a worker holds goes to another.  [default: 30; --simple: never]",
)
@click.option("--queue-max", metavar="N", type=COUNT, help="Requests that may wait in the queue; more are refused.")
@request_ttl_option("a worker")
@deliveries_max_option
@log_format_option
def queue(paranoid: bool, frontend: str, backend: str, log_format: Any, **options: Any) -> None:
    """Run a queue between clients and workers until SIGINT or SIGTERM."""
    chosen = _chosen(paranoid, options)
    from zpatterns.pirate import ParanoidPirateQueue, SimplePirateQueue
    from zpatterns.telemetry import configure_logging

    with arguments_checked():
        service = (ParanoidPirateQueue if paranoid else SimplePirateQueue)(frontend, backend, **chosen)
    configure_logging(log_format)
    service.run()


queue.params.append(version_option())


@click.command(cls=Command)
@paranoid_option
@click.option(
    "--connect",
    metavar="E",
    multiple=True,
    default=[DEFAULT_BACKEND],
    show_default=True,
    help="Backend of the queue; with --paranoid, repeat it for queues to turn to when one fails.",
)
@echo_option
@click.option(
    "--handler",
    metavar="MODULE:NAME",
    help="A function, coroutine or generator of one request, or a subclass of the worker's class.",
)
@concurrency_option
@handler_timeout_option
@_heartbeat_options
@log_format_option
def worker(
    paranoid: bool, connect: Sequence[str], echo: bool, handler: str | None, log_format: Any, **options: Any
) -> None:
    """Serve the requests of a queue until SIGINT or SIGTERM."""
    if echo and handler is not None:
        raise click.UsageError("--echo and --handler exclude each other.")
    chosen = _chosen(paranoid, options)
    from zpatterns.cli.handlers import load_handler
    from zpatterns.pirate import ParanoidPirateWorker, SimplePirateWorker
    from zpatterns.telemetry import configure_logging

    target = None if handler is None else load_handler(handler)
    endpoints = check_endpoints(connect)
    if not paranoid and len(endpoints) > 1:
        raise click.UsageError("--simple takes one --connect: its worker cannot tell when to turn to another queue.")
    kind: type[Any] = ParanoidPirateWorker if paranoid else SimplePirateWorker
    with arguments_checked():
        where = endpoints if paranoid else endpoints[0]
        if isinstance(target, type) and issubclass(target, kind):
            serving = target(where, **chosen)
        else:
            serving = kind(where, handler=target, **chosen)
    configure_logging(log_format)
    serving.run()
