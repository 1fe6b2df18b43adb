"""The processes around what is measured, and the baseline: a router that does as little as pyzmq allows.

``python -m benchmarks.peers ROLE ...`` runs one of them; see :func:`run_role`. Each prints one JSON object a line: when
it is ready, and what it has measured.

All of them speak 7/MDP with one frame of body, check nothing that costs time, and use pyzmq in its fastest way:
messages are taken in batches until there are none, and sent frame by frame with flags that are plain ints.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import zmq

_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_POLLIN = int(zmq.POLLIN)

_PATIENCE = 20.0
"""Seconds without any answer after which a measurement is given up."""

_CONNECTS_AT_ONCE = 256
"""Connections that are being opened at a time, so that no listener's backlog overflows."""


def say(**values: Any) -> None:
    """One line to whoever started this."""
    print(json.dumps(values), flush=True)


def sender(socket: Any) -> Callable[[bytes, int], Any]:
    """The send of pyzmq's C half: the other adds 5 us a message of arithmetic on flags that are enums."""
    send: Callable[[bytes, int], Any] = zmq.backend.Socket.send.__get__(socket)
    return send


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of `ordered` that at least `share` (0 to 1) of them do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def broker(endpoint: str) -> None:
    """The baseline: one ROUTER, a ring of idle workers a service, no checks, no heartbeats, no limits, no end."""
    context: zmq.Context[Any] = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.BACKLOG, 1024)
    socket.bind(endpoint)
    say(endpoint=socket.getsockopt_string(zmq.LAST_ENDPOINT))
    recv, send = socket.recv, sender(socket)
    idle: dict[bytes, deque[bytes]] = {}
    waiting: dict[bytes, deque[tuple[bytes, list[bytes]]]] = {}
    services: dict[bytes, bytes] = {}  # by worker
    watched = [(socket, _POLLIN)]
    while True:
        zmq.zmq_poll(watched, -1)
        try:
            while True:
                frames = [recv(_NOBLOCK)]
                frame = recv(_NOBLOCK, False)
                frames.append(frame.bytes)
                while frame.more:
                    frame = recv(_NOBLOCK, False)
                    frames.append(frame.bytes)
                if frames[2] == b"MDPW01":
                    if frames[3] == b"\x03":
                        name = services[frames[0]]
                        for part in (frames[4], b"", b"MDPC01", name, *frames[6:-1]):
                            send(part, _MORE)
                        send(frames[-1], _NOBLOCK)
                    elif frames[3] == b"\x01":
                        name = services[frames[0]] = frames[4]
                        idle.setdefault(name, deque())
                        waiting.setdefault(name, deque())
                    else:
                        continue
                    idle[name].append(frames[0])
                else:
                    name = frames[3]
                    if name not in waiting:
                        idle[name], waiting[name] = deque(), deque()
                    waiting[name].append((frames[0], frames[4:]))
                if idle[name] and waiting[name]:
                    client, body = waiting[name].popleft()
                    for part in (idle[name].popleft(), b"", b"MDPW01", b"\x02", client, b"", *body[:-1]):
                        send(part, _MORE)
                    send(body[-1], _NOBLOCK)
        except zmq.Again:
            pass


class Connections:
    """Many connections to a broker on one ROUTER, named by us: a peer each to the broker, one to drain for us.

    To poll a socket for each would cost more than what is measured, and twice the descriptors.
    """

    def __init__(self, endpoint: str, count: int) -> None:
        self.context: zmq.Context[Any] = zmq.Context()
        self.socket = socket = self.context.socket(zmq.ROUTER)
        for option, value in ((zmq.LINGER, 0), (zmq.SNDHWM, 0), (zmq.RCVHWM, 0), (zmq.ROUTER_MANDATORY, 1)):
            socket.setsockopt(option, value)
        self.names = [b"%d" % number for number in range(count)]
        monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        for first in range(0, count, _CONNECTS_AT_ONCE):
            names = self.names[first : first + _CONNECTS_AT_ONCE]
            for name in names:
                socket.setsockopt(zmq.CONNECT_ROUTING_ID, name)
                socket.connect(endpoint)
            for _ in names:
                if not monitor.poll(round(_PATIENCE * 1000)):
                    raise SystemExit(f"no connection to {endpoint} within {_PATIENCE:g} s")
                monitor.recv_multipart()
        socket.disable_monitor()
        self.recv, self.send = socket.recv, sender(socket)
        self._watched = [(socket, _POLLIN)]

    def poll(self, seconds: float) -> bool:
        return bool(zmq.zmq_poll(self._watched, round(seconds * 1000)))

    def request(self, client: bytes, service: bytes, body: bytes) -> None:
        send = self.send
        send(client, _MORE)
        send(b"", _MORE)
        send(b"MDPC01", _MORE)
        send(service, _MORE)
        send(body, _NOBLOCK)


