"""``--handler module:name``: finding the callable that serves a request."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import click

HINT = "--handler"


def load_handler(spec: str) -> Callable[..., Any]:
    """The object that ``module:name`` names; the module is looked for in the current directory first.

    `name` may be dotted. Raises :class:`click.BadParameter` (exit code 2) with what is wrong.
    """
    module_name, separator, name = spec.partition(":")
    if not separator or not module_name or not name:
        raise click.BadParameter(f"{spec!r} is not of the form module:name, like 'handlers:reverse'.", param_hint=HINT)
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise click.BadParameter(
                f"There is no module {error.name!r}, neither in {here} nor on the Python path.", param_hint=HINT
            ) from error
        raise _broken(module_name, error) from error
    except Exception as error:
        raise _broken(module_name, error) from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise click.BadParameter(f"Module {module_name!r} has no {name!r}.", param_hint=HINT) from error
    if not callable(found):
        raise click.BadParameter(f"{spec!r} is a {type(found).__name__}, which cannot be called.", param_hint=HINT)
    handler: Callable[..., Any] = found
    return handler


def _broken(module_name: str, error: Exception) -> click.BadParameter:
    line = error.__traceback__
    while line is not None and line.tb_next is not None:
        line = line.tb_next
    where = f" ({line.tb_frame.f_code.co_filename}, line {line.tb_lineno})" if line is not None else ""
    return click.BadParameter(
        f"Module {module_name!r} cannot be imported: {type(error).__name__}: {error}{where}.", param_hint=HINT
    )
