"""Rewriting an ONNX graph so that each operator reads integers and gives integers.

QNN computes an operator in integers where it stands right between `DequantizeLinear`
and `QuantizeLinear`. In the file of `format="onnx"` those that only move numbers do
not, and the bias of a matrix product is added behind a reshape. Numbers stay the same.
"""

from __future__ import annotations

from typing import Any

from tfcompress.exporters.qnn.clips import write_out_clips
from tfcompress.exporters.qnn.nodes import (
    MICROSOFT,
    Grid,
    grids_of,
    makers_of,
    numbers_of,
    only,
    readers_of,
    replace_nodes,
    rounding,
)
from tfcompress.exporters.qnn.wide import widen_sums

# Operators that only move numbers, or choose among them.
_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
# They take numbers from all of their inputs, not only from the first.
_CHOICES = frozenset({"Concat", "Max", "Min"})
_MOVES = (
    _RESHAPES
    | _CHOICES
    | {
        "DepthToSpace",
        "Expand",
        "Gather",
        "MaxPool",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Tile",
        "Transpose",
    }
)


def in_integer_units(content: bytes, exact_sums: bool = True) -> bytes:
    """Returns the ONNX model with integers before and behind each of its operators.

    Args:
        content: the model.
        exact_sums: whether sums are computed in 16 bits.
    """
    import onnx

    model = onnx.load_from_string(content)
    model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    _join_gelus(model.graph)
    _join_biases(model.graph)
    write_out_clips(model.graph, _wanted(model.graph))
    _quantize_moves(model.graph)
    if exact_sums:
        widen_sums(model.graph)
    _name_wide_operators(model.graph)
    return model.SerializeToString()


def _name_wide_operators(graph: Any) -> None:
    """Gives operators of 16 bits the domain that has them."""
    wide = {name for name, zero in numbers_of(graph).items() if zero.dtype == "uint16"}
    for node in graph.node:
        if wide.intersection(node.input):
            node.domain = MICROSOFT


def _join_gelus(graph: Any) -> None:
    """Makes one `Gelu` of x / 2 * (1 - erf(-x / sqrt(2))).

    The tanh form stays as it is, which the NPU does not know.
    """
    from onnx import helper

    made, readers = makers_of(graph), readers_of(graph)
    gelus = {}
    for erf in graph.node:
        root = made.get(erf.input[0]) if erf.op_type == "Erf" else None
        rest = only(readers, erf.output[0])
        product = only(readers, rest.output[0]) if rest is not None else None
        negative = made.get(root.input[0]) if root is not None else None
        kinds = [one and one.op_type for one in (root, negative, rest, product)]
        if kinds == ["Mul", "Neg", "Sub", "Mul"] and rest and product and negative:
            halves = [made.get(n) for n in product.input if n != rest.output[0]]
            if halves and halves[0] and negative.input[0] in halves[0].input:
                gone = (root, negative, erf, rest, halves[0])
                gelus[product.output[0]] = negative.input[0], product, gone
    for output, (x, product, gone) in gelus.items():
        gelu = helper.make_node(
            "Gelu", [x], [output], name=product.name, domain=MICROSOFT
        )
        graph.node.insert(list(graph.node).index(product), gelu)
        for node in (product, *gone):
            graph.node.remove(node)


def _join_biases(graph: Any) -> None:
    """Makes one `Gemm` of `MatMul`, `Reshape` and `Add`, with the reshape behind it."""
    sizes = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    made, readers = makers_of(graph), readers_of(graph)
    for node in list(graph.node):
        kernel = made.get(node.input[1]) if node.op_type == "MatMul" else None
        if kernel is None or len(sizes.get(kernel.input[0], ())) != 2:
            continue
        reshape = only(readers, node.output[0])
        if reshape is None or reshape.op_type != "Reshape":
            continue
        added = only(readers, reshape.output[0])
        if added is None or added.op_type != "Add":
            continue
        biases = [name for name in added.input if len(sizes.get(name, ())) == 1]
        before = made.get(node.input[0])
        if before is None or before.op_type != "Reshape":
            continue
        if len(biases) == 1 and sizes.get(before.input[1]) == (2,):
            node.op_type = "Gemm"
            node.input.append(biases[0])
            reshape.output[0] = added.output[0]
            graph.node.remove(added)


def _quantize_moves(graph: Any) -> None:
    """Puts integers behind what moves numbers, and before it."""
    readers, wanted, grids = readers_of(graph), _wanted(graph), grids_of(graph)
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type in ("DequantizeLinear", "QuantizeLinear"):
            continue
        kept = None
        if node.op_type in _MOVES:
            moved = node.input if node.op_type in _CHOICES else node.input[:1]
            found = {grids.get(name) for name in moved}
            kept = found.pop() if len(found) == 1 else None
        for position, name in enumerate(node.output):
            grid = kept or wanted.get(name)
            behind = [one.op_type if one else "" for one in readers.get(name, ())]
            if grid is None or set(behind) == {"QuantizeLinear"}:
                continue
            node.output[position] = f"{name}_raw"
            nodes += rounding(f"{name}_raw", name, grid)
            grids[name] = grid
    replace_nodes(graph, nodes)


def _wanted(graph: Any) -> dict[str, Grid]:
    """Returns the scales that tensors get only behind what moves them."""
    readers = readers_of(graph)
    wanted: dict[str, Grid] = {}
    for node in reversed(graph.node):
        if node.op_type == "QuantizeLinear":
            wanted[node.input[0]] = tuple(node.input[1:])
        elif node.op_type in _RESHAPES | {"Transpose"}:
            grid = wanted.get(node.output[0])
            alone = only(readers, node.input[0]) and only(readers, node.output[0])
            if grid is not None and alone:
                wanted[node.input[0]] = grid
    return wanted
