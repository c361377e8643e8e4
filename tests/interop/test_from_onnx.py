"""Twelve networks of PyTorch become Keras models that everything here works on."""

import importlib.util
import warnings

import keras
import numpy as np
import onnx
import pytest

import tfcompress
from tests.interop.onnx_graphs import compared, node, numbers, save
from tests.scripts import load_script
from tfcompress import from_onnx
from tfcompress.core.errors import (
    ArtifactError,
    CompressionWarning,
    ExportError,
    InvalidArgumentError,
    UnsupportedLayerError,
)
from tfcompress.interop.onnx import comparing

pytest.importorskip("onnxruntime")
BENCHMARK = load_script("benchmarks/from_onnx.py")
FILES = {path.stem: path for path in BENCHMARK.FILES}
NETWORKS = [name for name in FILES if not name.endswith("_dynamo")]
# Their integer models take a minute to build.
LONG = ("lstm", "gru", "transformer")
QUICK = [name for name in NETWORKS if name not in LONG]
TOKENS = onnx.TensorProto.INT64


def kinds(model):
    return [type(layer).__name__ for layer in model.layers[1:]]


def weights_of(path):
    model = onnx.load(path)
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def test_there_are_twelve_networks_of_both_exporters():
    assert len(NETWORKS) == 12
    assert sorted(FILES) == sorted(NETWORKS + [f"{name}_dynamo" for name in NETWORKS])
    assert max(path.stat().st_size for path in FILES.values()) < 100_000


@pytest.mark.parametrize("name", FILES)
def test_outputs_are_those_of_onnx_runtime(name, tmp_path):
    model, off, inputs = compared(FILES[name], 16)
    assert off <= 1e-5
    wanted = keras.tree.flatten(model.predict(inputs, verbose=0))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    found = keras.tree.flatten(again.predict(inputs, verbose=0))
    assert all(map(np.array_equal, found, wanted))


def in_integers(name, folder):
    model, _, inputs = compared(FILES[name], 32)
    with warnings.catch_warnings():
        # An average over fewer pixels at the border stays in float.
        warnings.simplefilter("ignore", CompressionWarning)
        final = tfcompress.finalize(tfcompress.calibrate(model, inputs))
    artifact = tfcompress.export(final, folder / "model.tflite")
    verified = tfcompress.verify(artifact, final, inputs)
    return artifact.integer_coverage, verified.max_error_steps


@pytest.mark.export
@pytest.mark.parametrize("name", QUICK)
def test_integer_files_compute_what_the_model_does(name, tmp_path):
    coverage, steps = in_integers(name, tmp_path)
    assert steps == 0
    assert coverage == 1 or (name == "depthwise" and coverage > 0.99)


@pytest.mark.slow
@pytest.mark.export
@pytest.mark.parametrize("name", LONG)
def test_integer_files_of_sequences(name, tmp_path):
    assert in_integers(name, tmp_path) == (1, 0)


def test_weights_and_names_are_those_of_the_file():
    model, stored = from_onnx(FILES["lenet"]), weights_of(FILES["lenet"])
    assert [layer.name for layer in model.layers if layer.weights] == [
        *("conv1", "conv2", "fc1", "fc2", "fc3")
    ]
    kernel = stored["conv1.weight"].transpose(2, 3, 1, 0)
    assert np.array_equal(model.get_layer("conv1").kernel, kernel)
    assert np.array_equal(model.get_layer("fc2").kernel, stored["fc2.weight"].T)
    # Rows lie as the flattened picture does: height, width, channels.
    rows = stored["fc1.weight"].reshape(24, 16, 4, 4).transpose(2, 3, 1, 0)
    assert np.array_equal(model.get_layer("fc1").kernel, rows.reshape(256, 24))
    assert np.array_equal(model.get_layer("fc3").bias, stored["fc3.bias"])


@pytest.mark.parametrize("name", FILES)
def test_no_weight_is_changed(name):
    """Each number of the file is in the model, and the other way round."""
    if name.startswith(("lstm", "gru")):
        pytest.skip("the two biases are added up, see the next test")
    model, stored = from_onnx(FILES[name]), weights_of(FILES[name])
    found = np.concatenate([np.ravel(w) for w in model.get_weights()])
    floats = [np.ravel(a) for a in stored.values() if a.dtype == "float32"]
    assert set(found.tolist()) - {1.0} <= set(np.concatenate(floats).tolist())
    assert found.size >= 0.98 * np.concatenate(floats).size


