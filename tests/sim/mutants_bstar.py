"""Defects of Binary Star's cores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tests.sim.mutant import Mutant

CORE = "zpatterns.bstar.bstar_core"
PAIR = "zpatterns.bstar.pair_core"
HOSTED = "zpatterns.pirate.paired_lazy_server_core"
LEASE = "zpatterns.bstar.lease_core"
CLIENT = "zpatterns.bstar.client_core"

_bstar = partial(Mutant, pattern="bstar")

MUTANTS: Sequence[Mutant] = (
    _bstar(
        "bstar-epoch-is-ignored",
        CORE,
        "        stays = (self.epoch, self.options.primary) > (theirs, not self.options.primary)\n",
        "        stays = True\n",
    ),
    _bstar(
        "bstar-both-of-two-actives-give-way",
        CORE,
        "        return Input.PEER_OUTRANKED if stays else Input.PEER_ACTIVE\n",
        "        return Input.PEER_ACTIVE\n",
    ),
    _bstar(
        "bstar-epoch-does-not-rise",
        CORE,
        "        return min(known + 1, wire.EPOCH_MAX)\n",
        "        return max(known, 1)\n",
    ),
    _bstar(
        "bstar-no-stepping-down-after-a-stall",
        CORE,
        '        self.step_down(now, f"stood still for {seconds:.3g} s")\n',
        "",
    ),
    _bstar("bstar-stall-is-not-noticed", CORE, "        if gap > self._stall_max:\n", "        if False:\n"),
    _bstar(
        "bstar-stall-is-noticed-only-by-the-timer",
        PAIR,
        "        star.look(now)\n        if star.serving:\n",
        "        if star.serving:\n",
    ),
    _bstar(
        "bstar-one-that-stood-still-does-not-hear-the-other-out",
        CORE,
        "        # What the other said meanwhile waits unread: hear it out before judging.\n"
        "        self._peer_expiry = max(self._peer_expiry, now + self._lease)\n",
        "",
    ),
    _bstar(
        "bstar-first-grace-period-is-skipped",
        CORE,
        """        # "The first expiry is start + one lease": who was just started cannot know that the other is dead.
        self._peer_expiry = now + self._lease
""",
        "        self._peer_expiry = now\n",
    ),
    _bstar(
        "bstar-silent-peer-is-never-dead",
        CORE,
        "        if now < self._peer_expiry:\n            return Input.REQUEST\n",
        "        return Input.REQUEST\n",
    ),
    _bstar(
        "bstar-peer-that-was-heard-is-dead-all-the-same",
        CORE,
        "        self._heard_at = now\n        self._peer_expiry = max(self._peer_expiry, now + self._lease)\n",
        "        self._heard_at = now\n",
    ),
    _bstar(
        "bstar-passive-serves",
        PAIR,
        "                verdict = star.vote(now)\n                if verdict is Verdict.SERVE:\n",
        "                verdict = star.vote(now)\n                if verdict is not Verdict.HOLD:\n",
    ),
    _bstar(
        "bstar-serves-before-on-active-is-done",
        CORE,
        "            self._commands.append(Errand(ON_ACTIVE, self.epoch))\n",
        "            self._commands.append(Errand(ON_ACTIVE, self.epoch))\n            self._serve(now)\n",
    ),
    _bstar(
        "bstar-service-does-not-take-over-again",
        HOSTED,
        "    def take_over(self, now: float) -> None:\n        self._draining = False\n",
        "    def take_over(self, now: float) -> None:\n        pass\n",
    ),
    _bstar(
        "bstar-who-gave-up-answers-all-the-same",
        HOSTED,
        "                request.answered = True\n                self._commands.append(Cancel(run))\n",
        "                self._running.pop(run)\n                break\n",
    ),
    _bstar(
        "bstar-state-is-published-once",
        CORE,
        "        if now + tick / 2 >= self._heartbeat_at:\n            self._publish(now)\n",
        "",
    ),
    _bstar(
        "bstar-half-open-connection-is-kept",
        CORE,
        "                # A connection to a machine that lost its power says nothing for long: a new one finds out.\n"
        "                self._listen(now)\n",
        "                pass\n",
    ),
    _bstar(
        "bstar-lease-is-counted-from-the-answer",
        LEASE,
        "                self._take(asking.at, grant.seconds)\n",
        "                self._take(now, grant.seconds)\n",
    ),
    _bstar(
        "bstar-answer-to-an-earlier-asking-is-taken-for-that-to-the-next",
        LEASE,
        "max(epoch, self._asked_epoch + 1)",
        "epoch",
    ),
    _bstar(
        "bstar-lease-that-ran-out-is-served-under",
        CORE,
        "        if now >= self._fence.serve_until:\n",
        "        if False:\n",
    ),
    _bstar(
        "bstar-fence-is-not-asked",
        CORE,
        "            if self.options.has_fence and self._fence.epoch is None:\n",
        "            if False:\n",
    ),
    _bstar(
        "bstar-lease-is-not-renewed",
        LEASE,
        "            self._do(Errand(RENEW, self.epoch))\n",
        "            pass\n",
    ),
    _bstar(
        "bstar-settles-too-short",
        CLIENT,
        "self._settled_at = now + self.options.settle_delay",
        "self._settled_at = now + self.options.settle_delay / 2",
    ),
    _bstar(
        "bstar-client-never-turns-to-the-other-side",
        CLIENT,
        "            super()._turn_from(endpoint, error, now)\n",
        "            pass\n",
    ),
    _bstar(
        "bstar-waiting-attempts-are-not-sent",
        CLIENT,
        "        if self._held and now >= self._settled_at:\n            self._send_held()\n",
        "",
    ),
    _bstar(
        "bstar-full-side-is-turned-from",
        CLIENT,
        "isinstance(error, RemoteError) and error.code == _OVERLOADED",
        "False",
    ),
)
