"""Checkers once complained though the cores were right: what they must let pass, and what they must still see."""

from __future__ import annotations

from collections import deque

import pytest

from zpatterns.clone.replica_core import Change
from zpatterns.clone.sets_core import Sets
from zpatterns.clone.wire import KeyValue
from zpatterns.testing.clone import CloneWorld
from zpatterns.testing.clone_pair_observer import ClonePairObserver
from zpatterns.testing.driving import SimLink
from zpatterns.testing.freelance import FreelanceWorld
from zpatterns.testing.ledger import HandlerRun
from zpatterns.testing.mdp import BACKLOG_MAX, MajordomoWorld
from zpatterns.testing.mdp_nodes import BrokerNode
from zpatterns.testing.mdp_observer import BrokerWatch, SeenRequest
from zpatterns.testing.pirate import BACKLOG_MAX as PIRATE_BACKLOG_MAX
from zpatterns.testing.pirate import ParanoidPirateWorld, SimplePirateWorld
from zpatterns.testing.pirate_observer import QueueWatch
from zpatterns.testing.pirate_observer import SeenRequest as SeenPirateRequest


def calm_world() -> MajordomoWorld:
    world = MajordomoWorld(1, faults=frozenset())
    world.build()
    return world


def watch_of(world: MajordomoWorld) -> tuple[BrokerNode, BrokerWatch, SimLink]:
    [broker] = world.brokers
    [link] = broker.driver.links.values()
    assert isinstance(link, SimLink)
    return broker, world.observer.watches[broker], link


def lease_that_rounds(start: float, lease: float) -> float:
    """A moment m near `start` at which m + lease - m is, for a float, less than the lease."""
    moment = start
    while (moment + lease) - moment >= lease:
        moment += 0.001
    return moment


@pytest.mark.parametrize("is_over", [True, False])
def test_a_lease_ends_at_the_very_moment_that_the_broker_computes(is_over):
    """A worker whose lease is over by the broker's sum is not idle for longer than another, whatever the rounding."""
    world = calm_world()
    _, watch, link = watch_of(world)
    lease = watch.lease = 2.1
    heard = lease_that_rounds(world.clock.now(), lease)
    world.clock.time = heard
    watch.read(link, [b"idle", b"", b"MDPW01", b"\1", b"echo"])
    world.clock.time = heard + lease if is_over else heard + lease * 0.99
    watch.read(link, [b"fresh", b"", b"MDPW01", b"\1", b"echo"])
    watch.read(link, [b"caller", b"", b"MDPC01", b"echo", b"q:1"])
    watch.asked(link, [b"fresh", b"", b"MDPW01", b"\2", b"caller", b"", b"q:1"])
    assert (world.violation is None) is is_over
    assert world.violation is None or world.violation.promise == "LRU"


@pytest.mark.parametrize(("backlog", "must_succeed"), [(BACKLOG_MAX, True), (BACKLOG_MAX + 1, False)])
def test_a_call_behind_what_callers_left_need_not_be_answered_in_time(backlog, must_succeed):
    world = calm_world()
    _, watch, _ = watch_of(world)
    now = world.clock.now()
    service = world.services[0].encode()
    watch.requests[b"gone"] = deque(SeenRequest(b"gone", service, [b"q:%d" % n], now, 60.0) for n in range(backlog))
    world.quiet()
    awaited = [call.service for call in world.observer.must_succeed]
    assert (world.services[0] in awaited) is must_succeed


@pytest.mark.parametrize("too_many", [False, True])
def test_requests_that_come_back_to_a_full_queue_are_no_breach_of_its_limit(too_many):
    """Their worker is lost, and they are not refused: the queue then holds as many more as were in hand at once."""
    world = calm_world()
    broker, watch, link = watch_of(world)
    limit = broker.options.queue_max * len(world.asked_services)
    for number in range(2):
        worker, caller, body = b"worker%d" % number, b"caller%d" % number, b"q:%d" % number
        watch.read(link, [worker, b"", b"MDPW01", b"\1", b"echo"])
        watch.read(link, [caller, b"", b"MDPC01", b"echo", body])
        watch.asked(link, [worker, b"", b"MDPW01", b"\2", caller, b"", body])
    for number in range(2):
        watch.read(link, [b"worker%d" % number, b"", b"MDPW01", b"\5"])
    vars(broker.core)["held"] = [b"q:%d" % n for n in range(limit + 2 + too_many)]
    for _ in range(6):
        world.observer.measure()
    assert (world.violation is not None) is too_many
    assert world.violation is None or world.violation.promise == "B1"


def calm_pirate_world() -> tuple[SimplePirateWorld, QueueWatch]:
    world = SimplePirateWorld(1, faults=frozenset())
    world.build()
    return world, world.observer.watches[world.queues[0]]


@pytest.mark.parametrize(("backlog", "must_succeed"), [(PIRATE_BACKLOG_MAX, True), (PIRATE_BACKLOG_MAX + 1, False)])
def test_a_call_behind_requests_that_wait_at_a_pirate_queue_need_not_be_answered_in_time(backlog, must_succeed):
    world, watch = calm_pirate_world()
    now = world.clock.now()
    watch.requests += [SeenPirateRequest([b"gone", b"", b"q:%d" % n], now, 60.0) for n in range(backlog)]
    world.quiet()
    assert bool(world.observer.must_succeed) is must_succeed


def test_a_request_whose_worker_turned_out_to_be_gone_may_be_one_more_than_a_full_queue_holds():
    world, watch = calm_pirate_world()
    limit = watch.held_max()
    links = world.queues[0].driver.links
    front, back = links["front"], links["back"]
    assert isinstance(front, SimLink) and isinstance(back, SimLink)
    watch.read(front, [b"caller", b"", b"q:1"])
    assert watch.held_max() == limit, "it may be refused"
    watch.read(back, [b"worker", b"", b"\1"])
    watch.asked(back, [b"worker", b"", b"caller", b"", b"q:1"])
    watch.failed(back, [b"worker", b"", b"caller", b"", b"q:1"])
    assert watch.held_max() == limit + 1


