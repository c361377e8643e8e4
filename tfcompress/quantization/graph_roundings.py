"""What the nodes of a quantized graph are rounded by, and the weights they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from tfcompress.core.graph import Node, Tensor
from tfcompress.layers import rule_of
from tfcompress.quantization.casts import is_float
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.placement import flow_of


def flow(node: Node | None) -> str:
    return flow_of(node.operation) if node is not None else "float"


def next_rounding(
    node: Node, consumers: dict[Tensor, list[Node]]
) -> FakeQuantize | None:
    """Returns what rounds a node's output, with a fused activation in between."""
    for reader in consumers.get(node.output_tensors[0], []):
        if isinstance(reader.operation, FakeQuantize):
            return reader.operation
        if is_fused(reader):
            return next_rounding(reader, consumers)
    return None


def is_fused(node: Node) -> bool:
    """Returns whether kernels compute a node with what is before it, unrounded."""
    clipped = isinstance(node.operation, layers.Identity)
    return clipped or flow(node) == "activate"


def kernel_and_bias(node: Node) -> tuple[np.ndarray, np.ndarray | None]:
    kernel, *bias = node.weights() if node.weights else node.operation.get_weights()
    return np.asarray(kernel), (np.asarray(bias[0]) if bias else None)


def output_axes(node: Node, rank: int) -> tuple[int, ...]:
    rule = rule_of(node.operation)
    axes = rule.kernels[0].output_axes if rule and rule.kernels else (-1,)
    return tuple(axis % rank for axis in axes)


def rounding_before(
    tensor: Tensor, producers: dict[Tensor, Node]
) -> FakeQuantize | None:
    node = producers.get(tensor)
    while node is not None and flow(node) in ("select", "concatenate", "average"):
        # The first input of a `where` says which one to take.
        numbers = [one for one in node.inputs if is_float(one)]
        node = producers.get((numbers or node.inputs)[0])
    operation: Any = node.operation if node is not None else None
    return operation if isinstance(operation, FakeQuantize) else None


def input_step(tensor: Tensor, producers: dict[Tensor, Node]) -> float | None:
    rounding = rounding_before(tensor, producers)
    return rounding.step() if rounding is not None else None