def test_gates_are_those_of_the_file():
    model, stored = from_onnx(FILES["lstm"]), weights_of(FILES["lstm"])
    (layer,) = [one for one in model.layers if isinstance(one, keras.layers.LSTM)]
    kernel, inner, bias = (
        next(a for a in stored.values() if a.shape == shape)[0]
        for shape in ((1, 32, 12), (1, 32, 8), (1, 64))
    )
    gates = [0, 2, 3, 1]  # input, forget, cell, output

    def ordered(rows):
        return rows.reshape(4, 8, -1)[gates].reshape(32, -1)

    assert np.array_equal(layer.cell.kernel, ordered(kernel).T)
    assert np.array_equal(layer.cell.recurrent_kernel, ordered(inner).T)
    both = ordered(bias[:32])[:, 0] + ordered(bias[32:])[:, 0]
    assert np.array_equal(layer.cell.bias, both)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        (
            "lenet",
            ["Conv2D", "ReLU", "MaxPooling2D"] * 2
            + ["Flatten", "Dense", "ReLU", "Dense", "ReLU", "Dense"],
        ),
        ("lstm", ["Bidirectional", "LSTM", "Reshape", "Flatten", "Dense"]),
    ],
)
def test_layers_are_ordinary_ones(name, layers):
    for stem in (name, f"{name}_dynamo"):
        found = kinds(from_onnx(FILES[stem]))
        assert [kind for kind in found if kind != "GetItem"] == layers


def test_pictures_are_never_transposed():
    for name, path in FILES.items():
        if not name.startswith(("transformer", "lstm", "gru")):
            assert "Permute" not in kinds(from_onnx(path)), name


def test_what_comes_out_can_be_pruned_trained_and_shrunk():
    model = from_onnx(FILES["resnet"])
    small = tfcompress.shrink(model, sparsity=0.5, round_to=4)
    assert tfcompress.macs(small) < 0.7 * tfcompress.macs(model)
    model.compile("sgd", "mse")
    prune = tfcompress.PruneWeights(0.5)
    x, y = np.ones((8, 32, 32, 3), "float32"), np.zeros((8, 10), "float32")
    model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[prune])
    kernels = [np.ravel(w) for w in model.get_weights() if w.ndim > 1]
    assert np.mean(np.concatenate(kernels) == 0) == pytest.approx(0.5, abs=0.01)


def gemm(tmp_path, **options):
    weights = {"d.weight": numbers(6, 6)}
    nodes = [node("MatMul", "x d.weight")]
    return save(tmp_path / "m.onnx", nodes, {"x": ["N", 6]}, weights, **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no such file"),
        (b"", "no ONNX model, or it is damaged"),
        (b"no model of anything", "no ONNX model, or it is damaged"),
        (b"\x08\x09\x3a\xff\xff\xff\xff\x07", "no ONNX model, or it is damaged"),
    ],
)
def test_what_is_no_file_of_onnx(content, message, tmp_path):
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        from_onnx(path)
    with pytest.raises(ArtifactError, match="This is no file"):
        from_onnx(tmp_path)


def test_truncated_files_are_refused(tmp_path):
    content = FILES["lenet"].read_bytes()
    path = tmp_path / "m.onnx"
    for size in (*range(1, 200, 20), len(content) // 2, len(content) - 3):
        path.write_bytes(content[:size])
        with pytest.raises((ArtifactError, UnsupportedLayerError), match="Received"):
            from_onnx(path)


def test_damaged_files_are_refused_or_read(tmp_path):
    content = bytearray(FILES["squeeze_excite"].read_bytes())
    path, rng = tmp_path / "m.onnx", np.random.default_rng(0)
    outcomes = set()
    for _ in range(60):
        changed = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            changed[place] = int(rng.integers(0, 256))
        path.write_bytes(changed)
        try:
            from_onnx(path)
            outcomes.add("read")
        except (ArtifactError, UnsupportedLayerError):
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_all_unknown_operators_are_named(tmp_path):
    nodes = [
        node("NonZero", "x", "a", name="first"),
        node("Bernoulli", "x", "b", name="second"),
        node("Relu", "x"),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"x": ["N", 6]})
    with pytest.raises(
        UnsupportedLayerError,
        match=r"2 nodes .* 'first' \(NonZero\), 'second' \(Bernoulli\)\. Expected: ",
    ):
        from_onnx(path)


