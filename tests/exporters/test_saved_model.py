"""The saved_model format: versions, names, one copy of each variable."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress
from tfcompress.core.errors import ArtifactError, ExportError, InvalidArgumentError
from tfcompress.exporters import Artifact, export, load
from tfcompress.exporters.manifest_file import manifest_path

L = keras.layers
pytestmark = pytest.mark.export


def test_numbers_equal_keras(quantized, quantized_version, images):
    expected = quantized.predict(images, verbose=0)
    assert np.abs(load(quantized_version)(images) - expected).max() <= 1e-5


def test_signature(quantized_version):
    module = tf.saved_model.load(str(quantized_version.path))
    signature = module.signatures["serving_default"]
    (spec,) = signature.structured_input_signature[1].values()
    assert (spec.name, tuple(spec.shape)) == ("image", (None, 12, 12, 3))
    assert list(signature.structured_outputs) == ["logits"]


def test_nothing_is_logged_of_folders_that_are_gone(folder, caplog):
    model = keras.Sequential([keras.Input((3,), name="x"), L.Dense(2)])
    logger = tf.get_logger()
    level, filters = logger.level, list(logger.filters)
    logger.setLevel("INFO")
    logger.addHandler(caplog.handler)
    try:
        export(model, folder / "quiet", format="saved_model")
        tf.saved_model.save(tf.Module(), str(folder / "loud"))
    finally:
        logger.removeHandler(caplog.handler)
        logger.setLevel(level)
    said = {r.getMessage() for r in caplog.records if "Assets written" in str(r.msg)}
    assert len(said) == 1
    assert "loud" in said.pop()
    assert logger.filters == filters


def test_operators_of_functions_and_loops_are_counted(folder):
    inputs = keras.Input((5, 3), name="steps")
    model = keras.Model(inputs, L.Dense(2)(L.LSTM(4)(inputs)))
    artifact = export(model, folder / "loop", format="saved_model")
    counts = {(op.name, op.weights): op.count for op in artifact.operators}
    # The LSTM's two kernels, in the loop and in Keras' one step before it; the Dense.
    assert counts["MatMul", ("float32",)] == 5
    assert counts["TensorListSetItem", ()] == 1
    assert artifact.operators == Artifact.read(artifact.path).operators


def test_exact_and_float_integers(folder):
    """What `exact_integers=False` leaves out, and that little changes by it."""
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3), name="image"),
            L.Conv2D(8, 3, activation="relu", name="conv"),
            L.Flatten(name="flat"),
            L.Dense(5, name="logits"),
        ]
    )
    x = np.random.default_rng(0).normal(size=(64, 12, 12, 3)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, x, "w8a8"))
    phone = export(final, folder / "integers.tflite")
    exact = export(final, folder / "exact", format="saved_model")
    plain = export(final, folder / "float", format="saved_model", exact_integers=False)
    np.testing.assert_array_equal(load(exact)(x), load(phone)(x))
    (step,) = (output.step for output in phone.outputs)
    tfcompress.verify(plain, final, x, max_abs_error=step).raise_if_failed()
    names = [{op.name for op in artifact.operators} for artifact in (exact, plain)]
    # Kernels and biases are no longer rounded per request: sums are.
    assert {"Round", "ClipByValue"} <= names[0]
    assert not {"Round", "ClipByValue", "Cast"} & names[1]


def test_each_variable_is_stored_once(folder):
    model = keras.Sequential([keras.Input((128,)), L.Dense(256), L.Dense(64)])
    model.compile("adam", "mse")
    model.fit(np.zeros((2, 128)), np.zeros((2, 64)), verbose=0)
    artifact = export(model, folder / "once", format="saved_model")
    data = [f for f in artifact.files if f.name.startswith("variables.data")]
    weights = sum(w.numpy().nbytes for w in model.weights)
    stored = sum(f.stat().st_size for f in data)
    # The rest is the object graph; neither a second copy nor the optimizer is there.
    assert weights <= stored < weights + 2000


def test_base_directory_takes_the_next_version(plain, folder):
    base = folder / "counted"
    first = export(plain, base, format="saved_model")
    export(plain, base / "7", format="saved_model")
    third = export(plain, base, format="saved_model")
    fourth = export(plain, base, format="saved_model", version=12)
    assert [a.path.name for a in (first, third, fourth)] == ["1", "8", "12"]
    assert Artifact.read(base).path == base / "12"
    assert sorted(p.name for p in base.iterdir()) == ["1", "12", "7", "8"]


def test_existing_version_is_never_overwritten(plain, quantized_version):
    before = {f: f.read_bytes() for f in quantized_version.files}
    with pytest.raises(ExportError, match=r"exists already.*never replaced"):
        export(plain, quantized_version.path, format="saved_model")
    assert {f: f.read_bytes() for f in quantized_version.files} == before
    with pytest.raises(InvalidArgumentError, match="no option 'overwrite'"):
        export(plain, "x/1", format="saved_model", overwrite=True)


@pytest.mark.parametrize("name", ["0", "01", "student.tflite"])
def test_bad_version(plain, folder, name):
    with pytest.raises(InvalidArgumentError, match="<base>/<version>"):
        export(plain, folder / "bad" / name, format="saved_model")
    assert not (folder / "bad").exists()


def test_version_option_must_be_positive(plain, folder):
    with pytest.raises(InvalidArgumentError, match="Received: -1"):
        export(plain, folder / "bad", format="saved_model", version=-1)


def test_half_written_version_is_never_visible(plain, tmp_path, monkeypatch):
    seen = []
    save = tf.saved_model.save

    def watched(module, path, **kwargs):
        save(module, path, **kwargs)
        seen.append(sorted(p.name for p in (tmp_path / "base").iterdir()))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", watched)
    with pytest.raises(ExportError, match="No space left on device"):
        export(plain, tmp_path / "base" / "1", format="saved_model")
    assert seen[0]
    assert all(name.startswith(".tmp-tfcompress-") for name in seen[0])
    assert list(tmp_path.iterdir()) == []


def test_order_survives_loading(two_headed, folder):
    artifact = export(two_headed, folder / "two", format="saved_model")
    loaded = Artifact.read(artifact.path)
    assert [i.name for i in loaded.inputs] == ["query", "context"]
    assert loaded == artifact
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(5, 8)), rng.normal(size=(5, 4))]
    expected = two_headed.predict(arrays, verbose=0)
    result = load(artifact)(arrays)
    np.testing.assert_allclose(result["output_1"], expected[1], atol=1e-5)
    order = json.loads((artifact.path / "assets.extra/tfcompress.json").read_text())
    assert order["inputs"] == ["query", "context"]


def test_lookup_tables_come_along(folder):
    inputs = keras.Input((1,), dtype="string", name="word")
    lookup = L.StringLookup(vocabulary=["a", "b", "c"])
    model = keras.Model(inputs, L.Embedding(4, 2)(lookup(inputs)))
    artifact = export(model, folder / "words", format="saved_model")
    words = np.array([["c"], ["a"], ["?"]])
    expected = keras.ops.convert_to_numpy(model(tf.constant(words)))
    np.testing.assert_array_equal(load(artifact)(words.astype(object)), expected)


def test_calibration_data_is_refused(plain, folder):
    with pytest.raises(
        InvalidArgumentError, match='format="tflite", "micro" or "ethos_u" only'
    ):
        export(
            plain, folder / "n", format="saved_model", calibration_data=np.zeros((1, 8))
        )


def test_gzip_size_of_a_directory(quantized_version):
    assert quantized_version.size == sum(
        f.stat().st_size for f in quantized_version.files
    )
    assert 0 < quantized_version.gzip_size < quantized_version.size
    again = Artifact.read(quantized_version.path)
    assert again.gzip_size == quantized_version.gzip_size


def test_damaged_version(plain, folder):
    artifact = export(plain, folder / "damaged", format="saved_model")
    graph = artifact.path / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:500])
    manifest_path(artifact.path).unlink()
    with pytest.raises(ArtifactError, match="damaged or truncated"):
        load(artifact)
