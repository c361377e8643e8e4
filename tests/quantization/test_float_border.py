"""What stays in float is computed in float by the file as well, and exactly."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.float_border import FloatBorder

pytestmark = [
    pytest.mark.export,
    pytest.mark.filterwarnings("ignore::tfcompress.CompressionWarning"),
]


def _floor(x):
    return ops.floor(x * 2.0)


def _difference_of_a_jump(x):
    bent = ops.gelu(x)
    return layers.Subtract(name="rest")([bent, ops.floor(bent)])


def test_masks_pass_a_border_without_a_word(rng):
    inputs = keras.Input((5, 4), name="x")
    x = layers.LSTM(3)(layers.Masking(name="masking")(inputs))
    data = rng.normal(size=(16, 5, 4)).astype("float32")
    data[:, 3:] = 0.0
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tfcompress.finalize(tfcompress.calibrate(keras.Model(inputs, x), data))
    assert not [w for w in told if "mask information" in str(w.message)]


ISLANDS = {
    "jump": _floor,
    "difference of a jump": _difference_of_a_jump,
    # To the converter: comparisons with constants, and choices, which it would round.
    "several operations": lambda x: layers.Activation("sparse_plus")(x),
    "pieces": lambda x: layers.AdaptiveAveragePooling1D(3)(x),
    "statistics": lambda x: ops.var(x, axis=1, keepdims=True),
}


@pytest.mark.sweep(4)
@pytest.mark.parametrize("island", ISLANDS)
def test_an_island_in_float_is_equal_in_the_file(island, tmp_path, rng):
    inputs = keras.Input((5, 6), name="x")
    x = layers.Dense(6, name="first")(inputs)
    outputs = layers.Dense(3, name="last")(ISLANDS[island](x))
    model = keras.Model(inputs, outputs)
    data = rng.normal(size=(64, 5, 6)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, data))
    artifact = tfcompress.export(final, tmp_path / "model.tflite")
    difference = tfcompress.load(artifact.path)(data) - final.predict(data, verbose=0)
    assert np.abs(difference).max() < 0.001 * artifact.outputs[0].step
    # Nothing in between is an integer: no scale that nobody has chosen.
    by_name = {operator.name: operator.activations for operator in artifact.operators}
    for name in ("LESS", "SELECT", "SELECT_V2", "MEAN", "AVERAGE_POOL_2D"):
        assert "int8" not in by_name.get(name, ())


def test_layers_that_filters_leave_out_are_computed_in_float(tmp_path, rng):
    inputs = keras.Input((8,), name="x")
    x = layers.Dense(8, activation="relu", name="first")(inputs)
    x = layers.Dense(8, name="left_out")(x)
    model = keras.Model(inputs, layers.Dense(3, name="last")(x))
    data = rng.normal(size=(64, 8)).astype("float32")
    aware = tfcompress.calibrate(model, data, filters=["first", "last"])
    final = tfcompress.finalize(aware)
    artifact = tfcompress.export(final, tmp_path / "model.tflite")
    weights = [
        operator.weights
        for operator in artifact.operators
        if operator.name == "FULLY_CONNECTED"
    ]
    assert any("float32" in kinds for kinds in weights)
    difference = tfcompress.load(artifact.path)(data) - final.predict(data, verbose=0)
    assert np.abs(difference).max() < 1.001 * artifact.outputs[0].step


def test_a_border_changes_nothing_but_what_the_converter_sees():
    values = np.array([[0.1, -3.0, 1e30]], "float32")
    assert np.array_equal(FloatBorder()(values), values)


def test_a_final_range_puts_out_what_a_runtime_makes_of_integers(rng):
    layer = FakeQuantize(fixed_range=(-0.16474, 3.0667), frozen=True)
    layer.build((None,))
    step = np.float32(layer.step())
    values = layer(rng.normal(size=1000).astype("float32") * 3)
    integers = np.round(np.asarray(values) / step)
    assert np.array_equal(integers.astype("float32") * step, values)
    assert integers.min() == -13
    assert integers.max() == 242
