"""Masks as tensors of the graph.

Keras hands masks from layer to layer behind the scenes. Wrapped and expanded layers
would lose them, so they are made nodes and arguments like any others.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import keras

from tfcompress.core.attached_mask import AttachedMask
from tfcompress.core.graph import Graph, Node, Tensor, symbolic_inputs, trace_operations


def with_explicit_masks(
    graph: Graph, given: dict[Tensor, Tensor] | None = None
) -> Graph:
    """Returns `graph` with each mask computed by nodes and given to those who read it.

    Source: `keras.layers.Layer.compute_mask`, and the names of the arguments that
    `Layer.__call__` fills in.

    Args:
        graph: the graph.
        given: the masks of inputs that have one.
    """
    masks = dict(given or {})
    nodes: list[Node] = []
    added: set[Node] = set()
    bare: dict[Tensor, Tensor] = {}
    before_masks = 0
    for node in graph.nodes:
        if isinstance(node.operation, AttachedMask):
            tensor = node.inputs[0]
            bare[node.output] = bare.get(tensor, tensor)
            masks[node.output] = node.kwargs["mask"]
            before_masks = len(nodes)
            continue
        node = _with_masks(node, masks)
        nodes.append(node)
        if isinstance(node.operation, keras.Layer) and node.operation.supports_masking:
            made = _mask_nodes(node, masks)
            added.update(made)
            nodes.extend(made)
        if isinstance(node.operation, keras.layers.MultiHeadAttention):
            # It takes the masks off what it reads: who reads that later sees none.
            for tensor in node.inputs:
                masks.pop(tensor, None)
    # Who made an attached mask may have been there for its sake.
    added.update(nodes[:before_masks])
    reading = {node: node.reading(bare) if bare else node for node in nodes}
    graph = graph.substitute(bare, [])
    graph = dataclasses.replace(graph, nodes=[*reading.values()])
    return graph.without_unread({reading[node] for node in added})


def _with_masks(node: Node, masks: dict[Tensor, Tensor]) -> Node:
    """Returns a call with the masks of its tensors among its arguments."""
    if not isinstance(node.operation, keras.Layer):
        return node
    call = inspect.signature(node.operation.call)
    given = call.bind_partial(*node.args, **node.kwargs).arguments
    tensors = {name: value for name, value in given.items() if _has_tensor(value)}
    kwargs = dict(node.kwargs)
    for name, value in tensors.items():
        argument = "mask" if len(tensors) == 1 else f"{name}_mask"
        mask = keras.tree.map_structure(
            lambda leaf: masks.get(leaf) if isinstance(leaf, Tensor) else None, value
        )
        known = any(one is not None for one in keras.tree.flatten(mask))
        if known and argument in call.parameters and argument not in given:
            kwargs[argument] = mask
    if isinstance(node.operation, keras.layers.MultiHeadAttention):
        # It overwrites this argument by the mask that Keras hands on.
        kwargs["query_mask"] = masks.get(tensors["query"])
    return dataclasses.replace(node, kwargs=kwargs)


def _mask_nodes(node: Node, masks: dict[Tensor, Tensor]) -> list[Node]:
    """Returns the nodes that make the mask of what `node` puts out, and notes it."""
    first = node.args[0] if node.args else next(iter(node.kwargs.values()))
    read = node.kwargs.get("mask")  # a mask that is given counts for more
    if read is None:
        read = keras.tree.map_structure(masks.get, first)
    made = node.output_tensors
    if not made or not _has_tensor(first):
        return []
    inputs, (symbolic, previous) = symbolic_inputs((first, read))
    mask = node.operation.compute_mask(symbolic, previous)
    # One mask is that of the first output; a layer that returns states has several.
    each = list(mask) if isinstance(mask, list | tuple) else [mask]
    pairs = [(tensor, one) for tensor, one in zip(made, each) if one is not None]
    if not pairs:
        return []
    model = keras.Model([*inputs.values()], [one for _, one in pairs])
    inner = trace_operations(model).fed_with([*inputs])
    masks.update(zip([tensor for tensor, _ in pairs], inner.output_tensors))
    return inner.nodes


def _has_tensor(structure: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in keras.tree.flatten(structure))
