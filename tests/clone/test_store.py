"""The server's map against plain dictionaries: pairs, views that stay as they were, deadlines and subtrees."""

from __future__ import annotations

import gc
import random

import pytest

from zpatterns.clone import wire
from zpatterns.clone.store import PAGE, PAIR_OVERHEAD, SUBTREE_OVERHEAD, Pair, Store, View, subtree_bytes_max

START = 1000


def pair(key: bytes, sequence: int, body: bytes = b"v", deadline: float | None = None) -> Pair:
    packed = wire.pack_sequence(sequence)
    return (key, packed, bytes(16), b"", body) if deadline is None else (key, packed, bytes(16), b"", body, deadline)


def content(view: View) -> dict[bytes, bytes]:
    pairs = [pair for page in view.pages for pair in page]
    assert len(pairs) == view.count
    return {pair[0]: pair[4] for pair in pairs}


class Model:
    """A store, and what must be in it."""

    def __init__(self, **options: int) -> None:
        self.store = Store(START, **options)
        self.map: dict[bytes, bytes] = {}
        self.sequence = START
        self.lasts: dict[bytes, int] = {}

    def put(self, key: bytes, body: bytes = b"v", deadline: float | None = None) -> bytes:
        self.sequence += 1
        self.map[key] = body
        return self._checked(key, self.store.put(pair(key, self.sequence, body, deadline), self.sequence))

    def delete(self, key: bytes) -> bytes:
        self.sequence += 1
        self.map.pop(key, None)
        return self._checked(key, self.store.delete(key, self.sequence))

    def _checked(self, key: bytes, line: bytes) -> bytes:
        properties = wire.parse_properties(line)
        for subtree in wire.prefixes(key):
            told = wire.previous_of(properties, subtree)
            assert told is not None
            # Never earlier than what there was, or a gap would not be seen; later only for what was forgotten.
            assert self.lasts.get(subtree, START) <= told < self.sequence
            self.lasts[subtree] = self.sequence
        return line


def test_what_came_before_is_told_for_each_subtree():
    model = Model()
    assert model.put(b"/x/y/k") == b"prev=1000,1000,1000\n"
    assert model.put(b"/x/z") == b"prev=1001,1001\n"
    assert model.put(b"k") == b"prev=1002\n"
    assert model.put(b"/x/y/k") == b"prev=1003,1002,1001\n"
    assert model.delete(b"/x/y/k") == b"prev=1004,1004,1004\n"
    assert model.delete(b"/x/y/never-there") == b"prev=1005,1005,1005\n"
    assert [model.store.last(subtree) for subtree in (b"", b"/x/", b"/x/y/", b"/unknown/")] == [1006, 1006, 1006, 1000]
    model.store.check_invariants()


def test_keys_that_lie_in_no_subtree():
    model = Model()
    for key in (b"k", b"a/b/c", b"/k", b"//k", b"/"):
        assert model.put(key) == b"prev=%d\n" % (model.sequence - 1)
    model.store.check_invariants()


def test_a_key_has_the_sequence_of_its_last_set():
    model = Model()
    assert model.store.sequence_of(b"k") == 0
    model.put(b"k")
    model.put(b"other")
    assert model.store.sequence_of(b"k") == 1001
    model.put(b"k")
    assert model.store.sequence_of(b"k") == 1003
    model.delete(b"k")
    assert model.store.sequence_of(b"k") == 0
    assert model.store.get(b"k") is None


def test_bytes_are_those_of_what_is_there():
    model = Model()
    model.put(b"key", b"x" * 100)
    assert model.store.bytes == PAIR_OVERHEAD + 103
    model.put(b"key", b"x")
    assert model.store.bytes == PAIR_OVERHEAD + 4
    model.delete(b"key")
    assert model.store.bytes == 0


def test_bytes_are_those_of_subtrees_too():
    """A key that lies in 32 of its own takes 14 kB, of which its pair is a twentieth."""
    model = Model()
    deep = b"/" + b"/".join(b"%d" % level for level in range(32)) + b"/"
    assert model.store.subtree_bytes(deep + b"k") > 32 * SUBTREE_OVERHEAD
    bound = subtree_bytes_max(deep + b"k")
    model.put(deep + b"k", b"v")
    of_one = model.store.bytes
    assert 32 * SUBTREE_OVERHEAD < of_one - PAIR_OVERHEAD < bound
    model.put(deep + b"l", b"v")
    assert model.store.bytes < of_one + PAIR_OVERHEAD + 200, "they are shared"
    assert model.store.subtree_bytes(deep + b"m") == 0
    model.delete(deep + b"k")
    model.delete(deep + b"l")
    assert model.store.bytes == 0


def test_views_between_two_changes_are_one():
    model = Model()
    model.put(b"a")
    assert model.store.view() is model.store.view()
    before = model.store.view()
    model.put(b"a")
    assert model.store.view() is not before


