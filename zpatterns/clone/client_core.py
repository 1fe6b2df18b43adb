"""A Clone client as a state machine: 12/CHP, and with a server of ours its extension. Pure.

It follows one server of a list: subscribes, and when the subscription is known to be live asks for a snapshot, to which
it applies what was published since. It notices what it has missed, and fetches another snapshot; when the server falls
silent, it turns to the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import ClassVar, TypeAlias

from zpatterns.clone import wire
from zpatterns.clone.audit_core import Audit
from zpatterns.clone.client_state import ClientInput, ClientOptions, ClientState, ClientStatistics, Endpoints
from zpatterns.clone.events import CloneState, GapFound, ServerGivenUp, SnapshotTaken, StateChanged
from zpatterns.clone.replica_core import Replica, Verdict
from zpatterns.clone.sets_core import Set, Sets
from zpatterns.core import (
    Changed,
    Close,
    Command,
    Drops,
    Event,
    Frames,
    Open,
    PortId,
    Rng,
    SendFailure,
    SocketKind,
    Subscribe,
)
from zpatterns.timing import Backoff

GOODBYE = 1.0
"""Seconds that what was only posted may linger in a socket that is closed."""

PATIENCE = 1.5
"""Heartbeat intervals after which a server that publishes nothing is asked all the same: a passive one needs to be."""


class _Server:
    """What a client remembers of one server while it turns to others."""

    __slots__ = ("endpoints", "gives_hugz")

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self.gives_hugz = False  # only then is its silence a sign


class ClientCore:
    """Keeps :attr:`replica` in step with one server of the list.

    The front end numbers the sets; each ends with one Deliver, of the sequence in 8 bytes, or one Fail.
    """

    PORTS: ClassVar[tuple[str, ...]] = ()

    def __init__(self, servers: Sequence[Endpoints], options: ClientOptions, rng: Rng) -> None:
        self.options = options
        self.subtree = options.subtree
        self._prefix = options.subtree.encode()
        self._interval = options.liveness.interval
        self._lease = options.liveness.lease
        self._servers = [_Server(endpoints) for endpoints in servers]
        self._current = 0
        self._commands: list[Command] = []
        self._events: list[Event] = []
        self._out: dict[PortId, list[Frames]] = {}
        self._drops = Drops()
        self.replica = Replica(options.kept_max, options.kept_bytes_max)
        self.sets = Sets(options.sets, rng, self._commands, self._send_set)
        self._backoff = Backoff(self._interval / 4, self._lease, rng)
        self.state = ClientState.CLOSED
        self.public_state = CloneState.LOST
        self._reason = ""
        self._given_up = 0  # servers in a row
        self._generation = 0
        self._updates: PortId = ""
        self._snapshot: PortId = ""
        self._is_live = False  # something came over the subscription
        self._is_blind = False  # the snapshot was asked for before that
        self._audit = Audit(self._prefix, options.liveness.liveness)
        self._due_at: float | None = None  # the end of patience, of a moment, or of a snapshot that does not go on
        self._heard_at = self._following_since = 0.0
        self._applied = self._heartbeats = self._snapshots = self._gaps = self._failovers = self._posted = 0
        self._receivers: dict[PortId, Callable[[Frames, float], None]] = {}

    # What the front end asks for.

    def start(self, now: float) -> None:
        """Connect; a closed client is not started again."""
        for number, server in enumerate(self._servers):
            self._commands.append(Open(f"sets{number}", SocketKind.PUB, server.endpoints.collector))
        self._step(ClientInput.START, now)

    def start_set(
        self,
        call_id: int,
        key: bytes,
        value: bytes,
        now: float,
        *,
        ttl: int = 0,
        if_sequence: int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Begin a set; an empty `value` deletes. `ttl`: seconds, 0 for none. Errors: QueueFull."""
        self.sets.start(call_id, key, value, now, ttl, if_sequence, timeout)

    def cancel_call(self, call_id: int, now: float) -> None:
        """The caller does not wait any more. What was sent may still be carried out."""
        self.sets.cancel(call_id, now)
        self.sets.pump(now)

    def post(self, key: bytes, value: bytes, ttl: int = 0) -> None:
        """A set that nobody waits for: it goes to every server once, and may be lost."""
        self._posted += 1
        self._send_kvset(key, self.sets.new_uuid(), value, ttl)

    def close(self, now: float) -> None:
        """End every set, and close every connection."""
        if self.state is not ClientState.CLOSED:
            self._step(ClientInput.CLOSE, now, "closed")
        self.sets.close(now)

    # Messages in.

    def receive_many(self, batch: Iterable[Frames], now: float, port: PortId) -> None:
        receive = self._receivers.get(port)
        if receive is None:
            for _ in batch:
                self._drops.add("late")  # what came between our Close and its execution
            return
        for frames in batch:
            receive(frames, now)
            if self._receivers.get(port) is not receive:
                receive = self._late

    def _late(self, frames: Frames, now: float) -> None:
        self._drops.add("late")

    def _published(self, frames: Frames, now: float) -> None:
        """A message of the publisher: KVPUB or HUGZ."""
        message = wire.parse_key_value(frames)
        if message is None or message.key == wire.KTHXBAI:
            self._drops.add("invalid")
            return
        self._heard_at = now
        if not self._is_live:
            self._is_live = True
            if self.state is ClientState.JOINING:
                self._step(ClientInput.PROOF, now)
            elif self.state is ClientState.FETCHING:
                self._due_at = now + self._lease
            elif self.state is ClientState.FOLLOWING and self._is_blind and self._audit.is_foreign:
                self._gap("the subscription was not live when the snapshot was asked for", now)
        if message.key == wire.HUGZ:
            self._hugz(message, now)
        else:
            self._kvpub(message, now)

    def _kvpub(self, message: wire.KeyValue, now: float) -> None:
        key = self._key(message.key)
        if key is None:
            return
        sequence, audit, properties = message.sequence, self._audit, wire.parse_properties(message.properties)
        previous = audit.previous(sequence, properties)
        if previous is None:
            self._drops.add("invalid")  # the next one, or HUGZ, will show that it is missing
            return
        verdict = self.replica.update(key, sequence, previous, message.body)
        if message.uuid and audit.status is None and b"prev" not in properties:
            # A foreign server knows no other answer. From one of ours, this one comes before it is safe.
            self.sets.acknowledge(message.uuid, sequence, self._reached, now)
        if verdict is Verdict.APPLIED:
            self._applied += 1
            audit.in_order()
            self.sets.reached(sequence, now)
        elif verdict is Verdict.STALE:
            self._drops.add("stale")
        elif verdict is Verdict.GAP:
            audit.jumped()
            self._gap(f"{sequence} follows {previous}", now)
        elif verdict is Verdict.OVERFLOW:
            self._drops.add("kept-overflow")
            self._step(ClientInput.GIVE_UP, now, "more was published than can be kept while its snapshot comes")

    @property
    def _reached(self) -> int:
        return self.replica.last if self.state is ClientState.FOLLOWING else -1

    def _hugz(self, message: wire.KeyValue, now: float) -> None:
        self._heartbeats += 1
        self._server.gives_hugz = True
        audit, reached = self._audit, self.replica.last
        status = wire.status_of(wire.parse_properties(message.properties)) if message.properties else None
        if self.state is not ClientState.FOLLOWING:
            if audit.status is None and status is not None:
                audit.met(status)
                self.sets.resend(now)  # they need not wait for the snapshot
        elif wrong := audit.hugz(message.sequence, status, reached):
            self._gap(wrong, now)
        elif audit.asks(status, reached):
            self._send(self._snapshot, wire.zplast(self._prefix))

    def _answered(self, frames: Frames, now: float) -> None:
        """A message of the snapshot port."""
        count = len(frames)
        if count == 5:
            message = wire.parse_key_value(frames)
            if message is None or message.key == wire.HUGZ or self.state is not ClientState.FETCHING:
                self._drops.add("invalid" if message is None or message.key == wire.HUGZ else "unsolicited")
                return
            self._due_at = now + self._lease
            if message.key == wire.KTHXBAI:
                self._kthxbai(message, now)
                return
            key = self._key(message.key)
            if key is not None and message.body:
                self.replica.pair(key, message.sequence, message.body)
        elif count == 4:
            self._zpack(frames, now)
        else:
            self._zplast(frames)

    def _kthxbai(self, message: wire.KeyValue, now: float) -> None:
        self._audit.snapshot(wire.status_of(wire.parse_properties(message.properties)))
        if self._audit.status is not None:
            self._server.gives_hugz = True  # one of ours does, though this one may be deposed before it has
        if self.replica.finish(message.sequence):
            self._snapshots += 1
            self._events.append(SnapshotTaken(self._endpoint, len(self.replica.entries), message.sequence))
            self._step(ClientInput.COMPLETE, now)
        else:
            self._audit.jumped()
            self._step(ClientInput.INCOMPLETE, now, "an update after the snapshot is missing")

    def _zpack(self, frames: Frames, now: float) -> None:
        ack = wire.parse_zpack(frames)
        if ack is None:
            self._drops.add("invalid")
        elif ack.code == wire.OK:
            if not self.sets.acknowledge(ack.uuid, ack.sequence, self._reached, now):
                self._drops.add("unknown-set")
        elif ack.code == wire.NOT_ACTIVE:
            self.sets.put_off(ack.uuid, now)
            if len(self._servers) > 1:
                self._step(ClientInput.GIVE_UP, now, "it is not the active one")
        elif not self.sets.refuse(ack.uuid, ack.code, ack.sequence, now):
            self._drops.add("unknown-set")

    def _zplast(self, frames: Frames) -> None:
        answer = wire.parse_zplast_answer(frames)
        if answer is None or answer[0] != self._prefix:
            self._drops.add("invalid")
        elif not self._audit.answer(answer[1], self._reached):
            self._drops.add("unsolicited")

    def _key(self, key: bytes) -> str | None:
        if wire.is_key(key) and key.startswith(self._prefix):
            return key.decode()
        self._drops.add("outside" if wire.is_key(key) else "invalid")
        return None

    # States.

    def _step(self, what: ClientInput, now: float, reason: str = "") -> None:
        transition = TRANSITIONS.get((self.state, what))
        if transition is None:
            return
        action, state = transition
        self.state = state
        self._reason = reason
        action(self, now)
        self._tell_state(reason)

    def _gap(self, reason: str, now: float) -> None:
        self._gaps += 1
        self._events.append(GapFound(self.replica.last, reason))
        self._step(ClientInput.GAP, now, reason)

    def _connect(self, now: float) -> None:
        """Subscribe to the current server; the snapshot follows once the subscription is known to be live."""
        self._disconnect()
        self._generation += 1
        endpoints = self._server.endpoints
        self._updates, self._snapshot = f"updates{self._generation}", f"snapshot{self._generation}"
        self._commands += [
            Open(self._updates, SocketKind.SUB, endpoints.publisher),
            # The subtree first: over one connection, HUGZ then proves both. libzmq keeps that order when it connects
            # anew, for it sends its subscriptions sorted, and "/" comes before "H".
            Subscribe(self._updates, self._prefix),
        ]
        if self._prefix:
            self._commands.append(Subscribe(self._updates, wire.HUGZ))
        self._commands.append(Open(self._snapshot, SocketKind.DEALER, endpoints.snapshot))
        self._receivers = {self._updates: self._published, self._snapshot: self._answered}
        self.replica.begin()
        self._audit.begin(same_server=len(self._servers) == 1)
        self._is_live = False
        self._heard_at = now
        self._due_at = now + PATIENCE * self._interval

    def _disconnect(self) -> None:
        if self._receivers:
            self._commands += [Close(self._updates), Close(self._snapshot)]
            self._out.pop(self._updates, None)
            self._out.pop(self._snapshot, None)
            self._receivers = {}

    def _ask(self, now: float) -> None:
        self._is_blind = not self._is_live
        self.replica.discard_snapshot()
        # One that has said nothing at all is down, or passive: if there are others, they are not to wait for it long.
        is_hopeful = self._is_live or len(self._servers) == 1
        self._due_at = now + (self._lease if is_hopeful else PATIENCE * self._interval)
        self.sets.snapshot_asked()
        self._send(self._snapshot, wire.icanhaz(self._prefix))

    def _follow(self, now: float) -> None:
        """The map is the server's now."""
        self._given_up = 0
        self._heard_at = self._following_since = now
        self._due_at = None
        self.sets.reached(self.replica.last, now)
        self.sets.resend(now)

    def _fall_behind(self, now: float) -> None:
        if not self.replica.is_keeping:
            self.replica.begin()
        followed, self._following_since = now - self._following_since, math.inf
        if followed >= self._lease:
            self._backoff.reset()
        self._due_at = now if followed >= self._lease else now + self._backoff.delay()

    def _give_up(self, now: float) -> None:
        """Turn to the next server of the list, which may be the same."""
        self._failovers += 1
        self._given_up += 1
        self._events.append(ServerGivenUp(self._endpoint, self._reason))
        self._current = (self._current + 1) % len(self._servers)
        self._connect(now)

    def _shut(self, now: float) -> None:
        self._disconnect()
        linger = GOODBYE if self._posted else 0.0
        self._commands += [Close(f"sets{number}", linger) for number in range(len(self._servers))]
        self._due_at = None

    def _tell_state(self, reason: str) -> None:
        # A whole round without an answer is remembered until there is one.
        is_lost = self._given_up >= len(self._servers) or self.public_state is CloneState.LOST
        if self.state is ClientState.FOLLOWING:
            state = CloneState.CONNECTED
        else:
            state = CloneState.LOST if is_lost or self.state is ClientState.CLOSED else CloneState.SUSPENDED
        if state is not self.public_state:
            self.public_state = state
            self._events.append(StateChanged(state, reason))

    # Messages out.

    def _send_set(self, each: Set, now: float) -> bool:
        if self._audit.status is not None:
            frames = wire.zpset(each.uuid, each.key, each.value, ttl=each.ttl, if_sequence=each.if_sequence)
            self._send(self._snapshot, frames)
            return True
        if not self._audit.is_foreign:
            return False
        if each.if_sequence is not None:
            self.sets.fail(each, "501", "the server does not know compare-and-set: it is not one of ours", now)
            return True
        self._send_kvset(each.key, each.uuid, each.value, each.ttl)
        return True

    def _send_kvset(self, key: bytes, uuid: bytes, value: bytes, ttl: int) -> None:
        # The Guide's server reads garbage where there is no ttl.
        frames = wire.key_value(key, 0, uuid, wire.ttl_property(ttl), value)
        for number in range(len(self._servers)):
            self._send(f"sets{number}", list(frames))

    def _send(self, port: PortId, frames: Frames) -> None:
        self._out.setdefault(port, []).append(frames)

    def ports_to_send(self) -> Collection[PortId]:
        return self._out

    def messages_to_send(self, port: PortId) -> list[Frames]:
        return self._out.pop(port, [])

    def wants_to_read(self, port: PortId) -> bool:
        return True

    def commands(self) -> list[Command]:
        if self.replica.watched and (changes := self.replica.changes()):
            self._commands.append(Changed(changes))
        commands = self._commands[:]
        self._commands.clear()
        return commands

    def send_failed(self, port: PortId, frames: Frames, reason: SendFailure, now: float) -> None:
        self._drops.add(f"unsent-{reason.value}")
        if port == self._snapshot and frames[0] == wire.ZPSET:
            self.sets.put_off(frames[1], now)

    # Time.

    def next_timer(self) -> float | None:
        times = [self._due_at, self.sets.next_timer()]
        if self.state is ClientState.FOLLOWING and self._server.gives_hugz:
            times.append(self._heard_at + self._lease)
        return min((when for when in times if when is not None), default=None)

    def handle_timer(self, now: float) -> None:
        due = self._due_at is not None and self._due_at <= now
        if self.state is ClientState.FOLLOWING:
            if self._server.gives_hugz and self._heard_at + self._lease <= now:
                self._step(ClientInput.GIVE_UP, now, f"nothing was heard of it for {self._lease:.3g} s")
        elif due and self.state is ClientState.JOINING:
            self._step(ClientInput.PATIENCE_OVER, now)
        elif due and self.state is ClientState.BEHIND:
            self._step(ClientInput.RETRY, now)
        elif due:
            self._step(ClientInput.GIVE_UP, now, "its snapshot did not begin, or did not go on, in time")
        self.sets.handle_timer(now)

    # Telling.

    @property
    def _server(self) -> _Server:
        return self._servers[self._current]

    @property
    def _endpoint(self) -> str:
        return self._server.endpoints.snapshot

    def events(self) -> list[Event]:
        self._drops.tell(self._events)
        events, self._events = self._events, []
        return events

    def statistics(self) -> ClientStatistics:
        sets = self.sets
        return ClientStatistics(
            updates=self._applied,
            heartbeats=self._heartbeats,
            snapshots=self._snapshots,
            gaps=self._gaps,
            failovers=self._failovers,
            sets=sets.started,
            acknowledged=sets.acknowledged,
            errors=sets.errors,
            timeouts=sets.timeouts,
            cancelled=sets.cancelled,
            sent=sets.sends,
            posted=self._posted,
            keys=len(self.replica.entries),
            sequence=self.replica.last,
            kept=self.replica.kept,
            sets_open=len(sets),
            sets_in_flight=sets.in_flight,
            dropped=dict(self._drops.totals),
        )

    def check_invariants(self) -> None:
        replica = self.replica
        assert replica.is_keeping != (self.state is ClientState.FOLLOWING) or self.state is ClientState.CLOSED
        assert replica.kept <= self.options.kept_max and replica.kept_bytes <= self.options.kept_bytes_max
        assert all(value for value, _ in replica.entries.values())
        assert all(key.startswith(self.subtree) for key in replica.entries)
        waits = self.state in (ClientState.JOINING, ClientState.FETCHING, ClientState.BEHIND)
        assert (self._due_at is not None) == waits
        assert (self.public_state is CloneState.CONNECTED) == (self.state is ClientState.FOLLOWING)
        self.sets.check_invariants()


