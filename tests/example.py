"""Two small cores and the worlds that drive them: what the tests of the ground use beside Majordomo.

:class:`EchoCore` answers on a ROUTER, :class:`CallerCore` asks on DEALERs. Each can be told what to do in any method of
the contract, so that a test can bring a driver into the state it wants.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import zmq

from tests.waiting import DEADLINE, until
from zpatterns.blocking import BlockingDriver, Waiter
from zpatterns.core import Close, Command, Discard, Event, Frames, Open, PortId, SendFailure, SocketKind
from zpatterns.driver import Driver
from zpatterns.reactor import Reactor, ReactorDriver
from zpatterns.service import Service
from zpatterns.sockets import SocketSettings
from zpatterns.telemetry import Telemetry
from zpatterns.testing import ReservedPort

# A peer is full after little more than what the kernel holds.
NARROW = SocketSettings(send_hwm=4, receive_hwm=4, outbox_max=20)
LARGE = b"x" * 65536


def endpoint_of(socket: zmq.Socket[bytes]) -> str:
    """Where it is bound."""
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)


_reserved = ExitStack()
atexit.register(_reserved.close)


def free_endpoint() -> str:
    """An endpoint at which nobody listens, nor will but for the test: it is reserved until this process ends."""
    return _reserved.enter_context(ReservedPort()).endpoint


@dataclass(frozen=True, slots=True)
class Told(Event):
    """What an example core tells."""

    text: str


class ExampleCore:
    """Does nothing of its own. `trace` has the methods a driver called, in order."""

    PORTS: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self.received: list[Frames] = []
        self.batches: list[int] = []
        self.failed: list[tuple[Frames, SendFailure]] = []
        self.reading = True
        self.busy = False
        """Whether something that was begun is left, for :attr:`drained`."""
        self.timer: float | None = None
        self.timers = 0
        self.trace: list[str] = []
        self.raising: dict[str, int] = {}
        """Methods that raise, and how often still."""
        self.on_timer: Callable[[float], None] = lambda now: None
        self.on_message: Callable[[Frames, float, PortId], None] = lambda frames, now, port: None
        self.on_failure: Callable[[Frames, SendFailure], None] = lambda frames, reason: None
        self.on_shut_down: Callable[[], None] = lambda: None
        self._out: dict[PortId, list[Frames]] = {}
        self._commands: list[Command] = []
        self._events: list[Event] = []

    # For tests: to be called through the driver.

    def send(self, port: PortId, *messages: Frames) -> None:
        self._out.setdefault(port, []).extend(messages)

    def ask(self, *commands: Command) -> None:
        self._commands += commands

    def tell(self, text: str) -> None:
        self._events.append(Told(text))

    def set_timer(self, when: float | None) -> None:
        self.timer = when

    def read(self, reading: bool) -> None:
        self.reading = reading

    def end_work(self) -> None:
        self.busy = False

    # The contract.

    def receive_many(self, batch: Iterable[Frames], now: float, port: PortId) -> None:
        messages = list(batch)
        self._note("receive_many")
        self.batches.append(len(messages))
        for frames in messages:
            self.received.append(frames)
            self.on_message(list(frames), now, port)

    def ports_to_send(self) -> Collection[PortId]:
        self._note("ports_to_send")
        return self._out

    def messages_to_send(self, port: PortId) -> list[Frames]:
        self._note("messages_to_send")
        return self._out.pop(port, [])

    def wants_to_read(self, port: PortId) -> bool:
        self._note("wants_to_read")
        return self.reading

    def commands(self) -> list[Command]:
        self._note("commands")
        commands, self._commands = self._commands, []
        return commands

    def next_timer(self) -> float | None:
        self._note("next_timer")
        return self.timer

    def handle_timer(self, now: float) -> None:
        self._note("handle_timer")
        if self.timer is not None and self.timer <= now:
            self.timer = None
            self.timers += 1
            self.on_timer(now)

    def send_failed(self, port: PortId, frames: Frames, reason: SendFailure, now: float) -> None:
        self._note("send_failed")
        self.failed.append((frames, reason))
        self.on_failure(frames, reason)

    def events(self) -> list[Event]:
        self._note("events")
        events, self._events = self._events, []
        return events

    def statistics(self) -> int:
        return len(self.received)

    def check_invariants(self) -> None:
        pass

    def drain(self, now: float) -> None:
        self._note("drain")

    @property
    def drained(self) -> bool:
        return not self.busy

    def shut_down(self, now: float) -> None:
        self._note("shut_down")
        self.on_shut_down()

    def _note(self, method: str) -> None:
        self.trace.append(method)
        if self.raising.get(method):
            self.raising[method] -= 1
            raise RuntimeError(f"{method} was told to raise")


class EchoCore(ExampleCore):
    """A ROUTER that answers each message with its own frames, while `echo` is set."""

    PORTS = ("front",)

    def __init__(self, *, echo: bool = True) -> None:
        super().__init__()
        self.on_message = self._answer if echo else self.on_message

    def _answer(self, frames: Frames, now: float, port: PortId) -> None:
        self.send(port, frames)


class CallerCore(ExampleCore):
    """Any number of DEALERs, by any name."""

    def connect(self, endpoint: str, port: PortId = "back") -> None:
        self.ask(Open(port, SocketKind.DEALER, endpoint))

    def close(self, port: PortId = "back", linger: float = 0.0) -> None:
        self.ask(Close(port, linger))

    def discard(self, port: PortId = "back") -> None:
        self.ask(Discard(port))


class Driven:
    """One core under one driver that runs in a thread of its own. Every method here may be used from the test's."""

    def __init__(self, core: ExampleCore) -> None:
        self.core = core
        self.driver: Driver
        self._closed = False
        self.commands: list[Command] = []
        self.events: list[Event] = []
        self.on_command: Callable[[Command], None] = self.commands.append
        self.on_event: Callable[[Event], None] = self.events.append

    def do(self, work: Callable[[], Any]) -> Any:
        """Run `work` where the driver runs, and return its result."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the driver and end its thread. Twice is once."""
        if not self._closed:
            self._closed = True
            self._end()

    def _end(self) -> None:
        raise NotImplementedError

    def call(self, method: Callable[..., Any], *args: Any) -> Any:
        """:meth:`Driver.call` there."""
        return self.do(lambda: self.driver.call(method, *args))

    def send(self, port: PortId, *messages: Frames) -> None:
        self.call(self.core.send, port, *messages)

    def expect(self, frames: Frames) -> None:
        """Wait until the core has received this message."""
        until(lambda: frames in self.core.received, f"the message {frames!r}")

    def bind(self, endpoint: str = "tcp://127.0.0.1:*", port: PortId = "front") -> str:
        real: str = self.do(lambda: self.driver.bind(port, SocketKind.ROUTER, endpoint))
        return real

    @property
    def context(self) -> zmq.Context[zmq.Socket[bytes]]:
        """The driver's own, for peers over inproc, where nothing but high-water marks holds messages."""
        return self.driver._context

    def waiting(self, port: PortId) -> int:
        """Messages in the outboxes of `port`, between two turns: while a full peer is tried again they are not there.

        To ask makes the driver turn; see :meth:`waits`.
        """
        return int(self.do(lambda: self.driver.links[port].waiting))

    def waits(self, port: PortId, count: int) -> bool:
        """Whether so many are seen from here, perhaps in mid-turn, while the driver is left to itself."""
        boxes = list(self.driver.links[port]._boxes.values())  # in one step: the driver goes on meanwhile
        return sum(len(box.messages) for box in boxes) == count

    def _telemetry(self) -> Telemetry:
        return Telemetry("example", lambda event: self.on_event(event))

    def _on_command(self, command: Command) -> None:
        self.on_command(command)


