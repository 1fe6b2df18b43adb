"""Clone under load: joins while updates flow, large snapshots, and clients that never read. One server, one process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import resource
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import zmq

from tests.waiting import DEADLINE, eventually
from zpatterns.clone import AsyncClone, Change
from zpatterns.sockets import SocketSettings
from zpatterns.testing import ManagedProcess
from zpatterns.transfer import transfer

ROOT = str(Path(__file__).parents[2])
TURN_MAX = 0.05
FRAMES_MAX = SocketSettings().frames_max
BATCH = 500
"""Messages read from one socket before the others have their turn."""
KEYS = [f"/{tree}/{number}" for tree in ("a", "b", "c") for number in range(100)]
SUBTREES = ("", "", "/a/", "/b/")


@contextlib.contextmanager
def measured(keys: int, patience: float = DEADLINE) -> Iterator[ManagedProcess]:
    """A server of :mod:`tests.live.measured_clone`."""
    arguments = ("-m", "tests.live.measured_clone", str(keys), str(TURN_MAX))
    with ManagedProcess(*arguments, cwd=ROOT, env={"PYTHONPATH": ROOT}, patience=patience) as process:
        yield process


def endpoint_of(server: ManagedProcess) -> str:
    return str(server.wait_for("ready")["endpoint"])


# Joins.


class History:
    """What the server's map was at each sequence, as one client that missed nothing was told."""

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def told(self, key: str, old: bytes | None, new: bytes | None, sequence: int) -> None:
        self.changes.append(Change(key, old, new, sequence))

    def check(self, copies: list[tuple[int, str, dict[str, bytes]]]) -> None:
        """Each copy, of a subtree, is the map as it was at its sequence."""
        changes = iter(self.changes)
        change = next(changes, None)
        now: dict[str, bytes] = {}
        for sequence, subtree, copy in sorted(copies, key=lambda each: each[0]):
            while change is not None and change.sequence <= sequence:
                if change.new is None:
                    now.pop(change.key, None)
                else:
                    now[change.key] = change.new
                change = next(changes, None)
            assert copy == {key: value for key, value in now.items() if key.startswith(subtree)}


async def set_at_a_rate(setter: AsyncClone, rate: int, ended: asyncio.Event) -> int:
    """Set and delete random keys, `rate` times a second, until it is told to end; how many."""
    rng = random.Random(12)
    begin, done = time.monotonic(), 0
    while not ended.is_set():
        for _ in range(int((time.monotonic() - begin) * rate) - done):
            done += 1
            setter.post(rng.choice(KEYS), b"%d" % done if rng.random() < 0.8 else None)
        await asyncio.sleep(0.005)
    return done


def has_followed(client: AsyncClone) -> bool:
    return client.statistics().updates > 5


