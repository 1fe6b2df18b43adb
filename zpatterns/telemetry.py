"""Events to log lines: the only module that logs, and quiet under floods.

A program that imports this package keeps its own logging: events go to structlog if the program has configured
it, and else to the standard logger ``zpatterns``. Nothing is configured here but for the command line, by
:func:`configure_logging`.
"""

from __future__ import annotations

import dataclasses
import enum
import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, Final, Literal, TypeAlias

from zpatterns.core import Event

LogFormat: TypeAlias = Literal["json", "console"]

LOGGER_NAME: Final = "zpatterns"

QUIET_PERIOD: Final = 1.0
"""Seconds after a line in which the same kind of event is only counted."""

TEXT_MAX: Final = 200
"""Characters of one value in a line."""

_ITEMS_MAX = 10
_KINDS_MAX = 256

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclasses.dataclass(frozen=True, slots=True)
class _EventType:
    """What a class of events looks like in a line, worked out once."""

    name: str
    level: str
    fields: tuple[str, ...]
    has_reason: bool


class _Quota:
    """One kind of line: when the last was written, and how many were not written since."""

    __slots__ = ("suppressed", "until")

    def __init__(self) -> None:
        self.until = float("-inf")
        self.suppressed = 0


class Telemetry:
    """Logs the events of one `source`, such as ``"mdp.broker"``, and hands them to the user's callback.

    Every event reaches `on_event`. Of each kind (the class, and its `reason` if it has one) the first is
    logged at once, and then one a second with the number of those in between as ``suppressed``: no flood of
    hostile messages becomes a flood of lines. What `on_event` or the application's logging raises is reported
    or swallowed, never passed on. `bound` is added to every line.
    """

    clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(self, source: str, on_event: Callable[[Event], None] | None = None, **bound: Any) -> None:
        self.source = source
        self._on_event = on_event
        self._bound = {key: _plain(value) for key, value in bound.items()}
        self._quotas: dict[object, _Quota] = {}

    def emit(self, event: Event) -> None:
        """Log `event` under its class's name, at its `level` (default ``info``), and call `on_event`."""
        kind = _event_type(type(event))
        if _enabled(kind.level):
            suppressed = self._admit((kind.name, event.reason) if kind.has_reason else kind.name)  # type: ignore[attr-defined]
            if suppressed is not None:
                fields = {name: getattr(event, name) for name in kind.fields}
                self._log(kind.level, kind.name, fields, suppressed)
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception as error:
                self.error("on_event_failed", error, event_type=kind.name)

    def error(self, what: str, exc: BaseException, **fields: Any) -> None:
        """Log an exception of somebody's callback, with its traceback. One a second of each kind."""
        if _enabled("error"):
            suppressed = self._admit((what, type(exc)))
            if suppressed is not None:
                self._log("error", what, {"error": _described(exc), **fields}, suppressed, exc)

    def info(self, what: str, **fields: Any) -> None:
        """Log what happens once or seldom, such as ``ready``; never held back."""
        if _enabled("info"):
            self._log("info", what, fields, 0)

    def _admit(self, kind: object) -> int | None:
        """How many lines of this kind were held back before this one, or None if it is held back too."""
        quotas = self._quotas
        quota = quotas.get(kind)
        if quota is None:
            if len(quotas) >= _KINDS_MAX:
                # A `reason` that a peer can choose must not make this grow without end.
                kind = "other"
            quota = quotas.setdefault(kind, _Quota())
        now = self.clock()
        if now < quota.until:
            quota.suppressed += 1
            return None
        quota.until = now + QUIET_PERIOD
        suppressed, quota.suppressed = quota.suppressed, 0
        return suppressed

    def _log(
        self, level: str, what: str, fields: Mapping[str, Any], suppressed: int, exc: BaseException | None = None
    ) -> None:
        values = {"source": self.source, **self._bound}
        for key, value in fields.items():
            # Neither the name of the line nor what structlog calls its own may be taken by a field.
            values[key if key not in _RESERVED else f"{key}_"] = _plain(value)
        if suppressed:
            values["suppressed"] = suppressed
        try:
            structlog = _configured_structlog()
            if structlog is not None:
                getattr(structlog.get_logger(LOGGER_NAME), level)(what, **values, exc_info=exc)
            else:
                text = " ".join([what, *(f"{key}={_quoted(value)}" for key, value in values.items())])
                logging.getLogger(LOGGER_NAME).log(_LEVELS[level], "%s", text, exc_info=exc)
        except Exception:
            # A broken log handler, or a closed standard error, must not stop a server.
            pass


