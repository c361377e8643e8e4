"""ExecuTorch: the numbers of its own runtime, what is refused, and what is missing."""

import importlib.util
import os
import sys

import keras
import onnx
import pytest

import tfcompress
from tests.exporters.test_same_models import in_steps, largest_error, steps_of
from tfcompress.core.errors import ArtifactError, ExportError, InvalidArgumentError
from tfcompress.exporters.executorch.exporter import PYTHON, TORCH, ExecuTorchExporter
from tfcompress.exporters.executorch.graph import Operators

L = keras.layers


@pytest.fixture
def torch():
    """Skips where no Python with PyTorch and ExecuTorch is known."""
    if not os.environ.get(PYTHON):
        pytest.importorskip("executorch")
        pytest.importorskip("torch")


@pytest.mark.torch
@pytest.mark.export
@pytest.mark.parametrize("name", ["residual", "depthwise", "two_inputs", "attention"])
def test_it_computes_what_the_model_does(torch, models, name, tmp_path):
    model = models(name)
    plain = tfcompress.export(model.plain, tmp_path / "f.pte", format="executorch")
    got = tfcompress.load(plain).run(model.samples)
    assert largest_error(got, model.plain, model.samples) <= 1e-5
    made = tfcompress.export(model.quantized, tmp_path / "q.pte", format="executorch")
    got = tfcompress.load(made).run(model.samples)
    assert in_steps(got, model.quantized, model.samples, steps_of(made)) <= 0.001
    assert tfcompress.verify(made, model.quantized, model.samples).passed
    assert tfcompress.Artifact.read(made.path) == made
    if name == "residual":  # XNNPACK has all of it, in integers
        names = {operator.name for operator in made.operators}
        assert {n for n in names if not n.startswith("xnnpack.")} == set()
        assert "xnnpack.aten.convolution" in names


@pytest.mark.torch
@pytest.mark.export
def test_several_samples_in_a_call(torch, models, tmp_path):
    model = models("residual")
    made = tfcompress.export(
        model.plain, tmp_path / "m.pte", format="executorch", batch_size=4
    )
    assert made.inputs[0].shape == (4, 8, 8, 3)
    got = tfcompress.load(made).run(model.samples)
    assert largest_error(got, model.plain, model.samples) <= 1e-5


@pytest.mark.torch
@pytest.mark.export
def test_an_operator_that_is_not_written_is_named(torch, tmp_path):
    inputs = keras.Input((4, 4), name="x")
    model = keras.Model(inputs, L.Lambda(keras.ops.arctan, name="angle")(inputs))
    with pytest.raises(ExportError, match="Atan of layer 'angle'"):
        tfcompress.export(model, tmp_path / "m.pte", format="executorch")
    assert not list(tmp_path.iterdir())


@pytest.mark.torch
@pytest.mark.export
def test_recurrent_layers_are_computed_in_integers_only(torch, models, tmp_path):
    model = models("recurrent")
    made = tfcompress.export(model.quantized, tmp_path / "q.pte", format="executorch")
    got = tfcompress.load(made).run(model.samples)
    assert in_steps(got, model.quantized, model.samples, steps_of(made)) <= 0.001
    with pytest.raises(ExportError, match="Loop of layer 'lstm'"):
        tfcompress.export(model.plain, tmp_path / "f.pte", format="executorch")


@pytest.mark.export
@pytest.mark.parametrize("name", ["residual", "depthwise", "two_inputs"])
def test_all_that_is_rounded_stands_between_roundings(models, name):
    exporter = ExecuTorchExporter()
    content = exporter._plain.content(
        exporter.source(models(name).quantized, None, None)
    )
    graph = Operators.read(content)
    makers = {made: node for node in graph.nodes for made in node.outputs}
    for node in graph.nodes:
        if node.type not in ("Conv", "Gemm", "Add", "Transpose", "Reshape", "Concat"):
            continue
        assert {makers[n].type for n in node.inputs if n in makers} == {
            "DequantizeLinear"
        }
        (after,) = [one for one in graph.nodes if node.outputs[0] in one.inputs]
        assert after.type in ("QuantizeLinear", "Relu", "Sigmoid")
    # As many transpositions as pictures come in, and where they become vectors.
    kinds = [node.type for node in graph.nodes]
    assert kinds.count("Transpose") <= 2
    assert "Clip" not in kinds
    scales = {
        float(onnx.numpy_helper.to_array(one))
        for one in onnx.load_from_string(content).graph.initializer
        if not one.dims and one.data_type == onnx.TensorProto.FLOAT
    }
    found = {n.attributes["scale"] for n in graph.nodes if n.type == "QuantizeLinear"}
    assert found <= scales


def test_what_is_missing_is_told(models, tmp_path, monkeypatch):
    model = models("residual").plain
    monkeypatch.setenv(PYTHON, str(tmp_path / "nowhere"))
    with pytest.raises(ExportError, match=f"{PYTHON} names no Python"):
        tfcompress.export(model, tmp_path / "m.pte", format="executorch")
    monkeypatch.delenv(PYTHON)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError, match="torch and executorch are needed") as error:
        tfcompress.export(model, tmp_path / "m.pte", format="executorch")
    assert "pip install 'tfcompress[executorch]'" in str(error.value)
    assert "PyTorch for the CPU" in str(error.value)


def test_a_python_without_pytorch(models, tmp_path, monkeypatch):
    pytest.importorskip("tf2onnx")
    monkeypatch.setenv(PYTHON, sys.executable)
    TORCH.close()
    if importlib.util.find_spec("torch") is not None:
        pytest.skip("this Python has PyTorch")
    with pytest.raises(ExportError, match="lacks a package") as error:
        tfcompress.export(
            models("two_inputs").plain, tmp_path / "m.pte", format="executorch"
        )
    assert "No module named 'torch'" in str(error.value)
    assert not list(tmp_path.iterdir())
    TORCH.close()


@pytest.mark.parametrize("content", [b"", b"not a program", b"tfcompress.pte.1"])
def test_damaged_files(content, tmp_path):
    (tmp_path / "m.pte").write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged, or not one of"):
        tfcompress.Artifact.read(tmp_path / "m.pte")


@pytest.mark.parametrize("size", [0, None, True])
def test_bad_options(models, size, tmp_path):
    with pytest.raises(InvalidArgumentError, match="Bad `batch_size`"):
        tfcompress.export(
            models("residual").plain,
            tmp_path / "m.pte",
            format="executorch",
            batch_size=size,
        )
    assert not list(tmp_path.iterdir())
