"""Rewriting an ONNX graph so that each operator reads integers and gives integers.

QNN computes an operator in integers where it stands right between `DequantizeLinear`
and `QuantizeLinear`. In the file of `format="onnx"` those that only move numbers do
not, and the bias of a matrix product is added behind a reshape. Numbers stay the same.
"""

from __future__ import annotations

from typing import Any

# Operators that only move numbers, or choose among them.
_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})
_MOVES = _RESHAPES | {
    "Concat",
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
# The domain of operators that ONNX got later than the files that tf2onnx writes.
_MICROSOFT = "com.microsoft"
_CLIPS = frozenset({"Clip", "Relu"})


def in_integer_units(content: bytes) -> bytes:
    """Returns the ONNX model with integers before and behind each of its operators."""
    import onnx

    model = onnx.load_from_string(content)
    if _join_gelus(model.graph):
        model.opset_import.append(onnx.helper.make_opsetid(_MICROSOFT, 1))
    _join_biases(model.graph)
    _clip_before_reshapes(model.graph)
    _quantize_moves(model.graph)
    return model.SerializeToString()


def _readers(graph: Any) -> dict[str, list[Any]]:
    """Returns the nodes that read each tensor; None where it is an output."""
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for output in graph.output:
        readers.setdefault(output.name, []).append(None)
    return readers


def _makers(graph: Any) -> dict[str, Any]:
    return {name: node for node in graph.node for name in node.output}


def _only(readers: dict[str, list[Any]], name: str) -> Any:
    """Returns the one node that reads a tensor; None if there are others."""
    found = readers.get(name, ())
    return found[0] if len(found) == 1 else None


def _join_gelus(graph: Any) -> bool:
    """Makes one `Gelu` of x / 2 * (1 - erf(-x / sqrt(2))); tells whether there are any.

    The tanh form stays as it is, which the NPU does not know.
    """
    from onnx import helper

    made, readers = _makers(graph), _readers(graph)
    gelus = {}
    for erf in graph.node:
        root = made.get(erf.input[0]) if erf.op_type == "Erf" else None
        rest = _only(readers, erf.output[0])
        product = _only(readers, rest.output[0]) if rest is not None else None
        negative = made.get(root.input[0]) if root is not None else None
        kinds = [one and one.op_type for one in (root, negative, rest, product)]
        if kinds == ["Mul", "Neg", "Sub", "Mul"] and rest and product and negative:
            halves = [made.get(n) for n in product.input if n != rest.output[0]]
            if halves and halves[0] and negative.input[0] in halves[0].input:
                gone = (root, negative, erf, rest, halves[0])
                gelus[product.output[0]] = negative.input[0], product, gone
    for output, (x, product, gone) in gelus.items():
        gelu = helper.make_node(
            "Gelu", [x], [output], name=product.name, domain=_MICROSOFT
        )
        graph.node.insert(list(graph.node).index(product), gelu)
        for node in (product, *gone):
            graph.node.remove(node)
    return bool(gelus)


def _join_biases(graph: Any) -> None:
    """Makes one `Gemm` of `MatMul`, `Reshape` and `Add`, with the reshape behind it."""
    sizes = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    made, readers = _makers(graph), _readers(graph)
    for node in list(graph.node):
        kernel = made.get(node.input[1]) if node.op_type == "MatMul" else None
        if kernel is None or len(sizes.get(kernel.input[0], ())) != 2:
            continue
        reshape = _only(readers, node.output[0])
        if reshape is None or reshape.op_type != "Reshape":
            continue
        added = _only(readers, reshape.output[0])
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


def _clip_before_reshapes(graph: Any) -> None:
    """Swaps a reshape and the activation behind it, which then follows its kernel."""
    made, readers = _makers(graph), _readers(graph)
    for node in list(graph.node):
        reshape = made.get(node.input[0]) if node.op_type in _CLIPS else None
        if reshape is None or reshape.op_type not in _RESHAPES:
            continue
        kernel = made.get(reshape.input[0])
        lonely = _only(readers, reshape.output[0]) is node
        if kernel is None or kernel.op_type == "DequantizeLinear" or not lonely:
            continue
        first, between, last = reshape.input[0], reshape.output[0], node.output[0]
        node.input[0], node.output[0] = first, between
        reshape.input[0], reshape.output[0] = between, last
        nodes = list(graph.node)
        here, there = nodes.index(reshape), nodes.index(node)
        nodes[here], nodes[there] = node, reshape
        del graph.node[:]
        graph.node.extend(nodes)


def _quantize_moves(graph: Any) -> None:
    """Puts integers behind what moves numbers, and before it."""
    from onnx import helper

    readers, wanted = _readers(graph), _wanted(graph)
    grids: dict[str, tuple[str, ...]] = {}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "DequantizeLinear":
            grids[node.output[0]] = tuple(node.input[1:])
        if node.op_type in ("DequantizeLinear", "QuantizeLinear"):
            continue
        kept = None
        if node.op_type in _MOVES:
            moved = node.input if node.op_type == "Concat" else node.input[:1]
            found = {grids.get(name) for name in moved}
            kept = found.pop() if len(found) == 1 else None
        for position, name in enumerate(node.output):
            grid = kept or wanted.get(name)
            behind = [one.op_type if one else "" for one in readers.get(name, ())]
            if grid is None or set(behind) == {"QuantizeLinear"}:
                continue
            raw, integers = f"{name}_raw", f"{name}_integers"
            node.output[position] = raw
            nodes += [
                helper.make_node(
                    "QuantizeLinear", [raw, *grid], [integers], f"{raw}_q"
                ),
                helper.make_node("DequantizeLinear", [integers, *grid], [name], name),
            ]
            grids[name] = grid
    del graph.node[:]
    graph.node.extend(nodes)


def _wanted(graph: Any) -> dict[str, tuple[str, ...]]:
    """Returns the scales that tensors get only behind what moves them."""
    readers = _readers(graph)
    wanted: dict[str, tuple[str, ...]] = {}
    for node in reversed(graph.node):
        if node.op_type == "QuantizeLinear":
            wanted[node.input[0]] = tuple(node.input[1:])
        elif node.op_type in _RESHAPES | {"Transpose"}:
            grid = wanted.get(node.output[0])
            alone = _only(readers, node.input[0]) and _only(readers, node.output[0])
            if grid is not None and alone:
                wanted[node.input[0]] = grid
    return wanted