_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}

_RESERVED: Final = frozenset({"event", "exc_info", "stack_info", "level", "timestamp", "suppressed", "source"})

_event_types: dict[type[Event], _EventType] = {}


def _event_type(cls: type[Event]) -> _EventType:
    known = _event_types.get(cls)
    if known is None:
        fields = tuple(field.name for field in dataclasses.fields(cls))
        level = getattr(cls, "level", "info")
        if level not in _LEVELS or "level" in fields:
            level = "info"
        known = _event_types[cls] = _EventType(_CAMEL.sub("_", cls.__name__).lower(), level, fields, "reason" in fields)
    return known


def _configured_structlog() -> Any:
    """The structlog module if the application has configured it. Importing it takes a tenth of a second, and
    who has not imported it cannot have configured it: so it is never imported here."""
    structlog = sys.modules.get("structlog")
    return structlog if structlog is not None and structlog.is_configured() else None


def _enabled(level: str) -> bool:
    """Whether a line may be wanted at all; structlog's own filter comes later."""
    return logging.getLogger(LOGGER_NAME).isEnabledFor(_LEVELS[level]) or _configured_structlog() is not None


def text_of(value: object) -> str:
    """`value` as text, even where its class cannot say it."""
    try:
        return str(value)
    except Exception:
        return "(its text cannot be had)"


def _described(exc: BaseException) -> str:
    text = text_of(exc)
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def _plain(value: Any) -> Any:
    """`value` as something any log renderer can show, of bounded size."""
    if value is None or (isinstance(value, bool | int | float) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, str):
        # No value may begin a line of its own, or reach the reader's terminal as an escape sequence.
        return _cut(value if value.isprintable() else repr(value)[1:-1])
    if isinstance(value, bytes | bytearray | memoryview):
        return _readable(bytes(value[: TEXT_MAX + 1]))
    if isinstance(value, BaseException):
        return _plain(_described(value))
    if isinstance(value, list | tuple | set | frozenset):
        items = [_plain(item) for _, item in zip(range(_ITEMS_MAX), value, strict=False)]
        return [*items, "…"] if len(value) > _ITEMS_MAX else items
    if isinstance(value, dict):
        pairs = {_cut(str(key)): _plain(item) for _, (key, item) in zip(range(_ITEMS_MAX), value.items(), strict=False)}
        return {**pairs, "…": len(value) - _ITEMS_MAX} if len(value) > _ITEMS_MAX else pairs
    try:
        return _cut(repr(value))
    except Exception:
        return f"<{type(value).__name__}>"


def _readable(value: bytes) -> str:
    """Printable ASCII as it is, all else as ``0x`` and hexadecimal digits (a routing id, for one)."""
    if all(0x20 <= byte < 0x7F for byte in value):
        return _cut(value.decode("ascii"))
    return _cut("0x" + value.hex())


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_MAX else text[: TEXT_MAX - 1] + "…"


def _quoted(value: Any) -> str:
    """A value for a line of ``key=value`` pairs: quoted if it would not read back as one word."""
    if isinstance(value, str) and value.isprintable() and value and not re.search(r"[\s\"'=]", value):
        return value
    return repr(value)


def _in_order(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """When, how grave and what come first, for who reads the raw line."""
    head = {key: line.pop(key) for key in ("timestamp", "level", "event") if key in line}
    return {**head, **line}


def configure_logging(format: LogFormat | None = None, level: str = "info") -> None:
    """For the command line: log to standard error, one line each, from `level` up.

    ``"console"`` is for people and ``"json"`` for machines; None takes the first on a terminal. What other
    libraries log through :mod:`logging` comes out in the same form.
    """
    import structlog

    if format is None:
        format = "console" if sys.stderr.isatty() else "json"
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _in_order,
    ]
    rendering: list[Any]
    if format == "json":
        rendering = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        rendering = [
            structlog.dev.ConsoleRenderer(
                0,  # no padding; the name of this one has changed
                colors=sys.stderr.isatty(),
                exception_formatter=structlog.dev.plain_traceback,
                sort_keys=False,
            )
        ]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(_LEVELS[level], logging.WARNING), force=True)
