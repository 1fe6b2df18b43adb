"""A server with a file behind it, on real sockets: what it answered is there when it starts again, in a pair too."""

from __future__ import annotations

import sqlite3
import threading

import pytest
import zmq

from tests.bstar.live import FREE, PATIENT
from tests.clone.server_harness import seq, uuid, zpack, zpset
from tests.waiting import until
from zpatterns.bstar import BinaryStar
from zpatterns.bstar import wire as bstar_wire
from zpatterns.clone import CloneServer
from zpatterns.clone.persistence import StoreFile
from zpatterns.clone.server_state import SaveFailed
from zpatterns.core import Event
from zpatterns.errors import EndpointError, StoreError
from zpatterns.testing import BackgroundReactor

NOBODY = "tcp://127.0.0.1:1"
TTL = 3600


@pytest.fixture
def background():
    with BackgroundReactor("clone-server") as reactor:
        yield reactor


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "map.db")


@pytest.fixture
def asker(peer):
    """Asks a server, as a client does on the snapshot port, and reads so many messages."""

    def ask(server, message, count=1):
        socket = peer(zmq.DEALER, connect=server.endpoint)
        socket.send_multipart(message)
        return [socket.recv_multipart() for _ in range(count)]

    return ask


def filled(background, asker, path):
    """What three sets were answered by a server that is stopped then: of ``a``, with a time to live, and ``b`` twice,
    the second time to delete it."""
    server = background.start(CloneServer(FREE, store=path))
    sets = [zpset(b"a", b"1", 1, b"ttl=%d\n" % TTL), zpset(b"b", b"2", 2), zpset(b"b", b"", 3)]
    answers = [asker(server, message[1:])[0] for message in sets]
    background.stop(server)
    first = int.from_bytes(answers[0][-1], "big")
    assert answers == [zpack(number, b"200", first + number - 1)[1:] for number in (1, 2, 3)]
    return first


def test_a_restart_has_the_map_and_the_answers_and_goes_on_from_there(background, asker, path):
    first = filled(background, asker, path)
    server = background.start(CloneServer(FREE, store=path))
    (key, sequence, number, properties, body), goodbye = asker(server, [b"ICANHAZ?", b""], 2)
    assert (key, sequence, number, body) == (b"a", seq(first), uuid(1), b"1")
    assert TTL - 600 < int(properties.removeprefix(b"ttl=").removesuffix(b"\n")) <= TTL
    assert goodbye[:2] == [b"KTHXBAI", seq(first + 2)], "what was deleted is not there"
    assert asker(server, zpset(b"b", b"2", 2)[1:]) == [zpack(2, b"200", first + 1)[1:]], "it is not made again"
    assert asker(server, zpset(b"c", b"4", 4)[1:]) == [zpack(4, b"200", first + 3)[1:]]
    statistics = background.call(server.statistics)
    assert (statistics.keys, statistics.repeated, statistics.updates) == (2, 1, 1)


def test_nothing_is_answered_that_is_not_on_disk(background, peer, path, monkeypatch):
    events: list[Event] = []
    is_full, write = threading.Event(), StoreFile.write

    def write_if_there_is_room(file, changes):
        if is_full.is_set():
            raise sqlite3.OperationalError("database or disk is full")
        write(file, changes)

    monkeypatch.setattr(StoreFile, "write", write_if_there_is_room)
    is_full.set()
    server = background.start(CloneServer(FREE, store=path, on_event=events.append))
    client = peer(zmq.DEALER, connect=server.endpoint)
    client.send_multipart(zpset(b"a")[1:])
    until(lambda: [event for event in events if isinstance(event, SaveFailed)], "the server says that it cannot write")
    assert "database or disk is full" in str(events)
    assert (client.poll(0), background.call(server.statistics).updates) == (0, 0)
    is_full.clear()
    assert client.recv_multipart()[:3] == zpack(1, b"200", 0)[1:4]
    background.stop(server)
    kept = StoreFile(path, sequence=0)
    kept.close()
    assert [row.key for row in kept.kept.rows] == [b"a"]


def test_a_server_that_cannot_be_bound_leaves_its_file_to_another(background, path):
    taken = background.start(CloneServer(FREE))
    with pytest.raises(EndpointError):
        background.start(CloneServer(taken.endpoint, store=path))
    background.start(CloneServer(FREE, store=path))


def test_a_file_in_use_is_refused(background, path):
    background.start(CloneServer(FREE, store=path))
    with pytest.raises(StoreError, match="in use by another server") as caught:
        background.start(CloneServer(FREE, store=path))
    assert caught.value.path == path


def test_a_map_that_was_kept_alone_is_newer_for_a_pair_than_none(background, asker, peer, path):
    first = filled(background, asker, path)
    service = CloneServer(FREE, store=path)
    half = background.start(BinaryStar(service, primary=True, local=FREE, remote=NOBODY, **PATIENT))
    told = bstar_wire.parse(peer(zmq.SUB, connect=half.local, SUBSCRIBE=b"").recv_multipart())
    assert told is not None
    assert told.told.copy == (1, first + 2)


def test_a_pair_goes_on_under_the_epoch_that_is_kept(background, asker, path):
    epochs: list[int] = []
    for _ in range(3):
        service = CloneServer(FREE, store=path)
        half = background.start(BinaryStar(service, primary=True, local=FREE, remote=NOBODY, **PATIENT))
        background.call(half.promote)
        assert asker(half, zpset(b"a", number=len(epochs) + 1)[1:])[0][2] == b"200"
        epochs.append(background.call(half.statistics).epoch)
        background.stop(half)
    assert epochs == [1, 2, 3]
