"""Reading and changing the nodes of an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# The domain of operators that ONNX got later than the files that tf2onnx writes.
MICROSOFT = "com.microsoft"
# The names of a scale and of a zero point.
Grid = tuple[str, ...]


def readers_of(graph: Any) -> dict[str, list[Any]]:
    """Returns the nodes that read each tensor; None where it is an output."""
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for output in graph.output:
        readers.setdefault(output.name, []).append(None)
    return readers


def makers_of(graph: Any) -> dict[str, Any]:
    """Returns the node that makes each tensor."""
    return {name: node for node in graph.node for name in node.output}


def only(readers: dict[str, list[Any]], name: str) -> Any:
    """Returns the one node that reads a tensor; None if there are others."""
    found = readers.get(name, ())
    return found[0] if len(found) == 1 else None


def grids_of(graph: Any) -> dict[str, Grid]:
    """Returns the scales of the tensors that integers stand for."""
    return {
        node.output[0]: tuple(node.input[1:])
        for node in graph.node
        if node.op_type == "DequantizeLinear"
    }


def numbers_of(graph: Any) -> dict[str, Any]:
    """Returns the constants of a graph that are single numbers."""
    from onnx import numpy_helper

    single = (one for one in graph.initializer if not one.dims)
    return {one.name: numpy_helper.to_array(one) for one in single}


def rounding(before: str, after: str, grid: Grid) -> list[Any]:
    """Returns the two nodes that make a tensor integers and floats again."""
    from onnx import helper

    integers = f"{after}_integers"
    return [
        helper.make_node("QuantizeLinear", [before, *grid], [integers], f"{after}_q"),
        helper.make_node("DequantizeLinear", [integers, *grid], [after], after),
    ]


def replace_nodes(graph: Any, nodes: Sequence[Any]) -> None:
    """Gives a graph other nodes, in this order."""
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def drop_unread_nodes(graph: Any) -> None:
    """Removes the nodes that nobody reads anything of."""
    count = None
    while count != len(graph.node):
        count, read = len(graph.node), readers_of(graph)
        kept = [node for node in graph.node if any(n in read for n in node.output)]
        replace_nodes(graph, kept)
