"""The processes around a Clone server, and the baseline: a server and clients that do as little as pyzmq allows.

``python -m benchmarks.clone_peers ROLE ...`` runs one of them, as :mod:`benchmarks.peers` does those of Majordomo. All
speak 12/CHP, and nothing of our extension; `endpoint` is the first of a server's three ports.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from struct import Struct
from typing import Any

import zmq

from benchmarks.peers import percentile, run_role, say, sender

_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_POLLIN = int(zmq.POLLIN)
_PATIENCE = 20.0
_ASK_AGAIN = 0.5
_NO_UUID = bytes(16)
_NO_TTL = b"ttl=0\n"
"""The Guide's server reads garbage where there is none."""

_pack = Struct(">Q").pack


def _ports(endpoint: str) -> tuple[str, str, str]:
    head, _, port = endpoint.rpartition(":")
    return endpoint, f"{head}:{int(port) + 1}", f"{head}:{int(port) + 2}"


def _reader(socket: Any) -> Callable[[], list[bytes]]:
    """One message, read in pyzmq's fastest way; raises zmq.Again when there is none."""
    recv = socket.recv

    def read() -> list[bytes]:
        frame = recv(_NOBLOCK, False)
        frames = [frame.bytes]
        while frame.more:
            frame = recv(_NOBLOCK, False)
            frames.append(frame.bytes)
        return frames

    return read


def server(endpoint: str) -> None:
    """The baseline: a dict, a counter and three sockets; no time to live, no heartbeat, no limits, no end. A snapshot
    is sent in one go, to one client at a time."""
    context: zmq.Context[Any] = zmq.Context()
    snapshot, publisher, collector = context.socket(zmq.ROUTER), context.socket(zmq.PUB), context.socket(zmq.SUB)
    snapshot.setsockopt(zmq.SNDHWM, 0)
    collector.setsockopt(zmq.SUBSCRIBE, b"")
    for socket, one in zip((snapshot, publisher, collector), _ports(endpoint), strict=True):
        socket.bind(one)
    say(endpoint=endpoint)
    ask, collect = _reader(snapshot), _reader(collector)
    answer, publish = sender(snapshot), sender(publisher)
    watched = [(snapshot, _POLLIN), (collector, _POLLIN)]
    pairs: dict[bytes, list[bytes]] = {}
    sequence = 0
    while True:
        zmq.zmq_poll(watched, -1)
        try:
            while True:
                client = ask()[0]
                for pair in [*pairs.values(), [b"KTHXBAI", _pack(sequence), b"", b"", b""]]:
                    answer(client, _MORE)
                    for frame in pair[:-1]:
                        answer(frame, _MORE)
                    answer(pair[-1], 0)
        except zmq.Again:
            pass
        try:
            while True:
                pair = collect()
                sequence += 1
                pair[1] = _pack(sequence)
                pairs[pair[0]] = pair
                for frame in pair[:-1]:
                    publish(frame, _MORE)
                publish(pair[-1], _NOBLOCK)
        except zmq.Again:
            pass


class _Setter:
    """A publisher of KVSETs, and the subscriptions over which their KVPUBs are seen."""

    def __init__(self, endpoint: str, subscribers: int) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        snapshot, publisher, collector = _ports(endpoint)
        _joined(self.context, snapshot)
        self.socket = self.context.socket(zmq.PUB)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(collector)
        self.send = sender(self.socket)
        self.subscribers = [self.context.socket(zmq.SUB) for _ in range(subscribers)]
        for subscriber in self.subscribers:
            subscriber.setsockopt(zmq.LINGER, 0)
            subscriber.setsockopt(zmq.SUBSCRIBE, b"/")
            subscriber.connect(publisher)
        self._readers = [_reader(subscriber) for subscriber in self.subscribers]
        self._watched = [(subscriber, _POLLIN) for subscriber in self.subscribers]
        self._warm_up()

    def set(self, key: bytes, body: bytes) -> None:
        send = self.send
        send(key, _MORE)
        send(bytes(8), _MORE)
        send(_NO_UUID, _MORE)
        send(_NO_TTL, _MORE)
        send(body, _NOBLOCK)

    def run(self, count: int, in_flight: int, key: Callable[[int], bytes], body: bytes) -> float:
        """Set `count` keys, with so many on their way that have not come to every subscriber; seconds."""
        begin = time.perf_counter()
        came = [0] * len(self._readers)
        sent = 0
        while (slowest := min(came)) < count:
            while sent < count and sent - slowest < in_flight:
                self.set(key(sent), body)
                sent += 1
            if not zmq.zmq_poll(self._watched, round(_PATIENCE * 1000)):
                raise SystemExit(f"nothing for {_PATIENCE:g} s: {sent} keys set, {slowest} published")
            for number, read in enumerate(self._readers):
                try:
                    while True:
                        read()
                        came[number] += 1
                except zmq.Again:
                    pass
        return time.perf_counter() - begin

    def _warm_up(self) -> None:
        """Until each subscriber has seen a marker, and then no more of them."""
        waiting = set(range(len(self._readers)))
        deadline = time.monotonic() + _PATIENCE
        marks = 0
        while waiting:
            if time.monotonic() > deadline:
                raise SystemExit(f"{len(waiting)} of {len(self._readers)} subscribers see nothing")
            marks += 1
            self.set(b"/mark", b"%d" % marks)
            zmq.zmq_poll(self._watched, 50)
            for number, read in enumerate(self._readers):
                try:
                    while True:
                        read()
                        waiting.discard(number)
                except zmq.Again:
                    pass
        last = b"%d" % (marks + 1)
        self.set(b"/mark", last)
        for number, read in enumerate(self._readers):
            seen = b""
            while seen != last:
                if not self.subscribers[number].poll(round(_PATIENCE * 1000)):
                    raise SystemExit("the last marker does not come")
                seen = read()[4]