def test_operators_of_others_are_named_with_their_domain(tmp_path):
    model = onnx.load(gemm(tmp_path))
    model.graph.node[0].domain = "com.microsoft"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(
        UnsupportedLayerError, match=r"'matmul_y' \(com.microsoft.MatMul"
    ):
        from_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (node("MaxPool", "x", "y i", kernel_shape=[1]), "'maxpool_y'.* axes of space"),
        (node("Slice", "x one two zero"), "a part of the samples"),
        (node("ReduceMean", "x zero"), "which include the samples"),
        (node("Gemm", "x w", transA=1), "transA=1"),
    ],
)
def test_options_without_an_equal_are_named(one, message, tmp_path):
    weights = {"w": numbers(6, 6)}
    weights |= {n: np.array([i], "int64") for i, n in enumerate(("zero", "one", "two"))}
    read = {name: array for name, array in weights.items() if name in one.input}
    graph = onnx.helper.make_graph(
        [one],
        "graph",
        [onnx.helper.make_tensor_value_info("x", 1, ["N", 6])],
        [onnx.helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(a, name) for name, a in read.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedLayerError, match=message):
        from_onnx(tmp_path / "m.onnx")


def test_versions_that_nobody_knows(tmp_path):
    model = onnx.load(gemm(tmp_path))
    for version in (3, 999):
        model.opset_import[0].version = version
        onnx.save(model, tmp_path / "m.onnx")
        with pytest.raises(
            UnsupportedLayerError, match=f"opset {version}.* an opset from 7 to"
        ):
            from_onnx(tmp_path / "m.onnx")


def test_quantized_files_are_told_from_float_ones(tmp_path):
    nodes = [node("QuantizeLinear", "x s z", "a"), node("DequantizeLinear", "a s z")]
    weights = {"s": np.float32(0.1), "z": np.int8(0)}
    path = save(tmp_path / "m.onnx", nodes, {"x": ["N", 6]}, weights)
    with pytest.raises(
        UnsupportedLayerError, match=r"is quantized.*DequantizeLinear.*calibrate\(model"
    ):
        from_onnx(path)


def test_free_sizes_are_asked_for(tmp_path):
    nodes = [node("Conv", "x w")]
    weights = {"w": numbers(2, 3, 3, 3)}
    shape = {"x": ["N", 3, "height", "width"]}
    path = save(tmp_path / "m.onnx", nodes, shape, weights)
    with pytest.raises(
        UnsupportedLayerError, match=r"\(N, 3, height, width\).*"
    ) as told:
        from_onnx(path)
    assert "from_onnx(path, input_shapes={'x': (None, 3, 64, 64)})" in str(told.value)
    model = from_onnx(path, input_shapes={"x": (None, 3, 10, 12)})
    assert (model.input_shape, model.output_shape) == (
        (None, 10, 12, 3),
        (None, 8, 10, 2),
    )
    for given, message in (
        ({"z": (None, 3, 8, 8)}, "one of x"),
        ({"x": (None, 4, 8, 8)}, "does not fit input 'x'"),
        ({"x": (None, 3, 8)}, "does not fit input 'x'"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            from_onnx(path, input_shapes=given)


def test_weights_beside_the_file(tmp_path):
    model = onnx.load(FILES["lenet"])
    path = tmp_path / "m.onnx"
    onnx.save(
        model, path, save_as_external_data=True, location="m.data", size_threshold=0
    )
    found = from_onnx(path).get_weights()
    assert all(map(np.array_equal, found, from_onnx(FILES["lenet"]).get_weights()))
    (tmp_path / "m.data").rename(tmp_path / "other.data")
    with pytest.raises(ArtifactError, match=r"beside the model.*external_data=False"):
        from_onnx(path)


@pytest.mark.parametrize("place", ["../secret", "/etc/hostname"])
def test_weights_elsewhere_are_not_read(place, tmp_path):
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(1 << 16))
    model = onnx.load(gemm(folder))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", place
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="beside the model"):
        from_onnx(folder / "m.onnx")


@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        ([node("ConstantOfShape", "huge", "a"), node("Add", "x a")], [1 << 20] * 2),
        ([node("Expand", "one", "a"), node("Add", "x a")], None),
        ([node("Tile", "x times")], None),
    ],
)
def test_files_that_ask_for_much_are_refused_at_once(nodes, shape, tmp_path):
    weights = {
        "huge": np.array([1 << 20, 1 << 20], "int64"),
        "one": np.ones((1, 1), "float32"),
        "times": np.array([1, 1 << 40], "int64"),
    }
    if nodes[0].op_type == "Expand":
        nodes[0].input.append("huge")
    read = {name for one in nodes for name in one.input}
    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        [onnx.helper.make_tensor_value_info("x", 1, ["N", 6])],
        [onnx.helper.make_tensor_value_info("y", 1, None)],
        [onnx.numpy_helper.from_array(a, n) for n, a in weights.items() if n in read],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedLayerError, match=r"at most [\d,]+"):
        from_onnx(tmp_path / "m.onnx")


