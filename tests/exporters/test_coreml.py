"""The coreml format: what stays of training in a package, and what is refused.

Core ML itself is on Apple's systems only. Here weights are read back from the package
by coremltools, and the program is evaluated.
"""

import json
import shutil
import sys

import keras
import numpy as np
import pytest
from keras import layers

import tfcompress
from tfcompress import Artifact, calibrate, doctor, export, finalize, load
from tfcompress.core.errors import (
    ArtifactError,
    CompressionWarning,
    ExportError,
    InvalidArgumentError,
)
from tfcompress.exporters import write_callers
from tfcompress.exporters.coreml.exporter import decompressed

pytest.importorskip("coremltools")
pytestmark = pytest.mark.export

RNG = np.random.default_rng(0)


def convolutional():
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((12, 12, 3), name="image"),
            layers.Conv2D(16, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(name="relu"),
            layers.DepthwiseConv2D(3, padding="same", name="depthwise"),
            layers.MaxPooling2D(2, padding="same", name="pool"),
            layers.Conv2D(32, 3, strides=2, padding="same", name="strided"),
            layers.AveragePooling2D(2, padding="same", name="average"),
            layers.Flatten(name="flat"),
            layers.Dense(10, name="logits"),
        ],
        name="small",
    )


def dense(kernel, name="scores"):
    inputs = keras.Input((kernel.shape[0],), name="x")
    layer = layers.Dense(kernel.shape[1], name=name)
    model = keras.Model(inputs, layer(inputs))
    layer.kernel.assign(kernel)
    return model


@pytest.fixture(scope="module")
def samples():
    return np.random.default_rng(0).normal(size=(32, 12, 12, 3)).astype("float32")


@pytest.fixture(scope="module")
def integers(samples):
    return finalize(calibrate(convolutional(), samples))


@pytest.fixture(scope="module")
def package(integers, tmp_path_factory):
    path = tmp_path_factory.mktemp("coreml") / "small.mlpackage"
    return export(integers, path, format="coreml")


def operators(artifact):
    return {(one.name, *one.weights): one.count for one in artifact.operators}


def names(artifact):
    return {one.name for one in artifact.operators}


def noted(artifact):
    file = artifact.path / "Data" / "tfcompress" / "manifest.json"
    return json.loads(file.read_text())["compared"]


def holds(artifact, kernel):
    """Returns whether a package holds exactly these bits, as a matrix either way."""
    wanted = {k.tobytes() for k in (kernel, np.ascontiguousarray(kernel.T))}
    return any(w.tobytes() in wanted for w in decompressed(artifact).values())


def test_a_quantized_model_keeps_integers_and_ranges(package, integers):
    found = operators(package)
    assert found["constexpr_blockwise_shift_scale", "float32", "int8"] == 4
    ranges = sum(type(one).__name__ == "FakeQuantize" for one in integers.layers)
    assert 0 < ranges <= sum(n for k, n in found.items() if k[0] == "quantize")
    assert package.inputs[0].shape == (1, 12, 12, 3)
    assert package.outputs[0].name == "logits"
    assert package.outputs[0].step > 0
    # The program was evaluated, each output within a step of the finalized model.
    assert noted(package) == {"samples": 4, "bound": "1 step"}
    assert Artifact.read(package.path) == package
    assert (package.path / "Manifest.json").is_file()


def test_integers_are_those_of_the_finalized_model(package, integers):
    found = decompressed(package)
    kernels = [
        np.asarray(layer.kernel)
        for layer in integers.layers
        if getattr(layer, "kernel", None) is not None
    ]
    assert len(kernels) == 4
    stored = []
    for name in (one for one in found if "_data" in one):
        (scale,) = (s for s in found if s.startswith(name.split("_data")[0] + "_scale"))
        stored.append((found[name], found[scale]))
    for kernel in kernels:
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}[kernel.ndim]
        wanted = (
            [kernel.transpose(axes), kernel.transpose(2, 3, 0, 1)]
            if (kernel.ndim == 4)
            else [kernel.transpose(axes)]
        )
        assert any(
            codes.shape == one.shape and np.array_equal(codes, np.round(one / scale))
            for codes, scale in stored
            for one in wanted
        )
        # Scales are floats of 32 bits, so a product may differ in its last bit.
        assert any(
            one.shape == weight.shape and np.allclose(one, weight, rtol=1.2e-7, atol=0)
            for weight in found.values()
            for one in wanted
        )


