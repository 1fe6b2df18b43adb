"""Sets of a Clone client: sent, sent again, acknowledged, refused; in order for each key; bounded."""

from __future__ import annotations

import pytest

from tests.clone.following import A, B, CloneHarness, hugz, kthxbai, kvpub, kvsync, seq, uuid, zpack
from zpatterns.clone.sets_core import SetOptions
from zpatterns.core import Close, Deliver, SendFailure, SocketKind
from zpatterns.errors import ClosedError, CompareFailed, QueueFull, RemoteError, RequestTimeout


def zpset(number: int, key: bytes = b"/k", value: bytes = b"v", properties: bytes = b"") -> tuple[str, list[bytes]]:
    return ("snapshot", [b"ZPSET", uuid(number), key, properties, value])


# With a server of ours.


def test_a_set_ends_with_its_sequence_once_it_is_acknowledged_and_the_map_has_it():
    client = CloneHarness().follow()
    assert client.set(7) == [zpset(1)]
    client.publish(kvpub(b"/k", 11, b"v", "10", uuid(1)))
    assert client.ended() == [], "published is not yet safe"
    client.answer(zpack(uuid(1), b"200", 11))
    assert client.ended() == [Deliver(7, [seq(11)], True)]


def test_an_acknowledgement_that_overtakes_the_update_waits_for_it_so_that_one_reads_what_one_has_set():
    client = CloneHarness().follow()
    client.set(7)
    client.answer(zpack(uuid(1), b"200", 12))
    assert client.ended() == []
    client.publish(kvpub(b"/x", 11, b"v", "10"))
    assert client.ended() == []
    client.publish(kvpub(b"/k", 12, b"v", "11", uuid(1)))
    assert client.results() == {7: 12}
    assert client.map["/k"] == b"v"


def test_one_whose_update_never_comes_has_succeeded_all_the_same():
    client = CloneHarness().follow()
    client.set(7, timeout=3.0)
    client.answer(zpack(uuid(1), b"200", 12))
    client.later(2.9)
    assert client.ended() == []
    client.later(0.2)
    assert client.results() == {7: 12}


def test_those_whose_updates_never_come_leave_nothing_behind():
    """A server may acknowledge under whatever number it likes."""
    client = CloneHarness().follow()
    for number in range(1, 201):
        client.set(number, timeout=1.0)
        client.answer(zpack(uuid(number), b"200", 2**62 + number))
        client.later(1.1)
        client.publish(hugz(10))
    assert len(client.results()) == 200
    assert len(client.core.sets._ahead) < 100


def test_a_set_that_is_acknowledged_while_a_snapshot_comes_that_is_older_waits_for_its_update():
    """Who has set a key reads it. The update comes over another connection, and may be late."""
    client = CloneHarness()
    client.publish(hugz(10))
    assert ("snapshot", [b"ZPSET", uuid(1), b"/k", b"", b"v"]) in client.set(1)
    client.answer(zpack(uuid(1), b"200", 11), kthxbai(10))
    assert client.state == "following"
    assert client.results() == {}
    client.publish(kvpub(b"/k", 11, b"v", prev="10"))
    assert client.results() == {1: 11}
    assert client.map == {"/k": b"v"}


def test_a_set_that_was_acknowledged_before_a_snapshot_was_asked_for_is_in_it():
    """Its update was lost; and the sequences of the server that is followed now may be lower."""
    client = CloneHarness(A, B).follow()
    client.set(1)
    client.answer(zpack(uuid(1), b"200", 11))
    assert client.results() == {}
    client.later(5.0)
    client.publish(hugz(3, instance="two"))
    client.answer(kvsync(b"/k", 2, b"v"), kthxbai(3, instance="two"))
    assert client.results() == {1: 11}


def test_a_snapshot_settles_what_was_acknowledged():
    client = CloneHarness().follow()
    client.set(7)
    client.answer(zpack(uuid(1), b"200", 12))
    client.publish(hugz(12))
    client.later(0.5)
    client.answer(kvsync(b"/k", 12, b"v"), kthxbai(12))
    assert client.results() == {7: 12}


def test_a_time_to_live_and_a_comparison_go_with_it():
    client = CloneHarness().follow()
    assert client.set(1, ttl=30) == [zpset(1, properties=b"ttl=30\n")]
    assert client.set(2, b"/l", if_sequence=9) == [zpset(2, b"/l", properties=b"if-seq=9\n")]
    assert client.set(3, b"/m", b"") == [zpset(3, b"/m", b"")]


def test_without_an_answer_it_is_sent_again_with_the_same_uuid_at_growing_distances():
    client = CloneHarness(sets=SetOptions(timeout=30.0, resend_first=1.0, resend_cap=4.0)).follow()
    client.set(1)
    times = []
    began = client.now
    for _ in range(220):
        client.publish(hugz(10))
        for sent in client.later(0.1):
            assert sent == zpset(1)
            times.append(round(client.now - began, 1))
    assert times == [1.0, 3.0, 7.0, 11.0, 15.0, 19.0]


