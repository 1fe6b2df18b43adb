"""A Clone server of a process, which tells of each turn of its loop that takes long, and in the end of the longest.

``python -m tests.live.measured_clone KEYS LIMIT``: it has so many keys of 64 bytes from the start, and logs
``long_turn`` for those above LIMIT seconds. A turn counts by the processor time of its thread: how long others had to
wait on a quiet machine, whatever else this one does.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from zpatterns.clone import CloneServer
from zpatterns.clone.server_core import CloneServerCore
from zpatterns.reactor import Reactor, ReactorDriver
from zpatterns.telemetry import configure_logging

VALUE = b"x" * 64
_BATCH = 1000


class MeasuredCloneServer(CloneServer):
    """Each drain of a socket and each timer is timed."""

    def __init__(self, keys: int, limit: float) -> None:
        super().__init__("tcp://127.0.0.1:*", answers_max=1000)
        self.keys = keys
        self.limit = limit
        self.longest = self.filled_at = 0.0

    def _drive(self, reactor: Reactor, core: Any, **options: Any) -> ReactorDriver:
        _fill(core, self.keys)
        self.filled_at = time.process_time()
        driver = super()._drive(reactor, core, **options)
        for name in ("_guarded_drain", "_guarded_timer"):
            setattr(driver, name, self._timed(getattr(driver, name)))
        return driver

    def _timed(self, turn: Any) -> Any:
        def timed(*arguments: Any) -> None:
            begin = time.thread_time()
            turn(*arguments)
            seconds = time.thread_time() - begin
            self.longest = max(self.longest, seconds)
            if seconds > self.limit:
                _log("long_turn", seconds=seconds)

        return timed


def _fill(core: CloneServerCore, keys: int) -> None:
    for first in range(0, keys, _BATCH):
        batch = [
            [b"/key/%08d" % number, bytes(8), bytes(16), b"ttl=0\n", VALUE]
            for number in range(first, min(first + _BATCH, keys))
        ]
        core.receive_many(batch, 0.0, "collector")
        core.messages_to_send("publisher")


def _log(event: str, **fields: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def main(keys: int, limit: float) -> None:
    configure_logging("json", "warning")
    server = MeasuredCloneServer(keys, limit)
    server._telemetry.info = _log  # type: ignore[method-assign, assignment]
    server.run()
    _log(
        "measured",
        longest=server.longest,
        processor=time.process_time() - server.filled_at,
        **{name: getattr(server.statistics(), name) for name in _TOLD},
    )


_TOLD = ("snapshots", "snapshot_keys", "updates", "abandoned")

if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
