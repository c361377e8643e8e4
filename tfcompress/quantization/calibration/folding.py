"""What is done to a quantization-aware graph before it is calibrated.

Training needs BatchNormalization as a layer; calibration does not, and rounds the
kernel that is really stored if it is folded first.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from keras import layers

from tfcompress.core.graph import Graph, Node
from tfcompress.quantization.activations import activation_name
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.integers.graph import fold_scales
from tfcompress.quantization.wrapper import QuantizedLayer

_EQUALIZED = (layers.Dense, layers.Conv1D, layers.Conv2D, layers.DepthwiseConv2D)


def fold_batch_norms(graph: Graph) -> Graph:
    """Folds BatchNormalization into the wrapped kernels right before it."""
    wrappers: dict[int, QuantizedLayer] = {
        id(node.operation.layer): node.operation
        for node in graph.nodes
        if _is_wrapped(node)
    }

    def made(layer: Any, folded: Any) -> None:
        if id(layer) in wrappers:
            wrappers[id(folded)] = wrappers[id(layer)]

    def wrapped_again(node: Node) -> dict[str, Any]:
        wrapper = wrappers.get(id(node.operation))
        if wrapper is None:
            return {}
        layer, settings = node.operation, (wrapper.quantizer, wrapper.one_scale)
        return {"operation": type(wrapper)(layer, *settings)}

    folded = fold_scales(graph.with_operations(_layer_within), made)
    return folded.with_operations(wrapped_again)


def equalize(graph: Graph) -> Graph:
    """Evens out the ranges of channels between two layers in a row.

    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
    Correction", 2019. What leaves channel `c` of the first layer is divided by
    `s = sqrt(r1 * r2) / r2`, and what reads it in the second multiplied, with `r1`
    and `r2` the largest weights there; ReLU and pooling let factors through.
    """
    consumers = graph.consumers()
    calls = graph.calls()
    weights = {
        id(n): [np.array(w) for w in n.weights()]
        for n in graph.nodes
        if _is_wrapped(n) and n.weights
    }
    for first in graph.nodes:
        second = _next_wrapped(first, consumers)
        if (
            second is None
            or max(len(calls[id(n.operation)]) for n in (first, second)) > 1
        ):
            continue
        makes, reads = weights[id(first)], weights[id(second)]
        # A depthwise kernel (h, w, c, 1) makes and reads channel c on one axis.
        made = np.moveaxis(makes[0], _axis(first, reading=False), 0)
        read = np.moveaxis(reads[0], _axis(second, reading=True), 0)
        ranges = [np.abs(w).reshape(len(w), -1).max(axis=1) for w in (made, read)]
        usable = (ranges[0] > 0) & (ranges[1] > 0)
        factor = np.where(
            usable, np.sqrt(ranges[0] / np.where(usable, ranges[1], 1)), 1
        )
        made /= factor.reshape(-1, *[1] * (made.ndim - 1))
        read *= factor.reshape(-1, *[1] * (read.ndim - 1))
        if len(makes) > 1:
            makes[1] = makes[1] / factor
    return graph.with_operations(
        lambda n: (
            {"weights": functools.partial(list, weights[id(n)])}
            if id(n) in weights
            else {}
        )
    )


def _next_wrapped(node: Node, consumers: dict) -> Node | None:
    """Returns the wrapped layer that alone reads a wrapped layer's channels."""
    if not _is_equalized(node) or activation_name(node.operation.layer) not in (
        "linear",
        "relu",
    ):
        return None
    while True:
        readers = consumers.get(node.output, [])
        if len(readers) != 1:
            return None
        (node,) = readers
        if _is_equalized(node):
            return node
        passes = isinstance(node.operation, FakeQuantize | layers.MaxPooling2D) or (
            isinstance(node.operation, layers.ReLU | layers.Activation)
            and activation_name(node.operation) in ("linear", "relu")
        )
        if not passes:
            return None


def _is_wrapped(node: Node) -> bool:
    return isinstance(node.operation, QuantizedLayer)


def _is_equalized(node: Node) -> bool:
    if not _is_wrapped(node) or node.operation.one_scale:
        return False  # factors of its channels would part the values that they share
    layer = node.operation.layer
    plain = getattr(layer, "groups", 1) == 1
    plain &= getattr(layer, "depth_multiplier", 1) == 1
    plain &= getattr(layer, "data_format", "channels_last") == "channels_last"
    return type(layer) in _EQUALIZED and plain


def _axis(node: Node, reading: bool) -> int:
    if isinstance(node.operation.layer, layers.DepthwiseConv2D):
        return 2
    return -2 if reading else -1


def _layer_within(node: Node) -> dict[str, Any]:
    if not _is_wrapped(node):
        return {}
    layer = node.operation.layer
    return {"operation": layer, "weights": node.weights or layer.get_weights}
