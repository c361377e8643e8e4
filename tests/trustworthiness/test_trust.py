"""trust: the figures are right, the same each time, and fail when they should."""

import json

import keras
import numpy as np
import pytest

from tests.trustworthiness.models import answering, samples, table
from tfcompress.core.errors import VerificationError
from tfcompress.trustworthiness import TrustReport, TrustThresholds, trust

L = keras.layers
QUICK = {"corruptions": (), "saliency_samples": 0}

LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 2])
BEFORE = np.array([0, 0, 1, 1, 1, 2, 2, 0])
AFTER = np.array([0, 1, 1, 1, 0, 2, 2, 2])


@pytest.fixture(scope="module")
def report():
    before = table(answering(BEFORE, 3))
    after = table(answering(AFTER, 3, sure=2.0), name="compressed")
    return trust(before, after, samples(8), LABELS, class_names="abc", **QUICK)


def test_answers(report):
    assert (report.samples, report.outputs) == (8, "logits")
    assert report.agreement == 5 / 8
    assert (report.accuracy.original, report.accuracy.compressed) == (6 / 8, 5 / 8)
    assert report.confusion_original == ((2, 1, 0), (0, 2, 0), (1, 0, 2))
    assert report.confusion_compressed == ((1, 2, 0), (1, 1, 0), (0, 0, 3))


def test_classes(report):
    assert [one.name for one in report.classes] == ["a", "b", "c"]
    assert [one.support for one in report.classes] == [3, 2, 3]
    recalls = [(one.recall.original, one.recall.compressed) for one in report.classes]
    assert recalls == [(2 / 3, 1 / 3), (1.0, 1 / 2), (2 / 3, 1.0)]
    # "b or not": both models take one sample of "a" for it or miss one.
    accuracy = report.classes[1].accuracy
    assert (accuracy.original, accuracy.compressed) == (7 / 8, 5 / 8)
    assert report.worst_class.name == "b"


def test_changed_answers_are_sorted_by_harm(report):
    kinds = [(answer.index, answer.kind) for answer in report.changed]
    assert kinds == [(1, "broken"), (4, "broken"), (7, "repaired")]
    first = report.changed[0]
    assert (first.label, first.original, first.compressed) == (0, 0, 1)
    sure = np.exp(4) / (np.exp(4) + 2), np.exp(2) / (np.exp(2) + 2)
    assert first.confidence.original == pytest.approx(sure[0])
    assert first.confidence.compressed == pytest.approx(sure[1])
    assert first.image is None


def test_calibration(report):
    for error, answers, sure in (
        (report.calibration_error.original, BEFORE, 4.0),
        (report.calibration_error.compressed, AFTER, 2.0),
    ):
        confidence = np.exp(sure) / (np.exp(sure) + 2)
        right = np.mean(answers == LABELS)
        assert error == pytest.approx(abs(right - confidence))
    assert [one.count for one in report.reliability_original] == [0] * 14 + [8]


def test_calibration_error_of_many_bins(rng):
    logits = rng.normal(size=(200, 4)) * 2
    labels = rng.integers(0, 4, 200)
    model = table(logits)
    found = trust(model, model, samples(200), labels, **QUICK).calibration_error
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, right = shares.max(1), shares.argmax(1) == labels
    expected = 0.0
    for low in np.arange(15) / 15:
        here = (confidence > low) & (confidence <= low + 1 / 15)
        if here.any():
            gap = abs(right[here].mean() - confidence[here].mean())
            expected += here.mean() * gap
    assert found.original == pytest.approx(expected, abs=1e-6)


def test_words_and_json(report):
    text = report.to_markdown()
    assert "Measured on 8 samples; no thresholds were given." in text
    assert "3 answers changed: 2 broken, 1 repaired, 0 wrong both times" in text
    assert "| b     |       2 | 100.00% |     50.00% | -50.00 |   87.50% |" in text
    found = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert found["worst_class"] == "b"
    assert found["passed"] is True
    assert found["reliability_original"][0] == {
        "count": 0,
        "confidence": None,
        "accuracy": None,
    }
    assert found["changed"][0]["kind"] == "broken"
    assert str(report) == text


def test_probabilities_and_logits_give_one_report(rng):
    logits, labels = rng.normal(size=(30, 3)), rng.integers(0, 3, 30)
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    plain = trust(table(logits), table(logits), samples(30), labels, **QUICK)
    shares = trust(table(softmax), table(softmax), samples(30), labels, **QUICK)
    # One of the two may give logits and the other probabilities, rounded to 8 bits.
    rounded = np.rint(softmax * 256) / 256
    mixed = trust(table(logits), table(rounded), samples(30), labels, **QUICK)
    assert (plain.outputs, shares.outputs) == ("logits", "probabilities")
    assert plain.calibration_error.original == pytest.approx(
        shares.calibration_error.original, abs=1e-6
    )
    assert mean_confidence(mixed.reliability_compressed) == pytest.approx(
        mean_confidence(plain.reliability_original), abs=5e-3
    )


def mean_confidence(bins):
    """Returns the mean confidence of all samples."""
    sums = [one.count * one.confidence for one in bins if one.count]
    return sum(sums) / sum(one.count for one in bins)


