"""AWQ: weights that meet large inputs get finer values, and the layer before pays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops

from tfcompress.core.data import Inputs
from tfcompress.core.graph import Graph, Node, Tensor
from tfcompress.layers import Kernel
from tfcompress.quantization.activations import activation_name
from tfcompress.quantization.calibration.float_run import run_in_float
from tfcompress.quantization.calibration.rounding import as_matrix, block_steps
from tfcompress.quantization.quantizers import BlockwiseQuantizer
from tfcompress.quantization.wrapper import QuantizedLayer

# Exponents of the mean input that are tried; with 0 nothing is scaled.
_EXPONENTS = np.linspace(0.0, 1.0, 11)
_NORMS = (layers.LayerNormalization, layers.RMSNormalization)
# What a layer that multiplies rows of its last axis is called in attention.
_PROJECTIONS = frozenset({"query", "key", "value"})


class _Site(NamedTuple):
    """Kernels that read one tensor, and what can divide that tensor."""

    readers: list[QuantizedLayer]
    kernels: list[tuple[QuantizedLayer, Kernel, Any]]
    divide: Callable[[np.ndarray], None]


class _Moments:
    """Sums over the inputs of a layer, as `run_in_float` hands them out."""

    def __init__(self, layer: Any):
        self.layer, self.count = layer, 0
        self.sizes: Any = 0.0
        self.gram: Any = 0.0

    def add(self, call: int, inputs: Any, made: Any = None) -> None:
        rows = ops.convert_to_numpy(inputs).astype("float64")
        rows = rows.reshape(-1, rows.shape[-1])
        self.count += len(rows)
        self.sizes = self.sizes + np.abs(rows).sum(axis=0)
        self.gram = self.gram + rows.T @ rows


def scale_inputs(model: keras.Model, graph: Graph, data: Inputs) -> int:
    """Scales kernels by how large their inputs are; returns how many tensors.

    Source: Lin et al., "AWQ: Activation-aware Weight Quantization", 2023. Row `i` of a
    kernel is multiplied by `s[i] = mean|x[i]| ** a`, and what makes `x` divided by it:
    the scale of a normalization, or the columns of a linear layer, also behind a
    product such as that of a gated MLP. `a` in [0, 1] is the one with the least error
    of the outputs, `sum((x (w - q(s w) / s)) ** 2)`, over all kernels that read `x`.
    The model computes the same before it is rounded.

    Args:
        model: a weight-only model that is not rounded yet.
        graph: its traced graph.
        data: typical inputs.
    """
    sites = list(_sites(graph))
    measured: Any = {site.readers[0]: _Moments(site.readers[0].layer) for site in sites}
    for _ in run_in_float(model, graph, data, measured, lambda *_: None):
        pass
    scaled = 0
    for site in sites:
        found = measured[site.readers[0]]
        scale = _best_scale(site, found.sizes / found.count, found.gram / found.count)
        if scale is None:
            continue
        site.divide(scale)
        for _, _, variable in site.kernels:
            kernel = ops.convert_to_numpy(variable)
            # The axis of inputs is the first of each of these.
            wide = scale.reshape(-1, *[1] * (kernel.ndim - 1))
            variable.assign((kernel * wide).astype(kernel.dtype))
        scaled += 1
    return scaled


def _best_scale(site: _Site, sizes: np.ndarray, gram: np.ndarray) -> Any:
    """Returns the scale of each input with the least error; None for no scale."""
    sizes = np.maximum(sizes, 1e-6 * max(sizes.max(), 1e-30))
    best, least = None, np.inf
    for exponent in _EXPONENTS:
        scale = sizes**exponent
        scale = scale / np.sqrt(scale.max() * scale.min())
        error = sum(
            _error(wrapper, kernel, variable, scale, gram)
            for wrapper, kernel, variable in site.kernels
        )
        if error < least:
            best, least = (scale if exponent else None), error
    return best


def _error(
    wrapper: Any, kernel: Kernel, variable: Any, scale: np.ndarray, gram: np.ndarray
) -> float:
    axes = kernel.reduction_axes(len(variable.shape))
    matrix, _ = as_matrix(ops.convert_to_numpy(variable), axes)
    wide, levels = matrix * scale[:, None], wrapper.quantizer.levels
    blockwise = isinstance(wrapper.quantizer, BlockwiseQuantizer)
    size = wrapper.quantizer.block_size if blockwise else len(matrix)
    steps = block_steps(wide, levels, np.diag(gram) / scale**2, size)
    steps = np.repeat(steps, size, axis=0)
    off = np.clip(np.round(wide / steps), -levels, levels) * steps - wide
    off /= scale[:, None]
    return float(np.sum(off * (gram @ off)))


def _sites(graph: Graph) -> Iterator[_Site]:
    producers, consumers = graph.producers(), graph.consumers()
    calls, outputs = graph.calls(), set(graph.output_tensors)

    def alone(tensor: Tensor) -> bool:
        return tensor not in outputs and len(consumers[tensor]) == 1

    seen: set[Tensor] = set()
    for node in graph.nodes:
        if not node.inputs or node.inputs[0] in seen:
            continue
        tensor = node.inputs[0]
        seen.add(tensor)
        readers = list(dict.fromkeys(consumers.get(tensor, [])))
        kernels = [_kernels(one, tensor) for one in readers]
        once = all(len(calls[id(one.operation)]) == 1 for one in readers)
        if tensor in outputs or not once or not all(kernels):
            continue
        divide = _divider(tensor, producers, calls, alone)
        if divide is not None:
            wrappers = [one.operation for one in readers]
            yield _Site(wrappers, [k for found in kernels for k in found], divide)


def _kernels(node: Node, tensor: Tensor) -> list[tuple[QuantizedLayer, Kernel, Any]]:
    """Returns the kernels whose rows a tensor's last axis is multiplied with."""
    wrapper = node.operation
    if not isinstance(wrapper, QuantizedLayer) or any(
        t is not tensor for t in node.inputs
    ):
        return []
    if not hasattr(wrapper.quantizer, "levels"):
        return []
    found = []
    for owner, kernel, variable in wrapper.parts():
        within = owner is not wrapper.layer
        if within and owner.name not in _PROJECTIONS:
            continue
        rows = kernel.reduction_axes(len(variable.shape))
        if not isinstance(owner, layers.Dense | layers.EinsumDense) or rows != (0,):
            return []
        if variable.shape[0] != tensor.shape[-1]:
            return []
        found.append((wrapper, kernel, variable))
    return found