_Action: TypeAlias = Callable[[ClientCore, float], None]

TRANSITIONS: Mapping[tuple[ClientState, ClientInput], tuple[_Action, ClientState]] = {
    (ClientState.CLOSED, ClientInput.START): (ClientCore._connect, ClientState.JOINING),
    (ClientState.JOINING, ClientInput.PROOF): (ClientCore._ask, ClientState.FETCHING),
    (ClientState.JOINING, ClientInput.PATIENCE_OVER): (ClientCore._ask, ClientState.FETCHING),
    (ClientState.JOINING, ClientInput.GIVE_UP): (ClientCore._give_up, ClientState.JOINING),
    (ClientState.JOINING, ClientInput.CLOSE): (ClientCore._shut, ClientState.CLOSED),
    (ClientState.FETCHING, ClientInput.COMPLETE): (ClientCore._follow, ClientState.FOLLOWING),
    (ClientState.FETCHING, ClientInput.INCOMPLETE): (ClientCore._fall_behind, ClientState.BEHIND),
    (ClientState.FETCHING, ClientInput.GIVE_UP): (ClientCore._give_up, ClientState.JOINING),
    (ClientState.FETCHING, ClientInput.CLOSE): (ClientCore._shut, ClientState.CLOSED),
    (ClientState.FOLLOWING, ClientInput.GAP): (ClientCore._fall_behind, ClientState.BEHIND),
    (ClientState.FOLLOWING, ClientInput.GIVE_UP): (ClientCore._give_up, ClientState.JOINING),
    (ClientState.FOLLOWING, ClientInput.CLOSE): (ClientCore._shut, ClientState.CLOSED),
    (ClientState.BEHIND, ClientInput.RETRY): (ClientCore._ask, ClientState.FETCHING),
    (ClientState.BEHIND, ClientInput.GIVE_UP): (ClientCore._give_up, ClientState.JOINING),
    (ClientState.BEHIND, ClientInput.CLOSE): (ClientCore._shut, ClientState.CLOSED),
}
