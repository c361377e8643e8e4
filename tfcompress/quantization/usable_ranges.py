"""Ranges that integer kernels can rescale to.

A layer that is dead, or nearly so, has a range of next to nothing. Kernels multiply
integer sums by `s_in * s_kernel / s_out`, which must stay below 256, and add biases as
integers of 32 bits in units of `s_in * s_kernel`. A range that breaks either is wider
here. Nothing is lost by it: the steps of such an output are finer than the unit of what
is summed, and those of such an input finer than float32 could add to the bias.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from keras import layers

from tfcompress.core.errors import InvalidArgumentError
from tfcompress.core.graph import Graph, Node, Tensor, with_operations
from tfcompress.quantization.activations import activation_name
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.integers.as_convolution import affine_parameters
from tfcompress.quantization.integers.storage import as_stored
from tfcompress.quantization.placement import flow_of
from tfcompress.quantization.primitives import AddConstant

# What kernels multiply sums with is below 2 ** 8, and 2 ** 7 for a few of them.
_LARGEST_FACTOR = 2.0**6
_LARGEST_BIAS = 2.0**30
_SUMS = (layers.Add, layers.Subtract, layers.ReLU, layers.LeakyReLU, AddConstant)


def with_usable_ranges(
    graph: Graph, kernel_of: Any, axes_of: Any, following: Any
) -> Graph:
    """Returns `graph` with wider ranges where integer kernels could not use them.

    Args:
        graph: the graph of a trained model, scales folded into its kernels.
        kernel_of: `node -> (kernel, bias or None)` of a linear node.
        axes_of: `(node, rank of the kernel) -> output axes` of a linear node.
        following: `(node, consumers) -> FakeQuantize` that rounds its output, or None.

    Raises:
        InvalidArgumentError: for weights or ranges that are not finite.
    """
    steps = _Steps(graph)
    consumers, nodes = graph.consumers(), []
    for node in graph.nodes:
        rounding = following(node, consumers) if node.output_tensors else None
        if flow_of(node.operation) == "compute" and node.weights is not None:
            kernel, bias = kernel_of(node)
            weights = kernel, bias, axes_of(node, kernel.ndim)
            node = _with_usable_weights(node, weights, steps, rounding)
        elif rounding is not None:
            steps.widen(rounding, steps.unit(node) / _LARGEST_FACTOR)
        nodes.append(node)
    return dataclasses.replace(graph, nodes=with_operations(nodes, steps.widened))


class _Steps:
    """The steps of a graph's tensors, and which ranges have to be wider."""

    def __init__(self, graph: Graph):
        self.producers = graph.producers()
        self.factors: dict[int, float] = {}

    def before(self, tensor: Tensor) -> FakeQuantize | None:
        """Returns the rounding whose grid a tensor lies on."""
        node = self.producers.get(tensor)
        while node is not None and flow_of(node.operation) in (
            *("select", "concatenate", "average"),
        ):
            node = self.producers.get(node.inputs[0])
        operation: Any = node.operation if node is not None else None
        return operation if isinstance(operation, FakeQuantize) else None

    def step(self, rounding: FakeQuantize | None) -> float:
        """Returns the step of a rounding, 0 of what is not rounded."""
        if rounding is None:
            return 0.0
        step = rounding.step()
        if not math.isfinite(step):
            raise InvalidArgumentError(
                f"The range of '{rounding.name}' is not finite.",
                received=f"a range of {rounding.learned_range()}",
                expected="activations that are numbers",
                fix="look for NaN and infinity in the data and in the layer before it",
            )
        return step * self.factors.get(id(rounding), 1.0)

    def widen(self, rounding: FakeQuantize, least: float) -> None:
        """Asks for a step that is not smaller than `least`."""
        step = self.step(rounding)
        if 0 < step < least and rounding.num_bits == 8 and not rounding.fixed_range:
            factor = self.factors.get(id(rounding), 1.0) * least / step
            self.factors[id(rounding)] = factor

    def unit(self, node: Node) -> float:
        """Returns what one integer is worth before it is rescaled; 0 if nothing is."""
        found = [self.step(self.before(tensor)) for tensor in node.inputs]
        operation, flow = node.operation, flow_of(node.operation)
        if flow == "fold":
            channels = node.inputs[0].shape[-1]
            parameters = channels and affine_parameters(operation, channels)
            return found[0] * float(np.abs(parameters[0]).max()) if parameters else 0.0
        if isinstance(operation, layers.Multiply) or (
            type(operation).__name__ == "Matmul"
        ):
            return math.prod(found)
        clamps = activation_name(operation) in ("relu", "relu6", "leaky_relu")
        return max(found, default=0.0) if clamps or isinstance(operation, _SUMS) else 0

    def widened(self, node: Node) -> dict[str, Any]:
        """Returns the range that a rounding needs, if not its own."""
        rounding = node.operation
        factor = self.factors.get(id(rounding))
        if factor is None or not isinstance(rounding, FakeQuantize):
            return {}
        low, high = (factor * end for end in rounding.learned_range())
        if rounding.within is not None:
            # What lies beyond is to be clipped, and no finer range is asked for.
            low = max(low, min(rounding.within[0], rounding.learned_range()[0]))
            high = min(high, max(rounding.within[1], rounding.learned_range()[1]))
        config = rounding.get_config()
        config |= {"fixed_range": (low, high), "learned": False}
        return {"operation": FakeQuantize.from_config(config), "weights": None}


def _with_usable_weights(
    node: Node, weights: tuple, steps: _Steps, rounding: FakeQuantize | None
) -> Node:
    """Returns a linear node without channels that are nothing beside their bias."""
    kernel, bias, axes = weights
    source = steps.before(node.inputs[0])
    if source is None or rounding is None:
        return node
    _, unit = as_stored(kernel, axes)
    unit = unit.reshape(-1).astype("float64")
    if bias is not None:
        others = tuple(axis for axis in range(kernel.ndim) if axis not in axes)
        least = np.abs(bias) / np.where(unit > 0, unit, np.inf) / _LARGEST_BIAS
        most = max(map(abs, source.learned_range()))
        reach = np.abs(kernel).sum(axis=others).reshape(-1) * most
        nothing = (least > steps.step(source)) & (reach < 0.25 * steps.step(rounding))
        if nothing.any():
            shape = [n if a in axes else 1 for a, n in enumerate(kernel.shape)]
            kernel = np.where(nothing.reshape(shape), 0, kernel).astype(kernel.dtype)
            unit, changed = np.where(nothing, 0, unit), [kernel, bias]
            node = dataclasses.replace(node, weights=lambda: changed)
        steps.widen(source, float(least[~nothing].max(initial=0.0)))
    sums = steps.step(source) * float(unit.max(initial=0.0))
    steps.widen(rounding, sums / _LARGEST_FACTOR)
    return node
