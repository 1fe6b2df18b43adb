"""Worlds: processes that are killed and stopped, phases, faults, traces, and drivers on simulated sockets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from zpatterns.core import Close, Command, Event, Frames, Open, PortId, SendFailure, SocketKind
from zpatterns.sockets import SocketSettings
from zpatterns.testing import CallerDriver, Fault, Node, Observer, SimDriver, World
from zpatterns.testing.driving import SimLink
from zpatterns.wire import memory_of


class Ticker(Node):
    """Counts its seconds, in memory and on disk."""

    def boot(self) -> None:
        self.ticks: list[float] = []
        self._tick()

    def _tick(self) -> None:
        now = self.world.clock.now()
        self.ticks.append(now)
        self.disk["ticks"] = self.disk.get("ticks", 0) + 1
        self.later(now + 1.0, self._tick)


class Diary(Observer):
    def __init__(self, world: World) -> None:
        self.world = world
        self.lines: list[tuple[float, str]] = []

    def _write(self, what: str) -> None:
        self.lines.append((self.world.clock.now() - 1000.0, what))

    def happened(self, node: Node, what: str) -> None:
        self._write(f"{node.name} {what}")

    def measure(self) -> None:
        self._write("measure")

    def settled(self) -> None:
        self._write("settled")

    def finished(self) -> None:
        self._write("finished")


class TickerWorld(World):
    fault_classes: ClassVar[tuple[str, ...]] = ("crash",)
    behaviours: ClassVar[tuple[str, ...]] = ("lazy", "loud")

    def build(self) -> None:
        self.fault_seconds, self.bound, self.quiet_seconds, self.lease = 10.0, 5.0, 3.0, 8.0
        self.diary = Diary(self)
        self.observers.append(self.diary)
        self.ticker = Ticker(self, "ticker")
        self.ticker.start()


@pytest.fixture
def world() -> TickerWorld:
    """A world that has been built and whose time is the test's."""
    world = TickerWorld(1)
    world.build()
    return world


class TestNode:
    def test_what_a_process_asked_for_comes_in_time(self, world):
        world.clock.advance(2.5)
        assert world.ticker.ticks == [1000.0, 1001.0, 1002.0]

    def test_a_stopped_process_does_nothing_until_it_goes_on(self, world):
        world.clock.advance(0.5)
        world.ticker.pause()
        world.clock.advance(5.0)
        assert world.ticker.ticks == [1000.0]
        world.ticker.resume()
        world.clock.advance(1.5)
        assert len(world.ticker.ticks) == 3
        assert world.ticker.ticks[1] == pytest.approx(1005.5, abs=0.01), "what was due comes at once, and once"

    def test_what_was_cancelled_while_it_stood_still_is_not_done_afterwards(self, world):
        done: list[str] = []
        timer = world.ticker.later(1001.0, done.append, "it")
        world.ticker.pause()
        world.clock.advance(2.0)
        timer.cancel()
        world.ticker.resume()
        world.clock.advance(2.0)
        assert done == []

    def test_a_killed_process_forgets_all_but_its_disk(self, world):
        world.clock.advance(2.5)
        world.ticker.kill()
        world.clock.advance(3.0)
        assert world.ticker.disk == {"ticks": 3}
        world.ticker.start()
        world.clock.advance(0.5)
        assert world.ticker.ticks == [1005.5], "the timers of its former life are gone"
        assert world.ticker.disk == {"ticks": 4}

    def test_a_disk_can_be_lost_with_it(self, world):
        world.ticker.kill(lose_disk=True)
        assert world.ticker.disk == {}

    def test_twice_is_once(self, world):
        ticker = world.ticker
        for what in (ticker.start, ticker.pause, ticker.pause, ticker.resume, ticker.resume, ticker.kill, ticker.kill):
            what()
        ticker.pause()
        ticker.start()
        assert [line for _, line in world.diary.lines] == [
            "ticker start",
            "ticker pause",
            "ticker resume",
            "ticker kill",
            "ticker start",
        ]

    def test_a_kill_ends_a_stop(self, world):
        world.ticker.pause()
        world.ticker.kill()
        world.ticker.start()
        world.clock.advance(1.5)
        assert len(world.ticker.ticks) == 2


