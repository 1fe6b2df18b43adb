"""The file behind a server: what is written comes back, what is damaged is refused and left as it is; and the core
publishes and answers nothing that is not on disk."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import IO

import pytest

from tests.clone.server_harness import NO_TTL, ServerHarness, kvset, seq, uuid, zpack, zpset
from zpatterns.clone import persistence
from zpatterns.clone.persistence import StoreFile
from zpatterns.clone.server_state import Change, Era, SaveFailed
from zpatterns.clone.store import Store
from zpatterns.errors import StoreError


def change(key: bytes, sequence: int, body: bytes = b"v", ttl: int = 0, client: bytes | None = None) -> Change:
    return Change(key, sequence, uuid(sequence), b"a=b\n", body, ttl, 0.0, client)


def filled(path: Path) -> None:
    file = StoreFile(str(path), sequence=100)
    file.write([change(b"/k/%d" % number, 101 + number, b"x" * 50, client=b"C") for number in range(500)])
    file.close()


def test_what_was_written_comes_back(tmp_path):
    path = str(tmp_path / "map")
    file = StoreFile(path, sequence=100)
    assert file.kept == (100, [], [], 0)
    file.write([change(b"a", 101, b"1"), change(b"b", 102, b"2", ttl=9), change(b"a", 103, b"3", client=b"C")])
    file.write([change(b"c", 104, b"4"), change(b"c", 105, b"")])
    file.close()
    file = StoreFile(path, sequence=999)
    file.close()
    assert file.kept.sequence == 105
    assert file.kept.rows == [
        (b"b", 102, uuid(102), b"a=b\n", b"2", 9, file.kept.rows[0].expires),
        (b"a", 103, uuid(103), b"a=b\n", b"3", 0, 0.0),
    ]
    assert file.kept.answers == [(uuid(103), 103)]


def kept_with_ttl(path: Path, seconds: int) -> None:
    """One key that expires in so many seconds; the wall clock says 1,000 s."""
    file = StoreFile(str(path), sequence=100, wall=1000.0)
    file.write([Change(b"k", 101, uuid(1), b"", b"v", seconds, time.monotonic() + seconds, None)])
    file.close()


def left(path: Path, wall: float) -> float:
    """Seconds that the key has in a process whose wall clock says so much at its start."""
    file = StoreFile(str(path), sequence=0, wall=wall)
    file.close()
    now = time.monotonic()
    return file.deadline(file.kept.rows[0], now) - now


def test_the_rest_of_a_ttl_survives_a_restart(tmp_path):
    kept_with_ttl(tmp_path / "map", 60)
    assert left(tmp_path / "map", 1020.0) == pytest.approx(40.0, abs=10.0)
    assert left(tmp_path / "map", 1100.0) < 0, "it expired while nobody was there to say so"


def test_a_wall_clock_that_was_set_back_gives_no_key_more_than_its_ttl(tmp_path):
    kept_with_ttl(tmp_path / "map", 60)
    assert left(tmp_path / "map", 5.0) == pytest.approx(60.0, abs=1e-6)


def test_a_step_of_the_wall_clock_while_a_process_runs_changes_nothing(tmp_path):
    """It looks at that clock once; what it writes later counts from there by the monotonic one."""
    file = StoreFile(str(tmp_path / "map"), sequence=100, wall=1000.0)
    deadline = time.monotonic() + 50
    for number in (1, 2):
        file.write([Change(b"%d" % number, 100 + number, uuid(number), b"", b"v", 60, deadline, None)])
    file.close()
    file = StoreFile(str(tmp_path / "map"), sequence=0, wall=1000.0)
    file.close()
    assert file.kept.rows[0].expires == file.kept.rows[1].expires == pytest.approx(1050.0, abs=10.0)


def test_a_whole_copy_replaces_what_was_there_and_says_under_which_epoch(tmp_path):
    path = str(tmp_path / "map")
    file = StoreFile(path, sequence=100)
    file.write([change(b"old", 101, client=b"C")])
    copy = Store(200)
    deadline = time.monotonic() + 50
    copy.put((b"a", seq(150), uuid(1), b"ttl=0\nx=y\n", b"1"), 200)
    copy.put((b"b", seq(160), uuid(2), b"x=y\n", b"2", deadline), 200)
    file.write([Era(7, b"life", 200, copy)])
    file.write([change(b"c", 201)])
    file.write([Era(8, b"life", 300)])
    file.close()
    file = StoreFile(path, sequence=0)
    file.close()
    assert (file.kept.sequence, file.kept.epoch, file.kept.answers) == (300, 8, [])
    assert [row[:5] for row in file.kept.rows] == [
        (b"a", 150, uuid(1), b"x=y\n", b"1"),
        (b"b", 160, uuid(2), b"x=y\n", b"2"),
        (b"c", 201, uuid(201), b"a=b\n", b"v"),
    ]
    assert file.deadline(file.kept.rows[1], 0.0) <= 50
    assert [row.ttl > 0 for row in file.kept.rows] == [False, True, False]


def test_answers_are_kept_up_to_a_bound(tmp_path):
    path = str(tmp_path / "map")
    file = StoreFile(path, sequence=100, answers_max=3)
    file.write([change(b"a", number, client=b"C") for number in range(101, 106)])
    file.write([change(b"a", 106, client=b"C")])
    file.close()
    file = StoreFile(path, sequence=0)
    file.close()
    assert [sequence for _, sequence in file.kept.answers] == [104, 105, 106]


@pytest.mark.parametrize("name", ["", ":memory:"])
def test_a_name_that_sqlite_takes_for_no_file_is_none_to_us(name, tmp_path, monkeypatch):
    """Both would be a database in memory, and what is answered as safe would be gone with the process."""
    monkeypatch.chdir(tmp_path)
    try:
        file = StoreFile(name, sequence=100)
    except StoreError:
        return
    file.write([change(b"a", 101)])
    file.close()
    file = StoreFile(name, sequence=0)
    file.close()
    assert [row.key for row in file.kept.rows] == [b"a"]


def test_a_file_in_use_is_refused(tmp_path):
    path = str(tmp_path / "map")
    file = StoreFile(path, sequence=100)
    file.write([change(b"a", 101)])
    with pytest.raises(StoreError, match="in use"):
        StoreFile(path, sequence=100)
    file.close()


def test_a_file_that_may_not_be_written_is_refused_in_words_and_nothing_is_put_beside_it(tmp_path, monkeypatch):
    """SQLite said 'disk I/O error', and left an empty log and its index behind."""

    def open_as_another_user(path: str, mode: str) -> IO[bytes]:
        if "+" in mode:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return open(path, mode)

    filled(tmp_path / "map")
    monkeypatch.setattr(persistence, "open", open_as_another_user, raising=False)
    with pytest.raises(StoreError, match="Permission denied"):
        StoreFile(str(tmp_path / "map"), sequence=0)
    assert [path.name for path in tmp_path.iterdir()] == ["map"]


@pytest.mark.parametrize("place", [0, 10, 20, 70, 2000, 9000, 20_000, -1000, -10])
def test_a_damaged_file_is_refused_and_left_as_it_is_or_holds_all_that_was_written(place, tmp_path):
    path = tmp_path / "map"
    filled(path)
    sound = StoreFile(str(path), sequence=0)
    sound.close()
    content = bytearray(path.read_bytes())
    content[place] ^= 0x40
    path.write_bytes(content)
    try:
        file = StoreFile(str(path), sequence=0)
    except StoreError:
        file = None
    if file is None:
        assert path.read_bytes() == content
    else:
        file.close()
        assert file.kept == sound.kept, "a damaged pair was taken for a sound one"


def crashed(path: Path) -> Path:
    """The files of a server that was killed: ten commits are in the log only. Returns the log's."""
    file = StoreFile(str(path / "alive"), sequence=100)
    for number in range(10):
        file.write([change(b"/k/%d" % number, 101 + number, b"x" * 50)])
    for name in ("alive", "alive-wal"):
        (path / name.replace("alive", "map")).write_bytes((path / name).read_bytes())
    file.close()
    return path / "map-wal"


