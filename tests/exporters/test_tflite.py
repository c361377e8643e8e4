"""The tflite format: numbers, names, number formats and refusals."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcompress.core.errors import ExportError, InvalidArgumentError
from tfcompress.exporters import export, load
from tfcompress.exporters.tflite.flatbuffer import TFLiteFile

L = keras.layers
pytestmark = pytest.mark.export


def census(artifact):
    return {(op.name, op.activations): op.count for op in artifact.operators}


def test_quantized_model_becomes_integer_code(quantized_file):
    assert quantized_file.integer_coverage == 1.0
    ops = census(quantized_file)
    # BatchNorm and ReLU are inside the conv, the first conv is integer too.
    assert ops == {
        ("QUANTIZE", ("float32", "int8")): 1,
        ("CONV_2D", ("int8",)): 1,
        ("DEPTHWISE_CONV_2D", ("int8",)): 1,
        ("MAX_POOL_2D", ("int8",)): 1,
        ("RESHAPE", ("int8",)): 1,
        ("FULLY_CONNECTED", ("int8",)): 1,
        ("DEQUANTIZE", ("float32", "int8")): 1,
    }


def test_quantized_numbers_equal_keras(quantized, quantized_file, images):
    expected = quantized.predict(images, verbose=0)
    steps = np.abs(load(quantized_file)(images) - expected) / (8 / 255)
    assert np.ptp(expected) > 1
    assert steps.max() < 1.001


def test_names_shapes_and_step(quantized_file):
    assert quantized_file.inputs[0].name == "image"
    assert quantized_file.inputs[0].shape == (1, 12, 12, 3)
    # The rounding layer behind it does not rename the output.
    assert quantized_file.outputs[0].name == "logits"
    assert quantized_file.outputs[0].step == pytest.approx(8 / 255)
    assert not quantized_file.outputs[0].quantized


def test_sizes(quantized_file):
    content = quantized_file.path.read_bytes()
    assert quantized_file.size == len(content)
    assert 1000 < quantized_file.gzip_size < quantized_file.size
    assert quantized_file.files == (quantized_file.path,)


def test_float_model_stays_float(plain, plain_file):
    x = np.random.default_rng(0).normal(size=(7, 8)).astype("float32")
    assert plain_file.integer_coverage == 0.0
    assert plain_file.inputs[0].name == "input_1"
    assert plain_file.outputs[0].name == "output"
    np.testing.assert_allclose(
        load(plain_file)(x), plain.predict(x, verbose=0), atol=1e-6
    )


def test_integer_inputs_and_outputs(quantized, folder, images):
    artifact = export(quantized, folder / "int8.tflite", io_dtype="int8")
    info, output = artifact.inputs[0], artifact.outputs[0]
    assert (info.dtype, output.dtype) == ("int8", "int8")
    assert info.scale == pytest.approx(6 / 255)
    runner = load(artifact)
    expected = quantized.predict(images, verbose=0)
    assert np.abs(runner(images) - expected).max() < 1.001 * output.scale
    raw = runner(np.zeros((3, 12, 12, 3), "int8"), raw=True)
    assert (raw.dtype, raw.shape) == (np.dtype("int8"), (3, 10))
    with pytest.raises(InvalidArgumentError, match=r"wrong dtype for raw=True.*int8"):
        runner(images, raw=True)


def test_free_batch(quantized, folder, images):
    artifact = export(quantized, folder / "free.tflite", batch_size=None)
    assert artifact.inputs[0].shape == (None, 12, 12, 3)
    expected = quantized.predict(images, verbose=0)
    result = load(artifact)(images)
    assert result.shape == (50, 10)
    assert np.abs(result - expected).max() < 1.001 * artifact.outputs[0].step


def test_static_batch_pads_the_rest(plain, folder):
    artifact = export(plain, folder / "batch4.tflite", batch_size=4)
    x = np.random.default_rng(0).normal(size=(10, 8)).astype("float32")
    assert artifact.inputs[0].shape == (4, 8)
    np.testing.assert_allclose(
        load(artifact)(x), plain.predict(x, verbose=0), atol=1e-6
    )


def test_calibration_makes_a_float_model_integer(plain, folder):
    x = np.random.default_rng(0).normal(size=(100, 8)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, x[:, 0])).batch(32)
    artifact = export(
        plain, folder / "calibrated.tflite", calibration_data=data, io_dtype="uint8"
    )
    assert artifact.integer_coverage == 1.0
    assert artifact.inputs[0].dtype == "uint8"
    error = np.abs(load(artifact)(x) - plain.predict(x, verbose=0)).max()
    assert 0 < error < 0.1


@pytest.mark.parametrize(("quantize", "bound"), [("float16", 0.6), ("dynamic", 0.35)])
def test_smaller_float_weights(quantize, bound, folder):
    model = keras.Sequential([keras.Input((64,)), L.Dense(256), L.Dense(64)])
    artifact = export(model, folder / f"{quantize}.tflite", quantize=quantize)
    assert artifact.size < bound * model.count_params() * 4
    assert load(artifact)(np.zeros((1, 64))).dtype == "float32"


def test_order_of_inputs_is_the_models(two_headed, folder):
    artifact = export(two_headed, folder / "two.tflite")
    assert [i.name for i in artifact.inputs] == ["query", "context"]
    assert [o.name for o in artifact.outputs] == ["output_0", "output_1"]
    rng = np.random.default_rng(0)
    query, context = rng.normal(size=(5, 8)), rng.normal(size=(5, 4))
    expected = two_headed.predict([query, context], verbose=0)
    by_order = load(artifact)([query, context])
    by_name = load(artifact)({"context": context, "query": query})
    for position, name in enumerate(("output_0", "output_1")):
        np.testing.assert_allclose(by_order[name], expected[position], atol=1e-5)
        np.testing.assert_array_equal(by_order[name], by_name[name])


def test_dict_outputs_and_nested_model_keep_names(plain, folder):
    features = keras.Input((8,), name="features")
    hidden = plain(features)
    model = keras.Model(
        {"features": features}, {"score": L.Dense(1)(hidden), "logits": hidden}
    )
    artifact = export(model, folder / "dict.tflite")
    x = np.random.default_rng(0).normal(size=(3, 8)).astype("float32")
    expected = model.predict({"features": x}, verbose=0)
    result = load(artifact)({"features": x})
    assert sorted(result) == ["logits", "score"]
    for name, value in result.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-5)


def test_subclassed_model_with_a_signature(folder):
    class Doubled(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = L.Dense(3)

        def call(self, x):
            return 2 * self.dense(x)

    model = Doubled()
    x = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    signature = [tf.TensorSpec((None, 5), name="features")]
    with pytest.raises(InvalidArgumentError, match="is not built"):
        export(model, folder / "sub.tflite", input_signature=signature)
    expected = keras.ops.convert_to_numpy(model(x))
    # Once called it knows its inputs, and is exported as any model.
    by_itself = export(model, folder / "by_itself.tflite")
    np.testing.assert_allclose(load(by_itself)(x), expected, atol=1e-6)
    artifact = export(model, folder / "sub.tflite", input_signature=signature)
    assert artifact.inputs[0].name == "features"
    np.testing.assert_allclose(load(artifact)(x), expected, atol=1e-6)


def test_recurrent_model_runs_at_batch_1(folder):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 3))
    model = keras.Model(inputs, L.Dense(2)(L.LSTM(4)(inputs)))
    artifact = export(model, folder / "lstm.tflite")
    assert ("WHILE") in {op.name for op in artifact.operators}
    x = np.random.default_rng(0).normal(size=(3, 5, 3)).astype("float32")
    np.testing.assert_allclose(
        load(artifact)(x), model.predict(x, verbose=0), atol=1e-5
    )
    with pytest.raises(ExportError, match=r"TensorListReserve.*batch_size=1") as caught:
        export(model, folder / "lstm_free.tflite", batch_size=None)
    assert len(str(caught.value)) < 900
    assert "Traceback" in caught.value.log
    assert not (folder / "lstm_free.tflite").exists()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_is_exported_as_float32(policy, folder):
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(policy)
    inputs = keras.Input((8, 8, 3))
    x = L.BatchNormalization()(L.Conv2D(4, 3, activation="relu")(inputs))
    inner = keras.Sequential([L.Flatten(), L.Dense(6)])
    model = keras.Model(inputs, L.Dense(4, dtype="float32")(inner(x)))
    x = np.random.default_rng(0).normal(size=(9, 8, 8, 3)).astype("float32")
    before = model.predict(x, verbose=0)
    policies = [layer.dtype_policy.name for layer in model._flatten_layers()]
    artifact = export(model, folder / f"{policy}.tflite")
    # A nested model casts what comes in to the dtype its own `Input` recorded.
    compute = [op for op in artifact.operators if op.name != "CAST"]
    assert len(compute) >= 4
    assert all(op.activations == ("float32",) for op in compute)
    assert 0 < np.abs(load(artifact)(x) - before).max() < 0.05
    assert [layer.dtype_policy.name for layer in model._flatten_layers()] == policies
    assert policies.count(policy) > 5
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)


@pytest.mark.parametrize("format", ["tflite", "saved_model"])
def test_outputs_of_16_bits_are_numbers(format, folder):
    # NumPy takes bfloat16 for no number, and keeps none in its files.
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("mixed_bfloat16")
    inputs = keras.Input((8, 8, 3))
    x = L.GlobalAveragePooling2D()(L.Conv2D(4, 3, activation="relu")(inputs))
    model = keras.Model(inputs, L.Dense(4)(x))
    name = "outputs.tflite" if format == "tflite" else "outputs"
    artifact = export(model, folder / name, format=format)
    x = np.random.default_rng(0).normal(size=(9, 8, 8, 3)).astype("float32")
    expected = keras.ops.cast(model.predict(x, verbose=0), "float32")
    assert np.abs(load(artifact)(x) - expected).max() < 0.05


def test_model_is_unchanged(folder):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((4,)), L.Dense(3), L.BatchNormalization(), L.Dropout(0.5)]
    )
    model.layers[0].trainable = False
    model.compile("adam", "mse")
    model.fit(np.ones((8, 4)), np.ones((8, 3)), verbose=0)
    before = [w.numpy().copy() for w in model.weights]
    optimizer, step = model.optimizer, model.train_function
    export(model, folder / "unchanged.tflite")
    export(model, folder / "unchanged", format="saved_model")
    for old, new in zip(before, model.weights):
        np.testing.assert_array_equal(old, new.numpy())
    assert [layer.trainable for layer in model.layers] == [False, True, True]
    assert model.optimizer is optimizer
    assert model.train_function is step
    assert int(optimizer.iterations.numpy()) == 1


def test_unsupported_operations_are_named(folder):
    class Rare(L.Layer):
        def call(self, x):
            square = tf.einsum("bi,bj->bij", x, x)
            return tf.math.erfinv(x) + tf.linalg.det(square)[:, None]

    inputs = keras.Input((4,))
    model = keras.Model(inputs, Rare()(inputs))
    with pytest.raises(ExportError, match="Erfinv, MatrixDeterminant"):
        export(model, folder / "rare" / "rare.tflite")
    assert not (folder / "rare").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"io_dtype": "int4"}, r"`io_dtype`.*'int4'.*'float32', 'int8', 'uint8'"),
        ({"io_dtype": "int8"}, r"float model has no integer inputs"),
        ({"quantize": "int8"}, r"`quantize`.*'float16', 'dynamic'"),
        ({"batch_size": 0}, r"`batch_size`.*Received: 0"),
        ({"batchsize": 1}, r"no option 'batchsize'.*'batch_size'"),
        ({"quantize": "dynamic", "calibration_data": [1]}, "exclude each other"),
        ({"calibration_data": np.zeros((9, 7))}, r"shape \(9, 7\).*\('n', 8\)"),
        ({"calibration_data": []}, "Too few calibration samples"),
        ({"format": "onyx"}, r"'onyx'. Expected: one of .*'saved_model', 'tflite'"),
        ({"format": 3}, r"Unknown export format. Received: 3"),
    ],
)
def test_bad_options(plain, folder, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        export(plain, folder / "never.tflite", **options)
    assert not (folder / "never.tflite").exists()


def test_ranges_and_calibration_exclude_each_other(quantized, images, folder):
    with pytest.raises(InvalidArgumentError, match="its own quantization ranges"):
        export(quantized, folder / "never.tflite", calibration_data=images)


@pytest.mark.parametrize("name", ["in", "my input", "größe"])
def test_inputs_that_tensorflow_cannot_name(name, folder):
    inputs = keras.Input((3,), name=name)
    model = keras.Model(inputs, L.Dense(2)(inputs))
    with pytest.raises(InvalidArgumentError, match=f"'{name}'.*keras.Input"):
        export(model, folder / "never.tflite")


@pytest.mark.parametrize("built", [keras.Sequential([L.Dense(2)]), "a string"])
def test_unbuilt_model(built, folder):
    with pytest.raises(InvalidArgumentError, match=r"un-built|Only a Keras model"):
        export(built, folder / "never.tflite")


def test_file_name_must_say_tflite(plain, folder):
    with pytest.raises(InvalidArgumentError, match='format="saved_model"'):
        export(plain, folder / "student" / "1")


def test_exporter_instance_as_format(quantized_file, folder, plain):
    from tfcompress.exporters import TFLiteExporter

    exporter = TFLiteExporter(batch_size=2)
    config = keras.saving.serialize_keras_object(exporter)
    assert keras.saving.deserialize_keras_object(config) == exporter
    artifact = export(plain, folder / "instance.tflite", format=exporter)
    assert artifact.inputs[0].shape == (2, 8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        artifact.format = "other"


def test_weights_are_read_from_the_file(quantized, quantized_file):
    kernel = quantized.get_layer("logits").kernel.numpy()
    stored = {
        tensor.info.shape: values
        for tensor, values in TFLiteFile.open(quantized_file.path).weights()
    }
    values = stored[(10, 6 * 6 * 8)].reshape(10, -1).T
    scale = np.abs(kernel).max(0) / 127
    np.testing.assert_array_equal(values, np.round(kernel / scale))


@pytest.mark.parametrize(
    ("last", "name"),
    [
        (lambda: L.Dense(2), "output"),
        (lambda: L.LayerNormalization(), "output"),
        (lambda: L.Dense(2, name="scores"), "scores"),
        (lambda: keras.Sequential([keras.Input((3,)), L.Dense(2, name="in")]), "in"),
    ],
)
def test_output_name_does_not_depend_on_the_process(last, name):
    from tfcompress.exporters.tracing import trace

    for _ in range(2):  # the second Dense is called dense_1
        inputs = keras.Input((3,))
        traced = trace(keras.Model(inputs, last()(inputs)))
        assert [o.name for o in traced.outputs] == [name]
