"""Changing ONNX models: order of inputs, names of axes, kernels as integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfcompress.exporters.compact import as_integers
from tfcompress.exporters.tensors import OperatorCount, TensorInfo

# The input that is a kernel, and the axis of its output channels.
_KERNELS = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1}
# Operations that move numbers and change none.
_MOVES = {
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "MaxPool",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
}
# What TensorFlow calls the one function of a SavedModel.
_CALL = "StatefulPartitionedCall/"
# A scale that is found again from the largest weight may be off by one float.
_ROUNDING = 3e-7
# The zero points of stored kernels. ONNX Runtime multiplies signed kernels on x86
# processors without VNNI by an instruction that adds two products in 16 bits: 255 * 127
# * 2 does not fit and is cut. Unsigned ones it widens first, and processors with VNNI
# and ARM take either at the same speed.
ZERO_POINTS = {"uint8": 128, "int8": 0}


def tidy(
    content: bytes, inputs: list[str], outputs: list[str], kernels: str = "uint8"
) -> bytes:
    """Returns the model with its inputs and outputs in the given order of names.

    Free first axes are called "batch", names begin with those of layers, and no padding
    is negative. In a quantized
    model, kernels that are integers times a scale become such: `DequantizeLinear` of
    8-bit integers, which gives the same floats up to their last bit, in a
    quarter of the bytes. Without them ONNX Runtime rounds the kernels itself, with one
    scale for all channels.

    Args:
        content: the model.
        inputs: names in their order.
        outputs: likewise.
        kernels: dtype of stored kernels, "uint8" or "int8".
    """
    import onnx

    model = onnx.load_from_string(content)
    for fields, names in ((model.graph.input, inputs), (model.graph.output, outputs)):
        found = {field.name: field for field in fields}
        ordered = [found[name] for name in names]
        for tensor in ordered:
            axes = tensor.type.tensor_type.shape.dim
            if axes and not axes[0].HasField("dim_value"):
                axes[0].dim_param = "batch"
        del fields[:]
        fields.extend(ordered)
    _name_after_layers(model.graph)
    _pad_kernels(model.graph)
    _write_out_erfc(model.graph)
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        _store_kernels_as_integers(model.graph, kernels)
    return model.SerializeToString()


def unknown_operators(content: bytes) -> dict[str, str]:
    """Returns the operators that are none of ONNX, by the names of their nodes."""
    import onnx

    model = onnx.load_from_string(content)
    return {
        node.name: node.op_type
        for node in _all_nodes(model.graph)
        if not onnx.defs.has(node.op_type, node.domain)
    }


def describe(model: Any) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """Returns the inputs and the outputs of an ONNX model."""
    from onnx import numpy_helper

    constants = {i.name: i for i in model.graph.initializer}
    steps: dict[str, float] = {}
    for node in model.graph.node:  # which stand in the order of execution
        if node.op_type == "DequantizeLinear":
            scale = constants.get(node.input[1])
            if scale is not None and not scale.dims:
                steps[node.output[0]] = float(numpy_helper.to_array(scale))
        elif node.op_type in _MOVES and node.input[0] in steps:
            steps.update(dict.fromkeys(node.output, steps[node.input[0]]))
    inputs = tuple(_info(i) for i in model.graph.input if i.name not in constants)
    return inputs, tuple(_info(o, steps.get(o.name)) for o in model.graph.output)


def census(model: Any) -> tuple[OperatorCount, ...]:
    """Returns how often each operator is used, with the dtypes of its constants."""
    constants = {i.name: _dtype(i.data_type) for i in model.graph.initializer}
    counts: Counter[tuple] = Counter()
    for node in model.graph.node:
        weights = {constants[name] for name in node.input if name in constants}
        counts[node.op_type, tuple(sorted(weights))] += 1
    return tuple(
        OperatorCount(name, (), weights, count)
        for (name, weights), count in sorted(counts.items())
    )


def _info(value: Any, step: float | None = None) -> TensorInfo:
    tensor = value.type.tensor_type
    shape = tuple(
        axis.dim_value if axis.HasField("dim_value") else None
        for axis in tensor.shape.dim
    )
    return TensorInfo(value.name, shape, _dtype(tensor.elem_type), step=step)


def _dtype(code: int) -> str:
    from onnx import TensorProto

    name = TensorProto.DataType.Name(code).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _all_nodes(graph: Any) -> Iterator[Any]:
    """Yields the nodes of a graph and of the loops and branches in it."""
    for node in graph.node:
        yield node
        for inner in _graphs_in(node):
            yield from _all_nodes(inner)


def _graphs_in(node: Any) -> Iterator[Any]:
    """Yields the bodies of a loop or the branches of a condition."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _name_after_layers(graph: Any) -> None:
    """Strips the call of the function that is the model from all names."""
    graphs = [graph]
    for inner in graphs:  # which grows
        graphs += [one for node in inner.node for one in _graphs_in(node)]
    for inner in graphs:
        for node in inner.node:
            node.name = node.name.removeprefix(_CALL)
            for names in (node.input, node.output):
                names[:] = [name.removeprefix(_CALL) for name in names]
        for field in (
            *inner.initializer,
            *inner.value_info,
            *inner.input,
            *inner.output,
        ):
            field.name = field.name.removeprefix(_CALL)


