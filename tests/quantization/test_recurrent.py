"""Recurrent layers: all integers, the outputs of the layer they stand for."""

import keras
import numpy as np
import pytest

import tfcompress
from tests.quantization.conftest import as_numpy
from tests.quantization.test_transformers import shipped
from tfcompress.core.graph import build, trace
from tfcompress.quantization.recurrent_steps import RecurrentSteps, unrolled

L = keras.layers

# Files hold one step after the other: a first one, a last one, and two between.
LENGTH = 4
SAMPLES = np.random.default_rng(0).normal(size=(48, LENGTH, 4)).astype("float32")


def classifier(*recurrent):
    keras.utils.set_random_seed(3)
    x = keras.Input((LENGTH, 4), name="series")
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


def masked():
    """Reads words, of which 0 is none. (An LSTM's loop sees its last, unread state.)"""
    x = keras.Input((LENGTH,), dtype="int32", name="words")
    y = L.Embedding(9, 4, "random_normal", mask_zero=True, name="vectors")(x)
    return keras.Model(x, L.Dense(3, name="logits")(L.GRU(5, name="rnn")(y)))


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    ("build_model", "how"),
    [
        (MODELS["gru"], {"jit_compile": True}),
        pytest.param(masked, {"run_eagerly": True}, marks=pytest.mark.slow),
    ],
    ids=["gru_in_xla", "masked_gru"],
)
def test_loop_trains_as_the_steps_one_after_the_other(build_model, how):
    """The loop against the steps, run one by one: losses, weights, ranges, outputs."""
    keras.utils.set_random_seed(3)
    words = np.random.default_rng(0).integers(0, 9, (48, LENGTH)).astype("int32")
    samples = words if build_model is masked else SAMPLES
    loop = tfcompress.quantize_aware(build_model())
    assert any(isinstance(layer, RecurrentSteps) for layer in loop.layers)
    steps = build(unrolled(trace(loop)))
    losses = []
    for model, way in ((loop, how), (steps, {"run_eagerly": True})):
        model.compile(keras.optimizers.SGD(0.1), "mse", **way)
        target = np.ones((len(samples), *model.output_shape[1:]))
        losses.append([float(model.train_on_batch(samples, target)) for _ in range(2)])
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert losses[0][-1] < losses[0][0]
    got = {tuple(w.path.split("/")[-2:]): as_numpy(w) for w in loop.weights}
    for weight in steps.weights:
        own = got[tuple(weight.path.split("/")[-2:])]
        np.testing.assert_allclose(own, as_numpy(weight), rtol=1e-4, atol=1e-5)
    # The last bit decides on which side of a half a value is rounded.
    step = loop.layers[-1].step()
    off = np.abs(as_numpy(loop(samples)) - as_numpy(steps(samples))) / step
    assert off.max() <= 1.01
    assert np.mean(off > 0.01) < 0.02


def test_loop_is_saved_and_frozen_with_its_model(tmp_path):
    model = tfcompress.quantize_aware(MODELS["simple"]())
    model.compile("sgd", "mse")
    freeze = tfcompress.FreezeQuantization(ranges_at_epoch=1)
    target = np.zeros((len(SAMPLES), 3))
    model.fit(SAMPLES, target, epochs=2, verbose=0, callbacks=[freeze])
    (rnn,) = (one for one in model.layers if isinstance(one, RecurrentSteps))
    batches = [as_numpy(v) for v in rnn.weights if v.name == "batches"]
    assert batches
    assert max(b.max() for b in batches) == 2  # those of the first epoch
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(as_numpy(again(SAMPLES)), as_numpy(model(SAMPLES)))


@pytest.mark.slow
def test_sequences_of_hundreds_of_steps():
    keras.utils.set_random_seed(0)
    samples = np.random.default_rng(0).normal(size=(8, 300, 2)).astype("float32")
    x = keras.Input((300, 2), name="series")
    model = keras.Model(x, L.Dense(2, name="logits")(L.SimpleRNN(3, name="rnn")(x)))
    aware = tfcompress.quantize_aware(model)
    aware(samples, training=True)
    final = tfcompress.finalize(aware)
    off = np.abs(as_numpy(final(samples)) - as_numpy(aware(samples)))
    assert off.max() <= 2.01 * aware.layers[-1].step()


SLOW = ("lstm", "bilstm")


@pytest.mark.sweep(2)
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


def streaming(layer, states):
    """Gets its state from the application, and gives it back."""
    x = keras.Input((3, 4), name="series")
    before = [keras.Input((5,), name=f"state_{i}") for i in range(states)]
    y, *after = layer(x, initial_state=before)
    return keras.Model([x, *before], [L.Dense(2)(y), *after])


