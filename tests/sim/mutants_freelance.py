"""Defects of the Freelance cores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tests.sim.mutant import Mutant

ADDRESSED = "zpatterns.freelance.addressed_core"
SHOTGUN = "zpatterns.freelance.shotgun_core"
FAILOVER = "zpatterns.freelance.failover_core"
SERVER = "zpatterns.freelance.server_core"
SERVERS = "zpatterns.freelance.servers_core"
WIRE = "zpatterns.wire"

_freelance = partial(Mutant, pattern="freelance")

MUTANTS: Sequence[Mutant] = (
    _freelance(
        "freelance-reply-is-not-matched",
        ADDRESSED,
        "            attempt = server.open.pop(reply[0], None)\n",
        "            attempt = server.open.pop(next(iter(server.open), b''), None)\n",
    ),
    _freelance(
        "freelance-reply-of-an-ended-call-is-still-expected",
        ADDRESSED,
        "            server.open.pop(attempt.control, None)\n",
        "",
    ),
    _freelance(
        "freelance-pong-is-taken-for-a-reply",
        ADDRESSED,
        "            if len(frames) == 2 and frames[1] == wire.PONG:\n                self._heard(server, now)\n"
        "                continue\n            reply = wire.parse_addressed_reply(frames[1:])\n",
        "            if len(frames) == 2 and frames[1] == wire.PONG:\n                self._heard(server, now)\n"
        "                frames = [frames[0], next(iter(server.open), b''), wire.PONG]\n"
        "            reply = wire.parse_addressed_reply(frames[1:])\n",
    ),
    _freelance(
        "freelance-slow-server-is-asked-again",
        ADDRESSED,
        "            if call.tried.get(server) == server.port:\n                continue\n",
        "            if call.current is not None and call.current.server is server:\n                continue\n",
    ),
    _freelance(
        "freelance-attempt-does-not-turn-elsewhere",
        ADDRESSED,
        '        self._tell_attempt(call, attempt.server, "no answer")\n        self._turn_elsewhere(call, now)\n',
        "        call.current, call.deadline = None, call.expiry\n        self._deadlines.add(call)\n",
    ),
    _freelance(
        "freelance-dead-server-keeps-its-calls",
        ADDRESSED,
        "            if call.current is attempt or not call.open:\n                self._turn_elsewhere(call, now)\n\n"
        "    def _renew",
        "\n    def _renew",
    ),
    _freelance(
        "freelance-servers-are-not-pinged-while-idle",
        ADDRESSED,
        "                else:\n                    self._ping(server, now)\n            elif",
        "                else:\n                    server.pinged_at = now\n            elif",
    ),
    _freelance(
        "freelance-dead-server-goes-first",
        ADDRESSED,
        "        if server.is_down:\n            return 3\n",
        "        if server.is_down:\n            return 0\n",
    ),
    _freelance(
        "freelance-health-is-not-asked-for",
        ADDRESSED,
        "            rank = (self._rank(server, now), server in call.tried, server.turn)\n",
        "            rank = (0, server in call.tried, server.turn)\n",
    ),
    _freelance(
        "freelance-retries-are-not-counted",
        ADDRESSED,
        "call.attempts <= self.options.retries and now < call.expiry",
        "now < call.expiry",
    ),
    _freelance(
        "freelance-control-frame-is-that-of-the-call",
        ADDRESSED,
        "        control = wire.sequence(self._last_control)\n",
        "        control = wire.sequence(self._last_control % 4)\n",
    ),
    _freelance(
        "freelance-removed-server-keeps-its-calls",
        SERVERS,
        '            self._abandon(server, "removed", now)\n',
        "",
    ),
    _freelance(
        "freelance-server-does-not-answer-ping",
        SERVER,
        "            self._out.append([frames[0], wire.PONG])\n",
        "",
    ),
    _freelance(
        "freelance-shotgun-answer-is-not-matched",
        SHOTGUN,
        "            call = server.open.pop(reply[0], None)\n",
        "            call = server.open.pop(next(iter(server.open), b''), None)\n",
    ),
    _freelance(
        "freelance-shotgun-asks-one-server-only",
        SHOTGUN,
        "            self._ask(server, call)\n\n    def _ask",
        "            self._ask(server, call)\n            break\n\n    def _ask",
    ),
    _freelance(
        "freelance-shotgun-keeps-what-nobody-waits-for",
        SHOTGUN,
        "            if frames[1] in server.open:\n                self._send_to(server, frames)\n",
        "            self._send_to(server, frames)\n",
    ),
    _freelance(
        "freelance-failover-goes-on-asking-removed-servers",
        FAILOVER,
        "        self._forget(number)\n",
        "",
    ),
    _freelance(
        "freelance-failover-keeps-connections-of-removed-servers",
        FAILOVER,
        "            self._close(connection)\n            if call is not None and call.endpoint == number",
        "            if call is not None and call.endpoint == number",
    ),
    _freelance(
        "freelance-failover-takes-any-message",
        WIRE,
        "    return frames[1:] if len(frames) > 1 and not frames[0] else None\n",
        "    return frames or None\n",
    ),
)