def test_at_its_deadline_it_ends_with_an_error_that_tells_the_story():
    client = CloneHarness(sets=SetOptions(timeout=2.5)).follow()
    client.set(1)
    client.later(2.4)
    assert client.ended() == []
    client.later(0.1)
    error = client.results()[1]
    assert isinstance(error, RequestTimeout)
    assert error.attempts == 2
    assert error.elapsed == pytest.approx(2.5)
    assert str(error) == "no server acknowledged the set of '/k' within 2.5 s (2 attempts; it may still be carried out)"


def test_with_no_server_it_waits_and_is_sent_to_the_first_that_is_there():
    client = CloneHarness()
    assert client.set(1) == []
    assert client.publish(hugz(10)) == [("snapshot", [b"ICANHAZ?", b""]), zpset(1)]


def test_with_no_server_at_all_its_deadline_ends_it():
    client = CloneHarness()
    client.set(1, timeout=3.0)
    client.later(3.0)
    error = client.results()[1]
    assert isinstance(error, RequestTimeout)
    assert "no server to send it to" in str(error)


def test_a_new_server_is_sent_what_the_old_one_left_open():
    client = CloneHarness(A, B).follow()
    client.set(1, timeout=60.0)
    client.later(5.1)
    assert client.sockets[client.socket(SocketKind.DEALER)].endpoint == "tcp://b:5566"
    assert zpset(1) in client.publish(hugz(10, instance="b"))
    client.answer(zpack(uuid(1), b"200", 11), kthxbai(11, instance="b"))
    assert client.results() == {1: 11}


def test_a_server_that_began_anew_is_sent_it_again():
    client = CloneHarness().follow()
    client.set(1)
    client.publish(hugz(10, instance="two"))
    assert client.later(0.5) == [("snapshot", [b"ICANHAZ?", b""])]
    assert client.answer(kthxbai(10, instance="two")) == [zpset(1)]


@pytest.mark.parametrize(("code", "kind"), [(b"409", CompareFailed), (b"413", RemoteError)])
def test_a_refusal_is_a_typed_error(code, kind):
    client = CloneHarness().follow()
    client.set(1, if_sequence=5)
    client.answer(zpack(uuid(1), code, 9))
    error = client.results()[1]
    assert isinstance(error, CompareFailed | RemoteError)
    assert type(error) is kind
    assert error.attempts == 1
    if isinstance(error, CompareFailed):
        assert error.sequence == 9
    else:
        assert error.code == "413"


def test_one_that_is_not_active_is_asked_again_later():
    client = CloneHarness().follow()
    client.set(1)
    client.answer(zpack(uuid(1), b"503"))
    assert client.ended() == []
    assert client.state == "following"
    sent = client.later(2.5)
    assert sent == [zpset(1)]


def test_with_another_in_the_list_one_that_is_not_active_is_left():
    client = CloneHarness(A, B).follow()
    client.set(1)
    client.answer(zpack(uuid(1), b"503"))
    assert client.sockets[client.socket(SocketKind.DEALER)].endpoint == "tcp://b:5566"


@pytest.mark.parametrize("reason", SendFailure)
def test_what_could_not_be_handed_over_is_sent_again(reason):
    client = CloneHarness().follow()
    _, frames = client.set(1)[0]
    client.fail(frames, reason, client.socket(SocketKind.DEALER))
    assert client.later(2.5) == [zpset(1)]


def test_an_answer_that_comes_twice_or_to_nobody_is_counted():
    client = CloneHarness().follow()
    client.set(1)
    client.publish(kvpub(b"/k", 11, b"v", "10"))
    client.answer(zpack(uuid(1), b"200", 11), zpack(uuid(1), b"200", 11), zpack(uuid(9), b"409", 11))
    assert client.results() == {1: 11}
    assert client.statistics.dropped == {"unknown-set": 2}


def test_two_sets_of_one_key_are_never_on_the_wire_together():
    """A repeated earlier one would overwrite the later."""
    client = CloneHarness().follow()
    assert client.set(1, value=b"first") == [zpset(1, value=b"first")]
    assert client.set(2, value=b"second") == []
    assert client.set(3, value=b"third") == []
    assert client.set(4, b"/other") == [zpset(4, b"/other")]
    client.publish(kvpub(b"/k", 11, b"first", "10"))
    assert client.answer(zpack(uuid(1), b"200", 11)) == [zpset(2, value=b"second")]
    client.publish(kvpub(b"/k", 12, b"second", "11"))
    assert client.answer(zpack(uuid(2), b"200", 12)) == [zpset(3, value=b"third")]


def test_one_that_is_given_up_lets_the_next_of_its_key_go():
    client = CloneHarness().follow()
    client.set(1, timeout=0.5)
    client.set(2, value=b"second")
    client.set(3, value=b"third")
    client.step(client.core.cancel_call, 2, client.now)
    assert client.later(0.6) == [zpset(3, value=b"third")]
    assert list(client.results()) == [1]


