"""A client's sets from call to acknowledgement: sent again until then, in order for each key, and bounded. Pure."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from zpatterns.calls_core import times
from zpatterns.clone import wire
from zpatterns.core import Command, Deliver, Fail, Rng
from zpatterns.errors import ClosedError, CompareFailed, QueueFull, RemoteError, RequestTimeout
from zpatterns.timing import Deadlines

_FORGOTTEN_MAX = 64  # sets that have ended without the map coming so far

SET_OVERHEAD = 512
"""What an open set costs beside its key and value, in bytes, as `sets_bytes_max` counts it."""


@dataclass(frozen=True, slots=True)
class SetOptions:
    """Limits and times of sets. `timeout`: seconds from call to outcome. `resend_first`, `resend_cap`: seconds until an
    unacknowledged one is sent again, doubling. `in_flight_max`: how many are on the wire; `sets_max` and
    `sets_bytes_max`: how many, and how much, may be open in all."""

    timeout: float = 10.0
    resend_first: float = 1.0
    resend_cap: float = 5.0
    in_flight_max: int = 512
    sets_max: int = 100_000
    sets_bytes_max: int = 256 * 2**20

    def __post_init__(self) -> None:
        for name in ("timeout", "resend_first", "resend_cap"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a positive number of seconds, not {getattr(self, name)!r}")
        for name in ("in_flight_max", "sets_max", "sets_bytes_max"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)!r}")


class Set:
    """One set, delete or compare-and-set, from call to outcome."""

    __slots__ = (
        "attempts",
        "deadline",
        "delay",
        "expiry",
        "id",
        "if_sequence",
        "in_flight",
        "key",
        "over",
        "resend_at",
        "sequence",
        "started",
        "ttl",
        "uuid",
        "value",
    )

    def __init__(self, id: int, uuid: bytes, key: bytes, value: bytes, ttl: int, if_sequence: int | None) -> None:
        self.id = id
        self.uuid = uuid
        self.key = key
        self.value = value
        self.ttl = ttl
        self.if_sequence = if_sequence
        self.started = 0.0
        self.expiry = 0.0
        self.deadline: float | None = None  # when to look at it next, for Deadlines
        self.resend_at = 0.0
        self.delay = 0.0
        self.attempts = 0
        self.in_flight = False
        self.sequence: int | None = None  # once it is acknowledged
        self.over = False

    @property
    def size(self) -> int:
        """What it weighs, in bytes."""
        return SET_OVERHEAD + len(self.key) + len(self.value)


class Sets:
    """All open sets of one client. `send` hands one to a server; it returns False while there is none to take it.

    Two sets of one key are never on the wire together: the later one begins when the earlier one has ended, so that a
    repeated earlier one cannot overwrite it.
    """

    def __init__(
        self, options: SetOptions, rng: Rng, commands: list[Command], send: Callable[[Set, float], bool]
    ) -> None:
        self.options = options
        self.commands = commands
        self._rng = rng
        self._send = send
        self._open: dict[int, Set] = {}
        self._by_uuid: dict[bytes, Set] = {}
        self._bytes = 0
        self._waiting: OrderedDict[int, Set] = OrderedDict()
        self._in_flight: dict[int, Set] = {}
        # The sets of a key behind its first open one.
        self._behind: dict[bytes, OrderedDict[int, Set]] = {}
        # Acknowledged, but the replica has not come so far: (sequence, id).
        self._ahead: list[tuple[int, int]] = []
        self._deadlines: Deadlines[Set] = Deadlines()
        self.started = self.acknowledged = self.timeouts = self.errors = self.cancelled = self.sends = 0

    def __len__(self) -> int:
        return len(self._open)

    @property
    def in_flight(self) -> int:
        """Sets on the wire."""
        return len(self._in_flight)

    # What the front end asks for.

    def start(
        self, id: int, key: bytes, value: bytes, now: float, ttl: int, if_sequence: int | None, timeout: float | None
    ) -> None:
        """Begin a set. Errors: QueueFull."""
        options = self.options
        each = Set(id, self.new_uuid(), key, value, ttl, if_sequence)
        if len(self._open) >= options.sets_max or self._bytes + each.size > options.sets_bytes_max:
            raise QueueFull(
                f"{len(self._open)} sets ({self._bytes} bytes) are open already, the most this client may hold; "
                "wait for some to end"
            )
        each.started = now
        each.expiry = each.deadline = now + (options.timeout if timeout is None else timeout)
        each.delay = options.resend_first
        self.started += 1
        self._open[id] = each
        self._by_uuid[each.uuid] = each
        self._bytes += each.size
        self._deadlines.add(each)
        behind = self._behind.get(key)
        if behind is None:
            self._behind[key] = OrderedDict()
            self._waiting[id] = each
            self.pump(now)
        else:
            behind[id] = each

    def new_uuid(self) -> bytes:
        """16 random bytes (12/CHP, KVSET)."""
        return self._rng.getrandbits(128).to_bytes(16, "big")

    def cancel(self, id: int, now: float) -> None:
        """The caller does not wait any more. What was sent may still be carried out."""
        each = self._open.get(id)
        if each is not None:
            self.cancelled += 1
            self._end(each, now)

    def close(self, now: float) -> None:
        """End every set: those that were acknowledged well, the others with ClosedError."""
        for each in list(self._open.values()):
            if each.sequence is not None:
                self._succeed(each, now)
            else:
                self._fail(each, ClosedError("the client was closed while the set was open"), now)

    # What the server says.

    def acknowledge(self, uuid: bytes, sequence: int, reached: int, now: float) -> bool:
        """The set was published under `sequence`. The caller is told once the replica has `reached` that."""
        each = self._by_uuid.get(uuid)
        if each is None or each.sequence is not None:
            return each is not None
        self.acknowledged += 1
        each.sequence = sequence
        if sequence <= reached:
            self._succeed(each, now)
            self.pump(now)
        else:
            each.deadline = each.expiry
            self._forget_flight(each)
            heapq.heappush(self._ahead, (sequence, each.id))
            if len(self._ahead) > 2 * len(self._open) + _FORGOTTEN_MAX:
                self._ahead = [item for item in self._ahead if item[1] in self._open]
                heapq.heapify(self._ahead)
        return True

    def reached(self, sequence: int, now: float) -> None:
        """The replica has come to `sequence`."""
        ahead = self._ahead
        if not ahead or ahead[0][0] > sequence:
            return
        while ahead and ahead[0][0] <= sequence:
            each = self._open.get(heapq.heappop(ahead)[1])
            if each is not None and not each.over:
                self._succeed(each, now)
        self.pump(now)

    def snapshot_asked(self) -> None:
        """All that was acknowledged so far will be in it, whatever its sequence; what is from now on may be newer."""
        self._ahead = sorted((0, id) for _, id in self._ahead)

    def refuse(self, uuid: bytes, code: int, sequence: int, now: float) -> bool:
        """The server answered with an error. Returns whether the set is known."""
        each = self._by_uuid.get(uuid)
        if each is None or each.sequence is not None:
            return each is not None
        if code == wire.CONFLICT:
            text = "the key has changed since; nothing was set"
            elapsed = now - each.started
            self._fail(each, CompareFailed(text, sequence=sequence, attempts=each.attempts, elapsed=elapsed), now)
        else:
            self.fail(each, str(code), "the key or value is too large for the server, or its map is full", now)
        self.pump(now)
        return True

    def put_off(self, uuid: bytes, now: float) -> None:
        """The server cannot take it now, or it could not be handed over: it is sent again after a while."""
        each = self._by_uuid.get(uuid)
        if each is not None and each.in_flight:
            each.resend_at = now + each.delay
            self._watch(each)

    # Time.

    def pump(self, now: float) -> None:
        """Send what waits, as far as the window and the servers admit."""
        waiting, in_flight, most = self._waiting, self._in_flight, self.options.in_flight_max
        while waiting and len(in_flight) < most:
            each = next(iter(waiting.values()))
            if each.expiry <= now:
                self._expire(each, now)
                continue
            if not self._send(each, now):
                return
            if not each.over:  # it may have been refused: not every server can be asked everything
                del waiting[each.id]
                each.in_flight = True
                in_flight[each.id] = each
                self._sent(each, now)

    def resend(self, now: float) -> None:
        """Another connection or server: send all that is on the wire again."""
        for each in list(self._in_flight.values()):
            self._resend(each, now)
        self.pump(now)

    def next_timer(self) -> float | None:
        return self._deadlines.next()

    def handle_timer(self, now: float) -> None:
        for each in self._deadlines.due(now):
            if each.over:
                continue
            if each.expiry <= now:
                self._expire(each, now)
            elif each.in_flight and each.resend_at <= now:
                self._resend(each, now)
            else:
                self._watch(each)
        self.pump(now)

    def _resend(self, each: Set, now: float) -> None:
        if each.over:
            return
        if self._send(each, now) and not each.over:
            self._sent(each, now)
        elif not each.over:
            each.resend_at = now + each.delay
            self._watch(each)

    def _sent(self, each: Set, now: float) -> None:
        each.attempts += 1
        self.sends += 1
        each.resend_at = now + each.delay
        each.delay = min(each.delay * 2, self.options.resend_cap)
        self._watch(each)

    def _watch(self, each: Set) -> None:
        each.deadline = min(each.expiry, each.resend_at) if each.in_flight else each.expiry
        self._deadlines.add(each)

    # Ends.

    def _expire(self, each: Set, now: float) -> None:
        if each.sequence is not None:
            self._succeed(each, now)  # the server has it; it is the replica that is late
            return
        self.timeouts += 1
        elapsed = now - each.started
        key = each.key.decode(errors="replace")
        sent = f"{times(each.attempts)}; it may still be carried out" if each.attempts else "no server to send it to"
        text = f"no server acknowledged the set of {key!r} within {elapsed:.3g} s ({sent})"
        self._conclude(each, Fail(each.id, RequestTimeout(text, attempts=each.attempts, elapsed=elapsed)), now)

    def fail(self, each: Set, code: str, text: str, now: float) -> None:
        """End a set that cannot be asked for."""
        self._fail(each, RemoteError(code, text, attempts=each.attempts, elapsed=now - each.started), now)

    def _fail(self, each: Set, error: Exception, now: float) -> None:
        self.errors += 1
        self._conclude(each, Fail(each.id, error), now)

    def _succeed(self, each: Set, now: float) -> None:
        assert each.sequence is not None
        self._conclude(each, Deliver(each.id, [each.sequence.to_bytes(8, "big")], True), now)

    def _conclude(self, each: Set, outcome: Command, now: float) -> None:
        self.commands.append(outcome)
        self._end(each, now)

    def _end(self, each: Set, now: float) -> None:
        each.over = True
        each.deadline = None
        del self._open[each.id]
        del self._by_uuid[each.uuid]
        self._bytes -= each.size
        each.value = b""  # the heap of deadlines lets go of it only later
        self._forget_flight(each)
        behind = self._behind[each.key]
        if behind.pop(each.id, None) is not None:
            return
        # It was its key's first: the next may begin.
        if behind:
            id, following = behind.popitem(last=False)
            self._waiting[id] = following
        else:
            del self._behind[each.key]

    def _forget_flight(self, each: Set) -> None:
        self._waiting.pop(each.id, None)
        if each.in_flight:
            each.in_flight = False
            del self._in_flight[each.id]

    def check_invariants(self) -> None:
        options = self.options
        assert len(self._in_flight) <= options.in_flight_max
        assert len(self._open) <= options.sets_max
        assert self._bytes == sum(each.size for each in self._open.values()) <= options.sets_bytes_max
        assert set(self._by_uuid) == {each.uuid for each in self._open.values()}
        on_wire = [each.key for each in self._in_flight.values()]
        assert len(on_wire) == len(set(on_wire)), "two sets of one key on the wire"
        for each in self._open.values():
            assert not each.over
            assert each.deadline is not None and each.deadline <= each.expiry
