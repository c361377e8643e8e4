"""The micro format: C++ that compiles, an arena that fits, numbers that are right."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import tfcompress
from tfcompress import calibrate, finalize
from tfcompress.core.errors import ArtifactError, ExportError, InvalidArgumentError
from tfcompress.exporters import export, load
from tfcompress.exporters.micro.sources import OPERATORS, resolver_method
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile

pytest.importorskip("tflite_micro")
pytestmark = pytest.mark.export
STUBS = Path(__file__).with_name("tflite_micro_stubs")


@pytest.fixture(scope="module")
def micro(quantized, folder):
    return export(quantized, folder / "quantized_micro", format="micro")


def test_the_folder_is_complete(micro):
    assert sorted(f.name for f in micro.files) == [
        "README.md",
        "inference.cc",
        "inference.h",
        "model.cc",
        "model.h",
        "model.tflite",
        "resolver.h",
    ]
    assert (micro.inputs[0].dtype, micro.outputs[0].dtype) == ("int8", "int8")
    assert micro.integer_coverage == 1.0


def test_the_array_is_the_file(micro):
    text = (micro.path / "model.cc").read_text()
    found = bytes(int(byte, 16) for byte in re.findall(r"0x(..),", text))
    assert found == (micro.path / "model.tflite").read_bytes()
    assert f"g_model_size = {len(found)};" in text


def test_numbers_equal_keras(micro, quantized, images):
    expected = quantized.predict(images, verbose=0)
    steps = np.abs(load(micro)(images) - expected) / micro.outputs[0].scale
    assert steps.max() <= 1.001


def _arena(micro):
    text = (micro.path / "model.h").read_text()
    return int(re.search(r"kArenaSize = (\d+);", text)[1])


def _runs(micro, arena):
    """Whether the model runs with an arena; a process that it kills says no."""
    program = (
        "import sys; from tflite_micro.python.tflite_micro import runtime; "
        "content = open(sys.argv[1], 'rb').read(); "
        "runtime.Interpreter.from_bytes(content, arena_size=int(sys.argv[2])).invoke()"
    )
    command = [sys.executable, "-c", program, micro.path / "model.tflite", str(arena)]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_the_arena_is_the_least_that_works(micro):
    arena = _arena(micro)
    assert _runs(micro, arena)
    assert not _runs(micro, arena - 32)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("units", [1, 16, 3])
def test_small_mlps(folder, units):
    """A little less memory than they need ends the process that tries it."""
    model = keras.Sequential(
        [
            keras.Input((4,), name="x"),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dense(3),
        ]
    )
    data = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    final = finalize(calibrate(model, data))
    micro = export(final, folder / f"mlp_{units}", format="micro")
    assert _arena(micro) <= 4096
    assert _runs(micro, _arena(micro))
    steps = np.abs(load(micro)(data) - final.predict(data, verbose=0))
    assert steps.max() <= 1.001 * micro.outputs[0].scale


def test_the_resolver_has_the_operators_of_the_file(micro):
    text = (micro.path / "resolver.h").read_text()
    names = {op.name for op in TFLiteFile.open(micro.path / "model.tflite").operators}
    assert set(re.findall(r"resolver\.(\w+)\(\)", text)) == {
        resolver_method(name) for name in names
    }
    assert f"MicroMutableOpResolver<{len(names)}>" in text


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs the compiler g++")
def test_the_code_compiles(micro, tmp_path):
    """Against headers with the declarations of tflite-micro that it uses."""
    methods = "\n".join(
        f"  TfLiteStatus {resolver_method(name)}() {{ return kTfLiteOk; }}"
        for name in sorted(OPERATORS)
    )
    include = tmp_path / "include"
    shutil.copytree(STUBS, include)
    header = include / "tensorflow/lite/micro/micro_mutable_op_resolver.h"
    header.write_text(header.read_text().replace("// METHODS", methods))
    done = subprocess.run(
        [
            *("g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-c"),
            *("-I", str(include), "-I", str(micro.path)),
            *(str(micro.path / name) for name in ("model.cc", "inference.cc")),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert (tmp_path / "inference.o").stat().st_size > 500


def test_float_models_are_refused(plain, folder):
    with pytest.raises(InvalidArgumentError, match="no integer inputs"):
        export(plain, folder / "float_micro", format="micro")
    assert not (folder / "float_micro").exists()


def test_part_in_float_is_refused(folder):
    from tests.exporters.conftest import FakeQuantize

    image = keras.Input((8,), name="x")
    x = FakeQuantize(-1.0, 1.0)(image)
    x = keras.layers.Dense(4)(x)  # no range behind it: stays float
    x = FakeQuantize(-1.0, 1.0)(keras.ops.tanh(x) + 1.0)
    model = keras.Model(image, x)
    with pytest.raises(ExportError, match=r"computed in float.*FULLY_CONNECTED|TANH"):
        export(model, folder / "part_micro", format="micro")
    assert not (folder / "part_micro").exists()


@pytest.mark.parametrize(
    ("activation", "scheme", "message"),
    [
        ("gelu", "w8a8", r"no such operators.*GELU \(.*hidden.*\)"),
        ("relu", "w8a16", r"no activations of 16 bits.*'x_quantizer' of 16"),
    ],
)
def test_what_it_has_no_kernel_for_is_named(activation, scheme, message, folder, rng):
    inputs = rng.normal(size=(16, 7)).astype("float32")
    x = keras.Input((7,), name="x")
    hidden = keras.layers.Dense(4, activation, name="hidden")(x)
    model = keras.Model(x, keras.layers.Dense(3)(hidden))
    final = tfcompress.finalize(tfcompress.calibrate(model, inputs, scheme))
    with pytest.raises(ExportError, match=message):
        export(final, folder / "missing_micro", format="micro")
    assert not (folder / "missing_micro").exists()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("model.tflite", {}, "is a folder"),
        ("folder", {"arena_margin": -1}, "`arena_margin`"),
    ],
)
def test_bad_arguments(quantized, folder, name, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        export(quantized, folder / "micro" / name, format="micro", **options)
    assert not (folder / "micro").exists()


def test_a_truncated_model_is_an_error(micro, tmp_path):
    shutil.copytree(micro.path, tmp_path / "broken")
    file = tmp_path / "broken" / "model.tflite"
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(
        ArtifactError, match=r"not as they were exported.*model\.tflite"
    ):
        load(tmp_path / "broken")
    (tmp_path / "broken" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"damaged|does not run"):
        load(tmp_path / "broken")
