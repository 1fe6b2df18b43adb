"""The life of a service: it starts once, drains, says goodbye, and always comes to its end."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest
import zmq

from tests.example import LARGE, NARROW, EchoCore, ExampleService
from tests.waiting import DEADLINE, eventually
from zpatterns.errors import ClosedError, EndpointError
from zpatterns.reactor import Reactor
from zpatterns.sockets import endpoint_list


def run(main):
    """Run a coroutine, within the deadline."""

    async def bounded():
        async with asyncio.timeout(DEADLINE):
            return await main

    return asyncio.run(bounded())


def test_it_serves_from_start_to_stop(peer):
    async def main():
        service = ExampleService()
        assert service.endpoint.endswith("*")
        assert await service.start() is service
        socket = peer(zmq.DEALER, connect=service.endpoint)
        socket.send(b"ball")
        await eventually(lambda: socket.poll(0), "the answer")
        assert socket.recv() == b"ball"
        assert service.statistics() == 1
        await service.stop()
        assert service.driver.closed
        assert service.core.trace.index("drain") < service.core.trace.index("shut_down")

    run(main())


def test_it_says_when_it_is_ready(caplog):
    caplog.set_level(logging.INFO, logger="zpatterns")

    async def main():
        async with ExampleService() as service:
            return service.endpoint

    endpoint = run(main())
    assert f"ready source=example.service endpoint={endpoint}" in caplog.messages


def test_it_runs_once():
    async def main():
        service = ExampleService()
        async with service:
            with pytest.raises(ClosedError, match="was started before"):
                await service.start()
        with pytest.raises(ClosedError, match="was started before"):
            await service.start()

    run(main())


def test_to_stop_what_never_started_does_nothing():
    run(ExampleService().stop())


def test_one_that_cannot_start_leaves_nothing_open():
    async def main():
        async with ExampleService() as first:
            second = ExampleService(endpoint=first.endpoint)
            with pytest.raises(EndpointError, match="cannot bind"):
                await second.start()
            assert second.driver.closed
            await second.stop()
            with pytest.raises(ClosedError):
                await second.start()

    run(main())


def test_draining_waits_for_what_was_begun():
    async def main():
        core = EchoCore()
        service = await ExampleService(core).start()
        core.busy = True
        stopping = asyncio.create_task(service.stop(drain=60))
        await eventually(lambda: "drain" in core.trace, "the drain")
        assert "shut_down" not in core.trace
        service.driver.call(core.end_work)
        await stopping
        assert "shut_down" in core.trace

    run(main())


def test_draining_has_an_end(caplog):
    caplog.set_level(logging.INFO, logger="zpatterns")

    async def main():
        core = EchoCore()
        service = await ExampleService(core).start()
        core.busy = True
        await service.stop(drain=0.05)
        assert "shut_down" in core.trace
        assert service.driver.closed

    run(main())
    assert "drain_incomplete source=example.service seconds=0.05" in caplog.messages


def test_without_patience_it_does_not_drain():
    async def main():
        core = EchoCore()
        service = await ExampleService(core).start()
        core.busy = True
        await service.stop(drain=0)
        assert "drain" not in core.trace
        assert "shut_down" in core.trace

    run(main())


def test_a_block_that_fails_is_left_without_draining():
    async def main():
        core = EchoCore()

        async def serve_and_fail():
            async with ExampleService(core):
                core.busy = True
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await serve_and_fail()
        assert "drain" not in core.trace
        assert "shut_down" in core.trace

    run(main())


def test_to_stop_twice_is_once():
    async def main():
        core = EchoCore()
        service = await ExampleService(core).start()
        core.busy = True
        both = [asyncio.create_task(service.stop(drain=60)) for _ in range(2)]
        await eventually(lambda: "drain" in core.trace, "the drain")
        assert not any(task.done() for task in both)
        service.driver.call(core.end_work)
        await asyncio.gather(*both)
        await service.stop()
        assert core.trace.count("drain") == core.trace.count("shut_down") == 1

    run(main())


def test_who_loses_patience_while_it_drains_may_stop_it_at_once():
    async def main():
        core = EchoCore()
        service = await ExampleService(core).start()
        core.busy = True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await service.stop(drain=60)
        assert not service.driver.closed
        await service.stop(drain=0)
        assert service.driver.closed

    run(main())


def test_one_who_waits_for_the_end_goes_on_with_it_when_the_other_gives_up():
    """The second caller returned as if the service had stopped."""

    async def main():
        core = EchoCore()
        service = await ExampleService(core).start()
        core.busy = True
        first = asyncio.create_task(service.stop(drain=60))
        await eventually(lambda: "drain" in core.trace, "the drain")
        second = asyncio.create_task(service.stop(drain=0))
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert service.driver.closed
        with suppress(asyncio.CancelledError):
            await first

    run(main())


async def linger(peer) -> ExampleService:
    """A service that has said much to somebody who does not listen, so that its goodbyes linger."""
    core = EchoCore(echo=False)
    service = await ExampleService(core, settings=NARROW).start()
    full = peer(zmq.DEALER, connect=service.endpoint, RCVHWM=1, RCVBUF=4096, ROUTING_ID=b"full")
    full.send(b"here I am")
    await eventually(lambda: core.received, "the peer")
    outboxes = service.driver.links["front"]._boxes

    def is_full() -> bool:
        """Whether it took nothing for so long that it is tried at the longest interval."""
        service.driver.call(core.send, "front", [b"full", LARGE])
        return b"full" in outboxes and outboxes[b"full"].delay >= 0.1

    await eventually(is_full, "a peer that takes nothing")
    return service


def test_goodbyes_linger_but_not_for_ever(peer, monkeypatch):
    monkeypatch.setattr("zpatterns.service.GOODBYE_LINGER", 0.5)

    async def main():
        service = await linger(peer)
        loop = asyncio.get_running_loop()
        began = loop.time()
        context = service.driver._context
        await service.stop()
        took = loop.time() - began
        assert context.closed
        assert took >= 0.5, "the goodbyes had no time"

    run(main())


def test_who_loses_patience_while_goodbyes_linger_does_not_wait_for_ever(peer, monkeypatch):
    """A second stop waited for the first, which had been cancelled and never told."""
    monkeypatch.setattr("zpatterns.service.GOODBYE_LINGER", 0.5)

    async def main():
        service = await linger(peer)
        close = service._close

        def close_and_give_up() -> None:
            close()
            first.cancel()  # in the same step: on a slow machine the goodbyes are over soon afterwards

        monkeypatch.setattr(service, "_close", close_and_give_up)
        first = asyncio.create_task(service.stop())
        with pytest.raises(asyncio.CancelledError):
            await first
        await service.stop(drain=0)
        await Reactor.current().settled()

    run(main())


def test_what_was_said_last_can_still_be_read(peer, monkeypatch):
    """A peer with ZMQ_IMMEDIATE loses what it has not read yet when its connection ends."""
    monkeypatch.setattr("zpatterns.service.PEERS_READ", 3600.0)  # a slow machine reads for longer than a tenth

    async def main():
        core = EchoCore(echo=False)
        service = await ExampleService(core).start()
        socket = peer(zmq.DEALER, connect=service.endpoint, IMMEDIATE=1)
        await eventually(lambda: socket.poll(0, zmq.POLLOUT), "the connection")
        socket.send(b"here I am")
        await eventually(lambda: core.received, "the peer")
        goodbyes = [[core.received[0][0], b"%d" % number] for number in range(100)]
        core.on_shut_down = lambda: core.send("front", *goodbyes)
        stopping = asyncio.create_task(service.stop())
        got: list[bytes] = []
        while len(got) < 100:
            await eventually(lambda: socket.poll(0), "a goodbye")
            got.append(socket.recv())
        assert got == [b"%d" % number for number in range(100)]
        assert not service.driver.closed
        stopping.cancel()
        with suppress(asyncio.CancelledError):
            await stopping
        await service.stop(drain=0)

    run(main())


def test_who_loses_patience_after_the_goodbyes_may_still_stop_it(monkeypatch):
    monkeypatch.setattr("zpatterns.service.PEERS_READ", 3600.0)

    async def main():
        service = await ExampleService().start()
        first = asyncio.create_task(service.stop())
        await eventually(lambda: "shut_down" in service.core.trace, "the goodbyes")
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        assert not service.driver.closed
        await service.stop(drain=0)
        assert service.driver.closed

    run(main())


def test_a_list_of_endpoints_is_checked():
    assert endpoint_list("tcp://127.0.0.1:5555", "It") == ("tcp://127.0.0.1:5555",)
    assert endpoint_list(["tcp://a:1", "ipc://b"], "It") == ("tcp://a:1", "ipc://b")
    with pytest.raises(EndpointError, match="It needs at least one endpoint"):
        endpoint_list([], "It")
    with pytest.raises(EndpointError, match="is not an endpoint"):
        endpoint_list(["tcp://a:1", "b"], "It")
