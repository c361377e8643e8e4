"""What learns in a block: layers with kernels and biases, and ranges of activations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from tfcompress.layers import kernels_of
from tfcompress.quantization.calibration.reconstruction.soft_kernel import SoftKernel
from tfcompress.quantization.fake_quantize import FakeQuantize
from tfcompress.quantization.wrapper import QuantizedLayer

Weights = dict[int, np.ndarray]


def reason_against(wrapper: QuantizedLayer) -> str | None:
    """Returns why the integers of a layer's kernels cannot be learned; `None` if."""
    for (kernel, variable), states in zip(kernels_of(wrapper.layer), wrapper.states):
        axes = kernel.reduction_axes(len(variable.shape))
        if wrapper.has_one_scale(kernel):
            return "its weights share values"
        if wrapper.quantizer.grid(ops.convert_to_tensor(variable), axes, **states):
            continue
        return f"{type(wrapper.quantizer).__name__} has no evenly spaced values"
    return None


def has_few_bits(wrapper: QuantizedLayer) -> bool:
    """Returns whether a layer's kernels have 4 bits or fewer."""
    return getattr(wrapper.quantizer, "num_bits", 1) <= 4


class LearnedLayer:
    """A layer whose kernels learn their integers, and which may move its bias.

    Args:
        wrapper: the layer, whose kernels are rounded.
        weights: its weights before that, by the `id` of their variables.
        biased: whether the bias learns.
        scaled: whether the steps of the kernels learn.
    """

    def __init__(
        self, wrapper: QuantizedLayer, weights: Weights, biased: bool, scaled: bool
    ):
        self.wrapper = wrapper
        layer: Any = wrapper.layer
        self.kernels: list[tuple[Any, dict, SoftKernel]] = []
        size = 1.0
        few = has_few_bits(wrapper) and reason_against(wrapper) is None
        for (kernel, variable), states in zip(kernels_of(layer), wrapper.states):
            values = weights[id(variable)]
            axes = kernel.reduction_axes(values.ndim)
            size = float(np.sqrt(np.mean(np.sum(values**2, axis=axes))))
            if few:
                tensor = ops.convert_to_tensor(values)
                grid: Any = wrapper.quantizer.grid(tensor, axes, **states)
                step = np.maximum(ops.convert_to_numpy(grid[0]), 1e-8)
                soft = SoftKernel(values, step, grid[1], scaled)
                self.kernels.append((variable, states, soft))
        self._present = {
            key: ops.convert_to_tensor(value)
            for key, value in wrapper.rounded_kernels().items()
        }
        bias = getattr(layer, "bias", None)
        self.bias = bias if biased and isinstance(bias, keras.Variable) else None
        if self.bias is not None:
            self._first = weights[id(self.bias)]
            # Of the size of what the layer makes of inputs of size one.
            self._unit = size or 1.0
            self.shift = keras.Variable(np.zeros_like(self._first), name="shift")

    def called(self, mode: str, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer with kernels that are `"soft"`, `"hard"` or `"present"`."""
        values = dict(self._present)
        if mode != "present":
            values |= {id(v): getattr(soft, mode)() for v, _, soft in self.kernels}
            if self.bias is not None:
                values[id(self.bias)] = self._moved()
        return called_with(self.wrapper.layer, values, inputs, *args, **kwargs)

    def _moved(self) -> Any:
        return self._first + self._unit * ops.convert_to_tensor(self.shift)

    def assign(self) -> None:
        """Gives the layer what was learned."""
        for variable, states, soft in self.kernels:
            step = ops.convert_to_numpy(soft.step())
            variable.assign((soft.integers() * step).astype("float32"))
            if "step" in states:
                states["step"].assign(np.broadcast_to(step, states["step"].shape))
        if self.bias is not None:
            self.bias.assign(self._moved())

    def variables(self) -> Iterator[Any]:
        """Yields what `assign` changes."""
        for variable, states, _ in self.kernels:
            yield variable
            yield from states.values()
        if self.bias is not None:
            yield self.bias


class LearnedRange:
    """The range of an activation, whose step learns as in LSQ.

    Source: Esser et al., "Learned Step Size Quantization", 2020, with two ends: the
    rounding passes the gradient on, so that an end has the gradient of the values cut
    off at it and of the errors of the others.

    Args:
        layer: rounds an activation.
    """

    def __init__(self, layer: FakeQuantize):
        self.layer = layer
        self._ends = np.array(layer.learned_range(), "float32")
        self.factors = keras.Variable(np.zeros(2, "float32"), name="ends")

    def called(self, inputs: Any) -> Any:
        """Rounds activations to the range as it is so far."""
        grid = self.layer.grid
        low, high = grid.span(self._moved()[None])
        step = (high - low) / grid.steps
        steps = ops.minimum(ops.maximum(ops.cast(inputs, "float32"), low), high) / step
        return (steps + ops.stop_gradient(ops.round(steps) - steps)) * step

    def _moved(self) -> Any:
        return self._ends * ops.exp(ops.convert_to_tensor(self.factors))

    def assign(self) -> None:
        """Gives the layer what was learned."""
        ends = ops.convert_to_numpy(self._moved())
        self.layer.ranges.assign(np.tile(ends, (self.layer.sites, 1)))

    def variables(self) -> Iterator[Any]:
        """Yields what `assign` changes."""
        yield self.layer.ranges


def range_learns(layer: FakeQuantize) -> bool:
    """Returns whether the range of an activation is free to move."""
    given = layer.fixed_range, layer.masked, layer.rows, layer.within
    return not layer.is_wide and layer.has_range and given == (None,) * len(given)


def called_with(
    layer: Any, values: dict[int, Any], inputs: Any, *args: Any, **kwargs: Any
) -> Any:
    """Calls a layer with other values in place of its variables; it stays as it was.

    Args:
        layer: the layer.
        values: by the `id` of the variables.
        inputs: what to call it with.
        *args: more of that.
        **kwargs: more of that.
    """
    mapping = [
        (v, values.get(id(v), ops.convert_to_tensor(v))) for v in layer.variables
    ]
    with keras.StatelessScope(state_mapping=mapping):
        return layer(inputs, *args, **kwargs)
