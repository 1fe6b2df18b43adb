"""One half of a Binary Star pair: see :class:`BinaryStar`."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from zpatterns.bstar import wire
from zpatterns.bstar.bstar_core import CONNECTING, CONTROL, STATE
from zpatterns.bstar.bstar_state import StarOptions, StarStatistics
from zpatterns.bstar.events import StarEvent
from zpatterns.bstar.fence import Fence
from zpatterns.bstar.lease_core import ACQUIRE, ON_ACTIVE, ON_PASSIVE, RENEW
from zpatterns.bstar.pair_core import PairCore
from zpatterns.core import Command, Errand, Event, SocketKind
from zpatterns.errors import ClosedError, EndpointError, PromotionRefused
from zpatterns.handlers import Handler
from zpatterns.pirate.lazy_server import LazyPirateServer
from zpatterns.reactor import Reactor, ReactorDriver
from zpatterns.service import Parts, Service
from zpatterns.sockets import SocketSettings, check_endpoint
from zpatterns.telemetry import Telemetry
from zpatterns.timing import Liveness

Hook: TypeAlias = Callable[[], object]
"""A function without arguments. A coroutine is awaited; a plain one runs on the loop's thread and must be quick."""


class _Server(LazyPirateServer):
    """What a node hosts when it is given a handler."""

    source = "bstar.server"