@pytest.mark.parametrize("seed", range(8))
def test_views_stay_as_they_were_whatever_follows(seed):
    """Random sets and deletes over several pages; each view is compared at the end with the map at its time."""
    rng = random.Random(seed)
    model = Model(spare_max=rng.choice((0, 3, 1000)))
    views: list[tuple[View, dict[bytes, bytes], int]] = []
    keys = [b"/%d/%d/%d" % (number % 3, number % 7, number) for number in range(3 * PAGE)]
    for number in range(60):
        for _ in range(rng.randrange(60)):
            key = rng.choice(keys)
            if rng.random() < rng.choice((0.1, 0.5, 0.95)):
                model.delete(key)
            else:
                model.put(key, b"%d" % model.sequence)
        views.append((model.store.view(), dict(model.map), model.sequence))
        if number % 10 == 0:
            model.store.check_invariants()
    for view, expected, sequence in views:
        assert content(view) == expected
        assert view.sequence == sequence
    for key in keys:
        held = model.store.get(key)
        assert (None if held is None else held[4]) == model.map.get(key)


def test_a_map_emptied_and_filled_again_is_whole():
    model = Model()
    for _ in range(3):
        for number in range(2 * PAGE + 1):
            model.put(b"%d" % number)
        full = model.store.view()
        for number in range(2 * PAGE + 1):
            model.delete(b"%d" % number)
        model.store.check_invariants()
        assert len(content(full)) == 2 * PAGE + 1
        assert content(model.store.view()) == {}


def test_an_update_makes_one_page_anew_and_the_others_are_shared_with_views():
    model = Model()
    for number in range(4 * PAGE):
        model.put(b"%d" % number)
    view = model.store.view()
    for _ in range(3):
        model.put(b"0")
        model.put(b"1")
    after = model.store.view()
    assert [before is now for before, now in zip(view.pages, after.pages, strict=True)] == [False, True, True, True]


def test_the_collector_of_garbage_has_nothing_to_look_through():
    """With a million pairs it took a tenth of a second, in which nobody was served."""
    model = Model()
    for number in range(4 * PAGE):
        model.put(b"%d" % (number % (3 * PAGE)), deadline=1.0 if number % 5 == 0 else None)
    gc.collect()
    gc.collect()  # a page that was met before its pairs
    assert not any(gc.is_tracked(page) for page in model.store.view().pages)


# Deadlines.


def test_a_key_expires_when_its_time_has_come():
    model = Model()
    model.put(b"a", deadline=5.0)
    model.put(b"b", deadline=3.0)
    model.put(b"c")
    assert model.store.next_expiry() == 3.0
    assert model.store.expired(2.9, 10) == []
    assert model.store.expired(5.0, 10) == [b"b", b"a"]
    assert model.store.expired(9.0, 10) == []
    model.delete(b"a")
    model.delete(b"b")
    model.store.check_invariants()
    assert model.map == {b"c": b"v"} == content(model.store.view())


@pytest.mark.parametrize(("second", "expires"), [(9.0, 9.0), (2.0, 2.0), (None, None)])
def test_another_set_gives_another_deadline(second, expires):
    model = Model()
    model.put(b"a", deadline=5.0)
    model.put(b"a", deadline=second)
    model.store.check_invariants()
    for now in (2.0, 5.0, 9.0):
        assert model.store.expired(now, 10) == ([b"a"] if now == expires else [])


def test_a_deleted_key_does_not_expire_and_nor_does_its_successor():
    model = Model()
    model.put(b"a", deadline=5.0)
    model.delete(b"a")
    model.put(b"a")
    assert model.store.expired(100.0, 10) == []
    assert model.store.next_expiry() is None


def test_no_more_expire_at_a_time_than_asked_for():
    model = Model()
    for number in range(10):
        model.put(b"%d" % number, deadline=1.0)
    assert len(model.store.expired(2.0, 4)) == 4
    assert model.store.next_expiry() == 1.0
    assert len(model.store.expired(2.0, 100)) == 6


# Subtrees that are forgotten.


def test_subtrees_without_keys_are_forgotten_and_a_gap_there_is_never_missed():
    """A flood of keys that come and go in ever new subtrees must not stay in memory."""
    model = Model(spare_max=10)
    for number in range(300):
        model.put(b"/%d/%d/k" % (number % 50, number))
        model.delete(b"/%d/%d/k" % (number % 50, number))
        model.store.check_invariants()
    assert len(model.store._prefixes) <= 10 + 3
    assert model.store.last(b"/0/0/") >= model.lasts[b"/0/0/"], "a client there must not believe that it has all"
    assert model.store.last(b"") == model.sequence


def test_subtrees_with_keys_are_not_forgotten():
    model = Model(spare_max=0)
    for number in range(100):
        model.put(b"/%d/k" % number)
    assert [model.store.last(b"/%d/" % number) for number in range(100)] == list(range(1001, 1101))
