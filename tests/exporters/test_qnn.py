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
from tfcompress.exporters.qnn.units import in_integer_units

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
    assert not any("float32" in op.activations for op in artifact.operators)
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
    # One file, which an app has among its assets, and its one node is the program,
    # but for the borders between floats and integers.
    nodes = onnx.load(program.path / "model.onnx").graph.node
    assert [node.op_type for node in nodes] == [
        *("QuantizeLinear", "DequantizeLinear", "QuantizeLinear"),
        *("EPContext", "DequantizeLinear"),
    ]
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


@pytest.mark.npu
@pytest.mark.export
def test_16_bits(tmp_path):
    pytest.importorskip("onnxruntime_qnn")
    inputs = keras.Input((8, 8, 3), name="image")
    x = L.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    final = calibrated(keras.Model(inputs, L.Conv2D(2, 3, name="last")(x)), "w8a16")
    artifact = export(final, tmp_path / "npu", format="qnn")
    assert {op.activations for op in artifact.operators} == {("uint16",)}
    samples = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype("float32")
    got = load(artifact).run({"image": samples})
    # 256 of these steps are one of 8 bits.
    assert in_steps(got, final, {"image": samples}, steps_of(artifact)) <= 4


def branches(join, *activations):
    """Returns a model whose branches meet behind these activations."""
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3), name="image")
    tensors = []
    for place, activation in enumerate(activations):
        x = L.Conv2D(4, 3, padding="same", name=f"conv_{place}")(image)
        tensors.append(activation(x) if activation else x)
    return keras.Model(image, L.Conv2D(2, 3, name="last")(join(tensors)))


@pytest.mark.export
@pytest.mark.parametrize(
    ("join", "activations", "kinds"),
    [
        (L.Concatenate, (L.ReLU(), None), {"Relu", "Concat"}),
        (L.Maximum, (L.ReLU(), None), {"Relu", "Max"}),
        # No integer stands for a number above 6: nothing is to be cut off there.
        (L.Concatenate, (L.ReLU(6.0), None), {"Relu", "Concat"}),
        (L.Concatenate, (L.ReLU(), L.ReLU()), {"Concat"}),
    ],
)
def test_each_operator_has_integers_before_and_behind(join, activations, kinds):
    final = calibrated(branches(join(name="join"), *activations))
    plain = QNNExporter()._plain
    content = plain.content(plain.source(final, None, None))
    changed = in_integer_units(content, exact_sums=False)
    nodes = onnx.load_from_string(changed).graph.node
    made = {name: node.op_type for node in nodes for name in node.output}
    rest = [n for n in nodes if n.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    assert {n.op_type for n in rest} == {"Conv", "Transpose", *kinds}
    assert {made[n.input[0]] for n in rest} == {"DequantizeLinear"}
    read = [
        n.op_type
        for n in nodes
        for n_in in n.input
        if n_in in {r.output[0] for r in rest}
    ]
    assert set(read) == {"QuantizeLinear"}
    # It computes what it computed.
    samples = np.random.default_rng(1).normal(size=(1, 6, 6, 3)).astype("float32")
    before, after = (ran(one, samples) for one in (content, changed))
    np.testing.assert_array_equal(before, after)


def ran(content, samples):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": samples})[0]


def test_a_clip_becomes_choices_beside_constants():
    """QNN's own operator for two bounds is off by 128 steps behind a convolution."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    constants = {
        "step": np.float32(0.1),
        "zero": np.uint8(100),
        "low": np.float32(-1.03),
        "high": np.float32(6.0),
    }
    nodes = [
        helper.make_node("Neg", ["image"], ["z"]),
        helper.make_node("Clip", ["z", "low", "high"], ["clipped"]),
        helper.make_node("QuantizeLinear", ["clipped", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["y"]),
    ]
    tensors = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 99])
        for name in ("image", "y")
    ]
    initializers = [
        numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()
    ]
    graph = helper.make_graph(nodes, "g", tensors[:1], tensors[1:], initializers)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8
    )
    content = model.SerializeToString()
    changed = in_integer_units(content, exact_sums=False)
    kinds = [node.op_type for node in onnx.load_from_string(changed).graph.node]
    assert {"Max", "Min"} <= {*kinds}
    assert "Clip" not in kinds
    samples = np.linspace(-9, 9, 99, dtype="float32")[None]
    np.testing.assert_array_equal(ran(content, samples), ran(changed, samples))


@pytest.mark.npu
@pytest.mark.export
def test_branches_of_one_scale_and_sums_in_8_bits(tmp_path):
    pytest.importorskip("onnxruntime_qnn")
    final = calibrated(branches(L.Concatenate(name="join"), L.ReLU(6.0), None))
    samples = np.random.default_rng(1).normal(size=(20, 6, 6, 3)).astype("float32")
    wrong = {}
    for exact in (True, False):
        path = tmp_path / f"npu_{exact}"
        artifact = export(final, path, format="qnn", exact_sums=exact)
        (output,) = artifact.outputs
        got = load(artifact).run({"image": samples})[output.name]
        off = np.abs(got - np.asarray(final(samples))) / output.step
        assert off.max() <= 2.001
        wrong[exact] = np.mean(off > 0.5)
    assert wrong[True] < 0.03 < wrong[False]


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
