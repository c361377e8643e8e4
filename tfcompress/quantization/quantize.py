"""quantize_aware: a model that computes in training what the integers will compute."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import keras

from tfcompress.core.errors import (
    CompressionWarning,
    InvalidArgumentError,
    UnsupportedLayerError,
)
from tfcompress.core.graph import (
    Graph,
    Node,
    build,
    clone_operation,
    output_names,
    trace,
)
from tfcompress.core.inlining import inlined
from tfcompress.core.select import Filters, matches, select, walk
from tfcompress.layer_rules import rule_of
from tfcompress.quantization.activations import fixed_range
from tfcompress.quantization.expand import expand
from tfcompress.quantization.expansions import expansion_of
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.placement import flow_of, insert_fake_quantize
from tfcompress.quantization.quantizers import Quantizer
from tfcompress.quantization.scheme import Scheme, owner_path, schemes_by_path
from tfcompress.quantization.wrapper import QuantizedLayer

_PURPOSE = "make the model quantization-aware"
_EIGHT_BITS_ONLY = (
    keras.layers.Concatenate,
    keras.layers.UpSampling1D,
    keras.layers.UpSampling2D,
)


def quantize_aware(
    model: keras.Model,
    scheme: Scheme = "w8a8",
    filters: Filters = None,
) -> keras.Model:
    """Returns a copy of `model` that trains with the rounding of its integer form.

    When to use: before the last epochs of training, for a model that goes to a phone
    or a microcontroller in integers. Compile and fit the copy as any model; then
    `finalize` and `export`. The exported file computes what the copy computed.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", 2018. Kernels are rounded in place
    (`QuantizedLayer`), activations where integer kernels put out integers
    (`FakeQuantize`): not between a convolution, its BatchNormalization and its ReLU,
    which run as one; once for layers that only pass numbers on, such as pooling; in
    one range for all inputs of a Concatenate. Nested models are inlined.

    Args:
        model: a built model: Functional, Sequential or subclassed. Of the latter, and
            of layers that are made of layers, the `call` is run on symbolic tensors.
            It is not changed.
        scheme: bits of weights and activations: a name or a `QuantizationScheme`, or
            a dict of these by regular expression on the layer's path, such as
            `{"dense": "w4a8"}`; layers that match none get `"w8a8"`.
        filters: which layers to quantize: a regular expression on the layer's path, a
            class, a predicate, or a list of these. `None` means all; the others stay
            in float.

    Returns:
        A new Functional model with the same weights.

    Raises:
        InvalidArgumentError: if the model is unbuilt, empty, quantized already or does
            in `call` what cannot be run on symbolic tensors, if `scheme` is unknown
            or `filters` match nothing.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 1), name="image"),
    ...     keras.layers.Conv2D(4, 3, name="conv"),
    ...     keras.layers.ReLU(name="relu"),
    ...     keras.layers.Flatten(name="flatten")])
    >>> print(*[layer.name for layer in quantize_aware(model).layers[1:]])
    image_quantizer conv relu relu_quantizer flatten
    """
    functional = inlined(model, _is_known, _PURPOSE)
    graph = trace(functional, _PURPOSE)
    paths = {one.name: path for path, one in walk(model) if rule_of(one) is not None}
    resolved, scheme_of = schemes_by_path(scheme, list(paths.values()))
    if any(isinstance(layer, FakeQuantize) for _, layer in walk(model)):
        raise InvalidArgumentError(
            f"Model '{model.name}' is quantization-aware already.",
            fix="pass the model from before quantize_aware",
        )
    chosen = _chooser(model, filters)
    graph = expand(graph, chosen)
    if resolved.activations > 8:
        _check_16_bits(graph, chosen)
    _report_float_layers(graph, chosen, filters)
    names = output_names(functional)
    graph = insert_fake_quantize(graph, resolved.activations, chosen, names)

    def quantizer_of(node: Node) -> Quantizer:
        return scheme_of(owner_path(node.name, paths)).weights

    return build(_wrap_kernels(graph, quantizer_of, chosen))


def _chooser(model: keras.Model, filters: Filters) -> Callable[[Any], bool]:
    """Returns whether an operation is to be quantized; parts of a layer always are."""
    select(model, filters, lambda layer: rule_of(layer) is not None)
    left_out = {
        id(layer) for path, layer in walk(model) if not matches(path, layer, filters)
    }
    return lambda operation: id(operation) not in left_out


def _is_known(layer: Any) -> bool:
    return rule_of(layer) is not None or expansion_of(layer) is not None


def _check_16_bits(graph: Graph, chosen: Callable[[Any], bool]) -> None:
    """Refuses layers that the converter knows no 16-bit kernel for."""
    names = [
        node.name
        for node in graph.nodes
        if chosen(node.operation)
        and (
            isinstance(node.operation, _EIGHT_BITS_ONLY)
            or fixed_range(node.operation) is not None
        )
    ]
    if names:
        raise UnsupportedLayerError(
            "The converter has no 16-bit form of these layers.",
            received=", ".join(names),
            expected="activations such as ReLU, logits as outputs, no Concatenate",
            fix="use 8 bits, such as scheme='w8a8'; or end the model with its logits "
            "and let the application compute the softmax",
        )


def _report_float_layers(
    graph: Graph, chosen: Callable[[Any], bool], filters: Filters
) -> None:
    names = {
        f"{node.name} ({type(node.operation).__name__})": None
        for node in graph.nodes
        if chosen(node.operation) and flow_of(node.operation) == "float"
    }
    if not names:
        return
    listed = ", ".join(names)
    if filters is not None:
        raise UnsupportedLayerError(
            "`filters` ask to quantize layers that have no integer form.",
            received=listed,
            expected="layers with a rule, such as Conv2D or Dense",
            fix="leave them out of `filters`; they then run in float",
        )
    warnings.warn(
        f"These layers have no integer form and stay in float: {listed}. "
        "Replace them, or use register_layer_rule if they only pass numbers on.",
        CompressionWarning,
        stacklevel=3,
    )


def _wrap_kernels(
    graph: Graph, quantizer_of: Callable[[Node], Quantizer], chosen: Callable
) -> Graph:
    wrapped: dict[int, QuantizedLayer] = {}

    def wrap(node: Node) -> Node:
        layer = node.operation
        if not chosen(layer) or flow_of(layer) != "compute":
            return node
        if id(layer) not in wrapped:
            wrapped[id(layer)] = QuantizedLayer(
                clone_operation(layer), quantizer_of(node)
            )
            wrapped[id(layer)].trainable = layer.trainable
        return dataclasses.replace(
            node,
            operation=wrapped[id(layer)],
            weights=node.weights or layer.get_weights,
        )

    return dataclasses.replace(graph, nodes=[wrap(node) for node in graph.nodes])
