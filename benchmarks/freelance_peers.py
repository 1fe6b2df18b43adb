"""The processes around Freelance's addressed model, and the baseline: a server and a client that do as little as pyzmq
allows.

``python -m benchmarks.freelance_peers ROLE ...`` runs one of them, as :mod:`benchmarks.peers` does those of Majordomo.
"""

from __future__ import annotations

import time
from typing import Any

import zmq

from benchmarks.peers import run_role, say, sender, timed

_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_POLLIN = int(zmq.POLLIN)
_PATIENCE = 20.0
_SERVER = b"server"


def server(endpoint: str) -> None:
    """The baseline: a ROUTER that answers PING and echoes, no queue, no handler, no limits, no end."""
    context: zmq.Context[Any] = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.bind(endpoint)
    say(endpoint=socket.getsockopt_string(zmq.LAST_ENDPOINT))
    send, recv, watched = sender(socket), socket.recv, [(socket, _POLLIN)]
    while True:
        zmq.zmq_poll(watched, -1)
        try:
            while True:
                client = recv(_NOBLOCK)
                control = recv(_NOBLOCK)
                send(client, _MORE)
                if control == b"PING":
                    send(b"PONG", _NOBLOCK)
                else:
                    send(control, _MORE)
                    send(recv(_NOBLOCK), _NOBLOCK)
        except zmq.Again:
            pass


def _connected(endpoint: str) -> Any:
    context: zmq.Context[Any] = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.CONNECT_ROUTING_ID, _SERVER)
    socket.connect(endpoint)
    return socket


def load(endpoint: str, in_flight: int, count: int, size: int, warm_up: int) -> None:
    """The least a client can do: `in_flight` requests open, `count` in all, after `warm_up` more; requests a second."""
    socket = _connected(endpoint)
    send, recv, watched, body = sender(socket), socket.recv, [(socket, _POLLIN)], b"x" * size

    def request(number: int) -> None:
        send(_SERVER, _MORE)
        send(b"%d" % number, _MORE)
        send(body, _NOBLOCK)

    def run(total: int) -> float:
        begin = time.perf_counter()
        sent, answered = min(in_flight, total), 0
        for number in range(sent):
            request(number)
        while answered < total:
            if not zmq.zmq_poll(watched, round(_PATIENCE * 1000)):
                raise SystemExit(f"no answer for {_PATIENCE:g} s: {sent} requests sent, {answered} answered")
            try:
                while True:
                    recv(_NOBLOCK)
                    recv(_NOBLOCK)
                    if recv(_NOBLOCK) != body:
                        raise SystemExit("a reply is not the request's echo")
                    answered += 1
                    if sent < total:
                        request(sent)
                        sent += 1
            except zmq.Again:
                pass
        return time.perf_counter() - begin

    run(warm_up)
    say(rate=count / run(count), requests=count + warm_up)


def ping(endpoint: str, count: int, size: int) -> None:
    """A bare ROUTER with one request open; the percentiles of the round trip in microseconds."""
    socket = _connected(endpoint)
    socket.setsockopt(zmq.RCVTIMEO, round(_PATIENCE * 1000))
    send, recv, body = sender(socket), socket.recv, b"x" * size

    def once() -> None:
        send(_SERVER, _MORE)
        send(b"1", _MORE)
        send(body, 0)
        recv()
        recv()
        if recv() != body:
            raise SystemExit("a reply is not the request's echo")

    say(**timed(once, count))


def client(endpoint: str, count: int, size: int) -> None:
    """A FreelanceClient of ours with one request open; the percentiles of the round trip in microseconds."""
    from zpatterns.freelance import FreelanceClient

    body = b"x" * size
    with FreelanceClient(endpoint, timeout=_PATIENCE, retries=0) as ours:
        say(**timed(lambda: ours.request(body), count))


def async_client(endpoint: str, in_flight: int, count: int, size: int, warm_up: int) -> None:
    """`in_flight` calls at a time of one AsyncFreelanceClient of ours, `count` in all; requests a second."""
    import asyncio  # here, since the other roles need none of it

    from zpatterns.freelance import AsyncFreelanceClient

    body = b"x" * size

    async def run(ours: AsyncFreelanceClient, total: int) -> float:
        turns = iter(range(total))

        async def lane() -> None:
            for _ in turns:
                await ours.request(body)

        begin = time.perf_counter()
        await asyncio.gather(*(lane() for _ in range(in_flight)))
        return time.perf_counter() - begin

    async def measure() -> float:
        async with AsyncFreelanceClient(endpoint, timeout=_PATIENCE, retries=0, max_in_flight=in_flight) as ours:
            await run(ours, warm_up)
            return count / await run(ours, count)

    say(rate=asyncio.run(measure()), requests=count + warm_up)


if __name__ == "__main__":
    run_role("benchmarks.freelance_peers", (server, load, ping, client, async_client))
