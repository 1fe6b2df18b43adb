"""What commands read and print: bodies and replies as bytes, tables for people, JSON for programs."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import click


def frame_to_json(frame: bytes) -> str | dict[str, str]:
    """A frame as a string if it is UTF-8, else as ``{"base64": "..."}``."""
    try:
        return frame.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(frame).decode("ascii")}


def body_frames(arguments: Sequence[str]) -> list[bytes]:
    """The frames of a request: each argument is one; without any, standard input is the one frame."""
    if arguments:
        return [os.fsencode(argument) for argument in arguments]
    if sys.stdin.isatty():
        click.echo("Type the body, and end it with Ctrl-D:", err=True)
    return [sys.stdin.buffer.read()]


def print_reply(frames: Sequence[bytes], as_json: bool) -> None:
    """Each frame as it is, ended with a newline; or the list of :func:`frame_to_json`."""
    if as_json:
        click.echo(json.dumps([frame_to_json(frame) for frame in frames], ensure_ascii=False))
    else:
        click.echo(b"".join(frame + b"\n" for frame in frames), nl=False)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print aligned columns under their names; numbers stand to the right."""
    right = [all(isinstance(row[index], int | float) for row in rows) for index in range(len(columns))]
    cells = [[name.upper() for name in columns], *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    for row in cells:
        parts = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ]
        click.echo("  ".join(parts).rstrip())
