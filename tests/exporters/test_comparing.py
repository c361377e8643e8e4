"""Every export runs what it wrote, and compares it with the model before publishing."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfcompress
from tfcompress import CompressionWarning, calibrate, export, finalize
from tfcompress.core.errors import (
    ExportError,
    InvalidArgumentError,
    UnsupportedLayerError,
)
from tfcompress.exporters.manifest_file import read_manifest
from tfcompress.exporters.tflite.exporter import TFLiteExporter

L = keras.layers
pytestmark = pytest.mark.export


def small(units=3):
    keras.utils.set_random_seed(2)
    return keras.Sequential(
        [
            keras.Input((5,), name="x"),
            L.Dense(8, activation="relu", name="hidden"),
            L.Dense(units, name="head"),
        ],
        name="small",
    )


def data(rows=24):
    return np.random.default_rng(0).normal(size=(rows, 5)).astype("float32")


@pytest.fixture(scope="module")
def integers():
    return finalize(calibrate(small(), data()))


def of_another_model(monkeypatch, other):
    """Lets the exporter write the file of another model, as a wrong converter would."""
    wrong = TFLiteExporter.content
    traced = tfcompress.exporters.tracing.trace(other, 1, convertible=True)
    monkeypatch.setattr(
        TFLiteExporter, "content", lambda self, _, data=None: wrong(self, traced, data)
    )


def test_a_float_file_of_other_numbers_is_refused(tmp_path, monkeypatch):
    model, other = small(), small()
    other.get_layer("head").bias.assign([0.0, 0.1, 0.0])
    of_another_model(monkeypatch, other)
    with pytest.raises(ExportError, match=r"output 'head' is off by 0\.1"):
        export(model, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_difference_that_is_asked_to_be_told_only(tmp_path, monkeypatch):
    model, other = small(), small()
    other.get_layer("head").bias.assign([0.0, 0.1, 0.0])
    of_another_model(monkeypatch, other)
    with pytest.warns(CompressionWarning, match=r"output 'head' is off by 0\.1"):
        artifact = export(model, tmp_path / "warned.tflite", check="warn")
    assert read_manifest(artifact)["compared"] == {"samples": 4, "bound": None}
    artifact = export(model, tmp_path / "unchecked.tflite", check="off")
    assert read_manifest(artifact)["compared"] == {"samples": 0, "bound": None}
    with pytest.raises(ExportError, match="off by"):
        export(model, tmp_path / "checked.tflite")


def test_a_check_that_nobody_knows(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"`check`.*'maybe'.*'warn'"):
        export(small(), tmp_path / "m.tflite", check="maybe")
    assert list(tmp_path.iterdir()) == []


def test_an_integer_file_of_other_numbers_is_refused_and_says_where(
    integers, tmp_path, monkeypatch
):
    other = finalize(calibrate(small(), data()))
    kernel, bias = other.get_layer("hidden").get_weights()
    other.get_layer("hidden").set_weights([kernel, bias + 0.5])
    of_another_model(monkeypatch, other)
    with pytest.raises(ExportError, match=r"steps; the first layer .* is hidden"):
        export(integers, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_few_steps_are_told(integers, tmp_path, monkeypatch):
    other = keras.models.clone_model(integers)
    other.set_weights(integers.get_weights())
    step = integers.get_layer("head_quantizer").step()
    kernel, bias = other.get_layer("head").get_weights()
    other.get_layer("head").set_weights([kernel, bias + np.float32(2 * step)])
    of_another_model(monkeypatch, other)
    with pytest.warns(CompressionWarning, match=r"off by [23](\.\d+)? steps"):
        export(integers, tmp_path / "m.tflite")


def test_the_manifest_says_what_was_compared(integers, tmp_path):
    file = export(integers, tmp_path / "m.tflite")
    assert read_manifest(file)["compared"] == {"samples": 4, "bound": "1 step"}
    served = export(small(), tmp_path / "served", format="saved_model")
    noted = read_manifest(served)["compared"]
    assert noted == {"samples": 4, "bound": "0.001 of the largest value"}


def test_models_without_samples_say_so(tmp_path):
    """Numbers that a model takes cannot always be guessed."""

    @keras.saving.register_keras_serializable("tests_comparing")
    class Table(L.Layer):
        def call(self, positions):
            import tensorflow as tf

            rows = tf.constant(np.arange(6.0, dtype="float32").reshape(3, 2))
            return tf.gather(rows, positions - 7)

    inputs = keras.Input((2,), dtype="int32", name="positions")
    model = keras.Model(inputs, Table(name="table")(inputs))
    served = export(model, tmp_path / "served", format="saved_model")
    assert read_manifest(served)["compared"] == {"samples": 0, "bound": None}


@pytest.mark.parametrize("length", [6, None])
def test_samples_are_numbers_that_an_embedding_knows(length, tmp_path):
    words = keras.Input((length,), dtype="int32", name="words")
    x = L.GlobalAveragePooling1D()(L.Embedding(3, 4)(words))
    model = keras.Model(words, L.Dense(2, name="scores")(x))
    file = export(model, tmp_path / "m.tflite")
    assert read_manifest(file)["compared"]["samples"] == 4


def test_texts(tmp_path):
    text = keras.Input((1,), dtype="string", name="text")
    numbers = L.StringLookup(vocabulary=["one", "two"])(text)
    model = keras.Model(text, L.Flatten()(L.Embedding(4, 2)(numbers)))
    served = export(model, tmp_path / "served", format="saved_model")
    assert read_manifest(served)["compared"]["samples"] == 4


@pytest.mark.parametrize("layer", ["UpSampling1D", "UpSampling2D", "bilinear"])
def test_upsampling_of_free_sizes(layer, tmp_path):
    if layer == "UpSampling1D":
        inputs = keras.Input((None, 2), name="signal")
        x = L.Conv1D(2, 3, padding="same")(L.UpSampling1D(2)(inputs))
    else:
        inputs = keras.Input((None, None, 2), name="image")
        how = "bilinear" if layer == "bilinear" else "nearest"
        x = L.UpSampling2D((2, 3), interpolation=how)(L.Conv2D(3, 1)(inputs))
        x = L.Conv2D(2, 3, padding="same")(x)
    model = keras.Model(inputs, x)
    file = export(model, tmp_path / "m.tflite")
    assert read_manifest(file)["compared"]["samples"] == 4
    served = export(model, tmp_path / "served", format="saved_model")
    shape = (6, 8, 2) if layer == "UpSampling1D" else (6, 8, 8, 2)
    data = np.random.default_rng(0).normal(size=shape).astype("float32")
    for artifact in (file, served):
        tfcompress.verify(artifact, model, data).raise_if_failed()


def test_one_number_for_all_samples_is_compared(tmp_path):
    inputs = keras.Input((5,), name="x")
    model = keras.Model(inputs, keras.ops.sum(L.Dense(3)(inputs)))
    file = export(model, tmp_path / "m.tflite")
    assert read_manifest(file)["compared"]["samples"] == 4


def stateful():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((4, 3), batch_size=1, name="x")
    return keras.Model(inputs, L.LSTM(2, stateful=True, name="memory")(inputs))


def test_a_state_begins_anew_in_what_is_exported(tmp_path):
    model = stateful()
    data = np.random.default_rng(0).normal(size=(1, 4, 3)).astype("float32")
    first, second = model(data).numpy(), model(data).numpy()
    states = [np.array(state) for state in model.layers[-1].variables]
    runner = tfcompress.load(export(model, tmp_path / "m.tflite"))
    after = [np.array(state) for state in model.layers[-1].variables]
    for one, other in zip(states, after):
        np.testing.assert_array_equal(one, other)  # the model goes on where it was
    np.testing.assert_allclose(runner(data), first, atol=1e-5)
    np.testing.assert_allclose(runner(data), second, atol=1e-5)


def test_a_state_beside_integers_begins_anew(tmp_path):
    data = np.random.default_rng(0).normal(size=(1, 4, 3)).astype("float32")
    with pytest.warns(CompressionWarning, match="stateful"):
        model = finalize(calibrate(stateful(), data))
    model(data)
    artifact = export(model, tmp_path / "m.tflite")
    assert read_manifest(artifact)["compared"]["samples"] > 0


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_formats_without_states_refuse_layers_with_them(format, tmp_path):
    model = stateful()
    findings = tfcompress.doctor(model, format, trial=False).findings
    assert [one.layer for one in findings if one.severity == "error"] == ["memory"]
    with pytest.raises(ExportError, match=r"keeps no state.*memory"):
        export(model, tmp_path / "m", format=format)
    assert list(tmp_path.iterdir()) == []


def test_finalize_names_the_layer_that_cannot_be_called(monkeypatch):
    @keras.saving.register_keras_serializable("tests_comparing")
    class Fragile(L.Layer):
        broken = False

        def call(self, inputs):
            if Fragile.broken and tf.executing_eagerly():
                raise ValueError("no kernel for this")
            return inputs * 2.0

    inputs = keras.Input((5,), name="x")
    x = Fragile(name="fragile")(L.Dense(3, name="first")(inputs))
    model = keras.Model(inputs, L.Dense(2, name="last")(x))
    built = tfcompress.finalization.build

    def build_broken(graph):
        Fragile.broken = True
        return built(graph)

    monkeypatch.setattr(tfcompress.finalization, "build", build_broken)
    monkeypatch.setattr(
        tfcompress.finalization,
        "attempts",
        lambda model, graph, rows: [([data(2)], [np.zeros((2, 2), "float32")])],
    )
    with pytest.raises(UnsupportedLayerError, match=r"'fragile' fails.*no kernel"):
        finalize(model)


def test_finalize_refuses_a_model_that_computes_something_else(monkeypatch):
    model, built = small(), tfcompress.finalization.build

    def build_other(graph):
        other = built(graph)
        bias = other.get_layer("hidden").bias
        bias.assign(np.array(bias) + 0.3)
        return other

    monkeypatch.setattr(tfcompress.finalization, "build", build_other)
    message = "outputs of 'head' .* first behind 'hidden'"
    with pytest.raises(UnsupportedLayerError, match=message):
        finalize(model)


@keras.saving.register_keras_serializable("tests_comparing")
class Noise(L.Layer):
    """Draws anew in each call."""

    def __init__(self, **options):
        super().__init__(**options)
        self.generator = keras.random.SeedGenerator(1)

    def call(self, inputs):
        return inputs + keras.random.normal((1, 3), seed=self.generator)


@pytest.fixture(scope="module")
def noisy():
    inputs = keras.Input((5,), name="x")
    model = keras.Model(inputs, Noise(name="noise")(L.Dense(3, name="head")(inputs)))
    with pytest.warns(CompressionWarning, match="noise"):
        return model, finalize(calibrate(model, data()))


def test_a_served_model_draws_anew_in_each_call(noisy, tmp_path):
    for position, model in enumerate(noisy):
        path = tmp_path / str(position) / "1"
        runner = tfcompress.load(export(model, path, format="saved_model"))
        assert np.abs(runner(data()) - runner(data())).max() > 0.01


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_one_draw_is_no_constant(noisy, format, tmp_path):
    pytest.importorskip("onnxruntime" if format == "onnx" else "openvino")
    for model in noisy:
        path = tmp_path / ("m.onnx" if format == "onnx" else "m")
        with pytest.raises(ExportError, match=r"one draw of random.*'noise"):
            export(model, path, format=format)
    assert list(tmp_path.iterdir()) == []
