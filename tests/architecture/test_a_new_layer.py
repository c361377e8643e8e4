"""A layer that nobody foresaw takes one row in one file: this one."""

import keras
import numpy as np
import pytest
from keras import ops

import tfcompress
from tfcompress import Kernel, LayerRule, Matrix, PruneWeights, register_layer_rule
from tfcompress.exporters.artifact import get_exporter
from tfcompress.layers import rules

pytestmark = pytest.mark.export


@keras.saving.register_keras_serializable("test_a_new_layer")
class Squeezed(keras.layers.Layer):
    """A Dense without bias whose result is clipped, as a Keras of next year has it."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")

    def call(self, x):
        return ops.relu6(ops.matmul(x, self.kernel))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def channels(call):
    layer, last = call.layer, call.rank() - 1
    new = call.ids.fresh(layer.units)
    source = call.inputs[0].get(last)
    call.weight(layer.kernel, {0: source}, "input", *call.node.inputs)
    call.weight(layer.kernel, {1: new}, "output")
    call.resize(lambda count: {"units": count(new)}, new)
    call.outputs[0] = {last: new}


def integers(layer, parts, x):
    config = {"units": layer.units, "use_bias": False, "activation": "relu6"}
    return parts(keras.layers.Dense, weights=[layer.kernel], **config)(x)


def constants(layer, values):
    """A sum of constants is a constant; here only of zeros."""
    known = values.get(1, np.full(layer.kernel.shape[0], np.nan)) == 0
    reads = np.any(np.asarray(layer.kernel)[~known] != 0, axis=0)
    return np.where(reads, np.nan, 0.0)


@pytest.fixture
def row(monkeypatch):
    monkeypatch.setattr(rules, "_rules", dict(rules._rules))
    return register_layer_rule(
        LayerRule(
            Squeezed,
            kernels=(Kernel("kernel"),),
            macs=lambda layer, inputs, output: inputs[0][-1] * layer.units,
            channels=channels,
            constants=constants,
            expansion=integers,
            matrix=Matrix(lambda layer, x: ops.reshape(x, (-1, x.shape[-1]))),
            family="dense",
        )
    )


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    stack = [Squeezed(24, name="new"), keras.layers.Dense(3, name="last")]
    return keras.Sequential([keras.Input((16,)), *stack])


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(128, 16)).astype("float32")


@pytest.mark.usefixtures("row")
def test_one_row_takes_it_all_the_way(model, features, tmp_path):
    assert tfcompress.macs(model) == 16 * 24 + 24 * 3
    model.compile("sgd", "mse")
    prune = PruneWeights(0.5, filters="new")
    targets = np.zeros((128, 3), "float32")
    model.fit(features, targets, epochs=2, verbose=0, callbacks=[prune])
    kernel = model.get_layer("new").kernel
    assert np.mean(np.asarray(kernel) == 0) == 0.5
    small = tfcompress.shrink(model, sparsity=1 / 3, filters="new")
    assert small.get_layer("new").kernel.shape == (16, 16)
    final = tfcompress.finalize(tfcompress.calibrate(small, features))
    phone = tfcompress.export(final, tmp_path / "new.tflite")
    assert phone.integer_coverage == 1.0
    assert tfcompress.verify(phone, final, features).max_error_steps == 0.0


@pytest.mark.usefixtures("row")
def test_channels_that_are_zero_go_exactly(model, features):
    kernel = np.asarray(model.get_layer("new").kernel).copy()
    kernel[:, 5:] = 0
    model.get_layer("new").kernel.assign(kernel)
    small = tfcompress.shrink(model)
    assert small.get_layer("new").units == 5
    before, after = (m.predict(features, verbose=0) for m in (model, small))
    np.testing.assert_allclose(before, after, atol=1e-6)


@pytest.mark.usefixtures("row")
def test_least_squares_know_it(model, features):
    pruned = tfcompress.reconstruct(model, features, sparsity=0.5, filters="new")
    kernel = np.asarray(pruned.get_layer("new").kernel)
    assert np.mean(kernel == 0) == 0.5
    # The kept weights make up for the lost ones, as magnitude alone does not.
    sums = features @ np.asarray(model.get_layer("new").kernel)
    plain = np.asarray(model.get_layer("new").kernel).copy()
    plain[np.abs(plain) < np.median(np.abs(plain))] = 0
    errors = [np.square(features @ k - sums).mean() for k in (kernel, plain)]
    assert errors[0] < errors[1]


@pytest.mark.usefixtures("row")
def test_the_table_shows_it():
    shown = next(r for r in tfcompress.layer_table() if r["layer"] == "Squeezed")
    assert shown["integers"] == "own form"
    assert shown["kernels"] == "kernel"


def test_without_a_row_each_who_needs_one_names_it(model, features):
    with pytest.warns(tfcompress.CompressionWarning, match="new"):
        tfcompress.shrink(model)
    model.compile("sgd", "mse")
    with pytest.warns(tfcompress.CompressionWarning, match="new"):
        model.fit(
            features,
            np.zeros((128, 3), "float32"),
            verbose=0,
            callbacks=[PruneWeights(0.5)],
        )


def test_a_row_tells_doctor_what_a_format_cannot_take(model, monkeypatch):
    monkeypatch.setattr(rules, "_rules", dict(rules._rules))
    register_layer_rule(LayerRule(Squeezed, refused_by={"onnx": "has no operator"}))
    diagnosis = tfcompress.doctor(model, "onnx", trial=False)
    assert [(f.layer, f.problem) for f in diagnosis.findings] == [
        ("new", "has no operator")
    ]
    assert tfcompress.doctor(model, "tflite", trial=False).findings == ()
    exporter = get_exporter("onnx")
    for format in (exporter, keras.saving.serialize_keras_object(exporter)):
        again = tfcompress.doctor(model, format, trial=False)
        assert [f.problem for f in again.findings] == ["has no operator"]
