"""Frames of 12/CHP, and of our extension to it that answers sets and shows gaps. Pure.

Frames are given as the peer's own socket sends and receives them; a ROUTER sees the routing id before them. What is
parsed here may come from anybody: each ``parse_...`` returns None for a message that is not exactly what it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import Struct
from typing import NamedTuple, TypeAlias

from zpatterns.core import Frames

ICANHAZ = b"ICANHAZ?"
KTHXBAI = b"KTHXBAI"
HUGZ = b"HUGZ"

# Our extension, on the DEALER to the snapshot port of a server that said ``zp=1``.
ZPSET = b"ZPSET"
ZPACK = b"ZPACK"
ZPLAST = b"ZPLAST"
ZPHAVE = b"ZPHAVE"

OK = 200
CONFLICT = 409
"""`if-seq` is not the key's sequence; the answer holds the one it has, 0 where there is no such key."""
TOO_LARGE = 413
"""The key, the value or the map would pass a limit of the server."""
NOT_ACTIVE = 503
CODES = frozenset({OK, CONFLICT, TOO_LARGE, NOT_ACTIVE})

KEY_MAX = 255
"""Bytes of a key that the Guide's C peers can hold."""
UUID_SIZE = 16
SEQUENCE_MAX = 2**63 - 1
"""C peers keep sequences in a signed integer of 64 bits."""
DIGITS_MAX = 19
PREFIXES_MAX = 256
"""Numbers in ``prev`` that are read; no key of `KEY_MAX` bytes has more prefixes."""

LINES_MAX = 1000
"""Properties that a set may have: to read them takes time, and a frame of nothing but newlines could have millions."""

_LINES_READ = LINES_MAX + 8  # a server adds a few of its own

TTL_MAX = 2**31 - 1
"""Seconds; more is taken for so many."""

RESERVED_PROPERTIES = frozenset({b"ttl", b"if-seq", b"prev", b"zp", b"instance", b"seq"})
"""What has a meaning in CHP or in our extension; a server passes on all others as they came."""

_SEQUENCE = Struct(">Q")
Properties: TypeAlias = Mapping[bytes, bytes]

_FOR_EVER = b"ttl=0\n"
_NO_PROPERTIES: Properties = {}

pack_sequence = _SEQUENCE.pack


class KeyValue(NamedTuple):
    """A KVSYNC, KVPUB or KVSET; or, by its key, a KTHXBAI or HUGZ. `uuid` is empty or of 16 bytes."""

    key: bytes
    sequence: int
    uuid: bytes
    properties: bytes
    body: bytes


class Set(NamedTuple):
    """A ZPSET. `ttl`: seconds, 0 for none. `if_sequence`: None where nothing is compared."""

    uuid: bytes
    key: bytes
    ttl: int
    if_sequence: int | None
    properties: bytes
    body: bytes


class Ack(NamedTuple):
    """A ZPACK: code 200 with the update's sequence, 409 with the key's, or another with 0."""

    uuid: bytes
    code: int
    sequence: int


class Status(NamedTuple):
    """What a server of ours says of itself in KTHXBAI and HUGZ: its life, and the last sequence it has published."""

    instance: bytes
    last: int


# Keys and subtrees.


def is_key(key: bytes) -> bool:
    """Whether `key` may name a pair: 1 to 255 bytes of UTF-8 without NUL, and no name of a command."""
    if not 0 < len(key) <= KEY_MAX or b"\0" in key or key in (HUGZ, KTHXBAI):
        return False
    return key.isascii() or _is_utf8(key)


def is_subtree(subtree: bytes) -> bool:
    """Whether `subtree` is one: empty for the whole map, or ``/a/b/`` (12/CHP, "State Synchronization")."""
    if not subtree:
        return True
    if len(subtree) > KEY_MAX or subtree[:1] != b"/" or subtree[-1:] != b"/" or len(subtree) < 3 or b"\0" in subtree:
        return False
    return subtree.isascii() or _is_utf8(subtree)


def prefixes(key: bytes) -> list[bytes]:
    """The subtrees that `key` lies in, the whole map first: ``["", "/x/", "/x/y/"]`` for ``/x/y/z``."""
    result = [b""]
    if key[:1] == b"/":
        at = key.find(b"/", 1)
        while at > 0:
            if at > 1:  # "//" has no segment, and nobody can ask for it
                result.append(key[: at + 1])
            at = key.find(b"/", at + 1)
    return result


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