@pytest.mark.parametrize(("sent_again_at", "is_stale"), [(0.0, True), (1003.0, False)])
def test_of_two_attempts_of_one_call_the_later_that_was_given_out_is_the_one_that_begins(sent_again_at, is_stale):
    world = ParanoidPirateWorld(1, faults=frozenset())
    world.build()
    watch, worker = world.observer.watches[world.queues[0]], world.workers[0]
    for envelope, sent_at in ((b"1", 1001.0), (b"2", sent_again_at), (b"3", 0.0)):
        request = SeenPirateRequest([b"caller", envelope, b"", b"q:1"], 1000.0, 60.0)
        request.sent_at = sent_at
        watch.requests.append(request)
    world.observer.stalls[worker] = 1002.0
    world.observer.run_begins(worker, b"caller", [b"q:1"])
    assert (world.violation is not None) is is_stale


@pytest.mark.parametrize(
    ("later", "runs", "is_breach"), [(0.0, 1, False), (0.6, 1, True), (0.6, 2, False), (0.0, 3, True)]
)
def test_a_server_that_is_not_connected_to_yet_need_not_be_asked_by_a_shotgun_client(later, runs, is_breach):
    seed = 0
    while True:
        world = FreelanceWorld(seed, faults=frozenset())
        world.build()
        if len(world.servers) == 2 and world.model == "shotgun":
            break
        seed += 1
    call = world.probe.ask()
    call.started += later
    call.runs = [HandlerRun(number, call, world.servers[0], call.started) for number in range(runs)]
    assert (world.observer.calm_runs(call) != len(call.runs)) is is_breach


def calm_clone_pair() -> CloneWorld:
    seed = 0
    while True:
        world = CloneWorld(seed, faults=frozenset())
        world.build()
        if world.is_pair:
            return world
        seed += 1


@pytest.mark.parametrize(
    ("last_read", "published", "is_breach"),
    [(12, (11,), False), (12, (2000,), True), (11, (11,), False), (None, (2000,), False), (None, (11, 2000), True)],
)
def test_what_a_clone_half_followed_and_had_not_on_its_disk_may_come_again_as_it_was(last_read, published, is_breach):
    """Under the sequence of the active before it overwrites nothing; under one of ours it would be the newest."""
    world = calm_clone_pair()
    observer, node = world.observer, world.halves[1]
    assert isinstance(observer, ClonePairObserver)
    half = observer._halves[node.name]
    half.held[b"uuid"] = 1
    if last_read is not None:
        half.updated[b"k"] = 2, last_read
    for sequence in published:
        observer._check_held(node, half, KeyValue(b"k", sequence, b"uuid", b"", b"body"))
    assert (world.violation is not None) is is_breach
    assert world.violation is None or world.violation.promise == "C1"


@pytest.mark.parametrize("turns_away", [True, False])
def test_what_makes_a_clone_client_turn_to_another_server_it_has_heard_of_the_one_before(turns_away):
    """It is told of all that one turn has read when it may follow the other server already."""
    world = calm_clone_pair()
    client, halves, key = world.clients[0], world.halves, world.clients[0].options.subtree + "k"
    [followed] = [half for half in halves if half.name == client.server]
    [other] = [half for half in halves if half is not followed]
    for half in halves:
        history = world.observer._history(half.name)
        if half is (followed if turns_away else other):
            world.observer._asked[b"uuid"] = key, b"body"
            world.observer._record(half, history, key.encode(), 2**40, b"uuid", b"body", 0, world.clock.now())
    world.observer.read(client.links[0], [key.encode(), b"", b"uuid", b"", b"body"])
    client.core._current = 1 - client.core._current
    assert client.server == other.name
    world.observer.changed(client, [Change(key, None, b"body", 2**40)])
    assert (world.violation is None) is turns_away


@pytest.mark.parametrize("answers_come", [True, False])
def test_clone_sets_that_are_too_many_at_once_when_the_active_is_lost_have_the_bound_of_l1(monkeypatch, answers_come):
    """Seed 9931: five for a half that admits three, and a client that keeps three: it turned away, to the dead half."""
    world = CloneWorld(9931, keep=frozenset())
    acknowledge = Sets.acknowledge

    def some_are_deaf(sets: Sets, uuid: bytes, sequence: int, reached: int, now: float) -> bool:
        return world.phase == "quiet" or acknowledge(sets, uuid, sequence, reached, now)

    if not answers_come:
        monkeypatch.setattr(Sets, "acknowledge", some_are_deaf)
    violation = world.run()
    assert world.is_pair and world.loses_one
    assert (violation is None) is answers_come
    assert violation is None or (violation.promise, "made when all was well" in violation.text) == ("L1", True)


@pytest.mark.parametrize("is_crowded", [True, False])
def test_only_where_clone_sets_are_too_many_at_once_have_they_more_than_four_leases(is_crowded):
    found = 0
    for seed in range(9900, 10_000):
        world = CloneWorld(seed)
        world.build()
        if not world.is_pair or not world.loses_one or world._is_crowded is not is_crowded:
            continue
        found += 1
        tight = {client.options.kept_max for client in world.clients} | {world.halves[0].options.pending_max}
        assert (len(world.clients) == 5 and bool(tight & {3, 4})) is is_crowded
        given = world.quiet_seconds * 0.8
        assert given == pytest.approx(world.bound if is_crowded else 4 * world.lease)
    assert found
