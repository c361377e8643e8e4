"""Masks of `mask_zero`, of attention and of causality, inside integer models."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress

# Keras says so of the models themselves: of a Flatten that reads masked numbers, and of
# the projections inside of its GroupQueryAttention.
_DESTROYED = "ignore:Layer '(flat|query|key|value)'"
pytestmark = [pytest.mark.export, pytest.mark.filterwarnings(_DESTROYED)]
LENGTH, WORDS = 5, 12


def tokens(count=48):
    """Returns sequences of different lengths, some padded before, some behind."""
    rng = np.random.default_rng(0)
    rows = rng.integers(1, WORDS, (count, LENGTH)).astype("int32")
    for index, row in enumerate(rows):
        empty = LENGTH - rng.integers(1, LENGTH + 1)
        row[: empty if index % 2 else 0] = 0
        row[LENGTH - (0 if index % 2 else empty) :] = 0
    return rows


def reader(embedded, kind):
    if kind == "lstm":
        return layers.LSTM(6, name="lstm")(embedded)
    if kind == "two":
        first = layers.GRU(6, return_sequences=True, name="first")(embedded)
        return layers.LSTM(5, name="second")(layers.Dropout(0.1, name="drop")(first))
    if kind == "bidirectional":
        return layers.Bidirectional(layers.GRU(4), name="both")(embedded)
    if kind == "sequences":
        both = layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both")
        return layers.Flatten(name="flat")(both(embedded))
    if kind == "merged":
        dense = layers.Dense(6, name="dense")(embedded)
        return layers.SimpleRNN(5, name="rnn")(
            layers.Add(name="sum")([embedded, dense])
        )
    attention = {
        "attention": layers.MultiHeadAttention(2, 4, name="attention"),
        "causal": layers.MultiHeadAttention(2, 4, name="attention"),
        "grouped": layers.GroupQueryAttention(4, 4, 2, name="attention"),
    }[kind]
    causal = {"use_causal_mask": True} if kind == "causal" else {}
    return layers.Flatten(name="flat")(attention(embedded, embedded, **causal))


_FAST = ("sequences", "causal")
_SLOW = ("lstm", "two", "bidirectional", "merged", "attention", "grouped")


@pytest.fixture(
    scope="module",
    params=[*_FAST, *(pytest.param(kind, marks=pytest.mark.slow) for kind in _SLOW)],
)
def models(request):
    """The float model, and the integer one of the same weights."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((LENGTH,), dtype="int32", name="tokens")
    # Numbers large enough for an error in the masks to show.
    wide = keras.initializers.RandomNormal(stddev=1.0)
    embedding = layers.Embedding(WORDS, 6, wide, mask_zero=True, name="words")
    read = reader(embedding(inputs), request.param)
    outputs = layers.Dense(3, name="logits")(read)
    model = keras.Model(inputs, outputs)
    aware = tfcompress.quantize_aware(model)
    aware.compile(keras.optimizers.SGD(0.0), "mse")
    rows = tokens()
    aware.fit(rows, np.zeros((len(rows), 3)), batch_size=len(rows), verbose=0)
    return model, tfcompress.finalize(aware)


def test_the_integer_model_follows_the_masks(models):
    model, final = models
    rows = tokens()
    expected, got = (m.predict(rows, verbose=0) for m in (model, final))
    unmasked = np.where(rows == 0, 1, rows)
    blind = model.predict(unmasked, verbose=0)
    error = np.abs(got - expected).max()
    assert error < 0.06 * np.ptp(expected)
    # What would come out if padding were a word like any other is far from it.
    assert np.abs(blind - expected).max() > 3 * error


def test_the_file_follows_them_in_integers(models, tmp_path):
    _, final = models
    file = tfcompress.export(final, tmp_path / "m.tflite")
    check = tfcompress.verify(file, final, tokens(), min_integer_coverage=1.0)
    assert check.max_error_steps <= 1.001


def test_a_mask_that_is_an_argument(tmp_path):
    keras.utils.set_random_seed(2)
    values = keras.Input((5, 4), name="values")
    seen = keras.Input((5, 5), dtype="bool", name="seen")
    attention = layers.MultiHeadAttention(2, 4, name="attention")
    model = keras.Model([values, seen], attention(values, values, attention_mask=seen))
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(16, 5, 4)).astype("float32"), rng.random((16, 5, 5)) < 0.5]
    aware = tfcompress.quantize_aware(model)
    aware.compile(keras.optimizers.SGD(0.0), "mse")
    aware.fit(data, np.zeros((16, 5, 4)), batch_size=16, verbose=0)
    final = tfcompress.finalize(aware)
    expected, got = (m.predict(data, verbose=0) for m in (model, final))
    assert np.abs(got - expected).max() < 0.06 * np.ptp(expected)
    file = tfcompress.export(final, tmp_path / "m.tflite")
    check = tfcompress.verify(file, final, data, min_integer_coverage=1.0)
    assert check.max_error_steps <= 1.001


def test_a_mean_over_a_mask_says_that_it_stays_float():
    inputs = keras.Input((LENGTH,), dtype="int32", name="tokens")
    words = layers.Embedding(WORDS, 6, mask_zero=True, name="words")(inputs)
    mean = layers.GlobalAveragePooling1D(name="mean")(words)
    model = keras.Model(inputs, layers.Dense(2, name="logits")(mean))
    with pytest.warns(tfcompress.CompressionWarning, match="mean .*mask"):
        aware = tfcompress.quantize_aware(model)
    rows = tokens()
    expected, got = (m.predict(rows, verbose=0) for m in (model, aware))
    assert np.abs(got - expected).max() < 0.06 * np.ptp(expected)
