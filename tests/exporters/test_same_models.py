"""The same models through every target, each run in its own runtime.

One module, so that models are built and converted once.
"""

import os

import keras
import numpy as np
import pytest

import tfcompress
from tests.exporters import same_models
from tests.exporters.arm import run_on_arm, with_every_tensor
from tests.exporters.c_api import run_in_c_api
from tfcompress.exporters import KerasRunner, export, load

pytestmark = pytest.mark.export


def with_the_rest_slow(*fast):
    """Returns all names; those that are not named here run with `-m slow` only."""
    return [
        name if name in fast else pytest.param(name, marks=pytest.mark.slow)
        for name in same_models.NAMES
    ]


INTEGER = with_the_rest_slow("residual", "two_inputs")


@pytest.fixture(scope="module")
def phones(models, tmp_path_factory):
    """The .tflite file of each quantized model."""
    folder, made = tmp_path_factory.mktemp("phones"), {}

    def get(name):
        if name not in made:
            made[name] = export(models(name).quantized, folder / f"{name}.tflite")
        return made[name]

    return get


def largest_error(got, model, samples):
    expected = KerasRunner(model).run(samples)
    assert list(got) == list(expected)
    return max(np.abs(got[name] - expected[name]).max() for name in expected)


def in_steps(got, model, samples, steps):
    """Returns the largest difference, each output in its own quantization steps."""
    expected = KerasRunner(model).run(samples)
    assert list(got) == list(expected)
    return max(
        np.abs(got[name] - expected[name]).max() / step for name, step in steps.items()
    )


def steps_of(artifact):
    steps = {output.name: output.step for output in artifact.outputs}
    assert all(steps.values())
    return steps


@pytest.mark.parametrize("kind", ["plain", "quantized"])
@pytest.mark.parametrize("name", with_the_rest_slow("residual"))
def test_saved_model_in_the_c_api(models, name, kind, tmp_path):
    model = models(name)
    artifact = export(getattr(model, kind), tmp_path / "1", format="saved_model")
    got = run_in_c_api(artifact, model.samples)
    assert largest_error(got, getattr(model, kind), model.samples) <= 1e-5


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", same_models.NAMES)
def test_onnx_float(models, name, tmp_path):
    pytest.importorskip("onnxruntime")
    model = models(name)
    artifact = export(model.plain, tmp_path / "model.onnx", format="onnx")
    assert [i.name for i in artifact.inputs] == list(model.samples)
    assert artifact.inputs[0].shape[0] is None
    got = load(artifact, threads=1).run(model.samples)
    assert largest_error(got, model.plain, model.samples) <= 1e-5


@pytest.mark.parametrize("name", INTEGER)
def test_onnx_integers(models, name, tmp_path):
    pytest.importorskip("onnxruntime")
    model = models(name)
    artifact = export(model.quantized, tmp_path / "model.onnx", format="onnx")
    operators = {op.name for op in artifact.operators}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    kernels = [op for op in artifact.operators if op.name in ("Conv", "MatMul")]
    # Kernels come from 8-bit integers; none is a float constant.
    assert all("float32" not in op.weights or op.name == "Conv" for op in kernels)
    got = load(artifact, threads=1).run(model.samples)
    assert in_steps(got, model.quantized, model.samples, steps_of(artifact)) <= 1.001


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", with_the_rest_slow("residual", "recurrent"))
def test_openvino_float(models, name, tmp_path):
    pytest.importorskip("openvino")
    model = models(name)
    artifact = export(model.plain, tmp_path / "model", format="openvino")
    assert [i.name for i in artifact.inputs] == list(model.samples)
    got = load(artifact, threads=1).run(model.samples)
    assert largest_error(got, model.plain, model.samples) <= 1e-4


@pytest.mark.parametrize("name", INTEGER)
def test_openvino_integers(models, phones, name, tmp_path):
    pytest.importorskip("openvino")
    model = models(name)
    # With a free batch OpenVINO computes some products of matrices in float.
    artifact = export(
        model.quantized, tmp_path / "model", format="openvino", batch_size=1
    )
    assert "int8" in next(
        op.weights for op in artifact.operators if op.name == "Constant"
    )
    runner = load(artifact, threads=1)
    got = runner.run(model.samples)
    assert (
        in_steps(got, model.quantized, model.samples, steps_of(phones(name))) <= 1.001
    )
    assert integer_layers(runner.compiled) >= 2


def integer_layers(compiled):
    """Counts the layers with kernels that OpenVINO computes in 8 bits."""
    count = 0
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        kind = info["layerType"].astype(str)
        if kind in ("Convolution", "FullyConnected", "MatMul"):
            count += info["runtimePrecision"].astype(str) in ("u8", "i8")
    return count


