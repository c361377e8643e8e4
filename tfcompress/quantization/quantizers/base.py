"""The contract of a weight quantizer."""

from __future__ import annotations

from typing import Any

from tfcompress.core.registry import Registry


class Quantizer:
    """Base class of weight quantizers: `quantizer(weights, axes)` -> rounded weights.

    To write your own, override `__call__` and `get_config` and register the class
    with `keras.saving.register_keras_serializable`.
    """

    def __call__(self, weights: Any, axes: tuple[int, ...]) -> Any:
        """Returns `weights` rounded to the grid, with a straight-through gradient.

        Args:
            weights: a kernel.
            axes: axes that are *not* output channels; a quantizer with one scale per
                channel takes its range over them.
        """
        raise NotImplementedError

    def get_config(self) -> dict:
        return {}

    @classmethod
    def from_config(cls, config: dict) -> Quantizer:
        return cls(**config)


quantizers: Registry[Quantizer] = Registry("quantizer")
