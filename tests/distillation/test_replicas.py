"""Two replicas learn what one device learns."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest


def test_two_replicas_equal_one_device():
    child = subprocess.run(
        [sys.executable, "-m", "tests.distillation.two_replicas"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    one, two = json.loads(child.stdout.splitlines()[-1])
    assert (one["replicas"], two["replicas"]) == (1, 2)
    for ours, theirs in zip(two["weights"], one["weights"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    for name in ("loss", "student_loss", "distillation_loss"):
        assert two["history"][name] == pytest.approx(one["history"][name], rel=1e-4)