def translator():
    source, target = keras.Input((4, 3)), keras.Input((3, 3))
    _, *states = L.LSTM(5, return_state=True, name="encoder")(source)
    decoder = L.LSTM(5, return_sequences=True, return_state=True, name="decoder")
    y, *_ = decoder(target, initial_state=states)
    return keras.Model([source, target], L.Dense(2)(y))


def both_ways(merge_mode, **other):
    x = keras.Input((3, 4), name="series")
    layer = L.GRU(5, return_sequences=True, return_state=True)
    made = L.Bidirectional(layer, merge_mode=merge_mode, **other)(x)
    return keras.Model(x, [L.Dense(2)(one) for one in made])


def masked_from_a_state():
    words, state = keras.Input((4,), dtype="int32"), keras.Input((5,))
    large = keras.initializers.RandomNormal(stddev=1.0, seed=1)
    embedding = L.Embedding(9, 5, large, mask_zero=True)
    gru = L.GRU(5, return_sequences=True, zero_output_for_mask=True)
    mask = embedding.compute_mask(words)
    y = gru(embedding(words), initial_state=state, mask=mask)
    return keras.Model([words, state], L.Dense(2)(y))


def masked_with_states():
    """The outputs keep the mask of the sequence, whatever is returned beside them."""
    words = keras.Input((4,), dtype="int32")
    large = keras.initializers.RandomNormal(stddev=1.0, seed=1)
    x = L.Embedding(9, 5, large, mask_zero=True)(words)
    y, state = L.GRU(5, return_sequences=True, return_state=True)(x)
    return keras.Model(words, [L.Dense(2)(L.GRU(5)(y)), state])


def cells(*kinds, length=3, **options):
    x = keras.Input((length, 4), name="series")
    return keras.Model(x, L.Dense(2)(L.RNN(list(kinds), **options)(x)))


STREAMS = {
    "lstm": lambda: streaming(L.LSTM(5, return_state=True), 2),
    "gru": lambda: streaming(L.GRU(5, return_state=True), 1),
    "reset_before": lambda: streaming(
        L.GRU(5, return_state=True, reset_after=False), 1
    ),
    "relu": lambda: streaming(L.SimpleRNN(5, "relu", return_state=True), 1),
    "translator": translator,
    "concat": lambda: both_ways("concat"),
    "apart": lambda: both_ways(None),
    "two_kinds": lambda: both_ways(
        "mul",
        backward_layer=L.SimpleRNN(
            5, go_backwards=True, return_sequences=True, return_state=True
        ),
    ),
    "masked_from_a_state": masked_from_a_state,
    "masked_with_states": masked_with_states,
    "cells": lambda: cells(
        L.LSTMCell(5), L.GRUCell(3), return_sequences=True, go_backwards=True
    ),
    "one_step": lambda: cells(
        L.LSTMCell(5, "relu", recurrent_activation="hard_sigmoid"), length=1
    ),
}


def stream_of(name):
    keras.utils.set_random_seed(3)
    model, rng = STREAMS[name](), np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(variable + rng.normal(0, 0.1, variable.shape))
    samples = [
        rng.integers(0, 9, (16, *tensor.shape[1:])).astype("int32")
        if "int" in tensor.dtype
        else np.tanh(rng.normal(size=(16, *tensor.shape[1:]))).astype("float32")
        for tensor in model.inputs
    ]
    return model, samples if len(samples) > 1 else samples[0]


def arrays_of(outputs):
    return [as_numpy(value) for value in keras.tree.flatten(outputs)]


QUICK = ("lstm", "masked_with_states", "one_step")


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in STREAMS],
)
def test_states_and_cells_compute_the_same(name, tmp_path):
    model, samples = stream_of(name)
    aware = tfcompress.quantize_aware(model)  # a warning would be an error
    for wanted, got in zip(arrays_of(model(samples)), arrays_of(aware(samples))):
        assert np.abs(got - wanted).max() < 0.07 * np.abs(wanted).max()
    aware(samples, training=True)
    final = tfcompress.finalize(aware)
    steps = arrays_of(final(samples))
    for wanted, got in zip(arrays_of(aware(samples)), steps):
        assert np.abs(got - wanted).max() < 0.05 * np.abs(wanted).max()
    if name == "lstm":
        aware.save(tmp_path / "aware.keras")
        again = keras.saving.load_model(tmp_path / "aware.keras")
        for wanted, got in zip(arrays_of(aware(samples)), arrays_of(again(samples))):
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.export
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n != "one_step")) for n in STREAMS],
)
def test_files_with_states_equal_the_finalized_model(name, tmp_path):
    model, samples = stream_of(name)
    aware = tfcompress.quantize_aware(model)
    aware(samples, training=True)
    final = tfcompress.finalize(aware)
    artifact = tfcompress.export(final, tmp_path / "model.tflite")
    assert artifact.integer_coverage == 1.0
    result = tfcompress.verify(artifact, final, samples)
    assert result.max_error_steps <= 1.001


