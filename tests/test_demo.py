"""The demo's models, and the demo where no Fashion-MNIST can be had."""

import json

import keras
import numpy as np
import pytest

from tfcompress.core.errors import ArtifactError
from tfcompress.datasets import load_digits, load_images
from tfcompress.demo import build_student, build_teacher, models, run, running


@pytest.mark.parametrize(
    ("build", "least"), [(build_teacher, 0.92), (build_student, 0.9)]
)
def test_the_trained_models_are_trained(build, least):
    data = load_images(limit=1000)
    if not data.name.startswith("Fashion-MNIST"):
        pytest.skip("needs Fashion-MNIST")
    model = build(data.image_shape, data.num_classes)
    models.set_trained_weights(model)
    right = model.predict(data.x_test, verbose=0).argmax(-1) == data.y_test
    assert right.mean() >= least


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_weights_that_are_not_the_published_ones_are_refused(
    damage, tmp_path, monkeypatch
):
    model = build_student((28, 28, 1), 10)
    before = model.get_weights()
    if damage == "changed":
        models.write_weights(model, tmp_path / "student.npz")
    monkeypatch.setattr(models, "_DIRECTORY", tmp_path)
    with pytest.raises(ArtifactError, match=r"student.*install tfcompress again"):
        models.set_trained_weights(model)
    for one, other in zip(model.get_weights(), before):
        np.testing.assert_array_equal(one, other)


def test_weights_that_16_bits_do_not_hold_are_not_written(tmp_path):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.set_weights([np.full((1, 1), 1e6, "float32"), np.zeros(1, "float32")])
    with pytest.raises(ValueError, match="16 bits"), np.errstate(over="ignore"):
        models.write_weights(model, tmp_path / "model.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.export
def test_the_demo_on_digits(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "load_images", load_digits)
    run(tmp_path)
    rows = json.loads((tmp_path / "figures.json").read_text())["report"]["rows"]
    named = {row["name"]: row for row in rows}
    assert named["student.tflite"]["metric"] >= named["control"]["metric"] - 0.03
    assert named["student.tflite"]["sparsity"] >= 0.849
    assert (tmp_path / "report.html").stat().st_size > 10_000
