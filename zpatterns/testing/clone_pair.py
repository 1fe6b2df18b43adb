"""The halves of a pair of Clone servers in the simulated world."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from zpatterns.bstar.bstar_core import STATE
from zpatterns.bstar.bstar_state import StarOptions
from zpatterns.bstar.pair_core import PairCore
from zpatterns.clone.paired_server_core import PairedCloneCore
from zpatterns.clone.server_state import Era, ServerOptions
from zpatterns.core import SocketKind
from zpatterns.sockets import SocketSettings
from zpatterns.testing.clone_nodes import CloneServerNode

if TYPE_CHECKING:
    from zpatterns.testing.clone import CloneWorld
    from zpatterns.testing.clone_pair_observer import ClonePairObserver

PORT = 5556
STATE_PORT = 5003


class _Core(PairedCloneCore):
    """Tells the observer when its map begins to be another's, or its own."""

    node: ClonePairNode

    def take_over(self, now: float) -> None:
        copy = self._journal.copy
        if copy is not None:
            self._begin_era(copy)  # as the core is about to do
        self.node.observer.promotes(self.node)
        super().take_over(now)

    def _begin_era(self, era: Era) -> None:
        is_new = era.store is not None and not era.begun
        super()._begin_era(era)
        if is_new:
            self.node.observer.copied(self.node, era)


class ClonePairNode(CloneServerNode):
    """One half of the pair."""

    core: PairedCloneCore

    def __init__(
        self, world: CloneWorld, name: str, star: StarOptions, options: ServerOptions, settings: SocketSettings
    ) -> None:
        super().__init__(world, name, options, settings)
        self.star_options = star
        self.promoted_at = float("-inf")

    @property
    def observer(self) -> ClonePairObserver:
        """Who judges it."""
        return cast("ClonePairObserver", self.world.observer)

    @property
    def other(self) -> ClonePairNode:
        """The other half."""
        return next(server for server in self.world.halves if server is not self)

    def _make_core(self, sequence: int) -> None:
        self.pair = PairCore(self.star_options)
        core = _Core(
            sequence,
            self.chance,
            self.options,
            floor=int(self.world.clock.now() * 2**20),
            epoch=self.disk.get("epoch", 0),
            look=self.pair.star.look,
        )
        core.node = self
        core.port = PORT
        self.core = self.pair.hosted = core
        self._drive(self.pair)
        self.driver.bind(STATE, SocketKind.PUB, state_endpoint(self.name))

    def boot(self) -> None:
        super().boot()
        self.driver.call(self.pair.star.start, self.driver.now())

    def promote(self) -> None:
        """An operator does."""
        self.promoted_at = self.world.clock.now()
        self.driver.call(self.pair.star.promote, self.driver.now())

    def step_down(self) -> None:
        """Its program does."""
        self.driver.call(self.pair.star.step_down, self.driver.now(), "told to")

    def _write_era(self, era: Era) -> None:
        self.disk["epoch"] = era.epoch
        if era.store is not None:
            pairs = [era.store.get(key) for key in era.store._slots]
            self.disk["pairs"] = {pair[0]: pair for pair in pairs if pair is not None}
            self.disk["answers"] = []
        self.observer.committed_era(self, era)


def state_endpoint(name: str) -> str:
    """Where a half publishes its state."""
    return f"sim://{name}:{STATE_PORT}"
