"""Freelance's cores under test: literal times and literal frames, and whatever is sent together with to whom."""

from __future__ import annotations

from typing import Any

from tests.harness import FixedRng, Harness
from zpatterns.core import Deliver, Fail, Frames, Open, Run
from zpatterns.freelance.addressed_core import AddressedCore
from zpatterns.freelance.failover_core import FailoverCore
from zpatterns.freelance.server_core import FreelanceServerCore
from zpatterns.freelance.servers_core import ClientOptions
from zpatterns.freelance.shotgun_core import ShotgunCore
from zpatterns.server_core import ServerOptions
from zpatterns.timing import Liveness

A, B, C = "tcp://127.0.0.1:1", "tcp://127.0.0.1:2", "tcp://127.0.0.1:3"
ERROR = b"\x00ZPATTERNS-ERROR\x00"

CORES: dict[str, Any] = {"addressed": AddressedCore, "shotgun": ShotgunCore, "failover": FailoverCore}


class Client(Harness[Any]):
    """A client with a timeout of 8 s and 3 retries, four windows of 2 s; pings after 1 s, a lease of 3 s.

    `out`: each message with the endpoint it goes to; on an addressed client without the name of the peer. `port`: the
    latest port of an endpoint.
    """

    def __init__(
        self,
        *endpoints: str,
        model: str = "addressed",
        interval: float = 1.0,
        liveness: int = 3,
        timeout: float = 8.0,
        retries: int = 3,
        **options: Any,
    ) -> None:
        self.model = model
        self.ports: dict[str, Any] = {}
        self.where: dict[Any, str] = {}
        self.out: list[tuple[str, Frames]] = []
        self.bodies: list[Frames] = []
        core = CORES[model](
            endpoints or (A, B),
            ClientOptions(timeout=timeout, retries=retries, liveness=Liveness(interval, liveness), **options),
            FixedRng(),
        )
        super().__init__(core, 0)
        self.step(core.start, self.now)

    def call(self, number: int, *body: bytes, **options: Any) -> list[tuple[str, Frames]]:
        """Start a call; what is sent for it, and where."""
        self.take()
        self.step(self.core.start_call, number, list(body or (b"hello",)), self.now, **options)
        return self.take()

    def hear(self, endpoint: str, *frames: bytes, at: float | None = None) -> list[tuple[str, Frames]]:
        """The server at `endpoint` says something; what is sent then, and where."""
        head = [b"server"] if self.model == "addressed" else []
        self.give([*head, *frames], at=at, port=self.ports[endpoint])
        return self.take()

    def pong(self, *endpoints: str) -> None:
        """These servers answer PING. What is sent then stays where it is."""
        for endpoint in endpoints:
            self.give([b"server", b"PONG"], port=self.ports[endpoint])

    def take(self) -> list[tuple[str, Frames]]:
        """Take what was sent, PINGs left out."""
        out, self.out = self.out, []
        return [(endpoint, frames) for endpoint, frames in out if frames != [b"PING"]]

    def pings(self) -> list[str]:
        """Take what was sent: to whom PING went."""
        out, self.out = self.out, []
        return [endpoint for endpoint, frames in out if frames == [b"PING"]]

    def delivered(self) -> list[tuple[int, Frames]]:
        """Take the calls that were answered, and with what."""
        return [(command.call, command.frames) for command in self.asked(Deliver)]

    def failed(self) -> list[tuple[int, type[Exception]]]:
        """Take the calls that ended with an error, and with which."""
        return [(command.call, type(command.error)) for command in self.asked(Fail)]

    @property
    def health(self) -> dict[str, str]:
        """What the client thinks of its servers."""
        servers: dict[str, str] = self.statistics.servers
        return servers

    def _collect(self) -> None:
        core = self.core
        for command in core.commands():
            self._asked.append(command)
            if isinstance(command, Open):
                self.ports[command.endpoint] = command.port
                self.where[command.port] = command.endpoint
        for port in tuple(core.ports_to_send()):
            for frames in core.messages_to_send(port):
                self._sent.append(frames)
                if self.model == "addressed":
                    assert frames[0] == b"server"
                    frames = frames[1:]
                self.out.append((self.where[port], frames))


class Server(Harness[FreelanceServerCore]):
    """A server with one place for handlers, unless `options` say otherwise."""

    def __init__(self, model: str = "addressed", **options: Any) -> None:
        self._runs: list[int] = []
        super().__init__(FreelanceServerCore(model, ServerOptions(**options)), "server")

    def begun(self) -> list[tuple[bytes, Frames]]:
        """Take the requests that were given to handlers: the client and the body."""
        return [(run.client, run.frames) for run in self.asked(Run)]

    def done(self, number: int, *frames: bytes) -> list[Frames]:
        """The handler of the request that was begun as the `number`th, from 1, returns; what is sent."""
        self.step(self.core.handler_done, self._runs[number - 1], list(frames), self.now)
        return self.sent()

    def raised(self, number: int, code: str = "ValueError", text: str = "no") -> list[Frames]:
        """That handler raises; what is sent."""
        self.step(self.core.handler_failed, self._runs[number - 1], code, text, self.now)
        return self.sent()

    def _collect(self) -> None:
        before = len(self._asked)
        super()._collect()
        self._runs += [command.run for command in self._asked[before:] if isinstance(command, Run)]
