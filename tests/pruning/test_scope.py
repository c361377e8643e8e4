"""Which weights are ranked together, and what that may empty."""

import keras
import numpy as np
import pytest

import tfcompress as tc


def model_of(*scales):
    """Returns a compiled model with a dense layer of each size of weights."""
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Dense(
            16,
            name=f"dense_{number}",
            kernel_initializer=keras.initializers.RandomUniform(-scale, scale),
        )
        for number, scale in enumerate(scales)
    ]
    model = keras.Sequential([keras.Input((16,)), *layers])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def zeros_after(model, prune):
    x = np.random.default_rng(0).normal(size=(32, 16))
    model.fit(x, np.zeros((32, 16)), epochs=2, verbose=0, callbacks=[prune])
    return [float(np.mean(layer.kernel.numpy() == 0)) for layer in model.layers]


def test_single_weights_are_ranked_all_together():
    prune = tc.PruneWeights(0.5, scope="global")
    small, large = zeros_after(model_of(1.0, 3.0), prune)
    assert small + large == pytest.approx(1.0, abs=0.01)
    assert small > 0.7


def test_lamp_ranks_them_by_what_they_are_to_their_layer():
    prune = tc.PruneWeights(0.5, "lamp", scope="global")
    zeros = zeros_after(model_of(1.0, 3.0), prune)
    assert sum(zeros) == pytest.approx(1.0, abs=0.01)
    assert zeros == pytest.approx([0.5, 0.5], abs=0.05)  # alike but for their size


def test_each_kernel_gets_the_same_by_default():
    zeros = zeros_after(model_of(1.0, 3.0), tc.PruneWeights(0.5))
    assert zeros == [0.5, 0.5]


@pytest.mark.parametrize("pattern", ["n_of_m", "channel", tc.Block((1, 4))])
def test_units_of_patterns_are_ranked_within_their_kernel(pattern):
    prune = tc.PruneWeights(0.5, pattern=pattern, filters="dense_[01]")
    zeros = zeros_after(model_of(1.0, 3.0, 1.0), prune)
    assert set(zeros[:2]) == {0.5}


def test_a_pattern_is_ranked_together_where_that_is_asked_for():
    prune = tc.PruneWeights(0.5, pattern=tc.Block((1, 4)), scope="global")
    small, large = zeros_after(model_of(1.0, 3.0), prune)
    assert small > large


def test_a_kernel_without_a_weight_is_named():
    with pytest.warns(tc.CompressionWarning, match=r"no weight is left in .*dense_0"):
        zeros = zeros_after(model_of(1e-6, 1.0), tc.PruneWeights(0.6, scope="global"))
    assert zeros[0] == 1.0


@pytest.mark.parametrize(
    "options", [{"scope": "layer"}, {"scope": "global", "criterion": "lamp"}]
)
def test_what_the_warning_advises_leaves_weights(options, recwarn):
    assert max(zeros_after(model_of(1e-6, 1.0), tc.PruneWeights(0.6, **options))) < 1.0
    assert not [w for w in recwarn if "no weight is left" in str(w.message)]