def _joined(context: Any, endpoint: str) -> int:
    """Ask for a snapshot until there is one, which makes a server of a pair active; how many keys it had."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(endpoint)
    read = _reader(socket)
    deadline = time.monotonic() + _PATIENCE
    keys = 0
    try:
        while True:
            socket.send_multipart([b"ICANHAZ?", b""])
            while socket.poll(round(_ASK_AGAIN * 1000)):
                if read()[0] == b"KTHXBAI":
                    return keys
                keys += 1
            if time.monotonic() > deadline:
                raise SystemExit(f"{endpoint} gives no whole snapshot")
    finally:
        socket.close()


def updates(endpoint: str, subscribers: int, in_flight: int, count: int, size: int, warm_up: int) -> None:
    """Set one of a thousand keys `count` times, after `warm_up` more, until each of `subscribers` has seen them all;
    updates a second."""
    setter = _Setter(endpoint, subscribers)
    keys = [b"/key/%d" % number for number in range(1000)]
    body = b"x" * size

    def key(number: int) -> bytes:
        return keys[number % 1000]

    setter.run(warm_up, in_flight, key, body)
    say(rate=count / setter.run(count, in_flight, key, body), requests=count + warm_up)


def fill(endpoint: str, keys: int, in_flight: int, size: int) -> None:
    """Set so many different keys. Ready before the first, and when the last is published."""
    setter = _Setter(endpoint, 1)
    say(ready=0)
    setter.run(keys, in_flight, lambda number: b"/key/%08d" % number, b"x" * size)
    say(ready=keys)


def snapshots(endpoint: str, count: int, keys: int) -> None:
    """Fetch the map `count` times, one snapshot after another; keys a second. It must have `keys` of ``/key/``."""
    context: zmq.Context[Any] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.connect(endpoint)
    recv = socket.recv
    begin = time.perf_counter()
    for _ in range(count):
        socket.send_multipart([b"ICANHAZ?", b""])
        came, is_over = 0, False
        while not is_over:
            if not socket.poll(round(_PATIENCE * 1000)):
                raise SystemExit(f"a snapshot stops after {came} of {keys} keys")
            try:
                while True:
                    key = recv(_NOBLOCK)
                    frame = recv(_NOBLOCK, False)
                    while frame.more:
                        frame = recv(_NOBLOCK, False)
                    if key[:5] == b"/key/":
                        came += 1
                    elif key == b"KTHXBAI":
                        is_over = True
            except zmq.Again:
                pass
        if came != keys:
            raise SystemExit(f"a snapshot has {came} of {keys} keys")
    say(rate=count * keys / (time.perf_counter() - begin))


def bare_joins(endpoint: str, count: int) -> None:
    """The least a join can be: subscribe and fetch a snapshot; milliseconds."""
    context: zmq.Context[Any] = zmq.Context()
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        subscriber = context.socket(zmq.SUB)
        subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        subscriber.connect(_ports(endpoint)[1])
        _joined(context, endpoint)
        times.append((time.perf_counter() - begin) * 1000)
        subscriber.close(0)
    times.sort()
    say(p50=percentile(times, 0.5), p99=percentile(times, 0.99))


def joins(endpoint: str, count: int) -> None:
    """An AsyncClone of ours, opened, until it has the map; milliseconds."""
    from zpatterns.clone import AsyncClone

    async def join() -> float:
        begin = time.perf_counter()
        async with AsyncClone(endpoint, timeout=_PATIENCE):
            return (time.perf_counter() - begin) * 1000

    async def all_of_them() -> list[float]:
        return sorted([await join() for _ in range(count)])

    times = asyncio.run(all_of_them())
    say(p50=percentile(times, 0.5), p99=percentile(times, 0.99))


def sets(endpoint: str, in_flight: int, count: int, size: int, warm_up: int) -> None:
    """`in_flight` sets at a time of one AsyncClone of ours, each acknowledged and applied; sets a second."""
    from zpatterns.clone import AsyncClone

    body = b"x" * size

    async def run(ours: AsyncClone, total: int) -> float:
        turns = iter(range(total))

        async def lane(number: int) -> None:
            for _ in turns:
                await ours.set(f"/key/{number}", body)

        begin = time.perf_counter()
        await asyncio.gather(*(lane(number) for number in range(in_flight)))
        return time.perf_counter() - begin

    async def measure() -> float:
        async with AsyncClone(endpoint, timeout=_PATIENCE) as ours:
            await run(ours, warm_up)
            return count / await run(ours, count)

    say(rate=asyncio.run(measure()), requests=count + warm_up)


if __name__ == "__main__":
    run_role("benchmarks.clone_peers", (server, updates, fill, snapshots, bare_joins, joins, sets))
