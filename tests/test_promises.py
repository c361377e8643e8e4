"""A small share of what benchmarks/promises.py attacks, each time."""

import json
import os
import subprocess
import sys

import pytest

from tests.scripts import ROOT

pytestmark = pytest.mark.export


def result_of(tmp_path, *arguments):
    path = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/promises.py", *arguments, "--json", str(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""},
        capture_output=True,
        text=True,
    )
    assert path.exists(), done.stderr[-3000:]
    result = json.loads(path.read_text())
    assert result["findings"] == []
    assert done.returncode == 0
    return result


def test_operators_of_the_whole_list(tmp_path):
    result = result_of(tmp_path, "operations", "--count", "60", "--seed", "11")
    assert result["outcomes"]["refused by name"] > 5
    assert result["outcomes"]["ran"] > 0


@pytest.mark.slow
def test_one_writer_of_eight_processes(tmp_path):
    assert result_of(tmp_path, "writers", "--count", "60")["writers"] == 8


@pytest.mark.slow
def test_kills_at_any_time(tmp_path):
    result = result_of(tmp_path, "kills", "--count", "24", "--seed", "5")
    assert sum(result["kills"].values()) == 24


@pytest.mark.slow
def test_threads_on_one_runner(tmp_path):
    assert len(result_of(tmp_path, "threads", "--count", "50")["seconds"]) == 10
