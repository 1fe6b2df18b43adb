"""What every command shares: lazy groups, exit codes, error messages, and the options that recur."""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn, TypeVar

import click

from zpatterns import __version__
from zpatterns.errors import EndpointError, RequestTimeout, ServiceNotFound, ZPatternsError

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_NO_SERVICE: Final = 3
EXIT_NO_ANSWER: Final = 4
EXIT_BAD_ADDRESS: Final = 5
EXIT_INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""

DEFAULT_ENDPOINT: Final = "tcp://127.0.0.1:5555"
"""Majordomo's usual port, on this machine only: who wants to be heard from outside has to say so."""

F = TypeVar("F", bound=Callable[..., Any])


class Failure(Exception):
    """An expected failure: one message on standard error, no traceback."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_code(error: Exception) -> int:
    """The exit code of an error that nobody dealt with."""
    if isinstance(error, Failure):
        return error.exit_code
    if isinstance(error, ServiceNotFound):
        return EXIT_NO_SERVICE
    if isinstance(error, RequestTimeout):
        return EXIT_NO_ANSWER
    if isinstance(error, EndpointError):
        return EXIT_BAD_ADDRESS
    return EXIT_FAILED


_UNWRITABLE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _open_streams() -> None:
    """Have standard streams that were closed lead nowhere: for Python they would be None, and our sockets would get
    their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _give_up_output() -> None:
    """What could not be written is not tried again when the program ends."""
    with suppress(OSError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _interrupted() -> NoReturn:
    click.echo(err=True)
    raise click.exceptions.Exit(EXIT_INTERRUPTED)


class _Program(click.Command):
    """What is run by a console script."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        _open_streams()
        # Python looks for garbage once more when it ends: a seventh of a short command's time, and all for nothing.
        atexit.register(gc.freeze)
        return super().main(*args, **kwargs)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the command line, which takes much of a short command's time."""
        try:
            return super().make_context(*args, **kwargs)
        except KeyboardInterrupt:
            _interrupted()


class Command(_Program):
    """A command that turns our errors into messages and exit codes, and tells of its environment variables."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (Failure, ZPatternsError) as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(exit_code(error))
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            _give_up_output()
            click.echo(f"Error: the output cannot be written: {error.strerror}", err=True)
            ctx.exit(EXIT_FAILED)
        except KeyboardInterrupt:
            _interrupted()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        example = next((option for option in self.params if isinstance(option, click.Option)), None)
        if example is not None and ctx.auto_envvar_prefix and example.name:
            formatter.write_paragraph()
            formatter.write_text(
                f"Each option can be set in the environment: {example.opts[0]} as "
                f"{ctx.auto_envvar_prefix}_{example.name.upper()}, and so on."
            )


class Group(_Program, click.Group):
    """A group whose commands are :class:`Command`."""

    command_class = Command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # while the command was loaded
            _interrupted()


class LazyGroup(Group):
    """A group that imports a command when it is called: `lazy` maps names to ``"module:attribute"`` and help."""

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._lazy[name][1]) for name in self.list_commands(ctx)])


def version_option() -> click.Option:
    """``--version``, which no environment variable can switch on."""

    def show(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
        if wanted and not ctx.resilient_parsing:
            click.echo(f"zpatterns {__version__}")
            ctx.exit()

    return click.Option(
        ["--version"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        allow_from_autoenv=False,
        callback=show,
        help="Show the version and exit.",
    )


class Seconds(click.FloatRange):
    """A duration above zero, in seconds."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return seconds


SECONDS: Final = Seconds()
COUNT: Final = click.IntRange(min=1)
PROTOCOLS: Final = ("auto", "0.1", "0.2")

connect_option = click.option(
    "--connect",
    metavar="E",
    multiple=True,
    default=[DEFAULT_ENDPOINT],
    show_default=True,
    help="Endpoint of the broker; repeat it for brokers to turn to when one fails.",
)
heartbeat_interval_option = click.option(
    "--heartbeat-interval",
    metavar="S",
    type=SECONDS,
    default=2.5,
    show_default=True,
    help="Seconds between heartbeats; give both ends the same.",
)
liveness_option = click.option(
    "--liveness",
    metavar="N",
    type=COUNT,
    default=3,
    show_default=True,
    help="Heartbeat intervals of silence after which a peer is dead.",
)
timeout_option = click.option(
    "--timeout",
    metavar="S",
    type=SECONDS,
    default=10.0,
    show_default=True,
    help="Seconds that the whole call may take.",
)


def retries_option(default: int | None, default_text: str = "") -> Callable[[F], F]:
    """``--retries``, with the default that suits the command."""
    return click.option(
        "--retries",
        metavar="N",
        type=click.IntRange(min=0),
        default=default,
        show_default=True,
        help=f"Attempts after the first.  {default_text}".rstrip(),
    )


def request_ttl_option(what: str) -> Callable[[F], F]:
    """``--request-ttl``; `what` it is that requests wait for."""
    return click.option(
        "--request-ttl",
        metavar="S",
        type=SECONDS,
        default=60.0,
        show_default=True,
        help=f"Seconds that a request may wait for {what}.",
    )


deliveries_max_option = click.option(
    "--deliveries-max",
    metavar="N",
    type=COUNT,
    default=3,
    show_default=True,
    help="Workers that a request is given to, one after another, when each is lost.",
)
echo_option = click.option(
    "--echo", is_flag=True, help="Answer each request with its own frames (as without --handler)."
)
concurrency_option = click.option(
    "--concurrency", metavar="N", type=COUNT, default=1, show_default=True, help="Requests served at a time."
)
handler_timeout_option = click.option(
    "--handler-timeout", metavar="S", type=SECONDS, help="Seconds after which the caller gets an error."
)
protocol_option = click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    default="auto",
    show_default=True,
    help="Version of Majordomo to speak.",
)


