"""Expansion: layers that do several things become several nodes.

Between two integer operations there must be a tensor with a range. A layer that does
two of them in one call (a Dense with softmax, a SeparableConv2D) hides that tensor,
so it is split here; its weights go to the parts. Operations of `keras.ops` that are a
layer under another name (`x + y`, `ops.relu(x)`) become that layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import layers

from tfcompress.core.graph import Graph, Node, Tensor
from tfcompress.layer_rules import rule_of
from tfcompress.quantization.activations import FUSED, GATED, activation_name

# An operation and where its weights come from (None: it has none of its own).
Part = tuple[Any, Callable[[], list] | None]


def expand(graph: Graph, chosen: Callable[[Any], bool]) -> Graph:
    """Returns `graph` with the chosen layers split into single operations."""
    parts: dict[int, list[Part]] = {}  # a shared layer is split once

    def split(node: Node) -> Iterator[Node]:
        key = id(node.operation)
        if key not in parts:
            splitter = _splitter(node.operation)
            parts[key] = splitter(node.operation) if splitter else []
        if not parts[key]:
            yield node
            return
        given = current = node.inputs[0]
        for index, (operation, weights) in enumerate(parts[key]):
            last = index == len(parts[key]) - 1
            output = (
                node.output
                if last
                else Tensor(_shape_after(operation, current), current.dtype)
            )
            takes_both = isinstance(operation, layers.Multiply)
            args = ([given, current],) if takes_both else (current,)
            yield from split(Node(operation, args, {}, output, weights))
            current = output

    nodes: list[Node] = []
    for node in map(_as_layer, graph.nodes):
        nodes.extend(split(node) if chosen(node.operation) else [node])
    return dataclasses.replace(graph, nodes=nodes)


_MERGES = {
    "Add": layers.Add,
    "Subtract": layers.Subtract,
    "Multiply": layers.Multiply,
    "Maximum": layers.Maximum,
    "Minimum": layers.Minimum,
}
_ACTIVATIONS = {
    "Relu": "relu",
    "Relu6": "relu6",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Silu": "silu",
}


def _as_layer(node: Node) -> Node:
    """Returns the node with a layer in place of its `keras.ops` operation."""
    operation, tensors = node.operation, node.inputs
    if isinstance(operation, keras.Layer):
        return node
    kind = type(operation).__name__
    # An operation like `x + x` reads one tensor twice; `x + 1` has a constant.
    if kind in _MERGES and len(tensors) == 2 and _same_rank(tensors):
        merge = _MERGES[kind](name=operation.name)
        return dataclasses.replace(node, operation=merge, args=(tensors,), kwargs={})
    if kind in _ACTIVATIONS:
        layer = layers.Activation(_ACTIVATIONS[kind], name=operation.name)
        return dataclasses.replace(node, operation=layer)
    if kind == "Concatenate":
        join = layers.Concatenate(axis=operation.axis, name=operation.name)
        return dataclasses.replace(node, operation=join, args=(tensors,), kwargs={})
    return node


def _same_rank(tensors: list[Tensor]) -> bool:
    return len({len(tensor.shape) for tensor in tensors}) == 1


def _splitter(operation: Any) -> Callable[[Any], list[Part]] | None:
    rule = rule_of(operation)
    if rule is None:
        return None
    if isinstance(operation, layers.SeparableConv1D | layers.SeparableConv2D):
        return _split_separable
    name = activation_name(operation)
    if rule.flow == "compute" and name not in FUSED:
        return _split_activation
    if rule.flow == "activate" and name in GATED:
        return _split_gate
    return None


def _split_activation(layer: keras.Layer) -> list[Part]:
    plain = type(layer).from_config({**layer.get_config(), "activation": "linear"})
    activation = layers.Activation(
        layer.activation, name=f"{layer.name}_{activation_name(layer)}"
    )
    return [(plain, layer.get_weights), (activation, None)]


def _split_gate(layer: keras.Layer) -> list[Part]:
    gate = layers.Activation(
        GATED[str(activation_name(layer))], name=f"{layer.name}_gate"
    )
    return [(gate, None), (layers.Multiply(name=layer.name), None)]


def _split_separable(layer: keras.Layer) -> list[Part]:
    rank = layer.depthwise_kernel.ndim - 2
    depthwise_type, pointwise_type = (
        (layers.DepthwiseConv1D, layers.Conv1D)
        if rank == 1
        else (layers.DepthwiseConv2D, layers.Conv2D)
    )
    config = layer.get_config()
    depthwise = depthwise_type(
        layer.kernel_size,
        layer.strides,
        layer.padding,
        layer.depth_multiplier,
        data_format=layer.data_format,
        dilation_rate=layer.dilation_rate,
        use_bias=False,
        depthwise_regularizer=config["depthwise_regularizer"],
        depthwise_constraint=config["depthwise_constraint"],
        name=f"{layer.name}_depthwise",
    )
    pointwise = pointwise_type(
        layer.filters,
        1,
        data_format=layer.data_format,
        activation=config["activation"],
        use_bias=layer.use_bias,
        kernel_regularizer=config["pointwise_regularizer"],
        kernel_constraint=config["pointwise_constraint"],
        bias_regularizer=config["bias_regularizer"],
        bias_constraint=config["bias_constraint"],
        name=layer.name,
    )
    return [
        (depthwise, lambda: layer.get_weights()[:1]),
        (pointwise, lambda: layer.get_weights()[1:]),
    ]


def _shape_after(operation: Any, tensor: Tensor) -> tuple:
    # Only depthwise kernels change the shape; nothing reads it of the others.
    copy = type(operation).from_config(operation.get_config())
    return tuple(copy.compute_output_shape(tensor.shape))
