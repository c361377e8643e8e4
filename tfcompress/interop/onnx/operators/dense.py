"""Products with matrices: dense layers, tables, and products of two tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers, ops

from tfcompress.interop.onnx.call import Call, operator
from tfcompress.interop.onnx.refusing import Refused
from tfcompress.interop.onnx.values import Value


@operator("Gemm")
def affine(call: Call) -> Value:
    alpha, beta = call.attribute("alpha", 1.0), call.attribute("beta", 1.0)
    if call.attribute("transA", 0):
        raise Refused("transA=1", "transA=0")
    if isinstance(call.inputs[1], Value) or alpha != 1.0:
        raise Refused(f"a product of two tensors, times {alpha}", "a constant matrix")
    kernel = call.constant(1)
    kernel = kernel.T if call.attribute("transB", 0) else kernel
    bias = call.constant(2, None)
    if bias is not None and beta != 1.0:
        bias = bias * np.float32(beta)
    return _dense(call, kernel, bias)


@operator("MatMul")
def product(call: Call) -> Value:
    if isinstance(call.inputs[0], Value) and isinstance(call.inputs[1], np.ndarray):
        kernel = call.inputs[1]
        if kernel.ndim == 2 and kernel.dtype.kind == "f":
            return _dense(call, kernel, call.constant(2, None))
    first, second = _two(call)
    if first.rank < 2 or second.rank < 2:
        raise Refused("a vector", "two tensors of at least two axes")
    rank = max(first.rank, second.rank)
    first, second = widened(first, rank), widened(second, rank)
    if _batches(first) != _batches(second):
        return _broadcast(call, first, second)
    # Axes that ONNX joined, as of samples and heads, stay as they lie.
    batch = [
        (factor, second.axes[axis][place])
        for axis in range(rank - 2)
        for place, factor in enumerate(first.axes[axis])
    ]
    lying = sorted(batch)
    groups = [
        [*([pair[i]] for pair in lying), value.axes[-2], value.axes[-1]]
        for i, value in enumerate((first, second))
    ]
    tensor = ops.matmul(first.grouped(groups[0]), second.grouped(groups[1]))
    sizes = [*(first.sizes[f] for f, _ in lying), first.shape[-2], second.shape[-1]]
    axes: list[Any] = [
        [lying.index((f, s)) for f, s in zip(first.axes[axis], second.axes[axis])]
        for axis in range(rank - 2)
    ]
    axes += [[len(lying)], [len(lying) + 1]]
    return Value(tensor, sizes, axes, call.name, first.names)


@operator("Einsum")
def einsum(call: Call) -> Value:
    equation = call.attribute("equation").replace(" ", "")
    if "..." in equation or "->" not in equation:
        raise Refused(f"the equation {equation}", "one with an arrow and all axes")
    terms, target = equation.split("->")
    tensors: list[Any] = []
    sizes: dict[str, int] = {}
    for index, term in enumerate(terms.split(",")):
        value = call.inputs[index]
        if isinstance(value, Value):
            tensors.append(value.laid(range(value.rank)))
        else:
            tensors.append(value)
        sizes.update(zip(term, value.shape))
    tensor = ops.einsum(equation, *tensors)
    return call.plain(tensor, [sizes[letter] for letter in target])


def widened(value: Value, rank: int) -> Value:
    """Returns the value with axes of size 1 in front."""
    return value.reshaped((*(1 for _ in range(rank - value.rank)), *value.shape))


def _dense(call: Call, kernel: np.ndarray, bias: np.ndarray | None) -> Value:
    value = call.value()
    if kernel.ndim != 2 or kernel.shape[0] != value.shape[-1]:
        raise Refused(f"a matrix of shape {kernel.shape}", f"{value.shape[-1]} rows")
    row, positions = value.row(value.rank - 1)
    weights = [kernel[positions]]
    if bias is not None:
        weights.append(np.broadcast_to(bias, (1, kernel.shape[1])).reshape(-1))
    units = kernel.shape[1]
    tensor = call.weighted(
        layers.Dense,
        row.raw,
        weights,
        positions.tobytes(),
        units=units,
        use_bias=bias is not None,
    )
    last = len(row.sizes) - 1
    axes = [*row.axes[:-1], (last,)]
    return Value(tensor, [*row.sizes[:-1], units], axes, call.name, value.names)


def _two(call: Call) -> tuple[Value, Value]:
    """Returns both operands; one of them may be a constant."""
    found = call.inputs[:2]
    anchor = next(one for one in found if isinstance(one, Value))
    made = [
        one
        if isinstance(one, Value)
        else call.plain(call.held(one, anchor, index), one.shape)
        for index, one in enumerate(found)
    ]
    return made[0], made[1]


def _batches(value: Value) -> list[list[int]]:
    return [[value.sizes[f] for f in axis] for axis in value.axes[:-2]]


def _broadcast(call: Call, first: Value, second: Value) -> Value:
    order = range(first.rank)
    tensor = ops.matmul(first.laid(order), second.laid(order))
    batch = np.broadcast_shapes(first.shape[:-2], second.shape[:-2])
    return call.plain(tensor, (*batch, first.shape[-2], second.shape[-1]))
