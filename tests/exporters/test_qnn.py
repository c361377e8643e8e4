"""A program for Qualcomm's NPU: who takes what, its numbers, and what is refused."""

import json
import shutil
import warnings

import keras
import numpy as np
import onnx
import pytest

import tfcompress
from tests.exporters.test_same_models import in_steps, steps_of
from tfcompress.core.errors import ArtifactError, ExportError, InvalidArgumentError
from tfcompress.exporters import export, load
from tfcompress.exporters.qnn.chips import CHIPS, chip_of
from tfcompress.exporters.qnn.exporter import QNNExporter

L = keras.layers


@keras.saving.register_keras_serializable("tests")
def hyperbolic(x):
    return keras.ops.cosh(x)


@pytest.fixture(scope="module")
def program(models, tmp_path_factory):
    """The program of a net whose depthwise convolution tf2onnx gives a name to."""
    pytest.importorskip("onnxruntime_qnn")
    folder = tmp_path_factory.mktemp("qnn") / "depthwise_qnn"
    return export(models("depthwise").quantized, folder, format="qnn")


def calibrated(model, scheme="w8a8"):
    rng = np.random.default_rng(0)
    data = [rng.normal(size=(16, *i.shape[1:])).astype("float32") for i in model.inputs]
    return tfcompress.finalize(tfcompress.calibrate(model, data, scheme))


@pytest.mark.npu
@pytest.mark.export
@pytest.mark.parametrize(
    ("name", "most"),
    # Each layer is off by a step at most, on one value of fifty: docs/shipping.md.
    [("residual", 1), ("depthwise", 1), ("two_inputs", 1), ("attention", 2)]
    + [("recurrent", 4)],
)
def test_the_npu_takes_all_and_computes_it_in_integers(models, name, most, tmp_path):
    pytest.importorskip("onnxruntime_qnn")
    model = models(name)
    artifact = export(model.quantized, tmp_path / "npu", format="qnn")
    assert artifact.integer_coverage == 1.0
    kinds = {op.name for op in artifact.operators if "float32" in op.activations}
    assert kinds == {"Quantize", "Dequantize"}
    kernels = [op for op in artifact.operators if op.name in ("Conv2d", "MatMul")]
    assert all("float32" not in op.weights for op in kernels)
    got = load(artifact).run(model.samples)
    steps = steps_of(artifact)
    assert in_steps(got, model.quantized, model.samples, steps) <= most + 0.001


@pytest.mark.npu
@pytest.mark.export
def test_what_it_consists_of(program):
    said = json.loads((program.path / "npu.json").read_text())
    assert (said["soc"], said["htp_architecture"], said["soc_model"]) == (
        "sm8750",
        79,
        69,
    )
    named = {(op["type"], op["layer"]) for op in said["operators"]}
    assert ("Conv2d", "layer 'stem'") in named
    assert ("Conv2d", "layer 'point'") in named
    assert ("FullyConnected", "layer 'logits'") in named
    # One file, which an app has among its assets, and its one node is the program.
    (node,) = onnx.load(program.path / "model.onnx").graph.node
    assert node.op_type == "EPContext"
    settings = (program.path / "model.onnx").read_bytes()
    assert b"soc_type=SM8750;arch=79;" in settings


@pytest.mark.npu
@pytest.mark.export
def test_it_is_read_verified_and_not_timed(program, models):
    model = models("depthwise")
    assert tfcompress.Artifact.read(program.path) == program
    assert tfcompress.verify(program, model.quantized, model.samples).passed
    with pytest.raises(InvalidArgumentError, match="simulator of the NPU of a phone"):
        tfcompress.benchmark(program, model.samples)


@pytest.mark.npu
@pytest.mark.export
@pytest.mark.sweep(2)
@pytest.mark.parametrize("soc", [n for n in CHIPS if n != "sm8750"])
def test_the_compiler_knows_the_chips_by_these_numbers(program, models, soc, tmp_path):
    chip = chip_of(soc)
    options = {"soc": soc.upper(), "check": "off"}
    made = export(models("depthwise").quantized, tmp_path / "n", "qnn", **options)
    settings = (made.path / "model.onnx").read_bytes()
    assert f"min_arch={chip.architecture};".encode() in settings
    if chip.number:
        # One chip, sold under two names.
        name = {"qcm6490": "QCS6490"}.get(soc, soc.upper())
        assert f"soc_type={name};".encode() in settings


@pytest.mark.npu
@pytest.mark.export
@pytest.mark.parametrize(
    ("activation", "message"),
    [
        (
            hyperbolic,
            "does not take 1 .*Cosh of layer 'mine_cosh'.*not supported by QNN",
        ),
        ("selu", "computed in float.*of layer 'mine"),
    ],
)
def test_what_it_refuses_is_named_by_its_layer(activation, message, tmp_path):
    pytest.importorskip("onnxruntime_qnn")
    image = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(4, 3, name="conv")(image)
    x = L.Activation(activation, name="mine")(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tfcompress.CompressionWarning)
        final = calibrated(keras.Model(image, x))
    with pytest.raises(ExportError, match=message):
        export(final, tmp_path / "npu", format="qnn")
    assert not list(tmp_path.iterdir())


