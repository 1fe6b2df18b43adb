"""8/MMI (Majordomo Management Interface), clause by clause, on raw frames, over 7/MDP and 18/MDP clients alike."""

from __future__ import annotations

import pytest

from tests.harness import BrokerHarness, disconnect, ready, reply, request, to

VERSIONS = ["0.1", "0.2"]


def ask(broker: BrokerHarness, name: bytes, *body: bytes, version: str = "0.1") -> list[bytes]:
    """The body of the one reply that the broker itself gives."""
    head = [b"", b"MDPC01"] if version == "0.1" else [b"MDPC02", b"\x01"]
    sent = to(b"manager", broker.give([b"manager", *head, name, *body]))
    assert len(sent) == 1, "one reply, at once"
    tail = [b"", b"MDPC01", name] if version == "0.1" else [b"MDPC02", b"\x03", name]
    assert sent[0][:3] == tail, "an ordinary reply of the request's service"
    return sent[0][3:]


# Namespace.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [b"mmi.service", b"mmi.services", b"mmi.x", b"mmi.", b"mmi.a b"])
def test_namespace_broker_must_handle_mmi_services_internally(name, version):
    """Namespace: "An MMI broker implementation MUST handle all services that start with "mmi." internally.": no worker
    is given the request, and none waits for one."""
    broker = BrokerHarness()
    broker.give(ready(b"worker", b"echo"))
    ask(broker, name, b"echo", version=version)
    assert broker.statistics.queued == 0
    assert broker.statistics.in_flight == 0
    assert broker.statistics.services == 1


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [b"mmi.service", b"mmi.evil", b"mmi.", b"mmi.\xff", b"mmi.tab\t"])
def test_namespace_broker_must_disconnect_workers_that_register_there(name, version):
    """Namespace: "It MUST disconnect any workers that attempt to register services in this namespace."."""
    broker = BrokerHarness()
    assert broker.give(ready(b"worker", name, version)) == [disconnect(b"worker", version=version)]
    assert broker.statistics.workers == 0
    assert broker.advance(100) == [], "and no further commands follow"


@pytest.mark.parametrize("name", [b"mmi", b"mmi-service", b"mmix.service", b"MMI.service", b"x.mmi.service", b" mmi.x"])
def test_namespace_is_exactly_what_starts_with_mmi_dot(name):
    """Namespace: "all services that start with "mmi."": any other name is a worker's to register."""
    broker = BrokerHarness()
    assert broker.give(ready(b"worker", name)) == []
    assert to(b"worker", broker.give(request(b"client", name, b"hello"))) != []


# Default services.


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("worker_version", VERSIONS)
def test_default_service_responds_200_if_a_worker_is_registered(version, worker_version):
    """Default services: mmi.service "responds with "200" (Found) if there is at least one worker registered for the
    service"."""
    broker = BrokerHarness()
    broker.give(ready(b"worker", b"echo", worker_version))
    assert ask(broker, b"mmi.service", b"echo", version=version) == [b"200"]


@pytest.mark.parametrize("version", VERSIONS)
def test_default_service_responds_404_if_no_worker_is_registered(version):
    """Default services: mmi.service responds "404" (Not found) if there are no workers registered for the service"."""
    broker = BrokerHarness()
    broker.give(ready(b"worker", b"other"))
    assert ask(broker, b"mmi.service", b"echo", version=version) == [b"404"]


def test_default_service_counts_a_busy_worker():
    """Default services: "at least one worker registered": a worker with a request in hand is registered."""
    broker = BrokerHarness()
    broker.give(ready(b"worker", b"echo"), request(b"client", b"echo", b"hello"))
    assert ask(broker, b"mmi.service", b"echo") == [b"200"]


def test_default_service_does_not_count_requests_that_wait():
    """Default services: "404" (Not found) if there are no workers", though requests wait for one."""
    broker = BrokerHarness()
    broker.give(request(b"client", b"echo", b"hello"))
    assert ask(broker, b"mmi.service", b"echo") == [b"404"]


def test_default_service_tells_of_now():
    """Default services: "if there is at least one worker registered": not one that left, expired or was sent away."""
    for leave in (disconnect(b"worker"), ready(b"worker", b"echo"), reply(b"worker", b"client", b"unasked")):
        broker = BrokerHarness()
        broker.give(ready(b"worker", b"echo"))
        assert ask(broker, b"mmi.service", b"echo") == [b"200"]
        broker.give(leave)
        assert ask(broker, b"mmi.service", b"echo") == [b"404"]
    broker = BrokerHarness()
    broker.give(ready(b"worker", b"echo"))
    broker.advance(3)
    assert ask(broker, b"mmi.service", b"echo") == [b"404"]


def test_default_service_wants_the_whole_name():
    """Default services: "a request containing a service name": no prefix or other case of it is found."""
    broker = BrokerHarness()
    broker.give(ready(b"worker", b"echo"))
    for name in (b"ech", b"echo ", b"Echo", b"", b"mmi.service", b"\xff"):
        assert ask(broker, b"mmi.service", name) == [b"404"]


def test_default_service_name_is_the_last_body_frame():
    """Default services: "a request containing a service name": the Guide's broker reads the last frame."""
    broker = BrokerHarness()
    broker.give(ready(b"worker", b"echo"))
    assert ask(broker, b"mmi.service", b"other", b"echo") == [b"200"]
    assert ask(broker, b"mmi.service", b"echo", b"other") == [b"404"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "name", [b"mmi.", b"mmi.unknown", b"mmi.service2", b"mmi.Service", b"mmi.\xff\x00", b"mmi.mmi."]
)
def test_default_services_unimplemented_ones_must_be_501(name, version):
    """Default services: "Any unimplemented services in the "mmi." namespace MUST result in a reply "501" (Not
    implemented)."."""
    assert ask(BrokerHarness(), name, b"echo", version=version) == [b"501"]


def test_default_services_a_broker_that_drains_still_answers():
    """Default services: "MUST implement these services", at any time."""
    broker = BrokerHarness()
    broker.give(ready(b"worker", b"echo"), request(b"client", b"echo", b"hello"))
    broker.step(broker.core.drain, broker.now)
    assert ask(broker, b"mmi.service", b"echo") == [b"200"]
    assert ask(broker, b"mmi.unknown", b"echo") == [b"501"]


def test_default_services_a_request_without_a_body_is_no_request():
    """Default services, by 7/MDP: a REQUEST has "4 or more frames": without a name there is nothing to answer."""
    broker = BrokerHarness()
    assert broker.give([b"manager", b"", b"MDPC01", b"mmi.service"]) == []
    assert broker.give([b"manager", b"MDPC02", b"\x01", b"mmi.service"]) == []
    assert broker.statistics.dropped == {"invalid": 2}
