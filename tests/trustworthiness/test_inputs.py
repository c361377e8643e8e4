"""What trust takes, and what it says of what it does not take."""

import keras
import numpy as np
import pytest

import tfcompress
from tests.trustworthiness.models import answering, samples, table
from tfcompress.core.errors import InvalidArgumentError, VerificationError
from tfcompress.exporters import KerasRunner
from tfcompress.trustworthiness import trust

L = keras.layers
QUICK = {"corruptions": (), "saliency_samples": 0}
ANSWERS = [0, 1, 2, 1]
MODEL_ARGUMENTS = {"inputs": samples(4), "labels": ANSWERS}


def two_outputs():
    x = keras.Input((4,), name="x")
    return keras.Model(x, [L.Dense(3)(x), L.Dense(3)(x)])


def sequence():
    return keras.Sequential([keras.Input((4,)), L.Reshape((4, 1)), L.Dense(3)])


def broken():
    model = table(answering(ANSWERS, 3))
    model.layers[0].set_weights([np.full((4, 3), np.nan)])
    return model


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": None}, r"There are no labels\. Received: None"),
        ({"labels": [0, 1]}, r"not as many labels as samples\. Received: 2 labels"),
        (
            {"labels": [0, 1, 2, 3]},
            r"no class of this model\. Received: 3 for sample 3",
        ),
        ({"labels": [0, -1, 2, 0]}, "Received: -1 for sample 1"),
        ({"labels": [0.5, 1, 2, 0]}, r"Received: 0\.5 for sample 0.*regression"),
        ({"labels": [np.nan, 1, 2, 0]}, "Received: nan for sample 0"),
        ({"labels": list("abcd")}, "Labels have the wrong shape or type"),
        ({"labels": np.zeros((4, 2))}, r"Received: shape \(4, 2\)"),
        ({"labels": np.ones((4, 3))}, "not one-hot.*several labels a sample"),
        ({"inputs": np.zeros((4, 5))}, r"Received: shape \(4, 5\)"),
        ({"inputs": np.zeros((0, 4))}, "holds no samples"),
        ({"original": two_outputs()}, "original model has several outputs"),
        (
            {"compressed": sequence()},
            r"no classifier.*outputs of shape \(4, 4",
        ),
        ({"original": broken()}, "gives NaN.*Received: 4 of 4 samples, the first"),
        (
            {"compressed": table(answering(ANSWERS, 5))},
            "differ in their number of",
        ),
        ({"compressed": 3}, "`compressed` is nothing that can be run. Received: int"),
        ({"class_names": ["a", "b"]}, "Received: 2 names. Expected: 3"),
        ({"corruptions": ["fog"]}, "Received: fog. Expected: gaussian_noise, "),
        ({"corruptions": "contrast"}, "inputs cannot take. Received: contrast"),
        ({"severities": (1, 6)}, "`severities` is out of range"),
        ({"epsilon": 3.0}, "`epsilon` is out of range"),
        ({"samples": 0}, "an int >= 1"),
        ({"value_range": (1, 0)}, "lowest, highest"),
        ({"epochs": 3}, "Unknown keyword arguments of `trust`. Received: epochs"),
        ({"thresholds": {"min_recall": 1}}, "Unknown thresholds.*min_recall"),
        ({"thresholds": 0.9}, "Unknown thresholds"),
        ({"thresholds": {"min_agreement": 98}}, r"one per cent is 0\.01"),
        ({"thresholds": {"max_accuracy_drop": -0.1}}, "a number from 0 to 1"),
    ],
)
def test_bad_arguments(changed, message):
    given = {"original": table(answering(ANSWERS, 3)), **MODEL_ARGUMENTS}
    given = {"compressed": given["original"], **given, **changed}
    with pytest.raises(InvalidArgumentError, match=message):
        trust(**given)


def test_nan_is_the_fault_of_what_was_compressed():
    model = table(answering(ANSWERS, 3))
    with pytest.raises(VerificationError, match=r"compressed .* gives NaN"):
        trust(model, broken(), samples(4), ANSWERS)


def test_a_threshold_on_an_attack_that_cannot_be():
    model = table(answering(ANSWERS, 3))
    runner = KerasRunner(model)
    found = trust(
        runner, runner, samples(4), ANSWERS, {"max_attack_drop": 0.1}, **QUICK
    )
    assert found.attack is None
    assert "Not attacked: the original has no gradient." in found.notes
    assert found.failures == (
        "the loss of accuracy under attack could not be measured, and "
        "max_attack_drop is 0.1",
    )


