"""Lazy Pirate's cores under test; frames are literal, as a REQ and a REP have them on the wire."""

from __future__ import annotations

from typing import Any

from tests.harness import FixedRng, Harness
from zpatterns.calls_state import CallOptions
from zpatterns.core import Fail, Frames, Open
from zpatterns.pirate.lazy_client_core import LazyClientCore
from zpatterns.pirate.lazy_server_core import LazyServerCore
from zpatterns.server_core import ServerOptions

ENDPOINT = "tcp://127.0.0.1:5555"
ERROR = b"\x00ZPATTERNS-ERROR\x00"


class LazyClient(Harness[LazyClientCore]):
    """A client with a timeout of 8 s and 3 retries: four windows of 2 s. `out`: ports and what was sent on them."""

    def __init__(
        self, *endpoints: str, share: float = 0.5, timeout: float = 8.0, retries: int = 3, **options: Any
    ) -> None:
        self.endpoints: dict[int, str] = {}
        self.out: list[tuple[int, Frames]] = []
        core = LazyClientCore(
            endpoints or (ENDPOINT,), CallOptions(timeout=timeout, retries=retries, **options), FixedRng(share)
        )
        super().__init__(core, 0)

    def call(self, number: int, *body: bytes, **options: Any) -> int:
        """Start a call; the port its first request went out on (0 if it waits)."""
        self.out.clear()
        self.step(self.core.start_call, number, list(body or (b"hello",)), self.now, **options)
        return self.out[-1][0] if self.out else 0

    def outcomes(self) -> list[tuple[int, type[Exception]]]:
        """The calls that have failed, and how."""
        return [(command.call, type(command.error)) for command in self.asked(Fail)]

    def _collect(self) -> None:
        core = self.core
        for command in core.commands():
            self._asked.append(command)
            if isinstance(command, Open):
                assert isinstance(command.port, int)
                self.endpoints[command.port] = command.endpoint
        for port in tuple(core.ports_to_send()):
            assert isinstance(port, int)
            messages = core.messages_to_send(port)
            self._sent += messages
            self.out += [(port, frames) for frames in messages]


class LazyServer(Harness[LazyServerCore]):
    """A server with one lane, unless `options` say otherwise."""

    def __init__(self, **options: Any) -> None:
        super().__init__(LazyServerCore(ServerOptions(**options)), "server")

    def done(self, run: int, *frames: bytes) -> list[Frames]:
        """The handler of `run` returns; what is sent."""
        self.step(self.core.handler_done, run, list(frames), self.now)
        return self.sent()

    def raised(self, run: int, code: str = "ValueError", text: str = "no") -> list[Frames]:
        """The handler of `run` raises; what is sent."""
        self.step(self.core.handler_failed, run, code, text, self.now)
        return self.sent()


def request(client: bytes, *body: bytes) -> Frames:
    """A REQ's request as a ROUTER sees it."""
    return [client, b"", *(body or (b"hello",))]


def refusal(client: bytes, code: bytes, text: bytes) -> Frames:
    """Our error in the place of an answer."""
    return [client, b"", ERROR, code, text]
