"""The Clone server: see :class:`CloneServer`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from zpatterns.clone.paired_server_core import SEQUENCE_SHIFT, PairedCloneCore
from zpatterns.clone.persistence import Kept, Row, Saver, StoreFile
from zpatterns.clone.server_core import CloneServerCore
from zpatterns.clone.server_state import COLLECTOR, PUBLISHER, SNAPSHOT, ServerOptions, ServerStatistics
from zpatterns.clone.store import Pair
from zpatterns.clone.wire import for_ever, pack_sequence
from zpatterns.core import Command, Event, Save, SocketKind
from zpatterns.errors import EndpointError
from zpatterns.reactor import Reactor, ReactorDriver
from zpatterns.service import Service
from zpatterns.sockets import SocketSettings, check_endpoint, default_rng
from zpatterns.timing import Liveness

_DEFAULTS = ServerOptions()
_ATTEMPTS = 100
_KINDS = ((SNAPSHOT, SocketKind.ROUTER), (PUBLISHER, SocketKind.PUB), (COLLECTOR, SocketKind.SUB))


class CloneServer(Service):
    """Keeps a map of keys and values, and shares it with any number of clients: 12/CHP, and answers to our clients.

    `endpoint`: where snapshots are asked for, such as ``tcp://*:5556``; the two ports above it publish and collect.
    ``tcp://127.0.0.1:*`` takes three free ones.
    `heartbeat_interval`: seconds between two HUGZ. A client that reads nothing of its snapshot for `liveness` of
    them is given up.
    `store`: a file that keeps the map. A change is then published, and answered, only once it is safe on disk.
    `keys_max`, `bytes_max` (about 400 bytes a pair are added to what it holds), `key_max`, `depth_max` (levels of
    subtrees), `value_max` (bytes of properties and value): sets beyond them are refused, or dropped where nobody
    waits for an answer.
    `pending_max`, `pending_bytes_max`: changes that may wait for the disk. `answers_max`: sets whose answer is kept
    for those who ask again; and in a pair, changes of the active one that the other knows again. `joins_max`:
    snapshots at a time.
    `peer`: as half of a pair (:class:`zpatterns.bstar.BinaryStar`), where the other half sends snapshots. One of ours
    says so itself; one of the Guide's does not.
    Errors: ValueError for values that make no sense; EndpointError for an address that is none; StoreError, at the
    start, for a file that cannot be used.
    """

    source = "clone.server"

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:5556",
        *,
        heartbeat_interval: float = 1.0,
        liveness: int = 5,
        store: str | os.PathLike[str] | None = None,
        keys_max: int = _DEFAULTS.keys_max,
        bytes_max: int = _DEFAULTS.bytes_max,
        key_max: int = _DEFAULTS.key_max,
        depth_max: int = _DEFAULTS.depth_max,
        value_max: int = _DEFAULTS.value_max,
        pending_max: int = _DEFAULTS.pending_max,
        pending_bytes_max: int = _DEFAULTS.pending_bytes_max,
        answers_max: int = _DEFAULTS.answers_max,
        joins_max: int = _DEFAULTS.joins_max,
        peer: str | None = None,
        settings: SocketSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        super().__init__(on_event=on_event)
        self._options = ServerOptions(
            liveness=Liveness(heartbeat_interval, liveness),
            keys_max=keys_max,
            bytes_max=bytes_max,
            key_max=key_max,
            depth_max=depth_max,
            value_max=value_max,
            pending_max=pending_max,
            pending_bytes_max=pending_bytes_max,
            answers_max=answers_max,
            joins_max=joins_max,
            durable=store is not None,
        )
        self._path = None if store is None else os.fspath(store)
        self._settings = settings
        self._host_name, self._port = _split(endpoint)
        self._wanted = endpoint
        self._peer = None if peer is None else _check_peer(peer)
        self._look: Callable[[float], None] | None = None
        self._core: CloneServerCore | None = None
        self._saver: Saver | None = None
        self.endpoints: tuple[str, ...] = ()
        """Where it sends snapshots, publishes and collects, once started, with real ports."""

    @property
    def endpoint(self) -> str:
        """Where snapshots are asked for; the real one, once bound."""
        return self.endpoints[0] if self.endpoints else self._wanted

    def statistics(self) -> ServerStatistics:
        """Counters since the start and what is held now."""
        core = self._core
        return self._counted((CloneServerCore(0, default_rng) if core is None else core).statistics())

    def _announcement(self) -> dict[str, Any]:
        assert self._core is not None
        fields: dict[str, Any] = {"endpoint": self.endpoint, "endpoints": self.endpoints}
        if self._path is not None:
            fields |= {"store": self._path, "keys": len(self._core.store)}
        return fields

    def _attach(self, reactor: Reactor) -> None:
        floor = _sequence_of_now()
        file = None
        if self._path is not None:
            file = StoreFile(self._path, sequence=floor, answers_max=self._options.answers_max)
        try:
            core = self._core = self._make_core(reactor, floor, None if file is None else file.kept)
            driver = self._bind(reactor, core)
            if isinstance(core, PairedCloneCore):
                core.port = int(self.endpoint.rpartition(":")[2])
            if file is not None:
                now = driver.now()
                core.restore([_pair(row, file.deadline(row, now)) for row in file.kept.rows], file.kept.answers)
                file.kept.rows.clear()
        except BaseException:
            if file is not None:
                file.close()
            raise
        if file is not None:

            def done(problem: str | None) -> None:
                driver.call_threadsafe(self._saved, driver, problem)

            self._saver = Saver(file, done)
        driver.call(core.start, driver.now())

    def _join_pair(self, look: Callable[[float], None]) -> None:
        self._look = look

    def _make_core(self, reactor: Reactor, floor: int, kept: Kept | None) -> CloneServerCore:
        sequence, epoch = floor, 0
        if kept is not None:
            sequence = kept.sequence
            # A map that was made without a pair is newer than none.
            epoch = max(kept.epoch, 1 if kept.rows else 0)
        if self._look is None:
            if self._peer is not None:
                raise ValueError("peer is for half of a pair: give this server to a BinaryStar")
            return CloneServerCore(sequence, reactor.rng, self._options)
        return PairedCloneCore(
            sequence, reactor.rng, self._options, floor=floor, epoch=epoch, look=self._look, peer=self._peer
        )

    def _bind(self, reactor: Reactor, core: CloneServerCore) -> ReactorDriver:
        """Bind the three ports; where any will do, until three in a row are free."""
        for attempt in range(1, _ATTEMPTS + 1):
            driver = self._drive(reactor, core, settings=self._settings, on_command=self._on_command)
            try:
                self.endpoints = self._bind_all(driver)
            except EndpointError:
                if self._port or attempt == _ATTEMPTS:
                    raise
                self._drivers.remove(driver)
                driver.close()
            else:
                return driver
        raise AssertionError("unreachable")

    def _bind_all(self, driver: ReactorDriver) -> tuple[str, ...]:
        port = self._port or "*"
        bound = []
        for offset, (name, kind) in enumerate(_KINDS):
            real = driver.bind(name, kind, f"tcp://{self._host_name}:{port if port == '*' else int(port) + offset}")
            bound.append(real)
            if port == "*":
                port = int(real.rpartition(":")[2])
                if port > 65533:
                    raise EndpointError(f"no three ports in a row from {port}", endpoint=real)
        return tuple(bound)

    def _on_command(self, command: Command) -> None:
        if isinstance(command, Save):
            assert self._saver is not None
            self._saver.save(command.changes)

    def _saved(self, driver: ReactorDriver, problem: str | None) -> None:
        assert self._core is not None
        if problem is None:
            self._core.saved(driver.now())
        else:
            self._core.save_failed(problem, driver.now())

    def _close(self) -> None:
        super()._close()
        if self._saver is not None:
            self._saver.close()
            self._saver = None


def _sequence_of_now() -> int:
    """Above all that an earlier life, with less than a million updates a second, has published: C clients drop what is
    not newer. This is the one use of the wall clock for sequences."""
    return (time.time_ns() << SEQUENCE_SHIFT) // 10**9


def _pair(row: Row, deadline: float) -> Pair:
    key, sequence, uuid, properties, body, ttl, _ = row
    packed = pack_sequence(sequence)
    return (key, packed, uuid, properties, body, deadline) if ttl else (key, packed, uuid, for_ever(properties), body)


def _check_peer(endpoint: str) -> str:
    """Errors: EndpointError for one that says no host, or no port of three."""
    host, port = _split(check_endpoint(endpoint))
    if not port or host == "*":
        raise EndpointError(f"the other half's endpoint {endpoint!r} must say host and port", endpoint=endpoint)
    return endpoint


def _split(endpoint: str) -> tuple[str, int]:
    """Host and port of a tcp endpoint, 0 for any port."""
    check_endpoint(endpoint, bind=True)
    if not endpoint.startswith("tcp://"):
        raise EndpointError(
            f"a Clone server needs three ports in a row, so {endpoint!r} must be a tcp endpoint, such as "
            "'tcp://127.0.0.1:5556'",
            endpoint=endpoint,
        )
    host, _, text = endpoint[6:].rpartition(":")
    port = 0
    with suppress(ValueError):
        port = int(text)
    if port > 65533:
        raise EndpointError(f"there are no two ports above that of {endpoint!r}", endpoint=endpoint)
    return host, port