@pytest.mark.parametrize(
    ("target", "kinds"),
    [
        ("iOS17", {"constexpr_lut_to_dense"}),
        ("iOS18", {"constexpr_lut_to_dense"}),
    ],
)
def test_shared_values_are_a_palette(target, kinds, tmp_path):
    values = RNG.normal(size=13).astype("float32")
    kernel = RNG.choice(values, (64, 96))
    model = dense(kernel)
    path = tmp_path / "palette.mlpackage"
    artifact = export(model, path, format="coreml", minimum_deployment_target=target)
    assert kinds <= names(artifact)
    assert holds(artifact, kernel)
    # Half a byte for each of 6,144 weights, and what a program takes.
    blob = artifact.path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    assert blob.stat().st_size < 64 * 96 / 2 + 1500
    assert noted(artifact)["samples"] == 4


@pytest.mark.parametrize("target", ["iOS17", "iOS18"])
def test_zeros_are_sparse_weights(target, tmp_path):
    kernel = RNG.normal(size=(64, 96)).astype("float32")
    kernel *= RNG.random(kernel.shape) < 0.25
    kernel[0, 0] = -0.0  # has bits of its own
    path = tmp_path / "sparse.mlpackage"
    artifact = export(
        dense(kernel), path, format="coreml", minimum_deployment_target=target
    )
    assert "constexpr_sparse_to_dense" in names(artifact)
    assert holds(artifact, kernel)


def test_zeros_and_shared_values_together(tmp_path):
    values = RNG.normal(size=15).astype("float32")
    kernel = RNG.choice(values, (64, 96)) * (RNG.random((64, 96)) < 0.1)
    kernel = np.where(kernel == 0, 0, kernel).astype("float32")
    artifact = export(dense(kernel), tmp_path / "m.mlpackage", format="coreml")
    assert {"constexpr_lut_to_sparse", "constexpr_sparse_to_dense"} <= names(artifact)
    assert holds(artifact, kernel)


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8"])
def test_zeros_and_integers_together(scheme, tmp_path):
    kernel = RNG.normal(size=(64, 96)).astype("float32")
    kernel *= RNG.random(kernel.shape) < 0.1
    x = RNG.normal(size=(32, 64)).astype("float32")
    final = finalize(calibrate(dense(kernel), x, scheme))
    artifact = export(final, tmp_path / "m.mlpackage", format="coreml")
    assert "constexpr_sparse_blockwise_shift_scale" in names(artifact)
    assert noted(artifact) == {"samples": 4, "bound": "1 step"}


def test_floats_of_16_bits(integers, tmp_path):
    path = tmp_path / "half.mlpackage"
    artifact = export(integers, path, format="coreml", float16=True, batch_size=2)
    assert operators(artifact)["constexpr_blockwise_shift_scale", "float16", "int8"]
    assert artifact.inputs[0].dtype == artifact.outputs[0].dtype == "float32"
    assert artifact.inputs[0].shape[0] == 2


def test_several_inputs_and_outputs(tmp_path):
    one, two = keras.Input((6,), name="one"), keras.Input((6,), name="two")
    both = layers.Concatenate(name="both")([one, two])
    outputs = {
        "z": layers.Dense(3, name="first")(both),
        "a": layers.Dense(2, "softmax", name="second")(both),
    }
    model = keras.Model([two, one], outputs)
    artifact = export(model, tmp_path / "m.mlpackage", format="coreml")
    assert {i.name for i in artifact.inputs} == {"one", "two"}
    assert {i.name: i.shape for i in artifact.outputs} == {"z": (1, 3), "a": (1, 2)}
    assert noted(artifact)["samples"] == 4


@pytest.mark.parametrize("quantized", [False, True])
def test_attention(quantized, tmp_path):
    inputs = keras.Input((8, 16), name="series")
    x = layers.LayerNormalization(name="norm")(inputs)
    x = layers.Add(name="sum")(
        [inputs, layers.MultiHeadAttention(2, 8, name="heads")(x, x)]
    )
    x = layers.Dense(32, "gelu", name="wide")(x)
    x = layers.GlobalAveragePooling1D(name="mean")(x)
    model = keras.Model(inputs, layers.Dense(3, name="scores")(x))
    if quantized:
        x = RNG.normal(size=(32, 8, 16)).astype("float32")
        model = finalize(calibrate(model, x))
    artifact = export(model, tmp_path / "m.mlpackage", format="coreml")
    assert noted(artifact)["samples"] == 4


