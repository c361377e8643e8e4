"""doctor_all: a line for each target."""

import json

import keras
import pytest
from typer.testing import CliRunner

import tfcompress
from tfcompress.cli import app
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.artifact import EXPORTERS

L = keras.layers


@pytest.fixture(scope="module")
def model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 8, 1), name="volume"),
            L.Conv3D(2, 3, name="conv"),
            L.Flatten(),
            L.Dense(2, name="y"),
        ]
    )


def test_every_target_has_its_diagnosis(model):
    found = tfcompress.doctor_all(model, "w8a8", trial=False)
    assert sorted(found.diagnoses) == sorted(EXPORTERS.names())
    for name, diagnosis in found.diagnoses.items():
        assert diagnosis == tfcompress.doctor(model, name, "w8a8", trial=False)
        assert (name in found.deployable) == diagnosis.deployable
    assert "tflite" in found.deployable
    assert "micro" not in found.deployable  # it takes integers only
    text, page = str(found), found._repr_html_()
    for name in found.diagnoses:
        assert f"| {name} " in text
        assert f"<th>{name}</th>" in page
    row = next(line for line in text.splitlines() if line.startswith("| micro "))
    assert "| no " in row
    assert "conv: " in row


def test_the_command_asks_about_all_targets(model, tmp_path):
    model.save(tmp_path / "m.keras")
    line = ["doctor", str(tmp_path / "m.keras"), "--all", "--scheme", "w8a8"]
    done = CliRunner().invoke(app, [*line, "--no-trial", "--json"])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert content["tflite"]["deployable"] is True
    assert content["micro"]["deployable"] is False
    shown = CliRunner().invoke(app, [*line, "--no-trial"])
    assert "ethos_u" in shown.stdout
    assert "…" not in shown.stdout  # no advice is cut
    wrong = CliRunner().invoke(app, [*line, "--option", "batch_size=2"])
    assert isinstance(wrong.exception, InvalidArgumentError)
    wrong = CliRunner().invoke(app, [*line, "--format", "micro"])
    assert "Received: --format micro" in str(wrong.exception)


@pytest.mark.export
def test_a_trial_says_how_much_runs_in_integers():
    small = keras.Sequential([keras.Input((4,)), L.Dense(2, name="y")])
    found = tfcompress.doctor_all(small, "w8a8")
    assert found.diagnoses["tflite"].integer_coverage == 1.0
    assert "100%" in str(found)


def _pictures():
    image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(4, 3, activation="relu", name="conv")(image)
    x = L.GlobalAveragePooling2D()(L.Conv2D(8, 3, name="wide")(x))
    return keras.Model(image, L.Dense(3, name="y")(x))


@pytest.mark.export
@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_the_runtime_says_how_much_it_does_in_integers(target):
    pytest.importorskip({"onnx": "onnxruntime"}.get(target, target))
    whole = tfcompress.doctor(_pictures(), target, "w8a8")
    assert whole.integer_coverage == 1.0
    assert tfcompress.doctor(_pictures(), target).integer_coverage == 0.0
    nothing = keras.Sequential([keras.Input((4,)), L.ReLU(name="relu")])
    assert tfcompress.doctor(nothing, target).integer_coverage is None


@pytest.mark.parametrize("target", ["qnn", "coreml"])
def test_compress_refuses_what_it_cannot_measure(target):
    small = keras.Sequential([keras.Input((4,)), L.Dense(2, name="y")])
    budget = tfcompress.Budget(max_bytes="50%")
    with pytest.raises(InvalidArgumentError, match="compress for target="):
        tfcompress.compress(small, None, None, budget, target=target)
