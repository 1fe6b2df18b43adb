"""One half of a Binary Star pair as a state machine (Guide chapter 4, "High-Availability Pair"). Pure.

Each half publishes its state once a heartbeat and hears the other's. Who serves is decided by those states and by
votes: requests that clients bring to this side, because they had no answer on the other. Where the Guide's gives up,
ours goes on: two actives become one, two passives become one active, and an active that stood still gives way first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import ClassVar

from zpatterns.bstar import events, wire
from zpatterns.bstar.bstar_state import (
    DIGITS,
    HEARD,
    STATES,
    TRANSITIONS,
    Action,
    Application,
    Grant,
    Input,
    StarOptions,
    StarStatistics,
    State,
    Verdict,
    compare_copies,
    differences,
)
from zpatterns.bstar.lease_core import ON_ACTIVE, ON_PASSIVE, Lease
from zpatterns.bstar.wire import PeerState
from zpatterns.core import (
    Close,
    Command,
    Drops,
    Errand,
    Event,
    Frames,
    Open,
    PortId,
    SendFailure,
    SocketKind,
    Subscribe,
)
from zpatterns.paired_core import NOTHING

STATE = "state"
"""The PUB on which our state goes out."""

PEER = "peer"
"""The SUB on which the other's state comes in."""

CONTROL = "control"
"""The ROUTER for operators."""

CONNECTING = 1.0
"""Seconds that a connection to the other node is given, however short the lease is: on a long line it takes some."""

TICKS = 4
"""Turns in each heartbeat interval, so that one knows how long one stood still."""


