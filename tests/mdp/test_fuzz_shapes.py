"""Any frames at any core, and a broker against a model of what it may do, of which Hypothesis draws the steps."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.draws import Draws
from tests.harness import (
    BrokerHarness,
    ClientHarness,
    WorkerHarness,
    disconnect,
    heartbeat,
    partial,
    ready,
    reply,
    request,
)
from zpatterns.core import Deliver, Fail, Frames, SendFailure
from zpatterns.mdp.events import WorkerExpired, WorkerLeft, WorkerLost
from zpatterns.worker_state import WorkerState

WORDS = [b"", b"MDPC01", b"MDPW01", b"MDPC02", b"MDPW02", *(b"%c" % number for number in range(8))]
WORDS += [b"echo", b"mmi.service"]
PEERS = [b"p0", b"p1", b"p2", b"p3"]
PAUSES = [0.0, 0.5, 3.0]
MESSAGES_MAX = 45

# Hypothesis takes ten times as long to draw frames as the cores to read them: it draws from what they are made.
SEEDS = st.integers(0, 2**32)
VERSIONS = st.sampled_from(["0.1", "0.2"])

# No shrinking: that could outlast the time a test is given, and the steps are told anyhow.
same_each_time = settings(derandomize=True, deadline=None, database=None, max_examples=150, phases=[Phase.generate])


def any_frames(draws: Draws) -> Frames:
    return draws.frames(WORDS, frames_max=9, bytes_max=6)


@same_each_time
@given(SEEDS)
def test_broker_core_takes_any_shape(seed):
    draws = Draws(seed)
    broker = BrokerHarness(request_ttl=5, queue_max=3, services_max=3)
    for _ in draws.times(MESSAGES_MAX):
        frames = any_frames(draws)
        broker.give([draws.choice(PEERS), *frames])
        broker.give(frames)
        broker.advance(draws.choice(PAUSES))
    broker.step(broker.core.shut_down, broker.now)
    broker.advance(100)
    assert broker.statistics.services == 0


@same_each_time
@given(VERSIONS, SEEDS)
def test_worker_core_takes_any_shape(version, seed):
    draws = Draws(seed)
    worker = WorkerHarness(version, handler_timeout=2)
    for _ in draws.times(MESSAGES_MAX):
        worker.give(any_frames(draws))
        worker.advance(draws.choice(PAUSES))
    worker.step(worker.core.shut_down, worker.now)
    assert worker.core.state is WorkerState.STOPPED
    assert worker.core.next_timer() is None


@same_each_time
@given(VERSIONS, SEEDS)
def test_client_core_takes_any_shape(version, seed):
    draws = Draws(seed)
    client = ClientHarness(max_in_flight=2)
    calls = draws.times(MESSAGES_MAX)
    for number in calls:
        client.step(client.core.start_call, number, b"echo", [b"x"], client.now, version=version)
        client.give(any_frames(draws), port=draws.randrange(1, 7))
        client.advance(draws.choice(PAUSES))
    client.step(client.core.close, client.now)
    ended = [command.call for command in client.asked() if isinstance(command, Fail | Deliver)]
    assert sorted(ended) == list(calls), "each call ends exactly once"


class Model(RuleBasedStateMachine):
    """A broker among clients and workers that know the protocol, some of which break it.

    Every request has a body of its own, so that from outside one can tell who holds it and what became of it.
    """

    workers = st.sampled_from([b"w0", b"w1", b"w2", b"w3", b"w4"])
    clients = st.sampled_from([b"c0", b"c1", b"c2"])
    services = st.sampled_from([b"a", b"b"])
    deliveries_max = 2

    def __init__(self) -> None:
        super().__init__()
        self.broker = BrokerHarness(
            request_ttl=6, queue_max=4, deliveries_max=self.deliveries_max, held_bytes_max=1000, services_max=10
        )
        self.tags = itertools.count(1)
        self.registered: dict[bytes, tuple[str, bytes]] = {}  # a worker's version and service
        self.holds: dict[bytes, bytes] = {}  # a worker's request
        self.client_of: dict[bytes, tuple[bytes, str, bytes]] = {}  # the client, version and service of a request
        self.deliveries: dict[bytes, int] = {}
        self.answered: set[bytes] = set()
        self.errors = 0
        self.muted = 0  # requests whose client is told nothing more
        self.last_sent: list[Frames] = []

    # What may happen.

    @rule(worker=workers, service=services, version=VERSIONS)
    def worker_says_ready(self, worker: bytes, service: bytes, version: str) -> None:
        if worker not in self.registered:
            self.registered[worker] = (version, service)
        self.give(ready(worker, service, version))

    @rule(client=clients, service=services, version=VERSIONS)
    def client_asks(self, client: bytes, service: bytes, version: str) -> None:
        tag = b"%d" % next(self.tags)
        self.client_of[tag] = (client, version, service)
        self.give(request(client, service, tag, version=version))

    @precondition(lambda self: self.holds)
    @rule(data=st.data())
    def worker_replies(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.holds)))
        tag = self.holds.pop(worker)
        self.give(reply(worker, self.client_of[tag][0], b"re:" + tag, version=self.registered[worker][0]))

    @precondition(lambda self: any(self.registered[worker][0] == "0.2" for worker in self.holds))
    @rule(data=st.data(), size=st.sampled_from([1, 400, 1200]))
    def worker_sends_a_part(self, data: st.DataObject, size: int) -> None:
        worker = data.draw(st.sampled_from(sorted(w for w in self.holds if self.registered[w][0] == "0.2")))
        tag = self.holds[worker]
        self.give(partial(worker, self.client_of[tag][0], b"part:" + tag, b"x" * size))

    @rule(worker=workers, version=VERSIONS)
    def worker_heartbeats(self, worker: bytes, version: str) -> None:
        self.give(heartbeat(worker, version=self.registered.get(worker, (version,))[0]))

    @rule(worker=workers, version=VERSIONS)
    def worker_leaves(self, worker: bytes, version: str) -> None:
        self.give(disconnect(worker, version=self.registered.get(worker, (version,))[0]))

    @rule(worker=workers, client=clients, version=VERSIONS)
    def worker_replies_out_of_turn(self, worker: bytes, client: bytes, version: str) -> None:
        if self.holds.get(worker) is None or self.client_of[self.holds[worker]][0] != client:
            self.give(reply(worker, client, b"forged", version=version))

    @rule(
        peer=workers | clients,
        frames=SEEDS.map(lambda seed: any_frames(Draws(seed))).filter(
            lambda frames: b"MDPC01" not in frames and b"MDPC02" not in frames
        ),
    )
    def somebody_sends_nonsense(self, peer: bytes, frames: Frames) -> None:
        if frames[:1] != [b"MDPW02"] and frames[:2] != [b"", b"MDPW01"]:
            self.give([peer, *frames])

    @rule(seconds=st.sampled_from([0.3, 1.0, 2.9, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.wait_until(self.broker.now + seconds)

    @rule(seconds=st.sampled_from([2.0, 10.0]))
    def broker_stands_still(self, seconds: float) -> None:
        self.judge(self.broker.stall(seconds))

    @precondition(lambda self: self.last_sent)
    @rule(data=st.data(), reason=st.sampled_from(list(SendFailure)))
    def a_message_cannot_be_sent(self, data: st.DataObject, reason: SendFailure) -> None:
        frames = data.draw(st.sampled_from(self.last_sent))
        self.last_sent = []
        worker = frames[0]
        body = body_of_work(frames)
        if body is not None and self.holds.get(worker) == body[0]:
            self.deliveries[body[0]] -= 1
            del self.holds[worker]
        self.judge(self.broker.fail(frames, reason))

    # What must be seen then.

    def give(self, frames: Frames) -> None:
        self.judge(self.broker.give(frames))

    def wait_until(self, end: float) -> None:
        """Let time pass, and judge what each timer on the way leads to."""
        while (timer := self.broker.core.next_timer()) is not None and timer <= end:
            self.judge(self.broker.until(max(timer, self.broker.now)))
        self.judge(self.broker.until(end))

    def judge(self, sent: list[Frames]) -> None:
        gone = {}
        for event in self.broker.events():
            if isinstance(event, WorkerExpired | WorkerLost | WorkerLeft):
                gone[event.worker] = self.registered.pop(event.worker)
                self.holds.pop(event.worker, None)
        self.last_sent = sent
        for frames in sent:
            peer = frames[0]
            if peer.startswith(b"w"):
                body = body_of_work(frames)
                if body is not None:
                    self.a_worker_is_given(peer, body[0], frames, gone)
            else:
                self.a_client_is_told(peer, frames)

    def a_worker_is_given(
        self, worker: bytes, tag: bytes, frames: Frames, gone: dict[bytes, tuple[str, bytes]]
    ) -> None:
        # It may have been given the request in the very turn in which it was found to be gone, too.
        assert worker in self.registered or worker in gone, "work for a stranger"
        assert worker not in self.holds, "a second request for a busy worker"
        version, service = self.registered.get(worker) or gone[worker]
        client, _, wanted = self.client_of[tag]
        assert service == wanted
        assert frames[1] == (b"" if version == "0.1" else b"MDPW02"), "in the worker's own version"
        assert (frames[4] if version == "0.1" else frames[3]) == client
        assert tag not in self.holds.values(), "two workers at once"
        assert tag not in self.answered
        if worker not in gone:
            self.holds[worker] = tag
        self.deliveries[tag] = self.deliveries.get(tag, 0) + 1
        assert self.deliveries[tag] <= self.deliveries_max

    def a_client_is_told(self, client: bytes, frames: Frames) -> None:
        version, body = ("0.1", frames[4:]) if frames[1] == b"" else ("0.2", frames[4:])
        if body[0] == b"\x00ZPATTERNS-ERROR\x00":
            self.errors += 1
            return
        tag = body[-1].removeprefix(b"re:") if body[-1].startswith(b"re:") else body[0].removeprefix(b"part:")
        assert self.client_of[tag] == (client, version, frames[3]), "the right client, in its version"
        assert tag not in self.answered, "nothing follows a reply"
        if body[-1] == b"re:" + tag:
            self.answered.add(tag)
        else:
            assert version == "0.2"

    @invariant()
    def the_counters_agree(self) -> None:
        statistics = self.broker.statistics
        assert statistics.workers == len(self.registered)
        assert statistics.in_flight == len(self.holds)
        assert statistics.replies == len(self.answered)
        assert statistics.refused + statistics.lost <= self.errors
        assert statistics.requests == len(self.client_of)

    def teardown(self) -> None:
        self.wait_until(self.broker.now + 30)
        statistics = self.broker.statistics
        assert (statistics.queued, statistics.in_flight, statistics.workers, statistics.services) == (0, 0, 0, 0)
        told = len(self.answered) + self.errors + statistics.expired
        silent = len(self.client_of) - told
        assert silent >= 0, "a request ended twice"
        # Only a stream of which a part could not be sent ends without a word.
        assert silent <= statistics.undelivered


def body_of_work(frames: Frames) -> Frames | None:
    """The body of a REQUEST to a worker; None for any other message."""
    if frames[1:4] == [b"", b"MDPW01", b"\x02"]:
        return frames[6:]
    if frames[1:3] == [b"MDPW02", b"\x02"]:
        return frames[5:]
    return None


Model.TestCase.settings = settings(same_each_time, max_examples=100, stateful_step_count=40)
TestBrokerAgainstAModel: Any = Model.TestCase
