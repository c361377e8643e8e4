"""How integers store a kernel: one scale per channel, and 8 or 4 bits a weight.

`finalize` rounds kernels and biases to what is stored, and the exporter stores them so.
Both ask here, of the values alone, and so agree.
"""

from __future__ import annotations

import numpy as np

INT8 = 127
INT4 = 7
# How far values on a grid are off it, in units of the largest: by float32's rounding,
# and by that to bytes.
FLOAT_ERROR, BYTE_ERROR = 1e-4, 0.501 / INT8
# Below this, four bits save nothing, and any few numbers are on some coarse grid.
_SMALLEST, _FEWEST_PER_CHANNEL = 32, 4
# The converter's scales are no finer than this one's, however small all weights are.
SMALLEST_LARGEST_WEIGHT = 5e-7


def largest_integers(
    kernel: np.ndarray, output_axes: tuple[int, ...], error: float = FLOAT_ERROR
) -> np.ndarray:
    """Returns the integer that stands for the largest weight of each channel.

    It is 127, or at most 7 in all channels if their values are whole multiples of
    `max|w| / n` with `n <= 7`: then the kernel fits into 4 bits without loss.

    Args:
        kernel: the weights, of any scale per channel.
        output_axes: the axes that hold output channels.
        error: how far off the grid a value may be, as a share of the largest.

    Example:

    >>> kernel = np.tile([[0.7, 1.0], [-0.1, 0.5]], (16, 1))
    >>> largest_integers(kernel, (1,)).ravel().tolist()
    [7, 6]
    """
    others = tuple(a for a in range(kernel.ndim) if a not in output_axes)
    largest = np.abs(kernel).max(axis=others, keepdims=True)
    per_channel = kernel.size // max(largest.size, 1)
    if kernel.size >= _SMALLEST and per_channel >= _FEWEST_PER_CHANNEL:
        relative = kernel / np.where(largest > 0, largest, 1)
        found = np.zeros(largest.shape, int)
        for n in range(INT4, 0, -1):
            off = np.abs(relative - np.round(relative * n) / n)
            fits = off.max(axis=others, keepdims=True) <= error
            found = np.where((found == 0) & fits, n, found)
        if found.all():
            return found
    return np.full(largest.shape, INT8)


def as_stored(
    kernel: np.ndarray, output_axes: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a kernel rounded to what is stored, and the step of each channel."""
    integers = largest_integers(kernel, output_axes)
    others = tuple(a for a in range(kernel.ndim) if a not in output_axes)
    exact = kernel.astype("float64")
    largest = np.abs(exact).max(axis=others, keepdims=True)
    smallest = np.where(largest > 0, SMALLEST_LARGEST_WEIGHT, 0.0)
    step = np.maximum(largest, smallest) / integers
    if (integers == INT8).all() and _on_one_grid(exact, step.max()):
        # Rounded with one scale for all channels: it is stored with one as well.
        step = np.full_like(step, step.max())
    divisor = np.where(step > 0, step, 1.0)
    # Integers have no minus zero.
    return (np.round(exact / divisor) * step + 0.0).astype(kernel.dtype), step


def _on_one_grid(kernel: np.ndarray, step: float) -> bool:
    multiples = kernel / step if step > 0 else kernel
    return bool(np.abs(multiples - np.round(multiples)).max() <= INT8 * FLOAT_ERROR)
