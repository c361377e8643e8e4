"""Dead layers, channels and kernels: ranges of nothing that kernels can still use."""

import keras
import numpy as np
import pytest

from tfcompress import calibrate, export, finalize, verify
from tfcompress.core.errors import InvalidArgumentError

L = keras.layers
DEAD = keras.initializers.Constant(-1e3)


def dead_dense():
    features = keras.Input((8,), name="features")
    x = L.Dense(16, activation="relu", bias_initializer=DEAD, name="dead")(features)
    return features, [L.Dense(3, bias_initializer="ones")(L.BatchNormalization()(x))]


def dead_before_a_bias():
    """Equal biases, which the converter divides by the step of the first channel."""
    features = keras.Input((8,), name="features")
    x = L.Dense(16, activation="relu", bias_initializer=DEAD, name="dead")(features)
    return features, [L.Dense(3, bias_initializer="ones")(x)]


def dead_branches():
    features = keras.Input((5,), name="features")
    dead = L.Dense(4, activation="relu", bias_initializer=DEAD)(features)
    alive = L.Dense(4)(features)
    outputs = [
        L.Dense(2)(merge([dead, alive]))
        for merge in (L.Add(), L.Multiply(), L.Concatenate(), L.Subtract())
    ]
    return features, outputs


def dead_images():
    image = keras.Input((8, 8, 2), name="image")
    x = L.Conv2D(4, 3, bias_initializer=DEAD, name="dead")(image)
    x = L.ReLU()(L.BatchNormalization()(x))
    pooled = L.GlobalAveragePooling2D()(L.AveragePooling2D(2)(x))
    return image, [L.Conv2D(2, 1)(L.DepthwiseConv2D(3)(x)), L.Dense(2)(pooled)]


def many_layers_of_one_unit():
    features = x = keras.Input((1,), name="features")
    for _ in range(6):
        x = L.Dense(1, activation="relu")(x)
    return features, [L.Dense(1, activation="sigmoid")(x)]


def faint_channels():
    """What weight decay leaves: channels whose bias is all that there is."""
    features = keras.Input((6,), name="features")
    last = L.Dense(4, name="last")
    outputs = [last(L.Dense(8, activation="relu")(features))]
    kernel = np.array(last.kernel)
    kernel[:, 0] = 0.0
    kernel[:, 1] *= 1e-12
    kernel[:, 2] *= 1e-30
    last.set_weights([kernel, np.array([0.5, -0.75, 2.0, 0.1])])
    return features, outputs


@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    "make",
    [
        dead_dense,
        dead_before_a_bias,
        dead_branches,
        dead_images,
        many_layers_of_one_unit,
        faint_channels,
    ],
)
@pytest.mark.filterwarnings("ignore:Always zero")
def test_they_export_and_nothing_changes(make, tmp_path):
    keras.utils.set_random_seed(5)
    inputs, outputs = make()
    model = keras.Model(inputs, outputs)
    shape = (24, *inputs.shape[1:])
    data = np.random.default_rng(5).normal(size=shape).astype("float32")
    final = finalize(calibrate(model, data))
    artifact = export(final, tmp_path / "m.tflite")
    assert artifact.integer_coverage == 1.0
    verify(artifact, final, data).raise_if_failed()
    outputs = (keras.tree.flatten(one(data)) for one in (model, final))
    for info, wanted, got in zip(artifact.outputs, *outputs, strict=True):
        steps = np.abs(np.array(wanted) - np.array(got)).max() / info.step
        assert steps < 4


def test_ranges_that_live_stay_as_they_are():
    model = keras.Sequential([keras.Input((6,)), L.Dense(4, name="head")])
    data = np.random.default_rng(0).normal(size=(24, 6)).astype("float32")
    quantized = calibrate(model, data)
    before = quantized.get_layer("head_quantizer").learned_range()
    after = finalize(quantized).get_layer("head_quantizer").learned_range()
    assert after == before


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_ranges_that_are_not_finite_are_named(value):
    model = keras.Sequential([keras.Input((6,)), L.Dense(4, name="head")])
    data = np.random.default_rng(0).normal(size=(24, 6)).astype("float32")
    quantized = calibrate(model, data)
    rounding = quantized.get_layer("head_quantizer")
    rounding.ranges.assign(np.full(rounding.ranges.shape, value))
    with pytest.raises(InvalidArgumentError, match="head"):
        finalize(quantized)