def echo(endpoint: str, service: str, workers: int, interval: float) -> None:
    """`workers` echo workers of one service. Their heartbeats, one each in `interval` seconds, come evenly."""
    connections = Connections(endpoint, workers)
    recv, send, names = connections.recv, connections.send, connections.names
    for name in names:
        for part in (name, b"", b"MDPW01", b"\x01"):
            send(part, _MORE)
        send(service.encode(), _NOBLOCK)
    say(ready=workers)
    pause = min(0.05, max(0.005, interval / workers))
    begin, beats = time.monotonic(), 0
    while True:
        connections.poll(pause)
        due = int((time.monotonic() - begin) / interval * workers)
        for beat in range(beats, due):
            for part in (names[beat % workers], b"", b"MDPW01"):
                send(part, _MORE)
            send(b"\x04", _NOBLOCK)
        beats = due
        try:
            for _ in range(1000):
                name = recv(_NOBLOCK)
                recv(_NOBLOCK)
                recv(_NOBLOCK)
                command = recv(_NOBLOCK)
                if command == b"\x02":
                    client = recv(_NOBLOCK)
                    recv(_NOBLOCK)
                    body = recv(_NOBLOCK)
                    send(name, _MORE)
                    send(b"", _MORE)
                    send(b"MDPW01", _MORE)
                    send(b"\x03", _MORE)
                    send(client, _MORE)
                    send(b"", _MORE)
                    send(body, _NOBLOCK)
                elif command != b"\x04":
                    raise SystemExit(f"the broker sent command {command!r} to an echo worker")
        except zmq.Again:
            pass


def load(endpoint: str, service: str, clients: int, in_flight: int, count: int, size: int, warm_up: int) -> None:
    """`clients` with `in_flight` requests open each, `count` in all, after `warm_up` more; requests a second."""
    connections = Connections(endpoint, clients)
    recv, request, names = connections.recv, connections.request, connections.names
    name, body = service.encode(), b"x" * size

    def run(total: int) -> float:
        begin = time.perf_counter()
        sent = answered = 0
        for _ in range(in_flight):
            for client in names:
                if sent < total:
                    request(client, name, body)
                    sent += 1
        while answered < total:
            if not connections.poll(_PATIENCE):
                raise SystemExit(f"no answer for {_PATIENCE:g} s: {sent} requests sent, {answered} answered")
            try:
                while True:
                    client = recv(_NOBLOCK)
                    recv(_NOBLOCK)
                    recv(_NOBLOCK)
                    recv(_NOBLOCK)
                    if recv(_NOBLOCK) != body:
                        raise SystemExit("a reply is not the request's echo")
                    answered += 1
                    if sent < total:
                        request(client, name, body)
                        sent += 1
            except zmq.Again:
                pass
        return time.perf_counter() - begin

    run(warm_up)
    say(rate=count / run(count), requests=count + warm_up)


def queue(endpoint: str, service: str, count: int, size: int, name_each: bool, marker: str) -> None:
    """Leave `count` requests in the broker's queue, for one service or with `name_each` for a service each.

    It is ready when a request to `marker`, sent last on the same connection, has been answered, and nothing
    else: so the broker has taken in all the others and refused none.
    """
    connections = Connections(endpoint, 1)
    recv, request, (client,) = connections.recv, connections.request, connections.names
    name, body = service.encode(), b"x" * size
    request(client, marker.encode(), b"warm-up")
    _expect(connections, b"warm-up")
    say(ready=0)
    sys.stdin.readline()  # the caller takes the broker's measure first
    for number in range(count):
        request(client, name + b"%d" % number if name_each else name, body)
    request(client, marker.encode(), b"marker")
    _expect(connections, b"marker")
    say(ready=count)
    while True:
        connections.poll(1.0)
        try:
            while True:
                recv(_NOBLOCK)
        except zmq.Again:
            pass


