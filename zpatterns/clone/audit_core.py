"""What a server says it has published, held against what came: how a client finds out that it missed something. Pure.

A server of ours tells with each update which one came before it under each prefix of the key, and with each HUGZ what
it published last; so a gap shows at the next update, and a lost last one at the next HUGZ. The Guide's server counts by
ones and says in its HUGZ how far it has come, which shows gaps in the whole map, though not in a subtree.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from zpatterns.clone import wire

JUMPS_MAX = 3
"""Jumps in a foreign server's numbers, with nothing in order between them, after which they show no gaps."""


class Audit:
    """One connection to one server. What :meth:`hugz` and :meth:`previous` say is for a map that follows it.

    `asked_max`: questions after a subtree's last sequence that may be open; more mean that nobody answers.
    """

    __slots__ = (
        "_asked",
        "_asked_max",
        "_checked",
        "_expected",
        "_foreign_last",
        "_jumps",
        "_prefix",
        "is_foreign",
        "status",
    )

    def __init__(self, subtree: bytes, asked_max: int) -> None:
        self._prefix = subtree
        self._asked_max = asked_max
        self._jumps = 0
        self.begin()

    def begin(self, *, same_server: bool = False) -> None:
        """A new connection."""
        self.status: wire.Status | None = None
        """What a server of ours said of itself."""
        self.is_foreign = False
        """Whether a snapshot came that said nothing of that kind."""
        if not same_server:
            self._jumps = 0
        self._restart()

    def snapshot(self, status: wire.Status | None) -> None:
        """A snapshot is complete, and its end said so much of the server."""
        self.status = status
        self.is_foreign = status is None
        self._restart()

    def met(self, status: wire.Status) -> None:
        """The server said what it is before its snapshot did, which is what counts in the end."""
        self.status = status
        self.is_foreign = False

    def _restart(self) -> None:
        self._foreign_last = 0
        # The server's last sequence at each open question, the oldest first. An answer is taken for that of the oldest:
        # where some were lost, it says less than it might, and never more than is true.
        self._asked: deque[int] = deque()
        self._checked = 0  # the server's sequence up to which nothing can be missing
        self._expected: int | None = None  # the subtree's last: it must come before a HUGZ of a later sequence

    # Updates.

    def previous(self, sequence: int, properties: Mapping[bytes, bytes]) -> int | None:
        """The update before the one of this `sequence`, as far as can be told; None if a server of ours tells none."""
        if b"prev" in properties:
            return wire.previous_of(properties, self._prefix)
        if self.status is not None:
            return None
        return 0 if self._prefix or self._jumps >= JUMPS_MAX else sequence - 1

    def in_order(self) -> None:
        """An update came where it was expected."""
        self._jumps = 0

    def jumped(self) -> None:
        """One did not, or a snapshot did not reach the next update."""
        if self.status is None:
            self._jumps += 1

    # Heartbeats.

    def hugz(self, sequence: int, status: wire.Status | None, reached: int) -> str:
        """A HUGZ of the server that is followed, whose updates came up to `reached`: what is wrong, or ""."""
        known = self.status
        if (status is None) != (known is None):
            return "another kind of server is there now"
        if status is None or known is None:
            return self._foreign_hugz(sequence, reached)
        if status.instance != known.instance:
            return "the server has begun anew"
        last = status.last
        if last <= max(reached, self._checked):
            return ""
        if not self._prefix:
            return f"the server has published {last}"
        if self._expected is not None and reached < self._expected <= last:
            return f"the server has published {self._expected} in the subtree"
        if len(self._asked) >= self._asked_max:
            return "the server does not say what it has published in the subtree"
        return ""

    def _foreign_hugz(self, sequence: int, reached: int) -> str:
        # The RFC has zero there, which says nothing; the Guide's server has its own.
        before, self._foreign_last = self._foreign_last, sequence
        if sequence < before:
            return "the server has begun anew"
        if sequence > reached and not self._prefix:
            return f"the server has published {sequence}"
        return ""

    def asks(self, status: wire.Status | None, reached: int) -> bool:
        """Whether, after a HUGZ that showed nothing wrong, the server must be asked for the subtree's last sequence."""
        if status is None or not self._prefix or status.last <= max(reached, self._checked):
            return False
        if self._expected is not None and self._expected > reached:
            return False  # a later HUGZ will show whether it comes
        self._expected = None
        self._asked.append(status.last)
        return True

    def answer(self, last: int, reached: int) -> bool:
        """The subtree's last sequence. Returns whether that was asked."""
        if not self._asked:
            return False
        asked = self._asked.popleft()
        if last <= reached:
            self._checked = max(self._checked, asked)
        else:
            self._expected = last  # it may be on its way, but not behind a later HUGZ
        return True
