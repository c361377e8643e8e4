"""doctor: what it says of a model before training is what export says after it."""

import keras
import pytest
from keras import layers

import tfcompress
from tests.exporters.every_layer import NAMES, model_of
from tfcompress import (
    CompressionError,
    InvalidArgumentError,
    calibrate,
    doctor,
    export,
    finalize,
)
from tfcompress.exporters.artifact import EXPORTERS

pytestmark = pytest.mark.export


def convolutional():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(4, 3, activation="relu", name="conv"),
            layers.GlobalAveragePooling2D(name="mean"),
            layers.Dense(3, name="logits"),
        ]
    )


def recurrent(length, **options):
    inputs = keras.Input((length, 3), name="series")
    outputs = layers.LSTM(4, name="lstm", **options)(inputs)
    return keras.Model(inputs, layers.Dense(2, name="logits")(outputs))


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(name, marks=pytest.mark.slow) if name == "openvino" else name
        for name in EXPORTERS.names()
    ],
)
def test_a_model_that_fits(target):
    pytest.importorskip(EXPORTERS.get(target).runtime_module.split(".")[0] or "keras")
    diagnosis = doctor(convolutional(), target, "w8a8")
    assert diagnosis.deployable, str(diagnosis)
    diagnosis.raise_if_not_deployable()
    if target in ("tflite", "micro", "web"):
        assert diagnosis.findings == ()
        assert diagnosis.integer_coverage == 1.0


def test_what_no_table_tells_is_said():
    assert "pass trial=True" in str(doctor(convolutional(), "micro", "w8a8", False))
    assert not doctor(convolutional(), "tflite", "w8a8", False).findings


def test_layers_that_stay_in_float_are_named_with_a_fix():
    inputs = keras.Input((8, 8, 8, 1), name="volume")
    x = layers.Conv3D(2, 3, name="conv3d")(inputs)
    x = layers.Flatten(name="flat")(x)
    model = keras.Model(inputs, layers.Dense(2, "squareplus", name="head")(x))
    diagnosis = doctor(model, "tflite", "w8a8")
    assert diagnosis.deployable
    found = {f.layer: f for f in diagnosis.findings if f.severity == "warning"}
    assert "no integer kernel" in found["conv3d"].problem
    assert "squareplus" in found["head_squareplus"].problem
    assert "gelu" in found["head_squareplus"].fix
    assert diagnosis.integer_coverage < 1
    # A microcontroller runs no float at all.
    assert not doctor(model, "micro", "w8a8", trial=False).deployable


def test_a_free_length_has_a_fixed_one_for_a_fix():
    diagnosis = doctor(recurrent(None), "tflite", "w8a8", trial=False)
    (finding,) = [f for f in diagnosis.findings if f.layer == "lstm" and f.fix]
    assert "length of its sequences is free" in finding.problem
    assert "keras.Input((64, 8))" in finding.fix
    fixed = doctor(recurrent(5), "tflite", "w8a8", trial=False)
    assert fixed.findings == ()


def test_what_the_converter_cannot_take_is_a_finding_and_no_crash():
    @keras.saving.register_keras_serializable("tests_doctor")
    class Sorted(layers.Layer):
        def call(self, inputs):
            return keras.ops.sort(inputs, axis=-1)

    inputs = keras.Input((6,), name="values")
    model = keras.Model(inputs, Sorted(name="sorted")(layers.Dense(6)(inputs)))
    diagnosis = doctor(model, "micro", "w8a8")
    assert not diagnosis.deployable
    with pytest.raises(tfcompress.ExportError, match="will not run in tflite-micro"):
        diagnosis.raise_if_not_deployable()


def test_float_models_and_bits_that_a_runtime_does_not_have():
    (finding,) = doctor(convolutional(), "micro").findings
    assert finding.severity == "error"
    assert "scheme='w8a8'" in finding.fix
    wide = doctor(convolutional(), "micro", "w8a16")
    assert [f.severity for f in wide.findings] == ["error"]
    assert "'w8a8'" in wide.findings[0].fix


