"""Several signatures in one .tflite file: verified by name, weights stored once."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress
from tfcompress.cli.commands.inspect import described
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.signatures import signatures_of

RANDOM = np.random.default_rng(7)


def images(*sizes, samples=16):
    return RANDOM.uniform(size=(samples, *sizes, 1)).astype("float32")


def convolutional(size=None):
    image = keras.Input((size, size, 1), name="image")
    x = keras.layers.Conv2D(24, 3, activation="relu", name="first")(image)
    x = keras.layers.Conv2D(48, 3, name="second")(x)
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(image, keras.layers.Dense(5, name="scores")(x))


def test_buckets_of_shapes_are_run_by_name_and_weights_stored_once(tmp_path):
    model = convolutional()
    shapes = {"small": tf.TensorSpec((None, 8, 8, 1)), "wide": np.zeros((1, 8, 20, 1))}
    both = tfcompress.export(model, tmp_path / "m.tflite", input_signature=shapes)
    one = tfcompress.export(
        model, tmp_path / "one.tflite", input_signature=shapes["small"]
    )

    assert [info.name for info in both.signatures] == ["small", "wide"]
    assert both.inputs == both.signatures[0].inputs
    assert both.inputs[0].name == "image"
    assert one.signatures == ()
    weights = 4 * model.count_params()
    assert both.size < one.size + 0.1 * weights
    for name, size in (("small", (8, 8)), ("wide", (8, 20))):
        assert tfcompress.verify(both, model, images(*size), signature=name).passed
    measured = tfcompress.benchmark(both, images(8, 20), runs=1, signature="wide")
    assert measured.name == "m.tflite:wide"
    shown = [one["name"] for one in described(both.path)["signatures"]]
    assert shown == ["small", "wide"]
    assert "Signature `wide`:" in both.model_card()
    noted = json.loads((tmp_path / "m.tflite.manifest.json").read_text())
    assert [entry["name"] for entry in noted["signatures"]] == ["small", "wide"]
    assert noted["compared"]["signatures"]["wide"]["samples"] > 0
    assert noted["parity"]["signature"] == "wide"
    with pytest.raises(InvalidArgumentError, match="Expected: 'small'"):
        tfcompress.load(both, signature="smal")
    with pytest.raises(InvalidArgumentError, match="only one"):
        tfcompress.load(one, signature="small")


def test_models_in_integers_and_in_floats_share_a_file(tmp_path, monkeypatch):
    integers = tfcompress.finalize(
        tfcompress.calibrate(convolutional(8), images(8, 8, samples=64))
    )
    floats = keras.Sequential(
        [keras.Input((6, 3), name="sound"), keras.layers.GRU(4, name="gru")]
    )
    models = {"images": integers, "sounds": floats}
    artifact = tfcompress.export(models, tmp_path / "m.tflite")
    result = tfcompress.verify(artifact, integers, images(8, 8))
    assert result.passed
    assert result.max_abs_error == 0
    sounds = RANDOM.normal(size=(3, 6, 3)).astype("float32")
    assert tfcompress.verify(artifact, floats, sounds, signature="sounds").passed
    # The loop of the GRU makes it a file that a stranger's may not be run of here.
    monkeypatch.setattr("tfcompress.exporters.manifest._FILES_MADE_HERE", set())
    runner = tfcompress.load(artifact.path).with_signature("sounds")
    assert type(runner).__name__ == "JailedRunner"
    np.testing.assert_allclose(runner(sounds), floats.predict(sounds, verbose=0), 1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": (8, 8), "b": (8, 9)}, "names of inputs or of signatures"),
        ({"a b": (8, 8), "c": (8, 9)}, "name that code can call it by"),
        ({"a": (8, 8), "A": (8, 9)}, "large and small letters"),
    ],
)
def test_bad_names_are_refused(given, message):
    specs = {name: tf.TensorSpec((1, *size, 1)) for name, size in given.items()}
    with pytest.raises(InvalidArgumentError, match=message):
        signatures_of(convolutional(), specs)


def test_a_dict_means_what_its_values_say():
    one = tf.TensorSpec((1, 8, 8, 1))
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    two = keras.Model([a, b], keras.layers.Add()([a, b]))
    spec = tf.TensorSpec((1, 3))
    assert signatures_of(two, {"a": spec, "b": spec}) == []
    assert signatures_of(convolutional(), {"image": one}) == []
    found = signatures_of(two, {"x": [spec, spec], "y": {"a": spec, "b": spec}})
    assert [signature.name for signature in found] == ["x", "y"]
    with pytest.raises(InvalidArgumentError, match="says all inputs"):
        signatures_of(two, {"x": [spec, spec], "y": spec})


def test_other_formats_say_which_one_can(tmp_path):
    models = {"a": convolutional(8), "b": convolutional(9)}
    with pytest.raises(InvalidArgumentError, match='format="tflite"'):
        tfcompress.export(models, tmp_path / "m.onnx", format="onnx")
    with pytest.raises(InvalidArgumentError, match="samples for each"):
        tfcompress.export(models, tmp_path / "m.tflite", calibration_data=images(8, 8))
    with pytest.raises(InvalidArgumentError, match="'b' is no Keras model"):
        tfcompress.export({"a": models["a"], "b": "m.keras"}, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())
