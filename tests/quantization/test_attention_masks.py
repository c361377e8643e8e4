"""What must not be seen changes nothing, at whatever level scores are."""

import keras
import numpy as np
import pytest
from keras import layers as L
from keras import ops

import tfcompress
from tests.quantization.conftest import as_numpy
from tfcompress.exporters import load
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.plan import plan

LENGTH, WIDTH, SAMPLES = 6, 8, 24


def attention(kind=L.MultiHeadAttention, **options):
    """Attention whose scores lie far below zero, which a softmax does not see."""
    heads = (2, 4) if kind is L.MultiHeadAttention else (4, 4, 2)
    layer = kind(*heads, **options)
    layer.build((None, LENGTH, WIDTH), (None, LENGTH, WIDTH))
    for variable in layer.weights:
        if variable.path.endswith("query/bias"):
            variable.assign(np.full(variable.shape, 2.0))
        if variable.path.endswith("key/bias"):
            variable.assign(np.full(variable.shape, -6.0))
    return layer


def by_hand(x, mask, softmax=ops.softmax):
    """Attention of one head as people write it."""
    query, key, value = (L.Dense(WIDTH)(x) for _ in range(3))
    scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / np.sqrt(WIDTH)
    return ops.matmul(softmax(mask(scores)), value)


