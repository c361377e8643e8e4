"""Models of Keras 2 and TFMOT go on as Keras 3 models."""

import importlib.util
import json
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import tfcompress
from tfcompress import FakeQuantize
from tfcompress.core.errors import (
    ArtifactError,
    CompressionWarning,
    ExportError,
    InvalidArgumentError,
    UnsupportedLayerError,
)
from tfcompress.interop import from_tf_keras, from_tfmot
from tfcompress.interop.reading import KERAS_2

pytestmark = pytest.mark.oracle
# What is tested by default: each format, and each kind of model.
FILES = {
    "convolutional": [".h5"],
    "sequential": [".keras", ""],
    "functions": [".keras"],
    "sequences": [".h5"],
    "pruned": [".keras"],
    "clustered": [".h5"],
    "quantized": [".h5", ".keras"],
    "partly_quantized": [".h5"],
    "quantized_clusters": [".h5", ".keras", ""],
    "quantized_clusters_stripped": [".keras"],
}
_MORE = ("pruned_convolutional", "pruned_stripped", "clustered_stripped")
ENDINGS = [".h5", ".keras", ""]
MORE = dict.fromkeys((*FILES, *_MORE, "quantized_sequential"), ENDINGS)
MORE["quantized_clusters"] = [""]
PLAIN = [
    (name, ending)
    for name, endings in FILES.items()
    for ending in endings
    if "quantized" not in name
]


def make(folder, files, trained=False):
    for package in ("tf_keras", "tensorflow_model_optimization"):
        pytest.importorskip(package) if not importlib.util.find_spec(package) else None
    script = str(Path(__file__).with_name("_models_worker.py"))
    job = {"job": "make", "script": script, "files": files, "trained": trained}
    KERAS_2.run({**job, "folder": str(folder)})
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return make(tmp_path_factory.mktemp("keras_2"), FILES)


def answers(folder, name):
    with np.load(folder / f"{name}.npz") as stored:
        return stored["x"], [stored[key] for key in sorted(stored.files) if key != "x"]


def outputs(model, x):
    found = model(x, training=False)
    found = found if isinstance(found, (list, tuple)) else [found]
    return [keras.ops.convert_to_numpy(value) for value in found]


def same_outputs(folder, name, ending):
    model = from_tfmot(folder / f"{name}{ending}")
    x, wanted = answers(folder, name)
    found = outputs(model, x)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
    return model


@pytest.mark.sweep(4)
@pytest.mark.parametrize(("name", "ending"), PLAIN)
def test_outputs_are_the_same(saved, name, ending, tmp_path):
    model = same_outputs(saved, name, ending)
    assert "tf_keras" not in sys.modules
    assert "tensorflow_model_optimization" not in sys.modules
    # It is a model as any other: it is saved and loaded without our help.
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    x, _ = answers(saved, name)
    for one, other in zip(outputs(again, x), outputs(model, x)):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_outputs_are_the_same_in_every_format(tmp_path):
    make(tmp_path, MORE, trained=True)
    for name, endings in MORE.items():
        for ending in endings:
            if "quantized" not in name:
                same_outputs(tmp_path, name, ending)
            elif name != "partly_quantized":
                assert worst_step(tmp_path, name, ending) <= 4


def test_zeros_stay(saved):
    model = from_tfmot(saved / "pruned.keras")
    assert isinstance(model, keras.Sequential)
    for name in ("hidden", "scores"):
        assert np.mean(model.get_layer(name).get_weights()[0] == 0) == 0.75


def test_codebooks_stay_and_training_goes_on(saved):
    model = from_tfmot(saved / "clustered.h5")
    before = np.unique(model.get_layer("hidden").get_weights()[0])
    assert len(before) == 8
    model.compile("sgd", "mse")
    x, _ = answers(saved, "clustered")
    model.fit(x, np.zeros((8, 5)), verbose=0, callbacks=[tfcompress.ClusterWeights(8)])
    after = np.unique(model.get_layer("hidden").get_weights()[0])
    assert len(after) <= 8
    assert not np.array_equal(before, after)


def scores_step(model):
    return model.get_layer("scores_quantizer").step()


def worst_step(folder, name, ending):
    """Returns how many steps of its output the model is off TFMOT's."""
    model = from_tfmot(folder / f"{name}{ending}")
    x, (wanted,) = answers(folder, name)
    (found,) = outputs(model, x)
    return np.abs(found - wanted).max() / scores_step(model)


@pytest.mark.parametrize("ending", [".h5", ".keras"])
def test_quantized_models_compute_nearly_the_same(saved, ending):
    # The mean is rounded once more by TFMOT, and so is what is joined.
    assert worst_step(saved, "quantized", ending) <= 4


def test_trained_kernels_are_rounded_by_tfmots_ranges(tmp_path):
    # TFMOT's range of a kernel is that of before the last step of training.
    make(tmp_path, {"quantized_sequential": [".h5"]}, trained=True)
    assert worst_step(tmp_path, "quantized_sequential", ".h5") < 0.01


def test_ranges_are_those_of_tfmot(saved):
    import h5py

    model = from_tfmot(saved / "quantized.h5")
    ranges = {
        "image_quantizer": ("quantize_layer/quantize_layer", "quantize_layer"),
        "relu_quantizer": ("quant_relu/output", "quant_relu"),
        "depthwise_quantizer": ("quant_depthwise/post_activation", "quant_depthwise"),
        "scores_quantizer": ("quant_scores/post_activation", "quant_scores"),
    }
    with h5py.File(saved / "quantized.h5") as file:
        for name, (variable, layer) in ranges.items():
            group = file["model_weights"][layer]
            low, high = (float(group[f"{variable}_{e}:0"][()]) for e in ("min", "max"))
            found = model.get_layer(name).ranges.numpy()[0]
            assert found.tolist() == [np.float32(low), np.float32(high)]
    assert all(
        layer.learned_range()[0] < layer.learned_range()[1]
        for layer in model.layers
        if isinstance(layer, FakeQuantize)
    )


