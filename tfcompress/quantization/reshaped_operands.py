"""Products and sums of reshaped tensors are computed before the reshaping.

Converters do that too where both operands have one scale. They then give the result of
the operation that scale as well, find that the reshaping behind it would have to change
scales, and refuse the model.
"""

from __future__ import annotations

import dataclasses

from keras import layers

from tfcompress.core.graph import Graph, Node, Tensor
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.graph_roundings import is_fused, rounding_before

_ELEMENTWISE = layers.Add | layers.Subtract | layers.Multiply
_RESHAPES = ("Reshape", "Flatten")


def with_operands_unshaped(graph: Graph) -> Graph:
    """Moves the reshapings of both operands of an operation behind its rounding."""
    producers, consumers = graph.producers(), graph.consumers()
    outputs = set(graph.output_tensors)
    replaced: dict[Node, list[Node]] = {}
    for node in graph.nodes:
        if not isinstance(node.operation, _ELEMENTWISE) or len(node.inputs) != 2:
            continue
        paths = [_reshapings(tensor, producers) for tensor in node.inputs]
        if not all(paths) or not _look_alike(node, paths, producers):
            continue
        chain = _up_to_roundings(node, consumers, outputs)
        if chain:
            replaced |= _moved(chain, paths)
    nodes = [new for node in graph.nodes for new in replaced.get(node, [node])]
    return dataclasses.replace(graph, nodes=nodes)


def _reshapings(tensor: Tensor, producers: dict[Tensor, Node]) -> list[Node]:
    """Returns the reshapings right before a tensor, with roundings between them."""
    path: list[Node] = []
    while (node := producers.get(tensor)) is not None:
        rounds = isinstance(node.operation, FakeQuantize)
        if not rounds and type(node.operation).__name__ not in _RESHAPES:
            break
        path.insert(0, node)
        tensor = node.inputs[0]
    while path and isinstance(path[0].operation, FakeQuantize):
        del path[0]
    return path


def _look_alike(
    node: Node, paths: list[list[Node]], producers: dict[Tensor, Node]
) -> bool:
    """Returns whether a converter would take the two reshapings for one."""
    roundings = [rounding_before(tensor, producers) for tensor in node.inputs]
    shapes = {path[0].inputs[0].shape for path in paths}
    made = {tensor.shape for tensor in node.inputs}
    ranges = {one.learned_range() for one in roundings if one is not None}
    return None not in roundings and len(ranges) == len(shapes) == len(made) == 1


def _up_to_roundings(
    node: Node, consumers: dict[Tensor, list[Node]], outputs: set[Tensor]
) -> list[Node]:
    """Returns an operation and what follows it, up to all roundings of its result."""
    chain = [node]
    while True:
        tensor = chain[-1].output
        readers = consumers.get(tensor, [])
        if tensor in outputs or not readers:
            return []
        if all(isinstance(reader.operation, FakeQuantize) for reader in readers):
            return [*chain, *readers]
        if len(readers) > 1 or not is_fused(readers[0]):
            return []
        chain.append(readers[0])


def _moved(chain: list[Node], paths: list[list[Node]]) -> dict[Node, list[Node]]:
    """Returns the nodes that replace those of a chain."""
    new: dict[Tensor, Tensor] = {}
    before: list[Node] = []
    shape = paths[0][0].inputs[0].shape
    *_, reshaping = (
        node for node in paths[0] if not isinstance(node.operation, FakeQuantize)
    )
    for tensor, path in zip(chain[0].inputs, paths):
        new[tensor] = path[0].inputs[0]
        for node in path:
            if isinstance(node.operation, FakeQuantize):
                rounded = Tensor(shape, "float32")
                before.append(
                    dataclasses.replace(node, args=(new[tensor],), outputs=rounded)
                )
                new[tensor] = rounded
    replaced: dict[Node, list[Node]] = {}
    for node in chain:
        made = new[node.output] = Tensor(shape, node.output.dtype)
        read = node.reading(new)
        replaced[node] = [dataclasses.replace(read, outputs=made)]
        if isinstance(node.operation, FakeQuantize):
            replaced[node].append(
                dataclasses.replace(reshaping, args=(made,), outputs=node.output)
            )
    replaced[chain[0]] = [*before, *replaced[chain[0]]]
    return replaced
