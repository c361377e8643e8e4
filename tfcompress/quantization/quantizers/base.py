"""The contract of a weight quantizer."""

from __future__ import annotations

from typing import Any

from keras import ops

from tfcompress.core.configured import Configured
from tfcompress.core.registry import Registry


class Quantizer(Configured):
    """Base class of weight quantizers: `quantizer(weights, axes)` -> rounded weights.

    To write your own, override `__call__` and `get_config` and register the class
    with `keras.saving.register_keras_serializable`. A quantizer that learns something
    about a kernel overrides `states` too and gets them as keyword arguments.

    Files hold integers from -127 to 127 with one scale per output channel, or from -7
    to 7. A kernel whose values are whole multiples of `max|w| / n` with `n <= 7` or
    `n = 127` is stored exactly; of any other, `finalize` rounds the last digit.
    """

    def states(self, weights: Any, axes: tuple[int, ...]) -> dict[str, Any]:
        """Returns the first values of what is trained along with a kernel, by name."""
        return {}

    def __call__(self, weights: Any, axes: tuple[int, ...], **states: Any) -> Any:
        """Returns `weights` rounded to the grid, with a straight-through gradient.

        Args:
            weights: a kernel.
            axes: axes that are *not* output channels; a quantizer with one scale per
                channel takes its range over them.
            **states: present values of what `states` named.
        """
        raise NotImplementedError

    def grid(
        self, weights: Any, axes: tuple[int, ...], **states: Any
    ) -> tuple[Any, int] | None:
        """Returns the step of each channel and the largest integer.

        A kernel whose values are whole multiples of the step, up to the largest
        integer, is one that rounding leaves as it is; with None nothing is promised,
        and `calibrate` cannot learn which integer a weight gets.

        Args:
            weights: a kernel.
            axes: axes that are *not* output channels.
            **states: present values of what `states` named.
        """
        return None


def straight_through(weights: Any, rounded: Any) -> Any:
    """Returns `rounded`, with the gradient of `weights` (Bengio et al., 2013)."""
    return weights + ops.stop_gradient(rounded - weights)


QUANTIZERS: Registry[Quantizer] = Registry("quantizer", Quantizer)
