"""A service and the state machine that decides whether it serves, as one core. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import ClassVar

from zpatterns.bstar.bstar_core import StarCore
from zpatterns.bstar.bstar_state import StarOptions, StarStatistics, Verdict
from zpatterns.bstar.wire import ACTIVE, PASSIVE, PeerState
from zpatterns.core import Command, Drops, Event, Frames, PortId, SendFailure
from zpatterns.paired_core import Ballot, PairedCore, Peer, Told

_OWN = frozenset(StarCore.PORTS)


class PairCore:
    """Half of a pair: what comes for the service it hosts goes through while it is active, else it is counted as votes.

    Beside its own ports it has those of the service. While it is not known yet whether it serves, since the fence was
    asked or `on_active` runs, nothing more is read for the service, and what was read is kept.
    """

    PORTS: ClassVar[tuple[str, ...]] = StarCore.PORTS

    hosted: PairedCore
    """The service's. It is given to the pair before anything else is done with that."""

    def __init__(self, options: StarOptions) -> None:
        self.star = StarCore(options, self)
        self._held: list[tuple[PortId, list[Frames]]] = []
        self._drops = Drops()

    # The state machine's application.

    @property
    def has_copy(self) -> bool:
        return self.hosted.has_copy

    def told(self) -> Told:
        return self.hosted.told()

    def peer_told(self, peer: PeerState, now: float) -> None:
        remote = self.star.options.remote
        place = "tcp://127.0.0.1" if remote.startswith("ipc://") else remote.rpartition(":")[0]
        is_active, is_passive = peer.state == ACTIVE, peer.state == PASSIVE
        self.hosted.peer_told(Peer(place, is_active, is_passive, peer.epoch or 0, peer.told), now)

    def peer_lost(self, now: float) -> None:
        self.hosted.peer_lost(now)

    def take_over(self, now: float) -> None:
        """Serve from now on, what was kept first."""
        self.hosted.epoch = self.star.epoch
        self.hosted.take_over(now)
        held, self._held = self._held, []
        for port, batch in held:
            self.hosted.receive_many(batch, now, port)

    def stand_by(self, now: float) -> None:
        """Serve nobody from now on; what was kept is refused."""
        self.hosted.stand_by(now)
        held, self._held = self._held, []
        for port, batch in held:
            self.hosted.receive_many(self._without_dropped_votes(batch, port), now, port)

    def _without_dropped_votes(self, batch: list[Frames], port: PortId) -> list[Frames]:
        passed = [frames for frames in batch if self.hosted.ballot(frames, port) is not Ballot.DROPPED]
        for _ in range(len(batch) - len(passed)):
            self._drops.add("refused")
        return passed

    # Messages in.

    def receive_many(self, batch: Iterable[Frames], now: float, port: PortId) -> None:
        star = self.star
        if port in _OWN:
            star.receive_many(batch, now, port)
            return
        star.look(now)
        if star.serving:
            self.hosted.receive_many(batch, now, port)
        else:
            self._count_votes(list(batch), now, port)

    def _count_votes(self, batch: list[Frames], now: float, port: PortId) -> None:
        hosted, star = self.hosted, self.star
        passed: list[Frames] = []
        for at, frames in enumerate(batch):
            ballot = hosted.ballot(frames, port)
            if ballot is not Ballot.NONE:
                verdict = star.vote(now)
                if verdict is Verdict.SERVE:
                    hosted.receive_many(passed + batch[at:], now, port)
                    return
                if verdict is Verdict.HOLD:
                    self._held.append((port, batch[at:]))
                    break
                if ballot is Ballot.DROPPED:
                    self._drops.add("refused")
                    continue
            passed.append(frames)
        if passed:
            hosted.receive_many(passed, now, port)

    # Messages out.

    def ports_to_send(self) -> Collection[PortId]:
        return [*self.star.ports_to_send(), *self.hosted.ports_to_send()]

    def messages_to_send(self, port: PortId) -> list[Frames]:
        return self.star.messages_to_send(port) if port in _OWN else self.hosted.messages_to_send(port)

    def wants_to_read(self, port: PortId) -> bool:
        return port in _OWN or (not self.star.pending and self.hosted.wants_to_read(port))

    def commands(self) -> list[Command]:
        return self.star.commands() + self.hosted.commands()

    def send_failed(self, port: PortId, frames: Frames, reason: SendFailure, now: float) -> None:
        if port in _OWN:
            self.star.send_failed(port, frames, reason, now)
        else:
            self.hosted.send_failed(port, frames, reason, now)

    # Time.

    def next_timer(self) -> float | None:
        mine, its = self.star.next_timer(), self.hosted.next_timer()
        if mine is None or its is None:
            return its if mine is None else mine
        return min(mine, its)

    def handle_timer(self, now: float) -> None:
        self.star.handle_timer(now)
        self.hosted.handle_timer(now)

    # The end.

    def drain(self, now: float) -> None:
        """Begin nothing more; the other half is to take over when what was begun is finished."""
        self.star.close(now)
        self.hosted.drain(now)

    @property
    def drained(self) -> bool:
        return self.hosted.drained

    def leave(self, now: float) -> None:
        """Hand over to the other half."""
        self.star.leave(now)

    def shut_down(self, now: float) -> None:
        self.star.leave(now)
        self.hosted.shut_down(now)

    # Telling.

    def events(self) -> list[Event]:
        told = self.star.events()
        self._drops.tell(told)
        return told + self.hosted.events()

    def statistics(self) -> StarStatistics:
        return self.star.statistics()

    def check_invariants(self) -> None:
        self.star.check_invariants()
        self.hosted.check_invariants()
        assert self.star.pending or not self._held, "what was kept is forgotten"
