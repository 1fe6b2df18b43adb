"""StarCore: every state and everything that can happen in it, driven by real messages, votes and times."""

from __future__ import annotations

import json

import pytest

from tests.bstar.star_harness import ACTIVE, BACKUP, PASSIVE, PRIMARY, REMOTE, Star, digits, in_state
from tests.harness import START
from zpatterns.bstar.bstar_state import CHANGES, TRANSITIONS, Input, StarOptions, State
from zpatterns.bstar.events import BecameActive, BecamePassive, PeerDiffers, PeerHeard, PeerSilent, SteppedDown
from zpatterns.core import MessagesDropped, Open, SendFailure, SocketKind, Subscribe
from zpatterns.timing import Liveness

STATES = ["primary waiting", "backup waiting", "active", "passive"]

TABLE = {
    # The words of the Guide's machine, and where they lead. A request by itself: the peer is alive.
    "primary waiting": {"1": "", "2": "active", "3": "passive", "4": "", "request": "", "request, peer dead": "active"},
    "backup waiting": {"1": "", "2": "", "3": "passive", "4": "", "request": "", "request, peer dead": ""},
    "active": {
        "1": "",
        "2": "",
        "3 higher": "passive",
        "3 lower": "",
        "4": "",
        "request": "",
        "request, peer dead": "",
    },
    "passive": {"1": "active", "2": "active", "3": "", "4": "", "request": "", "request, peer dead": "active"},
}
for state, row in TABLE.items():
    # What only ours knows.
    row["promote"] = "" if state == "active" else "active"
    row["step down"] = row["stall"] = "primary waiting" if state == "active" else ""

MACHINE = {
    "primary waiting": {
        "peer is backup waiting": "active",
        "peer is active": "passive",
        "peer is active and has the lower epoch": "passive",
        "peer waits with an older copy": "active",
        "request and peer dead": "active",
        "request and no primary to wait for": "active",
        "promote": "active",
    },
    "backup waiting": {
        "peer is active": "passive",
        "peer is active and has the lower epoch": "passive",
        "peer waits with an older copy": "active",
        "request and no primary to wait for": "active",
        "promote": "active",
    },
    "active": {
        "peer is active": "passive",
        "primary steps down": "primary waiting",
        "backup steps down": "backup waiting",
    },
    "passive": {
        "peer is primary waiting": "active",
        "peer is backup waiting": "active",
        "peer is passive for a lease": "active",
        "peer waits with an older copy": "active",
        "peer waits with a newer copy than the primary's": "primary waiting",
        "peer waits with a newer copy than the backup's": "backup waiting",
        "request and peer dead": "active",
        "request and no primary to wait for": "active",
        "promote": "active",
    },
}
"""All that leads to another state; nothing else does."""


def happen(star: Star, what: str) -> str:
    """Have it happen, and return what became of a request, if it was one."""
    if what == "request, peer dead":
        star.advance(3)
        return star.vote()
    if what == "request":
        star.hear({"passive": ACTIVE, "active": PASSIVE}.get(star.state, b"1" if star.state[0] == "p" else b"2"))
        return star.vote()
    if what in ("promote", "step down"):
        star.step(star.core.promote, star.now) if what == "promote" else star.step(star.core.step_down, star.now, what)
        return ""
    if what == "stall":
        star.stall(10.0)
        return ""
    digit, _, rank = what.partition(" ")
    star.hear(b"%s epoch=%d" % (digit.encode(), {"higher": 9, "lower": 0, "": 0}[rank]))
    return ""


@pytest.mark.parametrize(("state", "what"), [(state, what) for state, row in TABLE.items() for what in row])
def test_every_state_and_all_that_comes_from_outside(state, what):
    star = in_state(state)
    if what == "promote" and state == "passive":
        star.hear(b"3 epoch=1")  # one of the Guide's could not give way
    verdict = happen(star, what)
    after = TABLE[state][what] or state
    assert star.state == after
    if verdict:
        assert verdict == ("serve" if after == "active" else "refuse")
    assert star.application.serves == (after == "active")


def test_the_table_has_every_state_and_every_input_and_changes_are_those_that_change():
    assert set(TRANSITIONS) == {(state, what) for state in State for what in Input}
    for key, (action, after) in TRANSITIONS.items():
        assert (key in CHANGES) == (action is not None) == (after is not key[0])


