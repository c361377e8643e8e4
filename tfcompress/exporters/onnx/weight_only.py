"""Kernels of weight-only models as integers in ONNX files.

A kernel becomes a `DequantizeLinear` of integers, whose floats are those of the model.
Integers of 4 bits, and steps for blocks, are of opset 21; converters write up to 18.
What changed in between makes nothing else of the operators that they write.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfcompress.exporters.grids import Grid, grid_of
from tfcompress.exporters.tflite.int4 import half_bytes

_OPSET, _IR = 21, 10
# Which input is the kernel, and the axis of its channels.
_KERNELS = {"MatMul": (1, -1), "Gemm": (1, -1), "Conv": (1, 0), "Gather": (0, 0)}


def with_integer_weights(content: bytes) -> bytes:
    """Returns an ONNX file with kernels that lie on a grid as integers.

    Args:
        content: the file of a weight-only model, whose kernels are floats.
    """
    import onnx

    model = onnx.load_from_string(content)
    graph = model.graph
    constants = {one.name: one for one in graph.initializer}
    readers: dict[str, list[tuple[Any, int]]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, place))
    made: list[Any] = []
    small = False
    for name, found in readers.items():
        axis = _channels(found) if name in constants else None
        if axis is None:
            continue
        values = onnx.numpy_helper.to_array(constants[name])
        if values.dtype != np.float32 or values.ndim < 2:
            continue
        axis %= values.ndim
        rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        grid = grid_of(rows, blocks=values.ndim == 2)
        if grid is not None:
            small |= grid.half_bytes
            graph.initializer.remove(constants[name])
            made.append(_dequantized(graph, name, values.shape, axis, grid))
    nodes = [*made, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    if small:
        model.ir_version = max(model.ir_version, _IR)
        for used in model.opset_import:
            if used.domain in ("", "ai.onnx"):
                used.version = max(used.version, _OPSET)
    return model.SerializeToString()


def _channels(readers: list[tuple[Any, int]]) -> int | None:
    """Returns the axis of a kernel's channels; None if it is none to all readers."""
    axes = set()
    for node, place in readers:
        known, axis = _KERNELS.get(node.op_type, (-1, 0))
        if place != known:
            return None
        if any(one.name == "transB" and one.i for one in node.attribute):
            axis = 0
        if any(one.name == "axis" and one.i for one in node.attribute):
            return None
        axes.add(axis)
    return axes.pop() if len(axes) == 1 else None


def _dequantized(
    graph: Any, name: str, shape: tuple[int, ...], axis: int, grid: Grid
) -> Any:
    """Adds the integers and steps of a kernel; returns what makes it of them."""
    from onnx import TensorProto, helper, numpy_helper

    moved = [size for a, size in enumerate(shape) if a != axis]
    integers = np.moveaxis(grid.integers.reshape(-1, *moved), 0, axis)
    integers = np.ascontiguousarray(integers)
    parts = [f"{name}_integers", f"{name}_steps"]
    if grid.half_bytes:
        packed = half_bytes(integers).tobytes()
        kind = TensorProto.INT4
        graph.initializer.append(
            helper.make_tensor(parts[0], kind, shape, packed, raw=True)
        )
    else:
        graph.initializer.append(numpy_helper.from_array(integers, parts[0]))
    options: dict[str, Any] = {"axis": axis}
    steps = grid.steps.ravel()
    if grid.steps.shape[1] > 1:
        options = {"axis": 1 - axis, "block_size": grid.block_size}
        steps = np.ascontiguousarray(np.moveaxis(grid.steps, 0, axis))
    graph.initializer.append(numpy_helper.from_array(steps, parts[1]))
    return helper.make_node(
        "DequantizeLinear", parts, [name], f"{name}_dequantize", **options
    )
