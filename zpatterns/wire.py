"""Frames that several patterns share: what a REQ puts around a body, and our convention for errors. Pure.

None of the protocols has an error reply. A far side of ours answers with these frames in the place of the body;
to any other client they are three ordinary frames.
"""

from __future__ import annotations

from collections.abc import Sequence

from zpatterns.core import Frames

ERROR_MARKER = b"\x00ZPATTERNS-ERROR\x00"
CODE_OVERLOADED = b"429"
CODE_LOST = b"502"
CODE_DRAINING = b"503"
CODE_TOO_LARGE = b"too-large"
CODE_HANDLER_TIMEOUT = b"handler-timeout"

NOT_STARTED = frozenset({"429", "503"})
"""Codes that invite another attempt: the request never began, or a broker that goes on would have sent it again."""


FEW_FRAMES = 8
"""So many frames' objects are within what the memory of any message is taken for."""

FRAME_OVERHEAD = 64
"""What each frame more costs in memory beside its bytes."""


MESSAGE_OVERHEAD = 512
"""What a message that waits costs in memory beside its frames, in bytes, with all that is remembered of it."""


def memory_of(frames: Frames) -> int:
    """What a message counts for where memory is bounded, in bytes: many small frames cost more than what is in them."""
    size = MESSAGE_OVERHEAD + sum(map(len, frames))
    return size if len(frames) <= FEW_FRAMES else size + FRAME_OVERHEAD * (len(frames) - FEW_FRAMES)


def req_message(body: Frames) -> Frames:
    """A body as a REQ sends it to a REP: behind an empty frame."""
    return [b"", *body]


def req_body(frames: Frames) -> Frames | None:
    """The body of a reply as a REQ receives it, or None where `frames` is none."""
    return frames[1:] if len(frames) > 1 and not frames[0] else None


def error_body(code: bytes, text: str) -> Frames:
    """The three body frames of an error: marker, code (ASCII), text (UTF-8)."""
    return [ERROR_MARKER, code, text.encode("utf-8", "replace")]


def parse_error(body: Frames) -> tuple[str, str] | None:
    """Code and text if `body` is an error of our convention, else None."""
    if len(body) != 3 or body[0] != ERROR_MARKER:
        return None
    return body[1].decode("ascii", "replace"), body[2].decode("utf-8", "replace")


def to_frames(value: object) -> Frames:
    """One frame or several, as the wire wants them: at least one. Errors: TypeError for what is no body."""
    if value is None:
        return [b""]
    # Most are tuples or lists; to find out whether another class is a Sequence takes ten times as long.
    if isinstance(value, tuple | list) or (
        isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview | str)
    ):
        return [part if type(part) is bytes else _frame(part) for part in value] or [b""]
    return [_frame(value)]


def _frame(part: object) -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, bytearray | memoryview):
        return bytes(part)
    raise TypeError(f"a body is bytes, str, None or a sequence of bytes and str, and this is {type(part).__name__}")
