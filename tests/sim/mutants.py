"""Seeded defects of the cores, each of which the simulator must notice: ``python -m tests.sim.mutants``.

Each is one change to the text of one module, made while the module is imported, in a process of its own; no file is
touched. The cores' own `check_invariants` is never called by the simulator: what catches a mutant are the checkers that
watch from outside.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import click

from tests.sim import mutants_bstar, mutants_clone, mutants_freelance, mutants_lazy, mutants_pirate
from tests.sim.mutant import Mutant

ROOT = Path(__file__).parent.parent.parent
SEEDS = 2000
BROKER = "zpatterns.mdp.broker_core"
STATE = "zpatterns.mdp.broker_state"
MMI = "zpatterns.mdp.mmi"
LANE = "zpatterns.worker_core"
WORKER = "zpatterns.mdp.worker_core"
CLIENT = "zpatterns.mdp.client_core"
CALLS = "zpatterns.calls_core"


MAJORDOMO: Sequence[Mutant] = (
    Mutant(
        "lost-workers-request-is-dropped", BROKER, "            self._requeue(request, now)\n", "            pass\n"
    ),
    Mutant(
        "disconnect-in-mid-request-drops-it",
        BROKER,
        "        if request is not None:\n            self._in_flight -= 1\n            self._requeue",
        "        if request is not None:\n            self._in_flight -= 1\n"
        "            if reason == _DISCONNECTED:\n                return\n            self._requeue",
    ),
    Mutant(
        "one-delivery-too-many",
        BROKER,
        "request.deliveries >= self._deliveries_max",
        "request.deliveries > self._deliveries_max",
    ),
    Mutant(
        "failed-delivery-counts",
        BROKER,
        "                request.deliveries -= 1\n",
        "                pass\n",
    ),
    Mutant(
        "request-past-its-ttl-is-started", BROKER, "            if request.expiry > now:\n", "            if True:\n"
    ),
    Mutant(
        "requeued-past-its-ttl",
        BROKER,
        "        elif request.expiry <= now:\n            self._expire(request)\n",
        "",
    ),
    Mutant(
        "reply-is-not-matched",
        BROKER,
        '''        """REPLY or FINAL: the worker is done with its request."""
        request = worker.request
        if request is None or request.client != client:''',
        '''        """REPLY or FINAL: the worker is done with its request."""
        request = worker.request
        if request is None:''',
    ),
    Mutant(
        "worker-that-was-used-last-goes-first",
        STATE,
        "            worker = idle.popleft()\n",
        "            worker = idle.pop()\n",
    ),
    Mutant(
        "lost-worker-stays-in-the-queue",
        BROKER,
        "        if worker.idle:\n            service.discard_idle(worker)\n",
        "",
    ),
    Mutant(
        "busy-workers-never-expire",
        BROKER,
        "if worker.expiry <= now and now >= self._grace_until:",
        "if worker.expiry <= now and now >= self._grace_until and worker.idle:",
    ),
    Mutant(
        "broker-sends-no-heartbeats",
        BROKER,
        "                self._say(worker.id, worker.dialect, worker.dialect.heartbeat)\n",
        "",
    ),
    Mutant(
        "heartbeats-do-not-renew-the-lease",
        BROKER,
        "        elif command == dialect.heartbeat and not rest:\n            worker.expiry = now + self._lease\n",
        "        elif command == dialect.heartbeat and not rest:\n            pass\n",
    ),
    Mutant("queue-is-not-bounded", BROKER, "service.queued >= self.options.queue_max", "False"),
    Mutant(
        "queue-is-not-bounded-in-bytes",
        BROKER,
        "self._backlog.bytes + memory_of(body) > self.options.queue_bytes_max",
        "False",
    ),
    Mutant(
        "requests-without-a-worker-never-expire",
        BROKER,
        "for request in self._backlog.take_expired(now):",
        "for request in self._backlog.take_expired(0.0):",
    ),
    Mutant(
        "service-is-forgotten-with-its-queue",
        BROKER,
        "        if not service.workers and not service.queued and ",
        "        if not service.workers and ",
    ),
    Mutant("unreachable-worker-is-kept", BROKER, "            self._remove(worker, reason.value, now)\n", ""),
    Mutant(
        "stream-begins-again-on-another-worker",
        BROKER,
        "        if request.streaming or request.deliveries >= self._deliveries_max:\n",
        "        if request.deliveries >= self._deliveries_max:\n",
    ),
    Mutant("stream-with-a-hole-goes-on", BROKER, "            self._streams.break_off(peer)\n", "            pass\n"),
    Mutant(
        "held-parts-of-a-lost-worker-are-kept",
        BROKER,
        "            request.held, request.held_bytes = None, 0\n",
        "            request.held_bytes = 0\n",
    ),
    Mutant(
        "error-is-joined-to-held-parts",
        BROKER,
        "if request.held is not None and wire.parse_error(body) is None:",
        "if request.held is not None:",
    ),
    Mutant(
        "answered-request-is-kept",
        BROKER,
        "        request.body = []  # the heap of expiries lets go of it only later\n",
        "",
    ),
    Mutant(
        "mmi-knows-services-without-workers",
        MMI,
        "service is not None and service.workers",
        "service is not None",
    ),
    Mutant("mmi-knows-everything", MMI, "    return [wire.NOT_IMPLEMENTED]\n", "    return [wire.OK]\n"),
    Mutant(
        "stalled-worker-goes-on-as-before",
        LANE,
        "stood_still = now - self._last_now > self._lease",
        "stood_still = False",
    ),
    Mutant(
        "worker-takes-work-while-its-handler-runs",
        WORKER,
        "(WorkerState.BUSY, WorkerInput.DISCONNECT): (LaneCore._lose, WorkerState.HELD_UP)",
        "(WorkerState.BUSY, WorkerInput.DISCONNECT): (LaneCore._lose, WorkerState.AWAY)",
    ),
    Mutant(
        "disconnect-counts-as-a-heartbeat",
        WORKER,
        '            self._step(WorkerInput.DISCONNECT, now, "disconnected by the broker")\n',
        "            self._heard_at = now\n",
    ),
    Mutant(
        "worker-sends-no-heartbeats",
        WORKER,
        "        self._send(now, self._dialect.heartbeat)\n",
        "        pass\n",
    ),
    Mutant(
        "reply-that-overflowed-is-forgotten",
        LANE,
        'self._step(WorkerInput.UNSENT, now, f"a message to it was not sent: {reason.value}")',
        "pass",
    ),
    Mutant(
        "error-of-a-handler-is-not-sent",
        LANE,
        '            self._returned(now, error_body(code.encode("ascii", "replace"), message))\n',
        "            pass\n",
    ),
    Mutant(
        "late-reply-answers-the-next-call",
        CALLS,
        "            # A reply may be on its way on these: they must not serve another call.\n"
        "            self._close(connection)\n",
        "            self._release(connection, now)\n",
    ),
    Mutant(
        "call-outlives-its-deadline",
        CALLS,
        "        call.expiry = now + seconds\n",
        "        call.expiry = now + seconds + 0.1\n",
    ),
    Mutant(
        "two-attempts-stream-at-once",
        CLIENT,
        "                if other is not connection:\n                    self._close(other)\n"
        "            call.connections = [connection]\n",
        "                pass\n",
    ),
    Mutant(
        "cancelled-call-is-answered",
        CALLS,
        "            self._cancelled += 1\n            self._end(call, now)\n",
        "            self._cancelled += 1\n",
    ),
    Mutant(
        "max-in-flight-is-not-kept",
        CALLS,
        "        if self._in_flight < options.max_in_flight:\n",
        "        if True:\n",
    ),
    Mutant("client-queue-is-not-bounded", CALLS, "self._waiting_count >= options.queue_max", "False"),
    Mutant(
        "calls-that-wait-never-begin",
        CALLS,
        "        while self._waiting and not self._closed and self._in_flight",
        "        while False and self._in_flight",
    ),
    Mutant(
        "client-never-turns-to-another-broker",
        CALLS,
        "            self._preferred = (endpoint + 1) % len(self._endpoints)\n",
        "            pass\n",
    ),
)


MUTANTS: Sequence[Mutant] = (
    *MAJORDOMO,
    *mutants_bstar.MUTANTS,
    *mutants_clone.MUTANTS,
    *mutants_freelance.MUTANTS,
    *mutants_lazy.MUTANTS,
    *mutants_pirate.MUTANTS,
)
"""Those of every pattern; each has a module of its own, tests/sim/mutants_NAME.py."""


class _Finder(importlib.abc.MetaPathFinder):
    """Has one module compiled from changed text."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != self._mutant.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None and spec.origin is not None
        return importlib.util.spec_from_loader(name, _Loader(name, spec.origin, self._mutant), origin=spec.origin)


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, mutant: Mutant) -> None:
        super().__init__(name, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> object:  # type: ignore[override]
        source = self._mutant.apply(Path(self.path).read_text())
        return compile(source, self.path, "exec", dont_inherit=True)


def hunt(mutant: Mutant, seeds: range) -> str | None:
    """In this process, from now on mutated: the first seed that shows it and what it broke, or None."""
    assert mutant.module not in sys.modules, "import nothing of the cores before"
    sys.meta_path.insert(0, _Finder(mutant))
    from zpatterns.testing.simulate import world_class

    world = world_class(mutant.pattern)
    for seed in seeds:
        violation = world(seed).run()
        if violation is not None:
            return f"seed {seed}: {violation}"
    return None


def run(mutant: Mutant, seeds: range, timeout: float = 600.0) -> tuple[bool, str]:
    """Hunt `mutant` in a process of its own. Returns whether it was caught, and by what."""
    begin = time.monotonic()
    result = subprocess.run(
        [
            *(sys.executable, "-m", "tests.sim.mutants", "--in-process", mutant.name),
            *("--first", str(seeds.start), "--seeds", str(len(seeds))),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    text = (result.stdout.strip() or result.stderr.strip()[-500:]) + f" ({time.monotonic() - begin:.0f} s)"
    return result.returncode == 1 and result.stdout.startswith("seed "), text


def main() -> int:
    parser = argparse.ArgumentParser(description="Which defects of the cores does the simulator notice?")
    parser.add_argument("names", nargs="*", help="only these")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="worlds a mutant may survive (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    chosen = [mutant for mutant in MUTANTS if not options.names or mutant.name in options.names]
    if options.in_process:
        found = hunt(chosen[0], seeds)
        click.echo(found or f"not caught in {options.seeds} seeds")
        return 1 if found else 0
    survivors = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutant, (caught, text) in zip(chosen, pool.map(lambda mutant: run(mutant, seeds), chosen), strict=True):
            survivors += not caught
            click.echo(f"{'caught  ' if caught else 'SURVIVED'} {mutant.name}: {text}")
    click.echo(f"{len(chosen) - survivors} of {len(chosen)} caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
