"""What the Guide's Binary Star gets wrong: each is a named test here (promises, "Binary Star")."""

from __future__ import annotations

import time

from tests.bstar.star_harness import ACTIVE, BACKUP, PASSIVE, Star, digits, in_state


class Link:
    """Two nodes and the link between them, which may be cut."""

    def __init__(self) -> None:
        self.primary, self.backup = Star("primary"), Star("backup")
        self.whole = True

    def run(self, seconds: float, *, paused: Star | None = None) -> None:
        """Let time pass for both, or for the one that is not paused, and carry what they say."""
        end = self.primary.now + seconds
        going = [star for star in (self.primary, self.backup) if star is not paused]
        while min(star.now for star in going) < end - 1e-9:
            for star in going:
                said = star.advance(0.25)
                other = self.backup if star is self.primary else self.primary
                if self.whole and other in going:
                    for frames in said:
                        self._say(star, other, frames)
        for star in (self.primary, self.backup):
            star.now = end

    def _say(self, star: Star, other: Star, frames: list[bytes]) -> None:
        for answer in other.give(frames):
            self._say(other, star, answer)

    @property
    def states(self) -> tuple[str, str]:
        return self.primary.state, self.backup.state


def settled() -> Link:
    link = Link()
    link.run(2.0)
    assert link.states == ("active", "passive")
    return link


def test_two_actives_do_not_both_exit():
    """Guide: "E: fatal error - dual actives, aborting", on both sides. Ours: exactly one stays."""
    link = settled()
    link.whole = False
    link.run(3.0)
    assert link.backup.vote() == "serve"
    assert link.states == ("active", "active")
    link.whole = True
    link.run(2.0)
    assert sorted(link.states) == ["active", "passive"]
    assert link.states == ("passive", "active"), "the higher epoch is the one that was promoted last"


def test_two_passives_do_not_both_exit():
    """Guide: "E: fatal error - dual passives, aborting"."""
    primary, backup = Star("primary"), Star("backup")
    for star in (primary, backup):
        star.hear(ACTIVE)
        star.hear_for(4.0, PASSIVE)
    assert (primary.state, backup.state) == ("active", "passive")


def test_a_paused_primary_causes_no_outage():
    """Guide: a primary that was stopped and goes on publishes 3 to a backup that took over, and both abort."""
    link = settled()
    link.run(5.0, paused=link.primary)
    assert link.backup.vote() == "serve"
    assert digits(link.primary.stall(0.01)) == [b"1"], "nothing that makes the other one end"
    link.run(1.0)
    assert link.states == ("passive", "active")


def test_a_paused_primary_that_nobody_missed_does_not_serve_on_as_if_nothing_had_been():
    link = settled()
    link.run(5.0, paused=link.primary)
    link.primary.step(link.primary.core.handle_timer, link.primary.now)
    for frames in link.primary.sent():
        link.backup.give(frames)
    assert link.backup.state == "active", "it was handed over"


def test_a_lone_backup_can_be_told_to_serve():
    """Guide: a backup whose primary never comes serves nobody, whatever one does."""
    by_time = Star("backup", lone_backup_after=5.0)
    by_time.advance(5.0)
    assert by_time.vote() == "serve"
    by_hand = Star("backup")
    assert by_hand.step(by_hand.core.promote, by_hand.now)[0] == b"200"
    assert by_hand.vote() == "serve"


def test_a_wall_clock_step_fails_nothing_over(monkeypatch):
    """Guide: ``zclock_time`` is the wall clock. Ours asks none: all time comes in, and is monotonic."""

    def no_clock() -> float:
        raise AssertionError("a core asked the clock")

    for name in ("time", "monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, no_clock)
    link = settled()
    link.run(20.0)
    assert link.states == ("active", "passive")


def test_the_peers_time_out_can_be_set():
    """Guide: BSTAR_HEARTBEAT and its factor of two are compiled in."""
    for interval, liveness in ((0.1, 2), (1.0, 5), (10.0, 3)):
        star = in_state("passive", interval=interval, liveness=liveness)
        star.advance(interval * liveness - 0.01)
        assert star.vote() == "refuse"
        star.advance(0.02)
        assert star.vote() == "serve"


def test_a_request_is_not_served_by_a_primary_that_has_not_heard_whether_the_backup_is_active():
    """Guide, bstarsrv: "Accept client connections" at once, so that a restarted primary makes a second active."""
    star = Star("primary")
    assert star.vote() == "refuse"
    star.hear(ACTIVE)
    assert star.state == "passive"


def test_a_node_never_publishes_active_to_an_active_of_the_guides_that_it_has_heard():
    """Either would make it end: 3 to an active one, 4 to a passive one."""
    star = in_state("active")
    star.now += 10.0
    said = digits(star.give([PASSIVE], [ACTIVE]))
    assert b"3" not in said
    other = in_state("passive")
    other.now += 10.0
    assert digits(other.give([ACTIVE], [BACKUP])) == [b"3"], "a waiting one is told 3 at once"
