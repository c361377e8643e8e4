"""Where the kernels of a layer are, and which of their axes are channels."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from tfcompress.core.equation import Equation


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One weight tensor of a layer.

    Attributes:
        attribute: where it is found on the layer (`"kernel"`, `"cell.kernel"`).
        output_axes: axes that run over output channels; every other axis is summed
            over or shared.
        input_axes: axes that run over input channels; none for a kernel that is not
            multiplied with a vector of inputs (depthwise, embeddings).
        gates: how many kernels lie side by side along the last axis (LSTM: 4).
    """

    attribute: str
    output_axes: tuple[int, ...] = (-1,)
    input_axes: tuple[int, ...] = (-2,)
    gates: int = 1

    def find(self, layer: keras.Layer) -> Any:
        """Returns the layer's variable for this kernel, or `None` without one."""
        value: Any = layer
        for part in self.attribute.split("."):
            value = getattr(value, part, None)
        return value

    def of(self, layer: keras.Layer) -> Kernel:
        """Returns this kernel with the axes it has in `layer`."""
        return self

    def reduction_axes(self, rank: int) -> tuple[int, ...]:
        """Returns the axes of a kernel of `rank` that are not output channels."""
        kept = {axis % rank for axis in self.output_axes}
        return tuple(axis for axis in range(rank) if axis not in kept)


class EinsumKernel(Kernel):
    """The kernel of an EinsumDense, whose equation says what its axes are."""

    def of(self, layer: Any) -> Kernel:
        equation = Equation.of(layer.equation)
        (_, kernel), outputs = equation.terms, equation.target
        rank = len(kernel)
        out = tuple(i - rank for i, axis in enumerate(kernel) if axis in outputs)
        summed = tuple(i - rank for i, axis in enumerate(kernel) if axis not in outputs)
        return Kernel(self.attribute, out, summed)