# Properties.


def parse_properties(frame: bytes) -> Mapping[bytes, bytes]:
    """Names and values of ``name=value`` lines; the first of a name counts, as with the Guide's.

    A line without its newline is ignored (the Guide's does so too), and so is one without ``=``, or beyond those that
    a set of ours may have and a server adds.
    """
    if not frame:
        return _NO_PROPERTIES
    result: dict[bytes, bytes] = {}
    for line in frame.split(b"\n", _LINES_READ)[:-1]:
        name, separator, value = line.partition(b"=")
        if separator and name not in result:
            result[name] = value
    return result


def has_too_many(properties: bytes) -> bool:
    """Whether these are more lines than a set may have."""
    return len(properties) > LINES_MAX and len(properties.split(b"\n", LINES_MAX + 1)) > LINES_MAX + 1


def build_properties(properties: Iterable[tuple[bytes, bytes]]) -> bytes:
    """``name=value`` lines. The caller sees to it that no name holds ``=`` or a newline, and no value a newline."""
    return b"".join(b"%b=%b\n" % pair for pair in properties)


def foreign_properties(properties: Mapping[bytes, bytes]) -> bytes:
    """Those that neither CHP nor our extension knows, as lines."""
    return build_properties(pair for pair in properties.items() if pair[0] not in RESERVED_PROPERTIES)


def parse_number(text: bytes | None) -> int | None:
    """A decimal number that fits a sequence; None for anything else, a sign or white space included."""
    if not text or len(text) > DIGITS_MAX or not text.isdigit():
        return None
    number = int(text)
    return number if number <= SEQUENCE_MAX else None


def ttl_of(properties: Mapping[bytes, bytes]) -> int:
    """Seconds of life, a fraction rounded up; 0, which is for ever, where there is no ``ttl`` or it is no number.

    From the Guide's server in a snapshot, this is a time of the wall clock in milliseconds: see wire.md of the docs.
    """
    text = properties.get(b"ttl")
    if text is None:
        return 0
    whole, point, fraction = text.partition(b".")
    number = parse_number(whole)
    if number is None:
        return 0
    return number + 1 if point and fraction.isdigit() and fraction.strip(b"0") else number


