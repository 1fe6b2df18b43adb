"""Compiles zpatterns/_frames.c when the project is installed. Without a compiler everything works, only slower."""

from __future__ import annotations

import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import Tag, sys_tags

SOURCE = "zpatterns/_frames.c"
TARGET = "zpatterns/_frames.abi3.so"


def compile_frames(source: Path, target: Path) -> None:
    """Compile the module, for Python 3.11 and all later ones.

    Errors: OSError and subprocess.CalledProcessError where there is no working compiler, or no header of Python's.
    """
    linker = sysconfig.get_config_var("LDSHARED")
    if not linker:
        raise OSError("this Python does not say how its extension modules are compiled")
    made = target.with_suffix(".new")
    include = sysconfig.get_path("include")
    command = [*shlex.split(linker), "-O2", "-fPIC", "-Wall", "-Wextra", f"-I{include}", str(source), "-o", str(made)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    made.replace(target)  # never written over: a running process may have it loaded


def _is_ours(tag: Tag) -> bool:
    """Whether `tag` is for Python 3.11 and all later ones, on this system and no family of them."""
    return (tag.interpreter, tag.abi) == ("cp311", "abi3") and not tag.platform.startswith(("manylinux", "musllinux"))


class CompileHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        try:
            compile_frames(Path(self.root) / SOURCE, Path(self.root) / TARGET)
        except (OSError, subprocess.SubprocessError) as error:
            why = getattr(error, "stderr", None) or error
            # An older one in the tree may not fit the code.
            (Path(self.root) / TARGET).unlink(missing_ok=True)
            self.app.display_warning(f"{SOURCE} could not be compiled, pyzmq's own calls are used instead: {why}")
            return
        build_data["artifacts"].append(TARGET)
        build_data["pure_python"] = False
        build_data["tag"] = str(next(filter(_is_ours, sys_tags())))
