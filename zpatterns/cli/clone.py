"""``zpatterns clone``: a map that a server shares with its clients."""

from __future__ import annotations

import click

from zpatterns.cli.base import Group
from zpatterns.cli.clone_server import server


@click.group(cls=Group, help="Clone: a map that a server shares with its clients (RFC 12).")
def clone() -> None:
    pass


clone.add_command(server)
