"""Two replicas share the values that one device finds."""

import numpy as np

from tests.replicas import on_one_and_two


def test_two_replicas_hold_one_codebook():
    one, two = on_one_and_two("tests.clustering.two_replicas")
    for [alone], [first, second] in zip(one["kernels"], two["kernels"], strict=True):
        assert first == second
        assert len(np.unique(alone)) == 5
        assert np.mean(np.equal(alone, 0)) == 0.5
        np.testing.assert_allclose(first, alone, rtol=1e-4, atol=1e-5)