class BinaryStar(Service):
    """Runs a service as one half of a pair, of which one serves and the other stands by (Guide chapter 4, "High-
    Availability Pair").

    `service`: a :class:`zpatterns.mdp.Broker`, a Pirate queue or a :class:`zpatterns.pirate.LazyPirateServer`, not
    started; it is started and stopped with this node. Without one, a `handler` answers requests at the endpoints of
    `bind` (without a handler it echoes), as a LazyPirateServer does.
    `primary`: which half this is; exactly one of the two is the primary, and serves first when both start.
    `local`: the endpoint at which this half publishes its state; `remote`: the other's. `control`: an endpoint for
    operators (``zpatterns bstar status``); bind it to loopback or ipc only, for who reaches it can promote.
    `heartbeat_interval` (seconds) x `liveness`: the silence after which the other half is dead. Give both the same. An
    active that stood still for longer than ``(liveness - 1) x heartbeat_interval`` steps down before it serves on.
    `lone_backup_after` (seconds): a backup whose primary was not heard for so long serves when it is asked; by default
    one that has not been part of a pair since its start never does.
    `on_active`: done before this half serves, for instance to load what it needs; `on_passive`: done when it serves no
    more, before it may serve again. Each is a function without arguments; a coroutine is awaited while heartbeats go
    on. If `on_active` raises, the node steps down.
    `fence`: see :class:`Fence`; `longest_turn` (seconds): taken off its lease, by default one heartbeat interval.
    `settings`: of the sockets of a handler's server; a `service` brings its own.
    Errors: ValueError for values that make no sense, TypeError for a service that cannot be half of a pair, ClosedError
    for one that was started, EndpointError for an address that is none.
    """

    source = "bstar"

    def __init__(
        self,
        service: Service | None = None,
        *,
        primary: bool,
        local: str,
        remote: str,
        bind: str | Sequence[str] = (),
        handler: Handler | None = None,
        control: str | None = None,
        heartbeat_interval: float = 1.0,
        liveness: int = 2,
        lone_backup_after: float | None = None,
        on_active: Hook | None = None,
        on_passive: Hook | None = None,
        fence: Fence | None = None,
        longest_turn: float | None = None,
        settings: SocketSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        super().__init__(on_event=on_event)
        endpoints = (bind,) if isinstance(bind, str) else tuple(bind)
        if service is not None and (endpoints or handler is not None or settings is not None):
            raise TypeError("bind, handler and settings are for a node without a service; this one brings its own")
        self.service: Any = _Server(*endpoints, handler=handler, settings=settings) if service is None else service
        """What it hosts."""
        self._check_unstarted()
        self._local = check_endpoint(local, bind=True)
        self._control = None if control is None else _check_control(control)
        self._on_active, self._on_passive, self._fence = on_active, on_passive, fence
        options = StarOptions(
            primary=primary,
            remote=check_endpoint(remote),
            liveness=Liveness(heartbeat_interval, liveness),
            lone_backup_after=lone_backup_after,
            has_hooks=on_active is not None or on_passive is not None,
            has_fence=fence is not None,
            longest_turn=longest_turn,
        )
        self._errands: deque[Errand] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._renewals: set[asyncio.Task[None]] = set()
        self._pair = PairCore(options)
        self.service._join_pair(self._pair.star.look)

    @property
    def endpoint(self) -> str:
        """The first endpoint of the service; the real one, once bound."""
        return str(self.service.endpoint)

    @property
    def local(self) -> str:
        """Where it publishes its state; the real endpoint, once bound."""
        return self._local

    @property
    def control(self) -> str | None:
        """Where operators reach it; the real endpoint, once bound."""
        return self._control

    def statistics(self) -> StarStatistics:
        """What it is, and counters since the start; those of the service are ``service.statistics()``."""
        return self._pair.statistics()

    def promote(self) -> None:
        """Become active, whatever the other half is; it gives way as soon as it hears of it. On the loop's thread.

        With a fence this only asks for the lease. Errors: PromotionRefused when it cannot be.
        """
        driver = self._running()
        code, text = driver.call(self._pair.star.promote, driver.now())
        if code == wire.REFUSED:
            raise PromotionRefused(f"this node cannot be promoted: {text}")

    def step_down(self) -> None:
        """Stop to serve, if it does, and let the other half take over. On the loop's thread.

        What was begun is given up: the clients of a broker, and those that wait for a handler, are told to ask again.
        """
        driver = self._running()
        driver.call(self._pair.star.step_down, driver.now(), "told to by its program")

    def _running(self) -> ReactorDriver:
        self._process.check()
        if not self._drivers or self._drivers[0].closed:
            raise ClosedError("this BinaryStar does not run: start it first, or make a new one")
        return self._drivers[0]

    def _check_unstarted(self) -> None:
        if self.service._reactor is not None:
            raise ClosedError(f"{self.service.source} was started before; give BinaryStar one that was not")

    # What a service provides.

    def _announcement(self) -> dict[str, Any]:
        options = self._pair.star.options
        fields: dict[str, Any] = self.service._announcement()
        fields |= {"role": "primary" if options.primary else "backup", "local": self.local, "remote": options.remote}
        if self.control is not None:
            fields["control"] = self.control
        return fields

    def _attach(self, reactor: Reactor) -> None:
        self._check_unstarted()
        service = self.service
        service._reactor, service._host = reactor, self._adopt
        self._drivers = service._drivers
        service._attach(reactor)
        [driver] = self._drivers
        self._local = driver.bind(STATE, SocketKind.PUB, self._local)
        if self._control is not None:
            self._control = driver.bind(CONTROL, SocketKind.ROUTER, self._control)
        driver.call(self._pair.star.start, driver.now())

    def _adopt(self, parts: Parts) -> Parts:
        core: Any = parts.core
        self._pair.hosted = core
        settings = parts.settings or SocketSettings()
        liveness = self._pair.star.options.liveness
        # A half that comes back is to be heard within a heartbeat.
        settings = replace(
            settings,
            reconnect_first=min(settings.reconnect_first, liveness.interval / 4),
            reconnect_cap=min(settings.reconnect_cap, liveness.interval / 2),
            connect_timeout=min(settings.connect_timeout, max(liveness.lease, CONNECTING)),
        )

        def carry_out(command: Command) -> None:
            if isinstance(command, Errand):
                self._begin(command)
            else:
                parts.on_command(command)

        return Parts(self._pair, settings, _PairTelemetry(self._telemetry, parts.telemetry), carry_out)

    async def _drain(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        await super()._drain(seconds)
        for driver in self._drivers:
            driver.call(self._pair.leave, driver.now())
        if self._runner is not None:
            # on_passive, and the lease back to the fence.
            await asyncio.wait({self._runner}, timeout=max(0.0, deadline - loop.time()))

    def _close(self) -> None:
        for task in (self._runner, *self._renewals):
            if task is not None:
                task.cancel()
        self.service._close()

    # Errands.

    def _begin(self, errand: Errand) -> None:
        loop = asyncio.get_running_loop()
        if errand.what == RENEW:
            # Not behind a hook that takes its time.
            task = loop.create_task(self._renew(errand.number), name="bstar:renew")
            self._renewals.add(task)
            task.add_done_callback(self._renewals.discard)
            return
        self._errands.append(errand)
        if self._runner is None or self._runner.done():
            self._runner = loop.create_task(self._run_errands(), name="bstar:errands")

    async def _run_errands(self) -> None:
        """One after the other: `on_active` never begins before `on_passive` has ended."""
        star = self._pair.star
        while self._errands:
            what, epoch = self._errands.popleft()
            if what == ON_ACTIVE:
                self._tell(star.activated, epoch, await self._run_hook(self._on_active))
            elif what == ON_PASSIVE:
                await self._run_hook(self._on_passive)
            else:
                _, grant = await self._ask_fence(what, epoch)
                if what == ACQUIRE:
                    self._tell(star.lease_acquired, epoch, grant)

    def _tell(self, method: Callable[..., None], *outcome: object) -> None:
        driver = self._drivers[0]
        if not driver.closed:
            driver.call(method, *outcome, driver.now())

    async def _run_hook(self, hook: Hook | None) -> bool:
        """Returns whether it did what it should."""
        try:
            result = None if hook is None else hook()
            if inspect.isawaitable(result):
                await result
        except (Exception, asyncio.CancelledError) as error:
            _go_on()
            self._telemetry.error("hook_raised", error, hook=getattr(hook, "__qualname__", repr(hook)))
            return False
        return True

    async def _renew(self, epoch: int) -> None:
        star = self._pair.star
        is_answered, seconds = await self._ask_fence(RENEW, epoch)
        if is_answered:
            self._tell(star.lease_renewed, epoch, seconds)
        else:
            self._tell(star.lease_unanswered, epoch)

    async def _ask_fence(self, what: str, epoch: int) -> tuple[bool, Any]:
        """Returns whether there was an answer, and that.

        One that takes longer than a lease of the pair is given up: what hangs must not keep us from asking again.
        """
        try:
            async with asyncio.timeout(self._pair.star.options.liveness.lease):
                return True, await getattr(self._fence, what)(epoch)
        except (Exception, asyncio.CancelledError) as error:
            _go_on()
            self._telemetry.error("fence_raised", error, asked_to=what, epoch=epoch)
            return False, None


def _go_on() -> None:
    """A task of the application's that was cancelled is its failure. Errors: CancelledError when this task was."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _check_control(endpoint: str) -> str:
    """Errors: EndpointError for one that others than this machine's users could reach."""
    host = check_endpoint(endpoint, bind=True).partition("://")[2].rpartition(":")[0]
    if endpoint.startswith("tcp://") and host not in ("localhost", "[::1]") and not host.startswith("127."):
        raise EndpointError(
            f"{endpoint!r} is no place for control: whoever reaches it can promote; use ipc, or tcp on 127.0.0.1",
            endpoint=endpoint,
        )
    return endpoint


class _PairTelemetry(Telemetry):
    """The events of the pair under its own name, all else under the service's."""

    def __init__(self, star: Telemetry, hosted: Telemetry) -> None:
        super().__init__(hosted.source)
        self._star = star
        self._hosted = hosted

    def emit(self, event: Event) -> None:
        (self._star if isinstance(event, StarEvent) else self._hosted).emit(event)

    def error(self, what: str, exc: BaseException, **fields: Any) -> None:
        self._hosted.error(what, exc, **fields)