def test_quantized_models_train_on(saved):
    model = from_tfmot(saved / "quantized.keras")
    x, (wanted,) = answers(saved, "quantized")
    model.compile("adam", "mse")
    before = model.evaluate(x, wanted + 1, verbose=0)
    model.fit(x, wanted + 1, epochs=5, verbose=0)
    assert model.evaluate(x, wanted + 1, verbose=0) < before


@pytest.mark.parametrize(
    "file", ["quantized_clusters", "quantized_clusters_stripped.keras"]
)
def test_models_quantized_with_their_clusters_kept(saved, file):
    name, _, ending = file.partition(".")
    assert worst_step(saved, name, ending and f".{ending}") < 0.1
    final = tfcompress.finalize(from_tfmot(saved / file))
    assert len(np.unique(final.get_layer("hidden").get_weights()[0])) <= 8


@pytest.mark.parametrize("ending", [".h5", ".keras"])
def test_clusters_kept_in_files_that_nobody_reads(saved, ending):
    with pytest.raises(ArtifactError, match=r"quant_hidden.*strip_clustering_cqat"):
        from_tfmot(saved / f"quantized_clusters{ending}")


@pytest.mark.export
def test_quantized_models_are_exported_in_integers(saved, tmp_path):
    model = tfcompress.finalize(from_tfmot(saved / "quantized.h5"))
    artifact = tfcompress.export(model, tmp_path / "model.tflite")
    x, _ = answers(saved, "quantized")
    found = tfcompress.verify(artifact, model, x, min_integer_coverage=1.0)
    found.raise_if_failed()
    assert found.max_abs_error == 0


def test_layers_that_tfmot_left_in_float_stay_so(saved):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompressionWarning)
        model = from_tfmot(saved / "partly_quantized.h5")
    wrapped = {
        layer.name: type(layer).__name__ for layer in model.layers if layer.weights
    }
    assert wrapped["hidden"] == "Dense"
    assert wrapped["scores"] == "QuantizedLayer"
    # TFMOT rounds what goes into the quantized layer.
    low, high = model.get_layer("hidden_quantizer").ranges.numpy()[0]
    assert low < 0 < high


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("lambda.h5", "layer 'l' is a Lambda"),
        ("lambda.keras", "layer 'l' is a Lambda"),
        ("own.h5", "Doubled"),
        ("subclassed", "'subclassed' is a subclassed model"),
        ("weights.h5", "weights without a model"),
        ("missing.h5", "no model at this path"),
    ],
)
def test_what_cannot_be_converted(saved, file, message):
    with pytest.raises((ArtifactError, UnsupportedLayerError), match=message):
        from_tf_keras(saved / file)


def test_damaged_files(saved, tmp_path):
    for name in ("convolutional.h5", "sequential.keras"):
        content = (saved / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(ArtifactError):
            from_tf_keras(tmp_path / name)
    (tmp_path / "graph").mkdir()
    with pytest.raises(ArtifactError, match=r"no keras_metadata\.pb"):
        from_tf_keras(tmp_path / "graph")


def changed(source, target, change):
    """Copies a .keras file with its configuration changed."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as copy:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "config.json":
                config = json.loads(content)
                change(config["config"]["layers"])
                content = json.dumps(config)
            copy.writestr(name, content)
    return target


def test_no_module_is_imported_because_a_file_says_so(saved, tmp_path):
    def bait(layers):
        layers[-1] |= {"module": "antigravity", "class_name": "Door"}

    file = changed(saved / "sequential.keras", tmp_path / "bait.keras", bait)
    with pytest.raises(ArtifactError, match=r"antigravity\.Door"):
        from_tf_keras(file)


def test_options_that_are_gone_name_their_layer(saved, tmp_path):
    def gone(layers):
        layers[-1]["config"]["activation"] = "no_such_activation"

    file = changed(saved / "sequential.keras", tmp_path / "gone.keras", gone)
    with pytest.raises((UnsupportedLayerError, ArtifactError), match="no_such_activ"):
        from_tf_keras(file)


def test_a_model_of_keras_3_is_no_model_of_keras_2(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(InvalidArgumentError, match="no model of Keras 2"):
        from_tf_keras(model)
    model.save(tmp_path / "model.keras")
    with pytest.raises(ArtifactError, match=r"of Keras 3.*keras\.saving\.load_model"):
        from_tf_keras(tmp_path / "model.keras")


def test_a_live_model_is_handed_over(saved):
    # As tf_keras' own would: nothing of it is imported here.
    class Live:
        __module__ = "tf_keras.src.engine.sequential"
        name, layers = "live", ()

        def save(self, path):
            Path(path).write_bytes((saved / "clustered.h5").read_bytes())

    x, (wanted,) = answers(saved, "clustered")
    (found,) = outputs(from_tf_keras(Live()), x)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.slow
def test_a_live_model_of_tf_keras():
    script = str(Path(__file__).with_name("_live_model_worker.py"))
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) <= 1e-6


def test_without_the_extra(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"tfcompress\[tfmot\]"):
        from_tfmot(tmp_path / "model.h5")