@keras.saving.register_keras_serializable("tests")
class OwnCell(L.Layer):
    state_size = output_size = 4

    def call(self, inputs, states):
        return inputs + states[0], [inputs + states[0]]

    def compute_output_shape(self, *_):
        return (None, 4)


def test_what_has_no_integer_form_is_named():
    backwards = L.GRU(3, go_backwards=True, return_sequences=True)
    layers = {
        "its cell is a OwnCell": L.RNN(OwnCell(), name="own"),
        "its activation": L.LSTM(3, activation="squareplus", name="wave"),
        "it is stateful": L.GRU(3, stateful=True, name="stream"),
        "forward layer": L.Bidirectional(
            backwards, backward_layer=L.GRU(3, return_sequences=True), name="turned"
        ),
    }
    for reason, layer in layers.items():
        x = keras.Input(batch_shape=(8, 3, 4))
        with pytest.warns(
            tfcompress.CompressionWarning, match=f"{layer.name} .*{reason}"
        ):
            tfcompress.quantize_aware(keras.Model(x, layer(x)))
    model = classifier(L.LSTM(3, recurrent_dropout=0.2, name="noisy"))
    with pytest.warns(tfcompress.CompressionWarning, match="'noisy' has recurrent_dr"):
        tfcompress.quantize_aware(model)


def test_what_cannot_be_unrolled_stays_in_float():
    x = keras.Input((None, 4), name="series")
    model = keras.Model(x, L.Dense(2)(L.LSTM(3, name="open")(x)))
    with pytest.warns(tfcompress.CompressionWarning, match="open"):
        tfcompress.quantize_aware(model)


@pytest.mark.export
@pytest.mark.filterwarnings("ignore:Always zero on the calibration data")
@pytest.mark.parametrize(
    "layer",
    [
        lambda: L.GRU(3, name="rnn"),
        lambda: L.Bidirectional(
            L.LSTM(3, return_sequences=True), merge_mode="sum", name="rnn"
        ),
    ],
)
def test_a_calibrated_mask_keeps_the_state_in_one_range(layer, tmp_path, rng):
    # Each step has a range of its own, but a mask hands on the state of one before.
    x = keras.Input((3,), dtype="int32", name="words")
    draw = keras.initializers.RandomUniform(-1, 1, seed=2)
    y = L.Embedding(20, 4, draw, mask_zero=True, name="vectors")(x)
    model = keras.Model(x, layer()(y))
    words = rng.integers(1, 20, (64, 3)).astype("int32")
    words[np.arange(3) >= rng.integers(1, 4, 64)[:, None]] = 0
    final = tfcompress.finalize(tfcompress.calibrate(model, words))
    artifact = tfcompress.export(final, tmp_path / "model.tflite")
    difference = tfcompress.load(artifact.path)(words) - final.predict(words, verbose=0)
    assert np.abs(difference).max() < 0.001 * artifact.outputs[0].step


def test_a_state_that_a_layer_keeps_stays_what_it_was(rng):
    layer = L.GRU(3, stateful=True, name="gru")
    x = keras.Input(batch_shape=(4, 5, 2), name="x")
    model = keras.Model(x, L.Dense(2, name="head")(layer(x)))
    data = rng.normal(size=(4, 5, 2)).astype("float32")
    with pytest.warns(tfcompress.CompressionWarning, match="gru.*stateful"):
        aware = tfcompress.calibrate(model, data)
    assert not np.any(as_numpy(layer.states[0]))
    aware.predict(data, verbose=0)  # and now its own state has moved
    final = tfcompress.finalize(aware)
    model.predict(data, verbose=0)
    layer.reset_states()
    expected = as_numpy(model(data))
    assert np.abs(as_numpy(final(data)) - expected).max() < 0.1 * np.ptp(expected)


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (L.LSTM, {"activation": "relu"}),
        (L.LSTM, {"activation": "relu", "return_sequences": True}),
        (L.GRU, {"activation": "relu"}),
        (L.LSTM, {"activation": "relu6"}),
        (L.LSTM, {"activation": "elu"}),
    ],
)
def test_other_activations_are_those_of_the_file(kind, options, tmp_path, rng):
    # The last sum is read by a ReLU alone, and the converter computed both at once.
    inputs = keras.Input((5, 6), name="x")
    model = keras.Model(inputs, kind(3, **options)(inputs))
    data = rng.normal(size=(64, 5, 6)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, data))
    artifact = tfcompress.export(final, tmp_path / "m.tflite")
    difference = tfcompress.load(artifact.path)(data) - final.predict(data, verbose=0)
    assert np.abs(difference).max() < 1e-3 * artifact.outputs[0].step
