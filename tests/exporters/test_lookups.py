"""Lookups and encodings of numbers and words are in LiteRT what they are in Keras."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfcompress

pytestmark = pytest.mark.export
NUMBERS = np.array([3, 7, 9, 0, -5, 100], "int64")


def same(model, data, folder):
    for number, one in enumerate(
        [model, tfcompress.finalize(tfcompress.calibrate(model, data))]
    ):
        artifact = tfcompress.export(one, folder / f"{number}.tflite")
        wanted = one.predict(data, verbose=0)
        np.testing.assert_allclose(
            tfcompress.load(artifact.path)(data), wanted, atol=1e-6
        )


@pytest.mark.sweep(4)
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("mode", ["int", "masked", "one_hot", "multi_hot", "count"])
def test_lookups_of_integers(mode, width, tmp_path, rng):
    options = {"mask_token": 0} if mode == "masked" else {"output_mode": mode}
    inputs = keras.Input((width,), dtype="int64", name="numbers")
    x = layers.IntegerLookup(vocabulary=[7, 3, 100], **options)(inputs)
    if mode in ("int", "masked"):
        x = layers.Embedding(6, 4)(x)
    elif mode == "one_hot":
        x = layers.Flatten()(x)
    model = keras.Model(inputs, layers.Dense(3, name="last")(x))
    same(model, rng.choice(NUMBERS, (48, width)), tmp_path)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("mode", ["one_hot", "multi_hot", "count"])
def test_encodings_of_categories(mode, width, tmp_path, rng):
    inputs = keras.Input((width,), dtype="int32", name="categories")
    x = layers.CategoryEncoding(5, output_mode=mode)(inputs)
    if mode == "one_hot":
        x = layers.Flatten()(x)
    model = keras.Model(inputs, layers.Dense(3, name="last")(x))
    same(model, rng.choice(5, (48, width)).astype("int32"), tmp_path)


@pytest.mark.parametrize("width", [1, 2])
def test_words_keep_their_shape(width, tmp_path):
    inputs = keras.Input((width,), dtype="string", name="words")
    x = layers.StringLookup(vocabulary=["a", "b", "c"])(inputs)
    x = layers.Embedding(6, 4)(x)
    x = ops.matmul(x, ops.transpose(x, (0, 2, 1)))
    model = keras.Model(inputs, layers.Dense(3, name="last")(x))
    artifact = tfcompress.export(model, tmp_path / "model.tflite")
    words = np.array([["a"], ["c"], ["z"]] * 2, object).repeat(width, 1)
    wanted = model.predict(ops.convert_to_tensor(words.astype(str)), verbose=0)
    np.testing.assert_allclose(tfcompress.load(artifact.path)(words), wanted, atol=1e-6)


@pytest.mark.sweep(4)
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("mode", ["one_hot", "multi_hot", "count", "padded"])
def test_encodings_of_words(mode, width, tmp_path, rng):
    options = {"output_mode": mode}
    if mode == "padded":
        options = {"output_mode": "count", "max_tokens": 6, "pad_to_max_tokens": True}
    inputs = keras.Input((width,), dtype="string", name="words")
    x = layers.StringLookup(vocabulary=["a", "b", "c"], **options)(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="last")(layers.Flatten()(x)))
    words = rng.choice(["a", "c", "z"], (48, width))
    assert tfcompress.doctor(model, "tflite", trial=False).deployable
    final = tfcompress.finalize(tfcompress.calibrate(model, words))
    for number, one in enumerate([model, final]):
        artifact = tfcompress.export(one, tmp_path / f"{number}.tflite")
        wanted = one.predict(ops.convert_to_tensor(words), verbose=0)
        outputs = tfcompress.load(artifact.path)(words.astype(object))
        np.testing.assert_allclose(outputs, wanted, atol=1e-6)


def test_what_litert_has_no_form_for_is_named_before():
    inputs = keras.Input((2,), dtype="int64", name="numbers")
    x = layers.HashedCrossing(8, output_mode="one_hot", name="crossed")(
        (inputs[:, :1], inputs[:, 1:])
    )
    model = keras.Model(inputs, layers.Dense(2)(x))
    diagnosis = tfcompress.doctor(model, "tflite", trial=False)
    assert [finding.layer for finding in diagnosis.findings] == ["crossed"]
    assert not diagnosis.deployable


def test_a_table_that_is_compared_with_is_not_in_the_file(tmp_path, rng):
    # The graph holds another tensor that is no weight; the table came along with it.
    inputs = keras.Input((3,), dtype="int64", name="numbers")
    x = layers.IntegerLookup(vocabulary=[7, 3, 100])(inputs)
    x = layers.Embedding(6, 4)(x) + ops.convert_to_tensor(np.ones(4, "float32"))
    model = keras.Model(inputs, layers.Dense(3, name="last")(x))
    same(model, rng.choice(NUMBERS, (48, 3)), tmp_path)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("mode", ["multi_hot", "count"])
@pytest.mark.parametrize("width", [1, 3])
def test_bins_of_numbers_are_counted(mode, width, tmp_path, rng):
    inputs = keras.Input((width,), name="ages")
    bins = layers.Discretization([20.0, 30.0, 40.0], output_mode=mode)(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="last")(bins))
    assert tfcompress.doctor(model, "tflite", trial=False).deployable
    assert tfcompress.doctor(model, "tflite", "w8a8", trial=False).deployable
    same(model, rng.normal(30, 12, (48, width)).astype("float32"), tmp_path)


@pytest.mark.parametrize("format", ["tflite", "saved_model"])
def test_a_model_that_puts_out_its_labels(format, tmp_path, rng):
    inputs = keras.Input((8,), name="x")
    best = ops.argmax(layers.Dense(2)(inputs), -1)
    labels = layers.StringLookup(
        vocabulary=["café", "tea"], invert=True, num_oov_indices=0
    )(best)
    model, data = keras.Model(inputs, labels), rng.normal(size=(32, 8))
    for number, final in enumerate(
        [
            tfcompress.finalize(model),
            tfcompress.finalize(tfcompress.calibrate(model, data)),
        ]
    ):
        name = f"{number}.tflite" if format == "tflite" else str(number + 1)
        path = tmp_path / name
        artifact = tfcompress.export(final, path, format=format)
        result = tfcompress.verify(artifact, final, data)
        assert result.passed, str(result)
        assert result.max_abs_error == 0
        assert tfcompress.verify(artifact, final, -data).passed
    other = tfcompress.finalize(model)
    other.layers[1].set_weights([-w for w in other.layers[1].get_weights()])
    differs = tfcompress.verify(artifact, other, data)
    assert not differs.passed
    assert "texts" in str(differs)