def _write_out_erfc(graph: Any) -> None:
    """Replaces Erfc, which ONNX does not have, by 1 - Erf; `gelu` is made of it."""
    from onnx import helper, numpy_helper

    nodes = []
    for position, node in enumerate(graph.node):
        for inner in _graphs_in(node):
            _write_out_erfc(inner)
        if node.op_type != "Erfc":
            nodes.append(node)
            continue
        one, erf = f"{node.output[0]}_one_{position}", f"{node.output[0]}_erf"
        graph.initializer.append(numpy_helper.from_array(np.array(1, "float32"), one))
        nodes.append(helper.make_node("Erf", node.input, [erf], f"{node.name}/Erf"))
        nodes.append(helper.make_node("Sub", [one, erf], node.output, node.name))
    del graph.node[:]
    graph.node.extend(nodes)


def _pad_kernels(graph: Any) -> None:
    """Gives transposed convolutions larger kernels in place of negative padding.

    tf2onnx writes it where an output is longer than strides and kernel make it: halves
    of it, where TensorFlow has all of it at the end, and ONNX does not know it. Zeros
    at the end of the kernel are the same.
    """
    from onnx import numpy_helper

    constants = {i.name: i for i in graph.initializer}
    for position, node in enumerate(graph.node):
        attributes = {attribute.name: attribute for attribute in node.attribute}
        pads = list(attributes["pads"].ints) if "pads" in attributes else []
        if node.op_type != "ConvTranspose" or min(pads, default=0) >= 0:
            continue
        kernel = constants.get(node.input[1])
        if kernel is None or set(attributes["dilations"].ints) != {1}:
            continue  # the runtime refuses it
        half = len(pads) // 2
        total = [start + end for start, end in zip(pads[:half], pads[half:])]
        width = [(0, 0), (0, 0), *((0, max(0, -pad)) for pad in total)]
        padded = np.pad(numpy_helper.to_array(kernel), width)
        # Other nodes may read the kernel as it was.
        node.input[1] = f"{kernel.name}_padded_{position}"
        graph.initializer.append(numpy_helper.from_array(padded, node.input[1]))
        attributes["kernel_shape"].ints[:] = padded.shape[2:]
        attributes["pads"].ints[:] = [max(0, pad) for pad in pads]
    read = {name for node in graph.node for name in node.input}
    for name in set(constants) - read:
        graph.initializer.remove(constants[name])


def _store_kernels_as_integers(graph: Any, dtype: str) -> None:
    from onnx import helper, numpy_helper

    zero_point = ZERO_POINTS[dtype]
    constants = {i.name: i for i in graph.initializer}
    kernels: dict[str, int] = {}
    readers: Counter[str] = Counter(n for node in graph.node for n in node.input)
    for node in graph.node:
        if node.op_type in _KERNELS and node.input[1] in constants:
            kernels[node.input[1]] = _channel_axis(node)
    made = []
    for name, axis in kernels.items():
        kernel = constants[name]
        shared = sum(1 for n in graph.node for i in n.input if i == name)
        if _dtype(kernel.data_type) != "float32" or readers[name] != shared:
            continue
        values = numpy_helper.to_array(kernel)
        found = as_integers(values, axis % values.ndim, _ROUNDING, ("float32",))
        if found is None:
            continue
        codes, scale = found
        per_channel: dict[str, Any] = {"axis": axis % values.ndim}
        per_channel = per_channel if scale.size > 1 else {}
        scales = scale.reshape(-1 if per_channel else ())
        graph.initializer.remove(kernel)
        graph.initializer.extend(
            numpy_helper.from_array(array, f"{name}_{part}")
            for array, part in (
                ((codes.astype("int16") + zero_point).astype(dtype), "integers"),
                (scales, "scale"),
                (np.full(scales.shape, zero_point, dtype), "zero_point"),
            )
        )
        parts = [f"{name}_{part}" for part in ("integers", "scale", "zero_point")]
        made.append(
            helper.make_node(
                "DequantizeLinear", parts, [name], f"{name}_dequantize", **per_channel
            )
        )
    nodes = [*made, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _channel_axis(node: Any) -> int:
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if transposed else _KERNELS[node.op_type]
