"""report: the right numbers, side by side, readable and machine-readable."""

import json

import keras
import numpy as np
import pytest
import rich.console

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters import export
from tfcompress.reporting import Report, Row, report
from tfcompress.reporting.measures import layer_weights, macs, sparsity

L = keras.layers
X = np.random.default_rng(0).normal(size=(20, 8, 8, 2)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            L.Conv2D(4, 3),
            L.DepthwiseConv2D(3),
            L.Flatten(),
            L.Dense(5),
        ],
        name="teacher",
    )
    for layer in (model.layers[0], model.layers[3]):
        kernel, bias = layer.get_weights()
        kernel.reshape(-1)[::2] = 0.0
        layer.set_weights([kernel, bias])
    return model


@pytest.fixture(scope="module")
def artifacts(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return (
        export(model, folder / "student.tflite"),
        export(model, folder / "student8.tflite", calibration_data=X),
        export(model, folder / "student" / "1", format="saved_model"),
    )


# conv 6*6 outputs, 3*3*2 weights, 4 channels; depthwise 4*4, 3*3, 4; dense 64 * 5
MACS = 36 * 18 * 4 + 16 * 9 * 4 + 64 * 5
KERNELS = 72 + 36 + 320
ZEROS = 36 + 160


@pytest.mark.export
def test_numbers(model, artifacts):
    result = report(
        model,
        *artifacts,
        evaluate=lambda predict: predict(X).mean() * 0 + len(predict(X)),
        latency_inputs=X,
        runs=3,
    )
    baseline, phone, integer, server = result.rows
    assert baseline.size == 4 * model.count_params()
    assert phone.size == artifacts[0].size
    assert phone.gzip_ratio == pytest.approx(baseline.gzip_size / phone.gzip_size)
    assert integer.size < phone.size
    assert [row.macs for row in result.rows] == [MACS, MACS, MACS, None]
    for row in (baseline, phone, server):
        assert row.sparsity == pytest.approx(ZEROS / KERNELS)
    # Rounding to 8 bits may make a few more zeros, never fewer.
    assert ZEROS / KERNELS <= integer.sparsity < ZEROS / KERNELS + 0.05
    assert [row.integer_coverage for row in result.rows] == [None, 0.0, 1.0, None]
    assert [row.metric for row in result.rows] == [20.0] * 4
    assert phone.metric_change == 0.0
    # Keras' predict and LiteRT are no runtimes of one kind; two .tflite files are.
    assert (baseline.latency_ratio, phone.latency_ratio) == (1.0, None)
    assert integer.latency_ratio == pytest.approx(phone.latency / integer.latency)
    assert server.latency_ratio is None
    assert (baseline.file_size, phone.file_size) == (None, phone.size)
    assert (baseline.weight_size, phone.weight_size) == (baseline.size, 4 * KERNELS)
    assert (phone.name, server.name) == ("student.tflite", "student/1")


@pytest.mark.export
def test_an_artifact_or_its_path_as_baseline(artifacts):
    result = report(artifacts[0], str(artifacts[1].path))
    assert result.rows[0].size_ratio == 1.0
    assert result.rows[1].size_ratio == artifacts[0].size / artifacts[1].size
    assert result.rows[1].metric is None


def test_what_is_no_model():
    with pytest.raises(InvalidArgumentError, match="Received: int"):
        report(3)
    with pytest.raises(InvalidArgumentError, match="not built"):
        report(keras.Sequential([L.Dense(2)]))


def test_no_kernels_no_macs():
    class Own(keras.Model):
        def call(self, x):
            return x

    model = Own()
    model(np.ones((1, 2)))
    assert sparsity(layer_weights(model)) is None
    assert macs(model) is None


ROWS = (
    Row("teacher", "keras", 4000, 3000, 0.0, 1234567, metric=0.9, size_ratio=1.0),
    Row("a|b.tflite", "tflite", 1000, 20, 0.8, None, 1.0, 0.875, None, 4.0, 150.0),
)


def test_markdown():
    lines = Report(ROWS).to_markdown().splitlines()
    headings = [" model       ", " format ", " file bytes ", " weight bytes "]
    assert lines[0].split("|")[1:5] == headings
    assert "faster" not in lines[0]
    assert len({len(line) for line in lines}) == 1
    assert "1,234,567" in lines[2]
    for cell in (r"a\|b.tflite", "4.0x", "150x", "80.0%", " - ", "100%", "0.8750"):
        assert cell in lines[3]
    assert str(Report(ROWS)) == Report(ROWS).to_markdown()


def test_json():
    rows = json.loads(Report(ROWS).to_json())["rows"]
    assert (rows[1]["gzip_size"], rows[1]["sparsity"], rows[1]["macs"]) == (
        20,
        0.8,
        None,
    )


def test_terminal_table_fits_80_columns():
    console = rich.console.Console(width=80, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(Report(ROWS))
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 80
    assert "a|b.tflite" in text
    assert "1,234,567" in text
