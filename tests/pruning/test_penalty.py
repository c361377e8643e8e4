"""Penalties: one step against the formula, zeros in a fit, and what is refused."""

import keras
import numpy as np
import pytest

from tests.pruning.pruned import compiled, mlp, sparsity
from tfcompress import InvalidArgumentError, PruneWeights
from tfcompress.pruning.criteria import Magnitude
from tfcompress.pruning.patterns import Block, Channel, Unstructured
from tfcompress.pruning.penalty import PenalizeWeights
from tfcompress.schedules import MagnitudeThreshold

RATE, STRENGTH = 0.5, 0.2


def one_step(pattern, norm, values):
    """Penalizes `values` in a step whose gradient is zero."""
    model = keras.Sequential([keras.Input((values.shape[0],)), keras.layers.Dense(16)])
    model = keras.Sequential([model, keras.layers.Dense(1, trainable=False)])
    model.build((None, values.shape[0]))
    kernel = model.layers[0].layers[0].kernel
    kernel.assign(values)
    model.compile(keras.optimizers.SGD(RATE), "mse")
    x = np.zeros((4, values.shape[0]))
    callback = PenalizeWeights(STRENGTH, norm, pattern)
    model.fit(x, np.zeros((4, 1)), verbose=0, callbacks=[callback])
    assert kernel.constraint is None
    return kernel.numpy()


@pytest.fixture
def values(rng):
    return rng.normal(scale=0.2, size=(8, 16)).astype("float32")


def shrunk(norms, size):
    pull = RATE * STRENGTH * np.sqrt(size)
    return np.maximum(0, 1 - pull / norms)


def test_l1_is_soft_thresholding(values):
    expected = np.sign(values) * np.maximum(np.abs(values) - RATE * STRENGTH, 0)
    found = one_step(Unstructured(), 1, values)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert 0.2 < np.mean(found == 0) < 0.8


def test_l2_is_decay(values):
    found = one_step("unstructured", 2, values)
    np.testing.assert_allclose(found, values / (1 + RATE * STRENGTH), rtol=1e-5)


def test_group_lasso_on_channels(values):
    values[:, ::2] *= 0.2
    factors = shrunk(np.linalg.norm(values, axis=0), 8)
    found = one_step(Channel(round_to=1), 1, values)
    np.testing.assert_allclose(found, values * factors, atol=1e-6)
    assert np.all(found[:, ::2] == 0)
    assert not np.any(found[:, 1::2] == 0)


def test_group_lasso_on_blocks(values):
    norms = np.linalg.norm(values.reshape(8, 4, 4), axis=2, keepdims=True)
    expected = values.reshape(8, 4, 4) * shrunk(norms, 4)
    found = one_step(Block((1, 4)), 1, values)
    np.testing.assert_allclose(found, expected.reshape(8, 16), atol=1e-6)


def test_a_penalty_makes_ready_for_a_threshold(fit):
    model = compiled(mlp(), keras.optimizers.SGD(0.05))
    fit(
        model,
        PenalizeWeights(0.05, filters="first"),
        PruneWeights(
            MagnitudeThreshold(0.01, end_step=1.0), Magnitude(), filters="first"
        ),
        epochs=4,
    )
    kernel = model.layers[0].kernel
    assert 0.15 < sparsity(kernel) < 0.9
    assert np.abs(kernel.numpy()[kernel.numpy() != 0]).min() >= 0.01
    assert sparsity(model.layers[1].kernel) == 0.0


def test_a_threshold_above_all_weights_leaves_one(fit):
    model = fit(mlp(), PruneWeights(MagnitudeThreshold(100.0, frequency=1)))
    assert [np.count_nonzero(layer.kernel) for layer in model.layers] == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0,), "must not be negative"),
        (("1",), "must not be negative"),
        ((float("nan"),), "must not be negative"),
        ((0.1, 3), "must be 1 or 2"),
        ((0.1, 1, "n_of_m"), "cannot have the pattern NOfM"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        PenalizeWeights(*arguments)
