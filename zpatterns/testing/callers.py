"""What any simulated process that calls does: it calls of its own accord while there are faults, and gives up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from zpatterns.calls import CallCore
from zpatterns.core import Command, Deliver, Fail, Frames, Rng
from zpatterns.errors import QueueFull
from zpatterns.sockets import SocketSettings
from zpatterns.testing.driving import CallerDriver, SimDriver, SimLink
from zpatterns.testing.ledger import Call
from zpatterns.testing.serving import ServingWorld
from zpatterns.testing.world import Node


class CallingNode(Node):
    """A process that calls, unless it is `idle`. `timeout`: how long a call has, in seconds."""

    world: ServingWorld
    burst: ClassVar[tuple[float, int]] = (0.1, 20)
    """How often a caller makes many calls at once, and about how many."""
    may_block: ClassVar[bool] = False
    """Whether some of its kind wait for their calls, as threads do."""

    def __init__(self, world: ServingWorld, name: str, *, timeout: float, idle: bool) -> None:
        super().__init__(world, name)
        self.timeout = timeout
        self._idle = idle
        self._is_blocking = self.may_block and self.chance.happens(0.4)
        self._pace = world.lease * self.chance.pick((0.05, 0.3, 1.0))

    def boot(self) -> None:
        if not self._idle:
            self._later_calls()

    def killed(self) -> None:
        self.world.ledger.abandon(self)

    def make_call(self) -> None:
        """Make one call."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the client, and begin anew with another one."""
        raise NotImplementedError

    def give_up(self, call: Call) -> None:
        """The caller does not want to wait any more."""
        raise NotImplementedError

    def maybe_give_up(self, call: Call) -> None:
        """Give up some calls, some time from now, where callers do so."""
        if "cancel" in self.world.active_behaviours and self.chance.happens(0.2):
            self.later(self.world.clock.now() + self.timeout * self.chance.random(), self.give_up, call)

    def _later_calls(self) -> None:
        pause = self._pace * 2 * self.chance.random()
        self.later(self.world.clock.now() + pause, self._make_calls)

    def _make_calls(self) -> None:
        world, chance = self.world, self.chance
        if world.phase != "faults" or world.calls_left <= 0:
            return
        if "close" in world.active_behaviours and chance.happens(0.03):
            self.close()
            return
        share, many = self.burst
        count = 5 + chance.below(many) if "burst" in world.active_behaviours and chance.happens(share) else 1
        for _ in range(count):
            world.calls_left -= 1
            self.make_call()
        self._later_calls()


class ClientNode(CallingNode):
    """A process with one client of ours, in an event loop or in a thread that waits."""

    may_block = True
    core: CallCore

    def __init__(
        self, world: ServingWorld, name: str, settings: SocketSettings, *, timeout: float, idle: bool = False
    ) -> None:
        super().__init__(world, name, timeout=timeout, idle=idle)
        self._settings = settings
        self.open: dict[int, Call] = {}

    def make_core(self, rng: Rng) -> Any:
        """The client's core, anew at each start."""
        raise NotImplementedError

    def answered(self, call: Call, frames: Frames) -> None:
        """The caller is about to get its answer."""

    def got_part(self, call: Call, frames: Frames) -> None:
        """The caller gets a part of a stream."""
        raise AssertionError(f"{self.name} got a part of {call}")

    def boot(self) -> None:
        self.core = self.make_core(self.chance)
        self.open = {}
        self.driver: SimDriver | CallerDriver
        if self._is_blocking:
            self.driver = CallerDriver(
                self,
                self.core,
                settings=self._settings,
                rng=self.chance,
                on_command=self._on_command,
                waiting=lambda: bool(self.open),
            )
        else:
            self.driver = SimDriver(
                self, self.core, settings=self._settings, rng=self.chance, on_command=self._on_command
            )
        super().boot()

    def killed(self) -> None:
        super().killed()
        self.open = {}

    def close(self) -> None:
        self.driver.call(self.core.close, self.driver.now())
        self.driver.close()
        self.boot()

    def give_up(self, call: Call) -> None:
        if self.open.pop(call.number, None) is not None:
            self.world.ledger.cancel(call)
            self.driver.call(self.core.cancel_call, call.number, self.driver.now())

    @property
    def links(self) -> list[SimLink]:
        """Its sockets."""
        return [link for link in self.driver.links.values() if isinstance(link, SimLink)]

    def _begin(self, call: Call, start: Callable[..., None], *args: Any, **options: Any) -> Call:
        """Begin a call by `start`, a method of the core, as the front ends do."""
        driver = self.driver
        self.open[call.number] = call
        try:
            driver.call(start, call.number, *args, **options)
        except QueueFull as error:
            self.open.pop(call.number, None)
            self.world.ledger.error(call, error)
        if isinstance(driver, CallerDriver):
            driver.lead()
        return call

    def _on_command(self, command: Command) -> None:
        assert isinstance(command, Deliver | Fail)
        ledger = self.world.ledger
        call = ledger.calls[command.call - 1]
        if isinstance(command, Deliver) and not command.last:
            self.got_part(call, command.frames)
            return
        self.open.pop(call.number, None)
        if isinstance(command, Fail):
            ledger.error(call, command.error)
        else:
            self.answered(call, command.frames)
            ledger.reply(call, command.frames)