@pytest.mark.parametrize("part", [0.0, 0.1, 0.3, 0.5, 0.8])
def test_a_damaged_log_is_refused_and_left_as_it_is(part, tmp_path):
    """SQLite takes it for shorter than it is, and says nothing of what was committed behind the damage."""
    log = crashed(tmp_path)
    content = bytearray(log.read_bytes())
    content[int(part * len(content))] ^= 0x40
    log.write_bytes(content)
    before = (tmp_path / "map").read_bytes()
    with pytest.raises(StoreError, match="damaged"):
        StoreFile(str(tmp_path / "map"), sequence=0)
    assert (log.read_bytes(), (tmp_path / "map").read_bytes()) == (bytes(content), before)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_log_whose_file_was_emptied_or_lost_is_refused_and_left_as_it_is(is_there, tmp_path):
    """SQLite takes it for what is left of another database, and deletes it."""
    log = crashed(tmp_path)
    content = log.read_bytes()
    (tmp_path / "map").unlink()
    if is_there:
        (tmp_path / "map").touch()
    with pytest.raises(StoreError, match="damaged"):
        StoreFile(str(tmp_path / "map"), sequence=0)
    assert log.read_bytes() == content
    assert (tmp_path / "map").exists() == is_there


@pytest.mark.parametrize("lost", [0, 1, 5000, 10**9])
def test_a_log_that_was_cut_short_in_its_last_commit_is_none_the_worse(lost, tmp_path):
    """As a loss of power leaves it: that commit had not returned."""
    log = crashed(tmp_path)
    content = log.read_bytes()
    log.write_bytes(content[: max(0, len(content) - lost)])
    file = StoreFile(str(tmp_path / "map"), sequence=0)
    file.close()
    assert len(file.kept.rows) == {0: 10, 1: 9, 5000: 9, 10**9: 0}[lost]


