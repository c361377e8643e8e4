"""Ternary weights: minus, zero or plus one scale."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.core.arguments import number
from tfcompress.quantization.quantizers.base import (
    QUANTIZERS,
    Quantizer,
    straight_through,
)


@QUANTIZERS.register("ternary")
class TernaryQuantizer(Quantizer):
    """Rounds weights to `-s`, 0 or `s`, with one scale `s` per output channel.

    When to use: for two bits a weight (`"w2a8"`). It needs some epochs of training;
    leave the first and the last layer at 8 bits where accuracy matters.

    Source: Li et al., "Ternary Weight Networks", 2016. With the threshold
    `t = threshold * mean|w|`, weights of `|w| <= t` become 0 and the others
    `s * sign(w)`, where `s = mean(|w| : |w| > t)` is the best scale in the least
    squares sense. The gradient passes straight through.

    Args:
        threshold: the least size that is not zero, in units of the mean size; >= 0.
            0.7 is nearly the best for normally distributed weights.

    Example:

    >>> weights = ops.array([[1.0], [-0.5], [0.1], [0.0]])
    >>> TernaryQuantizer()(weights, axes=(0,)).numpy().ravel().tolist()
    [0.75, -0.75, 0.0, 0.0]
    """

    def __init__(self, threshold: float = 0.7):
        self.threshold = number(
            threshold,
            "`threshold` of TernaryQuantizer is a share of the mean size.",
            "[0, inf)",
            "a number >= 0, such as 0.7",
        )

    def grid(
        self, weights: Any, axes: tuple[int, ...], **states: Any
    ) -> tuple[Any, int] | None:
        # Of a larger threshold, `s` itself may become 0 when it is rounded again.
        return (self._scale(weights, axes)[0], 1) if self.threshold < 1 else None

    def __call__(self, weights: Any, axes: tuple[int, ...], **states: Any) -> Any:
        weights = ops.convert_to_tensor(weights)
        scale, kept = self._scale(weights, axes)
        return straight_through(weights, scale * kept * ops.sign(weights))

    def _scale(self, weights: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
        """Returns the scale of each channel, and 1 for each weight that is not 0."""
        sizes = ops.abs(weights)
        least = self.threshold * ops.mean(sizes, axis=axes, keepdims=True)
        kept = ops.cast(sizes > least, sizes.dtype)
        count = ops.maximum(ops.sum(kept, axis=axes, keepdims=True), 1.0)
        return ops.sum(kept * sizes, axis=axes, keepdims=True) / count, kept
