"""Frames of 12/CHP and of our extension, byte for byte; and that no frames make a parser raise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpatterns.clone import wire

UUID = bytes(range(16))
FRAME = st.binary(max_size=20) | st.sampled_from(
    [b"", b"ICANHAZ?", b"KTHXBAI", b"HUGZ", b"ZPSET", b"ZPACK", b"ZPLAST", b"ZPHAVE", UUID, bytes(8), b"200", b"/a/b/"]
)
FRAMES = st.lists(FRAME, max_size=7)
SEQUENCES = st.integers(0, 2**63 - 1)
PARSERS = [
    wire.parse_key_value,
    wire.parse_icanhaz,
    wire.parse_zpset,
    wire.parse_zpack,
    wire.parse_zplast,
    wire.parse_zplast_answer,
    wire.parse_zphave,
]


# Byte for byte.


def test_the_commands_of_the_rfc():
    """12/CHP, in the order of its text."""
    assert wire.icanhaz(b"/client/") == [b"ICANHAZ?", b"/client/"]
    pair = [b"/client/1", b"\0\0\0\0\0\0\1\2", UUID, b"ttl=5\n", b"value"]
    assert wire.key_value(b"/client/1", 258, UUID, b"ttl=5\n", b"value") == pair
    assert wire.kthxbai(258, b"/client/") == [b"KTHXBAI", b"\0\0\0\0\0\0\1\2", b"", b"", b"/client/"]
    assert wire.hugz() == [b"HUGZ", b"\0\0\0\0\0\0\0\0", b"", b"", b""]


def test_the_commands_of_our_extension():
    assert wire.zpset(UUID, b"/a", b"v") == [b"ZPSET", UUID, b"/a", b"", b"v"]
    properties = b"ttl=3\nif-seq=7\n"
    assert wire.zpset(UUID, b"/a", b"v", ttl=2.5, if_sequence=7) == [b"ZPSET", UUID, b"/a", properties, b"v"]
    assert wire.zpset(UUID, b"/a", b"", if_sequence=0) == [b"ZPSET", UUID, b"/a", b"if-seq=0\n", b""]
    assert wire.zpack(UUID, 200, 258) == [b"ZPACK", UUID, b"200", b"\0\0\0\0\0\0\1\2"]
    assert wire.zplast(b"/a/") == [b"ZPLAST", b"/a/"]
    assert wire.zplast_answer(b"/a/", 258) == [b"ZPLAST", b"/a/", b"\0\0\0\0\0\0\1\2"]
    assert wire.zphave(258, b"life") == [b"ZPHAVE", b"\0\0\0\0\0\0\1\2", b"life"]
    assert (wire.OK, wire.CONFLICT, wire.TOO_LARGE, wire.NOT_ACTIVE) == (200, 409, 413, 503)


def test_the_properties_of_our_extension():
    assert wire.status_property(b"0123abcd", 9) == b"zp=1\ninstance=0123abcd\nseq=9\n"
    assert wire.previous_property([7, 5, 0]) == b"prev=7,5,0\n"
    assert wire.ttl_property(4.01) == b"ttl=5\n"
    assert wire.ttl_property(4.0) == b"ttl=4\n"


# What is built is parsed.


@given(key=st.binary(min_size=1, max_size=9), sequence=SEQUENCES, uuid=st.sampled_from([b"", UUID]), body=st.binary())
def test_a_pair_comes_back(key, sequence, uuid, body):
    frames = wire.key_value(key, sequence, uuid, b"a=b\n", body)
    assert wire.parse_key_value(frames) == (key, sequence, uuid, b"a=b\n", body)


@given(st.integers(0, 10**6), st.none() | SEQUENCES, st.binary())
def test_a_set_comes_back(ttl, if_sequence, body):
    frames = wire.zpset(UUID, b"/k", body, ttl=ttl, if_sequence=if_sequence)
    assert wire.parse_zpset(frames) == (UUID, b"/k", ttl, if_sequence, b"", body)


@pytest.mark.parametrize("code", [200, 409, 413, 503])
def test_answers_come_back(code):
    assert wire.parse_zpack(wire.zpack(UUID, code, 5)) == (UUID, code, 5)
    assert wire.parse_zplast(wire.zplast(b"/a/")) == b"/a/"
    assert wire.parse_zplast_answer(wire.zplast_answer(b"", 5)) == (b"", 5)
    assert wire.parse_zphave(wire.zphave(5, b"life")) == (5, b"life")
    assert wire.parse_icanhaz(wire.icanhaz(b"")) == b""


# What is not of the shape.


@given(FRAMES)
def test_no_frames_make_a_parser_raise(frames):
    for parse in PARSERS:
        before = list(frames)
        parse(frames)
        assert frames == before


@given(st.binary())
def test_no_properties_make_a_reader_raise(lines):
    properties = wire.parse_properties(lines)
    wire.ttl_of(properties)
    wire.status_of(properties)
    wire.previous_of(properties, b"/a/")
    wire.foreign_properties(properties)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"k"],
        [b"k", bytes(8), b"", b""],
        [b"k", bytes(8), b"", b"", b"", b""],
        [b"k", bytes(7), b"", b"", b""],
        [b"k", bytes(9), b"", b"", b""],
        [b"k", bytes(8), bytes(15), b"", b""],
        [b"", bytes(8), b"", b"", b""],
    ],
)
def test_what_is_no_pair(frames):
    assert wire.parse_key_value(frames) is None


@pytest.mark.parametrize(
    ("parse", "frames"),
    [
        (wire.parse_icanhaz, [b"ICANHAZ?"]),
        (wire.parse_icanhaz, [b"ICANHAZ", b""]),
        (wire.parse_icanhaz, [b"ICANHAZ?", b"", b""]),
        (wire.parse_icanhaz, [b"ICANHAZ?", b"x" * 256]),
        (wire.parse_zpset, [b"ZPSET", bytes(15), b"k", b"", b""]),
        (wire.parse_zpset, [b"ZPSET", UUID, b"k", b""]),
        (wire.parse_zpset, [b"ZPACK", UUID, b"k", b"", b""]),
        (wire.parse_zpack, [b"ZPACK", UUID, b"299", bytes(8)]),
        (wire.parse_zpack, [b"ZPACK", UUID, b"", bytes(8)]),
        (wire.parse_zpack, [b"ZPACK", UUID, b"200", bytes(7)]),
        (wire.parse_zplast, [b"ZPLAST", b"no-subtree"]),
        (wire.parse_zplast_answer, [b"ZPLAST", b"", b"5"]),
        (wire.parse_zphave, [b"ZPHAVE", b"", b"life"]),
        (wire.parse_zphave, [b"ZPHAVE", bytes(8)]),
        (wire.parse_zphave, [b"ZPHAVE", bytes(8), b""]),
    ],
)
def test_what_is_no_command(parse, frames):
    assert parse(frames) is None


@pytest.mark.parametrize(
    "value", [b"", b"x", b"-1", b"+1", b" 1", b"1_0", b"9" * 20, b"9223372036854775808", "१".encode()]
)
def test_a_set_whose_comparison_cannot_be_read_is_none(value):
    """Taken without it, it would overwrite what it was to spare."""
    assert wire.parse_zpset([b"ZPSET", UUID, b"k", b"if-seq=%b\n" % value, b"v"]) is None


# Properties.


def test_properties_are_lines_of_which_the_first_of_a_name_counts():
    """12/CHP: zero or more instances of name=value<newline>; what else comes is read as the Guide's reads it."""
    assert wire.parse_properties(b"") == {}
    assert wire.parse_properties(b"a=1\nb=x=y\nc=\na=2\nnothing\n=v\nttl=5") == {
        b"a": b"1",
        b"b": b"x=y",
        b"c": b"",
        b"": b"v",
    }