def _divider(
    tensor: Tensor,
    producers: dict[Tensor, Node],
    calls: dict[int, list[Node]],
    alone: Callable[[Tensor], bool],
) -> Callable[[np.ndarray], None] | None:
    """Returns what divides a tensor by a number for each channel, exactly."""
    node = producers.get(tensor)
    if node is None or len(calls[id(node.operation)]) > 1:
        return None
    operation = node.operation
    if isinstance(operation, _NORMS):
        last = operation.axis in (-1, [-1], (-1,), [len(tensor.shape) - 1])
        names = ("gamma", "beta", "scale")
        found = [getattr(operation, name, None) for name in names]
        variables = [v for v in found if isinstance(v, keras.Variable)]
        return _dividing(variables) if last and variables else None
    if isinstance(operation, QuantizedLayer):
        inner = operation.layer
        linear = activation_name(inner) in ("linear", "relu", None)
        columns = isinstance(inner, layers.Dense) and linear
        return _dividing(inner.weights) if columns else None
    if type(operation).__name__ == "Multiply" and len(node.inputs) == 2:
        for factor in node.inputs:
            same = factor.shape[-1] == tensor.shape[-1]
            if same and alone(factor) and factor in producers:
                found_divider = _divider(factor, producers, calls, alone)
                if found_divider is not None:
                    return found_divider
    return None


def _dividing(variables: list[Any]) -> Callable[[np.ndarray], None]:
    def divide(scale: np.ndarray) -> None:
        for variable in variables:
            value = ops.convert_to_numpy(variable)
            variable.assign((value / scale).astype(value.dtype))

    return divide
