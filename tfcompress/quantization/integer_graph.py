"""From a trained quantization-aware graph to the one that integer kernels compute.

What the converter would otherwise do by itself, and round in its own way, is done
here, so that the graph the user verifies and the file agree: kernels are put on their
grid, BatchNormalization is folded into them, and biases are rounded to the integers
that the kernels add.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from keras import layers

from tfcompress.core.graph import Graph, Node, Tensor
from tfcompress.layer_rules import rule_of
from tfcompress.quantization.activations import activation_name
from tfcompress.quantization.as_convolution import (
    affine_parameters,
    average_nodes,
    depthwise_nodes,
    identity_nodes,
)
from tfcompress.quantization.constants import with_constants_on_grids
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.float_border import FloatBorder
from tfcompress.quantization.integer_average import IntegerAverage
from tfcompress.quantization.integer_linear import IntegerLinear
from tfcompress.quantization.integer_sums import (
    IntegerAdd,
    IntegerSum,
    SumScales,
    mean_scales,
)
from tfcompress.quantization.placement import flow_of
from tfcompress.quantization.primitives import AddConstant
from tfcompress.quantization.recurrent_steps import unrolled
from tfcompress.quantization.storage import as_stored
from tfcompress.quantization.usable_ranges import with_usable_ranges
from tfcompress.quantization.wrapper import QuantizedLayer

_AVERAGES = layers.AveragePooling1D | layers.AveragePooling2D
_LAST = "channels_last"


def integer_graph(graph: Graph) -> Graph:
    """Returns the graph of integer operations that a trained `graph` stands for."""
    graph = _unwrap(unrolled(graph))
    graph = _integer_forms(graph)
    graph = fold_scales(graph)
    graph = with_usable_ranges(graph, _kernel_and_bias, _output_axes, _next_rounding)
    graph = _use_convolutions(graph)
    graph = with_constants_on_grids(graph, _rounding_before)
    return _with_integer_sums(_round_weights(graph))


def _flow(node: Node | None) -> str:
    return flow_of(node.operation) if node is not None else "float"


def _called_once(graph: Graph) -> set[int]:
    calls: dict[int, int] = {}
    for node in graph.nodes:
        calls[id(node.operation)] = calls.get(id(node.operation), 0) + 1
    return {key for key, count in calls.items() if count == 1}


def _unwrap(graph: Graph) -> Graph:
    """Replaces wrappers by their layers, with the kernels that they round to."""
    return dataclasses.replace(
        graph,
        nodes=[
            dataclasses.replace(
                node,
                operation=node.operation.layer,
                weights=node.operation.rounded_weights,
            )
            if isinstance(node.operation, QuantizedLayer)
            else node
            for node in graph.nodes
        ],
    )


def _integer_forms(graph: Graph) -> Graph:
    """Replaces layers by what is left of them where integers do part of their work."""
    made: dict[int, Any] = {}

    def form(operation: Any) -> Any:
        if not hasattr(operation, "integer_form"):
            return operation
        return made.setdefault(id(operation), operation.integer_form())

    return dataclasses.replace(
        graph,
        nodes=[
            dataclasses.replace(n, operation=form(n.operation)) for n in graph.nodes
        ],
    )


def fold_scales(graph: Graph) -> Graph:
    """Folds scales and offsets into the linear operation right before them."""
    producers, consumers = graph.producers(), graph.consumers()
    single = _called_once(graph)
    outputs = set(graph.output_tensors)
    folded: dict[Node, Node] = {}
    gone: set[Node] = set()
    for node in graph.nodes:
        before = producers.get(node.inputs[0]) if node.inputs else None
        foldable = (
            _flow(node) == "fold"
            and before is not None
            and _flow(before) == "compute"
            and before.weights is not None
            and id(before.operation) in single
            and len(consumers[node.inputs[0]]) == 1
            and node.inputs[0] not in outputs
        )
        if foldable and before is not None:
            replacement = _folded(before, node)
            if replacement is not None:
                folded[before] = replacement
                gone.add(node)
    nodes = [folded.get(node, node) for node in graph.nodes if node not in gone]
    return dataclasses.replace(graph, nodes=nodes)


def _folded(linear: Node, affine: Node) -> Node | None:
    kernel, bias = _kernel_and_bias(linear)
    axes = _output_axes(linear, kernel.ndim)
    channels = int(np.prod([kernel.shape[axis] for axis in axes]))
    parameters = affine_parameters(affine.operation, channels)
    if parameters is None:
        return None
    scale, offset = parameters
    shape = [size if axis in axes else 1 for axis, size in enumerate(kernel.shape)]
    kernel = kernel * scale.reshape(shape)
    bias = offset if bias is None else bias * scale + offset
    config = {**linear.operation.get_config(), "use_bias": True}
    layer = type(linear.operation).from_config(config)
    return dataclasses.replace(
        linear,
        operation=layer,
        outputs=affine.outputs,
        weights=lambda: [kernel, bias],
    )


def _use_convolutions(graph: Graph) -> Graph:
    """Turns layers without an exact integer kernel of their own into convolutions."""
    producers, consumers = graph.producers(), graph.consumers()
    nodes: list[Node] = []
    for node in graph.nodes:
        replaced = None
        rounding = _next_rounding(node, consumers)
        if rounding is not None and _flow(node) == "fold":
            absorbed = _flow(producers.get(node.inputs[0])) == "compute"
            if not absorbed:
                source = _input_step(node.inputs[0], producers)
                replaced = depthwise_nodes(node, rounding.step(), source)
        elif rounding is not None and _flow(node) == "average":
            replaced = average_nodes(node, rounding.step())
        elif isinstance(node.operation, FakeQuantize) and node.kwargs.get("again"):
            replaced = _rounded_again(node, len(nodes))
        elif (
            isinstance(node.operation, FakeQuantize)
            and node.kwargs.get("site", 0) is None
        ):
            # The pooling decides ties from here on.
            replaced = [dataclasses.replace(node, kwargs={**node.kwargs, "site": 0})]
        nodes.extend(replaced or [node])
    return dataclasses.replace(graph, nodes=nodes)


def _rounded_again(node: Node, position: int) -> list[Node] | None:
    nodes = identity_nodes(node, f"{node.name}_again_{position}")
    if nodes is None:
        return None
    between = Tensor(node.output.shape, "float32")
    nodes[-1] = dataclasses.replace(nodes[-1], outputs=between)
    kwargs = {**node.kwargs, "again": False}
    return [*nodes, dataclasses.replace(node, args=(between,), kwargs=kwargs)]


def _next_rounding(
    node: Node, consumers: dict[Tensor, list[Node]]
) -> FakeQuantize | None:
    """Returns what rounds a node's output, with a fused activation in between."""
    for reader in consumers.get(node.output_tensors[0], []):
        if isinstance(reader.operation, FakeQuantize):
            return reader.operation
        clipped = isinstance(reader.operation, layers.Identity)
        if clipped or _flow(reader) == "activate":
            return _next_rounding(reader, consumers)
    return None