async def join_and_compare(endpoint: str, joins: int, at_once: int, rate: int) -> dict[str, float]:
    """So many joins, some at a time, while updates flow: every copy is held against the history of the map."""
    history, ended, turns = History(), asyncio.Event(), itertools.count()
    copies: list[tuple[int, str, dict[str, bytes]]] = []
    times: list[float] = []

    async def lane() -> None:
        while (turn := next(turns)) < joins:
            subtree, begin = SUBTREES[turn % len(SUBTREES)], time.monotonic()
            async with AsyncClone(endpoint, subtree=subtree, timeout=2 * DEADLINE) as client:
                times.append(time.monotonic() - begin)
                await eventually(partial(has_followed, client), "updates follow the snapshot")
                copies.append((client.statistics().sequence, subtree, dict(client.items())))

    async with AsyncClone(endpoint) as reference, AsyncClone(endpoint) as setter:
        reference.watch(None, history.told)
        setting = asyncio.create_task(set_at_a_rate(setter, rate, ended))
        begin = time.monotonic()
        await asyncio.gather(*(lane() for _ in range(at_once)))
        seconds = time.monotonic() - begin
        ended.set()
        done = await setting
        last = await setter.set("/last", b"x", timeout=DEADLINE)
        await eventually(lambda: reference.statistics().sequence >= last, "the reference has all")
        assert reference.statistics().gaps == 0, "it must have been told of each change"
        async with AsyncClone(endpoint, timeout=DEADLINE) as fresh:
            assert dict(reference.items()) == dict(fresh.items()), "the server's own map"
    history.check(copies)
    times.sort()
    assert len(copies) == joins
    return {"joins/s": joins / seconds, "updates/s": done / seconds, "p50": times[joins // 2], "max": times[-1]}


def test_joins_while_updates_flow_have_the_map_of_their_sequence():
    with measured(0) as server:
        asyncio.run(join_and_compare(endpoint_of(server), joins=30, at_once=6, rate=500))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_thousand_joins_while_two_thousand_updates_a_second_flow():
    with measured(0) as server:
        figures = asyncio.run(join_and_compare(endpoint_of(server), joins=1000, at_once=20, rate=2000))
    sys.stdout.write(f"{figures}\n")
    assert figures["updates/s"] > 1000, "too slow a machine to say anything"


# Large snapshots.


def take_snapshots(server: ManagedProcess, keys: int, clients: int) -> dict[str, float]:
    """So many bare clients fetch the whole map at once, while another one sets keys all the time; keys a second."""
    endpoint = endpoint_of(server)
    head, _, port = endpoint.rpartition(":")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        setter = context.socket(zmq.PUB)
        setter.connect(f"{head}:{int(port) + 2}")
        sockets = [context.socket(zmq.DEALER) for _ in range(clients)]
        poller = zmq.Poller()
        begin = time.monotonic()
        for socket in sockets:
            socket.connect(endpoint)
            socket.send_multipart([b"ICANHAZ?", b"/key/"])
            poller.register(socket, zmq.POLLIN)
        came = dict.fromkeys(sockets, 0)
        waiting, sets = set(sockets), 0
        while waiting:
            ready = poller.poll(round(DEADLINE * 1000))
            assert ready, f"a snapshot stops: {list(came.values())} of {keys} keys"
            for socket, _events in ready:
                batch = transfer(socket, False, FRAMES_MAX).receive(BATCH)
                is_over = bool(batch) and batch[-1][0] == b"KTHXBAI"
                came[socket] += len(batch) - is_over
                if is_over:
                    waiting.discard(socket)
            due = int((time.monotonic() - begin) * 500)
            for sets in range(sets, due):  # noqa: B020
                setter.send_multipart([b"/key/%08d" % (sets * 7919 % keys), bytes(8), bytes(16), b"ttl=0\n", b"y" * 64])
        seconds = time.monotonic() - begin
        assert set(came.values()) == {keys}, "complete"
    finally:
        context.destroy(linger=0)
    assert server.terminate() == 0
    told = server.events("measured")[-1]
    assert told["snapshots"] == clients
    assert told["updates"] > keys, "nothing was set meanwhile"
    return {
        "long turns": len(server.events("long_turn")),
        "keys/s": clients * keys / seconds,
        "keys/s of the server's processor": clients * keys / told["processor"],
        "longest turn": told["longest"],
        "updates": told["updates"] - keys,
    }


def test_a_snapshot_is_complete_and_keeps_nobody_waiting_while_updates_flow():
    def long_turns() -> float:
        with measured(30_000) as server:
            return take_snapshots(server, 30_000, clients=2)["long turns"]

    # A virtual machine that is given no processor for a while counts that as time of whoever runs.
    assert any(long_turns() == 0 for _ in range(3)), "the loop stood still"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("clients", [1, 4])
def test_a_snapshot_of_a_million_keys(clients):
    with measured(1_000_000, patience=60.0) as server:
        figures = take_snapshots(server, 1_000_000, clients)
    sys.stdout.write(f"{figures}\n")
    assert figures["long turns"] == 0, "the loop stood still"
    assert figures["keys/s of the server's processor"] > 100_000


# Clients that never read.


def memory_with_clients_that_never_read(keys: int, updates: int) -> float:
    """Bytes by which the server grows between the first and the last of so many updates."""
    with measured(keys, patience=60.0) as server:
        endpoint = endpoint_of(server)
        head, _, port = endpoint.rpartition(":")
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            idle = [context.socket(kind) for kind in (zmq.DEALER, zmq.SUB) for _ in range(10)]
            for socket in idle:
                socket.setsockopt(zmq.RCVHWM, 1)
                if socket.type == zmq.SUB:
                    socket.setsockopt(zmq.SUBSCRIBE, b"")
                    socket.connect(f"{head}:{int(port) + 1}")
                else:
                    socket.connect(endpoint)
                    for _ in range(3):
                        socket.send_multipart([b"ICANHAZ?", b""])
            return asyncio.run(_growth(server, endpoint, updates))
        finally:
            context.destroy(linger=0)


async def _growth(server: ManagedProcess, endpoint: str, updates: int) -> float:
    async with AsyncClone(endpoint, subtree="/set/", timeout=DEADLINE) as setter:
        turns = iter(range(updates))
        before = 0.0

        async def lane(name: int) -> None:
            nonlocal before
            for turn in turns:
                await setter.set(f"/set/{name}", b"z" * 1000)
                if turn == updates // 2:  # the queues are full by now, and so is what a server remembers of answers
                    before = resident(server.pid)

        await asyncio.gather(*(lane(name) for name in range(32)))
        return resident(server.pid) - before


def resident(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * float(resource.getpagesize())


def test_memory_is_flat_with_clients_that_never_read():
    assert memory_with_clients_that_never_read(5_000, 4_000) < 8 * 2**20


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_stays_flat_with_clients_that_never_read():
    grown = memory_with_clients_that_never_read(50_000, 60_000)
    sys.stdout.write(f"{grown / 2**20:.1f} MiB\n")
    assert grown < 8 * 2**20