class TestRun:
    def test_phases_follow_each_other(self):
        world = TickerWorld(1, faults=frozenset())
        phases: list[tuple[str, str]] = []
        world.healed = lambda: phases.append(("healed", world.phase))  # type: ignore[method-assign]
        world.quiet = lambda: phases.append(("quiet", world.phase))  # type: ignore[method-assign]
        assert world.run() is None
        assert phases == [("healed", "healing"), ("quiet", "quiet")]
        assert world.diary.lines == [
            (0.0, "ticker start"),
            (4.0, "measure"),
            (8.0, "measure"),
            (12.0, "measure"),
            (15.0, "settled"),
            (16.0, "measure"),
            (18.0, "finished"),
        ]

    def test_all_is_well_when_it_is_healed(self):
        class Healed(TickerWorld):
            def healed(self) -> None:
                states.append(self.ticker.alive and self.ticker.paused_at is None)

        states: list[bool] = []
        for seed in range(50):
            Healed(seed).run()
        assert states == [True] * 50

    @pytest.mark.parametrize(
        ("bound", "lease", "may_go_wrong", "at"),
        [(30.0, 2.0, [], 30.0), (6.0, 2.0, [], 12.0), (6.0, 8.0, [], 16.0), (30.0, 2.0, ["lazy"], 40.0)],
        ids=["bound from the start", "a lease for what is under way", "never later", "something may be wrong"],
    )
    def test_where_nothing_goes_wrong_the_bound_counts_from_the_start(self, bound, lease, may_go_wrong, at):
        class Timed(TickerWorld):
            def build(self) -> None:
                super().build()
                self.bound, self.lease = bound, lease
                self.behave(*may_go_wrong)

        world = Timed(1, faults=frozenset(may_go_wrong))
        assert world.run() is None
        assert (at, "settled") in world.diary.lines
        assert world.diary.lines[-1] == (at + 3.0, "finished")

    def test_a_violation_ends_it_and_is_kept(self, world):
        world = TickerWorld(1)
        error = ValueError("why")
        world.clock.call_at(1002.0, world.violate, "T1", "first", error)
        world.clock.call_at(1002.0, world.violate, "T2", "second")
        violation = world.run()
        assert (violation.promise, violation.text, violation.at) == ("T1", "first", 1002.0)
        assert str(violation) == "T1 at 1002.000000: first"
        assert world.error is error
        assert "settled" not in [line for _, line in world.diary.lines]

    def test_what_spins_is_a_violation(self, monkeypatch):
        monkeypatch.setattr("zpatterns.testing.world.STEPS_MAX", 20_000)
        world = TickerWorld(1, faults=frozenset())

        def spin() -> None:
            world.clock.call_later(0.0, spin)

        world.clock.call_at(1001.0, spin)
        violation = world.run()
        assert violation is not None
        assert (violation.promise, violation.at) == ("B2", 1001.0)
        assert violation.text.startswith("20000 steps")

    def test_seeds_differ_and_are_the_same_again(self):
        def story(seed: int) -> list[str]:
            world = TickerWorld(seed, trace=True)
            world.run()
            return list(world.trace_lines())

        assert [story(seed) for seed in range(20)] == [story(seed) for seed in range(20)]
        assert len({"\n".join(story(seed)) for seed in range(20)}) > 5


