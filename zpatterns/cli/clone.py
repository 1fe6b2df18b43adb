"""``zpatterns clone``: a map that a server shares with its clients."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zpatterns.cli.base import (
    COUNT,
    SECONDS,
    Command,
    Failure,
    Group,
    arguments_checked,
    check_endpoints,
    json_option,
    log_errors_only,
    timeout_option,
)
from zpatterns.cli.clone_server import DEFAULT_CLONE_ENDPOINT, server
from zpatterns.cli.output import body_frames, frame_to_json, print_reply

if TYPE_CHECKING:
    from zpatterns.clone import Change, Clone, CloneState

F = TypeVar("F", bound=Callable[..., Any])


@click.group(cls=Group, help="Clone: a map that a server shares with its clients (RFC 12).")
def clone() -> None:
    pass


clone.add_command(server)


def client_options(function: F) -> F:
    """``--connect``, ``--timeout``, ``--heartbeat-interval`` and ``--liveness`` of all that has a copy of the map."""
    for option in (
        click.option(
            "--liveness",
            metavar="N",
            type=COUNT,
            default=5,
            show_default=True,
            help="Heartbeat intervals of silence after which the next server is turned to.",
        ),
        click.option(
            "--heartbeat-interval",
            metavar="S",
            type=SECONDS,
            default=1.0,
            show_default=True,
            help="Seconds between heartbeats; give the servers the same.",
        ),
        timeout_option,
        click.option(
            "--connect",
            metavar="E",
            multiple=True,
            default=[DEFAULT_CLONE_ENDPOINT],
            show_default=True,
            help="Endpoint of the server, the first of its three ports; repeat it for both of a pair.",
        ),
    ):
        function = option(function)
    return function


def _opened(connect: Sequence[str], subtree: str, **options: Any) -> Clone:
    """A client, not connected yet. Errors: UsageError, EndpointError."""
    from zpatterns.clone import Clone

    log_errors_only()
    endpoints = check_endpoints(connect)
    with arguments_checked():
        return Clone(endpoints, subtree=subtree, **options)


def _around(key: str) -> str:
    """The smallest subtree that `key` lies in: no more of the map need be fetched for it."""
    return key[: key.rfind("/") + 1] if key[:1] == "/" and key.count("/") > 1 and key[1] != "/" else ""


@clone.command(cls=Command)
@click.argument("key")
@client_options
@json_option
def get(key: str, connect: Sequence[str], as_json: bool, **options: Any) -> None:
    """Print the value of KEY; exit code 1 if it is not there.

    With --json an object: key, value, and the sequence under which it was last changed, for 'set --if-sequence'. A
    value is a string, or, where it is not UTF-8, {"base64": "..."}.
    """
    with _opened(connect, _around(key), **options) as client:
        value, sequence = client.get(key), client.sequence(key)
    if value is None:
        raise Failure(f"there is no key {key!r}")
    if as_json:
        _print_json({"key": key, "value": frame_to_json(value), "sequence": sequence})
    else:
        print_reply([value], False)


@clone.command("set", cls=Command, short_help="Set KEY to VALUE, or to standard input.")
@click.argument("key")
@click.argument("value", required=False)
@click.option("--ttl", metavar="S", type=SECONDS, help="Seconds after which the server deletes it.")
@click.option(
    "--if-sequence",
    metavar="N",
    type=click.IntRange(min=0),
    help="Only if the key was last changed under this sequence; 0: only if it is not there.",
)
@client_options
def set_key(
    key: str,
    value: str | None,
    connect: Sequence[str],
    timeout: float,
    ttl: float | None,
    if_sequence: int | None,
    **options: Any,
) -> None:
    """Set KEY to VALUE, or without VALUE to standard input, and print the sequence of the change.

    It returns once the server has acknowledged it. Exit code 1 if the server refuses, or if the key is not as
    --if-sequence says.
    """
    [body] = body_frames(() if value is None else (value,))
    begin = time.monotonic()
    with _opened(connect, _around(key), timeout=timeout, **options) as client, arguments_checked():
        left = max(0.001, timeout - (time.monotonic() - begin))
        if if_sequence is None:
            sequence = client.set(key, body, ttl, timeout=left)
        else:
            sequence = client.compare_and_set(key, body, if_sequence, ttl, timeout=left)
    click.echo(sequence)


@clone.command(cls=Command, short_help="Delete KEY, whether or not it is there.")
@click.argument("key")
@client_options
def delete(key: str, connect: Sequence[str], timeout: float, **options: Any) -> None:
    """Delete KEY, whether or not it is there, and print the sequence of the change."""
    begin = time.monotonic()
    with _opened(connect, _around(key), timeout=timeout, **options) as client, arguments_checked():
        sequence = client.delete(key, timeout=max(0.001, timeout - (time.monotonic() - begin)))
    click.echo(sequence)


@clone.command(cls=Command)
@click.argument("subtree", default="")
@client_options
@json_option
def dump(subtree: str, connect: Sequence[str], as_json: bool, **options: Any) -> None:
    """Print all keys and values, or those of SUBTREE, such as /a/b/.

    In the order of the keys, each as key, tab and value. With --json one object; a value is a string, or, where it is
    not UTF-8, {"base64": "..."}.
    """
    with _opened(connect, subtree, **options) as client:
        pairs = sorted(client.items())
    if as_json:
        _print_json({key: frame_to_json(value) for key, value in pairs})
    else:
        click.echo(b"".join(b"%b\t%b\n" % (key.encode(), value) for key, value in pairs), nl=False)


@clone.command(cls=Command, short_help="Print changes, of all keys or of SUBTREE, as they come.")
@click.argument("subtree", default="")
@client_options
@json_option
def watch(subtree: str, connect: Sequence[str], as_json: bool, **options: Any) -> None:
    """Print what changes, or what changes in SUBTREE, such as /a/b/, until SIGINT.

    One line for each change, as it comes: 'set', key and value, or 'delete' and key, with tabs between them. With
    --json an object a line: key, old, new, sequence; old or new is null where there is none. Standard error tells when
    the map is followed ('connected'), when it may be stale ('suspended'), and when no server is left ('lost').
    """

    lock = threading.Lock()
    early: list[CloneState] = []
    is_watching = False

    def tell(state: CloneState) -> None:
        # Who reads 'connected' may count on it that what changes from then on is printed.
        with lock:
            if is_watching:
                click.echo(state.value, err=True)
            else:
                early.append(state)

    with _opened(connect, subtree, on_state=tell, **options) as client, client.watch() as changes:
        with lock:
            is_watching = True
            for state in early:
                click.echo(state.value, err=True)
        try:
            for change in changes:
                if as_json:
                    _print_json(_change_to_json(change))
                else:
                    click.echo(_change_to_line(change), nl=False)
                sys.stdout.flush()
        finally:
            is_watching = False  # it is closed now: no server is 'lost'


def _change_to_json(change: Change) -> dict[str, Any]:
    old, new = (None if value is None else frame_to_json(value) for value in (change.old, change.new))
    return {"key": change.key, "old": old, "new": new, "sequence": change.sequence}


def _change_to_line(change: Change) -> bytes:
    key = change.key.encode()
    return b"delete\t%b\n" % key if change.new is None else b"set\t%b\t%b\n" % (key, change.new)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


@clone.command(cls=Command, short_help="Measure sets a second, and latency.")
@click.option("--clients", metavar="N", type=COUNT, default=1, show_default=True, help="Clients that set at once.")
@click.option("--in-flight", metavar="N", type=COUNT, default=64, show_default=True, help="Open sets of each client.")
@click.option("--count", metavar="N", type=COUNT, default=10_000, show_default=True, help="Sets in all.")
@click.option("--size", metavar="BYTES", type=COUNT, default=64, show_default=True, help="Size of a value.")
@client_options
@json_option
def bench(connect: Sequence[str], as_json: bool, **options: Any) -> None:
    """Measure acknowledged sets a second, and their latency, at a running server.

    It sets keys in a subtree of its own, and deletes them in the end. The clients share this one process, so a fast
    server is faster than what they can ask for.
    """
    from zpatterns.cli.clone_bench import measure, print_result

    log_errors_only()
    with arguments_checked():
        result = measure(check_endpoints(connect), progress=not as_json or sys.stderr.isatty(), **options)
    print_result(result, as_json)
    if result.failed:
        raise Failure(f"{result.failed} of {result.count} sets failed; the first: {result.first_failure}")
