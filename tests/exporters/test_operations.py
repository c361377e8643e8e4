"""Operations that LiteRT does not have are named, with the layers they are from."""

import keras
import numpy as np
import pytest
from keras import ops

from tfcompress import calibrate, doctor, export, finalize, verify
from tfcompress.core.errors import ExportError

L = keras.layers
pytestmark = pytest.mark.export


@keras.saving.register_keras_serializable("tests_operations")
class Sampling(L.Layer):
    """The sampling of a variational autoencoder, as tutorials write it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, mean):
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + noise


def sampled():
    inputs = keras.Input((4,), name="x")
    return keras.Model(inputs, L.Dense(2)(Sampling(name="sampling")(inputs)))


def pooled():
    inputs = keras.Input((4, 4, 4, 1), name="x")
    return keras.Model(inputs, L.MaxPooling3D(2, name="pool")(inputs))


@keras.saving.register_keras_serializable("tests_operations")
class Fourier(L.Layer):
    """The mixing of FNet."""

    def call(self, inputs):
        return ops.fft2((inputs, ops.zeros_like(inputs)))[0]


def mixed():
    inputs = keras.Input((4, 4), name="x")
    return keras.Model(inputs, L.Dense(2)(Fourier(name="fourier")(inputs)))


def resized():
    inputs = keras.Input((4, 4, 1), name="x")
    return keras.Model(inputs, L.Resizing(8, 8, "bicubic", name="resize")(inputs))


def multiplied():
    inputs = keras.Input((4, 4), name="x")
    return keras.Model(inputs, ops.cumprod(L.Dense(2)(inputs), axis=1))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (sampled, "sampling"),
        (pooled, "pool"),
        (mixed, "fourier"),
        (resized, "resize"),
        (multiplied, "cumprod"),
    ],
)
def test_doctor_and_export_agree_and_name_the_layer(make, name, tmp_path):
    model = make()
    diagnosis = doctor(model, "tflite", trial=False)
    assert not diagnosis.deployable
    assert name in [finding.layer for finding in diagnosis.findings]
    with pytest.raises(ExportError, match=rf"cannot run\..*'{name}'"):
        export(model, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []
    assert np.isfinite(model(np.zeros((1, *model.input_shape[1:]), "float32"))).all()


@pytest.mark.filterwarnings("ignore:These layers have no integer form")
def test_a_copy_is_called_what_the_layer_is(tmp_path, rng):
    final = finalize(calibrate(sampled(), rng.normal(size=(32, 4)).astype("float32")))
    with pytest.raises(ExportError, match=r"as a constant.*'sampling'"):
        export(final, tmp_path / "m.onnx", format="onnx")


def _of_operations():
    inputs = keras.Input((6,), name="x")
    return keras.Model(inputs, ops.sum(ops.abs(inputs - 1.0) * 0.5, -1))


def _positions():
    inputs = keras.Input((4, 6), name="x")
    rows = L.Dense(3)(inputs)
    found = [ops.argmax(rows, -1), ops.argmin(rows, 1, keepdims=True)]
    return keras.Model(inputs, found)


@pytest.mark.parametrize("make", [_of_operations, _positions])
@pytest.mark.parametrize("suffix", ["tflite", "onnx"])
def test_models_of_operations_and_positions_are_exported(make, suffix, tmp_path, rng):
    model = make()
    data = rng.normal(size=(32, *model.input_shape[1:])).astype("float32")
    assert doctor(model, suffix, trial=False).deployable
    artifact = export(model, tmp_path / f"model.{suffix}", format=suffix)
    verify(artifact, model, data).raise_if_failed()


def test_a_root_of_numpy_does_not_make_a_file_of_64_bits(tmp_path, rng):
    inputs = keras.Input((5, 8), name="x")
    rows = L.Dense(8)(inputs)
    scores = ops.matmul(rows, ops.swapaxes(rows, 1, 2)) / np.sqrt(8.0)
    model = keras.Model(inputs, L.Dense(2)(ops.matmul(ops.softmax(scores), rows)))
    data = rng.normal(size=(32, 5, 8)).astype("float32")
    artifact = export(model, tmp_path / "model.tflite")
    verify(artifact, model, data).raise_if_failed()


def test_onnx_names_an_output_that_has_the_name_of_an_input(tmp_path):
    inputs = keras.Input((6,), name="x")
    model = keras.Model({"x": inputs}, {"x": inputs, "y": L.Dense(3)(inputs)})
    with pytest.raises(ExportError, match=r"'x'.*other names"):
        export(model, tmp_path / "model.onnx", format="onnx")
