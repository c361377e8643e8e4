"""Normalization, attention and embeddings: all integers inside, equal to the graph."""

import keras
import numpy as np
import pytest
from keras import ops

import tfcompress
from tests.quantization.conftest import as_numpy
from tfcompress.exporters import load

L = keras.layers

pytestmark = pytest.mark.export


def shipped(model, samples, tmp_path):
    """Returns the artifact, the finalized model and the verification."""
    keras.utils.set_random_seed(0)
    aware = tfcompress.quantize_aware(model)
    aware.compile(keras.optimizers.Adam(1e-3), "mse")
    target = as_numpy(model(samples))
    aware.fit(samples, np.zeros_like(target), batch_size=16, verbose=0)
    final = tfcompress.finalize(aware)
    artifact = tfcompress.export(final, tmp_path / "model.tflite")
    return artifact, final, tfcompress.verify(artifact, final, samples)


LAYERS = {
    "LayerNormalization": lambda x: L.LayerNormalization()(L.Dense(16)(x)),
    "RMSNormalization": lambda x: L.RMSNormalization()(L.Dense(16)(x)),
    "UnitNormalization": lambda x: L.UnitNormalization()(L.Dense(16)(x)),
    "GroupNormalization": lambda x: L.GroupNormalization(4)(L.Dense(16)(x)),
    "MultiHeadAttention": lambda x: L.MultiHeadAttention(2, 8)(x, x),
    "cross_attention": lambda x: L.MultiHeadAttention(
        2, 8, value_dim=4, output_shape=5, use_bias=False
    )(L.Conv1D(6, 3)(x), x),
    "GroupQueryAttention": lambda x: L.GroupQueryAttention(8, 4, 2)(x, x),
    "Attention": lambda x: L.Attention(use_scale=True)([x, L.Dense(16)(x)]),
    "AdditiveAttention": lambda x: L.AdditiveAttention()([L.Conv1D(16, 3)(x), x]),
    "additive_sum": lambda x: L.AdditiveAttention(use_scale=False)([x, x]),
    "heads_and_gates": lambda x: L.MultiHeadAttention(2, 8, use_gate=True)(x, x),
    "several_axes": lambda x: L.MultiHeadAttention(2, 8)(
        *[L.Reshape((3, 4, 16))(x)] * 2
    ),
    "operation": lambda x: ops.dot_product_attention(
        *[L.Reshape((12, 2, 8))(x)] * 3, is_causal=True
    ),
    "Dot": lambda x: L.Dot((1, 1), normalize=True)([L.Dense(4)(x), L.Dense(8)(x)]),
    "EinsumDense": lambda x: L.EinsumDense(
        "abc,cde->abde", (None, 2, 5), bias_axes="de"
    )(x),
    "EinsumDense_relu": lambda x: L.EinsumDense(
        "...x,xy->...y", (12, 7), bias_axes="y", activation="relu"
    )(x),
}


def test_layers_run_in_integers(tmp_path):
    keras.utils.set_random_seed(0)
    x = keras.Input((12, 16), name="x")
    model = keras.Model(x, {name: layer(x) for name, layer in LAYERS.items()})
    samples = np.random.default_rng(0).normal(size=(16, 12, 16)).astype("float32")
    aware = tfcompress.quantize_aware(model)
    aware(samples, training=True)
    final = tfcompress.finalize(aware)
    artifact = tfcompress.export(final, tmp_path / "layers.tflite")
    assert artifact.integer_coverage == 1.0
    got, expected, plain = load(artifact.path)(samples), final(samples), model(samples)
    for info in artifact.outputs:
        name = info.name
        steps = np.abs(got[name] - as_numpy(expected[name])) / info.step
        assert steps.max() <= 1.001, name
        assert np.mean(steps > 0.5) < 0.01, name
        # On average: a row whose squares sum to a 256th of the largest row's is coarse.
        gap = np.abs(as_numpy(expected[name]) - as_numpy(plain[name])).mean()
        assert gap < 0.02 * np.abs(as_numpy(plain[name])).max(), name