class OnReactor(Driven):
    """Under a :class:`ReactorDriver`, on a loop in a thread."""

    def __init__(self, core: ExampleCore, settings: SocketSettings | None = None) -> None:
        super().__init__(core)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self.do(lambda: self._begin(settings))

    def _begin(self, settings: SocketSettings | None) -> None:
        self.reactor = Reactor.current()
        self.driver = ReactorDriver(
            self.reactor, self.core, settings=settings, telemetry=self._telemetry(), on_command=self._on_command
        )

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.close()

    def do(self, work: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(DEADLINE)

    def _end(self) -> None:
        self.do(self.driver.close)
        asyncio.run_coroutine_threadsafe(self.reactor.settled(), self.loop).result(DEADLINE)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()


class OnBlocking(Driven):
    """Under a :class:`BlockingDriver`, pumped by a thread that waits for nothing but the end."""

    def __init__(self, core: ExampleCore, settings: SocketSettings | None = None) -> None:
        super().__init__(core)
        self.driver: BlockingDriver = BlockingDriver(
            core, settings=settings, telemetry=self._telemetry(), on_command=self._on_command
        )
        self.error: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()

    def _pump(self) -> None:
        try:
            while not self._over.is_set() and not self.driver.closed:
                self.driver.wait(Waiter(self._over.is_set), time.monotonic() + DEADLINE)
        except BaseException as error:
            self.error = error

    def do(self, work: Callable[[], Any]) -> Any:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        self.driver.submit(run)
        return future.result(DEADLINE)

    def _end(self) -> None:
        self._over.set()
        self.driver.close()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


class Bench:
    """Makes driven cores of one kind, and closes them all at the end."""

    def __init__(self, kind: type[OnReactor] | type[OnBlocking], stack: ExitStack) -> None:
        self._kind = kind
        self._stack = stack

    def drive(self, core: ExampleCore, settings: SocketSettings | None = None) -> Driven:
        driven = self._kind(core, settings)
        self._stack.callback(driven.close)
        return driven


class ExampleService(Service):
    """An :class:`EchoCore` as a service. `diary` is shared by several, to tell in which order they began and ended."""

    source = "example.service"

    def __init__(
        self,
        core: ExampleCore | None = None,
        *,
        endpoint: str = "tcp://127.0.0.1:*",
        name: str = "service",
        diary: list[str] | None = None,
        settings: SocketSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        super().__init__(on_event=on_event)
        self.core = core or EchoCore()
        self.endpoint = endpoint
        self.name = name
        self.diary = [] if diary is None else diary
        self._settings = settings

    @property
    def driver(self) -> ReactorDriver:
        return self._drivers[0]

    def _announcement(self) -> dict[str, Any]:
        return {"endpoint": self.endpoint}

    def _attach(self, reactor: Reactor) -> None:
        driver = ReactorDriver(
            reactor, self.core, settings=self._settings, telemetry=self._telemetry, on_command=lambda command: None
        )
        self._drivers.append(driver)
        self.endpoint = driver.bind("front", SocketKind.ROUTER, self.endpoint)
        self.diary.append(f"{self.name} starts")

    def _close(self) -> None:
        super()._close()
        self.diary.append(f"{self.name} ends")
