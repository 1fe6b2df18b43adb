"""Both Clone clients' front ends over real sockets, against our server; and alone where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.clone.holders import Async, Blocking, Holder
from tests.waiting import DEADLINE, until
from zpatterns.clone import AsyncClone, Clone, CloneState
from zpatterns.clone.events import SnapshotTaken, WatchOverflowed
from zpatterns.clone.server import CloneServer
from zpatterns.clone.shared_map import server_endpoints
from zpatterns.errors import ClosedError, CompareFailed, EndpointError, ForkedError, RequestTimeout, WatchOverflow
from zpatterns.testing import BackgroundReactor, Guard, ReservedPort

NOBODY = "tcp://127.0.0.1:1"
HEARTBEAT = 0.1
"""Of the servers here; the clients' patience is that of a loaded machine all the same."""


@pytest.fixture(scope="module")
def background() -> Iterator[BackgroundReactor]:
    with BackgroundReactor("clone-servers") as background:
        yield background


@pytest.fixture
def server(background: BackgroundReactor) -> Iterator[CloneServer]:
    server = background.start(CloneServer("tcp://127.0.0.1:*", heartbeat_interval=HEARTBEAT))
    yield server
    background.stop(server, drain=0.0)


@pytest.fixture(params=[Blocking, Async], ids=["Clone", "AsyncClone"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., Holder]]:
    """Makes clients that are open: ``make(endpoint, subtree="/a/")``; not open with ``wait=False``."""
    with ExitStack() as stack:

        def holder(endpoints: Any, wait: bool = True, **options: Any) -> Holder:
            made: Holder = request.param(endpoints, **({"timeout": DEADLINE} | options))
            stack.callback(made.close)
            if wait:
                made.wait()
            return made

        yield holder


# Setting and reading.


def test_what_one_has_set_one_reads(make, server):
    holder = make(server.endpoint)
    first = holder.do("set", "/a", b"1")
    second = holder.do("set", "/a", b"2")
    assert 0 < first < second
    assert holder.reader["/a"] == b"2"
    assert holder.reader.sequence("/a") == second
    assert holder.do("delete", "/a") > second
    assert "/a" not in holder.reader
    assert holder.reader.sequence("/a") == 0


def test_the_map_reads_as_a_mapping_does(make, server):
    holder = make(server.endpoint)
    for key in ("/a", "/b", "größe"):
        holder.do("set", key, key.encode())
    reader = holder.reader
    assert len(reader) == 3
    assert set(reader) == set(reader.keys()) == {"/a", "/b", "größe"}
    assert dict(reader.items()) == {"/a": b"/a", "/b": b"/b", "größe": "größe".encode()}
    assert sorted(reader.values()) == sorted([b"/a", b"/b", "größe".encode()])
    assert reader.get("/a") == b"/a"
    assert reader.get("/none") is None
    assert reader.get("/none", b"else") == b"else"
    assert "/none" not in reader
    with pytest.raises(KeyError):
        reader["/none"]


def test_one_with_no_key_is_true_all_the_same(make, server):
    assert make(server.endpoint).reader


def test_others_see_what_one_has_set(make, server):
    one, other = make(server.endpoint), make(server.endpoint)
    one.do("set", "/a", b"1")
    until(lambda: other.reader.get("/a") == b"1", "the other has it")


def test_a_late_comer_gets_it_all(make, server):
    one = make(server.endpoint)
    for number in range(50):
        one.do("set", f"/{number}", b"%d" % number)
    other = make(server.endpoint)
    assert dict(other.reader.items()) == dict(one.reader.items())


def test_a_subtree_is_all_that_one_has(make, server):
    whole, part = make(server.endpoint), make(server.endpoint, subtree="/a/")
    whole.do("set", "/b/x", b"no")
    whole.do("set", "/a/x", b"yes")
    until(lambda: "/a/x" in part.reader, "it has come")
    assert dict(part.reader.items()) == {"/a/x": b"yes"}
    assert part.reader.subtree == "/a/"
    with pytest.raises(ValueError, match="outside the subtree"):
        part.do("set", "/b/x", b"no")


def test_a_key_with_a_time_to_live_goes(make, server):
    holder = make(server.endpoint)
    watch = holder.now("watch", "/a")
    holder.do("set", "/a", b"1", 0.5)
    holder.do("set", "/b", b"1")
    assert [holder.next(watch)[1:3] for _ in range(2)] == [(None, b"1"), (b"1", None)]
    assert "/a" not in holder.reader
    assert "/b" in holder.reader