def test_integers_have_no_corruption_but_explanations(rng):
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            L.Embedding(9, 4),
            L.GlobalAveragePooling1D(),
            L.Dense(3),
        ]
    )
    words = rng.integers(1, 9, size=(12, 6))
    found = trust(model, model, words, np.arange(12) % 3)
    assert found.corruptions == ()
    assert found.attack is None
    assert "Inputs are integers or texts" in found.notes[0]
    assert (found.saliency.method, round(found.saliency.correlation, 6)) == (
        "occlusion",
        1.0,
    )


def test_images_of_bytes_are_corrupted(rng):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), dtype="uint8"),
            L.Rescaling(1 / 255),
            L.Flatten(),
            L.Dense(3),
        ]
    )
    images = rng.integers(0, 256, size=(300, 8, 8, 1)).astype("uint8")
    labels = model.predict(images, verbose=0).argmax(axis=1)
    found = trust(model, model, images, labels, severities=(5,), saliency_samples=0)
    assert found.accuracy.original == 1.0 > found.corruption_means["contrast"].original
    assert found.attack is None
    assert "Not attacked" in found.notes[0]


def test_models_of_several_inputs(rng):
    def build():
        a, b = keras.Input((3,), name="b"), keras.Input((2, 2), name="a")
        joined = L.Concatenate()([a, L.Flatten()(b)])
        return keras.Model([a, b], L.Dense(2)(joined))

    model = build()
    x = [rng.normal(size=(20, 3)), rng.normal(size=(20, 2, 2))]
    labels = np.arange(20) % 2
    by_order = trust(model, model, x, labels)
    by_name = trust(model, model, {"a": x[1], "b": x[0]}, labels)
    assert by_order == by_name
    assert by_order.attack.own == by_order.attack.accuracy.original
    with pytest.raises(InvalidArgumentError, match="differ in their inputs"):
        trust(model, table(answering([0, 1], 2)), x, labels)


def test_subclassed_models(rng):
    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(3)

        def call(self, x):
            return self.dense(x)

    model, x = Plain(), rng.normal(size=(10, 4))
    model(x)
    found = trust(model, model, x, np.arange(10) % 3)
    assert found.agreement == 1.0
    assert found.saliency.method == "gradient"


@pytest.mark.export
def test_files(rng, tmp_path):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1), name="image"),
            L.Conv2D(4, 3, activation="relu"),
            L.Flatten(),
            L.Dense(3),
        ],
        name="float",
    )
    x = rng.random(size=(40, 6, 6, 1)).astype("float32")
    labels = model.predict(x, verbose=0).argmax(1)
    quantized = tfcompress.calibrate(model, x, "w8a8")
    final = tfcompress.finalize(quantized)
    file = tfcompress.export(final, tmp_path / "small.tflite")
    how = {"corruptions": "contrast", "severities": (3,), "saliency_samples": 20}
    from_file, from_runner = (
        trust(model, given, x, labels, **how)
        for given in (str(file.path), tfcompress.load(file))
    )
    assert from_file == from_runner
    assert (from_file.original, from_file.compressed) == ("float", "small.tflite")
    assert from_file.accuracy.original == 1.0
    assert from_file.saliency.method == "occlusion"
    assert from_file.saliency.correlation > 0.9
    assert from_file.attack.own is None
    assert "`compressed_model` takes a form" in from_file.notes[0]
    # The finalized model's rounding has no gradient either; the file equals it.
    in_keras = trust(model, final, x, labels, **how)
    assert in_keras.saliency.method == "occlusion"
    assert in_keras.saliency.correlation == pytest.approx(
        from_file.saliency.correlation, abs=5e-3
    )
    assert in_keras.agreement == from_file.agreement
    # The model that was trained or calibrated has one.
    helped = trust(model, file, x, labels, compressed_model=quantized, **how)
    assert helped.saliency.method == "gradient"
    assert helped.saliency.correlation > 0.9
    assert helped.attack.own is not None
    assert helped.notes == ()
    other = keras.models.clone_model(model)
    stray = trust(model, file, x, labels, compressed_model=other, **how)
    assert "gives the compressed model's answer in only" in stray.notes[-1]
