"""Uniform quantization of weights: evenly spaced values, zero among them."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.core.arguments import integer, one_of
from tfcompress.quantization.quantizers.base import (
    QUANTIZERS,
    Quantizer,
    straight_through,
)


@QUANTIZERS.register("uniform")
class UniformQuantizer(Quantizer):
    """Rounds weights to `2 ** num_bits - 1` evenly spaced values around zero.

    When to use: the default for weights. The grid is symmetric and narrow, as
    LiteRT's integer kernels want it, so zero is exactly zero and pruned weights stay
    pruned.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", 2018. With `n = 2 ** (num_bits - 1) - 1` and
    `s = max|w| / n` (per output channel or per tensor), `q(w) = s * round(w / s)`.
    The gradient passes straight through.

    Args:
        num_bits: bits per weight, 2 to 8.
        granularity: `"channel"` for one scale per output channel, `"tensor"` for one
            in all.

    Example:

    >>> weights = ops.array([[1.27, 0.5], [0.004, -0.25]])
    >>> UniformQuantizer()(weights, axes=(0,)).numpy().round(4).tolist()
    [[1.2699999809265137, 0.5], [0.0, -0.25200000405311584]]
    """

    def __init__(self, num_bits: int = 8, granularity: str = "channel"):
        problem = "`num_bits` of UniformQuantizer is out of range."
        self.num_bits = integer(num_bits, problem, 2, 8, "an int from 2 to 8")
        one_of(granularity, "Unknown `granularity`.", ("channel", "tensor"))
        self.granularity = granularity

    def grid(
        self, weights: Any, axes: tuple[int, ...], **states: Any
    ) -> tuple[Any, int]:
        levels = 2 ** (self.num_bits - 1) - 1
        over = axes if self.granularity == "channel" else None
        largest = ops.max(ops.abs(weights), axis=over, keepdims=True)
        # A channel of zeros has no scale; any will do.
        return ops.where(largest > 0, largest, 1.0) / levels, levels

    def __call__(self, weights: Any, axes: tuple[int, ...], **states: Any) -> Any:
        weights = ops.convert_to_tensor(weights)
        scale, _ = self.grid(weights, axes)
        rounded = ops.round(weights / scale) * scale
        return straight_through(weights, rounded)
