"""Schemes without activations: what is rounded, what stays, and what files compute."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress
from tfcompress import (
    BlockwiseQuantizer,
    InvalidArgumentError,
    UnsupportedLayerError,
)
from tfcompress.exporters.grids import grid_of
from tfcompress.quantization.quantizers.blockwise import stored_step

WORDS, WIDTH, LENGTH = 40, 64, 8


def decoder():
    """A block of a causal transformer whose number of positions may be free."""
    keras.utils.set_random_seed(1)
    ids = keras.Input((LENGTH,), name="ids", dtype="int32")
    x = layers.Embedding(WORDS, WIDTH, name="words")(ids)
    attention = layers.MultiHeadAttention(2, 32, name="attention")
    y = layers.RMSNormalization(name="n1")(x)
    x = x + attention(y, y, use_causal_mask=True)
    y = layers.RMSNormalization(name="n2")(x)
    gate = layers.Dense(2 * WIDTH, "silu", name="gate")(y)
    y = layers.EinsumDense("abc,cd->abd", (None, 2 * WIDTH), name="up")(y)
    x = x + layers.Dense(WIDTH, name="down")(gate * y)
    model = keras.Model(ids, layers.Dense(WORDS, name="logits")(x))
    for name in ("n1", "n2"):  # as after training
        scale = np.random.default_rng(0).uniform(0.5, 2.0, WIDTH)
        model.get_layer(name).set_weights([scale])
    return model


@pytest.fixture(scope="module")
def model():
    return decoder()


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(0, WORDS, (16, LENGTH)).astype("int32")


def test_each_kernel_lies_on_its_grid_and_survives_a_file(model, tokens, tmp_path):
    final = tfcompress.finalize(tfcompress.calibrate(model, scheme="w4b32"))
    names = {one.name for one in final.layers if type(one).__name__.startswith("Quan")}
    assert names == {"words", "attention", "gate", "up", "down", "logits"}
    down = final.get_layer("down").layer.get_weights()[0]
    grid = grid_of(down.T)
    assert (grid.block_size, grid.half_bytes) == (32, True)
    steps = np.asarray(stored_step(grid.steps))
    np.testing.assert_array_equal(steps, grid.steps)
    np.testing.assert_array_equal(np.repeat(steps, 32, 1) * grid.integers, down.T)
    final.save(tmp_path / "final.keras")
    again = keras.models.load_model(tmp_path / "final.keras")
    expected = final.predict(tokens, verbose=0)
    np.testing.assert_array_equal(again.predict(tokens, verbose=0), expected)


@pytest.mark.parametrize("scheme", ["w8", "w4", "w4b64"])
def test_file_in_float_equals_the_model(model, tokens, tmp_path, scheme):
    final = tfcompress.finalize(tfcompress.calibrate(model, scheme=scheme))
    expected = final.predict(tokens[:4], verbose=0)
    files = {}
    for compute in ("float", "integer"):
        path = tmp_path / f"{compute}.tflite"
        files[compute] = tfcompress.export(final, path, batch_size=4, compute=compute)
        made = tfcompress.load(path).run({"ids": tokens[:4]})["logits"]
        off = np.abs(made - expected).max() / np.abs(expected).max()
        # In integers it is the noise of inputs that are rounded to 255 values.
        assert off < 2e-6 if compute == "float" else 1e-4 < off < 0.04
    stored = {op.name: op.weights for op in files["integer"].operators if op.weights}
    bits = "int8" if scheme == "w8" else "int4"
    assert bits in stored["FULLY_CONNECTED"]
    assert bits in stored["EMBEDDING_LOOKUP"]
    weights = sum(int(np.prod(v.shape)) for v in model.weights if len(v.shape) > 1)
    share = files["integer"].size / weights
    assert share < (1.5 if scheme == "w8" else 0.95)


def test_data_make_rounding_better(model, tokens):
    expected = model.predict(tokens, verbose=0)

    def error(*data, **options):
        rounded = tfcompress.calibrate(model, *data, **options)
        return np.mean((rounded.predict(tokens, verbose=0) - expected) ** 2)

    nearest = error(scheme="w4b32")
    assert error(tokens, "w4b32") < 0.8 * nearest
    assert error(scheme="w8") < 0.05 * nearest


def test_training_moves_steps_and_kernels(model, tokens):
    aware = tfcompress.quantize_aware(model, "w4b32")
    step = aware.get_layer("gate").states[0]["step"]
    before = keras.ops.convert_to_numpy(step)
    aware.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    first = aware.evaluate(tokens, tokens, verbose=0)
    aware.fit(tokens, tokens, epochs=8, verbose=0)
    assert aware.evaluate(tokens, tokens, verbose=0) < 0.9 * first
    assert step.shape == (2, 128)
    assert (keras.ops.convert_to_numpy(step) != before).any()


def test_onnx_holds_the_integers(model, tokens, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    final = tfcompress.finalize(tfcompress.calibrate(model, scheme="w4b32"))
    path = tmp_path / "model.onnx"
    artifact = tfcompress.export(final, path, format="onnx")
    kinds = [op.weights for op in artifact.operators if op.name == "DequantizeLinear"]
    assert kinds == [("float32", "int4")]
    options = ort.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"ids": tokens})
    np.testing.assert_allclose(made, final.predict(tokens, verbose=0), atol=1e-5)


def test_convolutions_of_pixels_are_matrices(tmp_path):
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 32), name="image"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.BatchNormalization(name="norm"),
            layers.Conv2D(32, 1, activation="relu", name="pointwise"),
            layers.Conv2D(8, 3, name="conv"),
        ]
    )
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 32)).astype("float32")
    scheme = {"pointwise": "w4b32", ".*": "w4"}
    final = tfcompress.finalize(tfcompress.calibrate(model, scheme=scheme))
    artifact = tfcompress.export(final, tmp_path / "model.tflite", compute="float")
    stored = {(op.name, *op.weights) for op in artifact.operators if op.weights}
    assert {("DEQUANTIZE", "int4"), ("DEQUANTIZE", "int8")} <= stored
    made = tfcompress.load(artifact).run({"image": x[:1]})["conv"]
    np.testing.assert_allclose(made, final(x[:1]), atol=1e-5)


def test_layers_that_stay_in_float_are_named():
    model = keras.Sequential(
        [
            keras.Input((5, 32), name="x"),
            layers.LSTM(32, name="lstm"),
            layers.Dense(48, name="wide"),
            layers.Dense(32, name="head"),
        ]
    )
    message = (
        r"lstm .LSTM.*steps.*head .Dense.*blocks of 32 do not divide its 48 inputs"
    )
    with pytest.warns(tfcompress.CompressionWarning, match=message):
        tfcompress.quantize_aware(model, "w4b32")
    with pytest.raises(UnsupportedLayerError, match="lstm"):
        tfcompress.quantize_aware(model, "w4", filters="lstm")
    found = tfcompress.doctor(model, "tflite", "w4b32", trial=False).findings
    assert [one.layer for one in found] == ["lstm", "head"]


def test_bad_input(model, tokens, tmp_path):
    with pytest.raises(InvalidArgumentError, match="block_size"):
        BlockwiseQuantizer(48)
    with pytest.raises(InvalidArgumentError, match="Unknown quantization scheme"):
        tfcompress.calibrate(model, scheme="w4b16")
    with pytest.raises(InvalidArgumentError, match=r"data=None.*weight-only"):
        tfcompress.calibrate(model)
    with pytest.raises(InvalidArgumentError, match="none for blocks"):
        tfcompress.calibrate(model, tokens, "w4b32", rounding="adaround")
    with pytest.raises(InvalidArgumentError, match="floats"):
        tfcompress.calibrate(model, tokens, {"gate": "w4", ".*": "w8a8"})
    final = tfcompress.finalize(tfcompress.calibrate(model, scheme="w4"))
    for option in ({"quantize": "dynamic"}, {"sparse": True}, {"smallest": "raw"}):
        with pytest.raises(InvalidArgumentError, match="integers already"):
            tfcompress.export(final, tmp_path / "m.tflite", **option)


def test_awq_spends_values_where_inputs_are_large(tokens):
    model = decoder()
    for name in ("n1", "n2"):
        scale = np.ones(WIDTH)
        scale[3] = 30.0
        model.get_layer(name).set_weights([scale])
    expected = model.predict(tokens, verbose=0)

    def error(**options):
        rounded = tfcompress.calibrate(model, tokens, "w4", **options)
        return np.mean((rounded.predict(tokens, verbose=0) - expected) ** 2)

    assert error(awq=True) < 0.5 * error()
    with pytest.raises(InvalidArgumentError, match="AWQ scales"):
        tfcompress.calibrate(model, scheme="w4", awq=True)
    with pytest.raises(InvalidArgumentError, match="AWQ scales"):
        tfcompress.calibrate(model, tokens, "w8a8", awq=True)


def test_attention_may_be_called_by_names():
    x, y = keras.Input((6, 32), name="x"), keras.Input((5, 32), name="y")
    attention = layers.MultiHeadAttention(2, 16, name="attention")
    made = attention(value=y, query=x, use_causal_mask=True)
    model = keras.Model([x, y], made)
    arrays = [np.random.default_rng(n).normal(size=(2, n, 32)) for n in (6, 5)]
    rounded = tfcompress.finalize(tfcompress.calibrate(model, scheme="w8"))
    np.testing.assert_allclose(rounded(arrays), model(arrays), atol=0.02)
