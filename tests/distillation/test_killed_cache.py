"""A process that is killed while it caches loses what it had not yet kept, only."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.distillation.dying_cache import BATCHES, make
from tfcompress.distillation.teachers.cache import cache_teacher


def lines_of(log):
    return [int(line) for line in log.read_text().splitlines()]


@pytest.mark.slow
def test_kill_and_resume(tmp_path):
    path, log = tmp_path / "cache", tmp_path / "log"
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.distillation.dying_cache", path, log],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # In the middle: at least one commit, and batches after it.
        while not log.exists() or len(lines_of(log)) < 13:
            assert child.poll() is None, child.stderr.read()[-3000:]
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    header = json.loads((path / "cache.json").read_text())
    kept = len(header["batches"])
    assert not header["complete"]
    assert kept % 5 == 0
    assert 10 <= kept < BATCHES
    log.unlink()
    teacher, dataset = make(log, 0.0)
    resumed = cache_teacher(teacher, dataset, path)
    assert lines_of(log) == list(range(kept, BATCHES))
    cache_teacher(teacher, dataset, tmp_path / "unbroken")
    for name in ("0.bin", "cache.json"):
        ours, theirs = (d / name for d in (path, tmp_path / "unbroken"))
        assert ours.read_bytes() == theirs.read_bytes()
    log.unlink()
    assert sum(len(x["inputs"]) for (x,) in resumed) == len(list(dataset.unbatch()))
    assert not log.exists()
