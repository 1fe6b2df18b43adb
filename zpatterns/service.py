"""The life of a server or worker: start, serve, drain, stop. The same for every pattern."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

from zpatterns.core import Command, Event, PortId, ServiceCore, SocketKind
from zpatterns.driver import with_oversize
from zpatterns.errors import ClosedError, EndpointError
from zpatterns.reactor import Reactor, ReactorDriver
from zpatterns.sockets import ProcessGuard, SocketSettings, check_endpoint
from zpatterns.telemetry import Telemetry

S = TypeVar("S")

GOODBYE_LINGER = 1.0
"""Seconds that libzmq may take, after a service has stopped, to send what it took."""

PEERS_READ = 0.1
"""Seconds that a server which drains leaves its connections open after its last message. Sockets with
ZMQ_IMMEDIATE, such as those of our clients and workers, lose what nobody has read yet when a connection ends."""


class Parts(NamedTuple):
    """What the driver of a service is made of."""

    core: ServiceCore
    settings: SocketSettings | None
    telemetry: Telemetry
    on_command: Callable[[Command], None]


class Service:
    """One server or worker. It runs once: a stopped service is not started again.

    Serve a whole program with :meth:`run`; several in one process with ``Reactor().run(a, b)``; inside asyncio
    with ``async with service:``, or :meth:`start` and :meth:`stop`. `on_event` is called with every
    :class:`~zpatterns.core.Event`, on the loop's thread; what it raises is logged and nothing else.
    """

    source: ClassVar[str]
    """The name in log lines, such as ``mdp.broker``."""

    def __init__(self, *, on_event: Callable[[Event], None] | None = None) -> None:
        self._telemetry = Telemetry(self.source, on_event)
        self._drivers: list[ReactorDriver] = []
        self._reactor: Reactor | None = None
        self._host: Callable[[Parts], Parts] | None = None
        self._stopping: asyncio.Future[None] | None = None
        self._process = ProcessGuard(type(self).__name__)

    def run(self) -> None:
        """Serve with a reactor of its own until SIGINT or SIGTERM, then drain and return.

        Errors: :class:`EndpointError` for an address that cannot be bound or parsed.
        """
        self._process.check()
        Reactor().run(self)

    async def start(self, reactor: Reactor | None = None) -> Self:
        """Open the sockets and begin to serve; returns once bound. Uses the running loop's reactor by default.

        Errors: :class:`EndpointError` for an address that cannot be bound or parsed.
        """
        self._process.check()
        if self._reactor is not None:
            raise ClosedError(f"{self.source} was started before; make a new one")
        self._reactor = reactor or Reactor.current()
        try:
            self._attach(self._reactor)
        except BaseException:
            self._close()
            raise
        self._telemetry.info("ready", **self._announcement())
        return self

    async def stop(self, drain: float = 5.0) -> None:
        """Finish what was begun, for `drain` seconds at the most, say goodbye and close. Twice is once."""
        self._process.check()
        if self._reactor is None:
            return
        while (other := self._stopping) is not None:
            await asyncio.shield(other)
            if self._stopping is other:
                return
            # Its caller has given up: now it is ours to do.
        stopping = self._stopping = asyncio.get_running_loop().create_future()
        try:
            if drain > 0:
                await self._drain(drain)
            for driver in self._drivers:
                if not driver.closed:
                    driver.call(driver.core.shut_down, driver.now())  # type: ignore[attr-defined]
            if drain > 0 and any(link.routed for driver in self._drivers for link in driver.links.values()):
                await asyncio.sleep(PEERS_READ)
        except asyncio.CancelledError:
            # The caller has no more patience: a second stop may follow and must find the door open.
            self._stopping = None
            stopping.set_result(None)
            raise
        try:
            self._close()
            await self._reactor.settled()
        finally:
            stopping.set_result(None)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop() if kind is None else await self.stop(drain=0.0)

    def statistics(self) -> Any:
        """A frozen snapshot of the counters."""
        return self._drivers[0].statistics()

    # What a service provides.

    def _announcement(self) -> dict[str, Any]:
        """The fields of the log line that says it is ready."""
        raise NotImplementedError

    def _attach(self, reactor: Reactor) -> None:
        """Make the drivers, into ``self._drivers``, and open their sockets."""
        raise NotImplementedError

    def _join_pair(self, look: Callable[[float], None]) -> None:
        """Become one half of a pair: bring a core that can stand by (:class:`zpatterns.paired_core.PairedCore`).

        `look`: what that core calls first, with the time, in each turn that begins neither with a message nor with its
        timer, such as when a handler ends: this half may have to stand by. Called once, before the start.
        Errors: TypeError for a service that has no such core.
        """
        raise TypeError(f"a {type(self).__name__} cannot be one half of a pair")

    def _counted(self, statistics: S) -> S:
        """The core's `statistics` as they are shown."""
        return with_oversize(statistics, self._drivers)

    def _drive(
        self,
        reactor: Reactor,
        core: ServiceCore,
        *,
        settings: SocketSettings | None,
        on_command: Callable[[Command], None],
        stall_threshold: float = 1.0,
    ) -> ReactorDriver:
        """Make the driver of a server that has one. Where it is hosted (:mod:`zpatterns.bstar`), the host has a say."""
        parts = Parts(core, settings, self._telemetry, on_command)
        if self._host is not None:
            parts = self._host(parts)
        driver = ReactorDriver(
            reactor,
            parts.core,
            settings=parts.settings,
            telemetry=parts.telemetry,
            on_command=parts.on_command,
            stall_threshold=stall_threshold,
        )
        self._drivers.append(driver)
        return driver

    def _close(self) -> None:
        for driver in self._drivers:
            driver.close(GOODBYE_LINGER)

    # The rest.

    async def _drain(self, seconds: float) -> None:
        drained = asyncio.Event()

        def look() -> None:
            if all(driver.closed or driver.core.drained for driver in self._drivers):  # type: ignore[attr-defined]
                drained.set()

        for driver in self._drivers:
            driver.after_turn = look
        for driver in self._drivers:
            driver.call(driver.core.drain, driver.now())  # type: ignore[attr-defined]
        try:
            async with asyncio.timeout(seconds):
                await drained.wait()
        except TimeoutError:
            self._telemetry.info("drain_incomplete", seconds=seconds)
        finally:
            for driver in self._drivers:
                driver.after_turn = None


class BoundService(Service):
    """One with a ROUTER that is bound to `endpoints`. Errors: EndpointError for none at all, and for what is none."""

    def __init__(
        self,
        endpoints: tuple[str, ...],
        *,
        settings: SocketSettings | None,
        on_event: Callable[[Event], None] | None,
    ) -> None:
        if not endpoints:
            name = type(self).__name__
            raise EndpointError(f"{name} needs at least one endpoint to bind, such as 'tcp://127.0.0.1:5555'")
        super().__init__(on_event=on_event)
        self._settings = settings
        self._wanted = tuple(check_endpoint(endpoint, bind=True) for endpoint in endpoints)
        self.endpoints: tuple[str, ...] = ()
        """What it is bound to, once started, with real ports."""

    @property
    def endpoint(self) -> str:
        """The first endpoint; the real one, once bound."""
        return (self.endpoints or self._wanted)[0]

    def _announcement(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"endpoint": self.endpoint}
        if len(self.endpoints) > 1:
            fields["endpoints"] = self.endpoints
        return fields

    def _bind(self, driver: ReactorDriver, port: PortId) -> None:
        self.endpoints = tuple(driver.bind(port, SocketKind.ROUTER, endpoint) for endpoint in self._wanted)
