"""Tensors whose range follows from what they are for, not from their values alone."""

from __future__ import annotations

from collections.abc import Callable

from keras import layers

from tfcompress.core.graph import Graph, Node, Tensor
from tfcompress.layers import Flow
from tfcompress.quantization.activations import activation_name
from tfcompress.quantization.primitives import GuardedLog


def softmax_scores(
    graph: Graph, flow: Callable[[Node], Flow]
) -> dict[Tensor, int | None]:
    """Returns the tensors that nobody but a softmax reads.

    With each its axis, counted from the end, where a softmax reads it itself, and None
    where what it is chosen from, or reshaped to, is read.
    """
    consumers, outputs = graph.consumers(), set(graph.output_tensors)
    axes: dict[Tensor, set[int]] = {}
    found: dict[Tensor, int | None] = {}

    def axes_of(reader: Node, tensor: Tensor) -> set[int]:
        """Returns along which axes softmaxes read a tensor; none for other readers."""
        if (
            flow(reader) == "activate"
            and activation_name(reader.operation) == "softmax"
        ):
            axis = getattr(reader.operation, "axis", -1)
            rank = len(tensor.shape)
            return {axis % rank - rank} if isinstance(axis, int) else set()
        if type(reader.operation).__name__ == "Where":
            passed = any(tensor is value for value in reader.args[1:])
        else:
            passed = flow(reader) == "select" and reader.inputs[0] is tensor
        return axes.get(reader.output_tensors[0], set()) if passed else set()

    made = [t for node in graph.nodes for t in node.output_tensors]
    for tensor in reversed([*graph.input_tensors, *made]):
        read = [axes_of(reader, tensor) for reader in consumers.get(tensor, [])]
        together = set().union(*read)
        if tensor in outputs or not all(read) or len(together) != 1:
            continue
        axes[tensor] = together
        direct = any(
            activation_name(reader.operation) == "softmax"
            for reader in consumers[tensor]
        )
        found[tensor] = next(iter(together)) if direct else None
    return found


def row_factors(graph: Graph) -> set[Tensor]:
    """Returns what `exp(-log(x) / 2)` is made of, and what it multiplies.

    A value there scales a whole row, so cutting it off would as well.
    """
    producers, consumers = graph.producers(), graph.consumers()
    factors: set[Tensor] = set()
    for node in graph.nodes:
        if not isinstance(node.operation, GuardedLog):
            continue
        before = node.inputs[0]
        while before in producers and before not in factors:
            factors.add(before)
            if type(producers[before].operation).__name__ == "Matmul":
                break
            before = producers[before].inputs[0]
        behind = [node.output]
        while behind:
            tensor = behind.pop()
            factors.add(tensor)
            for reader in consumers.get(tensor, []):
                if isinstance(reader.operation, layers.Multiply):
                    factors.add(reader.output)
                else:
                    behind += reader.output_tensors
    return factors
