"""From a trained quantization-aware graph to the one that integer kernels compute.

What the converter would otherwise do by itself, and round in its own way, is done
here, so that the graph the user verifies and the file agree: kernels are put on their
grid, BatchNormalization is folded into them, and biases are rounded to the integers
that the kernels add.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import layers

from tfcompress.core.graph import Graph, Node, Tensor
from tfcompress.quantization.activations import activation_name
from tfcompress.quantization.constants import with_constants_on_grids
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.graph_roundings import (
    flow,
    input_step,
    kernel_and_bias,
    next_rounding,
    output_axes,
    rounding_before,
)
from tfcompress.quantization.integers.as_convolution import (
    affine_parameters,
    average_nodes,
    depthwise_nodes,
    identity_nodes,
)
from tfcompress.quantization.integers.exact_sums import with_integer_sums
from tfcompress.quantization.integers.linear import short_multipliers
from tfcompress.quantization.integers.storage import as_stored
from tfcompress.quantization.recurrent_steps import unrolled
from tfcompress.quantization.reshaped_operands import with_operands_unshaped
from tfcompress.quantization.usable_ranges import with_usable_ranges
from tfcompress.quantization.wrapper import QuantizedLayer

_OF_TWO = layers.Multiply | layers.Add
# What is a kernel of LiteRT without reshaping.
_UNSHAPED = layers.Conv2D | layers.DepthwiseConv2D | layers.Conv2DTranspose
_FULLY_CONNECTED = layers.Dense | layers.EinsumDense


def integer_graph(graph: Graph) -> Graph:
    """Returns the graph of integer operations that a trained `graph` stands for."""
    graph = _unwrap(unrolled(graph))
    graph = _integer_forms(graph)
    graph = fold_scales(graph)
    graph = with_usable_ranges(graph, kernel_and_bias, output_axes, next_rounding)
    graph = with_operands_unshaped(_use_convolutions(graph))
    graph = with_constants_on_grids(graph, rounding_before)
    return with_integer_sums(_round_weights(graph))


def _unwrap(graph: Graph) -> Graph:
    """Replaces wrappers by their layers, with the kernels that they round to."""

    def layer_within(node: Node) -> dict[str, Any]:
        wrapper = node.operation
        if not isinstance(wrapper, QuantizedLayer):
            return {}
        return {"operation": wrapper.layer, "weights": wrapper.rounded_weights}

    return graph.with_operations(layer_within)


def _integer_forms(graph: Graph) -> Graph:
    """Replaces layers by what is left of them where integers do part of their work."""

    def integer_form(node: Node) -> dict[str, Any]:
        if not hasattr(node.operation, "integer_form"):
            return {}
        form = node.operation.integer_form()
        return {"operation": form, "weights": None, "source": form}

    return graph.with_operations(integer_form)


def fold_scales(
    graph: Graph, made: Callable[[Any, Any], None] = lambda *_: None
) -> Graph:
    """Folds scales and offsets into the linear operation right before them.

    An operation that is called more than once is folded where all its calls are
    followed by the same scale and offset.

    Args:
        graph: the graph.
        made: is told of each layer that is replaced: the layer, and what replaces it.
    """
    producers, consumers = graph.producers(), graph.consumers()
    outputs = set(graph.output_tensors)
    calls = graph.calls()
    found: dict[int, list[tuple[Node, Node]]] = {}
    for node in graph.nodes:
        before = producers.get(node.inputs[0]) if node.inputs else None
        if (
            flow(node) == "fold"
            and before is not None
            and flow(before) == "compute"
            and before.weights is not None
            and len(consumers[node.inputs[0]]) == 1
            and node.inputs[0] not in outputs
        ):
            found.setdefault(id(before.operation), []).append((before, node))
    folded: dict[Node, Node] = {}
    gone: set[Node] = set()
    for key, pairs in found.items():
        if len(pairs) < len(calls[key]):
            continue
        linear = pairs[0][0]
        kernel, bias = kernel_and_bias(linear)
        axes = output_axes(linear, kernel.ndim)
        channels = math.prod(kernel.shape[axis] for axis in axes)
        scales = [affine_parameters(affine.operation, channels) for _, affine in pairs]
        first = scales[0]
        if first is None or any(
            one is None or not np.array_equal(one, first) for one in scales
        ):
            continue
        layer, weights = _folded(linear.operation, kernel, bias, axes, *first)
        made(linear.operation, layer)
        for call, affine in pairs:
            folded[call] = dataclasses.replace(
                call, operation=layer, outputs=affine.outputs, weights=weights
            )
            gone.add(affine)
    nodes = [folded.get(node, node) for node in graph.nodes if node not in gone]
    return dataclasses.replace(graph, nodes=nodes)


def _folded(
    layer: Any, kernel: Any, bias: Any, axes: tuple[int, ...], scale: Any, offset: Any
) -> tuple[Any, Callable[[], list]]:
    """Returns a layer that computes a linear one and what follows, and its weights."""
    shape = [size if axis in axes else 1 for axis, size in enumerate(kernel.shape)]
    kernel = kernel * scale.reshape(shape)
    bias = offset if bias is None else bias * scale + offset
    config = {**layer.get_config(), "use_bias": True}
    return type(layer).from_config(config), lambda: [kernel, bias]


def _use_convolutions(graph: Graph) -> Graph:
    """Turns layers without an exact integer kernel of their own into convolutions."""
    producers, consumers = graph.producers(), graph.consumers()
    nodes: list[Node] = []
    for node in graph.nodes:
        replaced = None
        rounding = next_rounding(node, consumers)
        if rounding is not None and flow(node) == "fold":
            absorbed = flow(producers.get(node.inputs[0])) == "compute"
            if not absorbed:
                source = input_step(node.inputs[0], producers)
                replaced = depthwise_nodes(node, rounding.step(), source)
        elif rounding is not None and flow(node) == "average":
            replaced = average_nodes(node, rounding.step())
        elif rounding is not None and _would_be_fused(node, producers, consumers):
            replaced = identity_nodes(
                node, node.name, activation_name(node.operation) or "linear"
            )
        elif isinstance(node.operation, _OF_TWO) and _reads_one_twice(node):
            replaced = _with_a_copy(node, producers, len(nodes))
        elif isinstance(node.operation, FakeQuantize) and node.kwargs.get("again"):
            name = f"{node.name}_again_{len(nodes)}"
            replaced = _rounded_behind_ones(node, name)
        elif (
            isinstance(node.operation, FakeQuantize)
            and node.kwargs.get("site", 0) is None
        ):
            # The pooling decides ties from here on.
            replaced = [dataclasses.replace(node, kwargs={**node.kwargs, "site": 0})]
        nodes.extend(replaced or [node])
    return dataclasses.replace(graph, nodes=nodes)


def _would_be_fused(
    node: Node, producers: dict[Tensor, Node], consumers: dict[Tensor, list[Node]]
) -> bool:
    """Returns whether converters compute what an activation reads with it at once.

    They do that for a ReLU that reads what a fully connected layer gives on to others
    too, or a sum of its own, as in the last step of an LSTM; and the rounding between
    the two is gone.
    """
    alone = flow(node) == "activate"
    if not alone or activation_name(node.operation) not in ("relu", "relu6"):
        return False
    before, rounded = producers.get(node.inputs[0]), False
    while before is not None:
        if isinstance(before.operation, FakeQuantize):
            rounded = True
            summed = producers.get(before.inputs[0])
            alone = len(consumers.get(node.inputs[0], [])) == 1
            if alone and summed is not None and isinstance(summed.operation, _OF_TWO):
                return True
        elif flow(before) != "select":
            return rounded and isinstance(before.operation, _FULLY_CONNECTED)
        before = producers.get(before.inputs[0])
    return False


def _reads_one_twice(node: Node) -> bool:
    return len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]


def _with_a_copy(
    node: Node, producers: dict[Tensor, Node], position: int
) -> list[Node] | None:
    """Returns nodes that read a tensor and a copy of it: `x * x`, or `x + x`.

    Where a reshaping is before that, converters put it behind, and then find that the
    scales of its input and its output differ.
    """
    tensor = node.inputs[0]
    rounding = producers.get(tensor)
    while rounding is not None and _keeps_step(rounding):
        rounding = producers.get(rounding.inputs[0])
    if rounding is None or not isinstance(rounding.operation, FakeQuantize):
        return None
    before = producers.get(rounding.inputs[0])
    flat = len(tensor.shape) == 2
    unshaped = before is None or isinstance(before.operation, _UNSHAPED) or flat
    if unshaped and producers[tensor] is rounding:
        return None
    copy = Tensor(tensor.shape, "float32")
    nodes = _rounded_behind_ones(
        dataclasses.replace(rounding, args=(tensor,), outputs=copy),
        f"{node.name}_copy_{position}",
        in_a_row=True,
    )
    if nodes is None:
        return None
    args = ([tensor, copy],) if len(node.args) == 1 else (tensor, copy)
    return [*nodes, dataclasses.replace(node, args=args)]


def _keeps_step(node: Node) -> bool:
    larger_or_smaller = isinstance(node.operation, layers.Maximum | layers.Minimum)
    return flow(node) == "select" or larger_or_smaller


def _rounded_behind_ones(
    rounding: Node, name: str, in_a_row: bool = False
) -> list[Node] | None:
    """Returns a rounding with a convolution with ones before it."""
    nodes = identity_nodes(rounding, name, in_a_row=in_a_row)
    if nodes is None:
        return None
    between = Tensor(rounding.output.shape, "float32")
    nodes[-1] = dataclasses.replace(nodes[-1], outputs=between)
    kwargs = {**rounding.kwargs, "again": False}
    return [*nodes, dataclasses.replace(rounding, args=(between,), kwargs=kwargs)]


def _round_weights(graph: Graph) -> Graph:
    """Rounds kernels to what is stored, and biases to the grid of the accumulator.

    Source: Jacob et al., 2018, section 2.4: `s_bias = s_input * s_kernel`. The bias of
    a layer that is called at several steps has several grids; it is stored once for
    each of them, and rounded where it is added (`IntegerLinear`).
    """
    producers, consumers = graph.producers(), graph.consumers()
    steps: dict[int, set[tuple[float | None, float | None]]] = {}
    for node in graph.nodes:
        if flow(node) == "compute":
            step = input_step(node.inputs[0], producers)
            after = next_rounding(node, consumers)
            wide = after.step() if after is not None and after.is_wide else None
            steps.setdefault(id(node.operation), set()).add((step, wide))

    def rounded(node: Node) -> dict[str, Any]:
        pairs = list(steps.get(id(node.operation), ()))
        if not node.weights or all(step is None for step, _ in pairs):
            return {}
        alone = pairs[0] if len(pairs) == 1 else (None, None)
        weights = _rounded_weights(node, *alone)
        return {"weights": functools.partial(list, weights)}

    return graph.with_operations(rounded)


def _rounded_weights(
    node: Node, input_step: float | None, wide_step: float | None
) -> list[np.ndarray]:
    kernel, bias = kernel_and_bias(node)
    kernel, kernel_step = as_stored(kernel, output_axes(node, kernel.ndim))
    if input_step is not None and wide_step is not None:
        exact = np.where(kernel_step > 0, kernel_step, 1.0) * input_step / wide_step
        nearer = short_multipliers(exact) / exact
        kernel = (kernel * nearer).astype(kernel.dtype)
        kernel_step = kernel_step * nearer
    if bias is None:
        return [kernel]
    if input_step is not None:
        step = input_step * kernel_step.reshape(bias.shape)
        rounded = np.round(bias / np.where(step > 0, step, 1.0)) * step
        bias = np.where(step > 0, rounded, bias).astype("float32")
        if bias.size > 1 and np.ptp(bias) == 0 and np.ptp(step) > 0:
            # The converter divides equal numbers, all of them, by the first one's step.
            bias[0] = np.nextafter(bias[0], np.float32(0))
    return [kernel, bias]
