"""LSQ: the distance between two values is trained with the weights."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from tfcompress.core.arguments import integer
from tfcompress.quantization.quantizers.base import (
    QUANTIZERS,
    Quantizer,
    straight_through,
)


@QUANTIZERS.register("learned_step")
class LearnedStepQuantizer(Quantizer):
    """Rounds weights to evenly spaced values whose step is learned.

    When to use: at 2 to 4 bits, where the largest weight is a poor guide to the step:
    training finds what to clip.

    Source: Esser et al., "Learned Step Size Quantization", 2020. With
    `n = 2 ** (num_bits - 1) - 1` and a step `s` per output channel,
    `q(w) = s * round(clip(w / s, -n, n))`. Rounding passes the gradient on, so that
    `dq/ds = round(w / s) - w / s` inside the clipping range and `-n` or `n` outside;
    it is scaled by `1 / sqrt(weights per step * n)`. The step begins at
    `2 * mean|w| / sqrt(n)`.

    Args:
        num_bits: bits per weight, 2 to 4. At 8 bits the largest weight is the right
            guide: see `UniformQuantizer`.

    Example:

    >>> quantizer = LearnedStepQuantizer(num_bits=3)
    >>> weights = ops.array([[0.4], [-0.5], [2.0]])
    >>> step = ops.array([[0.25]])
    >>> quantizer(weights, axes=(0,), step=step).numpy().ravel().tolist()
    [0.5, -0.5, 0.75]
    """

    def __init__(self, num_bits: int = 4):
        problem = "`num_bits` of LearnedStepQuantizer is out of range."
        fix = "use UniformQuantizer(8) for 8 bits"
        self.num_bits = integer(num_bits, problem, 2, 4, "an int from 2 to 4", fix)

    @property
    def levels(self) -> int:
        """The largest integer."""
        return 2 ** (self.num_bits - 1) - 1

    def trained_step(self, step: Any, size: float) -> Any:
        """Returns a step as it is, with its gradient scaled as in the paper.

        Args:
            step: the step.
            size: how many weights share it.
        """
        factor = 1.0 / math.sqrt(size * self.levels)
        return step * factor + ops.stop_gradient(step - step * factor)

    def states(self, weights: Any, axes: tuple[int, ...]) -> dict[str, Any]:
        sizes = ops.mean(ops.abs(weights), axis=axes, keepdims=True)
        return {"step": ops.maximum(2.0 * sizes / math.sqrt(self.levels), 1e-8)}

    def grid(
        self, weights: Any, axes: tuple[int, ...], **states: Any
    ) -> tuple[Any, int] | None:
        step = ops.convert_to_tensor((states or self.states(weights, axes))["step"])
        return ops.maximum(ops.abs(step), 1e-8), self.levels

    def __call__(self, weights: Any, axes: tuple[int, ...], **states: Any) -> Any:
        weights = ops.convert_to_tensor(weights)
        step = ops.convert_to_tensor((states or self.states(weights, axes))["step"])
        size = math.prod(weights.shape) / math.prod(step.shape)
        step = ops.maximum(ops.abs(self.trained_step(step, size)), 1e-8)
        steps = ops.clip(weights / step, -self.levels, self.levels)
        return straight_through(steps, ops.round(steps)) * step
