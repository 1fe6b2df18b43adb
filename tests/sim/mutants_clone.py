"""Defects of Clone's cores: a server, its snapshots and store, a pair of them, and clients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tests.sim.mutant import Mutant

SERVER = "zpatterns.clone.server_core"
SNAPSHOTS = "zpatterns.clone.snapshots_core"
STORE = "zpatterns.clone.store"
JOURNAL = "zpatterns.clone.journal_core"
PAIRED = "zpatterns.clone.paired_server_core"
PENDING = "zpatterns.clone.pending_core"
FOLLOWER = "zpatterns.clone.follower_core"
STAR = "zpatterns.bstar.bstar_core"
STAR_STATE = "zpatterns.bstar.bstar_state"
CLIENT = "zpatterns.clone.client_core"
REPLICA = "zpatterns.clone.replica_core"
AUDIT = "zpatterns.clone.audit_core"
SETS = "zpatterns.clone.sets_core"

_clone = partial(Mutant, pattern="clone")

MUTANTS: Sequence[Mutant] = (
    # A server.
    _clone(
        "clone-repeated-set-is-made-again",
        SERVER,
        "        if known is not None:\n            self._repeated += 1\n",
        "        if False and known is not None:\n            self._repeated += 1\n",
    ),
    _clone(
        "clone-set-that-waits-for-the-disk-is-made-again",
        SERVER,
        "        if waiting is not None:\n",
        "        if False:\n",
    ),
    _clone(
        "clone-comparison-is-ignored", SERVER, "            if sequence != if_sequence:\n", "            if False:\n"
    ),
    _clone(
        "clone-comparison-does-not-see-what-waits-for-the-disk",
        SERVER,
        "        change = self._journal.keys.get(key)\n",
        "        change = None\n",
    ),
    _clone(
        "clone-answered-before-it-is-saved",
        SERVER,
        "        self._journal.add(Change(key, sequence, uuid, properties, body, ttl, now + ttl, client))\n",
        "        self._journal.add(Change(key, sequence, uuid, properties, body, ttl, now + ttl, client))\n"
        "        if client is not None:\n            self._acknowledge(client, uuid, sequence)\n",
    ),
    _clone(
        "clone-no-heartbeats",
        SERVER,
        "            self._published.append(wire.hugz(wire.status_property(self.instance, self.store.sequence)))\n",
        "",
    ),
    _clone(
        "clone-key-expires-that-was-set-anew",
        STORE,
        "        elif self._leases:\n            self._end_lease(key)\n",
        "",
    ),
    # Its snapshots and its map.
    _clone(
        "clone-what-a-full-client-did-not-take-is-lost",
        SNAPSHOTS,
        "        join.held.append(frames)\n",
        "",
    ),
    _clone(
        "clone-subtrees-last-sequence-is-that-of-its-first-key",
        STORE,
        "            for prefix in chain:\n                prefix.last = sequence\n",
        "            for prefix in chain:\n                prefix.last = prefix.last if prefix.keys else sequence\n"
        "            chain[0].last = sequence\n",
    ),
    # A pair.
    _clone(
        "clone-answered-before-the-passive-has-it",
        PAIRED,
        "        if self._passive_has is None or self._passive_has >= sequence:\n",
        "        if True:\n",
    ),
    _clone(
        "clone-anybody-may-confirm",
        PAIRED,
        "        elif confirmed[1] != self._passive:\n",
        "        elif False:\n",
    ),
    _clone(
        "clone-passive-says-that-it-has-what-it-has-seen",
        PAIRED,
        "        follower, has = self._follower, self.store.sequence\n",
        "        follower, has = self._follower, max(self.store.sequence, self._follower.last) + 1\n",
    ),
    _clone(
        "clone-serves-before-it-has-a-copy",
        STAR,
        "        if self.state is not State.ACTIVE and self._application.has_copy:\n",
        "        if self.state is not State.ACTIVE:\n",
    ),
    _clone(
        "clone-newer-copy-does-not-count",
        STAR_STATE,
        "        if theirs.copy > ours.copy:\n",
        "        if False:\n",
    ),
    _clone(
        "clone-passive-does-not-notice-gaps",
        FOLLOWER,
        "        elif previous > self.last:\n",
        "        elif False:\n",
    ),
    _clone(
        "clone-updates-during-the-passives-snapshot-are-lost",
        FOLLOWER,
        "        self._kept[update.key] = update\n",
        "        pass\n",
    ),
    _clone(
        "clone-passive-expires-keys",
        PAIRED,
        "            self._heartbeat_at = None\n            self._snapshots.clear(self.store)\n",
        "            self._snapshots.clear(self.store)\n",
    ),
    _clone(
        "clone-loser-goes-on-with-its-own-map",
        PAIRED,
        "        era = Era(*self._followed[1], store.sequence, store, acks)\n",
        "        era = Era(*self._followed[1], store.sequence, self.store, acks)\n",
    ),
    _clone(
        "clone-set-of-the-active-before-is-made-again",
        PAIRED,
        "            self._remember(update.uuid, wire.OK, update.sequence)\n",
        "            pass\n",
    ),
    _clone(
        "clone-stepping-down-forgets-what-was-made",
        PAIRED,
        "            for unsafe in self._unsafe.values():\n",
        "            for unsafe in ():\n",
    ),
    _clone(
        "clone-late-set-is-kept-though-the-active-has-published-it",
        PENDING,
        "        if uuid in self._sets or uuid in self._published:\n",
        "        if uuid in self._sets:\n",
    ),
    _clone(
        "clone-late-set-is-published-though-the-active-before-has",
        PAIRED,
        "        if len(frames) == 5 and self._pending.is_late(frames[2]):\n",
        "        if False:\n",
    ),
    # Clients.
    _clone(
        "clone-client-does-not-notice-gaps",
        REPLICA,
        "        if previous > self.last:\n",
        "        if False:\n",
    ),
    _clone(
        "clone-client-does-not-notice-a-lost-last-update",
        AUDIT,
        '        if last <= max(reached, self._checked):\n            return ""\n        if not self._prefix:\n',
        '        if last <= max(reached, self._checked):\n            return ""\n        if False:\n',
    ),
    _clone(
        "clone-deleted-key-comes-back-from-a-snapshot",
        REPLICA,
        "                else:\n                    fresh.pop(key, None)\n        if self.watched:\n",
        "        if self.watched:\n",
    ),
    _clone(
        "clone-two-sets-of-a-key-overtake-each-other",
        SETS,
        "        if behind is None:\n",
        "        if True:\n",
    ),
    _clone(
        "clone-unanswered-set-is-not-sent-again",
        SETS,
        "                self._resend(each, now)\n            else:\n",
        "                each.resend_at = each.expiry\n                self._watch(each)\n            else:\n",
    ),
)
