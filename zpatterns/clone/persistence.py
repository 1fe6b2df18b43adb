"""The file that keeps a server's map: SQLite with a write-ahead log, one commit for many changes.

A commit that has returned survives the process and, the disk willing, the power. A file that is damaged, or that is
something else, is refused before anything is written to it.
"""

from __future__ import annotations

import math
import os
import queue
import sqlite3
import struct
import threading
import time
import urllib.parse
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import NamedTuple

from zpatterns.clone import wire
from zpatterns.clone.log_check import log_is_damaged
from zpatterns.clone.server_state import Change, Era
from zpatterns.clone.store import Pair
from zpatterns.errors import StoreError

APPLICATION_ID = 0x7A70434C  # "zpCL"
VERSION = 2

_HEADER = b"SQLite format 3\0"
_SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
CREATE TABLE pairs (
    key BLOB PRIMARY KEY NOT NULL, sequence INTEGER NOT NULL, uuid BLOB NOT NULL, properties BLOB NOT NULL,
    body BLOB NOT NULL, ttl INTEGER NOT NULL, expires REAL NOT NULL, checksum INTEGER NOT NULL
);
CREATE TABLE answers (sequence INTEGER PRIMARY KEY, uuid BLOB NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE last (only INTEGER PRIMARY KEY CHECK (only = 1), sequence INTEGER NOT NULL, epoch INTEGER NOT NULL);
"""
_INSERT = "INSERT OR REPLACE INTO pairs VALUES (?,?,?,?,?,?,?,?)"


class Row(NamedTuple):
    """One pair as it is kept. `ttl`: seconds, 0 for ever; `expires`: when they are over (see :class:`StoreFile`)."""

    key: bytes
    sequence: int
    uuid: bytes
    properties: bytes
    body: bytes
    ttl: int
    expires: float


class Kept(NamedTuple):
    """What a file holds: the last sequence used, the pairs, and the answered sets as uuid and sequence. `epoch`: that
    of the pair of servers under which they were made, 0 for none."""

    sequence: int
    rows: list[Row]
    answers: list[tuple[bytes, int]]
    epoch: int = 0


class StoreFile:
    """The file at `path`, made where there is none: then `sequence` is where it begins.

    `kept`: what was in it. At most `answers_max` answers are kept. Errors: StoreError for a file that cannot be
    opened, is damaged or no store of ours, or is in use.

    Deadlines are written as times of the wall clock, since no other goes on from one process to the next. Each process
    looks at that clock once, at `wall` in seconds, and counts on by the monotonic one: a step of it changes only what
    is taken to have passed between two processes, and no pair gets more time than its ttl.
    """

    def __init__(self, path: str, *, sequence: int, answers_max: int = 100_000, wall: float | None = None) -> None:
        self.path = path
        self._wall_ahead = (time.time_ns() / 1e9 if wall is None else wall) - time.monotonic()
        self._answers_max = answers_max
        try:
            is_new = not _size(path)
            if is_new and _size(f"{path}-wal"):
                # SQLite would delete the log, which may hold all that was ever committed.
                raise self._damaged("there is nothing in it, and its log (the file with -wal behind its name) has more")
            self.kept = Kept(sequence, [], []) if is_new else self._read()
            self._db = self._open(is_new)
        except StoreError:
            raise  # an OSError too, and said already
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise self._error("it is in use by another server") from error
            raise self._error(str(error)) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error
        except OSError as error:
            raise self._error(error.strerror or str(error)) from error
        self._answered = deque(sequence for _, sequence in self.kept.answers)

    def _read(self) -> Kept:
        """All that is in the file, checked, through a connection that cannot write."""
        with open(self.path, "r+b") as file:  # SQLite calls it an I/O error where it may not be written
            header = file.read(100)
        if header[:16] != _HEADER:
            raise self._damaged("it is no SQLite database")
        if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
            raise self._error("it is a database of something else than a Clone server")
        uri = f"file:{urllib.parse.quote(os.path.abspath(self.path))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)) as db:
            if db.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                raise self._error("it is of another version")
            if log_is_damaged(f"{self.path}-wal"):
                raise self._damaged("its log (the file with -wal behind its name) is not as it was written")
            for (line,) in db.execute("PRAGMA quick_check(1)"):
                if line != "ok":
                    raise self._damaged(line)
            found = db.execute("SELECT sequence, epoch FROM last").fetchall()
            if len(found) != 1 or not isinstance(found[0][0], int) or not isinstance(found[0][1], int):
                raise self._damaged("its last sequence is missing")
            rows: list[Row] = []
            select = "SELECT key, sequence, uuid, properties, body, ttl, expires, checksum FROM pairs ORDER BY sequence"
            for *fields, checksum in db.execute(select):
                row = Row(*fields)
                if not _is_sound(row) or _checksum(row) != checksum or row.sequence > found[0][0]:
                    raise self._damaged(f"the pair {row.key!r:.100} is not as it was written")
                rows.append(row)
            answers: list[tuple[bytes, int]] = []
            for sequence, uuid, checksum in db.execute(
                "SELECT sequence, uuid, checksum FROM answers ORDER BY sequence"
            ):
                if not isinstance(uuid, bytes) or _answer_checksum(uuid, sequence) != checksum:
                    raise self._damaged(f"the answer {sequence} is not as it was written")
                answers.append((uuid, sequence))
        return Kept(found[0][0], rows, answers, found[0][1])

    def _open(self, is_new: bool) -> sqlite3.Connection:
        # The whole path: some names are none of a file for SQLite.
        path = os.path.abspath(self.path)
        db = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            # Held from here on: a second server on one file would undo what the first has answered.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            if is_new:
                # Before the log is begun: what the file is must be told by the file itself.
                db.executescript(
                    f"BEGIN EXCLUSIVE;{_SCHEMA}INSERT INTO last VALUES (1, {self.kept.sequence}, 0);COMMIT"
                )
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN EXCLUSIVE")
            sequence = db.execute("SELECT sequence FROM last").fetchone()[0]
            db.execute("COMMIT")
        except BaseException:
            db.close()
            raise
        if sequence != self.kept.sequence:
            db.close()
            raise self._error("another server has just written to it")
        return db

    def deadline(self, row: Row, now: float) -> float:
        """When the ttl of a pair that was kept is over, in monotonic seconds; a time that has passed, if it is."""
        return min(row.expires - self._wall_ahead, now + row.ttl)

    def write(self, changes: Sequence[Change | Era]) -> None:
        """Commit `changes`, which are in order of their sequences. Errors: sqlite3.Error, and then none is written."""
        for change in changes:
            if isinstance(change, Era):
                self._write_era(change)  # the only one
                return
        self._write_changes([change for change in changes if isinstance(change, Change)])

    def _write_changes(self, changes: Sequence[Change]) -> None:
        last = {change.key: change for change in changes}
        sets = [
            Row(*change.update[:6], change.deadline + self._wall_ahead if change.ttl else 0.0)
            for change in last.values()
            if change.body
        ]
        deletes = [(change.key,) for change in last.values() if not change.body]
        answers = [(change.sequence, change.uuid) for change in changes if change.keeps_answer]
        old = len(self._answered) + len(answers) - self._answers_max
        db = self._db
        with self._commit():
            db.executemany(_INSERT, [(*row, _checksum(row)) for row in sets])
            db.executemany("DELETE FROM pairs WHERE key = ?", deletes)
            db.executemany(
                "INSERT INTO answers VALUES (?,?,?)",
                [(sequence, uuid, _answer_checksum(uuid, sequence)) for sequence, uuid in answers],
            )
            if old > 0:
                bound = [*self._answered, *(sequence for sequence, _ in answers)][old - 1]
                db.execute("DELETE FROM answers WHERE sequence <= ?", (bound,))
            db.execute("UPDATE last SET sequence = ?", (changes[-1].sequence,))
        self._answered.extend(sequence for sequence, _ in answers)
        for _ in range(old):
            self._answered.popleft()

    def _write_era(self, era: Era) -> None:
        """What it says, and its whole map, if it brings one, in the place of the one before."""
        db = self._db
        with self._commit():
            if era.view is not None:
                db.execute("DELETE FROM pairs")
                db.execute("DELETE FROM answers")
                for page in era.view.pages:
                    db.executemany(_INSERT, [(*row, _checksum(row)) for row in map(self._row, page)])
            db.execute("UPDATE last SET sequence = ?, epoch = ?", (era.sequence, era.epoch))
        if era.view is not None:
            self._answered.clear()

    def _row(self, pair: Pair) -> Row:
        key, packed, uuid, properties, body = pair[:5]
        sequence = int.from_bytes(packed, "big")
        if len(pair) == 5:
            return Row(key, sequence, uuid, properties.removeprefix(wire.for_ever(b"")), body, 0, 0.0)
        left = max(1, math.ceil(pair[5] - time.monotonic()))
        return Row(key, sequence, uuid, properties, body, left, pair[5] + self._wall_ahead)

    @contextmanager
    def _commit(self) -> Iterator[None]:
        """All that is written in it, or nothing."""
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file. Twice is once."""
        self._db.close()

    def _damaged(self, why: str) -> StoreError:
        return StoreError(
            f"the store {self.path!r} is damaged and was left as it is: {why}; put a copy of it in its place, or move "
            "it away to begin with an empty map",
            path=self.path,
        )

    def _error(self, why: str) -> StoreError:
        return StoreError(f"cannot use the store {self.path!r}: {why}", path=self.path)


class Saver:
    """Writes groups of changes in a thread of its own. `done` is called in it, with None or with what went wrong."""

    def __init__(self, file: StoreFile, done: Callable[[str | None], None]) -> None:
        self._file = file
        self._done = done
        self._groups: queue.SimpleQueue[Sequence[Change | Era] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="zpatterns-clone-store", daemon=True)
        self._thread.start()

    def save(self, changes: Sequence[Change | Era]) -> None:
        """Begin to write `changes`."""
        self._groups.put(changes)

    def close(self) -> None:
        """Finish the group in hand and close the file."""
        self._groups.put(None)
        self._thread.join()
        self._file.close()

    def _run(self) -> None:
        while (changes := self._groups.get()) is not None:
            problem = None
            try:
                self._file.write(changes)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            self._done(problem)


def _size(path: str) -> int:
    """Bytes of a file; 0 where there is none."""
    return os.path.getsize(path) if os.path.exists(path) else 0


def _is_sound(row: Row) -> bool:
    kinds = (bytes, int, bytes, bytes, bytes, int, float)
    return (
        all(map(isinstance, row, kinds)) and wire.is_key(row.key) and len(row.uuid) == wire.UUID_SIZE and row.ttl >= 0
    )


def _checksum(row: Row) -> int:
    head = b"%d %d %d %d " % (row.sequence, row.ttl, len(row.key), len(row.properties)) + struct.pack(">d", row.expires)
    return zlib.crc32(row.body, zlib.crc32(row.properties, zlib.crc32(row.key, zlib.crc32(row.uuid, zlib.crc32(head)))))


def _answer_checksum(uuid: bytes, sequence: int) -> int:
    return zlib.crc32(uuid, zlib.crc32(b"%d" % sequence))
