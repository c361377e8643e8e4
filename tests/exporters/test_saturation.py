"""Integers in ONNX Runtime and OpenVINO on any processor.

x86 without VNNI multiplies uint8 by int8 by an instruction that adds two products in 16
bits and cuts what does not fit. Kernels of nothing but their largest value show it.
"""

import keras
import numpy as np
import pytest

import tfcompress
from tfcompress.exporters import KerasRunner, export, load

L = keras.layers
pytestmark = pytest.mark.export


def image_model():
    image = keras.Input((7, 5, 6), name="image")
    outputs = {
        "conv": L.Conv2D(4, 3, padding="same", use_bias=False)(image),
        "dilated": L.Conv2D(3, 2, dilation_rate=2)(image),
        "grouped": L.Conv2D(6, 3, groups=2, use_bias=False)(image),
        "groups of one": L.Conv2D(12, 3, groups=6)(image),
        "depthwise": L.DepthwiseConv2D(3, use_bias=False)(image),
        "pointwise": L.Conv2D(5, 1, activation="relu")(image),
        "transposed": L.Conv2DTranspose(2, 3, strides=2, use_bias=False)(image),
        "dense": L.Dense(3)(L.Flatten()(image)),
    }
    return keras.Model(image, outputs)


@pytest.fixture(scope="module")
def extreme():
    """A model of kernels of one value, its integers, and inputs at both ends."""
    keras.utils.set_random_seed(0)
    model = image_model()
    for layer in model.layers:
        if layer.weights:
            kernel, *bias = layer.get_weights()
            sign = np.where(np.arange(kernel.size) % 7 == 0, -1.0, 1.0)
            layer.set_weights([0.1 * sign.reshape(kernel.shape), *bias])
    rng = np.random.default_rng(0)
    samples = rng.uniform(0, 1, (6, *model.input_shape[1:])).astype("float32")
    samples[0], samples[1] = 1.0, 0.0
    return tfcompress.finalize(tfcompress.calibrate(model, samples)), samples


def steps_off(artifact, model, samples):
    got = load(artifact, threads=1).run({model.inputs[0].name: samples})
    expected = KerasRunner(model).run({model.inputs[0].name: samples})
    return {
        output.name: np.abs(got[output.name] - expected[output.name]).max()
        / output.step
        for output in artifact.outputs
    }


@pytest.mark.parametrize("opset", [13, 18])
def test_onnx_sums_are_not_cut(extreme, tmp_path, opset):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model, samples = extreme
    artifact = export(model, tmp_path / "model.onnx", format="onnx", opset=opset)
    assert max(steps_off(artifact, model, samples).values()) <= 1.001
    # What proves it on a processor that would not show it: no signed kernel.
    graph = onnx.load(artifact.path).graph
    constants = {i.name: i.data_type for i in graph.initializer}
    stored = [constants.get(n.input[0]) for n in graph.node if "Dequant" in n.op_type]
    assert onnx.TensorProto.INT8 not in stored
    assert onnx.TensorProto.UINT8 in stored


@pytest.mark.parametrize("batch_size", [1, None])
def test_openvino_sums_are_not_cut(extreme, tmp_path, batch_size):
    pytest.importorskip("openvino")
    model, samples = extreme
    artifact = export(
        model, tmp_path / "model", format="openvino", batch_size=batch_size
    )
    assert max(steps_off(artifact, model, samples).values()) <= 1.001
    # The artifact has the steps that `verify` measures in.
    assert tfcompress.verify(artifact, model, samples).passed


def test_openvino_kernels_are_split_and_stored_once(extreme, tmp_path):
    """Each part is within 64: two products of it and 255 fit in 16 bits."""
    openvino = pytest.importorskip("openvino")
    model, _ = extreme
    artifact = export(model, tmp_path / "model", format="openvino", batch_size=1)
    graph = openvino.Core().read_model(str(artifact.path / "model.xml"))
    kinds = [node.get_type_name() for node in graph.get_ops()]
    # Of few values, most kernels here are small integers; the pointwise one is not.
    assert kinds.count("Clamp") >= 1
    parameters = sum(
        np.prod(layer.weights[0].shape) for layer in model.layers if layer.weights
    )
    assert (artifact.path / "model.bin").stat().st_size < 2.5 * parameters + 1000