def encoder_block(x, heads=2, size=8):
    y = L.MultiHeadAttention(heads, size, dropout=0.1)(x, x)
    x = L.LayerNormalization(epsilon=1e-6)(L.Add()([x, y]))
    y = L.Dense(32, activation="gelu")(x)
    return L.LayerNormalization(epsilon=1e-6)(L.Add()([x, L.Dense(16)(y)]))


@pytest.mark.slow
def test_transformer_encoder_on_tokens(tmp_path):
    keras.utils.set_random_seed(1)
    tokens = keras.Input((12,), dtype="int32", name="tokens")
    positions = np.random.default_rng(2).normal(0, 0.5, (12, 16)).astype("float32")
    x = L.Embedding(50, 16, embeddings_initializer="normal")(tokens) * 20 + positions
    x = encoder_block(encoder_block(x))
    model = keras.Model(tokens, L.Dense(4, name="topic")(L.GlobalAveragePooling1D()(x)))
    samples = np.random.default_rng(0).integers(0, 50, (64, 12)).astype("int32")
    artifact, _, result = shipped(model, samples, tmp_path)
    assert artifact.integer_coverage == 1.0
    assert result.agreement >= 0.98
    assert result.max_error_steps <= 1.001


def test_two_tower_recommender(tmp_path):
    keras.utils.set_random_seed(1)
    user = keras.Input((), dtype="int32", name="user")
    item = keras.Input((3,), dtype="int32", name="item")
    left = L.Dense(8)(L.Dense(16, activation="relu")(L.Embedding(40, 8)(user)))
    words = L.GlobalAveragePooling1D()(L.Embedding(60, 8)(item))
    right = L.Dense(8)(L.Dense(16, activation="relu")(words))
    score = L.Dot(1, name="score")([left, right])
    model = keras.Model({"user": user, "item": item}, score)
    rng = np.random.default_rng(0)
    samples = {
        "user": rng.integers(0, 40, 64).astype("int32"),
        "item": rng.integers(0, 60, (64, 3)).astype("int32"),
    }
    artifact, _, result = shipped(model, samples, tmp_path)
    assert artifact.integer_coverage == 1.0
    assert result.max_error_steps <= 1.001


def test_embedding_tables_are_stored_in_bytes(tmp_path):
    from tfcompress.exporters.tflite.flatbuffer import TFLiteFile

    tokens = keras.Input((4,), dtype="int32", name="tokens")
    model = keras.Model(tokens, L.Flatten()(L.Embedding(500, 16)(tokens)))
    samples = np.random.default_rng(0).integers(0, 500, (64, 4)).astype("int32")
    artifact, _, result = shipped(model, samples, tmp_path)
    assert result.max_error_steps <= 1.001
    tables = [t.info for t, _ in TFLiteFile.open(artifact.path).weights()]
    assert [(t.shape, t.dtype) for t in tables] == [((500, 16), "int8")]


def test_what_cannot_be_said_in_integers_is_named_with_a_way_out():
    x = keras.Input((3, 6, 8), name="x")
    attention = L.MultiHeadAttention(2, 4, attention_axes=(2,), name="attention")
    model = keras.Model(x, ops.mean(attention(x, x), 1))
    with pytest.warns(
        tfcompress.CompressionWarning,
        match="attention .*some of several axes.*reshape to .batch, positions",
    ):
        tfcompress.quantize_aware(model)


class Doubled(L.MultiHeadAttention):
    """Attention that computes its weights in its own way."""

    def _masked_softmax(self, attention_scores, attention_mask=None):
        return 2.0 * super()._masked_softmax(attention_scores, attention_mask)


def test_attention_of_ones_own_is_not_taken_for_the_plain_one():
    x = keras.Input((6, 8), name="x")
    layer = Doubled(2, 4, dropout=0.1, name="own")
    with pytest.warns(tfcompress.CompressionWarning, match="own .Doubled"):
        tfcompress.quantize_aware(keras.Model(x, layer(x, x)))
