"""Which tensors of a served graph hold whole numbers, and between which ends."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tfcompress.exporters.saved_model.graph import with_port
from tfcompress.exporters.saved_model.served_nodes import Served

# What a positive factor may be taken out of without changing a bit: these choose or
# move numbers. All inputs but the first say which.
CHOOSING = frozenset(
    {
        *("Identity", "Relu", "Reshape", "Squeeze", "ExpandDims", "Transpose"),
        *("StridedSlice", "MaxPool", "SpaceToBatchND", "BatchToSpaceND", "GatherV2"),
        *("ResizeNearestNeighbor", "Tile", "ReverseV2", "BroadcastTo"),
    }
)
ROUNDING = frozenset({"Round", "Floor", "Rint"})
# Sums of products of whole numbers up to this are exact in float32, and those of the
# scaled numbers are off by far less than half a step.
EXACT = 2.0**22
_WHOLE_OF_WHOLE = frozenset(
    {"Minimum", "Maximum", "ClipByValue", "Sub", "AddV2", "Neg", "Mul"}
)
PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2")


def integers(served: Served, tensor: str) -> tuple[str, float] | None:
    """Returns whole numbers and a step whose product a tensor is, if it is one."""
    node = served.maker(tensor)
    if node is None or with_port(tensor)[-2:] != ":0":
        return None
    if node.op in ("Mul", *PRODUCTS):
        step = served.number(node.input[1])
        if step is None:
            return _product(served, node)
        known = step > 0 and is_whole(served, node.input[0])
        return (node.input[0], step) if known else None
    if node.op not in CHOOSING | {"Mean"}:
        return None
    found = integers(served, node.input[0])
    if found is None:
        return None
    inputs = [found[0], *node.input[1:]]
    if node.op == "Mean":
        return _sum(served, node, inputs, found[1])
    return served.added(node, inputs, "of_integers"), found[1]


def _sum(
    served: Served, node: Any, inputs: list[str], step: float
) -> tuple[str, float] | None:
    """Returns the sum that a mean divides, if the mean is near enough to find it."""
    count = averaged(served, node)
    total = count * largest(served, inputs[0])
    # Each addition of the mean is off by a share of 2 ** -24 of the sum.
    if not total <= EXACT or not count * total <= 2.0**21:
        return None
    name = served.added(node, inputs, "sum_of_integers")
    served.nodes[name].op = "Sum"
    return name, step / count


def averaged(served: Served, node: Any) -> float:
    """Returns how many numbers a mean or a sum adds up."""
    shape = served.shape(node.input[0])
    axes = served.values.get(with_port(node.input[1]))
    if shape is None or axes is None:
        return math.inf
    sizes = [shape[axis] for axis in axes.reshape(-1)]
    return math.inf if None in sizes else math.prod(sizes)


def _product(served: Served, node: Any) -> tuple[str, float] | None:
    """Returns the whole numbers and the step of a product of small whole numbers."""
    first, second = (integers(served, tensor) for tensor in node.input)
    if first is None or second is None:
        return None
    product = served.added(node, [first[0], second[0]], "of_integers")
    if largest(served, product) > EXACT:
        return None
    return product, first[1] * second[1]


def made_by(served: Served, tensor: str, *kinds: str) -> Any:
    node = served.maker(tensor)
    return node if node is not None and node.op in kinds else None


def is_whole(served: Served, tensor: str) -> bool:
    """Returns whether a tensor holds whole numbers only."""
    value = served.values.get(with_port(tensor))
    if value is not None:
        return bool(value.dtype.kind == "f" and np.array_equal(value, np.rint(value)))
    node = served.maker(tensor)
    if node is None:
        return False
    if node.op in ROUNDING:
        return True
    if node.op in _WHOLE_OF_WHOLE or node.op in PRODUCTS:
        return all(is_whole(served, one) for one in node.input)
    if node.op == "Sum":
        return is_whole(served, node.input[0]) and largest(served, tensor) <= EXACT
    # Of integers, or of wider floats that hold whole numbers.
    return node.op in CHOOSING | {"Cast"} and is_whole(served, node.input[0])


def largest(served: Served, tensor: str) -> float:
    """Returns what whole numbers are at most, away from zero."""
    value = served.values.get(with_port(tensor))
    if value is not None:
        return float(np.abs(value).max(initial=0.0))
    node = served.maker(tensor)
    if node is None:
        return math.inf
    if node.op in CHOOSING:
        return largest(served, node.input[0])
    if node.op in ("Mul", *PRODUCTS):
        return _summands(served, node) * math.prod(
            largest(served, one) for one in node.input
        )
    if node.op == "Sum":
        return averaged(served, node) * largest(served, node.input[0])
    ends = bounds(served, node)
    return math.inf if ends is None else max(map(abs, ends))


def _summands(served: Served, node: Any) -> float:
    """Returns how many products a product of matrices adds up."""
    if node.op == "Mul":
        return 1
    shape = served.shapes.get(with_port(node.input[0]))
    size = shape[-2 if is_set(node, "adj_x", "transpose_a") else -1] if shape else None
    return math.inf if size is None else size


def is_set(node: Any, *names: str) -> bool:
    # Asking a protocol buffer for a name makes it one of its names.
    return any(node.attr[name].b for name in names if name in node.attr)


def bounds(served: Served, node: Any) -> tuple[float, float] | None:
    """Returns the ends at which a node cuts off, `max(min(x, high), low)`."""
    if node.op == "ClipByValue":
        low, high = (served.number(tensor) for tensor in node.input[1:])
    else:
        inner = served.maker(node.input[0]) if node.op == "Maximum" else None
        if inner is None or inner.op != "Minimum":
            return None
        low, high = served.number(node.input[1]), served.number(inner.input[1])
    return None if low is None or high is None else (low, high)


def ends_behind(served: Served, node: Any) -> tuple[float, float]:
    """Returns where all that read a node cut it off."""
    readers = served.readers.get(node.name, [])
    found = {bounds(served, reader) for reader in readers}
    return (found.pop() if len(found) == 1 else None) or (-math.inf, math.inf)