def test_of_many_properties_no_more_are_read_than_a_set_may_have_and_a_server_adds():
    """A frame of a few MB with nothing but newlines in it took seconds, in which a server did nothing else."""
    lines = b"".join(b"%d=\n" % number for number in range(5000))
    assert len(wire.parse_properties(lines)) == 1008
    set_of = {count: b"".join(b"%d=\n" % number for number in range(count)) for count in (1000, 1001)}
    assert wire.parse_zpset([b"ZPSET", UUID, b"k", set_of[1000], b"v"]) is not None
    assert wire.parse_zpset([b"ZPSET", UUID, b"k", set_of[1001], b"v"]) is None


def test_a_property_without_its_newline_is_ignored():
    """As by the Guide's kvmsg."""
    assert wire.ttl_of(wire.parse_properties(b"ttl=5")) == 0
    assert wire.ttl_of(wire.parse_properties(b"ttl=5\n")) == 5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"0", 0),
        (b"7", 7),
        (b"0.2", 1),
        (b"7.0", 7),
        (b"7.", 7),
        (b"7.01", 8),
        (b"", 0),
        (b"x", 0),
        (b"-3", 0),
        (b"1e3", 0),
    ],
)
def test_ttl(text, seconds):
    assert wire.ttl_of({b"ttl": text}) == seconds


