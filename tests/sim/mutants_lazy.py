"""Defects of Lazy Pirate's cores, and of what they share with other patterns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tests.sim.mutant import Mutant

CALLS = "zpatterns.calls_core"
CLIENT = "zpatterns.pirate.lazy_client_core"
SERVER = "zpatterns.server_core"
WIRE = "zpatterns.pirate.wire"

_lazy = partial(Mutant, pattern="lazy")

MUTANTS: Sequence[Mutant] = (
    _lazy(
        "lazy-attempt-keeps-its-socket",
        CLIENT,
        "        for connection in call.connections:\n            self._close(connection)\n"
        "        call.connections = []\n",
        "        return\n",
    ),
    _lazy(
        "lazy-reply-to-an-attempt-answers-another-call",
        CALLS,
        "            # A reply may be on its way on these: they must not serve another call.\n"
        "            self._close(connection)\n",
        "            self._release(connection, now)\n",
    ),
    _lazy(
        "lazy-retries-are-not-counted",
        CALLS,
        "        if call.attempts > self.options.retries or call.expiry <= now:\n",
        "        if call.expiry <= now:\n",
    ),
    _lazy(
        "lazy-never-turns-to-another-server",
        CALLS,
        "            self._preferred = (endpoint + 1) % len(self._endpoints)\n",
        "            pass\n",
    ),
    _lazy(
        "lazy-call-outlives-its-deadline",
        CALLS,
        "        call.expiry = now + seconds\n",
        "        call.expiry = now + seconds + 0.1\n",
    ),
    _lazy("lazy-server-queue-is-not-bounded", SERVER, "len(self._queue) >= self.options.queue_max", "False"),
    _lazy(
        "lazy-server-begins-what-is-past-its-time",
        SERVER,
        "depth, now + self.options.request_ttl)",
        "depth, now + self.options.request_ttl * 2)",
    ),
    _lazy(
        "lazy-server-begins-the-newest",
        SERVER,
        "request = self._queue.popleft()\n        self._queued_bytes",
        "request = self._queue.pop()\n        self._queued_bytes",
    ),
    _lazy(
        "lazy-server-forgets-its-lane-after-an-error",
        SERVER,
        "            self._failed(request, code, message)\n        self._next(run, now)\n",
        "            self._failed(request, code, message)\n            return\n        self._next(run, now)\n",
    ),
    _lazy(
        "lazy-server-answers-nothing-when-its-handler-raises",
        SERVER,
        '        self._tell_error(request, code.encode("ascii", "replace"), message)\n',
        "",
    ),
    _lazy(
        "lazy-server-takes-anything-for-a-request",
        WIRE,
        "    except ValueError:\n        return 0\n",
        "    except ValueError:\n        return start\n",
    ),
)
