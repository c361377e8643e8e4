"""The file computes what the graph computed, on real images."""

import keras
import numpy as np
import pytest

import tfcompress
from tfcompress.exporters import load

NAMES = ["residual", "depthwise", "branches", "nested", "perceptron"]

pytestmark = pytest.mark.export


def output_steps(artifact, model, images):
    """Returns how many quantization steps each output of the file is off."""
    got, expected = load(artifact.path)(images), model.predict(images, verbose=0)
    return np.abs(got - expected) / artifact.outputs[0].step


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", NAMES)
def test_file_equals_finalized_model(shipped, digits, name):
    model = shipped(name)
    result = tfcompress.verify(
        model.phone, model.final, digits[0], min_integer_coverage=1.0
    )
    assert result.integer_coverage == 1.0
    assert result.agreement >= 0.999
    steps = output_steps(model.phone, model.final, digits[0])
    if name == "depthwise":
        # It ends in a softmax, where one step of a logit is several of a probability:
        # a sum that fell half-way between two integers shows, but hardly ever.
        assert np.mean(steps > 1.001) < 0.001
    else:
        assert result.max_error_steps <= 1.0 + 1e-3


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", NAMES)
def test_file_equals_trained_model(shipped, digits, name):
    # In training biases are not rounded to the accumulator's grid yet, so single
    # values fall one step further than against the finalized model; the narrow
    # sigmoid and tanh of `branches` make several steps of one.
    images = digits[0]
    model = shipped(name)
    steps = output_steps(model.phone, model.trained, images)
    assert tfcompress.verify(model.phone, model.trained, images).agreement >= 0.995
    assert np.mean(steps) < (0.1 if name != "branches" else 1.0)
    assert np.max(steps) < (3.5 if name != "branches" else 6.0)


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", NAMES)
def test_saved_model_equals_finalized_model(shipped, digits, name):
    model = shipped(name)
    result = tfcompress.verify(model.server, model.final, digits[0])
    assert result.max_abs_error <= 1e-5


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", NAMES)
def test_it_learns_and_keeps_what_it_learned(shipped, digits, name):
    images, labels = digits
    model = shipped(name)
    logits = load(model.phone.path)(images)
    assert np.mean(np.argmax(logits, -1) == labels) > 0.6


def test_first_convolution_is_int8(shipped):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(shipped("residual").phone.path))
    interpreter.allocate_tensors()
    first = next(o for o in interpreter._get_ops_details() if "CONV" in o["op_name"])
    types = {t["index"]: t["dtype"] for t in interpreter.get_tensor_details()}
    assert types[first["inputs"][0]] is np.int8
    assert types[first["inputs"][1]] is np.int8
    assert types[first["outputs"][0]] is np.int8


def test_kernels_have_one_scale_per_channel(shipped):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(shipped("residual").phone.path))
    scales = [
        len(t["quantization_parameters"]["scales"])
        for t in interpreter.get_tensor_details()
        if t["dtype"] is np.int8 and len(t["shape"]) in (2, 4)
    ]
    assert 8 in scales  # convolutions
    assert 10 in scales  # the dense layer


def test_pruned_weights_stay_zero_in_the_file(digits, tmp_path):
    model = tfcompress.quantize_aware(_dense())
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    prune = tfcompress.PruneWeights(
        tfcompress.PolynomialSparsity(0.0, 0.75, frequency=5)
    )
    model.fit(*digits, batch_size=128, epochs=2, verbose=0, callbacks=[prune])
    final = tfcompress.finalize(model)
    phone = tfcompress.export(final, tmp_path / "sparse.tflite")
    table = tfcompress.report(final, phone)
    assert table.rows[0].sparsity == pytest.approx(0.75, abs=0.01)
    assert table.rows[1].sparsity >= 0.745


def _dense():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
