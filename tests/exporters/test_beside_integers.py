"""Layers in float beside integers: the converter rounds none of their numbers."""

import keras
import numpy as np
import pytest

from tfcompress import calibrate, export, finalize
from tfcompress.exporters.tflite.divergence import layer_differences

L = keras.layers
pytestmark = pytest.mark.export

ROWS, IMAGES = (6, 6), (6, 6, 3)


def transposed(n, **options):
    kind = L.Conv1DTranspose if n == 1 else L.Conv2DTranspose
    return kind(3, 2, **options)


@pytest.mark.sweep(4)
@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        (IMAGES, lambda: transposed(2)),
        ((2, *ROWS), lambda: L.ConvLSTM1D(3, 1)),
        (ROWS, lambda: L.Conv1D(3, 2, activation="tanh")),
        (IMAGES, lambda: transposed(2, strides=2, activation="tanh")),
        (ROWS, lambda: transposed(1, activation="sigmoid")),
        (ROWS, lambda: L.Conv1D(3, 2, activation="sigmoid")),
        (ROWS, lambda: L.DepthwiseConv1D(2, activation="tanh")),
        (ROWS, lambda: L.SeparableConv1D(3, 2, activation="tanh")),
        (IMAGES, lambda: L.ConvLSTM1D(3, 1, activation="relu")),
    ],
)
def test_layers_left_in_float_compute_as_in_keras(shape, layer, tmp_path):
    keras.utils.set_random_seed(0)
    before = L.Conv1D if shape == ROWS else L.Conv2D
    inputs = keras.Input(shape)
    x = before(4, 1, activation="relu", name="before")(inputs)
    chosen = layer()
    x = L.Flatten()(chosen(x))
    model = keras.Model(inputs, L.Dense(5, name="after")(x))
    data = np.random.default_rng(0).normal(size=(48, *shape)).astype("float32")
    aware = calibrate(model, data, filters=lambda one: one.name != chosen.name)
    final = finalize(aware)
    artifact = export(final, tmp_path / "m.tflite")
    assert 0 < artifact.integer_coverage < 1
    for place in layer_differences(artifact, final, data):
        assert place.max_steps < 1e-3, str(place)
