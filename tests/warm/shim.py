"""``python shim.py SOCKET ARGUMENTS...``: what ``python ARGUMENTS...`` would do, done by the warm interpreter.

For shells: it passes on signals, ends as the program ends, and takes it along if it is killed. It is started often, so
it imports next to nothing; see :mod:`tests.warm.server` for what it asks.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import marshal
import posix
import sys

_PASSED_ON = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM, _signal.SIGUSR1, _signal.SIGUSR2)


def main(path: str, arguments: list[str]) -> None:
    asking = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    asking.settimeout(40.0)
    asking.connect(path)
    ignored = [number for number in _PASSED_ON if _signal.getsignal(number) == _signal.SIG_IGN]
    pids: list[int] = []
    early: list[int] = []
    for number in _PASSED_ON:
        if number not in ignored:
            _signal.signal(number, lambda number, _: posix.kill(pids[0], number) if pids else early.append(number))
    numbers = [0, 1, 2]
    request = {
        "arguments": [argument.encode("utf-8", "surrogateescape") for argument in arguments],
        "env": posix.environ,
        "cwd": posix.getcwdb(),
        "numbers": numbers,
        "ignored": ignored,
        "session": False,
        "group": -1,
        "before": b"N.",
        "watched": True,
    }
    body = marshal.dumps(request)
    rights = b"".join(number.to_bytes(4, sys.byteorder) for number in numbers)
    asking.sendmsg([len(body).to_bytes(4, "big")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    asking.sendall(body)
    answer = _receive(asking, 1)
    if answer != b"s":
        for number in early:
            _signal.signal(number, _signal.SIG_DFL)
            posix.kill(posix.getpid(), number)
        posix.execv(sys.executable, [sys.executable, *arguments])
    pids.append(int.from_bytes(_receive(asking, 4), "big"))
    for number in early:
        posix.kill(pids[0], number)
    asking.settimeout(None)
    code = int.from_bytes(_receive(asking, 4), "big", signed=True)
    if code < 0:
        if -code != _signal.SIGKILL:
            _signal.signal(-code, _signal.SIG_DFL)
        posix.kill(posix.getpid(), -code)
    posix._exit(code)


def _receive(asking: _socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        more = asking.recv(count - len(received))
        if not more:
            raise SystemExit("the warm interpreter has ended")
        received += more
    return received


main(sys.argv[1], sys.argv[2:])
