"""`recurrent="fused"`: LSTMs as LiteRT's one operator, in the place of their steps."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress
from tests.exporters.lstm_arithmetic import LSTM
from tfcompress.exporters import comparing
from tfcompress.exporters.tflite import fused
from tfcompress.exporters.tflite.fused_lstms import _one_scale
from tfcompress.exporters.tflite.rewriting import take_apart

pytestmark = pytest.mark.export
STEPS, WIDTH = 3, 4


def series(samples=64, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(samples, STEPS, WIDTH)).astype("float32")


def finalized(build):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((STEPS, WIDTH), name="series")
    model = keras.Model(inputs, build(inputs))
    return model, tfcompress.finalize(tfcompress.calibrate(model, series()))


def test_the_file_computes_what_the_operator_does_and_forgets_each_call(tmp_path):
    reader = layers.LSTM(4, return_sequences=True, go_backwards=True, name="reader")
    _, final = finalized(reader)
    path = tmp_path / "reader.tflite"
    options = {"io_dtype": "int8", "batch_size": 2, "recurrent": "fused"}
    artifact = tfcompress.export(final, path, **options)
    operator = LSTM.of(take_apart(path.read_bytes()))
    given = np.random.default_rng(1).integers(-128, 128, (16, STEPS, WIDTH))
    made = tfcompress.load(artifact)(given.astype(np.int8), raw=True)
    expected = np.stack([operator(sample[::-1]) for sample in given])
    assert np.array_equal(made, expected)


@pytest.mark.slow
def test_layers_in_layers_are_near_the_model(tmp_path):
    def both(x):
        x = layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="both")(x)
        return layers.Dense(3, name="head")(layers.LSTM(3, name="second")(x))

    model, final = finalized(both)
    phone = tfcompress.export(final, tmp_path / "fused.tflite", recurrent="fused")
    counts = {one.name: one.count for one in phone.operators}
    assert counts["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 3
    assert not {"LOGISTIC", "TANH"} & set(counts)
    x = series()
    made = tfcompress.load(phone)(x)
    step = phone.outputs[0].step
    exact, rounded = model.predict(x, verbose=0), final.predict(x, verbose=0)
    assert np.abs(made - rounded).mean() < 4 * step
    # Sixteen bits between the products: no farther than the model that was finalized.
    assert np.abs(made - exact).mean() <= np.abs(rounded - exact).mean()
    manifest = json.loads((tmp_path / "fused.tflite.manifest.json").read_text())
    assert manifest["compared"]["bound"] == "0.1 of the largest value, on average"
    assert 0 < manifest["compared"]["steps"]["head"]["mean"] < 16


@pytest.mark.slow
def test_boards_get_the_operator(tmp_path):
    pytest.importorskip("tflite_micro")
    _, final = finalized(layers.LSTM(2, name="reader", go_backwards=True))
    board = tfcompress.export(
        final, tmp_path / "board", format="micro", recurrent="fused"
    )
    assert LSTM.of(take_apart((tmp_path / "board/model.tflite").read_bytes()))
    resolver = (tmp_path / "board/resolver.h").read_text()
    assert "AddUnidirectionalSequenceLSTM" in resolver
    assert {"PACK", "GATHER"} < {one.name for one in board.operators}


def test_what_the_operator_has_not_is_refused_by_name(tmp_path):
    def two(x):
        return layers.GRU(2, name="listener")(
            layers.LSTM(2, return_sequences=True, name="reader")(x)
        )

    _, final = finalized(two)
    with pytest.raises(tfcompress.ExportError, match="Received: 'listener'"):
        tfcompress.export(final, tmp_path / "two.tflite", recurrent="fused")
    assert not list(tmp_path.iterdir())


def test_a_file_too_far_from_the_model_is_refused(tmp_path, monkeypatch):
    _, final = finalized(layers.LSTM(3, name="reader"))
    monkeypatch.setattr(fused, "_BOUND", comparing.Bound(1e-4, steps=False))
    with pytest.raises(tfcompress.ExportError, match=r"steps, and by .* on average"):
        tfcompress.export(final, tmp_path / "far.tflite", recurrent="fused")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options", [{"sparse": True}, {"smallest": "raw"}, {"batch_size": None}, {}]
)
def test_options_that_do_not_go_together(tmp_path, options):
    model = keras.Sequential([keras.Input((STEPS, WIDTH)), layers.LSTM(3)])
    with pytest.raises(tfcompress.InvalidArgumentError):
        tfcompress.export(model, tmp_path / "x.tflite", recurrent="fused", **options)


def test_a_gate_with_one_scale_keeps_its_integers():
    values = np.array([[3, -100], [7, 50]], np.int8)
    one, factor = _one_scale(values, np.array([0.5, 0.5]))
    assert (one, *factor) == (0.5, 1, 1)
    one, factor = _one_scale(values, np.array([0.25, 1.0]))
    assert one == np.float32(50 / 127)
    assert np.array_equal(np.round(values * factor[:, None])[1], [18, 127])
