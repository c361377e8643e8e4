"""Channels that hold a constant: which of them go, and where their constant goes."""

import keras
import numpy as np
import pytest
from keras import layers

from tests.restructuring.zoo import randomize
from tfcompress.channels.shrink import shrink
from tfcompress.core.errors import CompressionWarning

DEAD = [1, 4, 5]


def image_model(bias=0.0, offset=0.0, **second):
    """A convolution with three zero filters, BatchNormalization, ReLU, a reader."""
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, name="first")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(**{"filters": 4, "kernel_size": 3, "name": "second", **second})(x)
    model = randomize(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)))
    first, norm = model.get_layer("first"), model.get_layer("norm")
    alive = ~np.isin(np.arange(8), DEAD)
    first.kernel.assign(first.kernel.numpy() * alive)
    first.bias.assign(np.where(alive, first.bias.numpy(), bias))
    norm.beta.assign(np.where(alive, norm.beta.numpy(), offset))
    norm.moving_mean.assign(np.where(alive, norm.moving_mean.numpy(), 0.0))
    return model


def check(model, filters):
    images = np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype("float32")
    smaller = shrink(model)
    assert smaller.get_layer("first").filters == filters
    np.testing.assert_allclose(smaller(images), model(images), atol=1e-5)
    return smaller


def test_zeros_go():
    check(image_model(), 5)


def test_a_negative_offset_is_zero_after_relu():
    check(image_model(bias=-0.1, offset=-0.5, padding="same"), 5)


def test_a_constant_goes_into_the_bias_of_the_reader():
    model = image_model(bias=0.3, offset=0.5)
    smaller = check(model, 5)
    shift = smaller.get_layer("second").bias - model.get_layer("second").bias
    assert np.abs(shift).min() > 1e-3


def test_a_reader_without_bias_gets_one():
    smaller = check(image_model(offset=0.5, use_bias=False), 5)
    assert smaller.get_layer("second").use_bias
    assert not shrink(image_model(use_bias=False)).get_layer("second").use_bias


def test_at_padded_borders_a_constant_is_not_one():
    check(image_model(offset=0.5, padding="same"), 8)
    check(image_model(offset=0.5, padding="same", kernel_size=1), 5)


def test_running_statistics_of_dead_filters_make_constants():
    model = image_model(padding="same", kernel_size=1)
    model.get_layer("norm").moving_mean.assign(np.full(8, 0.25))
    check(model, 5)


def test_an_activation_may_turn_zero_into_something():
    inputs = keras.Input((4,))
    x = layers.Dense(6, activation="sigmoid", name="first")(inputs)
    model = randomize(keras.Model(inputs, layers.Dense(2, name="second")(x)))
    first = model.get_layer("first")
    first.set_weights([w * (np.arange(6) < 4) for w in first.get_weights()])
    smaller = shrink(model)
    np.testing.assert_allclose(smaller(np.eye(4)), model(np.eye(4)), atol=1e-5)
    second, kernel = smaller.get_layer("second"), model.get_layer("second").kernel
    assert smaller.get_layer("first").units == 4
    np.testing.assert_allclose(
        second.bias,
        model.get_layer("second").bias + 0.5 * kernel.numpy()[4:].sum(axis=0),
        rtol=1e-5,
    )


def test_channels_that_nobody_reads_go():
    model = image_model()
    second = model.get_layer("second")
    second.kernel.assign(second.kernel.numpy() * (np.arange(8) != 0)[:, None])
    check(model, 4)


def test_a_residual_channel_needs_all_its_sources_to_be_zero():
    inputs = keras.Input((4,))
    a, b = (layers.Dense(6, name=name)(inputs) for name in "ab")
    x = layers.Add()([a, b])
    model = randomize(keras.Model(inputs, layers.Dense(2)(x)))
    for name, dead in (("a", [1, 2, 3]), ("b", [2, 3, 4])):
        layer, alive = model.get_layer(name), ~np.isin(np.arange(6), dead)
        layer.set_weights([w * alive for w in layer.get_weights()])
    smaller = shrink(model)
    assert smaller.get_layer("a").units == smaller.get_layer("b").units == 4
    np.testing.assert_allclose(smaller(np.eye(4)), model(np.eye(4)), atol=1e-5)


def test_a_layer_is_never_left_without_channels():
    model = image_model()
    model.get_layer("first").set_weights([np.zeros((3, 3, 2, 8)), np.zeros(8)])
    model.get_layer("norm").beta.assign(np.zeros(8))
    model.get_layer("norm").moving_mean.assign(np.zeros(8))
    check(model, 1)


def test_limits_and_filters_hold_here_too():
    model = image_model()
    kept = shrink(model, filters="second|first", max_layer_sparsity={"first": 0.25})
    assert kept.get_layer("first").filters == 6


def test_zeros_before_layer_normalization_stay():
    inputs = keras.Input((4,))
    x = layers.Dense(6, name="first")(inputs)
    x = layers.LayerNormalization(name="norm")(x)
    model = randomize(keras.Model(inputs, layers.Dense(2)(x)))
    model.get_layer("first").set_weights([np.zeros((4, 6)), np.arange(6.0)])
    assert shrink(model).get_layer("first").units == 6


@pytest.mark.parametrize("layer", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_recurrent_units_that_stay_at_zero_go(layer):
    inputs = keras.Input((5, 3))
    x = layer(6, return_sequences=True, name="cells")(inputs)
    model = randomize(keras.Model(inputs, layers.Dense(2)(x)))
    cell = model.get_layer("cells").cell
    # Only the gate that proposes a new state is zero; the others do not matter then.
    gates = cell.kernel.shape[-1] // 6
    proposing = {1: 0, 3: 2, 4: 2}[gates]
    dead = proposing * 6 + np.array([0, 5])
    alive = ~np.isin(np.arange(6 * gates), dead)
    for variable in (cell.kernel, cell.recurrent_kernel, cell.bias):
        variable.assign(variable.numpy() * alive)
    smaller = shrink(model)
    series = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    assert smaller.get_layer("cells").units == 4
    np.testing.assert_allclose(smaller(series), model(series), atol=1e-5)


def test_channels_that_make_a_mask_stay():
    inputs = keras.Input((3, 4))
    x = layers.Dense(4, use_bias=False, name="first")(inputs)
    x = layers.LSTM(4, name="cells")(layers.Masking()(x))
    model = randomize(keras.Model(inputs, layers.Dense(2)(x)))
    model.get_layer("first").kernel.assign(np.diag([1.0, 1.0, 0.0, 0.0]))
    with pytest.warns(CompressionWarning, match="first .feeds 'not_equal"):
        assert shrink(model).get_layer("first").units == 4
