"""Layers that share weights with others."""

from __future__ import annotations

from typing import Any

from tfcompress.core.graph import Graph


def tied_operations(graph: Graph) -> dict[int, str]:
    """Returns the layers that share weights with others, by their `id`.

    The values are names of these others. It is the same weight that each of them
    trains, so a rewrite may not give one of them another.
    """
    operations = {id(node.operation): node.operation for node in graph.nodes}
    holders: dict[int, list[Any]] = {}
    for operation in operations.values():
        for variable in getattr(operation, "variables", []):
            holders.setdefault(id(variable), []).append(operation)
    tied: dict[int, str] = {}
    for layers in holders.values():
        for layer in layers if len(layers) > 1 else []:
            tied[id(layer)] = next(x.name for x in layers if x is not layer)
    return tied
