from __future__ import annotations

import pytest

from tests.cli import processes
from zpatterns.testing import ReservedPort


@pytest.fixture(scope="module", autouse=True)
def programs(warm):
    """All that these tests start is forked, but where a test asks for ``cold``."""


@pytest.fixture(scope="module")
def endpoint():
    """A broker that all the tests of a module share."""
    server, endpoint = processes.broker("--heartbeat-interval", "0.5")
    with server:
        yield endpoint


@pytest.fixture(scope="module")
def echo(endpoint):
    """The service ``echo`` at that broker."""
    with processes.Server(
        "mdp", "worker", "echo", "--echo", "--connect", endpoint, "--heartbeat-interval", "0.5"
    ) as server:
        processes.output(processes.invoke("mdp", "request", "echo", "there?", "--wait", "--connect", endpoint))
        yield server


@pytest.fixture
def free_port():
    """A port of this machine on which nobody listens, nor will while the test runs."""
    with ReservedPort() as port:
        yield port.port