def test_a_model_that_computes_something_else_is_not_handed_out(monkeypatch, tmp_path):
    run = comparing._run

    def wrong(*args):
        return {name: array + 0.01 for name, array in run(*args).items()}

    monkeypatch.setattr(comparing, "_run", wrong)
    with pytest.raises(
        UnsupportedLayerError, match=r"something else.*output 'y'.*off by 0\.01"
    ):
        from_onnx(gemm(tmp_path))


def test_without_onnx_runtime_it_says_that_nothing_was_compared(monkeypatch, tmp_path):
    found = importlib.util.find_spec
    missing = ["onnxruntime"]
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n in missing else found(n)
    )
    with pytest.warns(CompressionWarning, match="not compared with .*onnxruntime"):
        from_onnx(gemm(tmp_path))
    missing.append("onnx")
    with pytest.raises(ExportError, match=r"tfcompress\[onnx\]"):
        from_onnx(gemm(tmp_path))


@pytest.mark.examples
@pytest.mark.export
def test_the_example_goes_from_pytorch_to_the_phone(tmp_path):
    pytest.importorskip("torch")
    example = load_script("examples/from_pytorch.py")
    found = example.main(smoke=True, output=str(tmp_path))
    in_pytorch, in_keras, on_phone = found["lenet"]
    assert in_keras == pytest.approx(in_pytorch, abs=1e-6)
    assert on_phone == pytest.approx(in_keras, abs=0.02)


def _file(path, nodes, shape, output, **constants):
    """Writes an .onnx file of a few nodes."""
    import onnx
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, output)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return path


def test_files_that_mix_samples_are_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    from onnx import helper

    node = helper.make_node("Flatten", ["x"], ["y"], axis=0)
    path = _file(tmp_path / "m.onnx", [node], ["N", 3, 4], [1, "M"])
    with pytest.raises(UnsupportedLayerError, match=r"output 'y'.*samples"):
        from_onnx(path)


def test_weights_that_two_nodes_use_in_two_ways(tmp_path):
    from onnx import helper

    weight = np.arange(16, dtype="float32").reshape(4, 4) / 10
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], transB=1, name="first"),
        helper.make_node("MatMul", ["a", "w"], ["y"], name="second"),
    ]
    path = _file(tmp_path / "m.onnx", nodes, ["N", 4], ["N", 4], w=weight)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    found = from_onnx(path).predict(x, verbose=0)
    np.testing.assert_allclose(found, x @ weight.T @ weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 4])
def test_flattening_for_one_number_of_samples_is_for_any(count, tmp_path):
    from onnx import helper

    nodes = [
        helper.make_node("Reshape", ["x", "sizes"], ["a"]),
        helper.make_node("Gemm", ["a", "w"], ["y"], name="dense"),
    ]
    weight = np.random.default_rng(1).normal(size=(60, 3)).astype("float32")
    wanted = np.array([count, -1])
    path = tmp_path / "m.onnx"
    _file(path, nodes, [count, 3, 4, 5], [count, 3], sizes=wanted, w=weight)
    model = from_onnx(path)
    x = np.random.default_rng(0).normal(size=(7, 3, 4, 5)).astype("float32")
    found = model.predict(x.transpose(0, 2, 3, 1), verbose=0)
    expected = x.reshape(7, -1) @ weight
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_names_that_tensorflow_takes_for_one_and_foreign_letters(tmp_path):
    nodes = [node("Add", "a-b a_b", "s", "сумма"), node("Relu", "s", "y", "é")]
    path = save(tmp_path / "層.onnx", nodes, {"a-b": ["n", 3], "a_b": ["n", 3]})
    model = from_onnx(path)
    assert [layer.name for layer in model.layers[2:]] == [
        "u0441u0443u043cu043cu0430",
        "e",
    ]
    artifact = tfcompress.export(model, tmp_path / "m.tflite")
    assert [one.name for one in artifact.inputs] == ["a-b", "a_b_1"]


def test_no_path():
    with pytest.raises(InvalidArgumentError, match=r"`path` is no path.*None"):
        from_onnx(None)
