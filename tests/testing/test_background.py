"""Services in threads of their own: started, stopped, looked at and restarted from any other thread or loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.waiting import until
from zpatterns.errors import ClosedError, EndpointError, RequestTimeout
from zpatterns.mdp import AsyncClient, Broker, Client, Worker
from zpatterns.testing import BackgroundBroker, BackgroundReactor, Guard, background


def test_services_share_the_reactor_and_end_with_it():
    with Guard(), BackgroundReactor() as reactor:
        broker = reactor.start(Broker("tcp://127.0.0.1:*"))
        worker = reactor.start(Worker(broker.endpoint, service="echo"))
        with Client(broker.endpoint, timeout=10) as client:
            assert client.request("echo", "x") == [b"x"]
            reactor.stop(worker)
            with pytest.raises(RequestTimeout):
                client.request("echo", "x", timeout=0.1)
            reactor.start(Worker(broker.endpoint, service="echo"))
            assert client.request("echo", "x") == [b"x"]


def test_what_a_service_raises_at_its_start_reaches_the_caller():
    with BackgroundBroker() as broker, BackgroundReactor() as reactor:
        with pytest.raises(EndpointError, match="cannot bind"):
            reactor.start(Broker(broker.endpoint))
        assert reactor.start(Broker("tcp://127.0.0.1:*")).endpoint != broker.endpoint


def test_call_and_run_happen_in_the_reactors_thread():
    async def name(prefix: str) -> str:
        await asyncio.sleep(0)
        return prefix + threading.current_thread().name

    with BackgroundReactor("my reactor") as reactor:
        assert reactor.call(threading.current_thread).name == "my reactor"
        assert reactor.run(name("in ")) == "in my reactor"
        with pytest.raises(ZeroDivisionError):
            reactor.call(lambda: 1 / 0)
        with pytest.raises(TimeoutError, match="the work's own"):
            reactor.call(_times_out)


def _times_out() -> None:
    raise TimeoutError("the work's own")


def test_what_takes_too_long_is_given_up_and_cancelled(monkeypatch):
    cancelled = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with BackgroundReactor() as reactor:
        monkeypatch.setattr(background, "PATIENCE", 0.05)
        with pytest.raises(TimeoutError, match="not done within"):
            reactor.run(forever())
        assert cancelled.wait(20)
        monkeypatch.undo()


def test_it_does_not_wait_for_itself_nor_for_one_that_is_closed():
    reactor = BackgroundReactor()

    async def inside() -> None:
        reactor.call(len, "")

    with pytest.raises(RuntimeError, match="await it instead"):
        reactor.run(inside())
    reactor.close()
    reactor.close()
    with pytest.raises(ClosedError):
        reactor.call(len, "")


def test_a_broker_comes_back_where_it_was():
    with Guard(), BackgroundBroker(heartbeat_interval=0.1) as broker, BackgroundReactor() as reactor:
        endpoint = broker.endpoint
        reactor.start(Worker(endpoint, service="echo", heartbeat_interval=0.1))
        with Client(endpoint, timeout=15, attempt_timeout=0.5, retries=30) as client:
            for number in range(3):
                body = str(number)
                assert client.request("echo", body) == [body.encode()]
                broker.restart()
                assert broker.endpoint == endpoint
            assert client.request("echo", "last") == [b"last"]


def test_a_stopped_broker_answers_nobody_and_keeps_its_last_figures():
    with BackgroundBroker() as broker, Client(broker.endpoint, timeout=10) as client:
        assert client.request("mmi.service", "x") == [b"404"]
        assert broker.running
        before = broker.statistics()
        assert before.requests == 1
        broker.stop()
        broker.stop()
        assert not broker.running
        assert broker.statistics() == before
        with pytest.raises(RequestTimeout):
            client.request("mmi.service", "x", timeout=0.1)
        broker.start()
        broker.start()
        assert client.request("mmi.service", "x") == [b"404"]


def test_one_broker_serves_threads_and_event_loops_at_once():
    async def ask(endpoint: str) -> list[list[bytes]]:
        async with AsyncClient(endpoint, timeout=15) as client:
            return await asyncio.gather(*(client.request("echo", str(number)) for number in range(50)))

    with BackgroundBroker() as broker, BackgroundReactor() as reactor:
        worker = reactor.start(Worker(broker.endpoint, service="echo"))
        asked = threading.Event()

        def block() -> None:
            with Client(broker.endpoint, timeout=15) as client:
                for number in range(50):
                    assert client.request("echo", str(number)) == [str(number).encode()]
            asked.set()

        thread = threading.Thread(target=block)
        thread.start()
        assert asyncio.run(ask(broker.endpoint)) == [[str(number).encode()] for number in range(50)]
        thread.join(20)
        assert asked.is_set()
        assert broker.statistics().requests == 100
        until(lambda: reactor.call(worker.statistics).requests == 100, "the worker has counted")


def test_options_that_make_no_sense_are_told_and_leave_nothing():
    with Guard(), pytest.raises(ValueError, match="queue_max"):
        BackgroundBroker(queue_max=-1)
    with Guard(), pytest.raises(TypeError):
        BackgroundBroker(no_such_option=1)
