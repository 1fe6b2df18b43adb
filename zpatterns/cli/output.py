"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import click


def frame_to_json(frame: bytes) -> str | dict[str, str]:
    """A frame as a string if it is UTF-8, else as ``{"base64": "..."}``."""
    try:
        return frame.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(frame).decode("ascii")}


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
