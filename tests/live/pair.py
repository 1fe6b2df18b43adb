"""A Binary Star pair of real processes, which are killed, stopped and started again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from tests.waiting import until
from zpatterns.bstar import BinaryStarClient
from zpatterns.errors import RequestTimeout
from zpatterns.testing import ManagedProcess, ReservedPort


class Half:
    """One process of the pair."""

    def __init__(self, process: ManagedProcess, front: str, control: str) -> None:
        self.process = process
        self.front = front
        self.control = control

    def status(self) -> dict[str, Any]:
        """What it says about itself; empty if it says nothing."""
        if not self.process.is_running:
            return {}
        try:
            with BinaryStarClient(self.control, timeout=2.0, retries=0) as client:
                code, text = client.request("status")
        except RequestTimeout:
            return {}
        assert code == b"200"
        status: dict[str, Any] = json.loads(text)
        return status

    @property
    def state(self) -> str:
        return str(self.status().get("state", ""))


class LivePair:
    """Primary and backup."""

    def __init__(self, primary: Half, backup: Half) -> None:
        self.halves = (primary, backup)
        self.fronts = [primary.front, backup.front]

    @property
    def states(self) -> tuple[str, str]:
        return self.halves[0].state, self.halves[1].state

    def settled(self) -> tuple[Half, Half]:
        """The active and the passive one, once there are both."""
        until(lambda: sorted(self.states) == ["active", "passive"], "one is active, and one passive")
        active, passive = self.halves
        return (active, passive) if active.state == "active" else (passive, active)


@contextlib.contextmanager
def live_pair(*command: str, interval: float, prefix: str = "", fronts: int = 1) -> Iterator[LivePair]:
    """Start a primary and a backup of this command, each with so many `fronts` in a row, and what a pair needs."""
    with contextlib.ExitStack() as stack:
        counts = (fronts, fronts, 1, 1, 1, 1)
        ports = [stack.enter_context(ReservedPort(count)).endpoint for count in counts]
        halves = []
        for number, role in enumerate(("--primary", "--backup")):
            front, local, control = ports[number], ports[2 + number], ports[4 + number]
            process = ManagedProcess.command(
                *command,
                *(role, "--bind", front, "--local", local, "--remote", ports[3 - number], "--control", control),
                *(f"--{prefix}heartbeat-interval", str(interval), "--log-format", "json"),
            )
            halves.append(Half(stack.enter_context(process), front, control))
        yield LivePair(*halves)
