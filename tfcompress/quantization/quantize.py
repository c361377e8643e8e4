"""quantize_aware: a model that computes in training what the integers will compute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfcompress.core.backend import require_tensorflow
from tfcompress.core.errors import UnsupportedLayerError, warn
from tfcompress.core.graph import Graph, Node, built
from tfcompress.core.inlining import unique_names
from tfcompress.core.kernel_values import shares_values
from tfcompress.core.select import Filters, warn_of_own_training
from tfcompress.core.training_rate import note_trained_rate
from tfcompress.layers import rule_of
from tfcompress.quantization.expand import expand
from tfcompress.quantization.placement import flow_of, insert_fake_quantize
from tfcompress.quantization.plan import FloatLayer, Plan, plan
from tfcompress.quantization.quantizers import Quantizer
from tfcompress.quantization.recurrent_steps import map_steps
from tfcompress.quantization.scheme import Scheme
from tfcompress.quantization.weight_only import with_rounded_kernels
from tfcompress.quantization.wrapper import QuantizedLayer, kernels_with_one_scale


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
    (`QuantizedLayer`), and activations where integer kernels output integers
    (`FakeQuantize`): not between a convolution, its BatchNormalization and its ReLU,
    which run as one kernel; only once around layers that merely pass numbers on, such
    as pooling; and in one range for all inputs of a Concatenate. Nested models are
    inlined.

    Args:
        model: a built model: Functional, Sequential or subclassed. The `call` of a
            subclassed model, and of layers that are made of layers, is run on symbolic
            tensors. The model is not changed.
        scheme: bits of weights and activations: a name or a `QuantizationScheme`, or
            a dict of these by regular expression on the layer's path, such as
            `{"dense": "w4a8"}`; layers that match none get `"w8a8"`, or `"w8"` where
            the dict has weight-only schemes.
        filters: which layers to quantize: a regular expression on the layer's path, a
            class, a predicate, or a list of these. `None` means all; the others stay
            in float.

    Returns:
        A new Functional model with the same weights. It is never compiled: fine-tuning
        needs a lower learning rate than training did (a tenth of it, or less), and an
        optimizer belongs to the variables of its model.

    Raises:
        InvalidArgumentError: if the model is unbuilt, empty, already quantized or has a
            `call` that cannot be run on symbolic tensors, if `scheme` is unknown or
            `filters` match nothing.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 1), name="image"),
    ...     keras.layers.Conv2D(4, 3, name="conv"),
    ...     keras.layers.ReLU(name="relu"),
    ...     keras.layers.Flatten(name="flatten")])
    >>> print(*[layer.name for layer in quantize_aware(model).layers[1:]])
    image_quantizer conv relu relu_quantizer flatten
    """
    require_tensorflow("make the model quantization-aware")
    return quantized(plan(model, scheme, filters), filters)[0]


def quantized(planned: Plan, filters: Filters = None) -> tuple[keras.Model, Graph]:
    """Returns the model that `quantize_aware` makes of a plan, and its graph.

    Args:
        planned: what `plan` has returned.
        filters: those that it was given.

    Raises:
        UnsupportedLayerError: as `rounded` does.
    """
    with unique_names(planned.model):
        aware, graph = built(rounded(planned, filters))
    note_trained_rate(aware, planned.model)
    return aware, graph


def rounded(planned: Plan, filters: Filters = None) -> Graph:
    """Returns the graph of a plan with all that rounds in it.

    Its layers are those of the model, so call it inside of `unique_names`, and build
    what is made of it there.

    Args:
        planned: what `plan` has returned.
        filters: those that it was given.

    Raises:
        UnsupportedLayerError: for layers that the plan calls impossible, and for such
            as `filters` ask for but stay in float.
    """
    warn_of_own_training(planned.model, "quantized")
    _refuse(planned.impossible)
    _report(planned.float_layers, filters)
    chosen = planned.chosen
    if planned.scheme.activations is None:
        return with_rounded_kernels(planned.graph, planned.quantizer_of, chosen)

    def with_ranges(graph: Graph, names: list[str], steps: int | None = None) -> Graph:
        graph = insert_fake_quantize(graph, planned.scheme, chosen, names, steps)
        return _wrap_kernels(graph, planned.quantizer_of, chosen)

    def step_with_ranges(graph: Graph, steps: int) -> Graph:
        return with_ranges(expand(graph, chosen)[0], [], steps)

    graph = map_steps(planned.graph, step_with_ranges)
    return with_ranges(graph, planned.output_names)


def _refuse(layers: list[FloatLayer]) -> None:
    if layers:
        raise UnsupportedLayerError(
            "These layers cannot be computed with integers of that many bits.",
            received=", ".join(
                f"{one.name} ({one.kind}): {one.reason}" for one in layers
            ),
            fix="; ".join(dict.fromkeys(one.fix for one in layers)),
        )


def _report(layers: list[FloatLayer], filters: Filters) -> None:
    if not layers:
        return
    listed = ", ".join(map(str, layers))
    if filters is not None:
        raise UnsupportedLayerError(
            "`filters` ask to quantize layers that have no integer form.",
            received=listed,
            expected="layers with a rule, such as Conv2D or Dense",
            fix="leave them out of `filters`; they then run in float",
        )
    warn(f"These layers have no integer form and stay in float: {listed}.")


def _wrap_kernels(
    graph: Graph, quantizer_of: Callable[[Node], Quantizer], chosen: Callable
) -> Graph:
    consumers, outputs = graph.consumers(), set(graph.output_tensors)
    parted: list[str] = []

    def scaled(node: Node) -> bool:
        """Returns whether what is behind has a factor for each channel."""
        readers = consumers.get(node.output, [])
        if len(readers) != 1 or node.output in outputs:
            return False
        behind = readers[0].operation
        rescales = isinstance(behind, keras.layers.Rescaling)
        return flow_of(behind) == "fold" and not (
            rescales and np.size(behind.scale) == 1
        )

    def wrapped(node: Node) -> dict[str, Any]:
        layer = node.operation
        if not chosen(layer) or flow_of(layer) != "compute":
            return {}
        one_scale: Any = None if scaled(node) else _one_scale(node)
        if one_scale is None and _is_clustered(node):
            parted.append(layer.name)
        # `build` copies both; layers that hold this one then hold its copy.
        wrapper = QuantizedLayer(
            layer, quantizer_of(node), one_scale, trainable=layer.trainable
        )
        return {"operation": wrapper, "weights": node.weights or layer.get_weights}

    graph = graph.with_operations(wrapped)
    if parted:
        warn(
            f"These layers share values, and the layer behind each of them (such as "
            f"BatchNormalization) scales every channel: {', '.join(parted)}. In "
            "integers they share values within a channel, not across channels."
        )
    return graph


def _one_scale(node: Node) -> tuple[str, ...] | str:
    """Returns the kernels that get one scale; `"auto"` if its weights come later."""
    known = node.weights is None and node.operation.built
    return kernels_with_one_scale(node.operation) if known else "auto"


def _is_clustered(node: Node) -> bool:
    rule, weights = rule_of(node.operation), node.weights or node.operation.get_weights
    if rule is None or not rule.kernels or not (arrays := weights()):
        return False
    return shares_values(arrays[0], rule.kernels[0].output_axes)
