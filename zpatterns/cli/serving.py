"""What the commands of servers without a broker share: options, and how a handler is served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zpatterns.cli.base import (
    COUNT,
    DEFAULT_ENDPOINT,
    arguments_checked,
    concurrency_option,
    echo_option,
    log_format_option,
    request_ttl_option,
)

if TYPE_CHECKING:
    from zpatterns.server import Server

F = TypeVar("F", bound=Callable[..., Any])


def handler_options(base: str) -> Callable[[F], F]:
    """``--echo``, ``--handler`` and ``--concurrency``. `base`: the class that a handler may derive from."""

    def decorate(function: F) -> F:
        for option in (
            concurrency_option,
            click.option(
                "--handler",
                metavar="MODULE:NAME",
                help=f"A function or coroutine of one request, or a subclass of {base}.",
            ),
            echo_option,
        ):
            function = option(function)
        return function

    return decorate


def server_options(base: str) -> Callable[[F], F]:
    """All that :func:`serve` takes but the class."""

    def decorate(function: F) -> F:
        for option in (
            log_format_option,
            request_ttl_option("the handler"),
            click.option(
                "--queue-max", metavar="N", type=COUNT, help="Requests that may wait for that; more are refused."
            ),
            handler_options(base),
            click.option(
                "--bind",
                metavar="E",
                multiple=True,
                default=[DEFAULT_ENDPOINT],
                show_default=True,
                help="Endpoint to listen on; repeat it for more than one.",
            ),
        ):
            function = option(function)
        return function

    return decorate


def serve(
    kind: type[Any],
    bind: Sequence[str],
    *,
    echo: bool,
    handler: str | None,
    queue_max: int | None,
    log_format: Any,
    **options: Any,
) -> None:
    """Run a server of class `kind`, or of the subclass that `handler` names, until SIGINT or SIGTERM."""
    if echo and handler is not None:
        raise click.UsageError("--echo and --handler exclude each other.")
    from zpatterns.cli.handlers import load_handler
    from zpatterns.telemetry import configure_logging

    target: Any = None if handler is None else load_handler(handler)
    if queue_max is not None:
        options["queue_max"] = queue_max
    with arguments_checked():
        service: Server
        if isinstance(target, type) and issubclass(target, kind):
            service = target(*bind, **options)
        else:
            service = kind(*bind, handler=target, **options)
    configure_logging(log_format)
    service.run()
