"""Snapshots on their way to clients: bounded pieces, each client at its own speed, none for ever. Pure.

A server learns that a client takes no more when a message for it comes back: that and all behind it is kept and sent
again after a pause.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from zpatterns.clone import wire
from zpatterns.clone.server_state import ServerOptions, SnapshotAbandoned, SnapshotSent
from zpatterns.clone.store import PAGE, PAGE_SHIFT, Pair, Store, View
from zpatterns.core import Event, Frames, SendFailure
from zpatterns.timing import Deadlines

TURN_MESSAGES = 1024
"""Messages of all snapshots together that are sent before all else has its turn: about two milliseconds' work."""

TURN_PAGES = 16_384 // PAGE
"""Pages that are looked through in one turn, whether they hold anything of the subtree or not."""

SHARE = 256
"""Messages of one snapshot's turn, at the least; and those that a client has to take, again and again, in the time
after which it counts as one that does not read."""

PIECE_BYTES = 2**20
"""Bytes of bodies after which a turn ends early."""

STARTED_MAX = 64
"""Snapshots that are sent by turns; those beyond wait, and then see a later map."""

ASKED_MAX = 8
"""Snapshots that one connection may have asked for; more are dropped."""

_RETRY_FIRST = 0.005
_RETRY_CAP = 0.1


class Join:
    """One client's snapshot."""

    __slots__ = (
        "asked",
        "at",
        "blocked",
        "client",
        "deadline",
        "delay",
        "ended",
        "failed",
        "gone",
        "held",
        "keys",
        "mark",
        "progress_at",
        "sent",
        "subtree",
        "taken",
        "view",
    )

    def __init__(self, client: bytes, subtree: bytes, now: float) -> None:
        self.client = client
        self.subtree = subtree
        self.asked: deque[bytes] = deque()
        self.deadline: float | None = None
        self.gone = False
        self.reset(now)

    def reset(self, now: float) -> None:
        self.view: View | None = None
        self.at = self.keys = 0
        self.held: list[Frames] = []
        self.ended = self.blocked = False
        self.sent = self.failed = self.taken = 0
        self.mark = SHARE
        self.progress_at = now
        self.delay = _RETRY_FIRST


