"""Names of hosts: which of them have only addresses of IPv6."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest
import zmq

from tests.waiting import DEADLINE, until
from zpatterns import names
from zpatterns.core import SocketKind
from zpatterns.sockets import Link, SocketSettings, default_rng, new_context, resolve_endpoint

IPV4, IPV6 = socket.AF_INET, socket.AF_INET6


class Resolver:
    """In the place of the machine's: knows some names, and can be slow."""

    def __init__(self) -> None:
        self.known = {"four.test": {IPV4}, "six.test": {IPV6}, "both.test": {IPV4, IPV6}}
        self.asked: list[str] = []
        self.error = socket.EAI_NONAME
        self.answers = threading.Event()
        self.answers.set()

    def getaddrinfo(self, host: str, _port: None, family: int) -> list[Any]:
        self.asked.append(host)
        self.answers.wait(DEADLINE)
        if ".." in host:
            raise UnicodeError("label empty or too long")
        if family not in self.known.get(host, ()):
            raise socket.gaierror(self.error, "no such name")
        return []


@pytest.fixture(autouse=True)
def resolver(monkeypatch) -> Any:
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver.getaddrinfo)
    monkeypatch.setattr(names, "_only_ipv6", {})
    monkeypatch.setattr(names, "_threads", {})
    yield resolver
    resolver.answers.set()


@pytest.mark.parametrize(
    ("host", "is_only_ipv6"), [("four.test", False), ("both.test", False), ("six.test", True), ("SIX.test", True)]
)
def test_only_a_name_without_an_address_of_ipv4_and_it_is_looked_up_once(resolver, host, is_only_ipv6):
    names.look_up(host.lower())
    resolver.asked.clear()
    assert [names.is_only_ipv6(host) for _ in range(3)] == [is_only_ipv6] * 3
    assert resolver.asked == []


def test_a_name_that_is_met_for_the_first_time_is_looked_up():
    until(lambda: names.is_only_ipv6("six.test"), "the answer")


@pytest.mark.parametrize("host", ["no.test", "a..b"])
def test_what_has_no_address_has_none_of_ipv6(resolver, host):
    with pytest.raises((OSError, ValueError)):
        names.look_up(host)
    assert not names.is_only_ipv6(host)
    until(lambda: not names._threads, "the lookup is over, and nothing was raised")


def test_an_address_is_no_name(resolver):
    assert not names.is_only_ipv6("127.0.0.1")
    assert resolver.asked == []


def test_nobody_waits_for_a_slow_answer_which_counts_when_it_is_there(resolver):
    resolver.answers.clear()
    assert [names.is_only_ipv6("six.test") for _ in range(3)] == [False] * 3
    resolver.answers.set()
    until(lambda: names.is_only_ipv6("six.test"), "the answer")
    assert resolver.asked == ["six.test"] * 2, "once for either family, whoever asked meanwhile"


def test_a_resolver_that_is_out_of_order_says_nothing_about_a_name(resolver):
    resolver.known, known = {}, resolver.known
    resolver.error = socket.EAI_AGAIN
    with pytest.raises(socket.gaierror):
        names.look_up("six.test")
    assert not names.is_only_ipv6("six.test")
    resolver.known, resolver.error = known, socket.EAI_NONAME
    until(lambda: names.is_only_ipv6("six.test"), "it is asked again")


def test_without_a_thread_a_name_is_taken_for_one_of_ipv4(monkeypatch):
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert not names.is_only_ipv6("six.test")
    until(lambda: names.is_only_ipv6("six.test"), "it is asked again")


@pytest.mark.parametrize(("families", "is_wanted"), [({IPV6}, 1), ({IPV4}, 0), ({IPV4, IPV6}, 0)])
def test_libzmq_is_told(resolver, families, is_wanted):
    """A name that has only addresses of IPv6 was looked up for others, over and over."""
    resolver.known["localhost"] = families
    resolve_endpoint("tcp://localhost:1")  # as the commands do first
    with new_context() as context:
        link = Link(context, SocketKind.DEALER, "port", SocketSettings(), default_rng)
        link.connect("tcp://localhost:1")
        assert link.poll_item().getsockopt(zmq.IPV6) == is_wanted
        link.close(0)
