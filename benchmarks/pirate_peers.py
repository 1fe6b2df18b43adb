"""The processes around a Paranoid Pirate queue, and the baseline: a queue that does as little as pyzmq allows.

``python -m benchmarks.pirate_peers ROLE ...`` runs one of them, as :mod:`benchmarks.peers` does those of Majordomo.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import zmq

from benchmarks.peers import Connections, run_role, say, sender, timed

_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_POLLIN = int(zmq.POLLIN)
_PATIENCE = 20.0


def queue(frontend: str, backend: str) -> None:
    """The baseline: two ROUTERs, a ring of idle workers, no checks, no heartbeats, no limits, no end."""
    context: zmq.Context[Any] = zmq.Context()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
    for socket, endpoint in ((front, frontend), (back, backend)):
        socket.setsockopt(zmq.BACKLOG, 1024)
        socket.bind(endpoint)
    say(endpoint=front.getsockopt_string(zmq.LAST_ENDPOINT), backend=back.getsockopt_string(zmq.LAST_ENDPOINT))
    idle: deque[bytes] = deque()
    waiting: deque[list[bytes]] = deque()
    to_worker, to_client = sender(back), sender(front)
    watched = [(front, _POLLIN), (back, _POLLIN)]
    while True:
        for socket, _ in zmq.zmq_poll(watched, -1):
            recv = socket.recv
            try:
                while True:
                    frames = [recv(_NOBLOCK)]
                    frame = recv(_NOBLOCK, False)
                    frames.append(frame.bytes)
                    while frame.more:
                        frame = recv(_NOBLOCK, False)
                        frames.append(frame.bytes)
                    if socket is front:
                        waiting.append(frames)
                    elif len(frames) > 2:
                        idle.append(frames[0])
                        for part in frames[1:-1]:
                            to_client(part, _MORE)
                        to_client(frames[-1], _NOBLOCK)
                    elif frames[1] == b"\x01":
                        idle.append(frames[0])
                    if idle and waiting:
                        frames = waiting.popleft()
                        to_worker(idle.popleft(), _MORE)
                        for part in frames[:-1]:
                            to_worker(part, _MORE)
                        to_worker(frames[-1], _NOBLOCK)
            except zmq.Again:
                pass


def echo(endpoint: str, workers: int, interval: float) -> None:
    """`workers` echo workers. Their heartbeats, one each in `interval` seconds, come evenly."""
    connections = Connections(endpoint, workers)
    recv, send, names = connections.recv, connections.send, connections.names
    for name in names:
        send(name, _MORE)
        send(b"\x01", _NOBLOCK)
    say(ready=workers)
    pause = min(0.05, max(0.005, interval / workers))
    begin, beats = time.monotonic(), 0
    while True:
        connections.poll(pause)
        due = int((time.monotonic() - begin) / interval * workers)
        for beat in range(beats, due):
            send(names[beat % workers], _MORE)
            send(b"\x02", _NOBLOCK)
        beats = due
        try:
            for _ in range(1000):
                name = recv(_NOBLOCK)
                client = recv(_NOBLOCK)
                if client == b"\x02":
                    continue
                recv(_NOBLOCK)
                body = recv(_NOBLOCK)
                send(name, _MORE)
                send(client, _MORE)
                send(b"", _MORE)
                send(body, _NOBLOCK)
        except zmq.Again:
            pass


def load(endpoint: str, clients: int, in_flight: int, count: int, size: int, warm_up: int) -> None:
    """`clients` with `in_flight` requests open each, `count` in all, after `warm_up` more; requests a second."""
    connections = Connections(endpoint, clients)
    recv, send, names = connections.recv, connections.send, connections.names
    body = b"x" * size

    def request(client: bytes) -> None:
        send(client, _MORE)
        send(b"", _MORE)
        send(body, _NOBLOCK)

    def run(total: int) -> float:
        begin = time.perf_counter()
        sent = answered = 0
        for _ in range(in_flight):
            for client in names:
                if sent < total:
                    request(client)
                    sent += 1
        while answered < total:
            if not connections.poll(_PATIENCE):
                raise SystemExit(f"no answer for {_PATIENCE:g} s: {sent} requests sent, {answered} answered")
            try:
                while True:
                    client = recv(_NOBLOCK)
                    recv(_NOBLOCK)
                    if recv(_NOBLOCK) != body:
                        raise SystemExit("a reply is not the request's echo")
                    answered += 1
                    if sent < total:
                        request(client)
                        sent += 1
            except zmq.Again:
                pass
        return time.perf_counter() - begin

    run(warm_up)
    say(rate=count / run(count), requests=count + warm_up)


def ping(endpoint: str, count: int, size: int) -> None:
    """One REQ client with one request open; the percentiles of the round trip in microseconds."""
    context: zmq.Context[Any] = zmq.Context()
    socket = context.socket(zmq.REQ)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RCVTIMEO, round(_PATIENCE * 1000))
    socket.connect(endpoint)
    send, recv, body = sender(socket), socket.recv, b"x" * size

    def once() -> None:
        send(body, 0)
        if recv() != body:
            raise SystemExit("a reply is not the request's echo")

    say(**timed(once, count))


if __name__ == "__main__":
    run_role("benchmarks.pirate_peers", (queue, echo, load, ping))