@pytest.mark.parametrize("content", [b"x", b"no database at all\n" * 100, b"SQLite format 3\0" + bytes(84)])
def test_what_is_no_store_is_refused_and_left_as_it_is(content, tmp_path):
    path = tmp_path / "map"
    path.write_bytes(content)
    with pytest.raises(StoreError):
        StoreFile(str(path), sequence=0)
    assert path.read_bytes() == content


def test_a_truncated_file_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "map"
    filled(path)
    content = path.read_bytes()[:-8192]
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"):
        StoreFile(str(path), sequence=0)
    assert path.read_bytes() == content


# The core.


def test_nothing_is_published_or_answered_before_it_is_on_disk():
    server = ServerHarness(durable=True)
    assert server.collect(kvset(b"a", b"1", 1)) == []
    assert server.give(zpset(b"b", b"2", 2)) == []
    assert server.map() == {}
    assert [item.key for item in server.saves[0].changes] == [b"a"]
    assert len(server.saved()) == 1
    assert server.sent() == []
    assert server.saved() == [[b"b", seq(5002), uuid(2), NO_TTL + b"prev=5001\n", b"2"]]
    assert server.sent() == [zpack(2, b"200", 5002)]


def test_what_comes_while_the_disk_works_is_written_in_one_group():
    server = ServerHarness(durable=True)
    server.collect(*(kvset(b"%d" % number) for number in range(5)))
    server.collect(*(kvset(b"%d" % number) for number in range(100)))
    assert [len(save.changes) for save in server.saves] == [5]
    server.saved()
    assert [len(save.changes) for save in server.saves] == [100]


def test_a_set_that_comes_again_while_it_is_written_is_made_once():
    server = ServerHarness(durable=True)
    server.give(zpset(b"a", b"1", 1))
    server.give(zpset(b"a", b"1", 1, client=b"D"))
    assert len(server.saved()) == 1
    assert server.sent() == [zpack(1, b"200", 5001, b"D")]
    assert not server.saves


def test_a_comparison_sees_what_is_being_written():
    server = ServerHarness(durable=True)
    server.give(zpset(b"a", b"1", 1))
    assert server.give(zpset(b"a", b"2", 2, b"if-seq=0\n")) == [zpack(2, b"409", 5001)]


def test_what_could_not_be_written_is_tried_again_and_nobody_is_told_otherwise():
    server = ServerHarness(durable=True)
    server.give(zpset(b"a", b"1", 1))
    server.saves.clear()
    server.step(server.core.save_failed, "disk full", server.now)
    assert server.events() == [SaveFailed(1, "disk full")]
    assert server.sent() == []
    server.advance(1)
    server.publications()
    assert [item.sequence for item in server.saves[0].changes] == [5001]
    server.saved()
    assert server.sent() == [zpack(1, b"200", 5001)]


def test_while_the_disk_is_behind_updates_stay_with_their_senders():
    server = ServerHarness(durable=True, pending_max=3)
    server.collect(*(kvset(b"%d" % number) for number in range(3)))
    assert not server.core.wants_to_read("collector")
    assert server.give(zpset(b"x", b"v", 9)) == []
    assert server.statistics.dropped == {"pending-full": 1}
    server.saved()
    assert server.core.wants_to_read("collector")


def test_a_key_that_was_set_anew_while_its_time_came_does_not_expire():
    server = ServerHarness(durable=True)
    server.collect(kvset(b"a", b"1", 1, b"ttl=1\n"))
    server.saved()
    server.collect(kvset(b"a", b"2", 2))
    server.advance(1)
    server.saved()
    server.advance(5)
    assert not server.saves
    assert server.map() == {b"a": b"2"}