def test_what_leads_where_is_as_it_should_be():
    found: dict[str, dict[str, str]] = {state: {} for state in STATES}
    for (before, what), (_, after) in CHANGES.items():
        found[before.value][what.value] = after.value
    assert found == MACHINE


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("what", list(Input))
def test_every_state_and_every_input_leaves_a_sound_node(state, what):
    """Those too that cannot come together, through the machine's own door."""
    star = in_state(state)
    expected = TRANSITIONS[star.core.state, what][1]
    if what.name.startswith("BACKUP" if star.core.options.primary else "PRIMARY"):
        return  # a node has one role
    if what.name.endswith("THAN_BACKUP" if star.core.options.primary else "THAN_PRIMARY"):
        return
    star.step(star.core._step, what, star.now, "test")
    assert star.core.state is expected
    assert star.application.serves == (expected is State.ACTIVE)


# The Guide's transitions, by the words of its log lines.


def test_guide_primary_connected_to_backup_ready_as_active():
    star = Star("primary")
    assert digits(star.hear(BACKUP)) == [b"3"]
    assert star.application.calls[-1] == ("take over", START)


def test_guide_primary_connected_to_backup_active_ready_as_passive():
    star = Star("primary")
    assert digits(star.hear(ACTIVE)) == [b"4"]
    assert star.vote() == "refuse"


def test_guide_backup_connected_to_primary_active_ready_as_passive():
    star = Star("backup")
    assert digits(star.hear(ACTIVE)) == [b"4"]


def test_guide_primary_request_from_client_ready_as_active():
    star = Star("primary")
    star.advance(2.0)
    assert star.vote() == "serve"
    assert digits(star.sent()) == [b"3"]


@pytest.mark.parametrize("peer", [PRIMARY, BACKUP])
def test_guide_passive_peer_is_restarting_ready_as_active(peer):
    star = in_state("passive")
    assert digits(star.hear(peer)) == [b"3"]


def test_guide_passive_failover_successful_ready_as_active():
    star = in_state("passive")
    star.advance(2.0)
    assert star.vote() == "serve"
    assert digits(star.sent())[-1] == b"3"


def test_guide_backup_rejects_requests_however_long_it_waits():
    star = Star("backup")
    star.advance(1000.0)
    assert star.vote() == "refuse"


# Time: heartbeats, the first expiry, silence.


@pytest.mark.parametrize(("role", "digit"), [("primary", b"1"), ("backup", b"2")])
def test_it_says_what_it_is_at_once_and_once_a_heartbeat(role, digit):
    star = Star(role)
    times: list[float] = []
    while star.now < START + 9.9:
        said = star.advance(0.05)
        assert set(digits(said)) <= {digit}
        times += [star.now] * len(said)
    assert times == pytest.approx([START + number for number in range(10)], abs=0.06)


def test_it_listens_to_the_other_node():
    star = Star()
    assert star.asked() == [Open("peer", SocketKind.SUB, REMOTE), Subscribe("peer", b"")]


def test_the_first_expiry_is_start_plus_one_lease():
    star = Star("primary")
    star.advance(1.99)
    assert star.vote() == "refuse"
    star.advance(0.01)
    assert star.vote() == "serve"


@pytest.mark.parametrize(("interval", "liveness"), [(0.1, 2), (1.0, 2), (1.0, 5), (3.0, 3)])
def test_interval_and_liveness_say_when_a_silent_peer_is_dead(interval, liveness):
    star = in_state("passive", interval=interval, liveness=liveness)
    star.advance(interval * liveness * 0.999)
    assert star.vote() == "refuse"
    star.advance(interval * liveness * 0.002)
    assert star.vote() == "serve"


def test_anything_the_peer_says_shows_that_it_lives():
    for frame in (PRIMARY, BACKUP, PASSIVE):
        star = in_state("primary waiting")
        star.advance(1.9)
        if frame == BACKUP:
            continue  # that makes it active
        star.hear(frame)
        star.advance(1.9)
        assert star.vote() == "refuse", frame


def test_what_is_no_state_frame_shows_nothing():
    star = in_state("passive")
    star.advance(1.9)
    star.give([b"x"], [b"3", b"4"], [b""])
    assert star.events(MessagesDropped) == [MessagesDropped("invalid", 3)]
    star.advance(0.2)
    assert star.vote() == "serve"


def test_a_silent_peer_is_told_of_once_and_looked_for_anew_once_a_lease():
    star = in_state("passive")
    star.advance(1.9)
    assert star.asked(Open) == []
    star.advance(8.0)
    assert len(star.asked(Open)) in (3, 4)
    assert [type(event) for event in star.events() if isinstance(event, PeerSilent | PeerHeard)] == [PeerSilent]
    star.hear(ACTIVE)
    assert star.events(PeerHeard) == [PeerHeard("active")]


def test_a_change_is_published_at_once_and_is_an_event():
    star = Star("primary")
    star.sent()
    star.hear(BACKUP)
    [event] = star.events(BecameActive)
    assert event == BecameActive(1, "the peer is backup waiting")
    other = Star("backup")
    other.hear(b"3 epoch=1")
    assert other.events(BecamePassive) == [BecamePassive(0, "the peer is active")]


