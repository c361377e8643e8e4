"""Two replicas learn what one device learns."""

import numpy as np
import pytest

from tests.replicas import on_one_and_two


def test_two_replicas_equal_one_device():
    one, two = on_one_and_two("tests.distillation.two_replicas")
    for ours, theirs in zip(two["weights"], one["weights"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    for name in ("loss", "student_loss", "distillation_loss"):
        assert two["history"][name] == pytest.approx(one["history"][name], rel=1e-4)
