"""The commands, as a user sees them: what they print, and how they end."""

import json
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from typer.testing import CliRunner

import tfcompress
from tests.compression.conftest import make_data, make_model
from tfcompress.cli import app
from tfcompress.core.errors import ArtifactError, InvalidArgumentError

COMMANDS = (
    *("benchmark", "compress", "demo", "doctor", "export"),
    *("inspect", "pack", "report", "unpack", "verify"),
)

pytestmark = pytest.mark.export


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a trained model, its data, and what was exported from it."""
    folder = tmp_path_factory.mktemp("cli")
    x, y = make_data()
    model = make_model()
    model.fit(x[:500], y[:500], epochs=8, batch_size=64, verbose=0)
    model.save(folder / "m.keras")
    np.savez(folder / "train.npz", x=x[:500], y=y[:500])
    np.savez(folder / "test.npz", x=x[500:], y=y[500:])
    tfcompress.export(model, folder / "m.tflite")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: tfcompress {command}" in " ".join(plain(result.output).split())


def test_help_lists_every_command_and_the_exit_codes():
    text = plain(run("--help").output)
    assert all(command in text for command in COMMANDS)
    assert "Exit codes" in text
    assert "--install-completion" in text


def test_inspect_a_file(place):
    result = run("inspect", place / "m.tflite")
    assert result.exit_code == 0
    assert "m.tflite (tflite)" in result.stdout
    assert f"size: {(place / 'm.tflite').stat().st_size:,} bytes" in result.stdout
    assert re.search(r"FULLY_CONNECTED +\| float32 +\| +3 \|", result.stdout)
    content = json.loads(run("inspect", place / "m.tflite", "--json").stdout)
    assert content["macs"] == 8 * 48 + 48 * 32 + 32 * 2
    assert [layer["bits"] for layer in content["layers"]] == [32, 32, 32]


def test_inspect_a_model_and_an_archive(place, tmp_path):
    content = json.loads(run("inspect", place / "m.keras", "--json").stdout)
    assert {"name": "Dense", "count": 3} in content["operators"]
    archive = tmp_path / "m.tfc"
    assert run("pack", place / "m.tflite", archive).exit_code == 0
    content = json.loads(run("inspect", archive, "--json").stdout)
    assert content["packed_size"] == archive.stat().st_size
    assert content["format"] == "tflite"


def test_pack_and_unpack_give_the_same_bytes(place, tmp_path):
    result = run("pack", place / "m.tflite", tmp_path / "m.tfc")
    assert "packed into" in result.stdout
    result = run("unpack", tmp_path / "m.tfc", tmp_path / "out", "--json")
    unpacked = json.loads(result.stdout)["path"]
    with open(unpacked, "rb") as file:
        assert file.read() == (place / "m.tflite").read_bytes()


def test_export_calibrated_integers_and_verify_them(place, tmp_path):
    path = tmp_path / "int8.tflite"
    arguments = ("export", place / "m.keras", path, "--scheme", "w8a8")
    result = run(*arguments, "--option", "io_dtype=int8")
    assert isinstance(result.exception, InvalidArgumentError)
    assert "--calibration" in str(result.exception)
    result = run(
        *arguments, "--calibration", place / "train.npz", "--option", "io_dtype=int8"
    )
    assert result.exit_code == 0, result.exception
    assert "100% in integers" in result.stdout
    assert tfcompress.Artifact.read(path).inputs[0].dtype == "int8"
    # Against the float model, integers are off by more than a float's last digits.
    compared = ("verify", path, place / "m.keras", "--inputs", place / "test.npz")
    assert run(*compared, "--max-abs-error", "1e-6").exit_code == 1
    result = run(*compared, "--max-abs-error", "1", "--min-agreement", "0.9", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["samples"] == 100


def test_doctor_ends_with_1_if_something_will_not_run(place, tmp_path):
    result = run("doctor", place / "m.keras", "--scheme", "w8a8", "--no-trial")
    assert result.exit_code == 0
    assert "will deploy" in result.stdout
    inputs = keras.Input((4, 4, 4, 1))
    model = keras.Model(inputs, keras.layers.Conv3D(2, 2)(inputs))
    model.save(tmp_path / "conv3d.keras")
    path = tmp_path / "conv3d.keras"
    result = run("doctor", path, "--format", "micro", "--no-trial", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["deployable"] is False


def test_benchmark_compares_with_the_first(place):
    path = place / "m.tflite"
    result = run("benchmark", path, path, "--runs", 3)
    assert result.exit_code == 0
    assert "x as fast as m.tflite" in result.stdout
    found = json.loads(run("benchmark", path, "--runs", 2, "--json").stdout)
    assert found[0]["runs"] == 2


def test_report_shows_accuracy_latency_and_trust(place, tmp_path):
    result = run(
        *("report", place / "m.keras", place / "m.tflite"),
        *("--data", place / "test.npz", "--json", "--html", tmp_path / "r.html"),
    )
    assert result.exit_code == 0, result.exception
    found = json.loads(result.stdout)
    assert [row["metric"] > 0.7 for row in found["rows"]] == [True, True]
    assert found["trust"]["agreement"] == 1.0
    assert "<html" in (tmp_path / "r.html").read_text()[:500]


def test_limits_of_trust_can_fail_a_build(place, tmp_path):
    small = tmp_path / "small.tflite"
    arguments = ("--scheme", "w1a8", "--calibration", place / "train.npz")
    assert run("export", place / "m.keras", small, *arguments).exit_code == 0
    compared = ("report", place / "m.keras", small, "--no-packed")
    data = ("--data", place / "test.npz")
    result = run(*compared, *data, "--require", "min_agreement=0.999")
    assert result.exit_code == 1
    assert "top-1 agreement is 0." in result.stdout
    assert run(*compared, *data, "--require", "min_agreement=0.1").exit_code == 0
    refused = run(*compared, "--require", "min_agreement=0.1")
    assert isinstance(refused.exception, InvalidArgumentError)


def test_compress_meets_a_budget_and_writes_its_recipe_and_report(place, tmp_path):
    arguments = [
        *("compress", place / "m.keras", "--train", place / "train.npz"),
        *("--validation", place / "test.npz", "--max-packed-bytes", "50%"),
        *("--max-metric-drop", 0.3, "--trials", 1, "--epochs", 2),
        *("--output", tmp_path / "out"),
    ]
    more = ("--save-recipe", tmp_path / "r.yaml", "--html", tmp_path / "r.html")
    result = run(*arguments, *more, "--test", place / "test.npz")
    assert result.exit_code == 0, result.exception
    assert "The budget is met by candidate 0" in result.stdout
    assert tfcompress.Recipe.load(tmp_path / "r.yaml").epochs == 2
    assert (tmp_path / "r.html").stat().st_size > 10_000
    again = run(*arguments, "--json")
    assert json.loads(again.stdout)["met"] is True


def test_compress_trains_as_long_as_its_function_does_by_default(place, monkeypatch):
    """The command has no idea of its own of how long to train."""
    asked = []

    def compress(*arguments, **options):
        asked.append(options.get("search") or arguments[-1])
        raise tfcompress.InvalidArgumentError("enough", received="", expected="")

    monkeypatch.setattr(tfcompress, "compress", compress)
    run(
        *("compress", place / "m.keras", "--train", place / "train.npz"),
        *("--validation", place / "test.npz", "--max-packed-bytes", "50%"),
    )
    (search,) = asked
    default = tfcompress.Search()
    for name in ("trials", "epochs", "minutes", "final", "learning_rate"):
        assert getattr(search, name) == getattr(default, name)


def test_a_missed_budget_ends_with_1(place, tmp_path):
    (tmp_path / "r.yaml").write_text("tfcompress: 1\nstages: []\n")
    result = run(
        *("compress", place / "m.keras", "--train", place / "train.npz"),
        *("--validation", place / "test.npz", "--max-latency-ms", "0.1%"),
        *("--recipe", tmp_path / "r.yaml", "--output", tmp_path / "out"),
    )
    assert result.exit_code == 1
    assert "No candidate meets the budget" in result.stdout


def test_data_from_a_function_and_from_a_directory_of_images(tmp_path, monkeypatch):
    from tfcompress.cli.inputs import load_data

    (tmp_path / "my_data.py").write_text("def make():\n    return ([1, 2], [3, 4])\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_data("my_data:make") == ([1, 2], [3, 4])
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        image = rng.integers(0, 255, (10, 12, 3)).astype("uint8")
        keras.utils.save_img(tmp_path / "images" / name / "1.png", image)
    batches = list(load_data(str(tmp_path / "images"), (None, 10, 12, 3)))
    x, y = batches[0]
    assert x.shape == (2, 10, 12, 3)
    assert list(y) == [0, 1]
    assert 0.5 < float(np.max(x)) <= 1.0


@pytest.mark.parametrize(
    ("where", "shape", "text"),
    [
        ("nothing", None, "There are no data"),
        ("no_such_module:f", None, "cannot be imported"),
        ("json:no_such_function", None, "has no function"),
        ("missing.npz", None, "cannot be read"),
        (".", (None, 8), "A directory of images is for models that take one image"),
        (".", (None, 8, 8, 3), "The directory has no images"),
    ],
)
def test_data_that_are_not_there(where, shape, text, tmp_path, monkeypatch):
    from tfcompress.cli.inputs import load_data

    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgumentError, match=text):
        load_data(where, shape)


def test_pickled_arrays_are_not_read(tmp_path):
    from tfcompress.cli.inputs import load_data

    np.savez(tmp_path / "evil.npz", x=np.array([{}], dtype=object))
    with pytest.raises(InvalidArgumentError, match="plain arrays"):
        load_data(str(tmp_path / "evil.npz"))


def test_models_that_are_not_there_or_damaged(tmp_path):
    (tmp_path / "bad.keras").write_bytes(b"no zip")
    for name in ("none.keras", "bad.keras", "none.tflite"):
        result = run("inspect", tmp_path / name)
        assert isinstance(result.exception, ArtifactError), name


def test_json_is_all_there_is_on_standard_output(place):
    done = subprocess.run(
        [sys.executable, "-m", "tfcompress.cli", "inspect", "--json"]
        + [str(place / "m.tflite")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["name"] == "m.tflite"


def test_export_a_float_file(place, tmp_path):
    pytest.importorskip("litert_quantizer")
    given, made = place / "m.tflite", tmp_path / "int8.tflite"
    data = ("--calibration", place / "train.npz")
    result = run("export", given, made, *data)
    assert result.exit_code == 0, result.output
    assert "100% in integers" in result.stdout
    content = json.loads(
        run(
            "export", given, made, *data, "--scheme", "w8a16", "--overwrite", "--json"
        ).stdout
    )
    assert content["integer_coverage"] == 1.0
    check = ("verify", made, given, "--inputs", place / "test.npz")
    assert run(*check).exit_code == 1
    assert run(*check, "--max-abs-error", 1, "--min-agreement", 0.9).exit_code == 0
    dynamic = ("--option", "quantize=dynamic")
    assert run("export", given, tmp_path / "d.tflite", *dynamic).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "without --calibration. Expected: --calibration with"),
        (("--save-finalized", "f.keras"), "has no Keras model that could be saved"),
        (
            ("--calibration", "D", "--format", "onnx"),
            "stays one. Received: `--format onnx`",
        ),
        (("--calibration", "D", "--option", "int4=all"), "has no option 'int4'"),
        (("--calibration", "D", "--scheme", "w4a8"), "Unknown `--scheme` of a file"),
    ],
)
def test_what_no_file_can_be_exported_to(place, tmp_path, arguments, message):
    data = str(place / "train.npz")
    given = [data if one == "D" else one for one in arguments]
    result = run("export", place / "m.tflite", tmp_path / "r.tflite", *given)
    assert isinstance(result.exception, InvalidArgumentError)
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_float_file_that_is_missing(tmp_path):
    result = run(
        "export",
        tmp_path / "none.tflite",
        tmp_path / "r.tflite",
        "--option",
        "quantize=dynamic",
    )
    assert isinstance(result.exception, ArtifactError)
    assert "There is no artifact at this path" in str(result.exception)


def test_a_model_of_pytorch_is_exported(tmp_path):
    pytest.importorskip("onnxruntime")
    files = Path(__file__).resolve().parents[1] / "interop/onnx_files"
    images = np.random.default_rng(0).normal(size=(32, 15, 15, 3)).astype("float32")
    np.savez(tmp_path / "x.npz", x=images)
    path = tmp_path / "m.tflite"
    data = ("--scheme", "w8a8", "--calibration", tmp_path / "x.npz")
    done = run("export", files / "vgg.onnx", path, *data)
    assert done.exit_code == 0, done.output
    assert tfcompress.load(path)(images).shape == (32, 10)
    done = run("export", tmp_path / "none.onnx", path)
    assert done.exit_code == 1
    assert "There is no such file" in str(done.exception)
