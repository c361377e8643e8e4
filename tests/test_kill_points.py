"""Processes that are really killed, and resumed by new ones."""

import json
import subprocess
import sys

import pytest

from tests.scripts import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("technique", ["cluster", "all together"])
def test_killed_and_resumed_equals_unbroken(tmp_path, technique):
    path = tmp_path / "kills.json"
    options = ["--techniques", technique, "--chains", "1", "--kills", "2"]
    child = subprocess.run(
        [sys.executable, ROOT / "benchmarks/kill_points.py", "--json", path, *options],
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    chains = json.loads(path.read_text())
    assert [chain["resume"] for chain in chains] == ["backup", "checkpoint"]
    for chain in chains:
        assert chain["killed"] == 2, chain
        assert chain["equal"], chain