def test_what_outputs_are_may_be_said(rng):
    # Logits that look like probabilities.
    shares = rng.dirichlet(np.ones(3), 20)
    model, labels = table(shares), np.arange(20) % 3
    guessed = trust(model, model, samples(20), labels, **QUICK)
    told = trust(model, model, samples(20), labels, from_logits=True, **QUICK)
    assert (guessed.outputs, told.outputs) == ("probabilities", "logits")
    softmax = np.exp(shares) / np.exp(shares).sum(1, keepdims=True)
    sure = np.mean(softmax.max(1))
    found = [
        one.count * one.confidence for one in told.reliability_original if one.count
    ]
    assert sum(found) / 20 == pytest.approx(sure, abs=1e-6)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_one_output_stands_for_two_classes(activation, rng):
    logits, labels = 3 * rng.normal(size=(40, 1)), rng.integers(0, 2, 40)
    one = table(logits, activation)
    two = table(np.concatenate([0 * logits, logits], axis=1))
    single = trust(one, one, samples(40), labels, corruptions=())
    double = trust(two, two, samples(40), labels, corruptions=())
    assert single.confusion_original == double.confusion_original
    assert single.calibration_error.original == pytest.approx(
        double.calibration_error.original, abs=1e-6
    )
    assert single.attack.accuracy.original == double.attack.accuracy.original


def test_labels_may_be_one_hot_or_a_column(report):
    before, after = table(answering(BEFORE, 3)), table(answering(AFTER, 3))
    for labels in (np.eye(3)[LABELS], LABELS[:, None], LABELS.astype("float32")):
        found = trust(before, after, samples(8), labels, **QUICK)
        assert found.confusion_compressed == report.confusion_compressed


def test_classes_nobody_is_in():
    model = table(answering([0, 1, 1], 3))
    found = trust(model, model, samples(3), [0, 1, 1], **QUICK)
    assert np.isnan(found.classes[2].recall.original)
    assert found.worst_class.name in ("0", "1")
    assert (
        "| 2     |       0 |       - |          - |      - |  100.00% |"
        in found.to_markdown()
    )
    assert json.loads(found.to_json())["classes"][2]["recall"]["original"] is None


@pytest.mark.parametrize(
    ("limit", "value", "sentence"),
    [
        ("min_agreement", 0.9, "top-1 agreement is 0.6250, below 0.9"),
        ("max_accuracy_drop", 0.1, "the loss of accuracy is 0.1250, above 0.1"),
        (
            "max_class_recall_drop",
            0.4,
            "the loss of recall in class '1' is 0.5000, above 0.4",
        ),
        (
            "max_calibration_increase",
            0.0,
            "the increase of the calibration error is",
        ),
        (
            "max_corruption_drop",
            0.0,
            "the loss of accuracy under corruptions could not be measured",
        ),
        (
            "min_saliency_correlation",
            0.5,
            "the rank correlation of explanations could not be measured",
        ),
    ],
)
def test_thresholds(limit, value, sentence):
    before = table(answering(BEFORE, 3, 1.7))
    after = table(answering(AFTER, 3, 5.0), name="small")
    found = trust(before, after, samples(8), LABELS, {limit: value}, **QUICK)
    assert found.failures[0].startswith(sentence)
    assert not found.passed
    assert found.to_markdown().startswith("**FAILED on 8 samples: " + sentence)
    with pytest.raises(VerificationError, match=r"'small' is not to be trusted"):
        found.raise_if_failed()


def test_thresholds_that_are_met():
    model = table(answering(BEFORE, 3))
    limits = TrustThresholds(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.99)
    found = trust(model, model, samples(8), LABELS, limits)
    assert found.raise_if_failed() is found
    assert found.verdict == "Passed on 8 samples."


def test_equal_seeds_give_equal_reports(rng):
    logits, labels = rng.normal(size=(60, 3)), rng.integers(0, 3, 60)
    before, after = table(logits), table(logits + 0.3 * rng.normal(size=(60, 3)))
    how = {"samples": 40, "saliency_samples": 10, "severities": (5,)}
    first, again, other = (
        trust(before, after, samples(60), labels, seed=seed, **how)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert isinstance(first, TrustReport)
    assert (first.corruptions, first.saliency) != (other.corruptions, other.saliency)
    assert first.confusion_original == other.confusion_original


def test_images_of_changed_answers(rng):
    images = rng.integers(0, 256, size=(6, 5, 5, 3)).astype("float32")
    flat = images.reshape(6, -1)
    models = []
    for answers in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 1]):
        # Least squares: as many weights as needed to give each image its answer.
        kernel = np.linalg.lstsq(flat, answering(answers, 2), rcond=None)[0]
        dense = L.Dense(2, use_bias=False)
        models.append(keras.Sequential([keras.Input((5, 5, 3)), L.Flatten(), dense]))
        dense.set_weights([kernel])
    found = trust(*models, images, [0, 0, 0, 1, 1, 1], examples=2, **QUICK)
    assert len(found.changed) == 5
    shown = [answer.image for answer in found.changed]
    assert [image is None for image in shown] == [False, False, True, True, True]
    for answer in found.changed[:2]:
        np.testing.assert_array_equal(answer.image, images[answer.index])
        assert answer.image.dtype == np.uint8
    assert "image" not in json.loads(found.to_json())["changed"][0]