def _pass_as_json(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    ctx.params["as_json"] = wanted  # the environment's variable ends in JSON, the functions need that name for a module


json_option = click.option("--json", is_flag=True, expose_value=False, callback=_pass_as_json, help="Print JSON.")
log_format_option = click.option(
    "--log-format",
    type=click.Choice(["json", "console"]),
    default=None,
    help="Form of the log on standard error.  [default: console on a terminal, else json]",
)


def log_errors_only() -> None:
    """For commands that print results: what a retry mends is no news there."""
    import logging

    logging.getLogger("zpatterns").setLevel(logging.ERROR)


def check_endpoints(endpoints: Sequence[str]) -> list[str]:
    """The endpoints to connect to, once each; raises EndpointError where one cannot be parsed or resolved."""
    from zpatterns.sockets import check_endpoint, resolve_endpoint

    for endpoint in endpoints:
        resolve_endpoint(check_endpoint(endpoint))
    return list(dict.fromkeys(endpoints))


@contextmanager
def broker_expected(endpoints: Sequence[str]) -> Iterator[None]:
    """While the broker itself is asked: no answer then means that no broker is there."""
    try:
        yield
    except RequestTimeout as error:
        raise RequestTimeout(
            f"no broker answered at {', '.join(endpoints)} within {error.elapsed or 0:.3g} s: is one running there?",
            endpoint=endpoints[0],
            service=error.service,
            attempts=error.attempts,
            elapsed=error.elapsed,
        ) from error


@contextmanager
def arguments_checked() -> Iterator[None]:
    """A ValueError of a constructor means that the command was called wrongly; a bad endpoint stays one."""
    try:
        yield
    except EndpointError:
        raise
    except ValueError as error:
        raise click.UsageError(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error


def service_name(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Callback of SERVICE: a name that a broker would drop without a word is refused here."""
    from zpatterns.mdp.wire import is_service_name

    if value is not None and not is_service_name(value.encode("utf-8", "surrogateescape")):
        raise click.BadParameter(f"{value!r} is not a service name: it must be 1 to 255 printable bytes of UTF-8.")
    return value
