"""Seeded defects of the Simple and Paranoid Pirate cores."""

from __future__ import annotations

from collections.abc import Sequence

from tests.sim.mutant import Mutant

QUEUE = "zpatterns.pirate.queue_core"
STATE = "zpatterns.pirate.queue_state"
SIMPLE = "zpatterns.pirate.simple_queue_core"
PARANOID = "zpatterns.pirate.paranoid_queue_core"
LANE = "zpatterns.worker_core"
WORKER = "zpatterns.pirate.worker_core"


def paranoid(name: str, module: str, old: str, new: str) -> Mutant:
    return Mutant(f"paranoid-{name}", module, old, new, "paranoid")


def simple(name: str, module: str, old: str, new: str) -> Mutant:
    return Mutant(f"simple-{name}", module, old, new, "simple")


MUTANTS: Sequence[Mutant] = (
    paranoid(
        "lost-workers-request-is-dropped",
        QUEUE,
        "            self._requeue(request, request[2] + has_it, now)\n",
        "            pass\n",
    ),
    paranoid(
        "heartbeat-makes-a-busy-worker-ready",
        PARANOID,
        "            if worker is not None:\n                worker.expiry = now + self._lease\n            else:\n",
        "            if worker is not None:\n                worker.expiry = now + self._lease\n"
        "                self._busy.pop(worker.id, None)\n                worker.request = None\n"
        "                self._ready(worker, now)\n"
        "            else:\n",
    ),
    paranoid(
        "expiry-stops-at-the-first-live-worker",
        PARANOID,
        "            self._checks.add(worker)\n        for worker in expired:",
        "            self._checks.add(worker)\n            break\n        for worker in expired:",
    ),
    paranoid(
        "busy-workers-never-expire",
        PARANOID,
        "if worker.expiry <= now and now >= self._grace_until:",
        "if worker.expiry <= now and now >= self._grace_until and worker.request is None:",
    ),
    paranoid(
        "queue-sends-no-heartbeats",
        PARANOID,
        "                self._back.append([worker.id, HEARTBEAT])\n",
        "                pass\n",
    ),
    paranoid(
        "stranger-who-replies-is-a-worker",
        PARANOID,
        '        else:\n            self._drops.add("not-registered")\n\n',
        "        else:\n            self._said_ready(frames[0], None, now)\n\n",
    ),
    paranoid(
        "reply-is-not-matched",
        PARANOID,
        "or shares_envelope(frames, 1, asked):",
        "or True:",
    ),
    paranoid(
        "one-delivery-too-many",
        QUEUE,
        "if deliveries >= self.options.deliveries_max",
        "if deliveries > self.options.deliveries_max",
    ),
    paranoid(
        "failed-delivery-counts",
        QUEUE,
        "            has_it = len(frames) == head + 1 and worker.given_at != now\n",
        "                pass\n",
    ),
    paranoid("request-past-its-ttl-is-started", QUEUE, "            if request[1] > now:\n", "            if True:\n"),
    paranoid(
        "requeued-past-its-ttl",
        QUEUE,
        "        elif expiry <= now:\n            self._expire(request)\n",
        "",
    ),
    paranoid(
        "worker-that-was-used-last-goes-first",
        QUEUE,
        "                worker = idle.popleft()\n",
        "                worker = idle.pop()\n",
    ),
    paranoid(
        "clients-are-read-while-no-worker-is-ready", QUEUE, "return port != FRONT or bool(self._idle)", "return True"
    ),
    paranoid("queue-is-not-bounded", QUEUE, "len(waiting) >= options.queue_max", "False"),
    paranoid(
        "queue-is-not-bounded-in-bytes",
        QUEUE,
        "waiting.bytes + size > options.queue_bytes_max",
        "False",
    ),
    paranoid(
        "unreachable-worker-is-kept",
        QUEUE,
        "        self._lose(worker, WorkerLost(worker.id, reason.value), now, has_it=has_it)\n",
        "",
    ),
    paranoid(
        "stalled-worker-goes-on-as-before",
        LANE,
        "return stood_still and self._step(WorkerInput.STALL, now)",
        "return False",
    ),
    paranoid("worker-sends-no-heartbeats", WORKER, "        self._out.append([HEARTBEAT])\n", "        pass\n"),
    paranoid(
        "worker-never-gives-its-queue-up",
        LANE,
        '            self._step(WorkerInput.SILENCE, now, "silent for a lease")\n',
        "            self._heard_at = now\n",
    ),
    paranoid(
        "worker-whose-handler-took-too-long-stays-away",
        LANE,
        "            self._connect_at = now  # it was only this handler that we waited for\n",
        "            pass\n",
    ),
    paranoid(
        "error-of-a-handler-is-not-sent",
        LANE,
        '            self._returned(now, error_body(code.encode("ascii", "replace"), message))\n',
        "            pass\n",
    ),
    simple(
        "late-reply-is-handed-on",
        SIMPLE,
        "            if count > 3 and envelope_depth(frames, 2):\n",
        "            if count > 3 and envelope_depth(frames, 2):\n                self._front.append(frames[2:])\n",
    ),
    simple(
        "late-worker-is-not-ready-again",
        SIMPLE,
        "                self._is_ready(frames[0], worker, now)\n            elif",
        "            elif",
    ),
    simple(
        "overdue-request-is-dropped",
        QUEUE,
        "            self._requeue(request, request[2] + has_it, now)\n",
        "            pass\n",
    ),
    simple(
        "unreachable-worker-takes-its-request-along",
        QUEUE,
        "                worker.request = (*request[:FRAMES], frames[head:])\n",
        "                pass\n",
    ),
    simple(
        "reply-is-not-matched",
        SIMPLE,
        "and shares_envelope(frames, 2, worker.request[FRAMES]):",
        "and count > 3:",
    ),
    simple(
        "one-delivery-too-many",
        QUEUE,
        "if deliveries >= self.options.deliveries_max",
        "if deliveries > self.options.deliveries_max",
    ),
    simple("request-past-its-ttl-is-started", QUEUE, "            if request[1] > now:\n", "            if True:\n"),
    simple(
        "worker-that-was-used-last-goes-first",
        QUEUE,
        "                worker = idle.popleft()\n",
        "                worker = idle.pop()\n",
    ),
    simple(
        "clients-are-read-while-no-worker-is-ready", QUEUE, "return port != FRONT or bool(self._idle)", "return True"
    ),
    simple("queue-is-not-bounded", QUEUE, "len(waiting) >= options.queue_max", "False"),
)
