"""TensorFlow functions in models of Keras 2, and SavedModels of old TensorFlows."""

import importlib.util
from pathlib import Path

import keras
import numpy as np
import pytest

from tfcompress.core.errors import ArtifactError, UnsupportedLayerError
from tfcompress.interop import from_tf_keras, rebuilding
from tfcompress.interop.reading import KERAS_2

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    if not importlib.util.find_spec("tf_keras"):
        pytest.importorskip("tf_keras")
    folder = tmp_path_factory.mktemp("functions")
    script = str(Path(__file__).with_name("_functions_worker.py"))
    KERAS_2.run({"job": "make", "script": script, "folder": str(folder)})
    return folder


def test_functions_compute_the_same(saved, tmp_path):
    model = from_tf_keras(saved / "functions.h5")
    with np.load(saved / "inputs.npz") as stored:
        inputs = [stored[name] for name in stored.files]
    outputs = [np.asarray(value) for value in model(inputs)]
    with np.load(saved / "functions.npz") as wanted:
        assert len(wanted.files) == len(outputs)
        for name, value in zip(wanted.files, outputs):
            np.testing.assert_allclose(
                value, wanted[name], rtol=1e-5, atol=1e-5, err_msg=name
            )
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for one, other in zip(again(inputs), outputs):
        np.testing.assert_array_equal(one, other)


def test_what_keras_3_computes_otherwise_is_not_handed_out(saved, monkeypatch):
    monkeypatch.setattr(rebuilding, "_ACTIVATIONS", {})
    with pytest.raises(UnsupportedLayerError, match=r"something else .* output \d"):
        from_tf_keras(saved / "functions.h5")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gather_nd", r"'tf\.compat\.v1\.gather_nd'.*one of .*concat"),
        ("aspect", r"'tf\.image\.resize.*preserve_aspect_ratio=True"),
        ("exclusive", r"'tf\.math\.cumsum.*exclusive=True"),
        ("einsum", r"'tf\.einsum' calls tf\.einsum, of which Keras 2 saves not all"),
        ("free", r"'tf\.tile.*a size that is known when the model runs"),
    ],
)
def test_what_has_no_equal_is_named(saved, name, message):
    with pytest.raises((UnsupportedLayerError, ArtifactError), match=message):
        from_tf_keras(saved / f"{name}.h5")


def test_saved_models_of_old_versions(saved):
    model = from_tf_keras(saved / "old")
    with np.load(saved / "old.npz") as stored:
        np.testing.assert_allclose(model(stored["x"]), stored["y"], atol=1e-6)
    assert [layer.name for layer in model.layers] == ["x", "hidden", "scores"]


def test_damaged_graphs(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"no graph")
    with pytest.raises(ArtifactError, match="no SavedModel, or damaged"):
        from_tf_keras(tmp_path)
