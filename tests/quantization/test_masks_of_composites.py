"""Masks that a layer made of layers makes, or passes on, itself."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress

LENGTH, WORDS, UNITS = 6, 20, 8


@keras.saving.register_keras_serializable(package="composites")
class Words(layers.Layer):
    """Words and their places, as tutorials write it, with a mask for padding."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.words = layers.Embedding(WORDS, UNITS, mask_zero=True)
        self.places = layers.Embedding(LENGTH, UNITS)

    def call(self, inputs):
        return self.words(inputs) + self.places(ops.arange(LENGTH))

    def compute_mask(self, inputs, mask=None):
        return self.words.compute_mask(inputs)


@keras.saving.register_keras_serializable(package="composites")
class Block(layers.Layer):
    """A block that passes masks on because it says so, not by its parts."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 4)
        self.norm = layers.LayerNormalization()
        self.supports_masking = True

    def call(self, inputs):
        return self.norm(inputs + self.attention(inputs, inputs))


def _blocks(tokens):
    return layers.MultiHeadAttention(2, 4)(*[Block()(Words()(tokens))] * 2)


READERS = {
    "attention": lambda t: layers.MultiHeadAttention(2, 4)(*[Words()(t)] * 2),
    "blocks": _blocks,
    "lstm": lambda t: layers.LSTM(5)(Words()(t)),
}


def tokens(rng, count=64):
    rows = rng.integers(1, WORDS, (count, LENGTH)).astype("int32")
    for row, words in zip(rows, rng.integers(1, LENGTH + 1, count)):
        row[words:] = 0
    return rows


def model_of(reader):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((LENGTH,), dtype="int32", name="tokens")
    return keras.Model(inputs, READERS[reader](inputs))


@pytest.mark.export
@pytest.mark.parametrize("reader", READERS)
def test_integers_follow_them(reader, tmp_path, rng):
    model, data = model_of(reader), tokens(rng)
    final = tfcompress.finalize(tfcompress.calibrate(model, data))
    wanted, got = np.asarray(model(data)), np.asarray(final(data))
    # Padding that is attended to moves the worst values by half of the span.
    assert np.abs(wanted - got).max() < 0.12 * np.ptp(wanted)
    artifact = tfcompress.export(final, tmp_path / "m.tflite")
    tfcompress.verify(artifact, final, data).raise_if_failed()


@pytest.mark.parametrize("reader", ["attention", "blocks"])
def test_smaller_models_follow_them(reader, rng):
    smaller = tfcompress.shrink(model_of(reader), macs=0.75, round_to=1)
    embeddings = [
        layer for layer in smaller.layers if isinstance(layer, layers.Embedding)
    ]
    words = next(one for one in embeddings if one.input_dim == WORDS)
    data = tokens(rng, 8)
    before = np.asarray(smaller(data))
    weights = words.get_weights()
    weights[0][0] += 3.0  # what stands at padded positions
    words.set_weights(weights)
    seen = data != 0
    assert np.allclose(before[seen], np.asarray(smaller(data))[seen], atol=1e-5)
