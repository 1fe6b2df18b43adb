"""Half of a pair of Clone servers beside one that is stopped, ill or strange."""

from __future__ import annotations

from dataclasses import replace

from tests.clone.pair_harness import ACTIVE, Half, state
from zpatterns.core import Open


def test_states_that_come_over_ipc_come_from_this_machine_and_so_does_the_map():
    half = Half("backup")
    half.core.star.options = replace(half.core.star.options, remote="ipc:///run/states")
    half.hear(state(ACTIVE))
    assert [command.endpoint for command in half.asked(Open)] == ["tcp://127.0.0.1:5567", "tcp://127.0.0.1:5566"]
