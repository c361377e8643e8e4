"""The passport of an export: true to files, options and checks."""

import hashlib
import json
import shutil

import keras
import numpy as np
import pytest

import tfcompress
from tfcompress.core.errors import ArtifactError, CompressionWarning, ExportError
from tfcompress.exporters import export, load
from tfcompress.exporters.manifest import record
from tfcompress.exporters.manifest_file import (
    changed_files,
    manifest_path,
    read_manifest,
)

pytestmark = pytest.mark.export


def test_of_a_file(quantized, quantized_file):
    manifest = read_manifest(quantized_file)
    content = quantized_file.path.read_bytes()
    assert manifest["schema"] == 1
    assert manifest["format"] == "tflite"
    assert manifest["files"] == [
        {
            "path": "quantized.tflite",
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    ]
    assert manifest["size"] == len(content)
    assert manifest["integer_coverage"] == 1.0
    assert manifest["options"]["io_dtype"] == "float32"
    assert manifest["inputs"][0]["shape"] == [1, 12, 12, 3]
    assert manifest["model"]["parameters"] == quantized.count_params()
    assert manifest["model"]["layers"]["Conv2D"] == 1
    assert manifest["versions"]["keras"] == keras.__version__
    assert {"tensorflow", "numpy", "ai-edge-litert"} <= set(manifest["versions"])
    counted = {op["name"]: op["count"] for op in manifest["operators"]}
    assert counted["CONV_2D"] == 1


def test_of_a_saved_model(quantized_version):
    path = manifest_path(quantized_version.path)
    assert path == quantized_version.path / "assets.extra" / "manifest.json"
    manifest = read_manifest(quantized_version)
    listed = {entry["path"]: entry["size"] for entry in manifest["files"]}
    assert sum(listed.values()) == quantized_version.size
    assert "saved_model.pb" in listed
    assert "assets.extra/manifest.json" not in listed
    (kernel,) = [op for op in manifest["operators"] if op["name"] == "Conv2D"]
    expected = {"activations": ["float32"], "weights": ["float32"], "count": 1}
    assert kernel == {"name": "Conv2D", **expected}


def test_seeds_and_sparsity(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dropout(0.5, seed=17),
            keras.layers.Dense(
                5, kernel_initializer=keras.initializers.HeNormal(seed=3)
            ),
        ]
    )
    kernel = np.ones((4, 5))
    kernel[0] = 0
    model.layers[-1].set_weights([kernel, np.zeros(5)])
    artifact = export(model, tmp_path / "seeded.tflite")
    found = read_manifest(artifact)["model"]
    assert found["seeds"] == [3, 17]
    assert found["kernel_sparsity"] == pytest.approx(0.25)


def test_verify_notes_the_parity(plain, tmp_path):
    artifact = export(plain, tmp_path / "plain.tflite")
    assert read_manifest(artifact)["parity"] is None
    x = np.random.default_rng(0).normal(size=(7, 8)).astype("float32")
    result = tfcompress.verify(artifact, plain, x)
    assert read_manifest(artifact)["parity"] == json.loads(result.to_json())
    assert read_manifest(artifact)["parity"]["samples"] == 7


def test_what_was_done_to_the_model(tmp_path):
    model = keras.Sequential([keras.Input((6,), name="x"), keras.layers.Dense(5)])
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, x, "w8a8"))
    artifact = export(final, tmp_path / "m.tflite")
    found = read_manifest(artifact)
    assert found["model"]["activation_bits"] == [8]
    kernel = final.get_weights()[0]
    assert found["model"]["most_values_in_a_kernel"] == len(np.unique(kernel))
    assert found["recipe"] is None
    record(artifact, recipe={"name": "mine"}, unknown=1)
    found = read_manifest(artifact)
    assert found["recipe"] == {"name": "mine"}
    assert "unknown" not in found


def test_parity_is_not_noted_for_other_files(plain, tmp_path):
    artifact = export(plain, tmp_path / "plain.tflite")
    other = export(plain, tmp_path / "other.tflite", quantize="float16")
    shutil.copy(other.path, artifact.path)
    with pytest.warns(CompressionWarning, match="of other files: plain"):
        tfcompress.verify(artifact.path, plain, np.ones((2, 8)))
    assert read_manifest(artifact)["parity"] is None
    assert changed_files(artifact.path) == ["plain.tflite"]


def test_a_changed_directory_is_not_loaded(quantized_version, tmp_path):
    copy = tmp_path / "1"
    shutil.copytree(quantized_version.path, copy)
    load(copy)
    (data,) = (copy / "variables").glob("*.data-*")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"not as they were exported.*data-00000"):
        load(copy)
    data.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        load(copy)


def test_a_damaged_saved_model_without_manifest_kills_nobody(
    quantized_version, tmp_path
):
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(6):
        copy = tmp_path / "1"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(quantized_version.path, copy)
        manifest_path(copy).unlink()
        content = bytearray((copy / "saved_model.pb").read_bytes())
        for position in rng.integers(0, len(content), 30):
            content[position] = rng.integers(0, 256)
        (copy / "saved_model.pb").write_bytes(content)
        try:
            load(copy)
            outcomes.append("loaded")
        except ArtifactError:
            outcomes.append("refused")
    assert outcomes.count("refused") >= 4


def test_manifest_of_another_schema(plain_file, tmp_path):
    shutil.copy(plain_file.path, tmp_path / "m.tflite")
    (tmp_path / "m.tflite.manifest.json").write_text('{"schema": 99}')
    with pytest.raises(ArtifactError, match="schema 99"):
        read_manifest(tmp_path / "m.tflite")
    load(tmp_path / "m.tflite")  # a note beside the file is no part of it


def test_nothing_is_left_when_the_artifact_is_refused(plain, plain_file, tmp_path):
    shutil.copy(plain_file.path, tmp_path / "plain.tflite")
    with pytest.raises(ExportError, match="exists already"):
        export(plain, tmp_path / "plain.tflite")
    assert [p.name for p in tmp_path.iterdir()] == ["plain.tflite"]
