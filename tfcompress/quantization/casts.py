"""Whole numbers become floats in nodes of their own.

Keras' layers take integers (pixels of 8 bits, encoded categories) and compute in
floats. Rounding needs the tensor in between, so the change of type is made a node.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcompress.core.graph import Graph, Node, Tensor, trace_function

# What these call their data; others of their tensors are indices or conditions.
_DATA = ("x", "x1", "x2", "xs")
# All values of these types, which one integer step apart are exact.
_VALUES = {"uint8": (0.0, 255.0), "int8": (-128.0, 127.0)}


def is_float(tensor: Tensor) -> bool:
    """Returns whether a tensor holds floats."""
    return tensor.dtype.startswith(("float", "bfloat"))


def values_of_cast(node: Node) -> tuple[float, float] | None:
    """Returns the smallest and largest number that a cast can make of its integers."""
    if type(node.operation).__name__ != "Cast":
        return None
    return _VALUES.get(node.inputs[0].dtype)


def with_explicit_casts(graph: Graph, computes: Callable[[Node], bool]) -> Graph:
    """Returns `graph` with a cast in front of what computes floats of integers.

    Casts between floats are left out: ranges are float32 whatever is computed in.

    Args:
        graph: the graph.
        computes: whether a node is one to run in integers.
    """
    casts: dict[Tensor, Node] = {}
    mapping: dict[Tensor, Tensor] = {}
    nodes: list[Node] = []
    outputs = set(graph.output_tensors)
    for node in graph.nodes:
        node = node.reading(mapping)
        if _changes_floats(node) and (
            node.output not in outputs or node.output.dtype == node.inputs[0].dtype
        ):
            mapping[node.output] = node.inputs[0]
            continue
        if any(map(is_float, node.output_tensors)) and computes(node):
            for tensor in _data(node):
                if tensor not in casts:
                    casts[tensor] = cast_of(tensor)
                    nodes.append(casts[tensor])
            made = {tensor: casts[tensor].output for tensor in _data(node)}
            node = node.reading(made)
        nodes.append(node)
    return graph.substitute(mapping, nodes)


def _changes_floats(node: Node) -> bool:
    if type(node.operation).__name__ != "Cast":
        return False
    return is_float(node.inputs[0]) and is_float(node.output)


def _data(node: Node) -> list[Tensor]:
    """Returns the tensors of whole numbers that a node computes with."""
    call = inspect.signature(node.operation.call)
    given = call.bind_partial(*node.args, **node.kwargs).arguments
    if isinstance(node.operation, keras.Layer):
        values: Any = next(iter(given.values()), None)
    else:
        values = [given.get(name) for name in _DATA]
    tensors = [t for t in keras.tree.flatten(values) if isinstance(t, Tensor)]
    return [tensor for tensor in tensors if not is_float(tensor)]


def cast_of(tensor: Tensor) -> Node:
    """Returns a node that makes floats of a tensor."""
    (node,), _ = trace_function([tensor], lambda x: [ops.cast(x, "float32")])
    node.operation.name = f"{tensor.name}_as_float"
    return node