class StarCore:
    """Decides whether this half of the pair serves, and tells its `application`."""

    PORTS: ClassVar[tuple[str, ...]] = (STATE, PEER, CONTROL)

    def __init__(self, options: StarOptions, application: Application) -> None:
        self.options = options
        self._application = application
        liveness = options.liveness
        self._interval = liveness.interval
        self._lease = liveness.lease
        self._stall_max = (liveness.liveness - 1) * liveness.interval
        self._fence = Lease(
            patience=liveness.lease,
            pause=liveness.interval / TICKS,
            longest_turn=liveness.interval if options.longest_turn is None else options.longest_turn,
            do=self._do,
        )
        self.state = State.PRIMARY if options.primary else State.BACKUP
        self.serving = False
        self.epoch = 0
        self._seen_epoch = 0  # the highest that anybody told
        self._was_active = False
        self._told_passive = False
        self._closing = self._left = False
        self._peer: PeerState | None = None
        self._peer_expiry = self._heard_at = self._last_now = float("-inf")
        self._peer_silent = True
        self._both_passive_since: float | None = None
        self._is_split = False
        self._differences: dict[str, tuple[str, str]] = {}
        self._heartbeat_at = self._reopen_at = float("inf")
        self._tick_at: float | None = None
        self._actions = {
            Action.BECOME_ACTIVE: self._become_active,
            Action.BECOME_PASSIVE: self._become_passive,
            Action.MAKE_WAY: self._make_way,
            Action.GIVE_UP: self._give_up,
        }
        self._out: dict[PortId, list[Frames]] = {STATE: [], CONTROL: []}
        self._commands: list[Command] = []
        self._events: list[Event] = []
        self._drops = Drops()
        self._activations = self._step_downs = self._two_actives = self._stalls = 0
        self._refused = self._heartbeats = self._heard = 0

    # What the front end asks for.

    def start(self, now: float) -> None:
        """Begin: listen to the other node, tell it our state, and stand by."""
        self._last_now = self._heard_at = self._heartbeat_at = self._tick_at = now
        # "The first expiry is start + one lease": who was just started cannot know that the other is dead.
        self._peer_expiry = now + self._lease
        self._listen(now)
        self._application.stand_by(now)

    def promote(self, now: float) -> tuple[bytes, str]:
        """Become active now, whatever the other node is; it gives way as soon as it hears our higher epoch.

        Returns a code and a text: 200, it is; 202, the fence is asked first; 409, it cannot be.
        """
        self.look(now)
        if self._is_active:
            return wire.OK, "it is active already"
        if self._closing:
            return wire.REFUSED, "it is being stopped"
        if now < self._peer_expiry and not self._application.has_copy:
            return wire.REFUSED, "it has no full copy yet of what the other node serves with"
        peer = self._peer
        if peer is not None and peer.state == wire.ACTIVE and peer.epoch is None and now < self._peer_expiry:
            # The Guide's server ends when it hears of another active.
            return wire.REFUSED, "the other node is active and knows no epochs, so it cannot give way: stop it first"
        self._step(Input.PROMOTE, now, "promoted by an operator")
        if self._is_active:
            return wire.OK, f"it is active with epoch {self.epoch}"
        if self._fence.asking is not None:
            return wire.ACCEPTED, "the fence is asked for the lease"
        return wire.REFUSED, "the fence was asked a moment ago and gave no lease"

    def step_down(self, now: float, reason: str) -> None:
        """Give up being active, if it is; the other node, if it is there, takes over at once."""
        if self.state is State.ACTIVE:
            # The other is given the time to take over before a request may bring us back.
            self._peer_expiry = max(self._peer_expiry, now + self._lease)
        self._stop_asking(now)
        self._step(Input.PRIMARY_YIELDS if self.options.primary else Input.BACKUP_YIELDS, now, reason)

    def close(self, now: float) -> None:
        """Do not become active any more; an active that does not serve yet never will."""
        self._closing = True
        self._stop_asking(now)
        if not self.serving:
            self.step_down(now, "it is being stopped")

    def leave(self, now: float) -> None:
        """Hand over to the other node and say nothing more."""
        self.close(now)
        self.step_down(now, "it is being stopped")
        if not self._left:
            self._left = True
            # Nothing it says matters any more; and a socket that looks for one that is gone would linger.
            self._commands.append(Close(PEER))

    def activated(self, epoch: int, ok: bool, now: float) -> None:
        """The errand ``on-active`` of `epoch` was done; not `ok`: it raised."""
        self.look(now)
        if self.state is not State.ACTIVE or epoch != self.epoch or self.serving:
            return  # something else has happened since
        if ok:
            self._serve(now)
        else:
            self.step_down(now, "on_active raised")

    def lease_acquired(self, epoch: int, grant: Grant | None, now: float) -> None:
        """The fence's answer to the errand ``acquire`` of `epoch`: a lease, or None where another has it."""
        self.look(now)
        asking = self._fence.answered(epoch, grant, now)
        if asking is not None and grant is not None and grant.epoch > max(self._seen_epoch, self.epoch):
            self._step(asking.what, now, "the fence gave the lease")
            return
        if asking is not None:
            self._fence.give_back()  # the other node has been active since we asked
        if self._fence.asking is None and self.state is not State.ACTIVE:
            self._lease_refused(epoch, now)

    def _lease_refused(self, epoch: int, now: float) -> None:
        self._events.append(events.LeaseRefused(epoch))
        self._application.stand_by(now)

    def lease_renewed(self, epoch: int, seconds: float | None, now: float) -> None:
        """The fence renewed the lease of `epoch` for so many seconds from when it was asked, or (None) refused it."""
        self.look(now)
        if not self._fence.renewed(epoch, seconds):
            self.step_down(now, "the fence did not renew the lease")

    def lease_unanswered(self, epoch: int, now: float) -> None:
        """The fence did not answer a renewal: it is asked again, until the lease runs out."""
        self._fence.unrenewed(epoch, now)

    # Votes.

    @property
    def pending(self) -> bool:
        """Whether it will soon be known if this node serves: the fence was asked, or `on_active` runs."""
        return self._fence.asking is not None or (self.state is State.ACTIVE and not self.serving)

    def look(self, now: float) -> None:
        """Before anything else is done in a turn: did we stand still, or has our lease run out?"""
        gap = now - self._last_now
        self._last_now = now
        if gap > self._stall_max:
            self._stood_still(gap, now)
        if now >= self._fence.serve_until:
            self.step_down(now, "the lease of the fence has run out")

    def vote(self, now: float) -> Verdict:
        """A client or worker asks this side to serve. Call :meth:`look` before."""
        if self.state is not State.ACTIVE and self._application.has_copy:
            self._step(self._request(now), now, "asked to serve while the other node is silent")
        if self.serving:
            return Verdict.SERVE
        if self.pending:
            return Verdict.HOLD
        self._refused += 1
        return Verdict.REFUSE

    def _request(self, now: float) -> Input:
        if now < self._peer_expiry:
            return Input.REQUEST
        # A backup that was active since its start knows what it would go on with; any other waits for its primary.
        lone = self.options.lone_backup_after
        if self.state is State.BACKUP and (self._was_active or (lone is not None and now - self._heard_at >= lone)):
            return Input.REQUEST_ALONE
        return Input.REQUEST_PEER_DEAD

    # The machine.

    def _step(self, what: Input, now: float, reason: str) -> None:
        action, after = TRANSITIONS[self.state, what]
        if after is State.ACTIVE and self.state is not State.ACTIVE:
            if self._closing:
                return
            if self.options.has_fence and self._fence.epoch is None:
                self._fence.ask(self._next_epoch(), what, now)
                return
        before, self.state = self.state, after
        if action is not None:
            self._actions[action](now, reason)
        if after is not before:
            self._both_passive_since = None
            self._publish(now)

    def _become_active(self, now: float, reason: str) -> None:
        self.epoch = self._next_epoch() if self._fence.epoch is None else self._fence.epoch
        self._was_active = True
        self._told_passive = self._is_split = False
        self._activations += 1
        self._events.append(events.BecameActive(self.epoch, reason))
        if self.options.has_hooks:
            self._commands.append(Errand(ON_ACTIVE, self.epoch))
        else:
            self._serve(now)

    def _become_passive(self, now: float, reason: str) -> None:
        self._events.append(events.BecamePassive(self.epoch, reason))
        self._stand_by(now)

    def _make_way(self, now: float, reason: str) -> None:
        self._events.append(events.MadeWay(reason))

    def _give_up(self, now: float, reason: str) -> None:
        """From active to passive or waiting."""
        self._step_downs += 1
        self._events.append(events.SteppedDown(self.epoch, reason))
        self._stand_by(now)

    def _stand_by(self, now: float) -> None:
        self.serving = False
        self._application.stand_by(now)
        if self.options.has_hooks and not self._told_passive:
            self._commands.append(Errand(ON_PASSIVE, self.epoch))
        self._told_passive = True
        self._fence.give_back()  # behind on_passive, so that the next holder begins when we have ended

    def _serve(self, now: float) -> None:
        self.serving = True
        self._application.take_over(now)

    def _next_epoch(self) -> int:
        # What the application holds may be from an earlier life of this node.
        known = max(self.epoch, self._seen_epoch, self._application.told().copy.epoch)
        return min(known + 1, wire.EPOCH_MAX)

    def _stood_still(self, seconds: float, now: float) -> None:
        self._stalls += 1
        self._events.append(events.StoodStill(seconds))
        # What the other said meanwhile waits unread: hear it out before judging.
        self._peer_expiry = max(self._peer_expiry, now + self._lease)
        self.step_down(now, f"stood still for {seconds:.3g} s")

    def _stop_asking(self, now: float) -> None:
        if self._fence.asking is not None:
            self._fence.asking = None
            self._application.stand_by(now)

    def _do(self, command: Command) -> None:
        self._commands.append(command)

    # Messages in.

    def receive_many(self, batch: Iterable[Frames], now: float, port: PortId) -> None:
        self.look(now)
        for frames in batch:
            if port == PEER:
                self._hear(frames, now)
            elif port == CONTROL:
                self._control(frames, now)

    def _hear(self, frames: Frames, now: float) -> None:
        peer = wire.parse(frames)
        if peer is None:
            self._drops.add("invalid")
            return
        self._heard += 1
        self._peer = peer
        self._heard_at = now
        self._peer_expiry = max(self._peer_expiry, now + self._lease)
        self._seen_epoch = max(self._seen_epoch, peer.epoch or 0)
        state = STATES[peer.state]
        if self._peer_silent:
            self._peer_silent = False
            self._events.append(events.PeerHeard(state.value))
        self._compare(peer, state)
        what = HEARD[state]
        if what is Input.PEER_ACTIVE and self.state is State.ACTIVE:
            what = self._settle_two_actives(peer)
        elif what is Input.PEER_PASSIVE and self.state is State.PASSIVE:
            what = self._count_two_passives(now)
        else:
            self._is_split = False
            self._both_passive_since = None
        if what is Input.PEER_ACTIVE:
            self._stop_asking(now)
        what = compare_copies(what, self.options.primary, self._application.told(), peer.told)
        self._step(what, now, f"the {what.value}")
        self._application.peer_told(peer, now)

    def _settle_two_actives(self, peer: PeerState) -> Input:
        theirs = peer.epoch or 0
        stays = (self.epoch, self.options.primary) > (theirs, not self.options.primary)
        if not self._is_split or not stays:
            self._is_split = True
            self._two_actives += 1
            self._events.append(events.TwoActives(stays, self.epoch, theirs))
        return Input.PEER_OUTRANKED if stays else Input.PEER_ACTIVE

    def _count_two_passives(self, now: float) -> Input:
        if self._both_passive_since is None:
            self._both_passive_since = now
        elif self.options.primary and now - self._both_passive_since >= self._lease:
            return Input.PEER_STUCK
        return Input.PEER_PASSIVE

    def _compare(self, peer: PeerState, state: State) -> None:
        """Report each difference once, until it changes."""
        before, self._differences = self._differences, differences(self.options, peer, state)
        for what, (ours, theirs) in self._differences.items():
            if before.get(what) != (ours, theirs):
                self._events.append(events.PeerDiffers(what, ours, theirs))

    def _control(self, frames: Frames, now: float) -> None:
        depth = 2 if len(frames) > 2 and not frames[1] else 1
        if len(frames) != depth + 1:
            self._drops.add("invalid")
            return
        if frames[depth] == wire.STATUS:
            answer = [wire.OK, json.dumps(self.statistics().status()).encode()]
        elif frames[depth] == wire.PROMOTE:
            code, text = self.promote(now)
            answer = [code, text.encode()]
        else:
            answer = [wire.UNKNOWN, b"ask for 'status' or 'promote'"]
        self._out[CONTROL].append([*frames[:depth], *answer])

    # Messages out.

    def _publish(self, now: float) -> None:
        if not self._left:
            liveness = self.options.liveness
            told = self._application.told()
            peer = self._peer
            if self._closing and peer is not None and peer.told.copy.epoch >= told.copy.epoch:
                # It will not serve with what it holds. Who has less waits for it to come back: it may be in its store.
                told = told._replace(copy=NOTHING)
            frame = wire.build(DIGITS[self.state], self.epoch, liveness.interval, liveness.liveness, told)
            # Only the latest state is news: what a node became and ceased to be within one turn nobody needs to hear.
            self._out[STATE] = [frame]
            self._heartbeats += 1
            self._heartbeat_at = now + self._interval

    def ports_to_send(self) -> list[PortId]:
        return [port for port, messages in self._out.items() if messages]

    def messages_to_send(self, port: PortId) -> list[Frames]:
        messages = self._out.get(port, [])
        if messages:
            self._out[port] = []
        return messages

    def wants_to_read(self, port: PortId) -> bool:
        return True

    def commands(self) -> list[Command]:
        commands, self._commands = self._commands, []
        return commands

    def send_failed(self, port: PortId, frames: Frames, reason: SendFailure, now: float) -> None:
        if port == CONTROL:
            self._drops.add(f"client-{reason.value}")

    def _listen(self, now: float) -> None:
        self._commands += [Open(PEER, SocketKind.SUB, self.options.remote), Subscribe(PEER, b"")]
        self._reopen_at = now + max(self._lease, CONNECTING)

    # Time.

    def next_timer(self) -> float | None:
        return self._tick_at

    def handle_timer(self, now: float) -> None:
        self.look(now)
        if self._tick_at is None or now < self._tick_at:
            return
        tick = self._interval / TICKS
        self._tick_at = now + tick
        if now + tick / 2 >= self._heartbeat_at:
            self._publish(now)
        self._fence.tend(now)
        unanswered = self._fence.unanswered(now)
        if unanswered is not None:
            self._lease_refused(unanswered.epoch, now)
        if now >= self._peer_expiry:
            if not self._peer_silent:
                self._peer_silent = True
                self._events.append(events.PeerSilent(now - self._heard_at))
                self._application.peer_lost(now)
            if now >= self._reopen_at and not self._left:
                # A connection to a machine that lost its power says nothing for long: a new one finds out.
                self._listen(now)

    # Telling.

    @property
    def _is_active(self) -> bool:
        return self.state is State.ACTIVE

    @property
    def _role(self) -> str:
        return "primary" if self.options.primary else "backup"

    def events(self) -> list[Event]:
        self._drops.tell(self._events)
        told, self._events = self._events, []
        return told

    def statistics(self) -> StarStatistics:
        peer = self._peer
        return StarStatistics(
            role=self._role,
            state=self.state.value,
            epoch=self.epoch,
            serving=self.serving,
            peer_state="" if peer is None else STATES[peer.state].value,
            peer_epoch=None if peer is None else peer.epoch,
            peer_silent=self._peer_silent,
            activations=self._activations,
            step_downs=self._step_downs,
            two_actives=self._two_actives,
            stalls=self._stalls,
            refused=self._refused,
            heartbeats=self._heartbeats,
            heard=self._heard,
            dropped=dict(self._drops.totals),
        )

    def check_invariants(self) -> None:
        assert not self.serving or self.state is State.ACTIVE, "it serves and is not active"
        assert self.state is not (State.BACKUP if self.options.primary else State.PRIMARY), "it has the other's role"
        assert self.state is not State.ACTIVE or self.epoch > 0
        assert self._fence.epoch is None or self.state is State.ACTIVE, "it keeps a lease and is not active"
        if self.options.has_fence:
            assert self.state is not State.ACTIVE or self._fence.epoch == self.epoch, "it is active without a lease"
            assert self._fence.asking is None or self.state is not State.ACTIVE, "it asks for what it has"
