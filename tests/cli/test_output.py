"""What commands print."""

from __future__ import annotations

import pytest

from zpatterns.cli.output import frame_to_json, print_table


@pytest.mark.parametrize(
    ("frame", "shown"),
    [(b"", ""), (b"text", "text"), ("größer".encode(), "größer"), (b"\x00", "\x00"), (b"\xff\x00", {"base64": "/wA="})],
)
def test_a_frame_is_a_string_if_it_is_one(frame, shown):
    assert frame_to_json(frame) == shown


def test_a_table_has_its_columns_aligned(capsys):
    print_table(("service", "workers"), [["echo", 2], ["a-longer-name", 10]])
    assert capsys.readouterr().out.splitlines() == [
        "SERVICE        WORKERS",
        "echo                 2",
        "a-longer-name       10",
    ]


def test_a_table_without_rows_is_its_head(capsys):
    print_table(("service", "workers"), [])
    assert capsys.readouterr().out == "SERVICE  WORKERS\n"
