"""Freelance clients: :class:`FreelanceClient` for threads, :class:`AsyncFreelanceClient` for asyncio. One face, three
models: a core for each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from zpatterns.blocking import BlockingDriver, Waiter
from zpatterns.calls import PATIENCE, AsyncCalls, BlockingCalls, Calls, Start, check_timeout
from zpatterns.core import Event
from zpatterns.errors import ClosedError
from zpatterns.freelance import wire
from zpatterns.freelance.addressed_core import AddressedCore
from zpatterns.freelance.failover_core import FailoverCore
from zpatterns.freelance.servers_core import ClientOptions, FreelanceStatistics
from zpatterns.freelance.shotgun_core import ShotgunCore
from zpatterns.freelance.wire import Model
from zpatterns.sockets import SocketSettings, check_endpoint, default_rng, endpoint_list
from zpatterns.timing import Liveness

if TYPE_CHECKING:
    from zpatterns.reactor import ReactorDriver

_DEFAULTS = ClientOptions()

_CORES: dict[str, type[FailoverCore] | type[ShotgunCore] | type[AddressedCore]] = {
    wire.FAILOVER: FailoverCore,
    wire.SHOTGUN: ShotgunCore,
    wire.ADDRESSED: AddressedCore,
}


class _Freelance(Calls):
    """What both clients share: options, and how a call is begun."""

    source = "freelance.client"
    _core: FailoverCore | ShotgunCore | AddressedCore

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        model: Model = "addressed",
        timeout: float = _DEFAULTS.timeout,
        retries: int | None = None,
        attempt_timeout: float | None = None,
        max_in_flight: int = _DEFAULTS.max_in_flight,
        queue_max: int = _DEFAULTS.queue_max,
        heartbeat_interval: float = _DEFAULTS.liveness.interval,
        liveness: int = _DEFAULTS.liveness.liveness,
        round_robin: bool = False,
        settings: SocketSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        servers = tuple(dict.fromkeys(endpoint_list(endpoints, type(self).__name__)))
        wire.check_model(model)
        self.model = model
        options = ClientOptions(
            timeout=timeout,
            retries=max(_DEFAULTS.retries, len(servers) - 1) if retries is None else retries,
            attempt_timeout=attempt_timeout,
            max_in_flight=max_in_flight,
            queue_max=queue_max,
            liveness=Liveness(heartbeat_interval, liveness),
            round_robin=round_robin,
        )
        # A server that was restarted, or is in reach again, is found within a ping.
        settings = settings or SocketSettings(
            connect_timeout=max(1.0, min(3.0, heartbeat_interval)),
            reconnect_first=min(0.1, heartbeat_interval / 4),
            reconnect_cap=min(1.0, heartbeat_interval),
        )
        super().__init__(_CORES[model](servers, options, default_rng), settings=settings, on_event=on_event)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The servers, in their order."""
        return self._core.endpoints

    def statistics(self) -> FreelanceStatistics:
        """Counters since the start, what is open now, and how the servers are."""
        return self._counted(self._core.statistics())

    def _request(self, frames: Sequence[bytes | str], timeout: float | None) -> Start:
        body, core = self._body(frames), self._core
        if self.model == wire.SHOTGUN and len(body) != 1:
            raise ValueError(f"a request of the shotgun model is exactly one frame, and this has {len(body)}")
        check_timeout(timeout)
        return lambda number, now: core.start_call(number, body, now, timeout=timeout)


