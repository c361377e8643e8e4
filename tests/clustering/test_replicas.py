"""Two replicas share the values that one device finds."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np


def test_two_replicas_hold_one_codebook():
    child = subprocess.run(
        [sys.executable, "-m", "tests.clustering.two_replicas"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr[-3000:]
    one, two = json.loads(child.stdout.splitlines()[-1])
    assert (one["replicas"], two["replicas"]) == (1, 2)
    for [alone], [first, second] in zip(one["kernels"], two["kernels"], strict=True):
        assert first == second
        assert len(np.unique(alone)) == 5
        assert np.mean(np.equal(alone, 0)) == 0.5
        np.testing.assert_allclose(first, alone, rtol=1e-4, atol=1e-5)
