"""``zpatterns mdp``: Majordomo's broker, workers, requests and measurements."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from zpatterns.cli.base import (
    COUNT,
    DEFAULT_ENDPOINT,
    EXIT_NO_SERVICE,
    Command,
    Failure,
    Group,
    arguments_checked,
    broker_expected,
    check_endpoints,
    concurrency_option,
    connect_option,
    deliveries_max_option,
    echo_option,
    handler_timeout_option,
    heartbeat_interval_option,
    json_option,
    liveness_option,
    log_errors_only,
    log_format_option,
    protocol_option,
    request_ttl_option,
    retries_option,
    service_name,
    timeout_option,
    version_option,
)
from zpatterns.cli.output import body_frames, print_reply, print_table
from zpatterns.cli.pair import pair_options, take_pair_options
from zpatterns.errors import RemoteError, ServiceNotFound


@click.group(cls=Group, help="Majordomo: services through a broker (RFCs 7, 8 and 18).")
def mdp() -> None:
    pass


@mdp.command(cls=Command, context_settings={"auto_envvar_prefix": "ZPATTERNS_MDP_BROKER"})
@click.option(
    "--bind",
    metavar="E",
    multiple=True,
    default=[DEFAULT_ENDPOINT],
    show_default=True,
    help="Endpoint to listen on; repeat it for more than one.",
)
@heartbeat_interval_option
@liveness_option
@click.option("--queue-max", metavar="N", type=COUNT, help="Requests that may wait; more are refused.")
@request_ttl_option("a worker")
@deliveries_max_option
@click.option(
    "--on-worker-loss",
    type=click.Choice(["retry", "fail"]),
    default="retry",
    show_default=True,
    help="What becomes of the request in a lost worker's hands.",
)
@pair_options("pair-")
@log_format_option
def broker(bind: Sequence[str], queue_max: int | None, log_format: Any, **options: Any) -> None:
    """Run a broker until SIGINT or SIGTERM.

    It serves clients and workers of both versions, 0.1 (RFC 7) and 0.2 (RFC 18), on the same endpoints. With --primary
    or --backup it is one half of a Binary Star pair; clients and workers are given the endpoints of both.
    """
    from zpatterns.mdp import Broker
    from zpatterns.service import Service
    from zpatterns.telemetry import configure_logging

    pair = take_pair_options(options, "pair_")
    if queue_max is not None:
        options["queue_max"] = queue_max
    with arguments_checked():
        service: Service = Broker(*bind, **options)
        if pair is not None:
            from zpatterns.bstar import BinaryStar

            service = BinaryStar(service, **pair)
    configure_logging(log_format)
    service.run()


broker.params.append(version_option())


@mdp.command(cls=Command)
@click.argument("service", callback=service_name)
@connect_option
@echo_option
@click.option(
    "--handler",
    metavar="MODULE:NAME",
    help="A function, coroutine or generator of one request, or a subclass of zpatterns.mdp.Worker.",
)
@protocol_option
@concurrency_option
@handler_timeout_option
@heartbeat_interval_option
@liveness_option
@log_format_option
def worker(
    service: str, connect: Sequence[str], echo: bool, handler: str | None, log_format: Any, **options: Any
) -> None:
    """Serve SERVICE until SIGINT or SIGTERM."""
    if echo and handler is not None:
        raise click.UsageError("--echo and --handler exclude each other.")
    from zpatterns.cli.handlers import load_handler
    from zpatterns.mdp import Worker
    from zpatterns.telemetry import configure_logging

    target = None if handler is None else load_handler(handler)
    endpoints = check_endpoints(connect)
    with arguments_checked():
        if isinstance(target, type) and issubclass(target, Worker):
            serving = target(endpoints, service=service, **options)
        else:
            serving = Worker(endpoints, service=service, handler=target, **options)
    configure_logging(log_format)
    serving.run()


@mdp.command(cls=Command)
@click.argument("service", callback=service_name)
@click.argument("body", nargs=-1)
@connect_option
@timeout_option
@retries_option(None, "[default: 3, or 0 with --wait]")
@protocol_option
@click.option("--wait", is_flag=True, help="Wait for a worker to appear instead of failing at once (exit code 3).")
@json_option
def request(
    service: str,
    body: tuple[str, ...],
    connect: Sequence[str],
    timeout: float,
    retries: int | None,
    protocol: Any,
    wait: bool,
    as_json: bool,
) -> None:
    """Send one request to SERVICE and print the reply.

    Each BODY is one frame; without any, standard input is the one frame. Each frame of the reply is printed as
    it is and ended with a newline. With --json the reply is one list: a frame is a string, or, where it is not
    UTF-8, {"base64": "..."}.
    """
    from zpatterns.mdp import Client

    log_errors_only()
    endpoints = check_endpoints(connect)
    frames = body_frames(body)
    if retries is None:
        # Each attempt is a request of its own: repeated ones would wait in the broker's queue side by side.
        retries = 0 if wait else 3
    deadline = time.monotonic() + timeout
    with arguments_checked():
        client = Client(endpoints, timeout=timeout, retries=retries, protocol=protocol)
    with client:
        if not wait and not service.startswith("mmi."):
            is_served = True
            with broker_expected(endpoints), suppress(RemoteError):  # who cannot say has not said no
                is_served = client.has_service(service)
            if not is_served:
                raise ServiceNotFound(
                    f"no worker serves {service!r} at {', '.join(endpoints)}: start one, or use --wait",
                    service=service,
                    endpoint=endpoints[0],
                )
        reply = client.request(service, *frames, timeout=max(0.001, deadline - time.monotonic()))
    print_reply(reply, as_json)


@mdp.command(cls=Command, short_help="List the services that a broker knows.")
@connect_option
@timeout_option
@retries_option(3)
@json_option
def services(connect: Sequence[str], timeout: float, retries: int, as_json: bool) -> None:
    """List the services that a broker of ours knows, with their workers and waiting requests."""
    from zpatterns.mdp import Client

    log_errors_only()
    endpoints = check_endpoints(connect)
    with arguments_checked():
        client = Client(endpoints, timeout=timeout, retries=retries)
    with client, broker_expected(endpoints):
        code, *rest = client.request("mmi.services", b"")
    if code != b"200" or not rest:
        raise Failure(
            f"the broker at {', '.join(endpoints)} does not list its services (it answers "
            f"{code.decode('ascii', 'replace')}): it is not one of ours; 'zpatterns mdp request mmi.service NAME' "
            "asks for one by name",
            EXIT_NO_SERVICE,
        )
    known = json.loads(rest[0])
    if as_json:
        click.echo(json.dumps(known, ensure_ascii=False))
    elif not known:
        click.echo("The broker knows no service.")
    else:
        columns = ("service", "workers", "idle", "queued")
        print_table(columns, [[entry[column] for column in columns] for entry in known])


@mdp.command(cls=Command, short_help="Measure requests a second, and latency.")
@connect_option
@click.option("--clients", metavar="N", type=COUNT, default=1, show_default=True, help="Clients that ask at once.")
@click.option(
    "--in-flight", metavar="N", type=COUNT, default=64, show_default=True, help="Open requests of each client."
)
@click.option("--count", metavar="N", type=COUNT, default=10_000, show_default=True, help="Requests in all.")
@click.option(
    "--size", metavar="BYTES", type=click.IntRange(min=0), default=64, show_default=True, help="Size of a body."
)
@click.option(
    "--service", callback=service_name, help="Measure this one. By default bench starts an echo worker of its own."
)
@timeout_option
@retries_option(0)
@json_option
def bench(
    connect: Sequence[str],
    clients: int,
    in_flight: int,
    count: int,
    size: int,
    service: str | None,
    timeout: float,
    retries: int,
    as_json: bool,
) -> None:
    """Measure requests a second and their latency through a running broker.

    The clients share this one process, so a fast broker is faster than what they can ask for.
    """
    from zpatterns.cli.bench import measure, print_result

    log_errors_only()
    result = measure(
        check_endpoints(connect),
        clients=clients,
        in_flight=in_flight,
        count=count,
        size=size,
        service=service,
        timeout=timeout,
        retries=retries,
        progress=not as_json or sys.stderr.isatty(),
    )
    print_result(result, as_json)
    if result.failed:
        raise Failure(f"{result.failed} of {count} requests failed; the first: {result.first_failure}")