def test_what_nobody_evaluates_here_is_told(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2), name="image"),
            layers.UpSampling2D(2, interpolation="bilinear", name="larger"),
        ]
    )
    with pytest.warns(CompressionWarning, match="not compared .* 'upsample_bilinear'"):
        artifact = export(model, tmp_path / "m.mlpackage", format="coreml")
    assert noted(artifact) == {"samples": 0, "bound": None}


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML is here")
def test_loading_says_where_it_runs(package, integers, samples):
    with pytest.raises(ArtifactError, match=r"macOS and iOS only.*was not run"):
        load(package)
    with pytest.raises(ArtifactError, match="was not run"):
        tfcompress.verify(package, integers, samples)


def test_an_operation_that_is_unknown_is_named_by_its_layer(tmp_path):
    class Angle(layers.Layer):
        def call(self, x):
            return keras.ops.linalg.det(x)

    inputs = keras.Input((3, 3), name="x")
    model = keras.Model(inputs, Angle(name="volume")(inputs))
    with pytest.raises(ExportError, match=r"MatrixDeterminant.*'volume'"):
        export(model, tmp_path / "m.mlpackage", format="coreml")
    assert list(tmp_path.iterdir()) == []


def test_loops_are_refused_with_what_to_do(tmp_path):
    inputs = keras.Input((6, 4), name="series")
    model = keras.Model(inputs, layers.GRU(8, name="gru")(inputs))
    with pytest.raises(ExportError, match=r"the loop of layer 'gru'.*unroll=True"):
        export(model, tmp_path / "m.mlpackage", format="coreml")
    assert list(tmp_path.iterdir()) == []
    assert "unroll=True" in str(doctor(model, "coreml", trial=False))


@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU])
def test_integers_of_recurrent_layers(kind, tmp_path):
    inputs = keras.Input((4, 3), name="series")
    model = keras.Model(inputs, kind(5, name="memory")(inputs))
    data = RNG.normal(size=(32, 4, 3)).astype("float32")
    package = export(
        finalize(calibrate(model, data)), tmp_path / "m.mlpackage", format="coreml"
    )
    # Each step has a copy of the two kernels; the package has them once.
    kinds = [one.name for one in package.operators for _ in range(one.count)]
    assert 1 <= kinds.count("constexpr_blockwise_shift_scale") <= 2


def test_free_sizes_are_refused(tmp_path):
    inputs = keras.Input((None, 3), name="series")
    model = keras.Model(inputs, layers.Dense(2, name="scores")(inputs))
    with pytest.raises(ExportError, match=r"'series'.*input_signature"):
        export(model, tmp_path / "m.mlpackage", format="coreml")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("m.mlmodel", {}, "ends in .mlpackage"),
        ("m.mlpackage", {"minimum_deployment_target": "iOS9"}, "iOS17"),
        ("m.mlpackage", {"batch_size": None}, "batch_size"),
        ("m.mlpackage", {"batch_size": 0}, "batch_size"),
        ("m.mlpackage", {"float16": "maybe"}, "float16"),
        ("m.mlpackage", {"calibration_data": [1]}, "calibration"),
    ],
)
def test_bad_options(name, options, message, tmp_path):
    with pytest.raises(InvalidArgumentError, match=message):
        export(dense(np.eye(2)), tmp_path / name, format="coreml", **options)
    assert list(tmp_path.iterdir()) == []


def test_existing_target_and_missing_package(package, integers, tmp_path, monkeypatch):
    with pytest.raises(ExportError, match="exists already"):
        export(integers, package.path, format="coreml")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"tfcompress\[coreml\]"):
        export(integers, tmp_path / "m.mlpackage", format="coreml")
    assert list(tmp_path.iterdir()) == []


def test_damaged_package(package, tmp_path):
    copy = tmp_path / "copy.mlpackage"
    shutil.copytree(package.path, copy)
    (copy / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="copy"):
        Artifact.read(copy)


def test_doctor():
    diagnosis = doctor(convolutional(), "coreml", "w8a8")
    assert diagnosis.deployable, str(diagnosis)
    wide = doctor(convolutional(), "coreml", "w8a16", trial=False)
    assert "no activations of 16 bits" in str(wide)


def test_the_swift_code_is_swift(package, tmp_path):
    tree_sitter = pytest.importorskip("tree_sitter")
    swift = pytest.importorskip("tree_sitter_swift")
    files = write_callers(package, tmp_path / "callers")
    assert [file.name for file in files] == ["Small.swift", "README.md"]
    code = files[0].read_text()
    parser = tree_sitter.Parser(tree_sitter.Language(swift.language()))
    assert not parser.parse(code.encode()).root_node.has_error
    assert "image: [Float32]" in code
    assert "precondition(image.count == 432)" in code
    assert "shape: [1, 12, 12, 3]" in code
    assert 'values(found_all, "logits")' in code
