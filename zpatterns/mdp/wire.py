"""Frames of 7/MDP (0.1), 18/MDP (0.2) and 8/MMI, and, by the same names as in :mod:`zpatterns.wire`, our errors. Pure.

Frames are given as the peer's own socket sends them; a ROUTER sees the routing id before them.
"""

from __future__ import annotations

import zpatterns.wire as shared
from zpatterns.core import Frames

EMPTY = b""

# 7/MDP, "MDP/Client" and "MDP/Worker": every message begins with an empty frame.
CLIENT_1 = b"MDPC01"
WORKER_1 = b"MDPW01"
READY_1 = b"\x01"
REQUEST_1 = b"\x02"
REPLY_1 = b"\x03"
HEARTBEAT_1 = b"\x04"
DISCONNECT_1 = b"\x05"

# 18/MDP: no empty frame in front, REPLY split into PARTIAL and FINAL.
CLIENT_2 = b"MDPC02"
CLIENT_REQUEST_2 = b"\x01"
CLIENT_PARTIAL_2 = b"\x02"
CLIENT_FINAL_2 = b"\x03"
WORKER_2 = b"MDPW02"
READY_2 = b"\x01"
REQUEST_2 = b"\x02"
PARTIAL_2 = b"\x03"
FINAL_2 = b"\x04"
HEARTBEAT_2 = b"\x05"
DISCONNECT_2 = b"\x06"

# 8/MMI
MMI_PREFIX = b"mmi."
MMI_SERVICE = b"mmi.service"
MMI_SERVICES = b"mmi.services"
MMI_WORKERS = b"mmi.workers"
MMI_STATISTICS = b"mmi.statistics"
OK = b"200"
NOT_FOUND = b"404"
NOT_IMPLEMENTED = b"501"

SERVICE_NAME_MAX = 255
"""Bytes of a service name that we accept; the RFCs say only "printable string"."""

# Our convention for errors, as all patterns have it.
ERROR_MARKER = shared.ERROR_MARKER
CODE_OVERLOADED = shared.CODE_OVERLOADED
CODE_LOST = shared.CODE_LOST
CODE_DRAINING = shared.CODE_DRAINING
CODE_TOO_LARGE = shared.CODE_TOO_LARGE
CODE_HANDLER_TIMEOUT = shared.CODE_HANDLER_TIMEOUT
error_body = shared.error_body
parse_error = shared.parse_error


def is_service_name(name: bytes) -> bool:
    """Whether `name` may name a service: 1 to 255 bytes of UTF-8 without control characters (7/MDP: a
    "printable string")."""
    if not 0 < len(name) <= SERVICE_NAME_MAX:
        return False
    try:
        return name.decode("utf-8").isprintable()
    except UnicodeDecodeError:
        return False


class WorkerDialect:
    """How one version of MDP/Worker spells its commands, as a worker's DEALER sends and receives them."""

    __slots__ = ("_command", "_delimiter", "disconnect", "final", "heartbeat", "partial", "ready", "request", "version")

    def __init__(
        self,
        version: str,
        head: Frames,
        *,
        ready: bytes,
        request: bytes,
        partial: bytes | None,
        final: bytes,
        heartbeat: bytes,
        disconnect: bytes,
    ) -> None:
        self.version = version
        self._delimiter = head
        self._command = len(head)
        self.ready, self.request, self.partial, self.final = ready, request, partial, final
        self.heartbeat, self.disconnect = heartbeat, disconnect

    def parse(self, frames: Frames) -> tuple[bytes, Frames] | None:
        """Command and the frames behind it, or None where `frames` is no message of this version."""
        at = self._command
        if len(frames) <= at or frames[:at] != self._delimiter:
            return None
        return frames[at], frames[at + 1 :]

    def build(self, command: bytes, *rest: bytes) -> Frames:
        """The frames of one command."""
        return [*self._delimiter, command, *rest]


WORKER_DIALECTS = {
    "0.1": WorkerDialect(
        "0.1",
        [EMPTY, WORKER_1],
        ready=READY_1,
        request=REQUEST_1,
        partial=None,
        final=REPLY_1,
        heartbeat=HEARTBEAT_1,
        disconnect=DISCONNECT_1,
    ),
    "0.2": WorkerDialect(
        "0.2",
        [WORKER_2],
        ready=READY_2,
        request=REQUEST_2,
        partial=PARTIAL_2,
        final=FINAL_2,
        heartbeat=HEARTBEAT_2,
        disconnect=DISCONNECT_2,
    ),
}


def client_request(version: str, service: bytes, body: Frames) -> Frames:
    """A REQUEST as a client's DEALER sends it (7/MDP and 18/MDP, "MDP/Client")."""
    if version == "0.1":
        return [EMPTY, CLIENT_1, service, *body]
    return [CLIENT_2, CLIENT_REQUEST_2, service, *body]


def parse_client_reply(version: str, service: bytes, frames: Frames) -> tuple[Frames, bool] | None:
    """Body and whether it is the last, or None where `frames` is no reply of `service` in this version."""
    if version == "0.1":
        if len(frames) < 4 or frames[0] != EMPTY or frames[1] != CLIENT_1 or frames[2] != service:
            return None
        return frames[3:], True
    if len(frames) < 4 or frames[0] != CLIENT_2 or frames[2] != service:
        return None
    if frames[1] == CLIENT_FINAL_2:
        return frames[3:], True
    if frames[1] == CLIENT_PARTIAL_2:
        return frames[3:], False
    return None
