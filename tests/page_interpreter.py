"""The Python that runs the ``python`` blocks of one page, in order and in one namespace; see ``tests/pages.py``.

It takes one JSON object a line from standard input, with the block's `code`, the `file` and the `line` it stands in
and the `patience` in seconds after which standard error tells where it is, and answers each with what was printed
and the traceback, if any.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import sys
import traceback
from typing import Any


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a child process that prints must not answer in our place
    sys.path.insert(0, os.getcwd())
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for line in sys.stdin:
        block = json.loads(line)
        faulthandler.dump_traceback_later(block["patience"])
        printed = io.StringIO()
        failure = None
        with contextlib.redirect_stdout(printed):
            try:
                # The blank lines make a traceback show the page's own lines.
                exec(compile("\n" * block["line"] + block["code"], block["file"], "exec"), namespace)
            except BaseException:
                failure = traceback.format_exc()
        faulthandler.cancel_dump_traceback_later()
        answers.write(json.dumps({"printed": printed.getvalue(), "failure": failure}) + "\n")
        answers.flush()


main()