class AsyncFreelanceClient(_Freelance, AsyncCalls):
    """Calls one of several like servers from asyncio, without a broker (10/FLP; Guide, "Brokerless Reliability").

    `endpoints`: the servers, the one to be preferred first.
    `model`: ``"addressed"`` (10/FLP) knows by pings which servers are there, asks the first of these, and turns to
    another one when it falls silent. ``"failover"`` asks REP servers one after another. ``"shotgun"`` asks all of them
    at once and takes the first answer; requests and replies have exactly one frame there.
    `timeout` (seconds): from call to outcome, queueing included. `retries`: attempts after the first; default 3, or
    as many as give every server one. `attempt_timeout` (seconds): default ``timeout / (retries + 1)``. An attempt that
    had no answer by then turns to another server, while the answer still counts if it comes. In the addressed model a
    server that still answers pings is never sent a request twice: the call waits for it until its deadline. The shotgun
    model has one attempt.
    `max_in_flight`: calls on the wire; `queue_max`: calls that may wait behind them, before :class:`QueueFull`.
    `heartbeat_interval` (seconds), addressed model: the silence after which a server is pinged; times `liveness`, that
    after which it is given up. `round_robin`, addressed model: the servers that are well take turns.

    Use it with ``async with``, or call :meth:`close`. It belongs to the event loop of its first call.
    """

    async def request(self, *frames: bytes | str, timeout: float | None = None) -> list[bytes]:
        """One request of one frame or several; the frames of its reply.

        `timeout`: seconds, in the place of the client's. Errors: RequestTimeout, RemoteError (the handler of a server
        of ours raised, or none had room), QueueFull, ClosedError; ValueError and TypeError for what cannot be sent.
        """
        return await self._answer(self._request(frames, timeout))

    def add_server(self, endpoint: str) -> None:
        """One server more, the last in order; nothing happens if it is there already. Errors: EndpointError."""
        check_endpoint(endpoint)
        driver = self._open()
        driver.call(self._core.add_server, endpoint, driver.now())

    def remove_server(self, endpoint: str) -> None:
        """Forget a server; calls that wait for it turn to the others. Errors: ValueError for the last, or none of
        ours."""
        driver = self._open()
        driver.call(self._core.remove_server, endpoint, driver.now())

    def _open(self) -> ReactorDriver:
        is_new = self._driver is None
        driver = super()._open()
        if is_new:
            driver.call(self._core.start, driver.now())
        return driver


class FreelanceClient(_Freelance, BlockingCalls):
    """Calls one of several like servers, blocking, without a broker; threads may share it.

    The options are those of :class:`AsyncFreelanceClient`. In the addressed model a thread of its own pings the servers
    while nobody calls, until :meth:`close`; the other models start none.
    """

    def request(self, *frames: bytes | str, timeout: float | None = None) -> list[bytes]:
        """One request of one frame or several; the frames of its reply. See :meth:`AsyncFreelanceClient.request`."""
        return self._answer(self._request(frames, timeout), timeout or self._core.options.timeout)

    def add_server(self, endpoint: str) -> None:
        """One server more, the last in order; nothing happens if it is there already. Errors: EndpointError."""
        check_endpoint(endpoint)
        self._tell(lambda now: self._core.add_server(endpoint, now))

    def remove_server(self, endpoint: str) -> None:
        """Forget a server; calls that wait for it turn to the others. Errors: ValueError for the last, or none of
        ours."""
        self._tell(lambda now: self._core.remove_server(endpoint, now))

    def _tell(self, method: Callable[[float], None]) -> None:
        """Call a method of the core from whatever thread has the sockets; what it raises is raised here."""
        driver = self._open()
        outcome: list[Exception | None] = []

        def work() -> None:
            try:
                driver.call(method, driver.now())
            except Exception as error:
                outcome.append(error)
            else:
                outcome.append(None)

        driver.submit(work)
        if not outcome:
            driver.wait(Waiter(lambda: bool(outcome)), driver.now() + PATIENCE)
        if not outcome:
            raise ClosedError("the client was closed meanwhile")
        if outcome[0] is not None:
            raise outcome[0]

    def _open(self) -> BlockingDriver:
        is_new = self._driver is None
        driver = super()._open()
        if is_new:
            # Of threads that come here together each may think that it is the first: to start twice is to start once.
            driver.submit(lambda: driver.call(self._core.start, driver.now()))
            with self._lock:
                if self.model == wire.ADDRESSED and not self._pinging:
                    self._pinging = True
                    threading.Thread(target=_pump, args=(driver,), name=self.source, daemon=True).start()
        return driver

    _pinging = False


def _pump(driver: BlockingDriver) -> None:
    """Wait for nothing, so that there is always somebody who reads and pings."""
    while not driver.closed:
        driver.wait(Waiter(lambda: False), driver.now() + 3600.0)