def _round_weights(graph: Graph) -> Graph:
    """Rounds kernels to what is stored, and biases to the grid of the accumulator.

    Source: Jacob et al., 2018, section 2.4: `s_bias = s_input * s_kernel`. The bias of
    a layer that is called at several steps has several grids; it is stored once for
    each of them, and rounded where it is added (`IntegerLinear`).
    """
    producers = graph.producers()
    steps: dict[int, set[float | None]] = {}
    for node in graph.nodes:
        if _flow(node) == "compute":
            step = _input_step(node.inputs[0], producers)
            steps.setdefault(id(node.operation), set()).add(step)
    nodes = []
    for node in graph.nodes:
        own = list(steps.get(id(node.operation), ()))
        if node.weights and any(step is not None for step in own):
            node = _with_rounded_weights(node, own[0] if len(own) == 1 else None)
        nodes.append(node)
    return dataclasses.replace(graph, nodes=nodes)


def _with_rounded_weights(node: Node, input_step: float | None) -> Node:
    kernel, bias = _kernel_and_bias(node)
    kernel, kernel_step = as_stored(kernel, _output_axes(node, kernel.ndim))
    if bias is None:
        return dataclasses.replace(node, weights=lambda: [kernel])
    if input_step is not None:
        step = input_step * kernel_step.reshape(bias.shape)
        rounded = np.round(bias / np.where(step > 0, step, 1.0)) * step
        bias = np.where(step > 0, rounded, bias).astype("float32")
        if bias.size > 1 and np.ptp(bias) == 0 and np.ptp(step) > 0:
            # The converter divides equal numbers, all of them, by the first one's step.
            bias[0] = np.nextafter(bias[0], np.float32(0))
    return dataclasses.replace(node, weights=lambda: [kernel, bias])


def _kernel_and_bias(node: Node) -> tuple[np.ndarray, np.ndarray | None]:
    kernel, *bias = node.weights() if node.weights else node.operation.get_weights()
    return np.asarray(kernel), (np.asarray(bias[0]) if bias else None)


def _output_axes(node: Node, rank: int) -> tuple[int, ...]:
    rule = rule_of(node.operation)
    axes = rule.kernels[0].output_axes if rule and rule.kernels else (-1,)
    return tuple(axis % rank for axis in axes)


def _rounding_before(
    tensor: Tensor, producers: dict[Tensor, Node]
) -> FakeQuantize | None:
    node = producers.get(tensor)
    while node is not None and _flow(node) in ("select", "concatenate", "average"):
        node = producers.get(node.inputs[0])
    operation: Any = node.operation if node is not None else None
    return operation if isinstance(operation, FakeQuantize) else None


