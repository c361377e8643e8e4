"""Prediction compression: features once, a small head, a report."""

import keras
import numpy as np
import pytest

from tests.distillation.conftest import dense_model
from tests.distillation.test_distiller import compiled_loss
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.distillation.students.heads import compress_predictions


def fit(model, features, y):
    model.compile(keras.optimizers.Adam(0.05), compiled_loss(), metrics=["accuracy"])
    model.fit(features, y, epochs=10, verbose=0)


@pytest.fixture
def task(rng):
    keras.utils.set_random_seed(0)
    extractor = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(4, "tanh"), keras.layers.Dropout(0.5)]
    )
    x = rng.normal(size=(128, 6)).astype("float32")
    y = np.argmax(extractor.predict(x, verbose=0)[:, :3], -1)
    return extractor, (x, y)


def small_head():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)], name="head")


@pytest.mark.parametrize("taught", [False, True])
def test_head_and_report(task, taught):
    extractor, (x, y) = task
    before = extractor.get_weights()
    teacher = None
    if taught:
        teacher = dense_model(32, 1)
        fit(teacher, extractor.predict(x, verbose=0), y)
    report = compress_predictions(extractor, small_head(), (x, y), (x, y), fit, teacher)
    logits = report.model.predict(x, verbose=0)
    accuracy = (logits.argmax(-1) == y).mean()
    assert accuracy > 0.85
    assert report.metrics["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert (report.head_parameters, report.teacher_parameters) == (
        15,
        259 if taught else None,
    )
    assert report.to_markdown().count("\n") == 4
    assert f"| accuracy | {accuracy:.4f} | " in report.to_markdown()
    assert bool(report.teacher_metrics) == taught
    for a, b in zip(before, extractor.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_head_for_other_features(task):
    extractor, data = task
    head = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    with pytest.raises(InvalidArgumentError, match=r"a head for \(5,\).*for \(4,\)"):
        compress_predictions(extractor, head, data, data, fit)
