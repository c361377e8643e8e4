"""Finalized models add up the very integers that kernels on the device do."""

import keras
import numpy as np
import pytest

import tfcompress
from tests.quantization.conftest import as_numpy
from tfcompress.core.errors import CompressionWarning
from tfcompress.layers import macs
from tfcompress.quantization.integers.linear import IntegerLinear
from tfcompress.quantization.integers.sums import (
    IntegerSum,
    SumScales,
    plain_arithmetic,
)

L = keras.layers


def finalized(layer, samples):
    x = keras.Input(samples.shape[1:], name="x")
    model = keras.Model(x, layer(x))
    aware = tfcompress.quantize_aware(model)
    aware(samples, training=True)
    return model, tfcompress.finalize(aware)


def test_thousands_of_summands_are_added_exactly():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    # All of one sign, as behind a ReLU: float32 rounds large sums the more.
    samples = rng.uniform(0, 3, (256, 6000)).astype("float32")
    _, final = finalized(L.Dense(8, kernel_initializer="uniform"), samples)
    given, linear, rounding = final.layers[-3:]
    assert isinstance(linear, IntegerLinear)
    step = np.asarray(linear.kernel_step)
    kernel = np.rint(as_numpy(linear.layer.kernel) / step).astype("int64")
    inputs = as_numpy(keras.Model(final.input, given.output)(samples))
    sums = np.rint(inputs / given.step()).astype("int64") @ kernel
    unit = given.step() * step
    with plain_arithmetic():
        floats = as_numpy(linear(inputs, steps=(1.0, 1.0)))
    assert (
        np.abs(floats / unit - sums).max() > 0.5
    )  # what is read off it is a neighbour

    source, own, target = (np.float32(s) for s in (given.step(), step, rounding.step()))
    steps = np.rint(sums.astype("float32") * (source * own / target))
    expected = as_numpy(rounding(steps.astype("float32") * target))
    np.testing.assert_array_equal(as_numpy(final(samples)), expected)


@pytest.mark.parametrize(
    "layer",
    [
        L.Conv2D(4, 3, activation="relu", bias_initializer="uniform"),
        L.DepthwiseConv2D(3, depth_multiplier=2, bias_initializer="uniform"),
        L.Conv2DTranspose(3, 2, strides=2, bias_initializer="uniform"),
        L.Conv2D(4, 3, activation="relu6"),
    ],
    ids=lambda layer: f"{type(layer).__name__}_{layer.activation.__name__}",
)
def test_integers_are_what_the_layer_computes(layer):
    keras.utils.set_random_seed(0)
    samples = np.random.default_rng(0).normal(size=(4, 6, 6, 5)).astype("float32")
    model, final = finalized(layer, samples)
    with plain_arithmetic():
        plain = as_numpy(final(samples))
    step = final.layers[-1].step()
    assert np.abs(as_numpy(final(samples)) - plain).max() <= 1.001 * step
    # In steps: TensorFlow's rounding puts out floats that differ in the last bit.
    integers = [np.rint(values / step) for values in (as_numpy(final(samples)), plain)]
    assert np.mean(integers[0] != integers[1]) < 0.01
    assert macs(final) == macs(model)
    again = keras.models.model_from_json(final.to_json())
    again.set_weights(final.get_weights())
    np.testing.assert_array_equal(as_numpy(again(samples)), as_numpy(final(samples)))


def test_a_channel_without_weights_puts_out_its_bias():
    keras.utils.set_random_seed(0)
    samples = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    dense = L.Dense(2)
    dense.build((None, 5))
    dense.set_weights([np.array([[0.0, 0.5]] * 5), np.array([0.7, 0.1])])
    _, final = finalized(dense, samples)
    off = np.abs(as_numpy(final(samples))[:, 0] - 0.7)
    assert off.max() <= 0.5 * final.layers[-1].step()