def test_compare_and_set(make, server):
    holder = make(server.endpoint)
    first = holder.do("compare_and_set", "/a", b"1", 0)
    with pytest.raises(CompareFailed) as caught:
        holder.do("compare_and_set", "/a", b"2", 0)
    assert caught.value.sequence == first
    assert holder.reader["/a"] == b"1"
    holder.do("compare_and_set", "/a", b"3", caught.value.sequence)
    assert holder.reader["/a"] == b"3"


def test_what_is_only_posted_comes_too(make, server):
    holder = make(server.endpoint)
    # A publisher's first message is lost where nobody has subscribed to it yet.
    until(lambda: holder.now("post", "/a", b"1") or "/a" in holder.reader, "it was published")
    until(lambda: holder.now("post", "/a", None) or "/a" not in holder.reader, "it was deleted")


def test_many_sets_at_once_are_all_acknowledged(make, server):
    holder = make(server.endpoint)
    calls = [holder.start("set", f"/{number % 10}", b"%d" % number) for number in range(200)]
    assert len({call.result(DEADLINE) for call in calls}) == 200
    assert len(holder.reader) == 10
    statistics = holder.reader.statistics()
    assert statistics.sets == statistics.acknowledged == 200
    assert statistics.sets_open == 0


UNFIT = [
    ("set", ("/a", b""), ValueError),
    ("set", ("/a", "text"), TypeError),
    ("set", (b"/a", b"x"), TypeError),
    ("set", ("", b"x"), ValueError),
    ("set", ("HUGZ", b"x"), ValueError),
    ("set", ("KTHXBAI", b"x"), ValueError),
    ("set", ("a\0b", b"x"), ValueError),
    ("set", ("a" * 256, b"x"), ValueError),
    ("set", ("/a", b"x", 0), ValueError),
    ("set", ("/a", b"x", float("nan")), ValueError),
    ("compare_and_set", ("/a", b"x", -1), ValueError),
    ("delete", ("",), ValueError),
]


def test_what_cannot_be_set_is_refused_before_anything_is_sent(make, server):
    holder = make(server.endpoint)
    for method, arguments, error in UNFIT:
        with pytest.raises(error):
            holder.do(method, *arguments)
    assert holder.reader.statistics().sent == 0


# Servers that are not there.


def test_waiting_for_nobody_ends_at_its_deadline(make):
    holder = make(NOBODY, wait=False)
    with pytest.raises(RequestTimeout, match=r"no Clone server at tcp://127\.0\.0\.1:1"):
        holder.wait(0.2)
    assert holder.reader.state is CloneState.LOST


def test_a_set_with_no_server_ends_at_its_deadline(make):
    holder = make(NOBODY, wait=False)
    with pytest.raises(RequestTimeout, match="no server to send it to"):
        holder.do("set", "/a", b"1", timeout=0.2)


def test_the_next_server_of_the_list_is_followed_when_one_is_gone(make, background, server):
    other = background.start(CloneServer("tcp://127.0.0.1:*", heartbeat_interval=HEARTBEAT))
    states: list[CloneState] = []
    holder = make([server.endpoint, other.endpoint], heartbeat_interval=HEARTBEAT, liveness=10, on_state=states.append)
    holder.do("set", "/a", b"1")
    background.stop(server, drain=0.0)
    until(lambda: CloneState.SUSPENDED in states, "it noticed")
    assert holder.do("set", "/b", b"2")
    assert holder.reader.state is CloneState.CONNECTED
    assert dict(holder.reader.items()) == {"/b": b"2"}, "the other is no half of a pair: it has a map of its own"
    background.stop(other, drain=0.0)


def test_a_server_that_comes_back_empty_is_believed(make, background):
    with ReservedPort(3) as ports:
        first = background.start(CloneServer(ports.endpoint, heartbeat_interval=HEARTBEAT))
        holder = make(ports.endpoint, heartbeat_interval=HEARTBEAT, liveness=20)
        holder.do("set", "/a", b"1")
        watch = holder.now("watch")
        background.stop(first, drain=0.0)
        second = background.start(CloneServer(ports.endpoint, heartbeat_interval=HEARTBEAT))
        change = holder.next(watch)
        assert change is not None
        assert (change.key, change.old, change.new) == ("/a", b"1", None)
        assert holder.do("set", "/b", b"2") > 0
        background.stop(second, drain=0.0)


# Watching.