class Snapshots:
    """All that are asked for. `end` builds the KTHXBAI for client, view and subtree."""

    def __init__(
        self, store: Store, options: ServerOptions, events: list[Event], end: Callable[[bytes, View, bytes], Frames]
    ) -> None:
        self.store = store
        self.events = events
        self.out: list[Frames] = []
        self.complete = self.keys = self.abandoned = 0
        self._joins_max = options.joins_max
        self._timeout = options.liveness.lease
        self._end = end
        self._joins: dict[bytes, Join] = {}
        self._waiting: deque[Join] = deque()
        self._started: deque[Join] = deque()
        self._retries: Deadlines[Join] = Deadlines()

    def __len__(self) -> int:
        return len(self._joins)

    def ask(self, client: bytes, subtree: bytes, now: float) -> bool:
        """An ICANHAZ. False if it is one too many."""
        join = self._joins.get(client)
        if join is not None:
            # Each is answered (12/CHP, "State Synchronization"), one after another.
            if len(join.asked) >= ASKED_MAX - 1:
                return False
            join.asked.append(subtree)
            return True
        if len(self._joins) >= self._joins_max:
            return False
        join = self._joins[client] = Join(client, subtree, now)
        self._waiting.append(join)
        return True

    def clear(self, store: Store) -> None:
        """Nobody is sent anything more of the store so far; the next snapshots are of `store`."""
        for join in list(self._joins.values()):
            self._remove(join)
        self._waiting.clear()
        self._started.clear()
        self.out = []
        self.store.forget_view()
        self.store = store

    def next_time(self, now: float) -> float | None:
        """When :meth:`work` is due; `now` while there is something to send."""
        return now if self._started or self._waiting else self._retries.next()

    def work(self, now: float) -> None:
        """Add one turn's share to `out`."""
        for join in self._retries.due(now):
            if not join.gone:
                join.blocked = False
                self._started.append(join)
        started, messages, pages = self._started, TURN_MESSAGES, TURN_PAGES
        while self._waiting and len(started) < STARTED_MAX:
            started.append(self._waiting.popleft())
        share = max(SHARE, TURN_MESSAGES // max(1, len(started)))
        size = PIECE_BYTES
        for _ in range(len(started)):
            if messages <= 0 or pages <= 0 or size <= 0:
                return
            join = started.popleft()
            if join.gone or not self._goes_on(join, now):
                continue
            before = len(self.out)
            pages, size = self._send_piece(join, min(share, messages), pages, size, now)
            join.sent = len(self.out) - before
            messages -= join.sent
            started.append(join)

    def failed(self, frames: Frames, reason: SendFailure, now: float) -> None:
        """A message of a snapshot was not taken."""
        join = self._joins.get(frames[0])
        if join is None:
            return
        if reason is SendFailure.UNREACHABLE:
            self._remove(join)
            self.abandoned += 1
            self.events.append(SnapshotAbandoned(join.client, join.subtree, join.keys, "unreachable"))
            return
        join.held.append(frames)
        join.failed += 1
        if not join.blocked:
            join.blocked = True
            self._started.remove(join)
            join.deadline = now + join.delay
            self._retries.add(join)

    def _goes_on(self, join: Join, now: float) -> bool:
        """Take stock of what became of the last piece. False if the snapshot is over."""
        taken, join.taken = join.taken, join.taken + join.sent - join.failed
        if join.failed:
            join.delay = _RETRY_FIRST if join.taken > taken else min(join.delay * 2, _RETRY_CAP)
        join.sent = join.failed = 0
        if join.taken >= join.mark or not join.held:
            # A client that takes one message now and then is not reading either.
            join.progress_at = now
            join.mark = join.taken + SHARE
        elif now - join.progress_at >= self._timeout:
            self._remove(join)
            self.abandoned += 1
            self.events.append(SnapshotAbandoned(join.client, join.subtree, join.keys, "not read"))
            return False
        if not join.ended or join.held:
            return True
        assert join.view is not None
        self.complete += 1
        self.keys += join.keys
        self.events.append(SnapshotSent(join.client, join.subtree, join.keys, join.view.sequence))
        if not join.asked:
            self._remove(join)
            return False
        join.subtree = join.asked.popleft()
        join.reset(now)
        return True

    def _send_piece(self, join: Join, messages: int, pages: int, size: int, now: float) -> tuple[int, int]:
        """Send what was held, and then on in the view; what is left of `pages` and `size`."""
        out = self.out
        if join.held:
            out += join.held
            messages -= len(join.held)
            join.held = []
        if join.ended:
            return pages, size
        view = join.view
        if view is None:
            view = join.view = self.store.view()
        client, subtree, before = join.client, join.subtree, len(out)
        while messages > 0 and pages > 0 and size > 0 and join.at < view.count:
            pairs, size = self._pairs(view, join, size)
            if subtree:
                pairs = [pair for pair in pairs if pair[0].startswith(subtree)]
            out += [[client, *pair] if len(pair) == 5 else _with_ttl(client, pair, now) for pair in pairs]
            messages -= len(pairs)
            pages -= 1
        join.keys += len(out) - before
        if join.at >= view.count:
            out.append(self._end(client, view, subtree))
            join.ended = True
        return pages, size

    def _pairs(self, view: View, join: Join, size: int) -> tuple[Sequence[Pair], int]:
        """The rest of the page that `join` has come to, or as much of it as fits `size`; and what is left of that."""
        offset = join.at & (PAGE - 1)
        pairs: Sequence[Pair] = view.pages[join.at >> PAGE_SHIFT]
        if offset:
            pairs = pairs[offset:]
        total = sum([len(pair[4]) for pair in pairs])
        if total > size:
            total = 0
            for count, pair in enumerate(pairs, 1):  # noqa: B007
                total += len(pair[4])
                if total >= size:
                    break
            pairs = pairs[:count]
        join.at += len(pairs)
        return pairs, size - total

    def _remove(self, join: Join) -> None:
        join.gone = True
        join.deadline = None
        join.view = None
        join.held = []
        del self._joins[join.client]
        if not self._joins:
            self.store.forget_view()

    def check_invariants(self) -> None:
        """Assert what must always be true. For tests."""
        for client, join in self._joins.items():
            assert join.client == client and not join.gone
            places = (join in self._waiting) + (join in self._started) + join.blocked
            assert places == 1, "a snapshot is forgotten, or sent twice"
            assert join.blocked == (join.deadline is not None)
            assert all(frames[0] == client and len(frames) == 6 for frames in join.held)
            assert len(join.asked) < ASKED_MAX
        assert len(self._joins) <= self._joins_max


def _with_ttl(client: bytes, pair: Pair, now: float) -> Frames:
    """A pair with the seconds that it has left: at least one, for zero means for ever."""
    left = pair[5] - now  # type: ignore[misc]
    return [client, pair[0], pair[1], pair[2], wire.ttl_property(max(1.0, left)) + pair[3], pair[4]]