class TestFaults:
    def test_each_run_leaves_some_classes_out(self):
        class Many(TickerWorld):
            fault_classes: ClassVar[tuple[str, ...]] = World.fault_classes

        active = [Many(seed).active_faults for seed in range(200)]
        assert frozenset() in active, "some runs have no faults at all"
        assert frozenset().union(*active) == set(World.fault_classes)
        assert len(set(active)) > 50

    def test_only_what_is_allowed_happens(self):
        worlds = [TickerWorld(seed, faults=frozenset({"lazy"})) for seed in range(50)]
        assert all(not world.active_faults for world in worlds)
        assert {name for world in worlds for name in world.active_behaviours} == {"lazy"}
        world = worlds[0]
        world.behave("lazy", "loud")
        assert world.active_behaviours == {"lazy"}

    def test_keep_leaves_the_rest_of_the_plan_as_it_is(self):
        seed = next(seed for seed in range(100) if len(plan(TickerWorld(seed))) > 3)
        whole = plan(TickerWorld(seed))
        assert plan(TickerWorld(seed, keep=frozenset({1, 3}))) == [whole[1], whole[3]]
        assert plan(TickerWorld(seed, keep=frozenset())) == []

    def test_frailty_says_who_is_met(self):
        class Pair(TickerWorld):
            def build(self) -> None:
                super().build()
                Ticker(self, "sturdy").frailty = 0
                self.ticker.frailty = 3

        met = {fault.node for seed in range(50) for fault in plan(Pair(seed))}
        assert met == {"ticker"}

    @pytest.mark.parametrize("kind", World.fault_classes)
    def test_each_class_can_happen_and_is_over_in_the_end(self, kind):
        class One(TickerWorld):
            fault_classes: ClassVar[tuple[str, ...]] = (kind,)

            def build(self) -> None:
                super().build()
                Ticker(self, "other").start()

        happened = 0
        for seed in range(30):
            world = One(seed, trace=True)
            assert world.run() is None
            happened += world.counts.get(f"fault.{kind}", 0)
            network = world.network
            assert not (network._cuts or network._slow or network.dark or network.midway)
            assert all(node.alive and node.paused_at is None for node in world.nodes.values())
            assert all(node.lag == node.usual_lag for node in world.nodes.values())
        assert happened


def plan(world: World) -> list[Fault]:
    world.run()
    return world.planned


class Talker:
    """A core that keeps what it is told, and says what a test puts into `out` and `orders`."""

    PORTS: ClassVar[tuple[str, ...]] = ("port",)

    def __init__(self) -> None:
        self.got: list[Frames] = []
        self.failed: list[SendFailure] = []
        self.out: list[Frames] = []
        self.orders: list[Command] = []
        self.timer: float | None = None
        self.timed: list[float] = []
        self.reads = True
        self.error: Exception | None = None

    def receive_many(self, batch: Any, now: float, port: PortId) -> None:
        if self.error is not None:
            raise self.error
        self.got += batch

    def say(self, *messages: Frames) -> None:
        self.out += messages

    def order(self, *commands: Command) -> None:
        self.orders += commands

    def ports_to_send(self) -> tuple[str, ...]:
        return self.PORTS if self.out else ()

    def messages_to_send(self, port: PortId) -> list[Frames]:
        out, self.out = self.out, []
        return out

    def wants_to_read(self, port: PortId) -> bool:
        return self.reads

    def commands(self) -> list[Command]:
        orders, self.orders = self.orders, []
        return orders

    def next_timer(self) -> float | None:
        return self.timer

    def handle_timer(self, now: float) -> None:
        self.timed.append(now)
        self.timer = None

    def send_failed(self, port: PortId, frames: Frames, reason: SendFailure, now: float) -> None:
        self.failed.append(reason)

    def events(self) -> list[Event]:
        return []

    def statistics(self) -> None:
        """Nothing is counted."""

    def check_invariants(self) -> None:
        """Nothing to check."""


class Talk(Node):
    """One core on one driver; `waiting` makes it a blocking one."""

    def __init__(self, world: World, name: str, waiting: Callable[[], bool] | None, settings: SocketSettings) -> None:
        super().__init__(world, name)
        self.lag = self.usual_lag = 0.0
        self._waiting = waiting
        self._settings = settings

    def boot(self) -> None:
        self.core = Talker()
        common: dict[str, Any] = {"settings": self._settings, "rng": self.chance, "on_command": self._no_command}
        self.driver: SimDriver | CallerDriver
        if self._waiting is None:
            self.driver = SimDriver(self, self.core, **common)
        else:
            self.driver = CallerDriver(self, self.core, waiting=self._waiting, **common)

    def _no_command(self, command: Command) -> None:
        raise AssertionError(command)

    def say(self, *messages: Frames) -> None:
        self.driver.call(self.core.say, *messages)

    def connect(self, endpoint: str) -> None:
        self.driver.call(self.core.order, Open("port", SocketKind.DEALER, endpoint))

    @property
    def link(self) -> SimLink:
        link = self.driver.links["port"]
        assert isinstance(link, SimLink)
        return link


