"""Dilated convolutions stay integers, also where several read one tensor."""

import keras
import numpy as np
import pytest

from tfcompress import (
    CompressionWarning,
    calibrate,
    doctor,
    export,
    finalize,
    verify,
)

L = keras.layers


def wavenet():
    """Gated units with residuals and skips (van den Oord et al., 2016)."""
    sound = keras.Input((24, 2), name="sound")
    x, skips = L.Conv1D(6, 1)(sound), []
    for rate in (1, 2, 4):
        common = {"padding": "causal", "dilation_rate": rate}
        filtered = L.Conv1D(6, 2, activation="tanh", **common)(x)
        gate = L.Conv1D(6, 2, activation="sigmoid", **common)(x)
        out = L.Multiply()([filtered, gate])
        skips.append(L.Conv1D(6, 1)(out))
        x = L.Add()([x, L.Conv1D(6, 1)(out)])
    return keras.Model(sound, L.Conv1D(3, 1)(L.ReLU()(L.Add()(skips))))


def pyramid():
    """Branches of several rates and sizes, as in DeepLab."""
    image = keras.Input((11, 10, 3), name="image")
    x = L.Conv2D(5, 1)(image)
    branches = [
        L.Conv2D(4, 3, dilation_rate=2, padding="same", activation="relu")(x),
        L.ReLU()(L.BatchNormalization()(L.Conv2D(4, 3, 1, "same", dilation_rate=2)(x))),
        L.Conv2D(4, 3, dilation_rate=(2, 3), padding="same")(x),
        L.DepthwiseConv2D(3, dilation_rate=2, padding="same", depth_multiplier=2)(x),
        L.DepthwiseConv2D(3, dilation_rate=2, padding="same")(x),
        L.SeparableConv2D(3, 3, dilation_rate=2, padding="same")(x),
    ]
    return keras.Model(image, L.Conv2D(2, 1)(L.Concatenate()(branches)))


def sequences():
    signal = keras.Input((13, 4), name="signal")
    x = L.Conv1D(6, 1)(signal)
    branches = [
        L.Conv1D(4, 3, dilation_rate=2, groups=2)(x),
        L.Conv1D(4, 3, dilation_rate=2, activation="relu")(x),
        L.DepthwiseConv1D(3, dilation_rate=2)(x),
    ]
    return keras.Model(signal, L.Concatenate()(branches))


@pytest.mark.parametrize("make", [wavenet, pyramid, sequences])
def test_dilated_convolutions_of_one_tensor_are_integers(make, tmp_path):
    keras.utils.set_random_seed(3)
    model = make()
    shape = (24, *model.inputs[0].shape[1:])
    data = np.random.default_rng(3).normal(size=shape).astype("float32")
    final = finalize(calibrate(model, data))
    artifact = export(final, tmp_path / "m.tflite")
    assert artifact.integer_coverage == 1.0
    assert not [op for op in artifact.operators if "BATCH" in op.name]
    verify(artifact, final, data).raise_if_failed()


def test_doctor_says_so_before():
    diagnosis = doctor(wavenet(), "tflite", "w8a8")
    assert diagnosis.integer_coverage == 1.0
    assert diagnosis.findings == ()


def test_what_the_converter_leaves_in_float_is_told(tmp_path, monkeypatch):
    """As Keras computes them, two dilated convolutions break each other's pattern."""
    module = "tfcompress.quantization.integers.linear.is_dilated"
    keras.utils.set_random_seed(3)
    signal = keras.Input((16, 4), name="signal")
    x = L.Conv1D(4, 1, name="first")(signal)
    common = {"padding": "causal", "dilation_rate": 2}
    gates = [L.Conv1D(4, 2, name=name, **common)(x) for name in ("left", "right")]
    model = keras.Model(signal, L.Multiply(name="product")(gates))
    data = np.random.default_rng(3).normal(size=(24, 16, 4)).astype("float32")
    final = finalize(calibrate(model, data))
    monkeypatch.setattr(module, lambda layer: False)
    with pytest.warns(CompressionWarning, match=r"in float, \d+% of .*left, right"):
        artifact = export(final, tmp_path / "m.tflite")
    assert artifact.integer_coverage < 1.0
