"""What a newcomer meets: names, hints, quiet terminals, and examples that agree."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import tfcompress
from tests.compression.conftest import make_data
from tfcompress.cli import app
from tfcompress.compression import progress

pytestmark = pytest.mark.export

L = keras.layers
ROOT = Path(__file__).resolve().parents[2]
GENERATED = r"keras_tensor|VARIABLE_VALUE|StatefulPartitionedCall|_1/|_1_1|MatMul_1"


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def started(*arguments, **variables):
    """Returns what a process of its own does."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model of two named heads and its data."""
    folder = tmp_path_factory.mktemp("hour")
    x, _ = make_data()
    keras.utils.set_random_seed(0)
    image = keras.Input((8,), name="q")
    block = keras.Sequential([keras.Input((8,)), L.Dense(6, name="in")], name="block")
    hidden = L.ReLU()(block(image))
    heads = [L.Dense(3, name="kind")(hidden), L.Dense(2, name="place")(hidden)]
    keras.Model(image, heads, name="heads").save(folder / "m.keras")
    keras.utils.clear_session()  # names are those of a fresh process
    keras.Sequential([keras.Input((8,)), L.Dense(3)]).save(folder / "plain.keras")
    np.savez(folder / "x.npz", x=x[:64])
    return folder


@pytest.mark.parametrize("module", ["tfcompress", "tfcompress.cli"])
@pytest.mark.parametrize("arguments", [("--version",), ("export", "--help")])
def test_no_tensorflow_for_help_and_version(module, arguments):
    done = started("-X", "importtime", "-m", module, *arguments)
    assert done.returncode == 0
    assert not re.search(r"\| +(tensorflow|keras)$", done.stderr, re.MULTILINE)


def test_the_package_itself_registers_its_layers():
    code = "import tfcompress, keras; print(len(keras.saving.get_custom_objects()))"
    done = started("-c", code)
    assert int(done.stdout) > 20


def test_tensorflow_says_nothing_unless_it_is_asked_to(place):
    inspect = ("-m", "tfcompress", "inspect", place / "m.keras")
    variables = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, *map(str, inspect)],
        capture_output=True,
        text=True,
        check=True,
        env={**variables, "PYTHONPATH": str(ROOT)},
    )
    assert done.stderr.strip() == ""
    assert "0000 00:" in started(*inspect, TF_CPP_MIN_LOG_LEVEL="0").stderr


@pytest.mark.parametrize("name", ["m.keras", "plain.keras"])
def test_names_do_not_change_from_call_to_call(place, name):
    first, second = (run("inspect", place / name).stdout for _ in range(2))
    assert first == second
    assert not re.search(GENERATED, first)


def test_names_are_the_users_own_everywhere(place, tmp_path):
    asked = {"tflite": "m.tflite", "saved_model": "m", "onnx": "m.onnx"}
    for kind, name in asked.items():
        path = tmp_path / name
        done = run("export", place / "m.keras", path, "--format", kind)
        assert done.exit_code == 0, done.output
        content = json.loads(run("inspect", path, "--json").stdout)
        assert [one["name"] for one in content["inputs"]] == ["q"]
        assert [one["name"] for one in content["outputs"]] == ["kind", "place"]
        names = [one["name"] for one in content["layers"]]
        assert not re.search(GENERATED, " ".join(names))
        if names:
            layers = {re.sub("/(kernel|MatMul)$", "", name) for name in names}
            assert {one.split("/")[-1] for one in layers} == {"in", "kind", "place"}
    graph = onnx.load(tmp_path / "m.onnx").graph
    names = [one.name for one in (*graph.node, *graph.initializer)]
    assert any(name.startswith("kind/") for name in names)
    assert not re.search(r"StatefulPartitionedCall|_1/", " ".join(names))


def test_the_examples_agree(place, tmp_path):
    """What `export --help` shows is what `verify --help` reads."""
    example = " ".join(run("export", "--help").output.split())
    assert "--save-finalized final.keras" in example
    assert "m.tflite final.keras" in " ".join(run("verify", "--help").output.split())
    path, final = tmp_path / "m.tflite", tmp_path / "final.keras"
    data = ("--scheme", "w8a8", "--calibration", place / "x.npz")
    arguments = ("export", place / "m.keras", path, *data, "--save-finalized", final)
    assert run(*arguments).exit_code == 0
    assert run(*arguments).exit_code != 0
    assert run(*arguments, "--overwrite").exit_code == 0
    assert run("verify", path, final, "--inputs", place / "x.npz").exit_code == 0
    against = run("verify", path, place / "m.keras", "--inputs", place / "x.npz")
    assert against.exit_code == 1
    text = " ".join(against.output.split())
    assert "no fault of the file" in text
    assert "tfcompress export --save-finalized" in text


def test_smaller_floats_explain_themselves_too(place, tmp_path):
    path = tmp_path / "half.tflite"
    half = ("--option", "quantize=float16")
    assert run("export", place / "m.keras", path, *half).exit_code == 0
    done = run("verify", path, place / "m.keras", "--inputs", place / "x.npz")
    assert done.exit_code == 1
    assert "float16" in done.output
    assert "`--max-abs-error`" in done.output


def test_what_replaces_nothing_says_so(place, tmp_path):
    base = ("export", place / "m.keras", tmp_path / "m", "--format", "saved_model")
    with pytest.raises(tfcompress.InvalidArgumentError, match="replaces nothing"):
        CliRunner().invoke(
            app, [*map(str, base), "--overwrite"], catch_exceptions=False
        )


def test_data_without_labels(place, tmp_path):
    path = tmp_path / "m.tflite"
    run("export", place / "m.keras", path)
    done = run("report", place / "m.keras", path, "--data", place / "x.npz")
    assert "have no labels" in str(done.exception)


def test_suffixes_in_capitals(place, tmp_path):
    model, data = tmp_path / "M.KERAS", tmp_path / "X.NPZ"
    model.write_bytes((place / "m.keras").read_bytes())
    data.write_bytes((place / "x.npz").read_bytes())
    path = tmp_path / "m.tflite"
    int8 = ("--scheme", "w8a8", "--calibration", data)
    assert run("export", model, path, *int8).exit_code == 0


def test_json_says_its_units(place, tmp_path):
    path = tmp_path / "m.tflite"
    run("export", place / "m.keras", path)
    content = json.loads(run("inspect", path, "--json").stdout)
    assert content["units"]["size"] == "bytes"
    (content,) = json.loads(run("benchmark", path, "--runs", 3, "--json").stdout)
    assert content["units"]["median"] == "ms"


def test_names_that_tensorflow_cannot_take(tmp_path):
    model = keras.Sequential([keras.Input((4,)), L.Dense(3)], name="two words")
    with pytest.raises(tfcompress.InvalidArgumentError, match="'two words'"):
        tfcompress.export(model, tmp_path / "m.tflite")


def test_a_log_hears_each_minute_that_work_goes_on(monkeypatch):
    monkeypatch.setattr(progress, "_SILENCE", 0.01)
    heard = []
    with progress.each_minute(heard.append):
        while len(heard) < 3:
            pass
    assert heard == sorted(heard)
