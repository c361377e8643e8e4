"""Binary weights: minus or plus one scale."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.quantization.quantizers.base import (
    QUANTIZERS,
    Quantizer,
    straight_through,
)


@QUANTIZERS.register("binary")
class BinaryQuantizer(Quantizer):
    """Rounds weights to `-s` or `s`, with one scale `s` per output channel.

    When to use: for one bit a weight (`"w1a8"`): layers that are much larger than
    they need to be. Leave the first and the last layer at 8 bits.

    Source: Rastegari et al., "XNOR-Net", 2016. `s = mean|w|` is the best scale in the
    least squares sense, `q(w) = s * sign(w)`; the gradient passes straight through
    where `|w| <= 1` (Courbariaux et al., 2016), so that weights do not drift away.
    A weight that is exactly zero, as pruned ones are, stays zero and does not count.

    Example:

    >>> weights = ops.array([[1.0], [-0.5], [0.0]])
    >>> BinaryQuantizer()(weights, axes=(0,)).numpy().ravel().tolist()
    [0.75, -0.75, 0.0]
    """

    def __call__(self, weights: Any, axes: tuple[int, ...], **states: Any) -> Any:
        weights = ops.convert_to_tensor(weights)
        sizes = ops.abs(weights)
        present = ops.cast(sizes > 0, weights.dtype)
        count = ops.maximum(ops.sum(present, axis=axes, keepdims=True), 1.0)
        scale = ops.sum(sizes, axis=axes, keepdims=True) / count
        return straight_through(ops.clip(weights, -1.0, 1.0), scale * ops.sign(weights))
