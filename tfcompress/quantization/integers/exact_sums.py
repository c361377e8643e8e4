"""Where a graph of integers adds up, it rounds as integer kernels do."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfcompress.core.graph import Graph, Node, Tensor
from tfcompress.core.names import scope_name
from tfcompress.quantization.activations import activation_name
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.graph_roundings import (
    flow,
    input_step,
    kernel_and_bias,
    next_rounding,
    output_axes,
    rounding_before,
)
from tfcompress.quantization.integers.kernels import rounding_of
from tfcompress.quantization.integers.linear import IntegerLinear
from tfcompress.quantization.integers.storage import as_stored
from tfcompress.quantization.integers.sums import IntegerSum, SumScales, number_scales


def with_integer_sums(graph: Graph) -> Graph:
    """Rounds each sum to the step of the next tensor as integer kernels do."""
    producers, consumers = graph.producers(), graph.consumers()
    wrapped: dict[int, IntegerLinear] = {}
    summed: dict[Tensor, Tensor] = {}
    nodes: list[Node] = []
    for tensor in graph.input_tensors:
        for reader in consumers.get(tensor, []):
            if isinstance(reader.operation, FakeQuantize):
                name = f"{scope_name(tensor.name)}_sum"
                _add_sum(nodes, summed, tensor, name, reader.operation)
    for node in graph.nodes:
        made = next_rounding(node, consumers) if node.output_tensors else None
        if made is not None and flow(node) == "compute":
            nodes.append(_as_integer_linear(node, made, producers, wrapped))
            continue
        rounded = _rounded(node, made, producers)
        nodes.append(rounded if isinstance(rounded, Node) else node)
        if isinstance(rounded, SumScales):
            name, output = f"{node.name}_sum", node.output_tensors[0]
            _add_sum(nodes, summed, output, name, made, rounded)
    # Each reads what it is made of, everyone else reads the sum.
    sums = {node for node in nodes if isinstance(node.operation, IntegerSum)}
    read = [node if node in sums else node.reading(summed) for node in nodes]
    return dataclasses.replace(graph.substitute(summed, []), nodes=read)


def _rounded(
    node: Node, made: FakeQuantize | None, producers: dict[Tensor, Node]
) -> Node | SumScales | None:
    rounding = rounding_of(node.operation)
    narrow = made is not None and made.num_bits <= 8
    if rounding is None or not (narrow or flow(node) in ("average", "select")):
        return None
    return rounding(node, [rounding_before(t, producers) for t in node.inputs], made)


def _add_sum(
    nodes: list[Node],
    summed: dict[Tensor, Tensor],
    tensor: Tensor,
    name: str,
    rounding: Any,
    scales: SumScales | None = None,
) -> None:
    if tensor in summed:
        return
    step = np.float32(rounding.step())
    layer = IntegerSum(scales or number_scales(rounding), float(step), name=name)
    summed[tensor] = Tensor(tensor.shape, "float32")
    nodes.append(Node(layer, (tensor,), {}, summed[tensor]))


def _as_integer_linear(
    node: Node,
    rounding: FakeQuantize,
    producers: dict[Tensor, Node],
    wrapped: dict[int, IntegerLinear],
) -> Node:
    """Wraps a linear layer so that it adds integers up, if it is given integers.

    Args:
        node: the call of the layer.
        rounding: what rounds its output.
        producers: what makes each tensor.
        wrapped: the wrappers of layers that are called more than once.
    """
    layer, source = node.operation, input_step(node.inputs[0], producers)
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    clips = activation_name(layer) not in ("linear", "relu")
    if source is None or first or clips or not (node.weights or layer.built):
        return node
    weights = node.weights or layer.get_weights
    if id(layer) not in wrapped:
        kernel, _ = kernel_and_bias(node)
        _, own = as_stored(kernel, output_axes(node, kernel.ndim))
        config = {**layer.get_config(), "dtype": "float32"}
        wide = rounding.is_wide
        rectified = wide and activation_name(layer) == "relu"
        if rectified:
            config["activation"] = "linear"
        wrapped[id(layer)] = IntegerLinear(
            type(layer).from_config(config), own.reshape(-1).tolist(), wide, rectified
        )
    return dataclasses.replace(
        node,
        operation=wrapped[id(layer)],
        kwargs={**node.kwargs, "steps": (source, rounding.step())},
        weights=weights,
    )
