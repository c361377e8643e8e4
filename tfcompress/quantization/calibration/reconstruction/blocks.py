"""Blocks: the parts of a graph whose outputs are reconstructed, one after the other."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator

from tfcompress.core.graph import Graph, Node, Tensor
from tfcompress.layers import rule_of
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.wrapper import QuantizedLayer

Learns = Callable[[QuantizedLayer], bool]


@dataclasses.dataclass(frozen=True)
class Block:
    """Calls of a graph that are reconstructed together.

    Attributes:
        positions: where in the graph they are.
        inputs: the tensors that they read and others made.
        outputs: the tensors that they make and others read.
        layers: the layers with kernels among them, all of whose calls are here.
        ranges: the roundings of activations among them of which that is true.
    """

    positions: tuple[int, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    layers: tuple[QuantizedLayer, ...]
    ranges: tuple[FakeQuantize, ...]

    @property
    def name(self) -> str:
        """The name of the first of its layers."""
        return self.layers[0].name


def single_layers(graph: Graph, learns: Learns) -> list[Block]:
    """Returns a block for each layer with its activation function.

    Args:
        graph: a quantization-aware graph.
        learns: whether a layer has a kernel that learns.
    """
    consumers = graph.consumers()
    places = {id(node): position for position, node in enumerate(graph.nodes)}
    found = []
    for calls in graph.calls().values():
        if not (_is_wrapped(calls[0]) and learns(calls[0].operation)):
            continue
        pairs = [(node, _activation(node, consumers)) for node in calls]
        nodes = [node for pair in pairs for node in pair if node is not None]
        # A call is given what the call before it has made: both are inputs.
        given = dict.fromkeys(t for node, _ in pairs for t in node.inputs)
        made = tuple((last or node).output for node, last in pairs)
        positions = tuple(sorted(places[id(node)] for node in nodes))
        found.append(Block(positions, (*given,), made, (calls[0].operation,), ()))
    return found


def regions(graph: Graph, learns: Learns) -> list[Block]:
    """Returns the parts of a graph between tensors through which everything flows.

    A residual block, the attention of a transformer and its feed-forward part each are
    one: inside of them a second tensor waits to be added. In a chain of layers, each
    has a block of its own, with all that follows it and has no kernel.

    Args:
        graph: a quantization-aware graph.
        learns: whether a layer has a kernel that learns.
    """
    borders = _borders(graph, learns)
    parts = [range(a, b) for a, b in itertools.pairwise(borders)]
    blocks = [_block(graph, part) for part in parts]
    return [block for block in blocks if any(map(learns, block.layers))]


def _borders(graph: Graph, learns: Learns) -> list[int]:
    """Returns the positions at which blocks begin, and the end of the graph."""
    cuts = [*_cuts(graph), len(graph.nodes)]
    borders, kernels = [0], 0
    for first, end in itertools.pairwise(cuts):
        operations = [node.operation for node in graph.nodes[first:end]]
        layers = [one for one in operations if isinstance(one, QuantizedLayer)]
        if layers and kernels:
            # What is before it and has no kernel was the end of the block before.
            borders.append(first)
            kernels = 0
        kernels += sum(map(learns, layers))
    return [*borders, len(graph.nodes)]


def _cuts(graph: Graph) -> Iterator[int]:
    """Yields the positions to which at most one tensor flows from the ones before.

    No layer has calls on both sides of one.
    """
    calls, places = graph.calls(), {id(n): p for p, n in enumerate(graph.nodes)}
    last = {t: p for p, node in enumerate(graph.nodes) for t in node.inputs}
    flowing: set[Tensor] = set()
    closed = 0
    for position, node in enumerate(graph.nodes):
        if len(flowing) <= 1 and position >= closed:
            yield position
        if _is_wrapped(node):
            closed = max(closed, 1 + places[id(calls[id(node.operation)][-1])])
        flowing.update(node.output_tensors)
        flowing = {t for t in flowing if last.get(t, -1) > position}


def _block(graph: Graph, part: Iterable[int]) -> Block:
    positions = tuple(part)
    nodes = [graph.nodes[position] for position in positions]
    made = {t for node in nodes for t in node.output_tensors}
    known = set(map(id, nodes))
    given = dict.fromkeys(t for node in nodes for t in node.inputs if t not in made)
    read = {
        tensor
        for node in graph.nodes
        if id(node) not in known
        for tensor in node.inputs
    }
    outputs = dict.fromkeys(
        t
        for node in nodes
        for t in node.output_tensors
        if t in read or t in graph.output_tensors
    )
    calls = graph.calls()
    whole = dict.fromkeys(
        node.operation
        for node in nodes
        if all(id(one) in known for one in calls[id(node.operation)])
    )
    return Block(
        positions,
        tuple(given),
        tuple(outputs),
        tuple(one for one in whole if isinstance(one, QuantizedLayer)),
        tuple(one for one in whole if isinstance(one, FakeQuantize)),
    )


def _activation(node: Node, consumers: dict[Tensor, list[Node]]) -> Node | None:
    """Returns the activation function that alone reads what a layer makes."""
    readers = consumers.get(node.output, [])
    if len(readers) != 1 or isinstance(readers[0].operation, FakeQuantize):
        return None
    rule = rule_of(readers[0].operation)
    return readers[0] if rule is not None and rule.flow == "activate" else None


def _is_wrapped(node: Node) -> bool:
    return isinstance(node.operation, QuantizedLayer)
