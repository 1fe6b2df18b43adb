"""Whole programs under a reactor: what signals do to them, and that they end whatever they leave open."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.waiting import DEADLINE
from zpatterns.testing import ReservedPort

PROGRAM = """
import sys, threading
sys.path[:0] = {path!r}
from zpatterns import Reactor, service
from zpatterns.mdp import Broker, Client, Worker

service.PEERS_READ = 1.0  # a tenth is too short for the client's thread on a busy machine

def handle(request):
    print("begun", flush=True)
    if request.body == b"stuck":
        threading.Event().wait(600)
    sys.stdin.readline()
    return request.body

def ask():
    print("answered", client.request("slow", {body!r}, timeout=60), flush=True)

class TellingWorker(Worker):
    async def stop(self, drain=5.0):
        print("stopping", flush=True)
        await super().stop(drain)

broker = Broker({endpoint!r})
worker = TellingWorker({endpoint!r}, service="slow", handler=handle)
client = Client({endpoint!r}, timeout=60)
thread = threading.Thread(target=ask, daemon=True)
thread.start()
Reactor().run(broker, worker, drain=60)
if {body!r} != b"stuck":
    thread.join(20)
client.close()
print("over", flush=True)
"""


@contextmanager
def program(body: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """A broker, a worker whose handler takes until it is told, and a client, in one process under one reactor."""
    with ReservedPort() as port:
        script = PROGRAM.format(path=sys.path, endpoint=port.endpoint, body=body)
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        ) as process:
            try:
                yield process
            finally:
                process.kill()


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_the_first_lets_it_finish_what_was_begun(self, number):
        with program(b"slow") as process:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == b"begun\n"
            process.send_signal(number)
            assert process.stdout.readline() == b"stopping\n"
            process.stdin.write(b"go on\n")
            assert process.stdout.readline() == b"answered [b'slow']\n"
            assert process.stdout.readline() == b"over\n"
            assert process.wait(DEADLINE) == 0

    @pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)])
    def test_the_second_stops_it_at_once(self, numbers):
        with program(b"stuck") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            for number in numbers:
                process.send_signal(number)
                assert process.stdout.readline() == b"stopping\n"
            # Draining would take a minute, the handler ten.
            assert process.stdout.readline() == b"over\n"
            assert process.wait(DEADLINE) == 0


LEFT_OPEN = """
import asyncio, sys
sys.path[:0] = {path!r}
from zpatterns.mdp import AsyncClient, Broker, Client, Worker

async def main():
    broker = await Broker("tcp://127.0.0.1:*").start()
    worker = await Worker(broker.endpoint, service="echo", handler=lambda request: request.frames).start()
    client = AsyncClient(broker.endpoint)
    print(await client.request("echo", b"hello"), flush=True)
    blocking = Client(broker.endpoint)
    print(await asyncio.to_thread(blocking.request, "echo", b"hello"), flush=True)
    return broker, worker, client, blocking

kept = asyncio.run(main())
"""


def test_a_program_that_closes_nothing_ends_all_the_same():
    result = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN.format(path=sys.path)], capture_output=True, timeout=DEADLINE, check=False
    )
    assert result.stdout == b"[b'hello']\n[b'hello']\n"
    assert result.returncode == 0
