"""Where a graph of integers adds up, it rounds as integer kernels do."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from keras import layers, ops

from tfcompress.core.graph import Graph, Node, Tensor
from tfcompress.quantization.activations import activation_name, kernel_of
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.float_border import FloatBorder
from tfcompress.quantization.graph_roundings import (
    flow,
    input_step,
    kernel_and_bias,
    next_rounding,
    output_axes,
    rounding_before,
)
from tfcompress.quantization.integers.average import IntegerAverage
from tfcompress.quantization.integers.linear import IntegerLinear
from tfcompress.quantization.integers.prelu import IntegerPReLU, slopes_as_stored
from tfcompress.quantization.integers.resize import IntegerResize
from tfcompress.quantization.integers.storage import as_stored
from tfcompress.quantization.integers.sums import (
    IntegerAdd,
    IntegerSum,
    SumScales,
    lookup_scales,
    mean_scales,
)
from tfcompress.quantization.primitives import AddConstant

_AVERAGES = layers.AveragePooling1D | layers.AveragePooling2D
_RESIZES = layers.UpSampling2D | layers.Resizing
_LAST = "channels_last"


def with_integer_sums(graph: Graph) -> Graph:
    """Rounds each sum to the step of the next tensor as integer kernels do."""
    producers, consumers = graph.producers(), graph.consumers()
    wrapped: dict[int, IntegerLinear] = {}
    summed: dict[Tensor, Tensor] = {}
    nodes: list[Node] = []
    for tensor in graph.input_tensors:
        for reader in consumers.get(tensor, []):
            if isinstance(reader.operation, FakeQuantize):
                _add_sum(nodes, summed, tensor, f"{tensor.name}_sum", reader.operation)
    for node in graph.nodes:
        if isinstance(node.operation, _AVERAGES):
            nodes.append(_as_integer_average(node, producers))
            continue
        if isinstance(node.operation, _RESIZES):
            nodes.append(_as_integer_resize(node, producers))
            continue
        rounding = next_rounding(node, consumers) if node.output_tensors else None
        if rounding is not None and flow(node) == "compute":
            nodes.append(_as_integer_linear(node, rounding, producers, wrapped))
        elif rounding is None or rounding.num_bits > 8:
            nodes.append(node)
        elif isinstance(node.operation, AddConstant | layers.Add | layers.Subtract):
            nodes.append(_as_integer_add(node, rounding.step(), producers))
        elif isinstance(node.operation, layers.PReLU):
            nodes.append(_as_integer_prelu(node, rounding.step(), producers))
        else:
            nodes.append(node)
            scales = _sum_scales(node, rounding, producers)
            # What is computed in float is rounded as an input of the model is.
            if scales is not None or isinstance(node.operation, FloatBorder):
                name = f"{node.name}_sum"
                _add_sum(nodes, summed, node.output_tensors[0], name, rounding, scales)
    # Each reads what it is made of, everyone else reads the sum.
    sums = {node for node in nodes if isinstance(node.operation, IntegerSum)}
    read = [node if node in sums else node.reading(summed) for node in nodes]
    return dataclasses.replace(graph.substitute(summed, []), nodes=read)


def _add_sum(
    nodes: list[Node],
    summed: dict[Tensor, Tensor],
    tensor: Tensor,
    name: str,
    rounding: FakeQuantize,
    scales: SumScales | None = None,
) -> None:
    if tensor in summed:
        return
    step = np.float32(rounding.step())
    scales = scales or SumScales(None, float(np.float32(1) / step))
    layer = IntegerSum(scales, float(step), name=name)
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


def _as_integer_average(node: Node, producers: dict[Tensor, Node]) -> Node:
    rounding, layer = rounding_before(node.inputs[0], producers), node.operation
    if rounding is None or rounding.num_bits > 8 or layer.data_format != _LAST:
        return node
    pooling = type(layer).from_config({**layer.get_config(), "dtype": "float32"})
    step = float(np.float32(rounding.step()))
    wrapped = IntegerAverage(pooling, step, rounding.zero_point())
    return dataclasses.replace(node, operation=wrapped)


def _as_integer_resize(node: Node, producers: dict[Tensor, Node]) -> Node:
    layer, rounding = node.operation, rounding_before(node.inputs[0], producers)
    free = None in (*node.inputs[0].shape[1:], *node.output.shape[1:])
    # Of a Resizing: what is not one resizing of the whole picture.
    more = ("crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias")
    plain = layer.interpolation == "bilinear" and layer.data_format == _LAST
    if rounding is None or rounding.num_bits > 8 or free or not plain:
        return node
    if any(getattr(layer, name, False) for name in more):
        return node
    config = {**layer.get_config(), "dtype": "float32"}
    step = float(np.float32(rounding.step()))
    wrapped = IntegerResize(type(layer).from_config(config), step)
    return dataclasses.replace(node, operation=wrapped, kwargs={})


def _as_integer_prelu(node: Node, step: float, producers: dict[Tensor, Node]) -> Node:
    layer, given = node.operation, rounding_before(node.inputs[0], producers)
    if given is None or given.num_bits > 8 or type(layer) is not layers.PReLU:
        return node
    slopes, own = slopes_as_stored(ops.convert_to_numpy(layer.alpha))
    plain = type(layer).from_config({**layer.get_config(), "dtype": "float32"})
    wrapped = IntegerPReLU(plain, (given.step(), own, step))
    return dataclasses.replace(node, operation=wrapped, weights=lambda: [slopes])


def _as_integer_add(node: Node, step: float, producers: dict[Tensor, Node]) -> Node:
    operation = node.operation
    if isinstance(operation, AddConstant):
        own = input_step(node.inputs[0], producers)
        if own is None:
            return node
        config = {**operation.get_config(), "steps": (own, step)}
        return dataclasses.replace(node, operation=AddConstant.from_config(config))
    steps = [input_step(tensor, producers) for tensor in node.inputs]
    if len(steps) != 2 or None in steps:
        return node
    subtract = isinstance(operation, layers.Subtract)
    layer = IntegerAdd(steps, step, subtract, name=node.name)  # type: ignore[arg-type]
    return dataclasses.replace(node, operation=layer)


def _sum_scales(
    node: Node, rounding: FakeQuantize, producers: dict[Tensor, Node]
) -> SumScales | None:
    """Returns the scales of a product, a mean, a lookup or a ReLU on its own; `None`
    where no integers are given.
    """
    operation = node.operation
    if getattr(operation, "data_format", "channels_last") == "channels_first":
        return None
    found = [rounding_before(tensor, producers) for tensor in node.inputs]
    given = [one for one in found if one is not None]
    if not given or len(given) < len(found):
        return None
    kind = type(operation).__name__
    if isinstance(operation, layers.Multiply) or kind == "Matmul":
        steps = [given[0].step(), given[-1].step(), rounding.step()]
        first, last, target = map(np.float32, steps)
        sum_step = steps[0] * steps[1]
        if kind == "Matmul" and given[-1].zero_point() != 0:
            # XNNPACK multiplies only by matrices whose zero is the integer 0.
            factor = float(first * last) / float(target)
            return SumScales(sum_step, factor, fixed_point=True)
        return SumScales(sum_step, float(first * last / target))
    if activation_name(operation) in ("relu", "relu6"):
        ratio = np.float32(given[0].step()) / np.float32(rounding.step())
        return SumScales(given[0].step(), float(ratio), fixed_point=True)
    if kernel_of(operation).looked_up:
        return lookup_scales(rounding)
    means = layers.GlobalAveragePooling1D | layers.GlobalAveragePooling2D
    read, made = node.inputs[0].shape[1:], node.output.shape[1:]
    if (isinstance(operation, means) or kind == "Mean") and None not in read:
        count = math.prod(filter(None, read)) // math.prod(filter(None, made))
        return mean_scales(given[0], rounding, count)
    return None