def test_what_others_put_into_properties_is_kept_and_ours_is_not():
    """A client that says zp=1 or prev=... speaks for the server to nobody."""
    lines = b"colour=red\nttl=5\nif-seq=1\nprev=1\nzp=1\ninstance=x\nseq=9\nsize=2\n"
    assert wire.foreign_properties(wire.parse_properties(lines)) == b"colour=red\nsize=2\n"
    assert wire.parse_zpset([b"ZPSET", UUID, b"k", lines, b"v"]) == (UUID, b"k", 5, 1, b"colour=red\nsize=2\n", b"v")


def test_only_a_server_that_says_so_is_ours():
    def status(lines: bytes) -> wire.Status | None:
        return wire.status_of(wire.parse_properties(lines))

    assert status(wire.status_property(b"abc", 9)) == (b"abc", 9)
    assert status(b"") is None
    assert status(b"zp=2\ninstance=abc\nseq=9\n") is None
    assert status(b"zp=1\nseq=9\n") is None
    assert status(b"zp=1\ninstance=abc\nseq=x\n") is None


def test_what_came_before_under_each_subtree():
    properties = wire.parse_properties(b"prev=9,7,0\n")
    assert [wire.previous_of(properties, subtree) for subtree in (b"", b"/x/", b"/x/y/", b"/x/y/z/")] == [9, 7, 0, None]
    assert wire.previous_of({}, b"") is None
    assert wire.previous_of({b"prev": b"9,x"}, b"/x/") is None


# Keys.


@pytest.mark.parametrize(
    ("key", "subtrees"),
    [
        (b"k", [b""]),
        (b"a/b", [b""]),
        (b"/k", [b""]),
        (b"/x/k", [b"", b"/x/"]),
        (b"/x/", [b"", b"/x/"]),
        (b"/x/y/z", [b"", b"/x/", b"/x/y/"]),
        (b"//k", [b""]),
        (b"/x//k", [b"", b"/x/", b"/x//"]),
    ],
)
def test_the_subtrees_of_a_key(key, subtrees):
    assert wire.prefixes(key) == subtrees
    assert all(wire.is_subtree(subtree) for subtree in subtrees)


@given(st.text(alphabet="/ab", min_size=1, max_size=12))
def test_the_subtrees_of_a_key_are_all_that_it_begins_with(text):
    key = text.encode()
    every = [key[:end] for end in range(len(key) + 1) if wire.is_subtree(key[:end])]
    assert wire.prefixes(key) == every


@pytest.mark.parametrize("key", [b"k", b"/", b"x" * 255, "größe".encode(), b"HUGZ2", b"ICANHAZ?"])
def test_keys(key):
    assert wire.is_key(key)


@pytest.mark.parametrize("key", [b"", b"x" * 256, b"a\0b", b"HUGZ", b"KTHXBAI", b"\xff"])
def test_what_is_no_key(key):
    assert not wire.is_key(key)


@pytest.mark.parametrize("subtree", [b"/", b"//", b"a/", b"/a", b"/" + b"a" * 255 + b"/", b"/\xff/", b"/\0/"])
def test_what_is_no_subtree(subtree):
    assert not wire.is_subtree(subtree)
