"""A layer that is called in different ways keeps the meaning of each call."""

import keras
import numpy as np
import pytest
from keras import layers as L

import tfcompress
from tests.quantization.conftest import as_numpy
from tfcompress.exporters import load
from tfcompress.quantization.calibration.rounding import common_shift


@pytest.fixture(scope="module")
def shared():
    """A model of shared layers, its integer form, and its inputs."""
    keras.utils.set_random_seed(0)
    a, b = keras.Input((6, 8), name="a"), keras.Input((6, 8), name="b")
    attention = L.MultiHeadAttention(2, 4, name="attention")
    plain = L.Attention(name="plain")
    total, mean = L.Add(name="total"), L.Average(name="mean")
    product = L.Dot((2, 2), name="product")
    groups = L.GroupNormalization(2, name="groups")
    convolution = L.Conv1D(4, 3, padding="same", name="convolution")
    half = np.tri(6, dtype=bool)[None]
    outputs = {
        "self": attention(a, a),
        "cross": attention(a, b),
        "turned": attention(b, a),
        "causal": attention(a, b, use_causal_mask=True),
        "lower": attention(a, b, attention_mask=half),
        "upper": attention(a, b, attention_mask=half.transpose(0, 2, 1)),
        "plain_self": plain([a, a]),
        "plain_cross": plain([a, b]),
        "double": total([a, a]),
        "sum": total([a, b]),
        "mean_of_two": mean([a, b]),
        "mean_of_three": mean([a, b, a]),
        "square": product([a, a]),
        "product_of_two": product([a, b]),
        "groups_long": groups(a),
        "groups_short": groups(b[:, :3]),
        "large": convolution(a),
        "small": convolution(b * 0.02),
    }
    outputs = {name: L.Identity(name=name)(y) for name, y in outputs.items()}
    model = keras.Model([a, b], outputs)
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(32, 6, 8)).astype("float32") for _ in range(2)]
    aware = tfcompress.quantize_aware(model)
    aware(data, training=True)
    return model, tfcompress.finalize(aware), data


def test_each_call_computes_its_own(shared):
    model, final, data = shared
    expected, got = model(data), final(data)
    for name in expected:
        correct = np.ravel(as_numpy(expected[name]))
        like = np.corrcoef(correct, np.ravel(as_numpy(got[name])))[0, 1]
        assert like > 0.99, (name, like)


def test_calls_share_their_weights(shared):
    model, final, _ = shared
    kernels = [w for w in final.trainable_weights if "kernel" in w.name]
    # Attention has four projections, and the convolution one kernel.
    owned = [w for w in kernels if "attention" in w.path or "convolution" in w.path]
    assert len(owned) == 5
    assert model.count_params() <= final.count_params()


@pytest.mark.export
def test_the_file_computes_each_call(shared, tmp_path):
    _, final, data = shared
    artifact = tfcompress.export(final, tmp_path / "m.tflite")
    got = load(artifact.path)(dict(zip("ab", data)))
    expected = final(data)
    for info in artifact.outputs:
        steps = np.abs(got[info.name] - as_numpy(expected[info.name])) / info.step
        assert steps.max() <= 1.001, info.name


def test_one_shift_serves_all_calls_or_none():
    errors = np.array([[4.0, 1.0, -3.0, 0.0], [0.1, -1.0, -2.0, 1.0]])
    assert common_shift(errors).tolist() == [0.1, 0.0, -2.0, 0.0]
    assert common_shift(errors[:1]).tolist() == errors[0].tolist()


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8"])
def test_bias_correction_makes_no_call_of_a_shared_layer_worse(scheme):
    keras.utils.set_random_seed(3)
    x = keras.Input((8, 8, 1), name="x")
    shared = L.Conv2D(4, 3, padding="same", name="shared")
    large = shared(L.Rescaling(50.0)(L.Conv2D(4, 1)(x)))
    small = shared(L.Rescaling(0.02)(L.ReLU()(large)))
    model = keras.Model(x, [large, small])
    data = np.random.default_rng(0).random((32, 8, 8, 1)).astype("float32")
    expected = [as_numpy(y) for y in model(data)]
    errors = []
    for correct in (True, False):
        integers = tfcompress.calibrate(model, data, scheme, correct_bias=correct)
        got = [as_numpy(y) for y in integers(data, training=False)]
        errors.append([np.abs(p - q).mean() for p, q in zip(expected, got)])
    for corrected, plain in zip(*errors):
        assert corrected <= 1.1 * plain