def final_dense(name="x"):
    inputs = keras.Input((4,), name=name)
    return calibrated(keras.Model(inputs, L.Dense(3, name="scores")(inputs)))


@pytest.mark.npu
@pytest.mark.export
def test_a_compiler_that_dies_leaves_nothing(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime_qnn")
    script = tmp_path / "worker.py"
    script.write_text(
        "import os, signal\n"
        "def die(job):\n    os.kill(os.getpid(), signal.SIGSEGV)\n"
        "JOBS = {'compile': die}\n"
    )
    monkeypatch.setattr("tfcompress.exporters.qnn.exporter._SCRIPT", str(script))
    with pytest.raises(ExportError, match=r"compiler failed for sm8750.*SIGSEGV"):
        export(final_dense(), tmp_path / "npu", format="qnn")
    assert [p.name for p in tmp_path.iterdir()] == ["worker.py"]


@pytest.mark.npu
@pytest.mark.export
def test_a_float_model_and_a_free_size_are_refused(models, tmp_path):
    pytest.importorskip("onnxruntime_qnn")
    with pytest.raises(ExportError, match=r"integers only.*tfcompress\.calibrate"):
        export(models("residual").plain, tmp_path / "npu", format="qnn")
    steps = keras.Input((None, 4), name="steps")
    x = L.Conv1D(3, 3, name="conv")(steps)
    model = keras.Model(steps, x)
    data = np.random.default_rng(0).normal(size=(16, 6, 4)).astype("float32")
    final = tfcompress.finalize(tfcompress.calibrate(model, data))
    with pytest.raises(ExportError, match=r"no free sizes.*'steps'"):
        export(final, tmp_path / "npu", format="qnn")
    assert not list(tmp_path.iterdir())


@pytest.mark.npu
@pytest.mark.export
@pytest.mark.parametrize("name", ["model.onnx", "npu.json"])
def test_a_damaged_program_is_an_error(program, name, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(program.path, copy)
    (copy / "manifest.json").unlink()
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match=r"damaged|does not run"):
        load(copy)


@pytest.mark.npu
@pytest.mark.export
def test_doctor_knows_it(models):
    pytest.importorskip("onnxruntime_qnn")
    plain = models("residual").plain
    assert tfcompress.doctor(plain, "qnn", "w8a8").deployable
    (finding,) = tfcompress.doctor(plain, "qnn").findings
    assert "takes integers only" in finding.problem


@pytest.mark.parametrize(
    ("soc", "near"),
    [("sm8760", "'sm8750'"), ("v78", "'v79'"), (None, "None"), (True, "")],
)
def test_an_unknown_chip(soc, near, tmp_path):
    with pytest.raises(InvalidArgumentError, match=f"Unknown `soc`.*{near}"):
        export(final_dense(), tmp_path / "npu", format="qnn", soc=soc)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": None}, "no free number of samples"),
        ({"calibration_data": np.zeros((1, 4))}, "does not quantize by calibration"),
        ({"filepath": "model.onnx"}, "is a directory"),
    ],
)
def test_bad_arguments(options, message, tmp_path):
    path = tmp_path / options.pop("filepath", "npu")
    with pytest.raises(InvalidArgumentError, match=message):
        export(final_dense(), path, "qnn", **options)
    assert not list(tmp_path.iterdir())


def test_a_missing_package(tmp_path, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    hidden = {"onnxruntime_qnn": None}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: hidden.get(name, name and found(name))
    )
    with pytest.raises(ExportError, match=r"pip install 'tfcompress\[qnn\]'"):
        export(final_dense(), tmp_path / "npu", format="qnn")


def test_16_bits_are_refused_by_name():
    assert QNNExporter().limits.activations == (8,)


@pytest.mark.npu
@pytest.mark.export
def test_gelu_is_one_operator(tmp_path):
    pytest.importorskip("onnxruntime_qnn")
    inputs = keras.Input((8,), name="x")
    x = L.Dense(6, activation="gelu", name="hidden")(inputs)
    final = calibrated(keras.Model(inputs, x))
    artifact = export(final, tmp_path / "npu", format="qnn")
    assert sum(op.count for op in artifact.operators if op.name == "Gelu") == 1
    samples = np.random.default_rng(1).normal(size=(20, 8)).astype("float32")
    got = load(artifact).run({"x": samples})
    # The product before it is off by one, and it is steeper than 1 in places.
    steps = steps_of(artifact)
    assert in_steps(got, final, {"x": samples}, steps) <= 2.001