def _expect(connections: Connections, body: bytes) -> None:
    if not connections.poll(6 * _PATIENCE):
        raise SystemExit(f"no answer to {body!r} within {6 * _PATIENCE:g} s")
    frames = connections.socket.recv_multipart(_NOBLOCK)
    if frames[4:] != [body]:
        raise SystemExit(f"expected the echo of {body!r}, not {frames[1:]!r}: did the broker refuse requests?")


def ping(endpoint: str, service: str, count: int, size: int) -> None:
    """One client with one request open; the percentiles of the round trip in microseconds."""
    context: zmq.Context[Any] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, round(_PATIENCE * 1000))
    socket.connect(endpoint)
    recv, send, name, body = socket.recv, sender(socket), service.encode(), b"x" * size

    def once() -> None:
        send(b"", _MORE)
        send(b"MDPC01", _MORE)
        send(name, _MORE)
        send(body, _NOBLOCK)
        recv()
        recv()
        recv()
        if recv() != body:
            raise SystemExit("a reply is not the request's echo")

    say(**timed(once, count))


def client(endpoint: str, service: str, count: int, size: int) -> None:
    """:func:`ping` with our blocking client."""
    from zpatterns.mdp import Client

    body = b"x" * size
    with Client(endpoint, timeout=_PATIENCE, retries=0) as ours:
        say(**timed(lambda: ours.request(service, body), count))


def timed(once: Callable[[], object], count: int) -> dict[str, float]:
    """The percentiles of `count` calls in microseconds, after a tenth as many that are not counted."""
    for _ in range(max(10, count // 10)):
        once()
    clock = time.perf_counter_ns
    times = []
    for _ in range(count):
        begin = clock()
        once()
        times.append((clock() - begin) / 1000)
    times.sort()
    return {"p50": percentile(times, 0.5), "p99": percentile(times, 0.99)}


def async_client(endpoint: str, service: str, in_flight: int, count: int, size: int) -> None:
    """`in_flight` calls at a time of one AsyncClient of ours, `count` in all; requests a second."""
    import asyncio  # here, since the other roles, of which many are started, need none of it

    from zpatterns.mdp import AsyncClient

    body = b"x" * size

    async def run(ours: AsyncClient, total: int) -> float:
        turns = iter(range(total))

        async def lane() -> None:
            for _ in turns:
                await ours.request(service, body)

        begin = time.perf_counter()
        await asyncio.gather(*(lane() for _ in range(in_flight)))
        return time.perf_counter() - begin

    async def measure() -> float:
        async with AsyncClient(endpoint, timeout=_PATIENCE, retries=0, max_in_flight=in_flight) as ours:
            await run(ours, max(2 * in_flight, count // 10))
            return count / await run(ours, count)

    say(rate=asyncio.run(measure()))


def run_role(program: str, functions: Sequence[Callable[..., None]]) -> None:
    """Run the one of `functions` that the command line names, with its arguments in the order of its signature."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}")
    roles = parser.add_subparsers(required=True, metavar="ROLE")
    for role in functions:
        sub = roles.add_parser(role.__name__, help=(role.__doc__ or "").partition("\n")[0])
        sub.set_defaults(role=role)
        for name, kind in role.__annotations__.items():
            if name == "return":
                continue
            if kind == "bool":
                sub.add_argument(f"--{name.replace('_', '-')}", action="store_true")
            else:
                sub.add_argument(name, type={"int": int, "float": float, "str": str}[kind])
    arguments = vars(parser.parse_args())
    arguments.pop("role")(**arguments)


if __name__ == "__main__":
    run_role("benchmarks.peers", (broker, echo, load, queue, ping, client, async_client))
