"""A served graph computes per request only what depends on the request.

A finalized model divides its kernels by their steps and rounds them, and takes numbers
off a grid and puts them on the same one again. All of that is exact, and here it is
done once: what no input reaches becomes a constant or a held weight, and whole numbers
are passed on as they are. Each rule gives the same floats to the last bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tfcompress.exporters.saved_model.graph import with_port
from tfcompress.exporters.saved_model.products import settle
from tfcompress.exporters.saved_model.served_nodes import Served, replace
from tfcompress.exporters.saved_model.slices import take_apart
from tfcompress.exporters.saved_model.sums import add_in_float32
from tfcompress.exporters.saved_model.tables import look_up
from tfcompress.exporters.saved_model.whole_numbers import (
    EXACT,
    PRODUCTS,
    bounds,
    integers,
    is_set,
    is_whole,
    largest,
    made_by,
)
from tfcompress.exporters.saved_model.zeros import Zeros

# DT_FLOAT and DT_INT32.
_FLOAT, _INT32 = 1, 3
# Whole numbers below this, times a number and divided by it, are off by less than half.
_SMALL = 2.0**20
_QUARTER = 0.25


def simplify(served: Served) -> None:
    """Rewrites the nodes by rules that change no bit of any number."""
    for rule in (_rounding, _casting, _leaving, _clip, _scalar_product):
        for node in served.alive():
            rule(served, node)
    add_in_float32(served)
    look_up(served)
    _forget_zeros(served)
    settle(served)
    take_apart(served)
    for node in served.alive():
        _known_shape(served, node)


def _forget_zeros(served: Served) -> None:
    """Leaves out what makes zero of minus zero where nobody can tell the two apart."""
    living = served.alive()
    zeros = Zeros(served)
    for node in living:
        idle = node.op == "AddV2" and served.number(node.input[1]) == 0
        if idle and zeros.are_alike(node):
            replace(node, "Identity", [node.input[0]], "T")


def _rounding(served: Served, node: Any) -> None:
    """Passes whole numbers on that were scaled, and are rounded to the same step."""
    whole = _rounded_again(served, node) if node.op == "Round" else None
    if whole is not None:
        replace(node, "Identity", [whole], "T")


def _casting(served: Served, node: Any) -> None:
    """Adds small whole numbers in the type that they come in, and go to."""
    if node.op != "Cast" or node.attr["DstT"].type != _FLOAT:
        return
    sum_, source = made_by(served, node.input[0], "AddV2"), None
    if sum_ is not None:
        source = made_by(served, sum_.input[0], "Cast")
    if sum_ is None or source is None or source.attr["SrcT"].type != _FLOAT:
        return
    offset, whole = served.number(sum_.input[1]), source.input[0]
    if offset is None or not offset.is_integer() or not is_whole(served, whole):
        return
    if abs(offset) + largest(served, whole) > 2 * EXACT:
        return
    served.values[f"{node.name}/offset:0"] = np.array(offset, "float32")
    replace(node, "AddV2", [whole, f"{node.name}/offset"], "T")
    node.attr["T"].type = _FLOAT


def _leaving(served: Served, node: Any) -> None:
    """Leaves out what leaves every bit as it was."""
    idle = False
    if node.op == "Sub":
        idle = served.number(node.input[1]) == 0
    elif node.op == "Transpose":
        order = served.values.get(with_port(node.input[1]))
        idle = order is not None and np.array_equal(order, np.arange(order.size))
    elif node.op == "DepthwiseConv2dNative":
        _weigh_nothing(served, node)
    if idle:
        replace(node, "Identity", [node.input[0]], "T")


def _weigh_nothing(served: Served, node: Any) -> None:
    """Leaves out a convolution of single pixels by ones, which converters need.

    It adds each number to zero, and so does what stands in its place: to minus zero,
    that makes a difference.
    """
    kernel = served.weights.get(with_port(node.input[1]))
    if kernel is None or kernel.shape[:2] != (1, 1) or kernel.shape[3] != 1:
        return
    if np.all(kernel == 1) and set(node.attr["strides"].list.i) == {1}:
        served.values[f"{node.name}/zero:0"] = np.zeros((), "float32")
        replace(node, "AddV2", [node.input[0], f"{node.name}/zero"], "T")


def _scalar_product(served: Served, node: Any) -> None:
    """Multiplies whole numbers and adds them up where matrices have one row or column.

    A product of matrices costs more than its numbers where there is one for each row.
    """
    if node.op != "BatchMatMulV2" or is_set(node, "adj_x", "adj_y"):
        return
    row, column = (served.shape(tensor) for tensor in node.input)
    if row is None or column is None or row[:-2] != column[:-2]:
        return
    if (row[-2], column[-1]) != (1, 1) or len(row) < 3:
        return
    if not is_whole(served, node.name) or largest(served, node.name) > EXACT:
        return
    first = _without_axis(served, node.input[0], -2)
    second = _without_axis(served, node.input[1], -1)
    if first is None or second is None:
        return
    flat = [first, second]
    name, shape = node.name, [*row[:-2], row[-1]]
    served.made(f"{name}/products", "Mul", flat, shape, T=_FLOAT)
    last = served.constant(f"{name}/last", np.array([-1], "int32"))
    inputs, kinds = [f"{name}/products", last], {"T": _FLOAT, "Tidx": _INT32}
    served.made(f"{name}/sum", "Sum", inputs, [*row[:-2], 1], **kinds)
    served.nodes[f"{name}/sum"].attr["keep_dims"].b = True
    replace(node, "ExpandDims", [f"{name}/sum", last], "T")
    node.attr["Tdim"].type = _INT32


def _without_axis(served: Served, tensor: str, axis: int) -> str | None:
    """Returns what an axis was added to."""
    node = made_by(served, tensor, "ExpandDims")
    added = served.number(node.input[1]) if node is not None else None
    shape = served.shape(tensor)
    if added is None or shape is None or added % len(shape) != axis % len(shape):
        return None
    return node.input[0]


def _rounded_again(served: Served, node: Any) -> str | None:
    """Returns the whole numbers that a rounding finds again.

    `round(s * n / s)` is `n` for whole `n` below 2 ** 20, in float32 and in float64:
    each operation is off by a share of 2 ** -24. Larger numbers count as well where
    they are cut off just behind, far below.
    """
    scaled = made_by(served, node.input[0], "RealDiv", "Mul")
    if scaled is None:
        return None
    factor = served.number(scaled.input[1])
    if not factor or factor <= 0 or not math.isfinite(factor):
        return None
    step = factor if scaled.op == "RealDiv" else 1 / factor
    source = scaled.input[0]
    cast = served.maker(source)
    wide = cast is not None and cast.op == "Cast"
    found = integers(served, cast.input[0] if wide else source)
    if found is None:
        return None
    whole, apart = found[0], abs(found[1] / step - 1)
    product = made_by(served, whole, "Mul", *PRODUCTS) is not None
    most = largest(served, whole)
    if most > (EXACT if product else _SMALL):
        if not _cut_off(served, node):
            return None
        most = _SMALL
    # The two steps may differ by their own rounding, which larger numbers multiply.
    if most * apart > _QUARTER:
        return None
    return served.added(cast, [whole], "of_integers") if wide else whole


def _cut_off(served: Served, node: Any) -> bool:
    """Returns whether all that read a node cut it off well below `_SMALL`."""
    readers = served.readers.get(node.name, [])
    for one in readers:
        behind = served.readers.get(one.name, [])
        ends = [bounds(served, other) for other in behind if one.op == "Minimum"]
        if not ends or any(e is None or max(map(abs, e)) > _SMALL / 8 for e in ends):
            return False
    return bool(readers)


def _clip(served: Served, node: Any) -> None:
    """Makes one operation of two that cut off at both ends."""
    if node.op == "Maximum" and bounds(served, node) is not None:
        inner = served.maker(node.input[0])
        inputs = [inner.input[0], node.input[1], inner.input[1]]
        replace(node, "ClipByValue", inputs, "T")


def _known_shape(served: Served, node: Any) -> None:
    """Lets a reshaping know its shape where one size at most depends on the request."""
    shape = served.shapes.get(f"{node.name}:0")
    if (
        node.op != "Reshape"
        or shape is None
        or with_port(node.input[1]) in served.values
    ):
        return
    readers = served.readers.get(node.name, [])
    if len(shape) == 2 and [one.op for one in readers] == ["MatMul"]:
        # The matrix that it is multiplied by knows how many columns it has.
        (product,) = readers
        matrix = served.shapes.get(with_port(product.input[1]))
        if matrix and not is_set(product, "transpose_a", "transpose_b"):
            shape = [shape[0], matrix[0]]
    sizes = [-1 if size is None else size for size in shape]
    if sizes.count(-1) > 1 or 0 in sizes:
        return
    served.values[f"{node.name}/sizes:0"] = np.array(sizes, "int32")
    node.input[1] = f"{node.name}/sizes"
    node.attr["Tshape"].type = _INT32
