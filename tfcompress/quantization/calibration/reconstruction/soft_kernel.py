"""A kernel each of whose weights learns whether it is rounded up or down."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

# The sigmoid is stretched beyond 0 and 1 and clipped, so that both can be reached.
_LOW, _HIGH = -0.1, 1.1


class SoftKernel:
    """A kernel whose integers are learned.

    Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training
    Quantization", 2020: `W = s * clip(floor(w / s) + h(V), -n, n)`, with the rectified
    sigmoid `h(V) = clip(1.2 * sigmoid(V) - 0.1, 0, 1)`, which begins where `W = w`.
    Weights that are zero stay zero, and those beyond the last integer stay there.
    With `scaled`, the step learns too, behind the integers (Jeon et al., "GENIE",
    2023): `s = s0 * exp(q)`.

    Args:
        values: the kernel.
        step: the step of each channel, of a shape that fits the kernel's.
        levels: the largest integer.
        scaled: whether the step learns.

    Example:

    >>> kernel = SoftKernel(np.array([[0.6], [-0.2]]), np.array([[0.5]]), 7)
    >>> [round(float(weight), 4) for weight in ops.reshape(kernel.soft(), (-1,))]
    [0.6, -0.2]
    >>> kernel.integers().ravel().tolist()
    [1.0, 0.0]
    """

    def __init__(
        self, values: np.ndarray, step: np.ndarray, levels: int, scaled: bool = False
    ):
        steps = np.asarray(values / step, "float32")
        self._step, self._levels = np.asarray(step, "float32"), levels
        # The largest weight is the last integer, up to the rounding of a division.
        self._moves = (values != 0) & (np.abs(steps) < levels - 1e-3)
        self._floor = np.where(self._moves, np.floor(steps), np.round(steps))
        self._floor = np.clip(self._floor, -levels, levels).astype("float32")
        rest = np.where(self._moves, steps - self._floor, 0.0)
        share = (rest - _LOW) / (_HIGH - _LOW)
        self.rounding = keras.Variable(np.log(share / (1 - share)), name="rounding")
        self.scale = (
            keras.Variable(np.zeros_like(self._step), name="scale") if scaled else None
        )

    @property
    def size(self) -> int:
        """How many weights may go up or down."""
        return int(self._moves.sum())

    def soft(self) -> Any:
        """Returns the kernel with weights between their two integers."""
        return (self._floor + self._moves * self._up()) * self.step()

    def hard(self) -> Any:
        """Returns the kernel with each weight at the integer that it is nearer to."""
        up = ops.cast(self._up() >= 0.5, "float32")
        return (self._floor + self._moves * up) * self.step()

    def undecided(self, sharpness: Any) -> Any:
        """Returns the sum over weights of `1 - |2h - 1| ** sharpness`."""
        distance = ops.abs(2.0 * self._up() - 1.0)
        return ops.sum(self._moves * (1.0 - distance**sharpness))

    def step(self) -> Any:
        """Returns the step of each channel."""
        if self.scale is None:
            return self._step
        return self._step * ops.exp(ops.convert_to_tensor(self.scale))

    def integers(self) -> np.ndarray:
        """Returns the integer that each weight is nearer to."""
        up = ops.convert_to_numpy(self._up()) >= 0.5
        return self._floor + self._moves * up

    def _up(self) -> Any:
        rounding = ops.convert_to_tensor(self.rounding)
        return ops.clip(ops.sigmoid(rounding) * (_HIGH - _LOW) + _LOW, 0.0, 1.0)
