"""The reactor: one loop and one context for all, monotonic time, signals, and an end that always comes."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import socket
import threading
import time
from contextlib import ExitStack
from itertools import pairwise

import pytest
import zmq

from tests.example import CallerCore, EchoCore, ExampleService, OnReactor
from tests.waiting import DEADLINE, busy, eventually, until
from zpatterns.driver import LoopStalled
from zpatterns.errors import EndpointError
from zpatterns.mdp import AsyncClient, Broker, Worker
from zpatterns.reactor import Reactor, ReactorDriver
from zpatterns.sockets import SocketSettings
from zpatterns.telemetry import Telemetry


def run(main):
    """Run a coroutine, within the deadline."""

    async def bounded():
        async with asyncio.timeout(DEADLINE):
            return await main

    return asyncio.run(bounded())


class TestTurns:
    def test_a_flood_leaves_room_for_others(self):
        """However much waits in one socket, the loop turns at least once in 500 messages."""

        async def main():
            core = EchoCore(echo=False)
            core.reading = False
            turns: list[int] = []

            def turn() -> None:
                turns.append(len(core.received))
                if len(core.received) < 10_000:
                    asyncio.get_running_loop().call_soon(turn)

            async with ExampleService(
                core, endpoint="inproc://flood", settings=SocketSettings(receive_hwm=0)
            ) as service:
                with service.driver._context.socket(zmq.DEALER) as peer:
                    peer.setsockopt(zmq.SNDHWM, 0)
                    peer.connect("inproc://flood")
                    for _ in range(10_000):
                        peer.send(b"")
                    service.driver.call(core.read, True)
                    turn()
                    await eventually(lambda: len(core.received) == 10_000, "all messages")
            assert max(after - before for before, after in pairwise(turns)) <= 500

        run(main())

    def test_two_floods_take_turns(self):
        async def main():
            order: list[str] = []
            async with asyncio.timeout(DEADLINE):
                with ExitStack() as stack:
                    services = []
                    for name in ("one", "two"):
                        core = EchoCore(echo=False)
                        core.reading = False
                        core.on_message = lambda frames, now, port, name=name: order.append(name)  # type: ignore[misc]
                        service = ExampleService(
                            core, endpoint=f"inproc://{name}", settings=SocketSettings(receive_hwm=0)
                        )
                        services.append(await service.start())
                        peer = stack.enter_context(service.driver._context.socket(zmq.DEALER))
                        peer.setsockopt(zmq.SNDHWM, 0)
                        peer.connect(service.endpoint)
                        for _ in range(5000):
                            peer.send(b"")
                    for service in services:
                        service.driver.call(service.core.read, True)
                    await eventually(lambda: len(order) == 10_000, "all messages")
                for service in services:
                    await service.stop()
            assert "two" in order[:1000]
            assert "one" in order[-2000:]

        run(main())

    def test_after_a_stall_messages_go_before_timers(self):
        """What arrived while the loop stood still is heard before anybody is judged by his silence."""

        async def main():
            core = CallerCore()
            order: list[str] = []
            core.on_timer = lambda now: order.append("timer")
            core.on_message = lambda frames, now, port: order.append("message")
            reactor = Reactor.current()
            driver = ReactorDriver(
                reactor, core, telemetry=Telemetry("example"), on_command=lambda command: None, stall_threshold=60
            )
            try:
                with zmq.Context() as context, context.socket(zmq.ROUTER) as peer:
                    peer.setsockopt(zmq.LINGER, 0)
                    port = peer.bind_to_random_port("tcp://127.0.0.1")
                    driver.call(core.connect, f"tcp://127.0.0.1:{port}")
                    driver.call(core.send, "back", [b"hello"])
                    await eventually(lambda: peer.poll(0), "the peer")
                    hello = peer.recv_multipart()
                    # Let the loop come to rest, so that only the next message makes the socket's signal.
                    await eventually(lambda: driver.links["back"].events() == 0 and not order, "quiet")
                    driver.call(core.set_timer, driver.now() + 0.01)
                    peer.send_multipart(hello)
                    deadline = driver.now() + 0.15
                    descriptor = driver.links["back"].fileno()
                    until(lambda: select.select([descriptor], [], [], 0)[0], "the message")
                    until(lambda: driver.now() > deadline, "the stall")
                    await eventually(lambda: len(order) == 2, "both")
                assert order == ["message", "timer"]
            finally:
                driver.close()
                await reactor.settled()

        run(main())

    def test_a_stall_is_told(self):
        async def main():
            core = EchoCore()
            told: list[object] = []
            service = ExampleService(core, on_event=told.append)
            async with service:
                service.driver._stall_threshold = 0.1
                loop = asyncio.get_running_loop()
                service.driver.call(core.set_timer, loop.time() + 0.01)
                loop.call_soon(busy, 0.3)
                await eventually(lambda: core.timers, "the timer")
            stalls = [event for event in told if isinstance(event, LoopStalled)]
            assert len(stalls) == 1
            assert stalls[0].seconds > 0.1
            assert stalls[0].level == "warning"

        run(main())

    def test_being_a_little_late_is_not_told(self):
        async def main():
            core = EchoCore()
            told: list[object] = []
            async with ExampleService(core, on_event=told.append) as service:
                service.driver._stall_threshold = 60
                loop = asyncio.get_running_loop()
                service.driver.call(core.set_timer, loop.time() + 0.01)
                loop.call_soon(busy, 0.15)
                await eventually(lambda: core.timers, "the timer")
            assert told == []

        run(main())

    def test_a_call_from_another_thread(self, peer):
        async def main():
            core = EchoCore(echo=False)
            async with ExampleService(core) as service:
                socket = peer(zmq.DEALER, connect=service.endpoint)
                socket.send(b"here I am")
                await eventually(lambda: core.received, "the peer")
                client = core.received[0][0]
                thread = threading.Thread(
                    target=service.driver.call_threadsafe, args=(core.send, "front", [client, b"hello"])
                )
                thread.start()
                await eventually(lambda: socket.poll(0), "the message")
                thread.join(DEADLINE)
            # Afterwards it does nothing, and does not raise.
            service.driver.call_threadsafe(core.send, "front", [client, b"late"])
            await asyncio.sleep(0)
            assert not core.ports_to_send()
            return service, core

        service, core = run(main())
        service.driver.call_threadsafe(core.send, "front", [b"", b"later still"])

    def test_uncongested_waits_for_outboxes(self):
        async def main():
            core = CallerCore()
            reactor = Reactor.current()
            driver = ReactorDriver(
                reactor,
                core,
                settings=SocketSettings(send_hwm=1, receive_hwm=1),
                telemetry=Telemetry("example"),
                on_command=lambda command: None,
            )
            try:
                await driver.uncongested()
                with reactor.context.socket(zmq.ROUTER) as router:
                    router.setsockopt(zmq.RCVHWM, 1)
                    router.bind("inproc://back")
                    driver.call(core.connect, "inproc://back")
                    for number in range(4):
                        driver.call(core.send, "back", [b"%d" % number])
                    waiting = asyncio.create_task(driver.uncongested())
                    await asyncio.sleep(0)
                    assert not waiting.done()
                    got: list[bytes] = []
                    while len(got) < 4:
                        await eventually(lambda: router.poll(0), "a message")
                        got.append(router.recv_multipart()[1])
                    await waiting
                    assert got == [b"0", b"1", b"2", b"3"]
                    for number in range(4):
                        driver.call(core.send, "back", [b"%d" % number])
                    left, waiting = (asyncio.create_task(driver.uncongested()) for _ in range(2))
                    await asyncio.sleep(0)
                    assert not waiting.done()
                    left.cancel()
                    driver.close()
                    await waiting
                    assert left.cancelled()
            finally:
                driver.close()
                await reactor.settled()

        run(main())


class TestOneForAll:
    def test_services_start_in_order_and_stop_in_reverse(self):
        diary: list[str] = []
        services = [ExampleService(name=name, diary=diary) for name in ("a", "b", "c")]
        reactor = Reactor()

        async def stop() -> None:
            await eventually(lambda: len(diary) == 3, "all have started")
            reactor.stop()

        async def main():
            stopping = asyncio.create_task(stop())
            await reactor.serve(*services)
            await stopping

        run(main())
        assert diary == ["a starts", "b starts", "c starts", "c ends", "b ends", "a ends"]
        assert len({id(service.driver._context) for service in services}) == 1, "they share one context"
        assert all(service.core.trace.count("drain") == 1 for service in services)

    def test_one_made_by_hand_is_that_of_the_loop_in_which_a_service_is_started_with_it(self):
        async def main():
            reactor, services = Reactor(), [ExampleService(name=name) for name in ("a", "b")]
            await services[0].start(reactor)
            await services[1].start()
            assert reactor.loop is asyncio.get_running_loop()
            assert Reactor.current() is reactor
            assert len({id(service.driver._context) for service in services}) == 1
            for service in services:
                await service.stop()

        run(main())

    def test_when_one_cannot_start_the_others_are_stopped(self):
        diary: list[str] = []
        with socket.create_server(("127.0.0.1", 0)) as taken:
            occupied = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
            services = [ExampleService(diary=diary, name="a"), ExampleService(endpoint=occupied, name="b")]
            with pytest.raises(EndpointError, match="cannot bind"):
                Reactor().run(*services)
        assert diary == ["a starts", "a ends"]
        assert all(service.driver.closed for service in services)

    def test_broker_worker_and_client_share_a_reactor(self):
        async def main():
            async with (
                Broker("tcp://127.0.0.1:*") as broker,
                Worker(broker.endpoint, service="echo"),
                AsyncClient(broker.endpoint) as client,
            ):
                assert await client.request("echo", b"hello") == [b"hello"]
                assert client._driver is not None
                assert broker._drivers[0]._context is client._driver._context is Reactor.current().context

        run(main())

    def test_a_reactor_for_each_loop(self):
        async def current() -> Reactor:
            assert Reactor.current() is Reactor.current()
            return Reactor.current()

        assert run(current()) is not run(current())

    def test_a_reactor_in_use_stays_with_its_loop(self):
        async def main():
            reactor = Reactor.current()
            async with ExampleService():
                other = asyncio.new_event_loop()
                try:
                    refused = asyncio.to_thread(other.run_until_complete, reactor.serve())
                    with pytest.raises(RuntimeError, match="another event loop"):
                        await refused
                finally:
                    other.close()

        run(main())

    def test_nothing_is_kept_of_loops_that_have_ended(self):
        async def serve() -> None:
            async with ExampleService():
                pass

        run(serve())
        gc.collect()
        before = len(Reactor._current)
        for _ in range(5):
            run(serve())
        gc.collect()
        assert len(Reactor._current) <= before + 1

    def test_starting_and_stopping_leaks_nothing(self):
        async def once() -> None:
            async with (
                Broker("tcp://127.0.0.1:*") as broker,
                Worker(broker.endpoint, service="echo", concurrency=2),
                AsyncClient(broker.endpoint) as client,
            ):
                assert await client.request("echo", b"hello") == [b"hello"]

        async def main():
            await once()
            before, threads = open_descriptors(), threading.active_count()
            for _ in range(10):
                await once()
            await eventually(lambda: open_descriptors() <= before, "all descriptors are closed")
            await eventually(lambda: threading.active_count() <= threads, "all threads have ended")

        run(main())


def open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))


class TestStopping:
    def test_in_a_loop_that_runs_already_it_says_what_to_use(self):
        async def main() -> None:
            server = ExampleService(EchoCore())
            with pytest.raises(RuntimeError, match="use 'async with service:'"):
                Reactor().run(server)
            async with server:
                pass

        asyncio.run(main())

    def test_from_another_thread(self):
        service = ExampleService()
        reactor = Reactor()

        def stop() -> None:
            until(lambda: "*" not in service.endpoint, "the start")
            reactor.stop()

        thread = threading.Thread(target=stop)
        thread.start()
        reactor.run(service)
        thread.join(DEADLINE)
        assert "shut_down" in service.core.trace

    def test_before_it_runs(self, peer):
        reactor = Reactor()
        reactor.stop()
        service = ExampleService()
        reactor.run(service)
        assert "shut_down" in service.core.trace
        # That was for one run.
        again = ExampleService()
        thread = threading.Thread(target=reactor.run, args=(again,), kwargs={"drain": 0.0})
        thread.start()
        until(lambda: "*" not in again.endpoint, "the start")
        socket = peer(zmq.DEALER, connect=again.endpoint)
        for _ in range(20):
            socket.send(b"ball")
            assert socket.recv() == b"ball"
        reactor.stop()
        thread.join(DEADLINE)
        assert not thread.is_alive()

    def test_in_the_very_moment_it_begins(self):
        for _ in range(100):
            reactor = Reactor()
            thread = threading.Thread(target=reactor.run)
            thread.start()
            reactor.stop()
            thread.join(DEADLINE)
            assert not thread.is_alive()

    def test_after_it_has_ended_it_is_for_the_next_run(self):
        reactor = Reactor()
        reactor.stop()
        reactor.run()
        reactor.stop()
        thread = threading.Thread(target=reactor.run, daemon=True)
        thread.start()
        thread.join(DEADLINE)
        assert not thread.is_alive(), "none was running, so it was meant for this one"

    def test_in_the_very_moment_the_next_run_begins(self):
        """The loop of the last run is closed by then, and that of the next may not be there yet."""
        reactor = Reactor()
        for _ in range(100):
            thread = threading.Thread(target=reactor.run, daemon=True)
            thread.start()
            reactor.stop()
            thread.join(DEADLINE)
            assert not thread.is_alive()

    def test_between_two_runs_in_one_loop(self):
        async def main():
            reactor = Reactor()
            reactor.stop()
            await reactor.serve()
            reactor.stop()
            await reactor.serve()

        run(main())

    def test_one_that_comes_too_late_for_a_run_is_not_taken_by_the_next(self, monkeypatch):
        """A thread that says stop is slow: when its word arrives the run has ended by itself."""

        async def main():
            reactor = Reactor()
            loop = asyncio.get_running_loop()
            first, second = ExampleService(), ExampleService()
            serving = asyncio.create_task(reactor.serve(first))
            await eventually(lambda: "*" not in first.endpoint, "the first run")
            on_their_way: list[tuple] = []
            with monkeypatch.context() as slow:
                slow.setattr(loop, "call_soon_threadsafe", lambda *call: on_their_way.append(call))
                reactor.stop()
            serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving
            serving = asyncio.create_task(reactor.serve(second))
            await eventually(lambda: "*" not in second.endpoint, "the second run")
            for callback, *arguments in on_their_way:
                callback(*arguments)
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(on_their_way) == 1
            assert "drain" not in second.core.trace
            reactor.stop()
            await serving
            assert "drain" in second.core.trace

        run(main())

    def test_from_a_signal_handler_at_any_moment(self):
        """It runs in the midst of whatever its thread does, so nothing that it needs may be held there."""
        reactor = Reactor()
        with reactor._lock:
            reactor.stop()
        reactor.run()

    def test_twice_is_at_once(self):
        service = ExampleService()
        service.core.busy = True
        reactor = Reactor()
        thread = threading.Thread(target=reactor.run, args=(service,), kwargs={"drain": 3600})
        thread.start()
        until(lambda: "*" not in service.endpoint, "the start")
        reactor.stop()
        until(lambda: "drain" in service.core.trace, "the drain")
        assert "shut_down" not in service.core.trace
        reactor.stop()
        thread.join(DEADLINE)
        assert not thread.is_alive()
        assert "shut_down" in service.core.trace

    def test_draining_is_bounded_for_all_together(self):
        services = [ExampleService() for _ in range(3)]
        for service in services:
            service.core.busy = True
        reactor = Reactor()
        reactor.stop()
        began = time.monotonic()
        reactor.run(*services, drain=0.3)
        assert time.monotonic() - began >= 0.3
        # The last started had it all; for the others nothing was left.
        assert ["drain" in service.core.trace for service in services] == [False, False, True]
        assert all("shut_down" in service.core.trace for service in services)

    def test_the_handlers_of_signals_are_put_back(self):
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, lambda *_: None) for number in numbers]
        try:
            own = [signal.getsignal(number) for number in numbers]
            reactor = Reactor()
            reactor.stop()
            reactor.run()
            assert [signal.getsignal(number) for number in numbers] == own
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12: it has threads, and forks
    def test_a_signal_for_a_forked_child_ends_the_child_and_not_its_parents_run(self):
        """A handler that used a multiprocessing.Pool, which is ended by SIGTERM, stopped the worker that it ran in."""

        async def main():
            reactor = Reactor()
            serving = asyncio.create_task(reactor.serve())
            await asyncio.sleep(0)
            child = os.fork()
            if not child:
                os.kill(os.getpid(), signal.SIGTERM)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
            for _ in range(10):
                await asyncio.sleep(0)
            assert not serving.done()
            os.kill(os.getpid(), signal.SIGTERM)
            await serving

        run(main())


def test_the_driver_in_a_thread_ends_with_its_loop():
    driven = OnReactor(EchoCore())
    driven.bind()
    context = driven.context
    driven.close()
    assert context.closed
