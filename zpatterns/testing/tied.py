"""``python -m zpatterns.testing.tied FD PROGRAM...``: run a Python program that ends when its parent does.

`FD` is the reading end of a pipe of which the parent holds the other one, and PROGRAM what one would give to
``python``: ``-m module``, or a file, and its arguments. However the parent ends, the pipe is closed then.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading


def main() -> None:
    """Run the program of the command line as ``__main__``."""
    descriptor, *program = sys.argv[1:]
    threading.Thread(target=_end_with_parent, args=(int(descriptor),), name="zpatterns-tie", daemon=True).start()
    if program[0] == "-m":
        sys.argv = program[1:]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = program
        if not sys.flags.safe_path:
            # As for ``python FILE``: its own directory comes first.
            sys.path[0] = os.path.dirname(os.path.abspath(program[0]))
        runpy.run_path(program[0], run_name="__main__")


def _end_with_parent(descriptor: int) -> None:
    try:
        os.read(descriptor, 1)
    finally:
        os._exit(1)


if __name__ == "__main__":
    main()
