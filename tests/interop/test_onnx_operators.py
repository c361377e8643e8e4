"""Each operator of an ONNX file, against ONNX Runtime."""

import keras
import numpy as np
import onnx
import pytest

from tests.interop.onnx_graphs import difference, node, numbers, save

pytest.importorskip("onnxruntime")
PICTURE = {"x": ["N", 4, 9, 8]}
ROW = {"x": ["N", 6]}
SERIES = {"x": ["N", 5, 6]}


def integers(*values):
    return np.array(values, "int64")


def kinds(model):
    return [type(layer).__name__ for layer in model.layers[1:]]


CONVOLUTIONS = {
    "valid": ({}, (6, 4, 3, 3), ["Conv2D"]),
    "same": ({"pads": [1, 1, 1, 1]}, (6, 4, 3, 3), ["Conv2D"]),
    "around": (
        {"pads": [1, 1, 1, 1], "strides": [2, 2]},
        (6, 4, 3, 3),
        ["ZeroPadding2D", "Conv2D"],
    ),
    "uneven": (
        {"pads": [0, 2, 1, 0], "strides": [1, 2]},
        (6, 4, 2, 3),
        ["ZeroPadding2D", "Conv2D"],
    ),
    "same_upper": ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (6, 4, 3, 3), None),
    "same_lower": ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, (6, 4, 3, 3), None),
    "dilated": (
        {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
        (6, 4, 3, 3),
        ["Conv2D"],
    ),
    "dilated_with_strides": (
        {"dilations": [2, 1], "pads": [2, 1, 2, 1], "strides": [2, 2]},
        (6, 4, 3, 3),
        None,
    ),
    "groups": ({"group": 2}, (6, 2, 3, 3), ["Conv2D"]),
    "depthwise": ({"group": 4}, (4, 1, 3, 3), ["DepthwiseConv2D"]),
    "depthwise_twice": (
        {"group": 4, "strides": [2, 2]},
        (8, 1, 3, 3),
        ["DepthwiseConv2D"],
    ),
    "depthwise_uneven": ({"group": 4, "strides": [2, 1]}, (4, 1, 3, 3), None),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(case, tmp_path):
    options, shape, layers = CONVOLUTIONS[case]
    weights = {"c.weight": numbers(*shape), "c.bias": numbers(shape[0])}
    path = save(
        tmp_path / "m.onnx",
        [node("Conv", "x c.weight c.bias", **options)],
        PICTURE,
        weights,
    )
    model, off = difference(path)
    assert off <= 1e-5
    assert layers is None or kinds(model) == layers
    kernel = model.get_layer("c").weights[0]
    assert np.array_equal(np.sort(kernel, None), np.sort(weights["c.weight"], None))


TRANSPOSED = {
    "twice": ({"strides": [2, 2]}, (4, 5, 2, 2), ["Conv2DTranspose"]),
    "same": (
        {"strides": [2, 2], "pads": [1, 1, 1, 1]},
        (4, 5, 4, 4),
        ["Conv2DTranspose"],
    ),
    "more": (
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        (4, 5, 3, 3),
        ["Conv2DTranspose", "Cropping2D"],
    ),
    "wide": ({"strides": [3, 3], "output_padding": [1, 1]}, (4, 5, 2, 2), None),
    "groups": ({"strides": [2, 2], "group": 2}, (4, 3, 3, 3), ["Conv2DTranspose"]),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolutions(case, tmp_path):
    options, shape, layers = TRANSPOSED[case]
    count = shape[1] * options.get("group", 1)
    weights = {"c.weight": numbers(*shape), "c.bias": numbers(count)}
    path = save(
        tmp_path / "m.onnx",
        [node("ConvTranspose", "x c.weight c.bias", **options)],
        PICTURE,
        weights,
    )
    model, off = difference(path)
    assert off <= 1e-5
    assert layers is None or kinds(model) == layers


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks(rank, tmp_path):
    space = [6] * rank
    path = save(
        tmp_path / "m.onnx",
        [
            node("Conv", "x a.weight", "a", pads=[1] * 2 * rank),
            node("Relu", "a", "b"),
            node("MaxPool", "b", "c", kernel_shape=[2] * rank, strides=[2] * rank),
            node("ConvTranspose", "c d.weight", "d", strides=[2] * rank),
            node("GlobalAveragePool", "d", "e"),
            node("Flatten", "e"),
        ],
        {"x": ["N", 3, *space]},
        {
            "a.weight": numbers(4, 3, *[3] * rank),
            "d.weight": numbers(4, 5, *[2] * rank),
        },
    )
    model, off = difference(path)
    assert off <= 1e-5
    assert model.input_shape == (None, *space, 3)


POOLING = {
    "plain": ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "around": (
        "MaxPool",
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    ),
    "ceil": (
        "MaxPool",
        {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1},
    ),
    "ceil_around": (
        "MaxPool",
        {"kernel_shape": [3, 3], "strides": [3, 3], "pads": [1] * 4, "ceil_mode": 1},
    ),
    "average": ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "average_same": (
        "AveragePool",
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
    ),
    "average_around": (
        "AveragePool",
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    ),
    "average_all": (
        "AveragePool",
        {
            "kernel_shape": [3, 3],
            "strides": [2, 2],
            "pads": [1, 1, 1, 1],
            "count_include_pad": 1,
        },
    ),
    "average_ceil": (
        "AveragePool",
        {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1},
    ),
    "average_ceil_all": (
        "AveragePool",
        {
            "kernel_shape": [3, 3],
            "strides": [2, 2],
            "pads": [1, 1, 1, 1],
            "ceil_mode": 1,
            "count_include_pad": 1,
        },
    ),
    "all": ("GlobalAveragePool", {}),
    "largest_of_all": ("GlobalMaxPool", {}),
}


@pytest.mark.parametrize("case", POOLING)
@pytest.mark.parametrize("before", ["Relu", "Neg"])
def test_pooling(case, before, tmp_path):
    kind, options = POOLING[case]
    nodes = [node(before, "x", "a"), node(kind, "a", **options)]
    _, off = difference(save(tmp_path / "m.onnx", nodes, PICTURE, opset=19))
    assert off <= 1e-5


ONE = {
    **{kind: {} for kind in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign")},
    **{kind: {} for kind in ("Elu", "Selu", "HardSwish", "Mish", "Gelu", "Abs", "Neg")},
    **{kind: {} for kind in ("Exp", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos")},
    **{
        kind: {} for kind in ("Erf", "Identity", "LogSoftmax", "Softmax", "HardSigmoid")
    },
    "LeakyRelu": {"alpha": 0.2},
    "ThresholdedRelu": {"alpha": 0.3},
    "LpNormalization": {"axis": 1},
    "ReduceMean": {"keepdims": 0},
    "Flatten": {"axis": 1},
    "ArgMax": {"axis": 1, "keepdims": 0},
    "ArgMin": {"axis": -1},
    "DepthToSpace": {"blocksize": 2},
    "SpaceToDepth": {"blocksize": 2},
}


@pytest.mark.parametrize("kind", ONE)
def test_operators_of_one_tensor(kind, tmp_path):
    shape = {"x": ["N", 4, 6, 8]}
    options = dict(ONE[kind])
    inputs = "x"
    weights = {}
    if kind == "ReduceMean":
        inputs, weights = "x axes", {"axes": integers(1, 3)}
    path = save(
        tmp_path / "m.onnx", [node(kind, inputs, **options)], shape, weights, opset=20
    )
    model, off = difference(path)
    assert off <= 1e-5
    assert model.input_shape == (None, 6, 8, 4)


@pytest.mark.parametrize("kind", ["CRD", "DCR"])
def test_depth_to_space(kind, tmp_path):
    nodes = [node("DepthToSpace", "x", blocksize=2, mode=kind)]
    _, off = difference(save(tmp_path / "m.onnx", nodes, {"x": ["N", 8, 3, 5]}))
    assert off == 0


TWO = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean"), (1, 1)),
    "Div": (1, 1),
}
OTHERS = {
    "number": numbers(),
    "channels": numbers(4, 1, 1),
    "row": numbers(8),
    "whole": numbers(1, 4, 9, 8),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("kind", TWO)
def test_arithmetic_with_constants(kind, other, tmp_path):
    for order in ("x c", "c x"):
        if kind == "Div" and order == "c x":
            continue
        path = save(
            tmp_path / f"{order}.onnx",
            [node(kind, order)],
            PICTURE,
            {"c": OTHERS[other]},
        )
        assert difference(path)[1] <= 1e-5


@pytest.mark.parametrize("kind", TWO)
def test_arithmetic_of_two(kind, tmp_path):
    nodes = [
        node("Conv", "x w", "a"),
        node("GlobalMaxPool", "a", "b"),
        node("Exp", "b", "c"),
        node(kind, "a c"),
    ]
    path = save(tmp_path / "m.onnx", nodes, PICTURE, {"w": numbers(5, 4, 1, 1)})
    assert difference(path)[1] <= 1e-5


def test_comparisons_and_choice(tmp_path):
    nodes = [
        node("Greater", "x zero", "a"),
        node("LessOrEqual", "x one", "b"),
        node("And", "a b", "c"),
        node("Not", "c", "d"),
        node("Where", "d x mask", "e"),
        node("Cast", "a", "f", to=1),
        node("Add", "e f"),
    ]
    weights = {
        "zero": np.float32(0),
        "one": np.float32(1),
        "mask": np.full((1, 6), -np.inf, "float32"),
    }
    model, off = difference(save(tmp_path / "m.onnx", nodes, ROW, weights))
    assert off <= 1e-5
    assert model.output_shape == (None, 6)


NORMALIZATIONS = {
    "BatchNormalization": ("x s b m v", {"epsilon": 1e-3}, 4),
    "InstanceNormalization": ("x s b", {}, 4),
    "GroupNormalization": ("x s b", {"num_groups": 2}, 4),
    "LayerNormalization": ("x s b", {"axis": -1}, 8),
}


@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_normalizations(kind, tmp_path):
    inputs, options, size = NORMALIZATIONS[kind]
    weights = {
        "s": numbers(size, low=0.5),
        "b": numbers(size),
        "m": numbers(size),
        "v": numbers(size, low=0.5, high=2.0),
    }
    path = save(
        tmp_path / "m.onnx", [node(kind, inputs, **options)], PICTURE, weights, opset=21
    )
    model, off = difference(path)
    assert off <= 1e-5
    assert kinds(model)[-1] == kind.replace("Instance", "Group")


def test_a_batch_normalization_of_rows_that_were_a_picture(tmp_path):
    weights = {"s": numbers(288), "b": numbers(288), "m": numbers(288)}
    weights["v"] = numbers(288, low=0.5, high=1.0)
    nodes = [node("Flatten", "x", "a"), node("BatchNormalization", "a s b m v")]
    assert difference(save(tmp_path / "m.onnx", nodes, PICTURE, weights))[1] <= 1e-5


def test_a_picture_that_is_flattened_is_never_transposed(tmp_path):
    nodes = [
        node("Conv", "x c.weight", "a"),
        node("Flatten", "a", "b"),
        node("Relu", "b", "c"),
        node("Gemm", "c d.weight d.bias", transB=1),
    ]
    weights = {
        "c.weight": numbers(3, 4, 3, 3),
        "d.weight": numbers(7, 126),
        "d.bias": numbers(7),
    }
    model, off = difference(save(tmp_path / "m.onnx", nodes, PICTURE, weights))
    assert off <= 1e-5
    assert kinds(model) == ["Conv2D", "ReLU", "Flatten", "Dense"]
    rows = weights["d.weight"].reshape(7, 3, 7, 6).transpose(2, 3, 1, 0).reshape(126, 7)
    assert np.array_equal(model.get_layer("d").kernel, rows)


def test_shuffled_channels_cost_one_transposition(tmp_path):
    nodes = [
        node("Conv", "x a.weight", "a"),
        node("Reshape", "a parts", "b"),
        node("Transpose", "b", "c", perm=[0, 2, 1, 3, 4]),
        node("Reshape", "c whole", "d"),
        node("Conv", "d e.weight", group=4),
    ]
    weights = {
        "a.weight": numbers(4, 4, 1, 1),
        "parts": integers(-1, 2, 2, 9, 8),
        "whole": integers(-1, 4, 9, 8),
        "e.weight": numbers(4, 1, 3, 3),
    }
    model, off = difference(save(tmp_path / "m.onnx", nodes, PICTURE, weights))
    assert off <= 1e-5
    assert kinds(model).count("Permute") == 1


SHAPES = {
    "reshape": [node("Reshape", "x s")],
    "mixed": [node("Reshape", "x m", "a"), node("Softmax", "a", axis=1)],
    "transpose": [node("Transpose", "x", "a", perm=[0, 2, 1]), node("Softmax", "a")],
    "squeeze": [node("Unsqueeze", "x one", "a"), node("Squeeze", "a one")],
    "slice": [node("Slice", "x one four one")],
    "backwards": [node("Slice", "x minus low one minus")],
    "gather": [node("Gather", "x minus0", axis=1)],
    "some": [node("Gather", "x places", axis=2)],
    "split": [node("Split", "x parts", "a b", axis=2), node("Concat", "b a", axis=2)],
    "tile": [node("Tile", "x times")],
    "expand": [node("Unsqueeze", "x one", "a"), node("Expand", "a grown")],
    "pad": [node("Pad", "x pads number")],
    "reflect": [node("Pad", "x pads", mode="reflect")],
    "sum": [node("ReduceSum", "x one", keepdims=0)],
    "largest": [node("ReduceMax", "x one", keepdims=1)],
    "length": [node("ReduceL2", "x two", keepdims=0)],
    "mean": [node("ReduceMean", "x one", keepdims=0)],
    "matmul": [node("Transpose", "x", "a", perm=[0, 2, 1]), node("MatMul", "x a")],
    "left": [node("MatMul", "left x")],
    "einsum": [node("Einsum", "x left", equation="ntc,st->nsc")],
}
CONSTANTS = {
    "s": integers(0, -1, 3),
    "m": integers(-1, 3, 10),
    "one": integers(1),
    "two": integers(2),
    "four": integers(4),
    "minus": integers(-1),
    "minus0": np.array(-1, "int64"),
    "low": integers(-1000),
    "places": integers(4, 0, 0),
    "parts": integers(2, 4),
    "times": integers(1, 2, 3),
    "grown": integers(1, 2, 5, 6),
    "pads": integers(0, 1, 2, 0, 2, 1),
    "number": np.float32(1.5),
    "left": numbers(4, 5),
}


@pytest.mark.parametrize("case", SHAPES)
def test_shapes_and_parts(case, tmp_path):
    read = {name for one in SHAPES[case] for name in one.input}
    weights = {name: a for name, a in CONSTANTS.items() if name in read}
    path = save(tmp_path / "m.onnx", SHAPES[case], SERIES, weights)
    assert difference(path)[1] <= 1e-5


RESIZED = {
    "nearest": ((2.0, 3.0), {"nearest_mode": "floor"}, "asymmetric"),
    "nearest_between": ((1.5, 2.5), {}, "half_pixel"),
    "linear": ((2.0, 2.0), {"mode": "linear"}, "half_pixel"),
    "linear_between": ((1.5, 0.75), {"mode": "linear"}, "pytorch_half_pixel"),
    "corners": ((2.0, 2.0), {"mode": "linear"}, "align_corners"),
    "cubic": ((2.0, 2.0), {"mode": "cubic"}, "half_pixel"),
}


@pytest.mark.parametrize("case", RESIZED)
def test_resizing(case, tmp_path):
    scales, options, where = RESIZED[case]
    scales = np.array([1, 1, *scales], "float32")
    nodes = [node("Resize", "x - s", coordinate_transformation_mode=where, **options)]
    path = save(tmp_path / "m.onnx", nodes, {"x": ["N", 3, 8, 8]}, {"s": scales})
    assert difference(path)[1] <= 1e-5


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers(kind, direction, tmp_path):
    count, gates = 1 + (direction == "bidirectional"), {"LSTM": 4, "GRU": 3, "RNN": 1}
    rows = gates[kind] * 4
    weights = {
        "w": numbers(count, rows, 6),
        "r": numbers(count, rows, 4, seed=1),
        "b": numbers(count, 2 * rows, seed=2),
    }
    for before in (0, 1) if kind == "GRU" else (None,):
        options = {} if before is None else {"linear_before_reset": before}
        nodes = [
            node("Transpose", "x", "a", perm=[1, 0, 2]),
            node(kind, "a w r b", "s h", hidden_size=4, direction=direction, **options),
            node("ReduceSum", "s", "t", keepdims=0, noop_with_empty_axes=1),
            node("Identity", "h", "u"),
        ]
        for outputs in ("s", "h", "s h"):
            path = save(
                tmp_path / "m.onnx", nodes[:2], SERIES, weights, outputs, opset=14
            )
            assert difference(path)[1] <= 1e-5


def test_states_at_the_beginning(tmp_path):
    weights = {"w": numbers(1, 16, 6), "r": numbers(1, 16, 4)}
    nodes = [
        node("Transpose", "x", "a", perm=[1, 0, 2]),
        node("LSTM", "a w r - - h c", "s i d", hidden_size=4),
    ]
    inputs = {**SERIES, "h": [1, "N", 4], "c": [1, "N", 4]}
    path = save(tmp_path / "m.onnx", nodes, inputs, weights, "s i d")
    model, off = difference(path)
    assert off <= 1e-5
    assert model.input_shape == [(None, 5, 6), (None, 1, 4), (None, 1, 4)]


def test_tokens_and_a_class_token(tmp_path):
    nodes = [
        node("Gather", "table t", "a"),
        node("Shape", "t", "b", start=0, end=1),
        node("Concat", "b rest", "c", axis=0),
        node("Expand", "token c", "d"),
        node("Concat", "d a", "e", axis=1),
        node("Add", "e places", "y"),
    ]
    weights = {
        "table": numbers(9, 6),
        "token": numbers(1, 1, 6),
        "rest": integers(1, 6),
        "places": numbers(1, 5, 6),
    }
    inputs = {"t": (["N", 4], onnx.TensorProto.INT64)}
    model, off = difference(save(tmp_path / "m.onnx", nodes, inputs, weights))
    assert off <= 1e-6
    trained = {layer.name for layer in model.layers if layer.trainable_variables}
    assert trained == {"gather_a", "d", "places"}


@pytest.mark.parametrize("kind", ["erf", "silu"])
def test_activations_in_several_nodes(kind, tmp_path):
    if kind == "silu":
        nodes = [node("Sigmoid", "x", "a"), node("Mul", "x a")]
    else:
        nodes = [
            node("Div", "x root", "a"),
            node("Erf", "a", "b"),
            node("Add", "b one", "c"),
            node("Mul", "x c", "d"),
            node("Mul", "d half"),
        ]
    weights = {
        "root": np.float32(2**0.5),
        "one": np.float32(1),
        "half": np.float32(0.5),
    }
    used = {name for one in nodes for name in one.input}
    weights = {name: value for name, value in weights.items() if name in used}
    model, off = difference(save(tmp_path / "m.onnx", nodes, ROW, weights))
    assert off <= 1e-6
    assert kinds(model) == ["Activation"]


@pytest.mark.parametrize("opset", [7, 9, 11, 13])
def test_old_versions(opset, tmp_path):
    """Options that are inputs today were attributes."""
    nodes = [node("Conv", "x w", "a")]
    if opset < 11:
        nodes += [
            node("Clip", "a", "b", min=0.0, max=6.0),
            node("Pad", "b", "c", pads=[0, 0, 1, 1, 0, 0, 1, 1]),
        ]
    else:
        nodes += [node("Clip", "a low high", "b"), node("Pad", "b pads", "c")]
    nodes += [
        node("ReduceMean", "c", "d", axes=[2, 3], keepdims=1),
        *(
            [node("Squeeze", "d axes", "e")]
            if opset >= 13
            else [node("Squeeze", "d", "e", axes=[2, 3])]
        ),
        node("Softmax", "e", axis=1),
    ]
    weights = {
        "w": numbers(5, 4, 3, 3),
        "low": np.float32(0),
        "high": np.float32(6),
        "pads": integers(0, 0, 1, 1, 0, 0, 1, 1),
        "axes": integers(2, 3),
    }
    used = {name for one in nodes for name in one.input}
    weights = {name: value for name, value in weights.items() if name in used}
    path = save(tmp_path / "m.onnx", nodes, PICTURE, weights, opset=opset)
    model, off = difference(path)
    assert off <= 1e-5
    assert "GlobalAveragePooling2D" in kinds(model)


def test_nodes_that_read_the_same_weights_are_one_layer(tmp_path):
    nodes = [
        node("Gemm", "x d.weight d.bias", "a", transB=1),
        node("Relu", "a", "b"),
        node("Gemm", "b d.weight d.bias", "y", name="again", transB=1),
    ]
    weights = {"d.weight": numbers(6, 6), "d.bias": numbers(6)}
    model, off = difference(save(tmp_path / "m.onnx", nodes, ROW, weights))
    assert off <= 1e-6
    assert [layer.name for layer in model.layers if layer.weights] == ["d"]


def test_a_model_written_for_one_batch_takes_any(tmp_path):
    nodes = [
        node("Conv", "x w", "a"),
        node("Reshape", "a flat", "b"),
        node("MatMul", "b m", "c"),
        node("Add", "c v"),
    ]
    weights = {
        "w": numbers(2, 4, 3, 3),
        "flat": integers(1, 84),
        "m": numbers(84, 3),
        "v": numbers(3),
    }
    path = save(tmp_path / "m.onnx", nodes, {"x": [1, 4, 9, 8]}, weights)
    model, off = difference(path)
    assert off <= 1e-5
    assert kinds(model) == ["Conv2D", "Flatten", "Dense"]
    assert model(keras.ops.zeros((5, 9, 8, 4))).shape == (5, 3)
