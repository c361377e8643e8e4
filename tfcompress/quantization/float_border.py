"""What a quantized model computes in float stays in float in the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from tfcompress.core.graph import Graph, Node, Tensor
from tfcompress.core.predictable import predictable
from tfcompress.core.registry import PACKAGE
from tfcompress.core.samples import shaken
from tfcompress.layers import fill, no_products
from tfcompress.quantization.integers.sums import is_plain


@keras.saving.register_keras_serializable(package=PACKAGE)
@predictable
class FloatBorder(keras.layers.Layer):
    """Lets numbers through, and no integers.

    When to use: `quantize_aware` puts it between rounded tensors and layers without an
    integer form. To the converter such a layer is a handful of operations, and it
    turns those that it can into integers, with scales that nobody has chosen: a
    comparison with a constant, a maximum, a product. What it sees here is a cast to
    64 bits and back, for which it has no integers, and which changes nothing.

    Example:

    >>> FloatBorder()(ops.array([[1.5, -2.0]])).numpy().tolist()
    [[1.5, -2.0]]
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True

    def compute_mask(self, inputs: Any, mask: Any = None) -> None:
        """Gives on no mask: in a quantized model masks are tensors of the graph."""

    def call(self, inputs: Any) -> Any:
        if not is_plain():
            return shaken(ops.copy(inputs))  # which has no mask of Keras
        return ops.cast(ops.cast(inputs, "float64"), inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


def with_float_borders(graph: Graph, in_float: Callable[[Node], bool]) -> Graph:
    """Returns `graph` with borders between what is computed in float and the rest.

    Args:
        graph: a graph with all its roundings.
        in_float: whether a node computes in float.
    """
    producers, consumers = graph.producers(), graph.consumers()
    nodes: list[Node] = []
    for node in graph.nodes:
        if not in_float(node):
            nodes.append(node)
            continue
        inside: dict[Tensor, Tensor] = {}
        for tensor in dict.fromkeys(node.inputs):
            before = producers.get(tensor)
            if before is not None and not in_float(before) and _is_float(tensor):
                inside[tensor] = Tensor(tensor.shape, tensor.dtype, tensor.name)
                name = f"{node.name}_border"
                nodes.append(border(name, tensor, inside[tensor]))
        outside = {
            tensor: Tensor(tensor.shape, tensor.dtype, tensor.name)
            for tensor in node.output_tensors
            if _is_float(tensor)
            and not all(in_float(reader) for reader in consumers.get(tensor, []))
        }
        nodes.append(node.reading(inside).making(outside))
        for tensor, computed in outside.items():
            nodes.append(border(f"{node.name}_float", computed, tensor))
    return dataclasses.replace(graph, nodes=nodes)


def _is_float(tensor: Tensor) -> bool:
    return tensor.dtype.startswith("float")


def border(name: str, before: Tensor, after: Tensor) -> Node:
    """Returns a node that lets a tensor through as `after`."""
    return Node(FloatBorder(name=name, dtype="float32"), (before,), {}, after)


fill((FloatBorder,), flow="float", macs=no_products, channels="same")