def _input_step(tensor: Tensor, producers: dict[Tensor, Node]) -> float | None:
    rounding = _rounding_before(tensor, producers)
    return rounding.step() if rounding is not None else None


def _with_integer_sums(graph: Graph) -> Graph:
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
        rounding = _next_rounding(node, consumers) if node.output_tensors else None
        if rounding is None or rounding.num_bits > 8:
            nodes.append(node)
        elif isinstance(node.operation, AddConstant | layers.Add | layers.Subtract):
            nodes.append(_as_integer_add(node, rounding.step(), producers))
        elif _flow(node) == "compute":
            nodes.append(_as_integer_linear(node, rounding.step(), producers, wrapped))
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
    if tensor in summed or rounding.num_bits > 8:
        return
    step = np.float32(rounding.step())
    scales = scales or SumScales(None, float(np.float32(1) / step))
    layer = IntegerSum(scales, float(step), name=name)
    summed[tensor] = Tensor(tensor.shape, "float32")
    nodes.append(Node(layer, (tensor,), {}, summed[tensor]))


def _as_integer_linear(
    node: Node,
    step: float,
    producers: dict[Tensor, Node],
    wrapped: dict[int, IntegerLinear],
) -> Node:
    """Wraps a linear layer so that it adds integers up, if it is given integers.

    Args:
        node: the call of the layer.
        step: that of its output.
        producers: what makes each tensor.
        wrapped: the wrappers of layers that are called more than once.
    """
    layer, source = node.operation, _input_step(node.inputs[0], producers)
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    clips = activation_name(layer) not in ("linear", "relu")
    if source is None or first or clips or not (node.weights or layer.built):
        return node
    weights = node.weights or layer.get_weights
    if id(layer) not in wrapped:
        kernel, _ = _kernel_and_bias(node)
        _, own = as_stored(kernel, _output_axes(node, kernel.ndim))
        config = {**layer.get_config(), "dtype": "float32"}
        wrapped[id(layer)] = IntegerLinear(
            type(layer).from_config(config), own.reshape(-1).tolist()
        )
    return dataclasses.replace(
        node,
        operation=wrapped[id(layer)],
        kwargs={**node.kwargs, "steps": (source, step)},
        weights=weights,
    )


def _as_integer_average(node: Node, producers: dict[Tensor, Node]) -> Node:
    rounding, layer = _rounding_before(node.inputs[0], producers), node.operation
    if rounding is None or rounding.num_bits > 8 or layer.data_format != _LAST:
        return node
    pooling = type(layer).from_config({**layer.get_config(), "dtype": "float32"})
    step = float(np.float32(rounding.step()))
    wrapped = IntegerAverage(pooling, step, rounding.zero_point())
    return dataclasses.replace(node, operation=wrapped)


def _as_integer_add(node: Node, step: float, producers: dict[Tensor, Node]) -> Node:
    operation = node.operation
    if isinstance(operation, AddConstant):
        own = _input_step(node.inputs[0], producers)
        if own is None:
            return node
        config = {**operation.get_config(), "steps": (own, step)}
        return dataclasses.replace(node, operation=AddConstant.from_config(config))
    steps = [_input_step(tensor, producers) for tensor in node.inputs]
    if len(steps) != 2 or None in steps:
        return node
    subtract = isinstance(operation, layers.Subtract)
    layer = IntegerAdd(steps, step, subtract, name=node.name)  # type: ignore[arg-type]
    return dataclasses.replace(node, operation=layer)


def _sum_scales(
    node: Node, rounding: FakeQuantize, producers: dict[Tensor, Node]
) -> SumScales | None:
    """Returns the scales of a product, a mean or a ReLU on its own; `None` where no
    integers are given.
    """
    operation = node.operation
    if getattr(operation, "data_format", "channels_last") == "channels_first":
        return None
    found = [_rounding_before(tensor, producers) for tensor in node.inputs]
    given = [one for one in found if one is not None]
    if not given or len(given) < len(found):
        return None
    kind = type(operation).__name__
    if isinstance(operation, layers.Multiply) or kind == "Matmul":
        steps = [given[0].step(), given[-1].step(), rounding.step()]
        first, last, target = map(np.float32, steps)
        return SumScales(steps[0] * steps[1], float(first * last / target))
    if activation_name(operation) in ("relu", "relu6"):
        ratio = np.float32(given[0].step()) / np.float32(rounding.step())
        return SumScales(given[0].step(), float(ratio), fixed_point=True)
    means = layers.GlobalAveragePooling1D | layers.GlobalAveragePooling2D
    read, made = node.inputs[0].shape[1:], node.output.shape[1:]
    if (isinstance(operation, means) or kind == "Mean") and None not in read:
        count = math.prod(filter(None, read)) // math.prod(filter(None, made))
        return mean_scales(given[0], rounding, count)
    return None