def test_a_watch_tells_what_changes_under_its_prefix_in_order(make, server):
    holder = make(server.endpoint)
    watch = holder.now("watch", "/a/")
    numbers = [
        holder.do("set", "/a/x", b"1"),
        holder.do("set", "/b/x", b"no"),
        holder.do("set", "/a/x", b"2"),
        holder.do("delete", "/a/x"),
    ]
    assert [holder.next(watch) for _ in range(3)] == [
        ("/a/x", None, b"1", numbers[0]),
        ("/a/x", b"1", b"2", numbers[2]),
        ("/a/x", b"2", None, numbers[3]),
    ]


def test_a_callback_gets_the_same_and_what_it_raises_harms_nobody(make, server):
    holder = make(server.endpoint)
    got: list[tuple[Any, ...]] = []

    def callback(key: str, old: bytes | None, new: bytes | None, sequence: int) -> None:
        got.append((key, old, new, sequence))
        if new == b"1":
            raise LookupError("a bug of the user's")

    watch = holder.now("watch", "/a/", callback)
    first = holder.do("set", "/a/x", b"1")
    second = holder.do("set", "/a/x", b"2")
    until(lambda: len(got) == 2, "both were told")
    assert got == [("/a/x", None, b"1", first), ("/a/x", b"1", b"2", second)]
    holder.now("watch")  # somebody watches on
    watch.close()
    holder.do("set", "/a/x", b"3")
    assert len(got) == 2


def test_a_watch_that_is_not_read_ends_with_an_error_and_disturbs_nobody(make, server):
    events: list[Any] = []
    holder = make(server.endpoint, watch_max=3, on_event=events.append)
    slow, quick = holder.now("watch", "/a/"), holder.now("watch", "/b/")
    for number in range(4):
        holder.do("set", f"/a/{number}", b"x")
    holder.do("set", "/b/x", b"x")
    assert holder.next(quick) == ("/b/x", None, b"x", holder.reader.sequence("/b/x"))
    with pytest.raises(WatchOverflow, match="4 changes waited, and it holds 3"):
        holder.next(slow)
    assert holder.reader.watch_overflows == 1
    assert [event for event in events if isinstance(event, WatchOverflowed)] == [WatchOverflowed("/a/", 4)]
    assert len(holder.reader) == 5


def test_closing_a_watch_or_its_client_ends_it(make, server):
    holder = make(server.endpoint)
    one, other = holder.now("watch"), holder.now("watch")
    holder.do("set", "/a", b"1")
    one.close()
    assert holder.next(one) is None
    assert holder.next(other) == ("/a", None, b"1", holder.reader.sequence("/a"))
    holder.do("set", "/a", b"2")
    if isinstance(holder, Blocking):
        holder.reader.close()
        last = holder.next(other)
        assert last is not None
        assert last.new == b"2"
        assert holder.next(other) is None
    assert one.closed


def test_a_watch_outside_the_subtree_is_refused(make, server):
    holder = make(server.endpoint, subtree="/a/")
    with pytest.raises(ValueError, match="outside the subtree"):
        holder.now("watch", "/b/")
    assert holder.now("watch").subtree == "/a/"


def test_a_callback_that_is_none_is_refused(make, server):
    holder = make(server.endpoint)

    async def coroutine(*_: object) -> None:
        pass

    for callback in ("text", coroutine):
        with pytest.raises(TypeError):
            holder.now("watch", "", callback)


def test_a_watch_that_nobody_holds_is_forgotten(make, server):
    holder = make(server.endpoint)
    holder.now("watch")
    gc.collect()
    holder.do("set", "/a", b"1")
    holder.do("set", "/a", b"2")
    assert holder.reader._core.replica.watched is False


# Options, opening and closing.


@pytest.mark.parametrize("kind", [Clone, AsyncClone])
@pytest.mark.parametrize(
    "options",
    [
        {"subtree": "a"},
        {"subtree": "/"},
        {"timeout": 0},
        {"heartbeat_interval": 0},
        {"liveness": 0},
        {"watch_max": 0},
        {"sets_max": 0},
        {"in_flight_max": 0},
    ],
)
def test_options_that_are_none_are_refused(kind, options):
    with pytest.raises(ValueError):
        kind(NOBODY, **options)


@pytest.mark.parametrize("kind", [Clone, AsyncClone])
@pytest.mark.parametrize("endpoint", ["ipc:///x", "tcp://host", "tcp://host:65534", "tcp://*:5556", ""])
def test_endpoints_that_are_none_are_refused(kind, endpoint):
    with pytest.raises(EndpointError):
        kind(endpoint)


