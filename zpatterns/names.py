"""Which host names have only addresses of IPv6.

libzmq has to be told of them, for by itself it looks for addresses of IPv4. And it cannot be told the same of every
name: of one that has both it would take that of IPv6, where its server may not listen.
"""

from __future__ import annotations

import contextlib
import socket
import threading

_PATIENCE = 0.1
"""Seconds that a new connection waits for a name to be looked up; one that is not known then is taken for IPv4's."""

_only_ipv6: dict[str, bool] = {}
_threads: dict[str, threading.Thread] = {}


def look_up(host: str) -> None:
    """Find out about `host`, and wait for it. Errors: OSError, or ValueError, for one that has no address."""
    try:
        socket.getaddrinfo(host, None, socket.AF_INET)
        is_only = False
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:  # which says nothing about it
            raise
        socket.getaddrinfo(host, None, socket.AF_INET6)
        is_only = True
    _only_ipv6[host.lower()] = is_only


def is_only_ipv6(host: str) -> bool:
    """Whether `host` is a name that has an address of IPv6 and none of IPv4, as far as is known by now.

    A name is looked up when it is met for the first time, or again while it has no address: in a thread, since that may
    take many seconds, of which the caller waits a tenth at most.
    """
    name = host.lower()
    if name not in _only_ipv6 and not _is_ipv4(name):
        thread = _threads.get(name)
        if thread is None or not thread.is_alive():
            thread = _threads[name] = threading.Thread(target=_try_to_look_up, args=(name,), daemon=True)
            with contextlib.suppress(RuntimeError):  # there may be no thread left
                thread.start()
                thread.join(_PATIENCE)
    return _only_ipv6.get(name, False)


def _is_ipv4(host: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET, host)
    except OSError:
        return False
    return True


def _try_to_look_up(host: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        look_up(host)
    _threads.pop(host, None)
