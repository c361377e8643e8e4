"""Recurrent layers: all integers, the outputs of the layer they stand for."""

import keras
import numpy as np
import pytest

import tfcompress
from tests.quantization.conftest import as_numpy
from tests.quantization.test_transformers import shipped

L = keras.layers

SAMPLES = np.random.default_rng(0).normal(size=(48, 6, 4)).astype("float32")


def classifier(*recurrent):
    keras.utils.set_random_seed(3)
    x = keras.Input((6, 4), name="series")
    y = x
    for layer in recurrent:
        y = layer(y)
    return keras.Model(x, L.Dense(3, name="state")(y))


MODELS = {
    "lstm": lambda: classifier(
        L.LSTM(8, return_sequences=True, name="first"), L.LSTM(8, name="second")
    ),
    "gru": lambda: classifier(L.GRU(8, bias_initializer="uniform", name="gru")),
    "bilstm": lambda: classifier(
        L.Bidirectional(L.LSTM(6, return_sequences=True), name="both"),
        L.GlobalAveragePooling1D(),
    ),
    "simple": lambda: classifier(L.SimpleRNN(8, go_backwards=True, name="rnn")),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_expanded_layer_computes_the_same(name):
    model = MODELS[name]()
    for variable in model.weights:
        variable.assign(variable + 0.05)  # biases too
    quantized = tfcompress.quantize_aware(model)
    expected, got = as_numpy(model(SAMPLES)), as_numpy(quantized(SAMPLES))
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()
    assert len(quantized.trainable_variables) >= len(model.trainable_variables)


SLOW = ("lstm", "bilstm")


@pytest.mark.export
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in MODELS],
)
def test_file_equals_finalized_model(name, tmp_path):
    artifact, _, result = shipped(MODELS[name](), SAMPLES, tmp_path)
    assert artifact.integer_coverage == 1.0
    assert result.agreement >= 0.98
    assert result.max_error_steps <= 1.001


def test_what_cannot_be_unrolled_stays_in_float():
    x = keras.Input((None, 4), name="series")
    model = keras.Model(x, L.Dense(2)(L.LSTM(3, name="open")(x)))
    with pytest.warns(tfcompress.CompressionWarning, match="open"):
        tfcompress.quantize_aware(model)