def test_a_server_has_three_ports_in_a_row():
    assert server_endpoints("tcp://[::1]:5556") == ("tcp://[::1]:5556", "tcp://[::1]:5557", "tcp://[::1]:5558")


def test_reading_what_was_never_opened_is_a_mistake(make, server):
    holder = make(server.endpoint, wait=False)
    with pytest.raises(ClosedError, match="not open"):
        holder.reader.get("/a")


def test_after_its_end_nothing_can_be_asked(make, server):
    holder = make(server.endpoint)
    if isinstance(holder, Blocking):
        holder.reader.close()
        holder.reader.close()
        for call in (lambda: holder.do("set", "/a", b"1"), lambda: holder.reader.get("/a"), holder.wait):
            with pytest.raises(ClosedError):
                call()


def test_closing_ends_open_sets():
    clone = Clone(NOBODY)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            clone.set("/a", b"1")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: clone.statistics().sets_open == 1, "it waits")
    clone.close()
    thread.join(DEADLINE)
    assert [type(error) for error in errors] == [ClosedError]


def test_with_a_block_the_map_is_there_and_nothing_is_left_after_it(server):
    events: list[Any] = []

    async def work() -> dict[str, bytes]:
        async with AsyncClone(server.endpoint, timeout=DEADLINE) as clone:
            clone.watch("", lambda *_: None)
            clone.post("/b", b"2")
            return dict(clone.items())

    with Guard():
        with Clone(server.endpoint, timeout=DEADLINE, on_event=events.append) as clone:
            assert clone.state is CloneState.CONNECTED
            clone.watch("", lambda *_: None)
            clone.set("/a", b"1")
        assert any(isinstance(event, SnapshotTaken) for event in events)
        assert asyncio.run(work()) == {"/a": b"1"}


def test_a_block_that_finds_no_server_is_left_at_its_deadline_with_nothing_behind():
    async def work() -> None:
        async with AsyncClone(NOBODY, timeout=0.1):
            pass

    with Guard():
        with pytest.raises(RequestTimeout), Clone(NOBODY, timeout=0.1):
            pass
        with pytest.raises(RequestTimeout):
            asyncio.run(work())


def test_an_async_client_belongs_to_one_loop(server):
    clone = AsyncClone(server.endpoint, timeout=DEADLINE)

    async def opened_elsewhere() -> None:
        with BackgroundReactor() as elsewhere:
            elsewhere.run(clone.wait())
            with pytest.raises(RuntimeError, match="another event loop"):
                await clone.set("/a", b"1")
            elsewhere.run(clone.close())

    asyncio.run(opened_elsewhere())


def test_a_child_after_fork_can_use_nothing_of_it(server):
    with Clone(server.endpoint, timeout=DEADLINE) as clone, clone.watch() as watch:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover
            try:
                for use in (lambda: clone.get("/a"), lambda: watch.get(timeout=0.1)):
                    with contextlib.suppress(ForkedError):
                        use()
                        os.write(writing, b"n")
                os.write(writing, b"y")
            finally:
                os._exit(0)
        os.close(writing)
        assert os.read(reading, 3) == b"y"
        os.close(reading)
        os.waitpid(child, 0)
        clone.set("/a", b"1")


def test_threads_may_share_one(server):
    with Clone(server.endpoint, timeout=DEADLINE) as clone:
        wrong: list[object] = []

        def work(name: int) -> None:
            for number in range(20):
                key = f"/{name}/{number}"
                clone.set(key, b"%d" % number)
                if clone.get(key) != b"%d" % number or key not in dict(clone.items()):
                    wrong.append(key)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert not wrong
        assert len(clone) == 160


def test_a_callback_of_a_blocking_client_may_use_the_client(server):
    with Clone(server.endpoint, timeout=DEADLINE) as clone:
        done = threading.Event()

        def callback(key: str, old: bytes | None, new: bytes | None, sequence: int) -> None:
            if key == "/question":
                clone.set("/answer", b"42")
                done.set()

        clone.watch("", callback)
        clone.set("/question", b"?")
        assert done.wait(DEADLINE)
        assert clone["/answer"] == b"42"


def test_get_of_a_watch_has_a_deadline(server):
    with Clone(server.endpoint, timeout=DEADLINE) as clone:
        watch = clone.watch()
        with pytest.raises(RequestTimeout):
            watch.get(0.05)
        clone.set("/a", b"1")
        change = watch.get(DEADLINE)
        assert change is not None
        assert change.key == "/a"