def test_as_many_are_on_the_wire_as_may_be_and_the_others_wait_in_order():
    client = CloneHarness(sets=SetOptions(in_flight_max=2)).follow()
    sent = [client.set(number, b"/%d" % number) for number in range(1, 5)]
    assert [len(each) for each in sent] == [1, 1, 0, 0]
    client.publish(kvpub(b"/2", 11, b"v", "10"))
    assert client.answer(zpack(uuid(2), b"200", 11)) == [zpset(3, b"/3")]
    assert client.statistics.sets_in_flight == 2


def test_more_than_may_be_open_are_refused_at_once():
    client = CloneHarness(sets=SetOptions(sets_max=2)).follow()
    client.set(1)
    client.set(2)
    with pytest.raises(QueueFull):
        client.set(3)
    client = CloneHarness(sets=SetOptions(sets_bytes_max=2000)).follow()
    client.set(1, value=bytes(1400))
    with pytest.raises(QueueFull):
        client.set(2, value=bytes(100))


def test_one_that_is_cancelled_says_nothing_more_and_is_not_sent_again():
    client = CloneHarness().follow()
    client.set(1)
    client.step(client.core.cancel_call, 1, client.now)
    client.answer(zpack(uuid(1), b"200", 11))
    for _ in range(5):
        client.publish(hugz(10))
        assert client.later(1.0) == []
    assert client.ended() == []
    assert client.statistics.cancelled == 1


def test_closing_ends_them_all_well_those_that_were_acknowledged():
    client = CloneHarness().follow()
    client.set(1)
    client.set(2, b"/other")
    client.set(3)
    client.answer(zpack(uuid(1), b"200", 11))
    client.step(client.core.close, client.now)
    results = client.results()
    assert results[1] == 11
    assert isinstance(results[2], ClosedError)
    assert isinstance(results[3], ClosedError)


@pytest.mark.parametrize(
    "options",
    [{"timeout": 0}, {"resend_first": -1}, {"resend_cap": float("inf")}, {"in_flight_max": 0}, {"sets_max": 0}],
)
def test_options_that_are_none_are_refused(options):
    with pytest.raises(ValueError):
        SetOptions(**options)


# At a foreign server.


def kvset(number: int, server: int, ttl: bytes = b"0", value: bytes = b"v") -> tuple[str, list[bytes]]:
    return (f"sets{server}", [b"/k", bytes(8), uuid(number), b"ttl=" + ttl + b"\n", value])


def test_a_foreign_server_s_answer_is_the_update_with_the_set_s_uuid():
    client = CloneHarness(A, B).follow(ours=False)
    assert client.set(1, ttl=5) == [kvset(1, 0, b"5"), kvset(1, 1, b"5")]
    client.publish(kvpub(b"/k", 11, b"v"))
    assert client.ended() == []
    client.publish(kvpub(b"/k", 12, b"v", uuid=uuid(1)))
    assert client.results() == {1: 12}


def test_it_is_sent_nothing_of_ours():
    """The Guide's server loses step on an unknown message."""
    client = CloneHarness().follow(ours=False)
    for number in range(1, 4):
        client.set(number, b"/%d" % number)
    sent = client.later(4.0)
    assert {role for role, _ in sent} == {"sets0"}


def test_before_it_has_said_what_it_is_nothing_is_sent():
    client = CloneHarness()
    client.set(1)
    assert client.publish(hugz()) == [("snapshot", [b"ICANHAZ?", b""])]
    assert client.answer(kthxbai(10, ours=False)) == [kvset(1, 0)]


def test_a_set_that_vanished_is_made_again():
    """The Guide's: sets right after connecting vanish, for a PUB drops what nobody has subscribed to yet."""
    client = CloneHarness().follow(ours=False)
    client.set(1)
    assert client.later(1.0) == [kvset(1, 0)]


def test_a_foreign_server_cannot_compare():
    client = CloneHarness().follow(ours=False)
    assert client.set(1, if_sequence=3) == []
    error = client.results()[1]
    assert isinstance(error, RemoteError)
    assert error.code == "501"


# Sets that nobody waits for.


def test_a_post_goes_to_every_server_once_with_a_uuid_and_a_time_to_live():
    client = CloneHarness(A, B).follow()
    client.step(client.core.post, b"/k", b"v", 0)
    assert client.take() == [kvset(1, 0), kvset(1, 1)]
    assert client.later(3.0) == []
    assert client.statistics.posted == 1


def test_what_was_posted_still_leaves_when_the_client_is_closed():
    client = CloneHarness().follow()
    client.step(client.core.post, b"/k", b"v", 3)
    client.asked()
    client.step(client.core.close, client.now)
    lingers = {command.port: command.linger for command in client.asked(Close)}
    assert lingers["sets0"] == 1.0
    assert [linger for port, linger in lingers.items() if port != "sets0"] == [0.0, 0.0]
