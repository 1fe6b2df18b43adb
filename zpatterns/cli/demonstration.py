"""What ``zpatterns demo`` does: a broker, worker processes, clients, and one kill."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zpatterns.cli.base import Failure
from zpatterns.cli.children import HELD_FILE, HOLD, PLAIN, Children
from zpatterns.errors import ZPatternsError

if TYPE_CHECKING:
    from zpatterns.mdp import AsyncClient

SERVICE = "demo"
CLIENTS = 4
LANES = 8
"""Requests that each client keeps open."""
HEARTBEAT_INTERVAL = 0.25
LIVENESS = 4
CALL_TIMEOUT = 20.0
START_TIMEOUT = 30.0


@dataclass(slots=True)
class DemoResult:
    """What came of it. Durations in seconds; `recovery` runs from the kill to the answer."""

    endpoint: str = ""
    workers: list[int] = field(default_factory=list)
    sent: int = 0
    answered: int = 0
    lost: int = 0
    killed: int | None = None
    killed_while_holding: int | None = None
    answered_by: int | None = None
    recovery: float | None = None
    elapsed: float = 0.0
    losses: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing lost, and the kill did hit a worker with a request in hand."""
        return self.lost == 0 and self.recovery is not None


def demonstrate(requests: int, workers: int, say: Callable[[str], None]) -> DemoResult:
    """Run the whole demonstration and return what came of it; `say` is given a line for each step."""
    return asyncio.run(_until_terminated(_demonstrate(requests, workers, say)))


async def _until_terminated(work: Coroutine[None, None, DemoResult]) -> DemoResult:
    """Run `work`, but end it in an orderly way on SIGTERM too, as asyncio does on SIGINT."""
    task = asyncio.create_task(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        raise SystemExit(128 + signal.SIGTERM) from None


async def _demonstrate(requests: int, workers: int, say: Callable[[str], None]) -> DemoResult:
    from zpatterns.mdp import AsyncClient, Broker

    result = DemoResult()
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(
            Broker("tcp://127.0.0.1:*", heartbeat_interval=HEARTBEAT_INTERVAL, liveness=LIVENESS)
        )
        result.endpoint = broker.endpoint
        say(f"  broker    {broker.endpoint}, heartbeat {HEARTBEAT_INTERVAL:g} s, liveness {LIVENESS}")
        # The clients never repeat a request (retries=0): what is saved, the broker saves.
        clients = [
            await stack.enter_async_context(AsyncClient(broker.endpoint, timeout=CALL_TIMEOUT, retries=0))
            for _ in range(CLIENTS)
        ]
        children = stack.enter_context(Children())
        options = ["--handler", "zpatterns.cli.child_handlers:demo", "--log-format", "json"]
        options += ["--heartbeat-interval", str(HEARTBEAT_INTERVAL), "--liveness", str(LIVENESS)]
        for _ in range(workers):
            result.workers.append(children.start_worker(SERVICE, broker.endpoint, *options))
        await _until_registered(clients[0], workers, children)
        say(f"  workers   {'  '.join(map(str, result.workers))}\n")
        await _Run(result, children, clients, requests, say).run()
    return result


async def _until_registered(client: AsyncClient, workers: int, children: Children) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        _, listing = await client.request("mmi.services", b"")
        if sum(entry["workers"] for entry in json.loads(listing) if entry["service"] == SERVICE) == workers:
            return
        try:
            children.check()
        except RuntimeError as error:
            raise Failure(str(error)) from error
        if time.monotonic() > deadline:
            raise Failure(f"the {workers} workers did not all register within {START_TIMEOUT:g} s")
        await asyncio.sleep(0.02)


class _Run:
    """The requests, the kill, and the count."""

    def __init__(
        self,
        result: DemoResult,
        children: Children,
        clients: list[AsyncClient],
        requests: int,
        say: Callable[[str], None],
    ) -> None:
        self._result = result
        self._children = children
        self._clients = clients
        self._requests = requests
        self._marked = requests // 2
        self._say = say
        self._begin = time.monotonic()
        self._killed_at: float | None = None

    async def run(self) -> None:
        self._step(f"sending {self._requests} requests")
        numbers = iter(range(self._requests))
        killer = asyncio.create_task(self._kill_the_holder())
        try:
            await asyncio.gather(*(self._lane(client, numbers) for client in self._clients for _ in range(LANES)))
        finally:
            killer.cancel()
        self._result.elapsed = time.monotonic() - self._begin
        self._step("every call has ended")

    async def _lane(self, client: AsyncClient, numbers: Iterator[int]) -> None:
        for number in numbers:
            await self._one(client, number)

    async def _one(self, client: AsyncClient, number: int) -> None:
        result = self._result
        marked = number == self._marked
        body = b"request %d" % number
        result.sent += 1
        try:
            reply = await client.request(SERVICE, HOLD if marked else PLAIN, body)
        except ZPatternsError as error:
            self._lose(f"request {number}: {error}")
            return
        if len(reply) != 2 or reply[1] != body:
            self._lose(f"request {number} was answered with the reply of another: {reply!r}")
            return
        result.answered += 1
        if marked and self._killed_at is not None:
            result.recovery = time.monotonic() - self._killed_at
            result.answered_by = int(reply[0])
            self._step(f"request {number} answered by worker {result.answered_by}")

    async def _kill_the_holder(self) -> None:
        """Wait until a worker says that it holds the marked request, and kill that one."""
        held = self._children.directory / HELD_FILE
        while not held.exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.005)
        pid = int(held.read_text())
        self._children.kill(pid)
        self._killed_at = time.monotonic()
        self._result.killed, self._result.killed_while_holding = pid, self._marked
        self._step(f"worker {pid} holds request {self._marked}: SIGKILL")

    def _lose(self, why: str) -> None:
        self._result.lost += 1
        if len(self._result.losses) < 10:
            self._result.losses.append(why)

    def _step(self, what: str) -> None:
        self._say(f"  {time.monotonic() - self._begin:6.2f} s  {what}")
