"""A file that trains its last layer: steps as Keras', weights that come back."""

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress
from tfcompress.core.errors import (
    ArtifactError,
    InvalidArgumentError,
    UnsupportedLayerError,
)
from tfcompress.exporters import write_callers

RANDOM = np.random.default_rng(2)
IMAGES = RANDOM.uniform(size=(64, 8, 8, 1)).astype("float32")
TARGETS = {
    "categorical_crossentropy": np.eye(5, dtype="float32")[np.arange(8) % 5],
    "sparse_categorical_crossentropy": (np.arange(8) % 5).astype("int32"),
    "mean_squared_error": RANDOM.normal(size=(8, 5)).astype("float32"),
}


def classifier(activation="softmax"):
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(16, 3, activation="relu", name="conv"),
            layers.Flatten(name="flat"),
            layers.Dense(32, activation="relu", name="hidden"),
            layers.Dense(5, activation, name="scores"),
        ]
    )


@pytest.mark.parametrize("loss", TARGETS)
def test_steps_in_litert_are_those_of_keras(loss, tmp_path):
    model = classifier(None if loss == "mean_squared_error" else "softmax")
    training = tfcompress.OnDeviceTraining(model, loss, batch_size=8)
    artifact = tfcompress.export(training, tmp_path / "m.tflite")
    alone = tfcompress.export(model, tmp_path / "one.tflite")
    names = [one.name for one in artifact.signatures]
    assert sorted(names) == ["infer", "restore", "save", "train"]
    assert artifact.size < 1.1 * alone.size + 20_000

    infer = tfcompress.load(artifact, signature="infer")
    train = infer.with_signature("train")
    np.testing.assert_allclose(infer(IMAGES), model.predict(IMAGES, verbose=0), 1e-4)
    batch = {"image": IMAGES[:8], "target": TARGETS[loss], "learning_rate": 0.05}
    losses = [float(train(batch)) for _ in range(5)]
    assert losses[-1] < losses[0]

    for layer in model.layers[:-1]:
        layer.trainable = False
    model.compile(keras.optimizers.SGD(0.05), loss)
    for _ in range(5):
        model.train_on_batch(IMAGES[:8], TARGETS[loss])
    saved = infer.with_signature("save").run({})
    for value, name in zip(model.layers[-1].get_weights(), ("kernel", "bias")):
        np.testing.assert_allclose(saved[name], value, atol=1e-5)

    fresh = tfcompress.load(artifact, signature="restore")
    fresh(saved)
    again = fresh.with_signature("infer")
    np.testing.assert_array_equal(again(IMAGES), infer(IMAGES))


def test_the_layers_before_may_be_integers(tmp_path, monkeypatch):
    integers = tfcompress.finalize(
        tfcompress.calibrate(
            classifier(), IMAGES, filters=lambda layer: layer.name != "scores"
        )
    )
    training = tfcompress.OnDeviceTraining(integers, batch_size=4)
    artifact = tfcompress.export(training, tmp_path / "m.tflite")
    assert artifact.integer_coverage > 0.9
    assert tfcompress.verify(artifact, integers, IMAGES, max_abs_error=1e-5).passed
    _check_callers(write_callers(artifact, tmp_path / "callers"))
    monkeypatch.setattr("tfcompress.exporters.manifest._FILES_MADE_HERE", set())
    with pytest.raises(ArtifactError, match="trusted=True"):
        tfcompress.load(artifact, signature="train")


def test_a_model_of_one_layer_and_any_batch(tmp_path):
    model = keras.Sequential(
        [keras.Input((4,), name="a"), layers.Dense(3, "softmax", name="s")]
    )
    training = tfcompress.OnDeviceTraining(model, batch_size=2)
    artifact = tfcompress.export(training, tmp_path / "m.tflite", batch_size=None)
    rows = RANDOM.normal(size=(5, 4)).astype("float32")
    assert tfcompress.verify(artifact, model, rows).passed


def _check_callers(files):
    texts = {file.suffix: file.read_text() for file in files}
    assert "fun train(" in texts[".kt"]
    assert '"learning_rate" to given_1' in texts[".kt"]
    assert 'interpreter.signatureRunner(with: "restore")' in texts[".swift"]
    assert "| train: input | target | float32 | 4 x 5 |" in texts[".md"]
    for code in (texts[".kt"], texts[".swift"]):
        assert all(code.count(a) == code.count(b) for a, b in ("{}", "()", "[]"))


def test_what_cannot_be_trained_is_refused(tmp_path):
    with pytest.raises(InvalidArgumentError, match="does not fit the last layer"):
        tfcompress.OnDeviceTraining(classifier(), "mean_squared_error")
    with pytest.raises(InvalidArgumentError, match="Unknown `loss`"):
        tfcompress.OnDeviceTraining(classifier(), "hinge")
    with pytest.raises(UnsupportedLayerError, match=r"'scores'.*'sigmoid'"):
        tfcompress.OnDeviceTraining(classifier("sigmoid"))
    quantized = tfcompress.finalize(tfcompress.calibrate(classifier(), IMAGES))
    with pytest.raises(UnsupportedLayerError, match="leave it in float"):
        tfcompress.OnDeviceTraining(quantized)
    shared, inputs = layers.Dense(5, "softmax", name="both"), keras.Input((5,))
    with pytest.raises(UnsupportedLayerError, match=r"'both' .* more than once"):
        tfcompress.OnDeviceTraining(keras.Model(inputs, shared(shared(inputs))))
    training = tfcompress.OnDeviceTraining(classifier())
    with pytest.raises(InvalidArgumentError, match="holds one signature"):
        tfcompress.export(training, tmp_path / "m.onnx", format="onnx")
