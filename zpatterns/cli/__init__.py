"""The ``zpatterns`` command. One module a pattern; each is loaded when it is used, so that help comes at once."""

from __future__ import annotations

from zpatterns.cli.base import LazyGroup, version_option

__all__ = ["main"]

main = LazyGroup(
    name="zpatterns",
    help="Reliable request-reply over ZeroMQ: brokers, workers and clients that survive a kill.",
    lazy={
        "bstar": ("zpatterns.cli.bstar:bstar", "Binary Star: a pair of servers, of which one serves."),
        "clone": ("zpatterns.cli.clone:clone", "Clone: a map that a server shares with its clients (RFC 12)."),
        "demo": ("zpatterns.cli.demo:demo", "See a worker killed in mid-request, and nothing lost."),
        "freelance": ("zpatterns.cli.freelance:freelance", "Freelance: several like servers and no broker (RFC 10)."),
        "mdp": ("zpatterns.cli.mdp:mdp", "Majordomo: services through a broker (RFCs 7, 8 and 18)."),
        "pirate": ("zpatterns.cli.pirate:pirate", "Pirates: plain requests that are tried again (RFC 6)."),
    },
    params=[version_option()],
    context_settings={"auto_envvar_prefix": "ZPATTERNS"},
    epilog="'zpatterns COMMAND --help' tells more. Exit codes: 0 fine; 1 the handler failed; 2 usage; "
    "3 no such service; 4 no answer in time; 5 a bad address.",
)