def test_subclassed_and_sequential_models_keep_their_names(tmp_path):
    pytest.importorskip("onnxruntime")

    class Doubled(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return 2 * self.dense(x)

    model = Doubled()
    x = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    model(x)
    artifact = export(
        model,
        tmp_path / "model.onnx",
        format="onnx",
        input_signature=[keras.InputSpec(shape=(None, 5), dtype="float32")],
    )
    assert [i.name for i in artifact.inputs] == ["input_1"]
    assert [o.name for o in artifact.outputs] == ["output"]
    assert tfcompress.verify(artifact, model, x).passed


def _in_micro(case):
    """An LSTM is 3 steps off where sums are rounded twice: docs/quantization.md."""
    if "recurrent" not in getattr(case, "values", ()):
        return case
    twice = pytest.mark.xfail(strict=True, reason="tflite-micro rounds twice")
    return pytest.param("recurrent", marks=[pytest.mark.slow, twice])


@pytest.mark.parametrize("name", [*map(_in_micro, INTEGER)])
def test_micro(models, name, tmp_path):
    pytest.importorskip("tflite_micro")
    model = models(name)
    artifact = export(model.quantized, tmp_path / "micro", format="micro")
    got = load(artifact).run(model.samples)
    assert in_steps(got, model.quantized, model.samples, steps_of(artifact)) <= 1.001


@pytest.mark.parametrize("name", INTEGER)
def test_ethos_u(models, name, tmp_path):
    """All of them run on the NPU alone, and the file it was made of is the model."""
    pytest.importorskip("ethosu")
    model = models(name)
    for npu in ("u55-128", "u85-256"):
        path = tmp_path / npu
        artifact = export(model.quantized, path, format="ethos_u", npu=npu)
        assert (artifact.npu.share, artifact.npu.left) == (1.0, ())
        assert sum(one.cycles for one in artifact.npu.layers) == artifact.npu.cycles
    got = load(artifact).run(model.samples)
    assert in_steps(got, model.quantized, model.samples, steps_of(artifact)) <= 1.001


@pytest.mark.browser
@pytest.mark.parametrize("kind", ["plain", "quantized"])
@pytest.mark.parametrize("name", same_models.NAMES)
def test_web(models, phones, name, kind, tmp_path):
    litertjs = os.environ.get("LITERTJS")
    if not litertjs:
        pytest.skip("needs a Chromium, and LITERTJS=.../node_modules/@litertjs")
    model = models(name)
    source = getattr(model, kind)
    artifact = export(source, tmp_path / "web", format="web", litertjs=litertjs)
    got = load(artifact).run(model.samples)
    if kind == "plain":
        assert largest_error(got, source, model.samples) <= 1e-5
        return
    for output, expected in load(phones(name)).run(model.samples).items():
        np.testing.assert_array_equal(got[output], expected)


@pytest.mark.arm
def test_integers_on_arm(models, phones, tmp_path):
    files = [phones(name).path for name in same_models.NAMES]
    samples = [models(name).samples for name in same_models.NAMES]
    results = run_on_arm(files, samples, tmp_path)
    for name, inputs, found in zip(same_models.NAMES, samples, results):
        steps = steps_of(phones(name))
        for output, expected in load(phones(name)).run(inputs).items():
            if name != "attention":
                np.testing.assert_array_equal(found[output], expected)
            error = np.abs(found[output] - expected)
            assert error.max() <= 1.001 * steps[output]
            assert np.mean(error > 0) < 0.05


@pytest.mark.arm
def test_softmax_is_the_one_operator_that_arm_computes_otherwise(
    models, phones, tmp_path
):
    """LiteRT's kernel for ARM64 keeps 16 bits of the exponentials."""
    path = tmp_path / "every.tflite"
    path.write_bytes(with_every_tensor(phones("attention").path.read_bytes()))
    inputs = models("attention").samples
    (found,) = run_on_arm([path], [inputs], tmp_path)
    expected = load(path).run(inputs, raw=True)
    share = {
        name: np.mean(found[name].ravel() != value.ravel())
        for name, value in expected.items()
    }
    first = min(name for name, value in share.items() if value > 0)
    assert first.endswith("SOFTMAX")
    assert share[first] < 0.005
    difference = found[first].astype(int).ravel() - expected[first].ravel()
    assert np.abs(difference).max() == 1


@pytest.mark.parametrize("kind", ["plain", "quantized"])
@pytest.mark.parametrize("name", INTEGER)
def test_both_interfaces_of_litert_are_equal(models, phones, name, kind, tmp_path):
    from ai_edge_litert.compiled_model import CompiledModel

    model = models(name)
    if kind == "quantized":
        artifact = phones(name)
        expected = load(artifact).run(model.samples)
        steps = steps_of(artifact)
        assert in_steps(expected, model.quantized, model.samples, steps) <= 1.001
    else:
        artifact = export(model.plain, tmp_path / "model.tflite")
        expected = load(artifact).run(model.samples)
        assert largest_error(expected, model.plain, model.samples) <= 1e-5
    compiled = CompiledModel.from_file(str(artifact.path))
    inputs = compiled.create_input_buffers(0)
    outputs = compiled.create_output_buffers(0)
    for sample in range(4):
        for info, buffer in zip(artifact.inputs, inputs):
            buffer.write(model.samples[info.name][sample : sample + 1])
        compiled.run_by_index(0, inputs, outputs)
        for info, buffer in zip(artifact.outputs, outputs):
            wanted = expected[info.name][sample]
            np.testing.assert_array_equal(buffer.read(wanted.size, np.float32), wanted)