@pytest.fixture(scope="module")
def masked():
    """A model of many masked attentions, its integer form, and its inputs."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = keras.Input((LENGTH, WIDTH), name="x")
    seen = keras.Input((LENGTH,), name="seen")
    bias = keras.Input((1, LENGTH), name="bias")
    pairs = ops.cast(ops.expand_dims(seen, 1), "bool")
    flags = ops.cast(pairs, "float32")
    grouped = attention(L.GroupQueryAttention)
    outputs = {
        "three_axes": attention()(x, x, attention_mask=pairs),
        "four_axes": attention()(x, x, attention_mask=ops.expand_dims(pairs, 1)),
        "dropout": attention(dropout=0.1)(x, x, attention_mask=pairs),
        "grouped": grouped(x, x, attention_mask=pairs),
        "value_mask": attention()(x, x, value_mask=ops.cast(seen, "bool")),
        "product": by_hand(x, lambda s: s + (1.0 - flags) * -1e9),
        "difference": by_hand(x, lambda s: s - (1.0 - flags) * 1e4),
        "choice": by_hand(x, lambda s: s + ops.where(pairs, 0.0, -1e9)),
        "scaled": by_hand(x, lambda s: (s + (1.0 - flags) * -1e9) * 0.5),
        "input": by_hand(x, lambda s: s + bias),
        "infinite": by_hand(x, lambda s: ops.where(pairs, s, -np.inf)),
        "softmax": by_hand(x, lambda s: L.Softmax()(s, mask=pairs), lambda w: w),
    }
    outputs = {name: L.Identity(name=name)(y) for name, y in outputs.items()}
    model = keras.Model([x, seen, bias], outputs)
    visible = rng.random((SAMPLES, LENGTH)) > 0.4
    visible[:, 0] = True
    values = rng.normal(size=(SAMPLES, LENGTH, WIDTH)).astype("float32")
    added = np.where(visible, 0.0, -1e9).astype("float32")[:, None]
    data = [values, visible.astype("float32"), added]
    aware = tfcompress.quantize_aware(model)
    aware(data, training=True)
    return model, tfcompress.finalize(aware), data


def test_what_stands_at_masked_positions_changes_nothing(masked):
    _, final, (values, visible, bias) = masked
    other = values + 5.0 * (visible[..., None] == 0)
    before, after = (final([v, visible, bias]) for v in (values, other))
    for name in before:
        change = np.abs(as_numpy(before[name]) - as_numpy(after[name]))
        assert (change * visible[..., None]).max() == 0, name


def test_integers_are_close_to_the_float_model(masked):
    model, final, data = masked
    expected, got = model(data), final(data)
    for name in expected:
        error = np.abs(as_numpy(expected[name]) - as_numpy(got[name])).max()
        assert error < 0.06 * np.ptp(as_numpy(expected[name])), name


@pytest.mark.export
def test_the_file_has_the_same_masks(masked, tmp_path):
    _, final, data = masked
    artifact = tfcompress.export(final, tmp_path / "m.tflite")
    named = dict(zip(("x", "seen", "bias"), data))
    got, expected = load(artifact.path)(named), final(data)
    for info in artifact.outputs:
        steps = np.abs(got[info.name] - as_numpy(expected[info.name])) / info.step
        assert steps.max() <= 1.001, info.name


def test_no_token_sees_the_future():
    keras.utils.set_random_seed(1)
    x = keras.Input((LENGTH, WIDTH), name="x")
    outputs = {
        "heads": attention()(x, x, use_causal_mask=True),
        "groups": attention(L.GroupQueryAttention)(x, x, use_causal_mask=True),
        "window": attention(sliding_window=2)(x, x, use_causal_mask=True),
        "constant": by_hand(x, lambda s: s + np.triu(np.full((6, 6), -1e9), 1)),
    }
    model = keras.Model(x, outputs)
    values = np.random.default_rng(0).normal(size=(32, LENGTH, WIDTH)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, values, correct_bias=False))
    changed = values.copy()
    changed[:, 4:] += 3.0
    before, after = final(values), final(changed)
    for name in before:
        change = as_numpy(before[name])[:, :4] - as_numpy(after[name])[:, :4]
        assert np.abs(change).max() == 0, name


def test_a_range_of_scores_ends_below_what_a_softmax_sees():
    scores = np.array([[-30.0, -1e9, -200.0], [-20.0, -25.0, -1e9]], "float32")
    layer = FakeQuantize(rows=-1, masked=-1e9)
    layer(scores, training=True)
    low, high = layer.seen_range(scores)
    assert (low, high) == (-42.0, -20.0)
    # A row that sees nothing says nothing about the level of the others.
    hidden = np.concatenate([scores, np.full((1, 3), -1e9, "float32")])
    assert layer.seen_range(hidden) == (low, high)
    # Without masks the range is no wider than the scores.
    assert FakeQuantize(rows=-1).seen_range(scores[:, :1]) == (-30.0, -20.0)


def test_masks_of_flags_need_no_float_arithmetic():
    x = keras.Input((LENGTH, WIDTH), name="x")
    tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
    flags = ops.cast(ops.not_equal(tokens, 0), "float32")[:, None, :]
    model = keras.Model([x, tokens], by_hand(x, lambda s: s + (1.0 - flags) * -1e9))
    planned = plan(model, "w8a8")
    kinds = [type(node.operation).__name__ for node in planned.graph.nodes]
    assert kinds.count("Where") == 1
    assert not {"Add", "Cast", "Subtract"} & set(kinds)
    assert not planned.float_layers


def test_a_bias_beside_a_mask_is_still_added():
    keras.utils.set_random_seed(3)
    x = keras.Input((LENGTH, WIDTH), name="x")
    apart = np.abs(np.subtract.outer(np.arange(LENGTH), np.arange(LENGTH)))
    bias = np.where(np.tri(LENGTH) > 0, -1.0 * apart, -np.inf).astype("float32")
    model = keras.Model(x, by_hand(x, lambda s: s + bias[None]))
    values = np.random.default_rng(0).normal(size=(32, LENGTH, WIDTH)).astype("float32")
    aware = tfcompress.quantize_aware(model)
    aware(values, training=True)
    expected, got = (as_numpy(m(values, training=False)) for m in (model, aware))
    assert np.abs(expected - got).max() < 0.05 * np.ptp(expected)


def test_huge_numbers_that_leave_others_nothing_are_named():
    x = keras.Input((8,), name="x")
    hidden = L.Dense(8, name="hidden")(x)
    pushed = L.Add(name="pushed")([hidden, L.Dense(8, name="huge")(x)])
    model = keras.Model(x, pushed)
    kernel = np.zeros((8, 8), "float32")
    kernel[0, 0] = 1e7
    model.get_layer("huge").set_weights([kernel, np.zeros(8, "float32")])
    values = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    with pytest.warns(tfcompress.CompressionWarning, match="huge numbers.*pushed"):
        tfcompress.calibrate(model, values)