def test_sixteen_bits_name_the_layers_without_them():
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, layers.Dense(3, "softmax", name="head")(inputs))
    diagnosis = doctor(model, "tflite", "w8a16")
    assert [f.severity for f in diagnosis.findings] == ["error"]
    assert "head" in diagnosis.findings[0].layer


def test_what_bits_cost_is_said_where_they_run():
    (finding,) = doctor(convolutional(), "tflite", "w8a16", trial=False).findings
    assert finding.severity == "warning"
    assert "105 times (convolutions) the time of 8 bits" in finding.problem
    assert not doctor(convolutional(), "tflite", "w8a8", trial=False).findings
    (finding,) = doctor(convolutional(), "saved_model", "w8a8", trial=False).findings
    assert "1.6 times (an LSTM in batches) the float model's time" in finding.problem


@pytest.mark.parametrize("scheme", ["w4a8", "w2a8", {"conv": "w4a8"}])
def test_half_bytes_of_convolutions_have_a_price(scheme):
    (finding,) = doctor(convolutional(), "tflite", scheme, trial=False).findings
    assert finding.severity == "warning"
    assert "keep a byte each" in finding.problem
    assert "3.5 times" in finding.problem
    packed = EXPORTERS.class_of("tflite")(int4="all")
    (finding,) = doctor(convolutional(), packed, scheme, trial=False).findings
    assert "take 3.5 times" in finding.problem
    assert "'exact'" in finding.fix


def test_half_bytes_of_dense_layers_have_no_price():
    dense_only = {"logits": "w4a8"}
    assert not doctor(convolutional(), "tflite", dense_only, trial=False).findings
    assert not doctor(convolutional(), "onnx", "w4a8", trial=False).findings


def test_it_reads_as_text_and_as_a_table():
    diagnosis = doctor(convolutional(), "micro")
    assert str(diagnosis).startswith("will not deploy (micro, float, in tflite-micro)")
    assert diagnosis.to_markdown().count("\n") == 2


def test_bad_arguments(tmp_path):
    with pytest.raises(InvalidArgumentError, match="one of 'coreml', 'ethos_u',"):
        doctor(convolutional(), "tflight")
    with pytest.raises(InvalidArgumentError, match="Unknown quantization scheme"):
        doctor(convolutional(), "tflite", "w7a8")
    unbuilt = keras.Sequential([layers.Dense(2)])
    with pytest.raises(InvalidArgumentError):
        doctor(unbuilt)


def test_the_model_stays_as_it_was():
    model = recurrent(4)
    before = model.get_weights()
    doctor(model, "tflite", "w8a8", trial=False)
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    assert not getattr(model, "compiled", False)


def _drawn(model, rng):
    """Returns inputs that every layer takes: its numbers, or 0 and 1."""
    drawn = []
    for tensor in model.inputs:
        shape, dtype = (16, *tensor.shape[1:]), tensor.dtype
        if "string" in dtype:
            drawn.append(rng.choice(["a", "b"], shape).astype(object))
        elif "float" in dtype:
            drawn.append(rng.normal(size=shape).astype(dtype))
        else:
            drawn.append(rng.integers(0, 2, shape).astype(dtype))
    return drawn if len(drawn) > 1 else drawn[0]


def _exports(make, path):
    """Returns whether a model is exported, and what the library says if not."""
    try:
        return bool(export(make(), path, overwrite=True)), ""
    except CompressionError as error:
        return False, str(error)


@pytest.mark.slow
@pytest.mark.parametrize("quantized", [False, True], ids=["float", "integers"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore::tfcompress.CompressionWarning")
def test_the_tables_say_what_the_converter_says(name, quantized, tmp_path, rng):
    model = model_of(name)
    scheme = "w8a8" if quantized else None
    diagnosis = doctor(model, "tflite", scheme, trial=False)

    def made():
        return finalize(calibrate(model, _drawn(model, rng))) if quantized else model

    exported, said = _exports(made, tmp_path / "m.tflite")
    assert diagnosis.deployable == exported, (str(diagnosis), said)
