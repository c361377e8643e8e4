"""Kernels that are whole multiples of steps: found again of their values alone."""

from __future__ import annotations

from typing import NamedTuple

import ml_dtypes
import numpy as np

from tfcompress.quantization.integers.storage import INT4, INT8
from tfcompress.quantization.quantizers.blockwise import BLOCK_SIZES

# Of the largest weight; scales per channel that were multiplied in leave less.
_TOLERANCE = 1e-5
# Fewer numbers lie on some grid by chance, and save nothing.
_FEWEST = 32


class Grid(NamedTuple):
    """Integers and steps whose products are a kernel.

    Attributes:
        integers: int8, (channels, inputs).
        steps: float32, (channels, blocks of inputs).
        half_bytes: whether the integers lie between -7 and 7.
    """

    integers: np.ndarray
    steps: np.ndarray
    half_bytes: bool

    @property
    def block_size(self) -> int:
        """How many weights share a step."""
        return self.integers.shape[1] // self.steps.shape[1]


def grid_of(rows: np.ndarray, blocks: bool = True) -> Grid | None:
    """Returns the integers that a kernel was made of; None for any other kernel.

    Args:
        rows: the kernel, (channels, inputs).
        blocks: whether several steps in a channel count.

    Example:

    >>> kernel = np.outer([0.5, 0.25], np.arange(-7, 25) % 8)
    >>> grid = grid_of(kernel)
    >>> grid.half_bytes, grid.steps.ravel().tolist()
    (True, [0.5, 0.25])
    """
    inputs = rows.shape[1]
    if rows.size < _FEWEST:
        return None
    found = _on_grid(rows, inputs, range(INT4, 0, -1))
    for size in reversed(BLOCK_SIZES):
        if found is None and blocks and inputs % size == 0:
            found = _on_grid(rows, size, range(INT4, 0, -1), sixteen=True)
    if found is not None:
        return Grid(*found, True)
    found = _on_grid(rows, inputs, [INT8])
    if found is None:  # one scale for all channels, as where weights share values
        flat = _on_grid(rows.reshape(1, -1), rows.size, [INT8])
        found = flat and (
            flat[0].reshape(rows.shape),
            np.repeat(flat[1], len(rows), axis=0),
        )
    return Grid(*found, False) if found is not None else None


def _on_grid(
    rows: np.ndarray, size: int, largest_integers: range | list, sixteen: bool = False
) -> tuple[np.ndarray, np.ndarray] | None:
    blocks = rows.astype("float64").reshape(len(rows), -1, size)
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    relative = blocks / np.where(largest > 0, largest, 1.0)
    chosen = np.zeros(largest.shape, int)
    rounded = chosen.copy()
    for n in largest_integers:
        off = np.abs(relative * n - np.round(relative * n)).max(axis=-1, keepdims=True)
        fits = off <= n * _TOLERANCE
        rounded = np.where((rounded == 0) & fits, n, rounded)
        if sixteen:
            step = largest / n
            fits &= np.abs(_stored(step) - step) <= 1e-6 * step
        chosen = np.where((chosen == 0) & fits, n, chosen)
    # Where a scale was multiplied in, the nearest step of 16 bits is what there is.
    chosen = np.where(chosen == 0, rounded, chosen)
    if not chosen.all():
        return None
    steps = np.where(largest > 0, largest / chosen, 1.0)
    integers = np.round(blocks / steps).astype(np.int8).reshape(rows.shape)
    steps = _stored(steps) if sixteen else steps
    return integers, steps[..., 0].astype("float32")


def _stored(steps: np.ndarray) -> np.ndarray:
    return steps.astype(ml_dtypes.bfloat16).astype(np.float16).astype("float64")
