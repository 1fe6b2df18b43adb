"""The benchmark runs, with every kind of side. What it measures does not matter here."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
from pathlib import Path

from benchmarks.freelance import ROWS
from benchmarks.rows import OURS, PEER, RAW
from tests.cli.processes import clean_environment

ROOT = Path(__file__).parents[2]


def test_the_addressed_model_is_measured_on_every_side(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    peer = shlex.join([sys.executable, "-m", "zpatterns", "freelance", "server", "--bind", endpoint])
    path = tmp_path / "figures.json"
    result = subprocess.run(
        [
            *(sys.executable, str(ROOT / "benchmarks" / "freelance.py"), "--quick", "--json", str(path)),
            *("--peer", peer, "--peer-endpoint", endpoint),
        ],
        capture_output=True,
        text=True,
        cwd="/",
        env=clean_environment(),
        timeout=55.0,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads(path.read_text())["rows"]
    assert [row["row"] for row in rows] == list(ROWS)
    for row in rows:
        for taken in row["measures"]:
            assert taken["values"].keys() == {OURS, RAW, PEER}, taken["measure"]
            assert all(value > 0.0 for values in taken["values"].values() for value in values)
