"""A served graph computes per request only what depends on the request.

A finalized model divides its kernels by their steps and rounds them, and takes numbers
off a grid and puts them on the same one again. All of that is exact, and here it is
done once: what no input reaches becomes a constant or a held weight, and whole numbers
are passed on as they are. Each rule gives the same floats to the last bit.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from tfcompress.exporters.saved_model.graph import producer, with_port

# What a positive factor may be taken out of without changing a bit: these choose or
# move numbers. All inputs but the first say which.
_CHOOSING = frozenset(
    {
        *("Identity", "Relu", "Reshape", "Squeeze", "ExpandDims", "Transpose"),
        *("StridedSlice", "MaxPool", "SpaceToBatchND", "BatchToSpaceND", "GatherV2"),
        *("ResizeNearestNeighbor", "Tile", "ReverseV2", "BroadcastTo"),
    }
)
# DT_FLOAT and DT_INT32.
_FLOAT, _INT32 = 1, 3
_ROUNDING = frozenset({"Round", "Floor", "Rint"})
# Whole numbers below this, times a number and divided by it, are off by less than half.
_SMALL = 2.0**20
# Sums of products of whole numbers up to this are exact in float32, and those of the
# scaled numbers are off by far less than half a step.
_EXACT = 2.0**22
_QUARTER = 0.25
_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2")


@dataclasses.dataclass
class Served:
    """The nodes of a graph, by name, and what is known of their tensors.

    Attributes:
        nodes: node definitions; those that rules add are there too.
        shapes: static shapes by tensor.
        values: arrays by tensor, of what no input reaches and no variable either.
        weights: arrays by tensor, of what is made of variables only.
    """

    nodes: dict[str, Any]
    shapes: dict[str, Any]
    values: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        self.readers: dict[str, list[Any]] = {}
        for node in self.nodes.values():
            for tensor in node.input:
                self.readers.setdefault(producer(tensor), []).append(node)

    def maker(self, tensor: str) -> Any:
        """Returns the node that makes a tensor; None of an argument."""
        node = self.nodes.get(producer(tensor))
        while node is not None and node.op == "Identity" and len(node.input) == 1:
            node = self.nodes.get(producer(node.input[0]))
        return node

    def number(self, tensor: str) -> float | None:
        """Returns a constant that is one number."""
        value = self.values.get(with_port(tensor))
        return float(value.item()) if value is not None and value.size == 1 else None

    def added(self, like: Any, inputs: list[str], ending: str) -> str:
        """Adds a copy of a node that reads something else, and returns its name."""
        name = f"{like.name}/{ending}"
        if name not in self.nodes:
            node = type(like)()
            node.CopyFrom(like)
            node.name = name
            del node.input[:]
            node.input.extend(inputs)
            self.nodes[name] = node
            for place in range(4):
                if f"{like.name}:{place}" in self.shapes:
                    shape = self.shapes[f"{like.name}:{place}"]
                    self.shapes[f"{name}:{place}"] = shape
        return name


def simplify(served: Served) -> None:
    """Rewrites the nodes by rules that change no bit of any number."""
    for rule in (_rounding, _casting, _leaving, _clip, _known_shape):
        for node in list(served.nodes.values()):
            rule(served, node)


def _rounding(served: Served, node: Any) -> None:
    """Passes whole numbers on that were scaled, and are rounded to the same step."""
    whole = _rounded_again(served, node) if node.op == "Round" else None
    if whole is not None:
        _replace(node, "Identity", [whole], "T")


def _casting(served: Served, node: Any) -> None:
    """Adds small whole numbers in the type that they come in, and go to."""
    if node.op != "Cast" or node.attr["DstT"].type != _FLOAT:
        return
    sum_, source = _made_by(served, node.input[0], "AddV2"), None
    if sum_ is not None:
        source = _made_by(served, sum_.input[0], "Cast")
    if sum_ is None or source is None or source.attr["SrcT"].type != _FLOAT:
        return
    offset, whole = served.number(sum_.input[1]), source.input[0]
    if offset is None or not offset.is_integer() or not _is_whole(served, whole):
        return
    if abs(offset) + _largest(served, whole) > 2 * _EXACT:
        return
    served.values[f"{node.name}/offset:0"] = np.array(offset, "float32")
    _replace(node, "AddV2", [whole, f"{node.name}/offset"], "T")
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
        _replace(node, "Identity", [node.input[0]], "T")


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
        _replace(node, "AddV2", [node.input[0], f"{node.name}/zero"], "T")


def _rounded_again(served: Served, node: Any) -> str | None:
    """Returns the whole numbers that a rounding finds again.

    `round(s * n / s)` is `n` for whole `n` below 2 ** 20, in float32 and in float64:
    each operation is off by a share of 2 ** -24. Larger numbers count as well where
    they are cut off just behind, far below.
    """
    scaled = _made_by(served, node.input[0], "RealDiv", "Mul")
    if scaled is None:
        return None
    factor = served.number(scaled.input[1])
    if not factor or factor <= 0 or not math.isfinite(factor):
        return None
    step = factor if scaled.op == "RealDiv" else 1 / factor
    source = scaled.input[0]
    cast = served.maker(source)
    wide = cast is not None and cast.op == "Cast"
    found = _integers(served, cast.input[0] if wide else source)
    if found is None:
        return None
    whole, apart = found[0], abs(found[1] / step - 1)
    product = _made_by(served, whole, "Mul", *_PRODUCTS) is not None
    largest = _largest(served, whole)
    if largest > (_EXACT if product else _SMALL):
        if not _cut_off(served, node):
            return None
        largest = _SMALL
    # The two steps may differ by their own rounding, which larger numbers multiply.
    if largest * apart > _QUARTER:
        return None
    return served.added(cast, [whole], "of_integers") if wide else whole


def _integers(served: Served, tensor: str) -> tuple[str, float] | None:
    """Returns whole numbers and a step whose product a tensor is, if it is one."""
    node = served.maker(tensor)
    if node is None or with_port(tensor)[-2:] != ":0":
        return None
    if node.op in ("Mul", *_PRODUCTS):
        step = served.number(node.input[1])
        if step is None:
            return _product(served, node)
        known = step > 0 and _is_whole(served, node.input[0])
        return (node.input[0], step) if known else None
    if node.op not in _CHOOSING:
        return None
    found = _integers(served, node.input[0])
    if found is None:
        return None
    inputs = [found[0], *node.input[1:]]
    return served.added(node, inputs, "of_integers"), found[1]


def _product(served: Served, node: Any) -> tuple[str, float] | None:
    """Returns the whole numbers and the step of a product of small whole numbers."""
    first, second = (_integers(served, tensor) for tensor in node.input)
    if first is None or second is None:
        return None
    product = served.added(node, [first[0], second[0]], "of_integers")
    if _largest(served, product) > _EXACT:
        return None
    return product, first[1] * second[1]


def _made_by(served: Served, tensor: str, *kinds: str) -> Any:
    node = served.maker(tensor)
    return node if node is not None and node.op in kinds else None


def _is_whole(served: Served, tensor: str) -> bool:
    """Returns whether a tensor holds whole numbers only."""
    value = served.values.get(with_port(tensor))
    if value is not None:
        return bool(value.dtype.kind == "f" and np.array_equal(value, np.rint(value)))
    node = served.maker(tensor)
    if node is None:
        return False
    if node.op in _ROUNDING:
        return True
    if node.op in ("Minimum", "Maximum", "Sub", "AddV2", "Neg", "Mul", *_PRODUCTS):
        return all(_is_whole(served, one) for one in node.input)
    # Of integers, or of wider floats that hold whole numbers.
    return node.op in _CHOOSING | {"Cast"} and _is_whole(served, node.input[0])


def _largest(served: Served, tensor: str) -> float:
    """Returns what whole numbers are at most, away from zero."""
    value = served.values.get(with_port(tensor))
    if value is not None:
        return float(np.abs(value).max(initial=0.0))
    node = served.maker(tensor)
    if node is None:
        return math.inf
    if node.op in _CHOOSING:
        return _largest(served, node.input[0])
    if node.op in ("Mul", *_PRODUCTS):
        return _summands(served, node) * math.prod(
            _largest(served, one) for one in node.input
        )
    bounds = _bounds(served, node)
    return math.inf if bounds is None else max(map(abs, bounds))


def _summands(served: Served, node: Any) -> float:
    """Returns how many products a product of matrices adds up."""
    if node.op == "Mul":
        return 1
    shape = served.shapes.get(with_port(node.input[0]))
    size = shape[-2 if _is_set(node, "adj_x", "transpose_a") else -1] if shape else None
    return math.inf if size is None else size


def _is_set(node: Any, *names: str) -> bool:
    # Asking a protocol buffer for a name makes it one of its names.
    return any(node.attr[name].b for name in names if name in node.attr)


def _bounds(served: Served, node: Any) -> tuple[float, float] | None:
    """Returns the ends at which a node cuts off, `max(min(x, high), low)`."""
    inner = served.maker(node.input[0]) if node.op == "Maximum" else None
    if inner is None or inner.op != "Minimum":
        return None
    low, high = served.number(node.input[1]), served.number(inner.input[1])
    return None if low is None or high is None else (low, high)


def _cut_off(served: Served, node: Any) -> bool:
    """Returns whether all that read a node cut it off well below `_SMALL`."""
    readers = served.readers.get(node.name, [])
    for one in readers:
        behind = served.readers.get(one.name, [])
        ends = [_bounds(served, other) for other in behind if one.op == "Minimum"]
        if not ends or any(e is None or max(map(abs, e)) > _SMALL / 8 for e in ends):
            return False
    return bool(readers)


def _clip(served: Served, node: Any) -> None:
    """Makes one operation of two that cut off at both ends."""
    if node.op == "Maximum" and _bounds(served, node) is not None:
        inner = served.maker(node.input[0])
        inputs = [inner.input[0], node.input[1], inner.input[1]]
        _replace(node, "ClipByValue", inputs, "T")


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
        if matrix and not _is_set(product, "transpose_a", "transpose_b"):
            shape = [shape[0], matrix[0]]
    sizes = [-1 if size is None else size for size in shape]
    if sizes.count(-1) > 1 or 0 in sizes:
        return
    served.values[f"{node.name}/sizes:0"] = np.array(sizes, "int32")
    node.input[1] = f"{node.name}/sizes"
    node.attr["Tshape"].type = _INT32


def _replace(node: Any, op: str, inputs: list[str], kept: str) -> None:
    for name in set(node.attr) - {kept}:
        del node.attr[name]
    node.op = op
    del node.input[:]
    node.input.extend(inputs)
