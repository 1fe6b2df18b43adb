"""Frames of Majordomo: constants by the RFCs' tables, names, dialects, replies and errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpatterns.mdp import wire

FRAMES = st.lists(
    st.binary(max_size=8) | st.sampled_from([b"", b"MDPW01", b"MDPW02", b"MDPC01", b"MDPC02"]), max_size=8
)
BODY = st.lists(st.binary(max_size=20), min_size=1, max_size=4)
# Not `st.text`: to know every character by its kind takes it seconds.
SCALARS = st.integers(0, 0xD7FF) | st.integers(0xE000, 0x10FFFF)


def test_headers_are_six_bytes_as_in_the_rfcs():
    assert (wire.CLIENT_1, wire.WORKER_1) == (b"MDPC01", b"MDPW01")
    assert (wire.CLIENT_2, wire.WORKER_2) == (b"MDPC02", b"MDPW02")


def test_commands_have_the_numbers_of_the_rfcs():
    """7/MDP and 18/MDP number them differently."""
    old, new = wire.WORKER_DIALECTS["0.1"], wire.WORKER_DIALECTS["0.2"]
    assert [old.ready, old.request, old.final, old.heartbeat, old.disconnect] == [b"\1", b"\2", b"\3", b"\4", b"\5"]
    assert old.partial is None
    assert [new.ready, new.request, new.partial, new.final] == [b"\1", b"\2", b"\3", b"\4"]
    assert [new.heartbeat, new.disconnect] == [b"\5", b"\6"]
    assert (wire.CLIENT_REQUEST_2, wire.CLIENT_PARTIAL_2, wire.CLIENT_FINAL_2) == (b"\1", b"\2", b"\3")


# Names.


@pytest.mark.parametrize("name", [b"a", b"echo", b"a.b-c_d/e", b"with space", "größe".encode(), b"x" * 255, b"mmi.x"])
def test_service_names(name):
    assert wire.is_service_name(name)


@pytest.mark.parametrize(
    "name", [b"", b"x" * 256, b"\0", b"a\0b", b"a\n", b"\x7f", b"\xff", b"\xc3", "a\u2028b".encode(), b"\x1b[31m"]
)
def test_what_cannot_name_a_service(name):
    assert not wire.is_service_name(name)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_name_or_not_but_never_an_error(name):
    if wire.is_service_name(name):
        assert name.decode().isprintable()


# Dialects.


@pytest.mark.parametrize("version", ["0.1", "0.2"])
@given(command=st.binary(max_size=2), rest=st.lists(st.binary(max_size=8), max_size=4))
def test_what_a_dialect_builds_it_parses(version, command, rest):
    dialect = wire.WORKER_DIALECTS[version]
    assert dialect.parse(dialect.build(command, *rest)) == (command, rest)


@pytest.mark.parametrize(("version", "other"), [("0.1", "0.2"), ("0.2", "0.1")])
@given(command=st.binary(max_size=2), rest=st.lists(st.binary(max_size=8), max_size=4))
def test_no_dialect_parses_the_others_messages(version, other, command, rest):
    assert wire.WORKER_DIALECTS[version].parse(wire.WORKER_DIALECTS[other].build(command, *rest)) is None


@pytest.mark.parametrize("version", ["0.1", "0.2"])
@given(frames=FRAMES)
def test_a_dialect_parses_or_declines_anything(version, frames):
    parsed = wire.WORKER_DIALECTS[version].parse(list(frames))
    if parsed is not None:
        assert wire.WORKER_DIALECTS[version].build(parsed[0], *parsed[1]) == frames


# Requests and replies of clients.


def test_requests_of_both_versions():
    assert wire.client_request("0.1", b"echo", [b"a", b""]) == [b"", b"MDPC01", b"echo", b"a", b""]
    assert wire.client_request("0.2", b"echo", [b"a", b""]) == [b"MDPC02", b"\x01", b"echo", b"a", b""]


def test_replies_of_both_versions():
    assert wire.parse_client_reply("0.1", b"echo", [b"", b"MDPC01", b"echo", b"a", b"b"]) == ([b"a", b"b"], True)
    assert wire.parse_client_reply("0.2", b"echo", [b"MDPC02", b"\x02", b"echo", b"a"]) == ([b"a"], False)
    assert wire.parse_client_reply("0.2", b"echo", [b"MDPC02", b"\x03", b"echo", b"a"]) == ([b"a"], True)


@pytest.mark.parametrize("version", ["0.1", "0.2"])
@given(frames=FRAMES)
def test_a_reply_is_parsed_or_declined_whatever_it_is(version, frames):
    reply = wire.parse_client_reply(version, b"echo", frames)
    if reply is not None:
        assert frames[2] == b"echo"
        assert reply[0] == frames[3:] != []


# Errors.


@given(code=st.lists(st.integers(0, 127), max_size=20), text=st.lists(SCALARS, max_size=50))
def test_errors_are_read_as_they_were_written(code, text):
    code, text = ("".join(map(chr, points)) for points in (code, text))
    body = wire.error_body(code.encode(), text)
    assert len(body) == 3
    assert body[0] == b"\x00ZPATTERNS-ERROR\x00"
    assert wire.parse_error(body) == (code, text)


def test_a_text_that_utf_8_cannot_hold_is_still_sent():
    assert wire.parse_error(wire.error_body(b"E", "\ud800")) == ("E", "?")


@given(BODY.filter(lambda body: body[0] != b"\x00ZPATTERNS-ERROR\x00"))  # it reads our constants, and tries them
def test_a_body_without_the_marker_is_no_error(body):
    assert wire.parse_error(body) is None


@given(code=st.binary(max_size=20), text=st.binary(max_size=20))
def test_an_error_of_odd_bytes_is_still_read(code, text):
    parsed = wire.parse_error([b"\x00ZPATTERNS-ERROR\x00", code, text])
    assert parsed is not None
    assert all(isinstance(part, str) for part in parsed)


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_an_error_has_three_frames(frames):
    assert wire.parse_error([b"\x00ZPATTERNS-ERROR\x00", b"E", b"text", b"more"][:frames]) is None
