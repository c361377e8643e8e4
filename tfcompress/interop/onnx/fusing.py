"""Groups of nodes that are one layer in Keras."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from tfcompress.interop.onnx.reading import Node


class Readers:
    """Who makes and who reads each tensor of a graph."""

    def __init__(self, nodes: list[Node], outputs: list[str]):
        self.makers = {name: node for node in nodes for name in node.outputs if name}
        self.readers: dict[str, list[Node]] = {}
        for node in nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
        self.outputs = frozenset(outputs)

    def only(self, name: str) -> Node | None:
        """Returns the one node that reads a tensor; None if others do too."""
        found = self.readers.get(name, [])
        return found[0] if len(found) == 1 and name not in self.outputs else None


def fused(
    nodes: list[Node], constants: dict[str, np.ndarray], outputs: list[str]
) -> list[Node]:
    """Returns the nodes with groups of them replaced by one, where the last stood."""
    readers = Readers(nodes, outputs)
    gone: set[int] = set()
    replaced: dict[int, Node] = {}
    for node in nodes:
        for rule in _RULES:
            found = None if id(node) in gone else rule(node, readers, constants)
            if found is not None:
                group, new = found
                gone |= {id(one) for one in group}
                replaced[id(group[-1])] = new
                break
    return [
        replaced.get(id(node), node)
        for node in nodes
        if id(node) not in gone or id(node) in replaced
    ]


_Group = tuple[list[Node], Node] | None


def _bias(node: Node, readers: Readers, constants: dict) -> _Group:
    """A product with a matrix, and a row that is added: a dense layer."""
    if node.kind != "MatMul" or len(node.inputs) != 2:
        return None
    kernel = constants.get(node.inputs[1])
    after = readers.only(node.outputs[0])
    if kernel is None or kernel.ndim != 2 or after is None or after.kind != "Add":
        return None
    other = [name for name in after.inputs if name != node.outputs[0]]
    bias = constants.get(other[0]) if len(other) == 1 else None
    if bias is None or bias.shape != (kernel.shape[1],):
        return None
    new = dataclasses.replace(
        node, inputs=(*node.inputs, other[0]), outputs=after.outputs
    )
    return [node, after], new


def _silu(node: Node, readers: Readers, constants: dict) -> _Group:
    """x * sigmoid(x)"""
    if node.kind != "Sigmoid":
        return None
    after = readers.only(node.outputs[0])
    if after is None or after.kind != "Mul":
        return None
    if sorted(after.inputs) != sorted((node.inputs[0], node.outputs[0])):
        return None
    return [node, after], _one(after, "Silu", node.inputs[0])


def _gelu(node: Node, readers: Readers, constants: dict) -> _Group:
    """x * (erf(x / sqrt(2)) + 1) / 2, in the order in which PyTorch writes it."""
    if node.kind != "Div" or not _is(constants, node.inputs[1], math.sqrt(2)):
        return None
    group, source = [node], node.inputs[0]
    for kind, number in (("Erf", None), ("Add", 1.0), ("Mul", None), ("Mul", 0.5)):
        after = readers.only(group[-1].outputs[0])
        if after is None or after.kind != kind:
            return None
        others = [name for name in after.inputs if name != group[-1].outputs[0]]
        if number is not None and not (others and _is(constants, others[0], number)):
            return None
        if kind == "Mul" and number is None and others != [source]:
            return None
        group.append(after)
    return group, _one(group[-1], "Gelu", source)


def _is(constants: dict, name: str, number: float) -> bool:
    found = constants.get(name)
    return (
        found is not None
        and found.size == 1
        and math.isclose(float(found.reshape(())), number, rel_tol=1e-5)
    )


def _one(last: Node, kind: str, source: str) -> Node:
    return dataclasses.replace(last, kind=kind, inputs=(source,), attributes={})


_RULES: tuple[Callable[[Node, Readers, dict], _Group], ...] = (_bias, _silu, _gelu)