def ttl_property(seconds: float) -> bytes:
    """The line of a ``ttl``, in whole seconds, rounded up."""
    return b"ttl=%d\n" % -int(-seconds // 1)


def for_ever(properties: bytes) -> bytes:
    """The properties of a pair without a ttl. The Guide's server, should it follow us, takes any for one not told."""
    return _FOR_EVER + properties if properties else _FOR_EVER


def status_property(instance: bytes, last: int) -> bytes:
    """What a server of ours puts into KTHXBAI and HUGZ; `instance`: ASCII, new at each start and promotion."""
    return b"zp=1\ninstance=%b\nseq=%d\n" % (instance, last)


def status_of(properties: Mapping[bytes, bytes]) -> Status | None:
    """What :func:`status_property` wrote; None from a foreign server."""
    if properties.get(b"zp") != b"1":
        return None
    instance, last = properties.get(b"instance"), parse_number(properties.get(b"seq"))
    return None if not instance or last is None else Status(instance, last)


def previous_property(sequences: Iterable[int]) -> bytes:
    """The line of a KVPUB that tells the sequence before it under each of :func:`prefixes`."""
    return b"prev=%b\n" % b",".join([b"%d" % sequence for sequence in sequences])


def previous_of(properties: Mapping[bytes, bytes], subtree: bytes) -> int | None:
    """The sequence published before this one in `subtree`, in which its key lies; None where that is not told."""
    text = properties.get(b"prev")
    if text is None or len(text) > PREFIXES_MAX * (DIGITS_MAX + 1):
        return None
    at = 0 if not subtree else len(prefixes(subtree)) - 1
    numbers = text.split(b",")
    return parse_number(numbers[at]) if at < len(numbers) else None


# Key-value messages.


def key_value(key: bytes, sequence: int, uuid: bytes, properties: bytes, body: bytes) -> Frames:
    """A KVSYNC, KVPUB or KVSET. An empty `body` deletes."""
    return [key, pack_sequence(sequence), uuid, properties, body]


def parse_key_value(frames: Frames) -> KeyValue | None:
    """Any message of five frames. Only the shape is checked: what a key may be depends on the command."""
    if len(frames) != 5:
        return None
    key, packed, uuid, properties, body = frames
    if not key or len(packed) != 8 or (uuid and len(uuid) != UUID_SIZE):
        return None
    return KeyValue(key, _SEQUENCE.unpack(packed)[0], uuid, properties, body)


def kthxbai(sequence: int, subtree: bytes, properties: bytes = b"") -> Frames:
    """The end of a snapshot, which holds all up to `sequence`."""
    return [KTHXBAI, pack_sequence(sequence), b"", properties, subtree]


def hugz(properties: bytes = b"") -> Frames:
    """A heartbeat. Its sequence is zero, as the RFC has it; the Guide's server sends its own there."""
    return [HUGZ, bytes(8), b"", properties, b""]


# Requests on the snapshot port, and answers.


def icanhaz(subtree: bytes) -> Frames:
    """Ask for a snapshot."""
    return [ICANHAZ, subtree]


def parse_icanhaz(frames: Frames) -> bytes | None:
    """The subtree. The Guide's server takes any prefix for one, and so is one taken here."""
    if len(frames) != 2 or frames[0] != ICANHAZ or len(frames[1]) > KEY_MAX:
        return None
    return frames[1]


def zpset(uuid: bytes, key: bytes, body: bytes, *, ttl: float = 0, if_sequence: int | None = None) -> Frames:
    """A set, or with an empty `body` a delete, that is answered."""
    properties = ttl_property(ttl) if ttl else b""
    if if_sequence is not None:
        properties += b"if-seq=%d\n" % if_sequence
    return [ZPSET, uuid, key, properties, body]


def parse_zpset(frames: Frames) -> Set | None:
    """Its parts. A comparison that cannot be read makes it None: without it, it would be another request."""
    if len(frames) != 5 or frames[0] != ZPSET or len(frames[1]) != UUID_SIZE or has_too_many(frames[3]):
        return None
    _, uuid, key, lines, body = frames
    if not lines:
        return Set(uuid, key, 0, None, b"", body)
    properties = parse_properties(lines)
    if_sequence = None
    if b"if-seq" in properties:
        if_sequence = parse_number(properties[b"if-seq"])
        if if_sequence is None:
            return None
    return Set(uuid, key, ttl_of(properties), if_sequence, foreign_properties(properties), body)


def zpack(uuid: bytes, code: int, sequence: int) -> Frames:
    """The answer to a ZPSET."""
    return [ZPACK, uuid, b"%d" % code, pack_sequence(sequence)]


def parse_zpack(frames: Frames) -> Ack | None:
    """Its parts; None for a code that is not ours."""
    if len(frames) != 4 or frames[0] != ZPACK or len(frames[1]) != UUID_SIZE or len(frames[3]) != 8:
        return None
    code = parse_number(frames[2])
    if code not in CODES or code is None:
        return None
    return Ack(frames[1], code, _SEQUENCE.unpack(frames[3])[0])


def zplast(subtree: bytes) -> Frames:
    """Ask for the last sequence published in `subtree`."""
    return [ZPLAST, subtree]


def parse_zplast(frames: Frames) -> bytes | None:
    """The subtree that is asked for."""
    if len(frames) != 2 or frames[0] != ZPLAST or not is_subtree(frames[1]):
        return None
    return frames[1]


def zplast_answer(subtree: bytes, sequence: int) -> Frames:
    """The answer to a ZPLAST."""
    return [ZPLAST, subtree, pack_sequence(sequence)]


def parse_zplast_answer(frames: Frames) -> tuple[bytes, int] | None:
    """Subtree and sequence."""
    if len(frames) != 3 or frames[0] != ZPLAST or not is_subtree(frames[1]) or len(frames[2]) != 8:
        return None
    return frames[1], _SEQUENCE.unpack(frames[2])[0]


def zphave(sequence: int, life: bytes) -> Frames:
    """A passive server has all up to `sequence`. `life`: what it calls itself in its state frame, which only the other
    half of the pair hears; anybody could say the rest."""
    return [ZPHAVE, pack_sequence(sequence), life]


def parse_zphave(frames: Frames) -> tuple[int, bytes] | None:
    """The sequence and who says it."""
    if len(frames) != 3 or frames[0] != ZPHAVE or len(frames[1]) != 8 or not frames[2]:
        return None
    return _SEQUENCE.unpack(frames[1])[0], frames[2]
