"""A network of ZeroMQ sockets in one thread: what libzmq and TCP do to messages, from a seed.

The rules, each libzmq's own (pipe.cpp, session_base.cpp, router.cpp, lb.cpp, fq.cpp):

- A connection is a pipe each way: first in, first out, nothing twice. Each holds up to the high-water mark at either
  end, with some on the wire between; a full one has room again once half of it was taken.
- A DEALER with IMMEDIATE has no pipe until it is connected. When a connection breaks, what it had not sent is lost, and
  what it had received but not been asked for is, too. A connection that was accepted may still be read to its end.
- A peer that comes back has a new routing id. A mandatory ROUTER refuses a peer that is gone and one that is full; that
  one is gone it learns when it next looks at its commands, and until then takes messages that nobody gets.
- A ROUTER that connects to a peer by an id of its own has its pipe at once, and keeps it when a connection breaks: what
  was not sent goes out over the next one.
- Closing with LINGER 0 drops what was not sent; what is on the wire may still arrive, or a part of it.
- A PUB sends to those whose subscription has arrived, and drops for those who are full.
- The descriptor says that a command came, once; reading the socket's events takes the signal away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from zpatterns.testing.clock import Chance, FakeClock, cancel
from zpatterns.testing.simsocket import ATTACH, LOST, ONE_PEER, READ, WRITE, Connector, End, Host, SimSocket


class _Eof:
    """Stands on the wire for the end of the connection."""


_EOF: Final = _Eof()


class Network:
    """All connections of a world, and what is wrong with the paths between its hosts."""

    def __init__(self, clock: FakeClock, chance: Chance) -> None:
        self.clock = clock
        self.chance = chance
        self.listeners: dict[str, SimSocket] = {}
        self.hosts: dict[str, Host] = {}
        self.ends: list[End] = []
        self.window = chance.pick((2, 16, 100))
        """Messages that the wire and the kernels hold, for each direction of a connection."""
        self.latency_max = chance.pick((0.0005, 0.005, 0.05))
        self.dark: set[str] = set()
        """Hosts without power: they send not even a refusal."""
        self.midway = 0.0
        """How often a connection breaks between two frames of one message."""
        self._latencies: dict[tuple[str, str], float] = {}
        self._cuts: dict[tuple[str, str], int] = {}
        self._cut_at: dict[tuple[str, str], float] = {}
        self._slow: dict[tuple[str, str], float] = {}
        self._ids = chance.getrandbits(31)

    # Paths.

    def latency(self, source: Host, target: Host) -> float:
        """Seconds that a message needs from one host to another."""
        path = (source.name, target.name)
        latency = self._latencies.get(path)
        if latency is None:
            latency = self._latencies[path] = self.latency_max * (0.2 + 0.8 * self.chance.random())
        return latency

    def is_cut(self, source: Host, target: Host) -> bool:
        """Whether nothing gets through in this direction."""
        return (source.name, target.name) in self._cuts

    def cut(self, source: str, target: str) -> None:
        """From now on nothing gets through in this direction; TCP waits, and in the end gives up."""
        path = (source, target)
        self._cuts[path] = self._cuts.get(path, 0) + 1
        if self._cuts[path] == 1:
            now = self._cut_at[path] = self.clock.now()
            for end in self._between(source, target):
                for side in (end, end.peer):  # one hears nothing, the other no answer
                    self._watch(side, lambda: self._cut_at.get(path) == now)

    def heal(self, source: str, target: str, delay: float) -> None:
        """Undo one :meth:`cut`; what waits arrives within `delay` seconds, when TCP tries again."""
        path = (source, target)
        self._cuts[path] -= 1
        if not self._cuts[path]:
            del self._cuts[path], self._cut_at[path]
            for end in self._between(source, target):
                if end.held:
                    self.clock.call_later(self.chance.random() * delay, self.release, end)

    def throttle(self, source: str, target: str, seconds: float) -> None:
        """Let each message in this direction take `seconds` of the line; 0 undoes it."""
        if seconds:
            self._slow[source, target] = seconds
        elif self._slow.pop((source, target), None):
            for end in self._between(source, target):
                self._hasten(end)

    # Connections.

    def join(self, connector: Connector, listener: SimSocket) -> End:
        """A handshake has succeeded."""
        socket = connector.socket
        near, far = End(socket, connector), End(listener, None)
        near.peer, far.peer = far, near
        near.connected = far.connected = True
        self._ids = (self._ids + 1) & 0xFFFFFFFF
        far.peer_id = b"\0" + self._ids.to_bytes(4, "big")
        if len(self.ends) > 64:
            self.ends = [end for end in self.ends if not ((end.gone or end.over) and (end.peer.gone or end.peer.over))]
        self.ends += (near, far)
        listener.post(ATTACH, far)
        if connector.peer_id:
            connector.made(near)
        else:
            socket.post(ATTACH, near)
        for end in (near, far):
            for prefix in end.socket._subscriptions:
                self.write(end, (prefix,))
        return near

    def write(self, end: End, frames: Any) -> None:
        """libzmq takes one message."""
        end.written += 1
        if end.out or end.over or end.host.paused_at is not None or len(end.wire) >= self.window:
            end.out.append(frames)
            self._pump(end)
            return
        self._put(end, frames, self.clock.time)
        if end.flying is None and not end.held:
            self._fly(end)

    def resume(self, end: End) -> None:
        """What libzmq took before there was a connection goes out."""
        self._pump(end)

    def reset(self, end: End) -> None:
        """Break the connection of `end` in both directions; of what was on the wire, some still arrives."""
        for side in (end, end.peer):
            self._truncate(side, side.wire, 0)
            self._finish(side)

    def breaks_midway(self, end: End) -> bool:
        """Whether the connection breaks here and now, within a message."""
        if end.connector is not None and end.connector.peer_id:
            return False  # such a pipe is kept, and with it the message
        if not self.midway or not self.chance.happens(self.midway):
            return False
        self._truncate(end, end.wire, 0)
        self._finish(end)
        self._lose(end)
        end.socket.process()
        return True

    def kill(self, host: Host, silently: bool) -> None:
        """The process of `host` is gone. `silently`: with its machine, so that nobody is told."""
        for socket in [socket for socket in self.listeners.values() if socket.host is host]:
            socket.die()
        for end in self.ends:
            if end.host is host and not end.gone:
                end.gone = True
                end.out.clear()
                if silently:
                    end.silent = True
                    self._watch(end.peer, lambda: True)
                    continue
                if end.peer.wire or end.inbox:
                    self._truncate(end, end.wire, 0)
                self._finish(end)

    def back(self, host: Host) -> None:
        """The machine of `host` has power again. Who still tries to send to its old process finds out."""
        self.dark.discard(host.name)
        for end in self.ends:
            if end.held and end.peer.silent and end.peer.host is host:
                self.clock.call_later(0.5 * self.chance.random(), self.release, end)

    def hush(self, host: Host) -> None:
        """The process of `host` has been stopped: its kernel still answers, but takes no more than it has room
        for, and who is connected to it alone gives up when that was so for long: here always, as if it were full."""
        since = host.paused_at
        for end in self.ends:
            if end.host is host and not end.gone and end.peer.socket.kind in ONE_PEER:
                self._watch(end.peer, lambda: host.paused_at == since)

    def wake(self, host: Host) -> None:
        """The process of `host` goes on, and with it its io thread."""
        for end in self.ends:
            if end.host is host and not end.gone:
                self._pump(end)
                if end.peer.held:
                    self.release(end.peer)

    def close(self, end: End, linger: float) -> None:
        """The socket of `end` is closed."""
        end.inbox.clear()
        if linger > 0 and end.out and not end.over:
            end.closing = True
            end.host.later(self.clock.now() + linger, self._end_linger, end)
            return
        now = self.clock.now()
        end.out.clear()
        if linger <= 0:
            # What was handed over in this very moment the io thread may have sent, or not.
            fresh = sum(1 for item in end.wire if item[2] == now)
            self._truncate(end, end.wire, len(end.wire) - fresh)
        if end.peer.wire:
            # Data that comes to a closed socket makes TCP say reset, which may overtake.
            self._truncate(end, end.wire, 0)
        end.gone = True
        self._finish(end)

    def release(self, end: End) -> None:
        """What held up the wire of `end` may be over."""
        if end.held and end.flying is None and end.wire:
            end.held = False
            self._fly(end)
        elif not end.wire:
            end.held = False

    def _between(self, source: str, target: str) -> list[End]:
        return [end for end in self.ends if end.host.name == source and end.peer.host.name == target]

    def _watch(self, end: End, still: Callable[[], bool]) -> None:
        """If `still` holds when TCP's probes time out, `end` gives its connection up."""
        settings = end.socket.settings
        if end.socket.kind in ONE_PEER:
            delay = settings.probe_timeout + settings.probe_interval * self.chance.random()
        else:
            delay = settings.keepalive_idle + settings.keepalive_interval * settings.keepalive_count
        self.clock.call_later(delay, self._give_up, end, still, end.received)

    def _give_up(self, end: End, still: Callable[[], bool], received: int) -> None:
        if end.over or end.gone or not still():
            return
        if end.host.paused_at is not None or end.received != received:
            self._watch(end, still)
            return
        self._finish(end)
        self._lose(end)

    def _end_linger(self, end: End) -> None:
        if not end.gone:
            self.close(end, 0)

    def _truncate(self, end: End, wire: deque[tuple[float, Any, float]], keep: int) -> None:
        """Of what is on the wire only the first `keep` arrive for certain."""
        count = len(wire)
        if count > keep:
            keep += self.chance.below(count - keep + 1)
            while len(wire) > keep:
                wire.pop()

    def _finish(self, end: End) -> None:
        """The other side will find the connection's end behind what is on the wire."""
        now = self.clock.now()
        end.wire.append((self._arrival(end, now), _EOF, now))
        if end.flying is None and not end.held:
            self._fly(end)

    def _lose(self, end: End) -> None:
        """The io thread at this end finds the connection broken."""
        if end.over or end.gone:
            return
        end.over = True
        if end.closing:
            end.out.clear()
            end.gone = True
            return
        if end.connector is not None and end.connector.peer_id:
            end.connector.broken()
            return
        end.out.clear()
        end.socket.post(LOST, end)
        if end.connector is not None:
            end.connector.broken()

    def _arrival(self, end: End, now: float) -> float:
        latency = end.latency
        if latency is None:
            latency = end.latency = self.latency(end.host, end.peer.host)
        when, earliest = now + latency, end.last_arrival
        if self._slow:
            earliest += self._slow.get((end.host.name, end.peer.host.name), 0.0)
        if when < earliest:
            when = earliest
        end.last_arrival = when
        return when

    def _pump(self, end: End) -> None:
        """The io thread moves what libzmq took onto the wire, as long as there is room."""
        if end.over or end.host.paused_at is not None:
            return
        out, wire = end.out, end.wire
        while out and len(wire) < self.window:
            self._put(end, out.popleft(), self.clock.time)
        if end.closing and not out:
            end.gone = True
            self._finish(end)
        elif wire and end.flying is None and not end.held:
            self._fly(end)

    def _put(self, end: End, frames: Any, now: float) -> None:
        """The io thread moves one message onto the wire."""
        end.wire.append((self._arrival(end, now), frames, now))
        end.taken += 1
        batch = end.socket.send_batch
        if batch and end.taken % batch == 0:
            end.socket.post(WRITE, end, end.taken)

    def _hasten(self, end: End) -> None:
        """What is on the wire does not wait for a slow line any more."""
        latest = self.clock.now() + self.latency(end.host, end.peer.host)
        end.wire = deque((min(arrival, latest), frames, sent_at) for arrival, frames, sent_at in end.wire)
        end.last_arrival = min(end.last_arrival, latest)
        if end.flying is not None:
            cancel(end.flying)
            self._fly(end)

    def _fly(self, end: End) -> None:
        end.flying = self.clock.put(end.wire[0][0], self._arrive, (end,))

    def _arrive(self, end: End) -> None:
        """The head of the wire comes to the other side."""
        end.flying = None
        peer, wire = end.peer, end.wire
        if peer.gone and not peer.closing:
            if peer.silent and not peer.host.alive:
                end.held = True  # TCP goes on trying
                return
            wire.clear()
            if peer.silent:
                self._lose(end)  # a machine that is back knows nothing of this connection
            return
        if peer.host.paused_at is not None or (self._cuts and self.is_cut(end.host, peer.host)):
            end.held = True
            return
        now = self.clock.time
        hwm = peer.socket.receive_hwm
        while wire and wire[0][0] <= now:
            frames = wire[0][1]
            if frames is _EOF:
                wire.clear()
                self._lose(peer)
                return
            if hwm and peer.received - peer.seen >= hwm and not peer.closing:
                end.held = True
                break
            wire.popleft()
            if peer.closing or peer.over:
                continue
            if type(frames) is tuple:
                peer.subscriptions.append(frames[0])
                continue
            peer.received += 1
            peer.inbox.append(frames)
            if peer.asleep:
                peer.asleep = False
                peer.socket.post(READ, peer)
        if end.out and not end.gone:
            self._pump(end)
        if wire and not end.held and end.flying is None:
            self._fly(end)
