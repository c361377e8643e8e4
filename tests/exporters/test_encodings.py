"""smallest=...: the best encoding that the runtime loads and runs right."""

import keras
import numpy as np
import pytest

import tfcompress
from tfcompress.core.errors import InvalidArgumentError
from tfcompress.exporters.tflite import encodings

L = keras.layers
pytestmark = pytest.mark.export


@pytest.fixture(scope="module")
def sparse_float():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,), name="x"),
            L.Dense(256, activation="relu", name="hidden"),
            L.Dense(64, name="logits"),
        ]
    )
    for layer in model.layers:
        kept = np.random.default_rng(0).random(layer.kernel.shape) < 0.1
        layer.kernel.assign(np.where(kept, layer.kernel, 0))
    return model


def outputs_agree(artifact, model):
    x = np.random.default_rng(1).normal(size=(8, 64)).astype("float32")
    found, expected = tfcompress.load(artifact)(x), model(x).numpy()
    return np.abs(found - expected).max() < 0.02 * np.ptp(expected)


def test_raw_and_zip_take_different_encodings(sparse_float, tmp_path):
    plain = tfcompress.export(sparse_float, tmp_path / "plain.tflite")
    raw = tfcompress.export(sparse_float, tmp_path / "raw.tflite", smallest="raw")
    zipped = tfcompress.export(sparse_float, tmp_path / "zip.tflite", smallest="zip")
    assert raw.size < 0.55 * plain.size
    assert raw.size <= zipped.size
    assert zipped.gzip_size <= raw.gzip_size < plain.gzip_size
    for artifact in (raw, zipped):
        assert outputs_agree(artifact, sparse_float)


def test_an_integer_model(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((64,), name="x"), L.Dense(96, name="logits")])
    model = tfcompress.quantize_aware(model)
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(64, 64)).astype("float32")
    prune = tfcompress.PruneWeights(0.9)
    model.fit(x, np.zeros((64, 96)), epochs=2, verbose=0, callbacks=[prune])
    final = tfcompress.finalize(model)
    plain = tfcompress.export(final, tmp_path / "plain.tflite")
    best = tfcompress.export(final, tmp_path / "best.tflite", smallest="raw")
    assert best.size <= plain.size
    # It runs in the runtime as users have it: what that refuses is never handed out.
    check = tfcompress.verify(best, final, x, min_integer_coverage=1.0)
    assert check.max_abs_error <= 2 * best.outputs[0].step
    fast = tfcompress.export(final, tmp_path / "fast.tflite", smallest="latency")
    assert tfcompress.verify(fast, final, x).passed


def test_what_fails_or_is_wrong_is_left_out(monkeypatch):
    right = {"0": np.arange(9.0)}
    outcomes = {
        b"0000": (right, 3.0),
        b"11": ({"0": np.arange(9.0) + 5}, 1.0),
        b"222": (right, 2.0),
    }
    monkeypatch.setattr(encodings, "_measured", lambda content: outcomes[content])
    made = iter([b"0000", b"11", b"222", None])

    def convert(options):
        content = next(made)
        if content is None:
            raise tfcompress.ExportError("refused")
        return content

    content, trials = encodings.smallest(convert, False, "raw")
    assert content == b"222"
    assert [bool(trial.problem) for trial in trials] == [False, True, False, True]
    assert "off by 5" in trials[1].problem


def test_the_option_is_checked(sparse_float, tmp_path):
    with pytest.raises(InvalidArgumentError, match="'raw', 'zip', 'latency'"):
        tfcompress.export(sparse_float, tmp_path / "x.tflite", smallest="tiny")
