"""What both Clone clients share: options, reading the map, checking what is to be set, and watches."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, KeysView, Sequence, ValuesView
from typing import Any, overload

from zpatterns.calls import Calls, Start, check_timeout
from zpatterns.clone import wire
from zpatterns.clone.client_core import ClientCore
from zpatterns.clone.client_state import LIVENESS, ClientOptions, ClientStatistics, Endpoints
from zpatterns.clone.events import CloneState, StateChanged
from zpatterns.clone.replica_core import Change
from zpatterns.clone.sets_core import SetOptions
from zpatterns.clone.watches import Watches
from zpatterns.core import Changed, Command, Event
from zpatterns.errors import ClosedError, EndpointError, RequestTimeout
from zpatterns.sockets import SocketSettings, default_rng, endpoint_list
from zpatterns.timing import Liveness

_SETS = SetOptions()


def server_endpoints(endpoint: str) -> Endpoints:
    """The three ports of a server: P, P + 1 and P + 2 of ``tcp://host:P``. Errors: EndpointError."""
    head, _, port = endpoint.rpartition(":")
    if not endpoint.startswith("tcp://") or not port.isdigit() or not 0 < int(port) <= 65533:
        raise EndpointError(
            f"{endpoint!r} is no Clone server's endpoint: it has three ports in a row, of which the first is given, "
            "such as 'tcp://127.0.0.1:5556'",
            endpoint=endpoint,
        )
    return Endpoints(endpoint, f"{head}:{int(port) + 1}", f"{head}:{int(port) + 2}")


