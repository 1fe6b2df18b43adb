"""``zpatterns demo``: the main job in one go, and a worker killed in the midst of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from zpatterns.cli.base import COUNT, EXIT_FAILED, Command, json_option, log_errors_only

if TYPE_CHECKING:
    from zpatterns.cli.demonstration import DemoResult


@click.command(cls=Command)
@click.option("--requests", metavar="N", type=COUNT, default=1000, show_default=True, help="Requests to send.")
@click.option(
    "--workers",
    metavar="N",
    type=click.IntRange(min=2, max=50),
    default=3,
    show_default=True,
    help="Worker processes to start.",
)
@json_option
def demo(requests: int, workers: int, as_json: bool) -> None:
    """Kill a worker in mid-request, and see that nothing is lost.

    Starts a broker, worker processes and clients on real sockets of this machine, sends requests, and kills one
    worker with SIGKILL while it holds one of them. Exits 1 if any request was lost.
    """
    from zpatterns.cli.demonstration import CLIENTS, demonstrate

    log_errors_only()
    say: Callable[[str], None] = (lambda _line: None) if as_json else click.echo
    say(f"A Majordomo broker, {workers} worker processes, {CLIENTS} clients, and one SIGKILL.\n")
    result = demonstrate(requests, workers, say)
    if as_json:
        click.echo(json.dumps(asdict(result)))
    else:
        _print_summary(result)
    if not result.good:
        raise SystemExit(EXIT_FAILED)


def _print_summary(result: DemoResult) -> None:
    click.echo()
    click.echo(f"  sent      {result.sent}")
    click.echo(f"  answered  {result.answered}")
    click.echo(f"  lost      {result.lost}")
    for loss in result.losses:
        click.echo(f"            {loss}")
    if result.killed is None:
        click.echo("  killed    nobody: no worker came to hold the request that was meant to be cut short")
        return
    click.echo(f"  killed    worker {result.killed}, by SIGKILL, while it held request {result.killed_while_holding}")
    if result.recovery is not None:
        click.echo(
            f"  recovery  {result.recovery:.2f} s, from the kill until worker {result.answered_by} "
            f"had answered request {result.killed_while_holding}"
        )