@pytest.mark.parametrize(("state", "digit"), [("primary waiting", b"2"), ("passive", b"1"), ("passive", b"2")])
def test_one_that_holds_nothing_does_not_care_what_the_other_says_that_it_holds(state, digit):
    star = in_state(state)
    star.hear(digit + b" port=5556 copy=9:9 life=x")
    assert star.state == "active"


# Epochs.


def test_the_epoch_rises_at_each_promotion_above_all_that_were_heard():
    star = Star("primary")
    assert star.hear(BACKUP) == [[b"3 epoch=1 interval=1 liveness=2"]]
    star.hear(b"3 epoch=41")
    assert star.hear(BACKUP) == [[b"3 epoch=42 interval=1 liveness=2"]]


# What the pair was given.


@pytest.mark.parametrize(
    ("frame", "what", "ours", "theirs"),
    [
        (b"4 epoch=0 interval=2 liveness=2", "heartbeat_interval", "1", "2"),
        (b"4 epoch=0 interval=1 liveness=9", "liveness", "2", "9"),
        (b"1", "role", "primary", "primary"),
    ],
)
def test_a_peer_that_was_given_other_values_is_told_of_once(frame, what, ours, theirs):
    star = Star("primary")
    star.hear(frame)
    star.hear(frame)
    assert star.events(PeerDiffers) == [PeerDiffers(what, ours, theirs)]


def test_a_peer_like_us_or_of_the_guides_differs_in_nothing():
    star = Star("primary")
    star.hear(b"2 epoch=0 interval=1 liveness=2")
    star.hear(PASSIVE)
    assert star.events(PeerDiffers) == []


@pytest.mark.parametrize(
    "options",
    [
        {"primary": True, "liveness": Liveness(1.0, 1)},
        {"primary": True, "lone_backup_after": 10.0},
        {"primary": False, "lone_backup_after": 1.9},
        {"primary": False, "lone_backup_after": float("inf")},
        {"primary": True, "longest_turn": 0.0},
    ],
)
def test_options_without_sense_are_refused(options):
    with pytest.raises(ValueError, match=r"liveness|lone_backup_after|longest_turn"):
        StarOptions(remote=REMOTE, **options)


# The control port.


def control(star: Star, *frames: bytes) -> list[list[bytes]]:
    return star.give([b"operator", *frames], port="control")


def test_status_is_answered_in_json_with_and_without_a_reqs_delimiter():
    star = in_state("active")
    for head in ([b""], []):
        [answer] = control(star, *head, b"status")
        assert answer[:-1] == [b"operator", *head, b"200"]
        status = json.loads(answer[-1])
        assert status == {
            "role": "primary",
            "state": "active",
            "epoch": 1,
            "serving": True,
            "peer": {"state": "backup waiting", "epoch": None, "silent": False},
            "refused": 0,
        }


def test_promote_over_the_control_port():
    star = in_state("passive")
    star.hear(b"3 epoch=4")
    sent = control(star, b"", b"promote")
    assert [b"operator", b"", b"200", b"it is active with epoch 5"] in sent
    assert star.state == "active"
    assert control(star, b"", b"promote") == [[b"operator", b"", b"200", b"it is active already"]]


def test_the_control_port_answers_what_it_does_not_know_and_drops_the_rest():
    star = Star()
    star.sent()
    assert control(star, b"", b"halt")[0][2] == b"400"
    assert control(star) == control(star, b"", b"status", b"now") == control(star, b"a", b"b") == []
    star.fail([b"operator", b"", b"200"], SendFailure.UNREACHABLE, port="control")
    assert {(event.reason, event.count) for event in star.events(MessagesDropped)} == {
        ("invalid", 3),
        ("client-unreachable", 1),
    }


def test_statistics_say_what_it_is_and_what_it_did():
    star = in_state("passive")
    star.vote()
    star.hear(b"3 epoch=5")
    star.advance(2.5)
    star.vote()
    star.give([b"nonsense"])
    statistics = star.statistics
    assert (statistics.role, statistics.state, statistics.epoch, statistics.serving) == ("backup", "active", 6, True)
    assert (statistics.peer_state, statistics.peer_epoch, statistics.peer_silent) == ("active", 5, True)
    assert (statistics.activations, statistics.step_downs, statistics.refused, statistics.heard) == (1, 0, 1, 2)
    assert statistics.dropped == {"invalid": 1}
    star.step(star.core.step_down, star.now, "enough")
    assert star.events(SteppedDown) == [SteppedDown(6, "enough")]
    assert star.statistics.step_downs == 1