class SharedMap(Calls):
    """What both clients share: options, reading the map, and how a set is begun."""

    source = "clone.client"
    _core: ClientCore
    _watches: Watches[Any]

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        subtree: str = "",
        timeout: float = _SETS.timeout,
        heartbeat_interval: float = LIVENESS.interval,
        liveness: int = LIVENESS.liveness,
        in_flight_max: int = _SETS.in_flight_max,
        sets_max: int = _SETS.sets_max,
        watch_max: int = 10_000,
        on_state: Callable[[CloneState], object] | None = None,
        settings: SocketSettings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.endpoints = endpoint_list(endpoints, type(self).__name__)
        servers = [server_endpoints(endpoint) for endpoint in self.endpoints]
        lease = Liveness(heartbeat_interval, liveness)
        if watch_max < 1:
            raise ValueError(f"watch_max must be at least 1, not {watch_max!r}")
        options = ClientOptions(
            liveness=lease,
            subtree=subtree,
            sets=SetOptions(
                timeout=timeout,
                resend_first=lease.interval,
                resend_cap=lease.lease,
                in_flight_max=in_flight_max,
                sets_max=sets_max,
            ),
        )
        self._users_on_event = on_event
        self._on_state = on_state
        self._watch_max = watch_max
        core = ClientCore(servers, options, default_rng)
        super().__init__(core, settings=settings, on_event=self._on_event)
        self._watches = Watches(self._telemetry.emit)
        self._prepare()

    def _prepare(self) -> None:
        """Make what a subclass needs beside this."""
        raise NotImplementedError

    @property
    def subtree(self) -> str:
        """The part of the map that it has; empty for all."""
        return self._core.subtree

    @property
    def state(self) -> CloneState:
        """How far the map can be relied on now."""
        return self._core.public_state

    def statistics(self) -> ClientStatistics:
        """Counters since the start, and what is there now."""
        return self._counted(self._core.statistics())

    @property
    def watch_overflows(self) -> int:
        """Watches that ended because they were not read."""
        return self._watches.overflows

    # Reading: from memory, at once, whatever the servers do.

    @overload
    def get(self, key: str) -> bytes | None: ...

    @overload
    def get(self, key: str, default: bytes) -> bytes: ...

    def get(self, key: str, default: bytes | None = None) -> bytes | None:
        """The value of `key`, or `default`."""
        entry = self._entries().get(key)
        return default if entry is None else entry[0]

    def sequence(self, key: str) -> int:
        """Under which `key` was last changed, for :meth:`compare_and_set`; 0 if it is not there."""
        entry = self._entries().get(key)
        return 0 if entry is None else entry[1]

    def __getitem__(self, key: str) -> bytes:
        return self._entries()[key][0]

    def __contains__(self, key: object) -> bool:
        return key in self._entries()

    def __len__(self) -> int:
        return len(self._entries())

    def __bool__(self) -> bool:
        return True  # a client that has no key yet is a client all the same

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries().copy())

    def keys(self) -> KeysView[str]:
        """All keys, as they are now."""
        return self._values().keys()

    def values(self) -> ValuesView[bytes]:
        """All values, as they are now."""
        return self._values().values()

    def items(self) -> ItemsView[str, bytes]:
        """All keys and values, as they are now."""
        return self._values().items()

    def _values(self) -> dict[str, bytes]:
        # The copy is made in one go: another thread applies updates meanwhile.
        return {key: value for key, (value, _) in self._entries().copy().items()}

    def _entries(self) -> dict[str, tuple[bytes, int]]:
        self._check()
        if not self._is_open():
            raise ClosedError(f"this {type(self).__name__} is not open: use it with 'with', or call wait()")
        return self._core.replica.entries

    def _is_open(self) -> bool:
        raise NotImplementedError

    # Writing.

    def _set(self, key: str, value: bytes, ttl: float | None, timeout: float | None, sequence: int | None) -> Start:
        name, body, seconds = self._key(key), checked_value(value), whole_ttl(ttl)
        return self._begin(name, body, seconds, timeout, sequence)

    def _compare_and_set(
        self, key: str, value: bytes, ttl: float | None, timeout: float | None, sequence: int
    ) -> Start:
        if not isinstance(sequence, int):  # with None nothing would be compared
            raise TypeError(f"a sequence is an int, 0 for a key that is not there, not {sequence!r}")
        return self._set(key, value, ttl, timeout, sequence)

    def _delete(self, key: str, timeout: float | None) -> Start:
        return self._begin(self._key(key), b"", 0, timeout, None)

    def _begin(self, key: bytes, value: bytes, ttl: int, timeout: float | None, sequence: int | None) -> Start:
        check_timeout(timeout)
        if sequence is not None and not 0 <= sequence <= wire.SEQUENCE_MAX:
            raise ValueError(f"a sequence is a number from 0 to {wire.SEQUENCE_MAX}, not {sequence!r}")
        core = self._core
        return lambda number, now: core.start_set(
            number, key, value, now, ttl=ttl, if_sequence=sequence, timeout=timeout
        )

    def _key(self, key: str) -> bytes:
        if not isinstance(key, str):
            raise TypeError(f"a key is a str, not {type(key).__name__}: {key!r}")
        name = key.encode("utf-8", "surrogatepass")  # which is no UTF-8 then, and so no key
        if not wire.is_key(name):
            raise ValueError(f"{key!r} cannot be a key: 1 to {wire.KEY_MAX} bytes of UTF-8 without NUL, not HUGZ or so")
        if not key.startswith(self.subtree):
            raise ValueError(f"the key {key!r} is outside the subtree {self.subtree!r} that this client has")
        return name

    # Watching.

    def _prefix(self, subtree: str | None) -> str:
        prefix = self.subtree if subtree is None else subtree
        if not prefix.startswith(self.subtree):
            raise ValueError(f"{prefix!r} is outside the subtree {self.subtree!r} that this client has")
        return prefix

    def _callback_failed(self, error: BaseException) -> None:
        self._telemetry.error("watch_callback_failed", error)

    def _add(self, watch: Any) -> None:
        self._watches.add(watch)
        self._core.replica.watched = True
        if self._closed:  # by another thread, since that was asked
            self._watches.close()

    def _on_changed(self, changes: list[Change]) -> None:
        if not self._watches.feed(changes):
            self._core.replica.watched = False
            if self._watches:  # another thread has begun one since
                self._core.replica.watched = True

    def _on_event(self, event: Event) -> None:
        if isinstance(event, StateChanged):
            self._state_changed(event.state)
            if self._on_state is not None:
                try:
                    self._on_state(event.state)
                except Exception as error:
                    self._telemetry.error("on_state_failed", error)
        if self._users_on_event is not None:
            self._users_on_event(event)

    def _on_command(self, command: Command) -> None:
        if isinstance(command, Changed):
            self._on_changed(command.changes)
        else:
            super()._on_command(command)  # type: ignore[misc]

    def _state_changed(self, state: CloneState) -> None:
        raise NotImplementedError

    def _no_server(self, timeout: float) -> RequestTimeout:
        return RequestTimeout(
            f"no Clone server at {' or '.join(self.endpoints)} gave its map within {timeout:.3g} s; is one running, "
            "and the active one of its pair?",
            endpoint=self.endpoints[0],
            elapsed=timeout,
        )


def checked_value(value: bytes) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"a value is bytes, not {type(value).__name__}; encode it")
    body = bytes(value)
    if not body:
        raise ValueError("a value cannot be empty: on the wire that deletes the key; use delete()")
    return body


def whole_ttl(ttl: float | None) -> int:
    if ttl is None:
        return 0
    if not 0 < ttl <= wire.TTL_MAX:
        raise ValueError(f"ttl must be positive and at most {wire.TTL_MAX} seconds, not {ttl!r}")
    return -int(-ttl // 1)


def sequence_of(frames: list[bytes]) -> int:
    return int.from_bytes(frames[0], "big")