@pytest.mark.export
@pytest.mark.parametrize("pool", [True, False])
def test_means_are_rounded_as_reductions_are(pool, tmp_path):
    # Each has hundreds of sums half-way between two values; zero points decide them.
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = keras.Input((7, 7, 64), name="x")
    y = L.Reshape((7, 7, 64))(x)  # a model needs a layer
    mean = L.GlobalAveragePooling2D()(y) if pool else keras.ops.mean(y, (1, 2))
    aware = tfcompress.quantize_aware(keras.Model(x, mean))
    samples = (2.1 * rng.normal(size=(1000, 7, 7, 64)) - 0.5).astype("float32")
    aware(samples[:64], training=True)
    final = tfcompress.finalize(aware)
    file = tfcompress.load(tfcompress.export(final, tmp_path / "mean.tflite"))
    np.testing.assert_array_equal(final.predict(samples, verbose=0), file(samples))


def equals_its_file(model, samples, path):
    aware = tfcompress.quantize_aware(model)
    aware(samples, training=True)
    final = tfcompress.finalize(aware)
    file = tfcompress.load(tfcompress.export(final, path))
    np.testing.assert_array_equal(final.predict(samples, verbose=0), file(samples))
    return final


@pytest.mark.export
def test_averages_over_the_border_are_rounded_as_kernels_do(tmp_path):
    keras.utils.set_random_seed(0)
    samples = np.random.default_rng(0).normal(size=(64, 9, 9, 8)).astype("float32")
    x = keras.Input((9, 9, 8), name="x")
    y = L.Conv2D(16, 3, activation="relu")(x)
    y = L.AveragePooling2D(3, strides=2, padding="same")(y)
    equals_its_file(keras.Model(x, L.Conv2D(8, 1)(y)), samples, tmp_path / "m.tflite")


@pytest.mark.export
def test_equal_activations_are_one_before_rounding(tmp_path):
    keras.utils.set_random_seed(0)
    samples = np.random.default_rng(0).normal(size=(64, 9, 9, 3)).astype("float32")
    x = keras.Input((9, 9, 3), name="x")
    y = L.Conv2D(16, 3)(x)
    branches = [L.Conv2D(8, 1)(L.Activation("relu")(y)) for _ in range(3)]
    final = equals_its_file(
        keras.Model(x, L.Add()(branches)), samples, tmp_path / "m.tflite"
    )
    assert sum(isinstance(layer, L.Activation) for layer in final.layers) == 1


@pytest.mark.export
def test_tiny_kernels_have_the_converters_smallest_scale(tmp_path):
    # As ConvNeXt's branches before training, which are scaled by 1e-6.
    keras.utils.set_random_seed(0)
    samples = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    x = keras.Input((6,), name="x")
    tiny = L.Dense(8, kernel_initializer=keras.initializers.RandomNormal(0, 1e-7))
    model = keras.Model(x, tiny(x))
    with pytest.warns(CompressionWarning, match="no scale for numbers so small"):
        equals_its_file(model, samples, tmp_path / "m.tflite")


def test_lookups_round_ties_away_from_zero():
    # A random model had log(x) = -8.50000035 steps, of which float32 makes -8.5.
    layer = IntegerSum(SumScales(None, 2.0, away=True), 0.5)
    values = layer(np.float32([-4.25, 4.25, 0.2, -0.26])).numpy()
    assert values.tolist() == [-4.5, 4.5, 0.0, -0.5]


@pytest.mark.export
def test_a_relu_on_its_own_multiplies_in_fixed_point(tmp_path):
    # In some of the pairs of scales one of 255 values is next to half-way.
    rng = np.random.default_rng(0)
    inputs = [keras.Input((4,), name=f"x{i:02d}") for i in range(12)]
    made = [branch for x in inputs for branch in (L.ReLU()(x), L.Reshape((4,))(x))]
    model = keras.Model(inputs, L.Concatenate()([L.Dense(2)(x) for x in made]))
    samples = []
    for _ in inputs:
        values = rng.normal(size=(1000, 4)) * rng.uniform(0.3, 3) + rng.uniform(-0.5, 1)
        low, high = -rng.uniform(1, 5), rng.uniform(1, 5)
        samples.append(values.clip(low, high).astype("float32"))
    equals_its_file(model, samples, tmp_path / "m.tflite")