class Talks(World):
    """A server and a client that say what a test wants."""

    def __init__(self, waiting: Callable[[], bool] | None = None, **settings: Any) -> None:
        super().__init__(1, faults=frozenset())
        self.network.window = 4
        chosen = SocketSettings(**settings)
        self.server, self.client = Talk(self, "server", None, chosen), Talk(self, "client", waiting, chosen)
        self.server.start()
        self.client.start()
        self.server.driver.bind("port", SocketKind.ROUTER, "sim://server")
        self.client.connect("sim://server")
        self.clock.advance(1.0)

    def peer(self) -> bytes:
        """The client's id, once it has said something."""
        self.client.say([b"hello"])
        self.clock.advance(1.0)
        [[peer, _]] = self.server.core.got
        self.server.core.got.clear()
        return peer


class TestDrivers:
    def test_they_talk(self):
        world = Talks()
        peer = world.peer()
        world.server.say([peer, b"one"], [peer, b"two"])
        world.clock.advance(1.0)
        assert world.client.core.got == [[b"one"], [b"two"]]

    def test_what_is_said_before_there_is_a_connection_waits_in_the_outbox(self):
        world = Talks()
        world.server.kill()
        world.clock.advance(1.0)
        world.client.say([b"early"])
        assert world.client.link.boxes == [(1, memory_of([b"early"]))]
        world.server.start()
        world.server.driver.bind("port", SocketKind.ROUTER, "sim://server")
        world.clock.advance(3.0)
        assert [frames[1:] for frames in world.server.core.got] == [[b"early"]]

    def test_a_full_peer_fills_its_outbox_and_then_overflows_and_is_tried_again(self):
        world = Talks(send_hwm=2, receive_hwm=2, outbox_max=3)
        peer = world.peer()
        world.client.core.reads = False
        world.server.say(*([peer, b"%d" % number] for number in range(40)))
        world.clock.advance(1.0)
        taken = 40 - len(world.server.core.failed)
        assert set(world.server.core.failed) == {SendFailure.OVERFLOW}
        assert 3 < taken < 20
        world.client.core.reads = True
        world.client.say()
        world.clock.advance(5.0)
        assert world.client.core.got == [[b"%d" % number] for number in range(taken)], "the outbox's retries"

    def test_who_is_gone_is_told_of(self):
        world = Talks()
        peer = world.peer()
        world.client.kill()
        world.clock.advance(1.0)
        world.server.say([peer, b"hello"])
        assert world.server.core.failed == [SendFailure.UNREACHABLE]

    def test_close_with_linger_sends_what_was_said_before(self):
        world = Talks()
        world.client.core.out.append([b"last words"])
        world.client.driver.call(world.client.core.order, Close("port", 1.0))
        world.clock.advance(2.0)
        assert [frames[1:] for frames in world.server.core.got] == [[b"last words"]]
        world.client.say([b"too late"])
        assert world.client.core.failed == [SendFailure.UNREACHABLE]

    def test_a_core_that_raises_is_a_violation(self):
        world = Talks()
        world.server.core.error = ValueError("oh")
        world.client.say([b"hello"])
        world.clock.advance(1.0)
        assert world.violation is not None
        assert world.violation.promise == "B2"
        assert world.error is world.server.core.error

    @pytest.mark.parametrize("waiting", [None, lambda: True], ids=["reactor", "caller"])
    def test_a_timer_comes_in_time(self, waiting):
        world = Talks(waiting)
        world.client.core.timer = world.clock.now() + 2.0
        world.client.say()
        world.clock.advance(5.0)
        assert world.client.core.timed == [1003.0]

    def test_a_blocking_driver_does_nothing_while_nobody_waits(self):
        waits = True
        world = Talks(lambda: waits)
        peer = world.peer()
        waits = False
        world.client.core.timer = world.clock.now() + 1.0
        world.client.say()
        world.server.say([peer, b"late"])
        world.clock.advance(5.0)
        assert world.client.core.got == []
        assert world.client.core.timed == []
        waits = True
        assert isinstance(world.client.driver, CallerDriver)
        world.client.driver.lead()
        world.clock.advance(0.0)
        assert world.client.core.got == [[b"late"]]
        assert world.client.core.timed == [world.clock.now()]


def test_a_trace_prints_frames_events_and_errors_on_a_line_each():
    world = TickerWorld(1, trace=True)
    world.note("who", "what", [b"a", b"\x00" * 100], ValueError("why"), 7)
    [line] = world.trace_lines()
    assert line.startswith(" 1000.000000 who          what ['a', ")
    assert line.endswith("...(100)] ValueError('why') 7")
    assert "\n" not in line
