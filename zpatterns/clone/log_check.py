"""Whether SQLite's write-ahead log holds commits that SQLite would pass over without a word.

At a frame that is not as it was written SQLite takes the log to end: so ends a log whose last commit was not finished.
But where a commit lies behind such a frame, and another frame behind that, the disk had the first one whole once, and
what was answered since would be lost. (The format: sqlite.org, "WAL-mode File Format".)
"""

from __future__ import annotations

import struct
from typing import BinaryIO

_MAGIC = (0x377F0682, 0x377F0683)  # the last bit says in which order the bytes of a word are summed
_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MASK = 0xFFFFFFFF


def log_is_damaged(path: str) -> bool:
    """Read the log at `path`; False where there is none. Errors: OSError."""
    try:
        with open(path, "rb") as file:
            return _is_damaged(file)
    except FileNotFoundError:
        return False


def _is_damaged(file: BinaryIO) -> bool:
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return False
    magic, _, page_size, _, *rest = _HEADER.unpack(header)
    salts, sums = tuple(rest[:2]), (rest[2], rest[3])
    order = ">" if magic & 1 else "<"
    # SQLite has the header on disk before it writes a frame.
    is_sound = magic in _MAGIC and _sums(order, header[:24], (0, 0)) == sums
    if not is_sound or not 512 <= page_size <= 65536:
        return bool(file.read(1))
    has_commit = False
    while len(frame := file.read(_FRAME.size + page_size)) == _FRAME.size + page_size:
        _, pages, *rest = _FRAME.unpack_from(frame)
        if is_sound:
            found = _sums(order, frame[_FRAME.size :], _sums(order, frame[:8], sums))
            is_sound = (tuple(rest[:2]), tuple(rest[2:])) == (salts, found)
            sums = found
        elif tuple(rest[:2]) == salts and has_commit:
            return True
        if not is_sound and pages:
            has_commit = True
    return False


def _sums(order: str, data: bytes, before: tuple[int, int]) -> tuple[int, int]:
    first, second = before
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for one, other in zip(words, words, strict=True):
        first = (first + one + second) & _MASK
        second = (second + other + first) & _MASK
    return first, second
